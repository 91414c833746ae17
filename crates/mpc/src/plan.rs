//! Running a program on shapes alone: declared cost, nothing computed.

use crate::fit::{fits_bits, fits_gradient, fits_linear, fits_weight, function_rows, local_shape, sensible};
use crate::{Checked, Cost, Costs, Error, Local, Protocol, Result, Role, Settings, Step, Width, rep3};
use sordino_ring::{Conv2d, Shape};
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Default)]
struct State {
    cost: Cost,
    /// Longest chain that ends at an owner; inputs start from it, not from the chain of those who compute.
    owner_rounds: u32,
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
    /// Bits below it that its truncation takes off too.
    guard: u32,
    _lease: Rc<Lease>,
}

/// Bits of which only the form is known.
pub struct PlannedBits {
    shape: Shape,
    /// A ReLU left shares of their masks.
    dealt: bool,
    _lease: Rc<Lease>,
}

/// A protocol's declared cost, that of three servers if nothing else is said. Runs anything the executor runs.
pub struct Plan<C = rep3::Declared> {
    costs: C,
    state: Rc<RefCell<State>>,
    /// What waits for a deal to travel with.
    watched: RefCell<Vec<Rc<Lease>>>,
}

/// What stands for packed weights.
pub struct PlannedWeight {
    gain: u64,
    _lease: Rc<Lease>,
}

impl Plan {
    /// Counts the cost of a program with these settings, run by three servers.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::of(settings)
    }
}

impl<C: Costs> Plan<C> {
    /// Counts the cost of a program with these settings.
    #[must_use]
    pub fn of(settings: Settings) -> Self {
        Self { costs: C::new(settings), state: Rc::default(), watched: RefCell::default() }
    }
    /// What the protocol declares.
    #[must_use]
    pub fn costs(&self) -> &C {
        &self.costs
    }
    /// Starts counting cost anew. What lives now counts as loaded.
    pub fn restart(&self) {
        self.costs.restart();
        let mut state = self.state.borrow_mut();
        state.peak_before = state.peak_before.max(state.peak);
        (state.loaded, state.peak) = (state.live, state.live);
        (state.cost, state.owner_rounds) = (Cost::default(), 0);
    }
    /// Cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let state = self.state.borrow();
        Cost { rounds: state.cost.rounds.max(state.owner_rounds), ..state.cost }
    }
    /// A bound on the memory of a computing end's process: what it loads, and what it works with times what messages on their
    /// way and the allocator's fragments add to it (measured over the networks of the zoo: 1.1 to 2.1), and a base.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        const BASE: u64 = 56 << 20;
        let state = self.state.borrow();
        let working = state.peak - state.loaded;
        BASE + self.costs.other_bytes() + state.peak_before.max(state.loaded + 22 * working / 10)
    }

    fn lease(&self, bytes: u64) -> Rc<Lease> {
        let mut state = self.state.borrow_mut();
        state.live += bytes;
        state.peak = state.peak.max(state.live);
        Rc::new(Lease { bytes, state: Rc::clone(&self.state) })
    }
    fn symbol(&self, shape: Shape, width: Width) -> Symbol {
        let lease = self.lease(self.costs.tensor_bytes(shape.len(), width));
        Symbol { shape, width, guard: 0, _lease: lease }
    }
    fn bits(&self, shape: &Shape, dealt: bool) -> PlannedBits {
        let lease = self.lease(self.costs.bits_bytes(shape.len(), dealt));
        PlannedBits { shape: shape.clone(), dealt, _lease: lease }
    }
    /// What was watched goes with the deal of this operation.
    fn deal(&self) {
        self.watched.take();
    }
    fn spend(&self, cost: Cost) {
        self.state.borrow_mut().cost += cost;
    }
    /// Inputs do not wait for each other, nor for those who compute.
    fn spend_input(&self, cost: Cost) {
        let mut state = self.state.borrow_mut();
        let rounds = state.cost.rounds.max(state.owner_rounds + cost.rounds);
        state.cost += cost;
        state.cost.rounds = rounds;
    }
    /// Those who compute do not wait for an opening to arrive.
    fn spend_open(&self, cost: Cost) {
        let mut state = self.state.borrow_mut();
        let rounds = state.cost.rounds;
        state.owner_rounds = state.owner_rounds.max(rounds + cost.rounds);
        state.cost += cost;
        state.cost.rounds = rounds;
    }
    /// Working space of a sum of convolutions; the first one's geometry, and all with their gains.
    fn convolved(&self, terms: &[(&Symbol, &PlannedWeight, Conv2d)]) -> Result<(Conv2d, Vec<(Conv2d, u64)>)> {
        let Some((_, _, first)) = terms.first() else {
            return Err(Error::Usage("a linear layer takes at least one term".into()));
        };
        for (x, _, op) in terms {
            fits_linear(&x.shape, op)?;
            let padded = op.n.min(1) * (op.h + op.pad[0] + op.pad[2]) * (op.w + op.pad[1] + op.pad[3]) * op.cin;
            drop(self.lease((16 * padded + 8 * op.output().len()) as u64));
        }
        Ok((*first, terms.iter().map(|(_, w, op)| (*op, w.gain)).collect()))
    }
    fn truncated(&self, shape: &Shape, shift: u32) -> Symbol {
        // The untruncated product and its masks live until the result does.
        let _working = self.lease(16 * shape.len() as u64);
        self.spend(self.costs.truncate(shape.len(), shift));
        self.symbol(shape.clone(), Width::Narrow)
    }
}

