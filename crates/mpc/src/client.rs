//! An owner's side of a computation by three servers: sharing inputs, receiving outputs, following along otherwise.

use crate::rep3::{SERVERS, SOUND, opened, opened_form};
use crate::{Checked, Entropy, Error, Local, Party, Plan, Protocol, Result, Role, Settings, Step, Symbol, Width};
use sordino_net::{Net, Part};
use sordino_ring::{Conv2d, PrgKey, Shape, pack, unpack};
use zeroize::Zeroizing;

/// Plays the model's owner, a data owner or the receiver: whoever its endpoint is. Walks the same program as the servers, so
/// that both name steps alike.
pub struct Client<'e> {
    net: Net,
    shapes: Plan,
    settings: Settings,
    entropy: &'e dyn Entropy,
}

impl<'e> Client<'e> {
    /// An owner with its links to the servers, which run with the same settings, and a source of the seeds of its shares.
    #[must_use]
    pub fn new(net: Net, settings: Settings, entropy: &'e dyn Entropy) -> Self {
        Self { net, shapes: Plan::new(settings), settings, entropy }
    }
    fn plays(&self, role: Role) -> bool {
        self.settings.kind.end(role) == self.net.me()
    }

    /// Shares values: components 0 and 1 are expanded from fresh seeds, component 2 is the difference. Server i gets
    /// components i and i + 1, as a seed where it can.
    fn share(&self, at: &Step, values: &[i64]) -> Result<()> {
        let mut seeds = Zeroizing::new([[0u8; 16]; 2]);
        for seed in seeds.iter_mut() {
            self.entropy.fill(seed)?;
        }
        // The difference, a piece at a time that stays in the cache.
        const PIECE: usize = 1 << 14;
        let keys = seeds.map(PrgKey::new);
        let mut x2: Vec<u64> = Vec::with_capacity(values.len());
        for (i, piece) in values.chunks(PIECE).enumerate() {
            let [x0, x1] = [0, 1].map(|k| keys[k].words_from::<u64>(i * PIECE, piece.len()));
            let parts = piece.iter().zip(x0.iter().zip(&x1));
            x2.extend(parts.map(|(&v, (a, b))| (v as u64).wrapping_sub(*a).wrapping_sub(*b)));
        }
        let bits = self.settings.wide_bits;
        let x2 = if bits == 64 { x2 } else { pack(&x2, bits) };
        let seed = |i: usize| {
            let mut halves = seeds[i].chunks_exact(8).map(|c| c.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)));
            Part::Wide(vec![halves.next().unwrap_or(0), halves.next().unwrap_or(0)])
        };
        let tag = at.tag("input");
        self.net.send(SERVERS[0], tag, vec![seed(0), seed(1)])?;
        self.net.send(SERVERS[1], tag, vec![seed(1), Part::Wide(x2.clone())])?;
        self.net.send(SERVERS[2], tag, vec![Part::Wide(x2), seed(0)])?;
        Ok(())
    }

    fn checked<'a>(values: Option<&'a [i64]>, shape: &Shape) -> Result<&'a [i64]> {
        match values {
            Some(v) if v.len() == shape.len() => Ok(v),
            Some(v) => Err(Error::Usage(format!("an input has {} values where {shape} is needed", v.len()))),
            None => Err(Error::Usage("an input has no values".into())),
        }
    }
}

impl Party for Client<'_> {
    fn net(&self) -> &Net {
        &self.net
    }
}

