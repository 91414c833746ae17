//! Running a program on shapes alone: declared cost, nothing computed.

use crate::rep3::cost;
use crate::{Checked, Error, Local, Protocol, Result, Role, Settings, Step, Width};
use sordino_ring::{Conv2d, Shape};
use std::cell::RefCell;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::rc::Rc;

/// What a computation sends and how long its chain of messages is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Payload bytes sent by server 0, 1, 2 and the client.
    pub sent: [u64; 4],
    /// Longest chain of dependent messages.
    pub rounds: u32,
    /// Ring multiplications in linear layers, per server, counted as plain convolutions.
    pub macs: u64,
}

impl Cost {
    /// Payload bytes of everybody.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sent.iter().sum()
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let mut sent = self.sent;
        sent.iter_mut().zip(other.sent).for_each(|(a, b)| *a += b);
        Self { sent, rounds: self.rounds + other.rounds, macs: self.macs + other.macs }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

#[derive(Default)]
struct State {
    cost: Cost,
    /// Longest chain that ends at the client; inputs start from it, not from the servers' chain.
    client_rounds: u32,
    live: u64,
    peak: u64,
    /// Live when counting started anew: what is loaded.
    loaded: u64,
    peak_before: u64,
}

/// Counts a tensor's bytes while it lives.
struct Lease {
    bytes: u64,
    state: Rc<RefCell<State>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.borrow_mut().live -= self.bytes;
    }
}

/// A tensor of which only form and memory are known.
#[derive(Clone)]
pub struct Symbol {
    shape: Shape,
    width: Width,
    _lease: Rc<Lease>,
}

/// Bits of which only the form is known.
pub struct PlannedBits {
    shape: Shape,
    /// A ReLU left shares of their masks.
    dealt: bool,
    _lease: Rc<Lease>,
}

/// The three-server protocol's declared cost. Runs anything the executor runs.
pub struct Plan {
    settings: Settings,
    state: Rc<RefCell<State>>,
}

/// Memory of a server's packed weights.
fn panel_bytes(op: &Conv2d, gain: u64) -> u64 {
    let channels = (op.cout / op.groups).next_multiple_of(16) * op.groups;
    // Winograd's form has 16 weights for a 3x3 kernel's nine.
    let taps = if gain > 1 { 16 } else { op.kernel[0] * op.kernel[1] };
    (channels * taps * (op.cin / op.groups)) as u64 * 16
}

/// What stands for packed weights.
pub struct PlannedWeight {
    gain: u64,
    _lease: Rc<Lease>,
}

impl Plan {
    /// Counts the cost of a program with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: Rc::default() }
    }
    /// Starts counting cost anew. What lives now counts as loaded.
    pub fn restart(&self) {
        let mut state = self.state.borrow_mut();
        state.peak_before = state.peak_before.max(state.peak);
        (state.loaded, state.peak) = (state.live, state.live);
        (state.cost, state.client_rounds) = (Cost::default(), 0);
    }
    /// Cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let state = self.state.borrow();
        Cost { rounds: state.cost.rounds.max(state.client_rounds), ..state.cost }
    }
    /// A bound on the memory of a server's process: what it loads, and what it works with times what messages on their
    /// way and the allocator's fragments add to it (measured over the networks of the zoo: 1.1 to 2.1), and a base.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        const BASE: u64 = 56 << 20;
        let state = self.state.borrow();
        let working = state.peak - state.loaded;
        BASE + state.peak_before.max(state.loaded + 22 * working / 10)
    }

    fn lease(&self, bytes: u64) -> Rc<Lease> {
        let mut state = self.state.borrow_mut();
        state.live += bytes;
        state.peak = state.peak.max(state.live);
        Rc::new(Lease { bytes, state: Rc::clone(&self.state) })
    }
    fn symbol(&self, shape: Shape, width: Width) -> Symbol {
        let lease = self.lease(2 * shape.len() as u64 * if width == Width::Narrow { 4 } else { 8 });
        Symbol { shape, width, _lease: lease }
    }
    /// Three planes, and two shares of a third of the masks each.
    fn bits(&self, shape: &Shape, dealt: bool) -> PlannedBits {
        let bytes = shape.len() / 8 + if dealt { 8 * shape.len() / 3 } else { 0 };
        PlannedBits { shape: shape.clone(), dealt, _lease: self.lease(bytes as u64) }
    }
    fn spend(&self, cost: Cost) {
        self.state.borrow_mut().cost += cost;
    }
    /// Inputs do not wait for each other, nor for the servers.
    fn spend_input(&self, cost: Cost) {
        let mut state = self.state.borrow_mut();
        let rounds = state.cost.rounds.max(state.client_rounds + cost.rounds);
        state.cost += cost;
        state.cost.rounds = rounds;
    }
    /// The servers do not wait for an opening to arrive.
    fn spend_open(&self, cost: Cost) {
        let mut state = self.state.borrow_mut();
        let rounds = state.cost.rounds;
        state.client_rounds = state.client_rounds.max(rounds + cost.rounds);
        state.cost += cost;
        state.cost.rounds = rounds;
    }
    fn truncated(&self, shape: &Shape, shift: u32) -> Symbol {
        // The untruncated product and its masks live until the result does.
        let _working = self.lease(16 * shape.len() as u64);
        self.spend(cost::truncate(shape.len(), shift, self.settings));
        self.symbol(shape.clone(), Width::Narrow)
    }
}

