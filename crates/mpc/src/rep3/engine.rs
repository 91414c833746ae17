//! The protocol as one server runs it.

use super::agree::{Received, opened};
use super::compare::wrong_form;
use super::guard::Guard;
use super::keys::{Prss, Side};
use super::layout::thirds;
use super::panel::{Component, Panel};
use super::relu::Bits;
use super::share::{Pair, Shared, local};
use crate::{Checked, Ends, Error, Local, Party, Protocol, Result, Role, Settings, Step, Width};
use sordino_net::{Activity, Endpoint, Message, Net, Part, Segment};
use sordino_ring::{Conv2d, Device, PrgKey, Shape, Word, Words, ZipOp, packed_words};
use std::sync::Mutex;
use zeroize::Zeroizing;

/// The servers are the first three ends.
pub(crate) const SERVERS: [Endpoint; 3] = [Endpoint(0), Endpoint(1), Endpoint(2)];

/// One of the three servers.
pub struct Rep3<D: Device> {
    pub(crate) dev: D,
    pub(crate) net: Net,
    pub(crate) prss: Prss,
    pub(crate) me: usize,
    pub(crate) settings: Settings,
    /// Of what owners sent.
    pub(crate) received: Mutex<Received>,
    /// Of values that should be in range.
    pub(crate) guard: Mutex<Guard<D>>,
}

/// The form of `n` elements of `bits` bits on the wire: whole words as they are, anything else packed.
pub(crate) fn form(n: usize, bits: u32) -> Segment {
    match bits {
        32 => Segment::Narrow(n),
        64 => Segment::Wide(n),
        _ => Segment::Wide(packed_words(n, bits)),
    }
}

/// What an owner sends a server of `n` elements that it shares in a ring of so many bits: components `server` and `server + 1`, of
/// which 0 and 1 are seeds of 16 bytes, and component 2 travels.
#[must_use]
pub fn share_form(server: usize, n: usize, bits: u32) -> [Segment; 2] {
    const SEED: Segment = Segment::Wide(2);
    match server {
        0 => [SEED, SEED],
        1 => [SEED, form(n, bits)],
        _ => [form(n, bits), SEED],
    }
}

/// What a server sends the receiver of `n` elements that are opened in a ring of so many bits: its component, and the hash of the next one.
#[must_use]
pub fn opened_form(n: usize, bits: u32) -> [Segment; 2] {
    [form(n, bits), super::agree::HASH]
}

impl<D: Device> Rep3<D> {
    /// A server with its device, its links and its keys.
    ///
    /// # Errors
    /// When the transport is not a server's.
    pub fn new(dev: D, net: Net, prss: Prss, settings: Settings) -> Result<Self> {
        let me = net.me();
        if !SERVERS.contains(&me) {
            return Err(Error::Usage(format!("{me} is not one of the three servers")));
        }
        settings.check()?;
        Ok(Self {
            dev,
            net,
            prss,
            me: usize::from(me.0),
            settings,
            received: Mutex::default(),
            guard: Mutex::default(),
        })
    }

    pub(crate) fn next(&self) -> usize {
        (self.me + 1) % 3
    }
    pub(crate) fn prev(&self) -> usize {
        (self.me + 2) % 3
    }
    pub(crate) fn random<W: Word>(&self, side: Side, at: &Step, purpose: &str, part: usize, n: usize) -> D::Buf<W> {
        let key = self.prss.stream(side, at, purpose, part);
        self.net.timeline().time(Activity::Randomness, || self.dev.random(&key, n))
    }
    pub(crate) fn send(&self, to: usize, at: &Step, label: &str, message: Message) -> Result<()> {
        Ok(self.net.send(SERVERS[to], at.tag(label), message)?)
    }
    pub(crate) fn recv(&self, from: usize, at: &Step, label: &str, form: &[Segment]) -> Result<Message> {
        Ok(self.net.recv(SERVERS[from], at.tag(label), form)?)
    }

    /// Width of the ring that a word holds.
    pub(crate) fn bits<W: Word>(&self) -> u32 {
        self.settings.bits(if W::BITS == 32 { Width::Narrow } else { Width::Wide })
    }