impl Protocol for Client<'_> {
    type Arith = Symbol;
    type Bit = <Plan as Protocol>::Bit;
    type Weight = <Plan as Protocol>::Weight;

    fn shape<'a>(&self, x: &'a Symbol) -> &'a Shape {
        self.shapes.shape(x)
    }
    fn width(&self, x: &Symbol) -> Width {
        self.shapes.width(x)
    }
    fn input(&self, at: Step, from: Role, values: Option<&[i64]>, shape: &Shape) -> Result<Symbol> {
        if self.plays(from) {
            self.share(&at, Self::checked(values, shape)?)?;
        }
        self.shapes.input(at, from, None, shape)
    }
    fn prepare(&self, at: Step, from: Role, values: Option<&[i64]>, op: &Conv2d) -> Result<Self::Weight> {
        if self.plays(from) {
            self.share(&at, Self::checked(values, &op.weight())?)?;
        }
        self.shapes.prepare(at, from, None, op)
    }
    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> Symbol {
        self.shapes.constant(values, shape, width)
    }
    fn local(&self, op: &Local<'_>, operands: &[&Symbol]) -> Result<Symbol> {
        self.shapes.local(op, operands)
    }
    fn linear(
        &self,
        at: Step,
        terms: &[(&Symbol, &Self::Weight, Conv2d)],
        bias: Option<&Symbol>,
        shift: u32,
    ) -> Result<Symbol> {
        self.shapes.linear(at, terms, bias, shift)
    }
    fn linear_wide(
        &self,
        at: Step,
        terms: &[(&Symbol, &Self::Weight, Conv2d)],
        bias: Option<&Symbol>,
    ) -> Result<Symbol> {
        self.shapes.linear_wide(at, terms, bias)
    }
    fn relu_truncated(&self, at: Step, x: &Symbol, shift: u32, out: Width) -> Result<(Symbol, Self::Bit)> {
        self.shapes.relu_truncated(at, x, shift, out)
    }
    fn weight_gradient(
        &self,
        at: Step,
        x: &Symbol,
        dy: &Symbol,
        op: &Conv2d,
        bias: Option<&Symbol>,
        shift: u32,
    ) -> Result<Symbol> {
        self.shapes.weight_gradient(at, x, dy, op, bias, shift)
    }
    fn mul(&self, at: Step, x: &Symbol, y: &Symbol, bias: Option<&Symbol>, shift: u32) -> Result<Symbol> {
        self.shapes.mul(at, x, y, bias, shift)
    }
    fn flip(&self, at: Step, x: &Symbol, signs: &Symbol) -> Result<Symbol> {
        self.shapes.flip(at, x, signs)
    }
    fn truncate(&self, at: Step, x: &Symbol, shift: u32) -> Result<Symbol> {
        self.shapes.truncate(at, x, shift)
    }
    fn msb(&self, at: Step, x: &Symbol) -> Result<Self::Bit> {
        self.shapes.msb(at, x)
    }
    fn piecewise_constant(&self, at: Step, x: &Symbol, thresholds: &[i64], functions: &[Vec<i64>]) -> Result<Symbol> {
        self.shapes.piecewise_constant(at, x, thresholds, functions)
    }
    fn relu_with_bit(&self, at: Step, x: &Symbol, out: Width) -> Result<(Symbol, Self::Bit)> {
        self.shapes.relu_with_bit(at, x, out)
    }
    fn select(&self, at: Step, bit: &Self::Bit, x: &Symbol, out: Width) -> Result<Symbol> {
        self.shapes.select(at, bit, x, out)
    }
    fn pack(&self, weights: &Symbol, op: &Conv2d) -> Result<Self::Weight> {
        self.shapes.pack(weights, op)
    }
    fn extend(&self, at: Step, x: &Symbol) -> Result<Symbol> {
        self.shapes.extend(at, x)
    }
    fn agree(&self, at: Step, tensors: &[&Symbol]) -> Result<()> {
        self.shapes.agree(at, tensors)
    }
    fn watch(&self, at: Step, x: &Symbol, rows: usize) -> Result<()> {
        self.shapes.watch(at, x, rows)
    }
    fn sound(&self, at: Step, _row: [usize; 2], to: Role) -> Result<Option<bool>> {
        if !self.plays(to) {
            return Ok(None);
        }
        let mut hash = 0;
        for server in SERVERS {
            for part in self.net.recv(server, at.tag("sound"), &[SOUND])? {
                if let Part::Wide(words) = part {
                    hash = words.iter().fold(hash, |h, w| h ^ w);
                }
            }
        }
        Ok(Some(hash == 0))
    }
    fn verify(&self, at: Step, x: Symbol) -> Result<Checked<Symbol>> {
        self.shapes.verify(at, x)
    }

    fn open(&self, at: Step, x: Checked<Symbol>, to: Role) -> Result<Option<Vec<i64>>> {
        if !self.plays(to) {
            return Ok(None);
        }
        let n = self.shapes.shape(&x.0).len();
        let width = self.shapes.width(&x.0);
        let bits = self.settings.bits(width);
        let expect = opened_form(n, bits);
        let tag = at.tag("open");
        let mut components = vec![];
        for server in SERVERS {
            components.push(self.net.recv(server, tag, &expect)?);
        }
        // Each server vouches for what the next one sends.
        for (i, message) in components.iter().enumerate() {
            let next = (i + 1) % SERVERS.len();
            if message[1] != opened(&at, &components[next][0]) {
                let peers = [SERVERS[i], SERVERS[next]];
                return Err(Error::Inconsistent { peers, what: "shares of an opened value" });
            }
        }
        let mut sum = vec![0u64; n];
        for part in components.into_iter().filter_map(|message| message.into_iter().next()) {
            match part {
                Part::Wide(v) if bits != 64 => {
                    let v: Vec<u64> = unpack(&v, n, bits);
                    sum.iter_mut().zip(v).for_each(|(s, v)| *s = s.wrapping_add(v));
                }
                Part::Narrow(v) => sum.iter_mut().zip(v).for_each(|(s, v)| *s = s.wrapping_add(u64::from(v))),
                Part::Wide(v) => sum.iter_mut().zip(v).for_each(|(s, v)| *s = s.wrapping_add(v)),
            }
        }
        // The representative of smallest magnitude: the ring's highest bit is the sign.
        Ok(Some(sum.into_iter().map(|v| (v << (64 - bits)) as i64 >> (64 - bits)).collect()))
    }
}
