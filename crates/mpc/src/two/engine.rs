//! The protocol as one party runs it.

use super::draw::{Stock, Transfers};
use super::keys::Keys;
use super::linear::{Linears, Weight};
use super::share::{Bits, Shared, local};
use super::transfers::Plane;
use crate::{Checked, Error, Local, Party, Protocol, Result, Role, Settings, Step, Width};
use sordino_net::{Endpoint, Message, Net, Segment};
use sordino_ot::{Pool, Stream};
use sordino_ring::{Conv2d, Device, Shape, packed_words};
use std::cell::{Cell, RefCell};

/// One of two parties: the model's owner, or the client.
pub struct Two<D: Device> {
    pub(super) dev: D,
    net: Net,
    pub(super) pool: RefCell<Pool>,
    pub(super) stock: RefCell<Stock>,
    /// What a run draws, as far as it is known.
    pub(super) run: Cell<Transfers>,
    pub(super) own: RefCell<Stream>,
    pub(super) linears: RefCell<Linears>,
    /// True for the client, who has the data and the encryption's key; it is end 1.
    pub(super) client: bool,
    pub(super) settings: Settings,
    /// Threads that encrypted products and the making of transfers are spread over.
    pub(super) threads: usize,
}

pub(super) fn wrong_form() -> Error {
    Error::Usage("a message of another form than was asked for".into())
}

impl From<sordino_ot::Error> for Error {
    fn from(e: sordino_ot::Error) -> Self {
        Self::Usage(e.to_string())
    }
}

impl From<sordino_he::Error> for Error {
    fn from(e: sordino_he::Error) -> Self {
        Self::Usage(e.to_string())
    }
}

impl<D: Device> Two<D> {
    /// A party with its device, its link and its keys, and so many threads for encrypted products and for making transfers.
    ///
    /// # Errors
    /// When the transport is not a party's; widths that do not exist.
    pub fn new(dev: D, net: Net, keys: Keys, settings: Settings, threads: usize) -> Result<Self> {
        let me = net.me();
        if me.0 > 1 {
            return Err(Error::Usage(format!("{me} is not one of the two parties")));
        }
        settings.check()?;
        let Keys { mut pool, own } = keys;
        pool.use_threads(threads);
        Ok(Self {
            dev,
            net,
            pool: RefCell::new(pool),
            stock: RefCell::default(),
            run: Cell::default(),
            own: RefCell::new(own),
            linears: RefCell::default(),
            client: me.0 == 1,
            settings,
            threads,
        })
    }

    pub(super) fn peer(&self) -> Endpoint {
        Endpoint(u8::from(!self.client))
    }
    pub(super) fn send(&self, at: &Step, label: &str, message: Message) -> Result<()> {
        Ok(self.net.send(self.peer(), at.tag(label), message)?)
    }
    pub(super) fn recv(&self, at: &Step, label: &str, form: &[Segment]) -> Result<Message> {
        Ok(self.net.recv(self.peer(), at.tag(label), form)?)
    }
    fn plays(&self, role: Role) -> bool {
        self.settings.kind.end(role) == self.net.me()
    }

    /// Bits that nobody else knows, one for each of `n` elements.
    pub(super) fn own_plane(&self, n: usize) -> Plane {
        self.own.borrow_mut().words(n.div_ceil(64))
    }
}

impl<D: Device> Party for Two<D> {
    fn net(&self) -> &Net {
        &self.net
    }
}

impl<D: Device> Protocol for Two<D> {
    type Arith = Shared<D>;
    type Bit = Bits;
    type Weight = Weight;