    /// Elements as they travel: the low `bits` bits of each.
    pub(crate) fn outgoing<W: Word>(&self, buf: D::Buf<W>, bits: u32) -> Result<Part> {
        if bits != W::BITS {
            return Ok(Part::Wide(self.dev.pack(&buf, bits)?));
        }
        Ok(match W::into_words(self.dev.download(buf)?) {
            Words::Narrow(v) => Part::Narrow(v),
            Words::Wide(v) => Part::Wide(v),
        })
    }

    /// The `n` elements of `bits` bits in a received part.
    pub(crate) fn incoming<W: Word>(&self, part: Part, n: usize, bits: u32) -> Result<D::Buf<W>> {
        let words = match part {
            Part::Wide(v) if bits != W::BITS => return Ok(self.dev.unpack(&v, n, bits)),
            Part::Wide(v) => Words::Wide(v),
            Part::Narrow(v) => Words::Narrow(v),
        };
        Ok(self.dev.upload(W::from_words(words).ok_or_else(wrong_form)?))
    }

    /// Sends the own component to the previous server and receives the next one's: one message each, one round.
    pub(crate) fn reshare<W: Word>(&self, at: &Step, label: &str, own: &D::Buf<W>, n: usize) -> Result<D::Buf<W>> {
        let bits = self.bits::<W>();
        self.send(self.prev(), at, label, vec![self.outgoing(self.dev.copy(own), bits)?])?;
        self.recv_words(self.next(), at, label, n, bits)
    }

    fn recv_words<W: Word>(&self, from: usize, at: &Step, label: &str, n: usize, bits: u32) -> Result<D::Buf<W>> {
        let part = self.recv(from, at, label, &[form(n, bits)])?.pop().ok_or_else(wrong_form)?;
        self.incoming(part, n, bits)
    }

    /// Received elements of the narrow ring.
    pub(crate) fn upload_narrow<const N: usize>(&self, message: Message, n: usize) -> Result<[D::Buf<u32>; N]> {
        let bits = self.settings.narrow_bits;
        let bufs: Result<Vec<_>> = message.into_iter().map(|part| self.incoming(part, n, bits)).collect();
        bufs?.try_into().map_err(|_| wrong_form())
    }

    /// Sends planes to the other evaluator of each of the two parts this server evaluates.
    pub(crate) fn send_planes(&self, at: &Step, label: &str, own: [&D::Buf<u64>; 2]) -> Result<()> {
        for (to, planes) in [self.next(), self.prev()].into_iter().zip(own) {
            self.send(to, at, label, vec![Part::Wide(self.dev.download(self.dev.copy(planes))?)])?;
        }
        Ok(())
    }

    /// Receives the other evaluators' planes, as many as the own ones.
    pub(crate) fn recv_planes(&self, at: &Step, label: &str, own: [&D::Buf<u64>; 2]) -> Result<[D::Buf<u64>; 2]> {
        let [first, second] = own.map(|b| self.dev.len(b));
        Ok([self.recv_words(self.next(), at, label, first, 64)?, self.recv_words(self.prev(), at, label, second, 64)?])
    }

    /// Evaluators swap planes of equal size; returns what the others sent.
    pub(crate) fn exchange(&self, at: &Step, label: &str, own: [&D::Buf<u64>; 2]) -> Result<[D::Buf<u64>; 2]> {
        self.send_planes(at, label, own)?;
        self.recv_planes(at, label, own)
    }

    /// From two additive shares per part to a replicated sharing: the dealer's components are fresh masks, the third
    /// is the masked sum, which the evaluators swap halves of. 2k bits per element, one round.
    pub(crate) fn remask<W: Word>(&self, at: &Step, n: usize, y1: D::Buf<W>, y2: D::Buf<W>) -> Result<Pair<D, W>> {
        self.remask_rows(at, n, 1, [y1, y2])
    }

