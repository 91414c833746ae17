//! Where a run is watched for values that leave their range: before each operation that relies on one ([`sordino_mpc::Protocol::watch`]).
//!
//! A value is watched once, where it was computed: what only moves elements, ReLUs and maxima of values in range are in range. Where samples
//! of several jobs are computed side by side, each is watched for itself as far as values lie in rows of their own.

use crate::program::{Instruction, Op, Program, Slot};
use sordino_ring::Conv2d;
use std::collections::BTreeMap;

/// How a value depends on the samples.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Not at all.
    Public,
    /// On this one.
    One(usize),
    /// Each of its equal runs on one sample, in their order.
    Apart,
    /// Some other way.
    Mixed,
}

struct Guard<'p> {
    program: &'p Program,
    rows: usize,
    /// Values that are in range, or watched already.
    within: Vec<bool>,
    depends: Vec<Rows>,
    maker: BTreeMap<Slot, usize>,
}

impl Rows {
    /// Of a value that both go into.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Public, x) | (x, Self::Public) => x,
            (x, y) if x == y => x,
            _ => Self::Mixed,
        }
    }
}

impl Guard<'_> {
    fn len(&self, slot: Slot) -> usize {
        self.program.slots[slot].shape.len()
    }

    /// Of how many rows a value is watched.
    fn rows_of(&self, slot: Slot) -> usize {
        let apart = self.depends[slot] == Rows::Apart && self.len(slot).is_multiple_of(self.rows);
        if apart { self.rows } else { 1 }
    }

    /// Whether these are the samples themselves, one after the other.
    fn samples(&self, xs: &[Slot]) -> bool {
        xs.len() == self.rows && xs.iter().enumerate().all(|(r, x)| self.depends[*x] == Rows::One(r))
    }

    /// Whether a convolution leaves rows apart: each is an image, or some pixels of one that do not meet.
    fn row_by_row(&self, conv: &Conv2d) -> bool {
        let alone = (conv.kernel, conv.stride, conv.pad) == ([1; 2], [1; 2], [0; 4]);
        let images = if alone { conv.n * conv.h * conv.w } else { conv.n };
        images.is_multiple_of(self.rows)
    }

    fn dependence(&self, instruction: &Instruction) -> Rows {
        let op = &instruction.op;
        let of = op.operands().into_iter().fold(Rows::Public, |all, x| all.and(self.depends[x]));
        let rows = |n: usize| n.is_multiple_of(self.rows);
        let keeps = match op {
            Op::Input(i) => return Rows::One(usize::from(self.program.inputs[*i].owner)),
            Op::Secret(_) | Op::State(_) => return Rows::Public,
            Op::Concat { xs, outer: 1, widths, .. } if self.samples(xs) && widths.iter().all(|w| *w == widths[0]) => {
                return Rows::Apart;
            }
            Op::Concat { outer, .. } => rows(*outer),
            Op::Linear { terms, .. } => terms.iter().all(|t| self.row_by_row(&t.2)),
            Op::Product { terms, .. } => {
                terms.iter().all(|t| self.row_by_row(&t.2) && self.depends[t.1] == Rows::Public)
            }
            Op::WindowSum { windows, .. } => rows(windows.0.n),
            Op::Gather { x, view, .. } if of == Rows::Apart => {
                let map = view.map();
                let (from, to) = (self.len(*x) / self.rows, map.source.len() / self.rows);
                let near = |(at, &s): (usize, &u32)| s == sordino_ring::PAD || s as usize / from == at / to;
                rows(map.source.len()) && map.source.iter().enumerate().all(near)
            }
            // A row for each function, of which one is taken: the samples lie apart in each.
            Op::Piecewise { .. } | Op::Row { .. } => true,
            Op::Gather { .. } | Op::WeightGradient { .. } | Op::Descend { .. } | Op::Dropout { .. } => false,
            // Element by element: an operand that is repeated is not one for every row.
            _ => {
                let len = self.len(instruction.out);
                let same = |x: &Slot| self.depends[*x] == Rows::Public || self.len(*x) == len;
                rows(len) && op.operands().iter().all(same)
            }
        };
        if keeps || of != Rows::Apart { of } else { Rows::Mixed }
    }

    /// Whether the result is in range for certain if operands are.
    fn stays_within(&self, op: &Op) -> bool {
        let limit = 1i64 << (self.program.settings.narrow_bits - 2);
        match op {
            Op::Secret(_) | Op::Relu { shift: None, .. } | Op::Max { .. } => true,
            Op::Reshape { x, .. } | Op::Extend { x } | Op::Select { x, .. } | Op::Flip { x, .. } => self.within[*x],
            Op::Gather { x, fill, .. } => self.within[*x] && fill.abs() < limit,
            Op::Concat { xs, .. } => xs.iter().all(|x| self.within[*x]),
            _ => false,
        }
    }

    /// The values not known to be in range that this one's elements are taken from.
    fn sources(&self, slot: Slot, into: &mut Vec<Slot>) {
        if self.within[slot] || into.contains(&slot) {
            return;
        }
        match self.maker.get(&slot).map(|&at| &self.program.instructions[at].op) {
            Some(Op::Reshape { x, .. } | Op::Gather { x, .. }) => self.sources(*x, into),
            Some(Op::Concat { xs, .. }) => xs.iter().for_each(|x| self.sources(*x, into)),
            _ => into.push(slot),
        }
    }
}

/// Adds what watches a program whose samples are `rows` jobs' own; one for a program whose samples belong together, none for one that is not
/// watched.
pub(crate) fn guard(program: &mut Program, rows: usize) {
    if rows == 0 {
        for instruction in &mut program.instructions {
            if let Op::Piecewise { watched, .. } = &mut instruction.op {
                *watched = None;
            }
        }
        return;
    }
    let mut guard = Guard {
        program,
        rows,
        within: vec![false; program.slots.len()],
        depends: vec![Rows::Public; program.slots.len()],
        maker: BTreeMap::new(),
    };
    let mut guarded = Vec::with_capacity(program.instructions.len());
    for (i, instruction) in program.instructions.iter().enumerate() {
        let mut watched = vec![];
        match &instruction.op {
            Op::Relu { x, shift: None, .. } | Op::Extend { x } | Op::Piecewise { x, .. } if !guard.within[*x] => {
                watched.push(*x);
            }
            // Windows share elements, which are watched where they come from.
            Op::Max { x, y, .. } => [x, y].into_iter().for_each(|x| guard.sources(*x, &mut watched)),
            _ => {}
        }
        for x in watched {
            let op = Op::Watch { x, rows: guard.rows_of(x) };
            guarded.push(Instruction { layer: instruction.layer, op, out: x });
            guard.within[x] = true;
        }
        let mut instruction = instruction.clone();
        if let Op::Piecewise { x, watched: Some(ends), .. } = &mut instruction.op {
            ends.rows = guard.rows_of(*x);
        }
        let out = instruction.out;
        guard.within[out] = guard.stays_within(&instruction.op);
        guard.depends[out] = guard.dependence(&instruction);
        guard.maker.entry(out).or_insert(i);
        guarded.push(instruction);
    }
    program.instructions = guarded;
    program.guarded = rows;
}