    fn shape<'a>(&self, x: &'a Shared<D>) -> &'a Shape {
        &x.shape
    }
    fn width(&self, x: &Shared<D>) -> Width {
        x.width
    }
    fn run_begins(&self) {
        self.expect_run();
    }
    /// The owner's share is the value, the other's is zero: no message.
    fn input(&self, _at: Step, from: Role, values: Option<&[i64]>, shape: &Shape) -> Result<Shared<D>> {
        let words = match values {
            Some(v) if self.plays(from) && v.len() == shape.len() => v.iter().map(|v| *v as u64).collect(),
            Some(v) if self.plays(from) => {
                return Err(Error::Usage(format!("an input has {} values where {shape} is needed", v.len())));
            }
            None if self.plays(from) => return Err(Error::Usage("an input has no values".into())),
            _ => vec![0; shape.len()],
        };
        Ok(Shared::new(&self.dev, shape.clone(), Width::Wide, 0, words))
    }
    fn prepare(&self, _at: Step, from: Role, values: Option<&[i64]>, op: &Conv2d) -> Result<Weight> {
        self.prepared(if self.plays(from) { Some(values) } else { None }, op)
    }
    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> Shared<D> {
        let words = values.iter().map(|v| if self.client { 0 } else { *v as u64 }).collect();
        Shared::new(&self.dev, shape.clone(), width, 0, words)
    }
    fn local(&self, op: &Local<'_>, operands: &[&Shared<D>]) -> Result<Shared<D>> {
        local(&self.dev, !self.client, op, operands)
    }
    fn linear(
        &self,
        mut at: Step,
        terms: &[(&Shared<D>, &Weight, Conv2d)],
        bias: Option<&Shared<D>>,
        shift: u32,
    ) -> Result<Shared<D>> {
        let z = self.linear_wide(at.child("product"), terms, bias)?;
        self.truncate_shared(at.child("truncate"), &z, shift)
    }
    fn linear_wide(
        &self,
        at: Step,
        terms: &[(&Shared<D>, &Weight, Conv2d)],
        bias: Option<&Shared<D>>,
    ) -> Result<Shared<D>> {
        self.products(at, terms, bias)
    }
    fn mul(
        &self,
        mut at: Step,
        x: &Shared<D>,
        y: &Shared<D>,
        bias: Option<&Shared<D>>,
        shift: u32,
    ) -> Result<Shared<D>> {
        let z = self.product_of_shares(&at.child("product"), x, y, bias)?;
        self.truncate_shared(at.child("truncate"), &z, shift)
    }
    fn flip(&self, at: Step, x: &Shared<D>, signs: &Shared<D>) -> Result<Shared<D>> {
        self.flipped(&at, x, signs)
    }
    fn piecewise_constant(
        &self,
        at: Step,
        x: &Shared<D>,
        thresholds: &[i64],
        functions: &[Vec<i64>],
    ) -> Result<Shared<D>> {
        self.functions(at, x, thresholds, functions)
    }
    fn truncate(&self, at: Step, x: &Shared<D>, shift: u32) -> Result<Shared<D>> {
        self.truncate_shared(at, x, shift)
    }
    fn msb(&self, at: Step, x: &Shared<D>) -> Result<Bits> {
        self.sign(at, x)
    }
    fn relu_with_bit(&self, at: Step, x: &Shared<D>, out: Width) -> Result<(Shared<D>, Bits)> {
        self.relu_shared(at, x, out)
    }
    fn relu_truncated(&self, at: Step, x: &Shared<D>, shift: u32, out: Width) -> Result<(Shared<D>, Bits)> {
        self.relu_rounded(at, x, shift, out)
    }
    fn select(&self, mut at: Step, bit: &Bits, x: &Shared<D>, out: Width) -> Result<Shared<D>> {
        crate::fit::fits_bits(&bit.shape, &x.shape)?;
        let x = match out {
            Width::Narrow => x.narrow()?.exact()?.clone(),
            Width::Wide => self.extend_shared(at.child("extend"), x)?,
        };
        let y = self.choose(at, &bit.plane, &x.words(&self.dev)?, out)?;
        Ok(Shared::new(&self.dev, x.shape.clone(), out, 0, y))
    }
    fn extend(&self, at: Step, x: &Shared<D>) -> Result<Shared<D>> {
        self.extend_shared(at, x)
    }
    /// Before the first run: how each linear layer is computed; where it is on ciphertexts, the client tells the owner its public key.
    fn agree(&self, at: Step, _tensors: &[&Shared<D>]) -> Result<()> {
        self.agreed(&at)
    }
    /// Refuses what still has guard bits: they hold the encryption's noise, which depends on the weights.
    fn verify(&self, _at: Step, x: Shared<D>) -> Result<Checked<Shared<D>>> {
        x.exact()?;
        Ok(Checked(x))
    }
    fn open(&self, at: Step, x: Checked<Shared<D>>, to: Role) -> Result<Option<Vec<i64>>> {
        let (n, bits) = (x.0.shape.len(), self.settings.bits(x.0.width));
        let own = x.0.words(&self.dev)?;
        if !self.plays(to) {
            self.send(&at, "open", vec![self.packed(own, bits)?])?;
            return Ok(None);
        }
        let part = self.recv(&at, "open", &[Segment::Wide(packed_words(n, bits))])?.pop().ok_or_else(wrong_form)?;
        let theirs = self.unpacked(part, n, bits)?;
        let sum = own.iter().zip(theirs).map(|(a, b)| (a.wrapping_add(b) << (64 - bits)) as i64 >> (64 - bits));
        Ok(Some(sum.collect()))
    }
}