    /// The same for several rows of `n` elements, the parts of a row after those of the one before.
    pub(crate) fn remask_rows<W: Word>(
        &self,
        at: &Step,
        n: usize,
        rows: usize,
        [y1, y2]: [D::Buf<W>; 2],
    ) -> Result<Pair<D, W>> {
        let lens = thirds(n).map(|(_, len)| len);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let label = "remask";
        let mask = |side, part: usize| self.random::<W>(side, at, label, part, rows * lens[part]);
        let (m1, m2) = (mask(Side::Prev, prev), mask(Side::Next, next));
        let own1 = self.dev.zip(ZipOp::Sub, &y1, &m1);
        let own2 = self.dev.zip(ZipOp::Sub, &y2, &m2);
        let bits = self.bits::<W>();
        self.send(next, at, label, vec![self.outgoing(self.dev.copy(&own1), bits)?])?;
        self.send(prev, at, label, vec![self.outgoing(self.dev.copy(&own2), bits)?])?;
        let theirs1: D::Buf<W> = self.recv_words(next, at, label, rows * lens[prev], bits)?;
        let theirs2: D::Buf<W> = self.recv_words(prev, at, label, rows * lens[next], bits)?;
        let sum1 = self.dev.zip(ZipOp::Add, &own1, &theirs1);
        let sum2 = self.dev.zip(ZipOp::Add, &own2, &theirs2);
        let mut first: [Option<D::Buf<W>>; 3] = [None, None, None];
        let mut second: [Option<D::Buf<W>>; 3] = [None, None, None];
        (first[me], second[me]) = (Some(mask(Side::Prev, me)), Some(mask(Side::Next, me)));
        (first[prev], second[prev]) = (Some(m1), Some(sum1));
        (first[next], second[next]) = (Some(sum2), Some(m2));
        let join =
            |parts: [Option<D::Buf<W>>; 3]| self.dev.concat(&parts.iter().flatten().collect::<Vec<_>>(), rows, &lens);
        Ok(Pair(join(first), join(second)))
    }

    /// The wide replicated product's additive term, truncated.
    fn finish(
        &self,
        at: Step,
        mut z: D::Buf<u64>,
        bias: Option<&D::Buf<u64>>,
        shape: Shape,
        shift: u32,
    ) -> Result<Shared<D>> {
        let most = self.settings.most_shift();
        if shift > most {
            return Err(Error::Usage(format!("a truncation by {shift} bits, gain included; {most} are possible")));
        }
        if let Some(bias) = bias {
            let row = self.dev.len(bias);
            if row == 0 || !shape.len().is_multiple_of(row) {
                return Err(Error::Usage(format!("a bias of {row} elements for a result of {shape}")));
            }
            z = self.dev.add_rows(&z, bias);
        }
        let n = shape.len();
        Ok(Shared::narrow(shape, self.truncate_additive(at, z, n, shift)?))
    }

    fn shared_by_owner(&self, at: &Step, from: Role, n: usize) -> Result<Pair<D, u64>> {
        let [x0, x1] = self.components(at, from, n)?.map(|c| c.whole(&self.dev, n));
        Ok(Pair(x0, x1))
    }

    /// What an owner shared, as it came.
    fn components(&self, at: &Step, from: Role, n: usize) -> Result<[Component<D>; 2]> {
        let bits = self.settings.wide_bits;
        let form = share_form(self.me, n, bits);
        let message = self.net.recv(self.settings.kind.end(from), at.tag("input"), &form)?;
        if let Ok(mut received) = self.received.lock() {
            received.add(&message);
        }
        // Component 2 travels, the others are expanded from their seeds.
        let explicit = [None, Some(1), Some(0)][self.me];
        let mut parts = message.into_iter().enumerate().map(|(i, part)| match part {
            part if explicit == Some(i) => Ok(Component::Words(self.incoming(part, n, bits)?)),
            Part::Wide(seed) => Ok(Component::Seed(seed_of(&seed))),
            Part::Narrow(_) => Err(wrong_form()),
        });
        let mut next = || parts.next().unwrap_or_else(|| Err(wrong_form()));
        Ok([next()?, next()?])
    }
}

fn seed_of(words: &[u64]) -> PrgKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    PrgKey::new(bytes)
}

/// Weights packed for a convolution, whose products come times the gain.
pub struct Packed<D: Device> {
    panel: Panel<D>,
    gain: u64,
}

impl<D: Device> Party for Rep3<D> {
    fn net(&self) -> &Net {
        &self.net
    }

    fn export(&self, tensors: &[Shared<D>]) -> Result<Zeroizing<Vec<u8>>> {
        let words: usize = tensors.iter().map(|x| 2 * x.shape.len()).sum();
        // Growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 * words));
        for x in tensors {
            let pair = x.as_wide()?;
            for component in [&pair.0, &pair.1] {
                let words = Zeroizing::new(self.dev.download(self.dev.copy(component))?);
                words.iter().for_each(|w| bytes.extend_from_slice(&w.to_le_bytes()));
            }
        }
        Ok(bytes)
    }