/// The shape a local operation gives.
pub(crate) fn local_shape(op: &Local<'_>, operands: &[&Shape]) -> Result<Shape> {
    let misfit = |what: &str| Error::Usage(format!("{what}: {operands:?}"));
    let one = || operands.first().copied().ok_or_else(|| misfit("an operand is missing"));
    match op {
        Local::Add | Local::Sub => match operands {
            [x, y] if x == y || x.dims().last() == Some(&y.len()) => Ok((*x).clone()),
            _ => Err(misfit("operands of a sum must be two tensors of one shape, or one and a row of it")),
        },
        Local::Scale(_) | Local::Offset(_) | Local::Low => one().cloned(),
        Local::Reshape(shape) if one()?.len() == shape.len() => Ok(shape.clone()),
        Local::Reshape(shape) => Err(misfit(&format!("a reshape to {shape} changes the number of elements"))),
        Local::Gather(map, _) => {
            let n = one()?.len();
            let inside = |s: &u32| *s == sordino_ring::PAD || (*s as usize) < n;
            if map.source.len() == map.shape.len() && map.source.iter().all(inside) {
                Ok(map.shape.clone())
            } else {
                Err(misfit("a re-indexing reads beyond its operand or is not of its shape"))
            }
        }
        Local::Concat { outer, widths, shape } => {
            let fits = operands.len() == widths.len()
                && operands.iter().zip(widths).all(|(s, w)| s.len() == outer * w)
                && shape.len() == outer * widths.iter().sum::<usize>();
            if fits { Ok(shape.clone()) } else { Err(misfit("operands of a concatenation do not fit")) }
        }
        Local::WindowSum(w) => {
            fits_linear(one()?, &w.0)?;
            Ok(w.0.output())
        }
    }
}

/// Checks a geometry, so that no kernel meets one whose sizes overflow.
pub(crate) fn sensible(op: &Conv2d) -> Result<()> {
    op.check().map_err(|e| Error::Usage(format!("a linear layer: {e}")))
}

/// Checks the input of a linear layer.
pub(crate) fn fits_linear(x: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if x.len() == op.input().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{x} elements as the input {} of a linear layer", op.input())))
}

/// Checks computed weights.
pub(crate) fn fits_weight(weights: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if weights.len() == op.weight().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{weights} elements as weights of {}", op.weight())))
}

/// Checks the operands of a selection.
pub(crate) fn fits_bits(bits: &Shape, x: &Shape) -> Result<()> {
    if bits.len() == x.len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{bits} bits select from {x}")))
}

/// The shape of functions of x: a row for each. Checks that each has a weight for every threshold.
pub(crate) fn function_rows(x: &Shape, thresholds: &[i64], functions: &[Vec<i64>]) -> Result<Shape> {
    if thresholds.is_empty() || functions.iter().any(|f| f.len() != thresholds.len()) {
        return Err(Error::Usage(format!(
            "functions need as many weights as there are thresholds, {}",
            thresholds.len()
        )));
    }
    let dims: Vec<usize> = std::iter::once(functions.len()).chain(x.dims().iter().copied()).collect();
    Ok(Shape::new(&dims))
}

/// Checks the operands of a gradient of weights.
pub(crate) fn fits_gradient(x: &Shape, dy: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if x.len() == op.input().len() && dy.len() == op.output().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("a gradient of weights of {} from {x} and {dy}", op.weight())))
}

impl Protocol for Plan {
    type Arith = Symbol;
    type Bit = PlannedBits;
    type Weight = PlannedWeight;

