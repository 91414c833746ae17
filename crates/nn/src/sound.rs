//! Whether a program from somebody else can be run at all: every place that it names is there, and sizes are sensible.

use crate::program::{Op, Program, SecretForm, View};
use crate::{Error, Result};
use sordino_mpc::{Ends, Kind};
use sordino_ring::{PAD, Shape};

/// Most elements of a value.
const MOST: usize = 1 << 31;

fn elements(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < MOST)
}

/// Whether a view can be made explicit, and reads an operand of so many elements.
fn sound_view(view: &View, operand: usize) -> bool {
    const FARTHEST: isize = 1 << 31;
    let near = |v: &[isize]| v.iter().all(|v| v.abs() < FARTHEST);
    let all = |dims: &[usize]| elements(dims) == Some(operand);
    match view {
        View::Permute { dims, perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            all(dims) && sorted.iter().copied().eq(0..dims.len())
        }
        View::Window { dims, start, step, out } => {
            let ranks = [start.len(), step.len(), out.len()];
            all(dims) && ranks.iter().all(|r| *r == dims.len()) && near(start) && near(step)
        }
        View::Clamped { dims, start, step, out } | View::Scatter { dims, start, step, out } => {
            let ranks = [start.len(), step.len(), out.len()];
            let axes = dims.iter().all(|d| *d > 0) && step.iter().all(|s| *s != 0);
            all(dims) && ranks.iter().all(|r| *r == dims.len()) && near(start) && near(step) && axes
        }
        View::Broadcast { dims, out } => {
            let lead = out.len().checked_sub(dims.len());
            all(dims) && lead.is_some_and(|lead| dims.iter().zip(&out[lead..]).all(|(d, o)| *d == 1 || d == o))
        }
        View::Rotate { dims, groups } => all(dims) && *groups > 0 && dims[0].is_multiple_of(*groups) && dims[3] > 0,
        View::List { source, out } => {
            elements(out) == Some(source.len()) && source.iter().all(|s| *s == PAD || (*s as usize) < operand)
        }
    }
}

impl Program {
    /// Checks a program that another end sent.
    ///
    /// # Errors
    /// [`Error::Model`] with what is wrong.
    pub fn check(&self) -> Result<()> {
        let fault = |what: &str| Err(Error::Model(format!("a program with {what}")));
        if self.settings.check().is_err() {
            return fault("rings that do not exist");
        }
        if self.slots.iter().any(|s| elements(s.shape.dims()).is_none() || !(s.scale.is_finite() && s.scale > 0.0)) {
            return fault("a value that is too large or has no scale");
        }
        for form in &self.secrets {
            let sound = match form {
                SecretForm::Weight(op) => op.check().is_ok(),
                SecretForm::Tensor(shape) => elements(shape.dims()).is_some(),
            };
            if !sound {
                return fault("weights of an impossible shape");
            }
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            let named = self.slots.get(port.slot).is_some_and(|s| elements(&port.dims) == Some(s.shape.len()));
            let batch = port.batch.is_none_or(|axis| axis < port.dims.len());
            let scale = port.scale.is_finite() && port.scale > 0.0 && !port.limit.is_nan();
            if !(named && batch && scale) {
                return fault("an input or output that is none of its values");
            }
        }
        if self.guarded > usize::from(sordino_mpc::MOST_OWNERS) {
            return fault("more guarded rows than jobs run together");
        }
        // What is watched travels with a deal.
        let deals = |op: &Op| {
            let relu = matches!(op, Op::Relu { shift: None, .. });
            relu || matches!(op, Op::Max { .. } | Op::Extend { .. } | Op::Piecewise { .. } | Op::Select { .. })
        };
        let last = self.instructions.iter().rev().find(|i| deals(&i.op) || matches!(i.op, Op::Watch { .. }));
        if last.is_some_and(|i| matches!(i.op, Op::Watch { .. })) {
            return fault("a watched value that nothing relies on");
        }
        // A training may tell nothing.
        if self.inputs.is_empty() || (self.outputs.is_empty() && self.states.is_empty()) {
            return fault("no inputs or no outputs");
        }
        for state in &self.states {
            let (read, left) = (self.slots.get(state.read), self.slots.get(state.left));
            let Some((read, left)) = read.zip(left) else { return fault("a state that is none of its values") };
            let starts = state
                .start
                .is_none_or(|s| matches!(self.secrets.get(s), Some(SecretForm::Tensor(shape)) if *shape == read.shape));
            if !starts || left.shape != read.shape || !left.wide {
                return fault("a state that is none of its values");
            }
        }
        if self.rates.iter().any(|rate| !rate.is_finite()) {
            return fault("a rate that is no number");
        }
        for instruction in &self.instructions {
            let slots = instruction.op.operands().into_iter().chain([instruction.out]);
            if slots.into_iter().any(|s| s >= self.slots.len()) || instruction.layer >= self.layers.len() {
                return fault("a step whose operands are not there");
            }
            if !self.step_is_sound(&instruction.op, &self.slots[instruction.out].shape) {
                return fault("a step that cannot be taken");
            }
        }
        Ok(())
    }