    fn import(&self, bytes: &[u8], shapes: &[Shape]) -> Result<Vec<Shared<D>>> {
        let need: usize = shapes.iter().map(|s| 16 * s.len()).sum();
        if bytes.len() != need {
            return Err(Error::Usage(format!("{} bytes of shares where {need} are needed", bytes.len())));
        }
        let mut rest = bytes;
        let mut next = |n: usize| {
            let (now, later) = rest.split_at(8 * n);
            rest = later;
            let word = |c: &[u8]| c.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            self.dev.upload(now.chunks_exact(8).map(word).collect())
        };
        Ok(shapes.iter().map(|s| Shared::wide(s.clone(), Pair(next(s.len()), next(s.len())))).collect())
    }
}

impl<D: Device> Protocol for Rep3<D> {
    type Arith = Shared<D>;
    type Bit = Bits<D>;
    type Weight = Packed<D>;

    fn shape<'a>(&self, x: &'a Shared<D>) -> &'a Shape {
        &x.shape
    }
    fn width(&self, x: &Shared<D>) -> Width {
        x.width()
    }

    fn input(&self, at: Step, from: Role, _values: Option<&[i64]>, shape: &Shape) -> Result<Shared<D>> {
        Ok(Shared::wide(shape.clone(), self.shared_by_owner(&at, from, shape.len())?))
    }

    fn prepare(&self, at: Step, from: Role, _values: Option<&[i64]>, op: &Conv2d) -> Result<Packed<D>> {
        crate::fit::sensible(op)?;
        let components = self.components(&at, from, op.weight().len())?;
        Ok(Packed { panel: Panel::new(&self.dev, components, op), gain: op.gain() })
    }

    fn pack(&self, weights: &Shared<D>, op: &Conv2d) -> Result<Packed<D>> {
        let w = weights.as_wide()?;
        crate::fit::fits_weight(&weights.shape, op)?;
        let gain = op.gain_once();
        Ok(Packed { panel: Panel::Packed(self.dev.prepare(&w.0, &w.1, op, gain > 1)), gain })
    }

    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> Shared<D> {
        fn pair<D: Device, W: Word>(dev: &D, me: usize, values: &[i64]) -> Pair<D, W> {
            let component =
                |yes: bool| dev.upload(values.iter().map(|&v| W::from_i64(if yes { v } else { 0 })).collect());
            Pair(component(me == 0), component(me == 2))
        }
        match width {
            Width::Narrow => Shared::narrow(shape.clone(), pair(&self.dev, self.me, values)),
            Width::Wide => Shared::wide(shape.clone(), pair(&self.dev, self.me, values)),
        }
    }

    fn local(&self, op: &Local<'_>, operands: &[&Shared<D>]) -> Result<Shared<D>> {
        local(&self.dev, self.me, op, operands)
    }

    fn linear(
        &self,
        at: Step,
        terms: &[(&Shared<D>, &Packed<D>, Conv2d)],
        bias: Option<&Shared<D>>,
        shift: u32,
    ) -> Result<Shared<D>> {
        // Every term is brought to the largest gain, which the truncation takes off.
        let gain = terms.iter().map(|t| t.1.gain).max().unwrap_or(1);
        let level = |z, of: u64| if of == gain { z } else { self.dev.affine(&z, gain / of, 0) };
        let mut sum: Option<D::Buf<u64>> = None;
        for (x, w, op) in terms {
            crate::fit::fits_linear(&x.shape, op)?;
            let x = x.as_wide()?;
            let z = level(w.panel.linear(&self.dev, x, op), w.gain);
            sum = Some(match sum {
                Some(s) => self.dev.zip(ZipOp::Add, &s, &z),
                None => z,
            });
        }
        let (Some(z), Some((_, _, op))) = (sum, terms.first()) else {
            return Err(Error::Usage("a linear layer takes at least one term".into()));
        };
        let shift = shift + gain.trailing_zeros();
        let bias = bias.map(Shared::as_wide).transpose()?.map(|b| &b.0);
        match bias {
            Some(bias) if gain > 1 => self.finish(at, z, Some(&self.dev.affine(bias, gain, 0)), op.output(), shift),
            _ => self.finish(at, z, bias, op.output(), shift),
        }
    }

    fn weight_gradient(
        &self,
        at: Step,
        x: &Shared<D>,
        dy: &Shared<D>,
        op: &Conv2d,
        bias: Option<&Shared<D>>,
        shift: u32,
    ) -> Result<Shared<D>> {
        crate::fit::fits_gradient(&x.shape, &dy.shape, op)?;
        let (x, dy) = (x.as_wide()?, dy.as_wide()?);
        let z = self.dev.weight_gradient([&x.0, &x.1], [&dy.0, &dy.1], op);
        let bias = bias.map(Shared::as_wide).transpose()?.map(|b| &b.0);
        self.finish(at, z, bias, op.weight(), shift)
    }

    fn mul(&self, at: Step, x: &Shared<D>, y: &Shared<D>, bias: Option<&Shared<D>>, shift: u32) -> Result<Shared<D>> {
        let (a, b) = (x.as_wide()?, y.as_wide()?);
        let z = self.dev.product([&a.0, &a.1], [&b.0, &b.1]);
        let bias = bias.map(Shared::as_wide).transpose()?.map(|b| &b.0);
        self.finish(at, z, bias, x.shape.clone(), shift)
    }

    fn truncate(&self, at: Step, x: &Shared<D>, shift: u32) -> Result<Shared<D>> {
        let z = self.dev.copy(&x.as_wide()?.0);
        self.finish(at, z, None, x.shape.clone(), shift)
    }

    fn msb(&self, at: Step, x: &Shared<D>) -> Result<Bits<D>> {
        self.sign_bits(&at, x)
    }
    fn piecewise_constant(
        &self,
        at: Step,
        x: &Shared<D>,
        thresholds: &[i64],
        functions: &[Vec<i64>],
    ) -> Result<Shared<D>> {
        self.piecewise_shared(&at, x, thresholds, functions, Ends::default())
    }
    fn piecewise_watched(
        &self,
        at: Step,
        x: &Shared<D>,
        thresholds: &[i64],
        functions: &[Vec<i64>],
        ends: Ends,
    ) -> Result<Shared<D>> {
        self.piecewise_shared(&at, x, thresholds, functions, ends)
    }
    fn relu_with_bit(&self, at: Step, x: &Shared<D>, out: Width) -> Result<(Shared<D>, Bits<D>)> {
        self.relu_shared(&at, x, out)
    }
    fn select(&self, at: Step, bit: &Bits<D>, x: &Shared<D>, out: Width) -> Result<Shared<D>> {
        self.select_shared(&at, bit, x, out)
    }
    fn extend(&self, at: Step, x: &Shared<D>) -> Result<Shared<D>> {
        self.extend_shared(&at, x)
    }

    fn watch(&self, at: Step, x: &Shared<D>, rows: usize) -> Result<()> {
        self.watch_shared(&at, x, rows)
    }
    fn sound(&self, at: Step, row: [usize; 2], to: Role) -> Result<Option<bool>> {
        self.sound_shared(&at, row, to)?;
        Ok(None)
    }

    fn verify(&self, _at: Step, x: Shared<D>) -> Result<Checked<Shared<D>>> {
        Ok(Checked(x))
    }

    fn agree(&self, at: Step, tensors: &[&Shared<D>]) -> Result<()> {
        self.agree_shared(&at, tensors)
    }

    fn open(&self, at: Step, x: Checked<Shared<D>>, to: Role) -> Result<Option<Vec<i64>>> {
        fn parts<D: Device, W: Word>(p: &Rep3<D>, x: &Pair<D, W>) -> Result<[Part; 2]> {
            let part = |component| p.outgoing(p.dev.copy(component), p.bits::<W>());
            Ok([part(&x.0)?, part(&x.1)?])
        }
        let [own, next] = match &*x.0.data {
            super::share::Data::Narrow(p) => parts(self, p)?,
            super::share::Data::Wide(p) => parts(self, p)?,
        };
        let hash = opened(&at, &next);
        self.net.send(self.settings.kind.end(to), at.tag("open"), vec![own, hash])?;
        Ok(None)
    }
}