    fn shape<'a>(&self, x: &'a Symbol) -> &'a Shape {
        &x.shape
    }
    fn width(&self, x: &Symbol) -> Width {
        x.width
    }
    fn input(&self, _at: Step, _from: Role, _values: Option<&[i64]>, shape: &Shape) -> Result<Symbol> {
        self.spend_input(cost::input(shape.len(), self.settings));
        Ok(self.symbol(shape.clone(), Width::Wide))
    }
    fn prepare(&self, _at: Step, _from: Role, _values: Option<&[i64]>, op: &Conv2d) -> Result<Self::Weight> {
        sensible(op)?;
        self.spend_input(cost::input(op.weight().len(), self.settings));
        // Both components and the message one of them came in.
        let _unpacked = self.lease(24 * op.weight().len() as u64);
        Ok(PlannedWeight { gain: op.gain(), _lease: self.lease(panel_bytes(op, op.gain())) })
    }
    fn constant(&self, _values: &[i64], shape: &Shape, width: Width) -> Symbol {
        self.symbol(shape.clone(), width)
    }
    fn local(&self, op: &Local<'_>, operands: &[&Symbol]) -> Result<Symbol> {
        let shapes: Vec<&Shape> = operands.iter().map(|x| &x.shape).collect();
        let shape = local_shape(op, &shapes)?;
        let width = match (op, operands.first()) {
            (Local::Low, _) | (_, None) => Width::Narrow,
            (_, Some(x)) => x.width,
        };
        if operands.iter().any(|x| operands[0].width != x.width) {
            return Err(Error::Usage("operands of a local operation must have one width".into()));
        }
        Ok(self.symbol(shape, width))
    }
    fn linear(
        &self,
        _at: Step,
        terms: &[(&Symbol, &Self::Weight, Conv2d)],
        _bias: Option<&Symbol>,
        shift: u32,
    ) -> Result<Symbol> {
        let Some((_, _, op)) = terms.first() else {
            return Err(Error::Usage("a linear layer takes at least one term".into()));
        };
        for (x, _, op) in terms {
            fits_linear(&x.shape, op)?;
            self.state.borrow_mut().cost.macs += 2 * op.macs();
            let padded = op.n.min(1) * (op.h + op.pad[0] + op.pad[2]) * (op.w + op.pad[1] + op.pad[3]) * op.cin;
            drop(self.lease((16 * padded + 8 * op.output().len()) as u64));
        }
        let gain = terms.iter().map(|t| t.1.gain).max().unwrap_or(1);
        Ok(self.truncated(&op.output(), shift + gain.trailing_zeros()))
    }
    fn weight_gradient(
        &self,
        _at: Step,
        x: &Symbol,
        dy: &Symbol,
        op: &Conv2d,
        _bias: Option<&Symbol>,
        shift: u32,
    ) -> Result<Symbol> {
        fits_gradient(&x.shape, &dy.shape, op)?;
        self.state.borrow_mut().cost.macs += 2 * op.macs();
        drop(self.lease(16 * op.output().len() as u64));
        Ok(self.truncated(&op.weight(), shift))
    }
    fn mul(&self, _at: Step, x: &Symbol, _y: &Symbol, _bias: Option<&Symbol>, shift: u32) -> Result<Symbol> {
        self.state.borrow_mut().cost.macs += 2 * x.shape.len() as u64;
        Ok(self.truncated(&x.shape, shift))
    }
    fn truncate(&self, _at: Step, x: &Symbol, shift: u32) -> Result<Symbol> {
        Ok(self.truncated(&x.shape, shift))
    }
    fn msb(&self, _at: Step, x: &Symbol) -> Result<PlannedBits> {
        self.spend(cost::msb(x.shape.len(), self.settings));
        drop(self.lease(comparison_bytes(x.shape.len())));
        Ok(self.bits(&x.shape, false))
    }
    fn piecewise_constant(&self, _at: Step, x: &Symbol, thresholds: &[i64], functions: &[Vec<i64>]) -> Result<Symbol> {
        let shape = function_rows(&x.shape, thresholds, functions)?;
        self.spend(cost::piecewise(x.shape.len(), thresholds.len(), functions.len(), self.settings));
        // Comparisons and shares of each threshold's bit.
        drop(self.lease(60 * (x.shape.len() * thresholds.len()) as u64));
        Ok(self.symbol(shape, Width::Wide))
    }
    fn relu_with_bit(&self, _at: Step, x: &Symbol, out: Width) -> Result<(Symbol, PlannedBits)> {
        self.spend(cost::relu(x.shape.len(), out, self.settings));
        drop(self.lease(comparison_bytes(x.shape.len())));
        Ok((self.symbol(x.shape.clone(), out), self.bits(&x.shape, true)))
    }
    fn select(&self, _at: Step, bit: &PlannedBits, x: &Symbol, out: Width) -> Result<Symbol> {
        fits_bits(&bit.shape, &x.shape)?;
        self.spend(cost::select(x.shape.len(), bit.dealt, out, self.settings));
        drop(self.lease(48 * x.shape.len() as u64));
        Ok(self.symbol(x.shape.clone(), out))
    }
    fn pack(&self, weights: &Symbol, op: &Conv2d) -> Result<Self::Weight> {
        fits_weight(&weights.shape, op)?;
        let gain = op.gain_once();
        Ok(PlannedWeight { gain, _lease: self.lease(panel_bytes(op, gain)) })
    }
    fn extend(&self, _at: Step, x: &Symbol) -> Result<Symbol> {
        self.spend(cost::extend(x.shape.len(), self.settings));
        Ok(self.symbol(x.shape.clone(), Width::Wide))
    }
    fn verify(&self, _at: Step, x: Symbol) -> Result<Checked<Symbol>> {
        Ok(Checked(x))
    }
    fn open(&self, _at: Step, x: Checked<Symbol>, _to: Role) -> Result<Option<Vec<i64>>> {
        self.spend_open(cost::open(x.0.shape.len(), x.0.width, self.settings));
        Ok(None)
    }
}

/// Working space of a comparison: the planes of three parts, dealt, expanded and joined, and words of the selection.
fn comparison_bytes(n: usize) -> u64 {
    120 * n as u64
}