    fn step_is_sound(&self, op: &Op, out: &Shape) -> bool {
        let weight = |index: usize, conv: &sordino_ring::Conv2d| matches!(self.secrets.get(index), Some(SecretForm::Weight(op)) if op == conv);
        let shape = |slot: usize| &self.slots[slot].shape;
        // Two parties cut their shares into planes, of which there are as many as their rings have bits.
        let most = if self.settings.kind == Kind::Two { self.settings.most_shift() } else { 63 };
        match op {
            Op::Input(i) => self.inputs.get(*i).is_some_and(|p| elements(&p.dims) == Some(out.len())),
            Op::Secret(i) => matches!(self.secrets.get(*i), Some(SecretForm::Tensor(s)) if s == out),
            Op::State(i) => self.states.get(*i).is_some_and(|s| shape(s.read) == out),
            Op::Linear { terms, shift, .. } => {
                !terms.is_empty()
                    && shift.is_none_or(|s| s <= most)
                    && terms.iter().all(|(x, w, conv)| {
                        conv.check().is_ok()
                            && weight(*w, conv)
                            && shape(*x).len() == conv.input().len()
                            && conv.output().len() == out.len()
                    })
            }
            Op::Mul { x, y, shift, .. } => {
                *shift <= most && shape(*x).len() == out.len() && shape(*y).len() == out.len()
            }
            Op::Rescale { shift, .. } => *shift <= most,
            Op::MulPublic { x, factors, shift } => {
                *shift <= most && factors.len() == out.len() && shape(*x).len() == out.len()
            }
            Op::Relu { shift, keep, .. } => shift.is_none_or(|s| s <= most) && keep.is_none_or(|k| k < self.bits),
            Op::Max { x, y, keep } => shape(*x) == shape(*y) && keep.is_none_or(|k| k < self.bits),
            Op::Select { bit, .. } => *bit < self.bits,
            Op::Row { x, row, .. } => {
                let dims = shape(*x).dims();
                dims.first().is_some_and(|rows| row < rows) && shape(*x).len() == out.len() * dims[0]
            }
            Op::Gather { x, view, .. } => sound_view(view, shape(*x).len()) && elements(&view.out()) == Some(out.len()),
            Op::Concat { xs, .. } => !xs.is_empty(),
            Op::Reshape { dims, .. } => elements(dims) == Some(out.len()),
            Op::WindowSum { windows, .. } => {
                windows.0.check().is_ok() && windows.0.cin == windows.0.cout && windows.0.output().len() == out.len()
            }
            // Of trainings.
            Op::Product { terms, shift, .. } => {
                *shift <= most
                    && !terms.is_empty()
                    && !self.states.is_empty()
                    && terms.iter().all(|(x, w, conv)| {
                        conv.check().is_ok()
                            && shape(*w).len() == conv.weight().len()
                            && shape(*x).len() == conv.input().len()
                            && conv.output().len() == out.len()
                    })
            }
            Op::WeightGradient { x, dy, conv, shift, .. } => {
                *shift <= most
                    && !self.states.is_empty()
                    && conv.check().is_ok()
                    && shape(*x).len() == conv.input().len()
                    && shape(*dy).len() == conv.output().len()
                    && conv.weight().len() == out.len()
            }
            Op::Descend { w, v, per_rate } => {
                per_rate.is_finite() && !self.states.is_empty() && shape(*w) == out && shape(*v).len() == out.len()
            }
            Op::Dropout { x, dims, .. } => {
                !self.states.is_empty() && elements(dims) == Some(out.len()) && shape(*x).len() == out.len()
            }
            Op::Piecewise { thresholds, functions, watched, .. } => {
                let rows = |ends: &Ends| {
                    self.guarded > 0
                        && (ends.rows == 1 || ends.rows == self.guarded)
                        && out.len().is_multiple_of(ends.rows)
                };
                watched.as_ref().is_none_or(rows)
                    && !thresholds.is_empty()
                    && functions.iter().all(|f| f.len() == thresholds.len())
            }
            Op::Watch { x, rows } => {
                self.guarded > 0
                    && (*rows == 1 || *rows == self.guarded)
                    && out.len().is_multiple_of(*rows)
                    && shape(*x) == out
            }
            Op::Flip { x, signs } => {
                shape(*x) == out && out.dims().last().is_some_and(|c| *c > 0 && shape(*signs).len() == *c)
            }
            Op::Extend { x } | Op::Scale { x, .. } | Op::Offset { x, .. } => shape(*x).len() == out.len(),
            Op::Add { x, .. } | Op::Sub { x, .. } => shape(*x).len() == out.len(),
        }
    }
}