impl<C: Costs> Protocol for Plan<C> {
    type Arith = Symbol;
    type Bit = PlannedBits;
    type Weight = PlannedWeight;

    fn run_begins(&self) {
        self.costs.run_begins();
    }
    fn shape<'a>(&self, x: &'a Symbol) -> &'a Shape {
        &x.shape
    }
    fn width(&self, x: &Symbol) -> Width {
        x.width
    }
    fn input(&self, _at: Step, _from: Role, _values: Option<&[i64]>, shape: &Shape) -> Result<Symbol> {
        self.spend_input(self.costs.input(shape.len()));
        Ok(self.symbol(shape.clone(), Width::Wide))
    }
    fn prepare(&self, _at: Step, _from: Role, _values: Option<&[i64]>, op: &Conv2d) -> Result<Self::Weight> {
        sensible(op)?;
        self.spend_input(self.costs.input(op.weight().len()));
        // Both components and the message one of them came in.
        let _unpacked = self.lease(24 * op.weight().len() as u64);
        let gain = self.costs.prepare(op);
        Ok(PlannedWeight { gain, _lease: self.lease(self.costs.panel_bytes(op, gain)) })
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
        let guard = operands.iter().map(|x| x.guard).max().unwrap_or(0);
        Ok(Symbol { guard, ..self.symbol(shape, width) })
    }
    fn linear(
        &self,
        _at: Step,
        terms: &[(&Symbol, &Self::Weight, Conv2d)],
        _bias: Option<&Symbol>,
        shift: u32,
    ) -> Result<Symbol> {
        let (op, gains) = self.convolved(terms)?;
        let (shift, cost) = self.costs.linear(&gains, shift)?;
        self.spend(cost);
        Ok(self.truncated(&op.output(), shift))
    }
    fn linear_wide(
        &self,
        _at: Step,
        terms: &[(&Symbol, &Self::Weight, Conv2d)],
        _bias: Option<&Symbol>,
    ) -> Result<Symbol> {
        let (op, gains) = self.convolved(terms)?;
        self.spend(self.costs.linear_wide(&gains)?);
        Ok(Symbol { guard: self.costs.guard(&gains), ..self.symbol(op.output(), Width::Wide) })
    }
    fn relu_truncated(&self, mut at: Step, x: &Symbol, shift: u32, out: Width) -> Result<(Symbol, PlannedBits)> {
        match self.costs.relu_truncated(x.shape.len(), shift + x.guard, out) {
            Some(cost) => {
                self.spend(cost);
                drop(self.lease(comparison_bytes(x.shape.len())));
                Ok((self.symbol(x.shape.clone(), out), self.bits(&x.shape, true)))
            }
            None => {
                let narrow = self.truncate(at.child("truncate"), x, shift)?;
                self.relu_with_bit(at.child("relu"), &narrow, out)
            }
        }
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
        self.spend(self.costs.weight_gradient(op)?);
        drop(self.lease(16 * op.output().len() as u64));
        Ok(self.truncated(&op.weight(), shift))
    }
    fn mul(&self, _at: Step, x: &Symbol, _y: &Symbol, _bias: Option<&Symbol>, shift: u32) -> Result<Symbol> {
        self.spend(self.costs.mul(x.shape.len())?);
        Ok(self.truncated(&x.shape, shift))
    }
    fn flip(&self, _at: Step, x: &Symbol, signs: &Symbol) -> Result<Symbol> {
        let (n, channels) = crate::fit::fits_signs(&x.shape, &signs.shape)?;
        self.spend(self.costs.flip(n, channels)?);
        // Both pads.
        drop(self.lease(24 * n as u64));
        Ok(self.symbol(x.shape.clone(), Width::Narrow))
    }
    fn truncate(&self, _at: Step, x: &Symbol, shift: u32) -> Result<Symbol> {
        Ok(self.truncated(&x.shape, shift + x.guard))
    }
    fn msb(&self, _at: Step, x: &Symbol) -> Result<PlannedBits> {
        self.deal();
        self.spend(self.costs.msb(x.shape.len()));
        drop(self.lease(comparison_bytes(x.shape.len())));
        Ok(self.bits(&x.shape, false))
    }
    fn piecewise_constant(&self, _at: Step, x: &Symbol, thresholds: &[i64], functions: &[Vec<i64>]) -> Result<Symbol> {
        let shape = function_rows(&x.shape, thresholds, functions)?;
        self.deal();
        self.spend(self.costs.piecewise(x.shape.len(), thresholds.len(), functions.len())?);
        // Comparisons and shares of each threshold's bit.
        drop(self.lease(60 * (x.shape.len() * thresholds.len()) as u64));
        Ok(self.symbol(shape, Width::Wide))
    }
    fn relu_with_bit(&self, _at: Step, x: &Symbol, out: Width) -> Result<(Symbol, PlannedBits)> {
        self.deal();
        self.spend(self.costs.relu(x.shape.len(), out));
        drop(self.lease(comparison_bytes(x.shape.len())));
        Ok((self.symbol(x.shape.clone(), out), self.bits(&x.shape, true)))
    }
    fn select(&self, _at: Step, bit: &PlannedBits, x: &Symbol, out: Width) -> Result<Symbol> {
        fits_bits(&bit.shape, &x.shape)?;
        self.deal();
        self.spend(self.costs.select(x.shape.len(), bit.dealt, out)?);
        drop(self.lease(48 * x.shape.len() as u64));
        Ok(self.symbol(x.shape.clone(), out))
    }
    fn pack(&self, weights: &Symbol, op: &Conv2d) -> Result<Self::Weight> {
        fits_weight(&weights.shape, op)?;
        let gain = self.costs.pack(op)?;
        Ok(PlannedWeight { gain, _lease: self.lease(self.costs.panel_bytes(op, gain)) })
    }
    fn extend(&self, _at: Step, x: &Symbol) -> Result<Symbol> {
        self.deal();
        self.spend(self.costs.extend(x.shape.len()));
        Ok(self.symbol(x.shape.clone(), Width::Wide))
    }
    fn watch(&self, _at: Step, x: &Symbol, _rows: usize) -> Result<()> {
        self.spend(self.costs.watch(x.shape.len())?);
        self.watched.borrow_mut().push(self.lease(x.shape.len() as u64));
        Ok(())
    }
    fn sound(&self, _at: Step, _row: [usize; 2], _to: Role) -> Result<Option<bool>> {
        self.spend_open(self.costs.sound()?);
        Ok(None)
    }
    fn agree(&self, _at: Step, _tensors: &[&Symbol]) -> Result<()> {
        self.spend(self.costs.agree());
        Ok(())
    }
    fn verify(&self, _at: Step, x: Symbol) -> Result<Checked<Symbol>> {
        Ok(Checked(x))
    }
    fn open(&self, _at: Step, x: Checked<Symbol>, _to: Role) -> Result<Option<Vec<i64>>> {
        self.spend_open(self.costs.open(x.0.shape.len(), x.0.width));
        Ok(None)
    }
}

/// Working space of a comparison: the planes of three parts, dealt, expanded and joined, and words of the selection.
fn comparison_bytes(n: usize) -> u64 {
    120 * n as u64
}
