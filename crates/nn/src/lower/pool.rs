//! Maximum pooling: a tree of comparisons along each axis, and the way back along the bits it kept.

use super::builder::{Builder, Pending};
use super::maxima::Axis;
use crate::network::Window;
use crate::program::{Op, Slot, View};

/// Separable maximum: along rows, then along columns, each a tree over the kernel. Keeps its comparisons if asked to.
pub(super) fn max_pool(b: &mut Builder, x: Slot, window: &Window, out: &[usize], keep: bool) -> (Slot, Vec<Axis>) {
    let mut y = x;
    let mut axes = vec![];
    // The axis that shrinks the tensor most goes first.
    for a in [1, 0] {
        let dims = b.dims(y);
        let mut to = dims.clone();
        to[1 + a] = out[1 + a];
        let start = |k: usize| (k * window.dilation[a]) as isize - window.pad[a] as isize;
        let starts: Vec<isize> = (0..window.kernel[a]).map(start).collect();
        let mut level: Vec<Slot> = starts
            .iter()
            .map(|&from| {
                let (mut start, mut step) = (vec![0; 4], vec![1; 4]);
                (start[1 + a], step[1 + a]) = (from, window.stride[a] as isize);
                let view = View::Clamped { dims: dims.clone(), start, step, out: to.clone() };
                let range = b.range(y);
                b.like(y, 1.0, Pending::Done(Op::Gather { x: y, view, fill: 0 }), &to, range)
            })
            .collect();
        let mut levels = vec![];
        while level.len() > 1 {
            let (mut next, mut bits) = (vec![], vec![]);
            for pair in level.chunks(2) {
                let [x, y] = *pair else {
                    next.push(pair[0]);
                    bits.push(None);
                    continue;
                };
                let bit = keep.then(|| {
                    b.bits += 1;
                    b.bits - 1
                });
                let (dims, range) = (b.dims(x), b.range(x));
                next.push(b.like(x, 1.0, Pending::Done(Op::Max { x, y, keep: bit }), &dims, range));
                bits.push(bit);
            }
            level = next;
            levels.push(bits);
        }
        y = level[0];
        let stride = window.stride[a] as isize;
        axes.push(Axis { axis: 1 + a, dims, out: out[1 + a], starts, stride, levels });
    }
    (y, axes)
}

/// The gradient of the operand: each element goes back to the one that was the maximum.
pub(super) fn gradient(b: &mut Builder, dy: Slot, axes: &[Axis]) -> Slot {
    let mut g = dy;
    for axis in axes.iter().rev() {
        let mut level = vec![g];
        for bits in axis.levels.iter().rev() {
            let mut next = vec![];
            for (&g, bit) in level.iter().zip(bits) {
                let Some(bit) = *bit else {
                    next.push(g);
                    continue;
                };
                let (dims, range) = (b.dims(g), b.range(g));
                let first = b.like(g, 1.0, Pending::Done(Op::Select { x: g, bit, wide: false }), &dims, range);
                let second = b.like(g, 1.0, Pending::Done(Op::Sub { x: g, y: first }), &dims, range);
                next.extend([first, second]);
            }
            level = next;
        }
        let parts: Vec<Slot> =
            axis.starts.iter().zip(&level).flat_map(|(&start, &g)| axis.scattered(b, g, start)).collect();
        // An element may be the maximum of as many windows as overlap.
        let overlap = (axis.starts.len() as isize).div_euclid(axis.stride) + 1;
        let range = b.range(g) * overlap.min(axis.starts.len() as isize) as f64;
        g = parts.into_iter().reduce(|x, y| sum(b, x, y, range)).unwrap_or(g);
    }
    g
}

fn sum(b: &mut Builder, x: Slot, y: Slot, range: f64) -> Slot {
    let dims = b.dims(x);
    b.like(x, 1.0, Pending::Done(Op::Add { x, y }), &dims, range)
}

impl Axis {
    /// The gradient of one kernel position, where it belongs; positions outside stand for the nearest element.
    fn scattered(&self, b: &mut Builder, g: Slot, start: isize) -> Vec<Slot> {
        let rank = self.dims.len();
        let view = |b: &mut Builder, g: Slot, view: View| {
            let (out, range) = (view.out(), b.range(g));
            b.like(g, 1.0, Pending::Done(Op::Gather { x: g, view, fill: 0 }), &out, range)
        };
        let placed = |b: &mut Builder, g: Slot, from: isize, by: isize| {
            let (mut start, mut step) = (vec![0; rank], vec![1; rank]);
            (start[self.axis], step[self.axis]) = (from, by);
            let scatter = View::Scatter { dims: b.dims(g), start, step, out: self.dims.clone() };
            view(b, g, scatter)
        };
        let len = self.dims[self.axis] as isize;
        let mut parts = vec![placed(b, g, start, self.stride)];
        for j in 0..self.out as isize {
            let at = start + j * self.stride;
            if (0..len).contains(&at) {
                continue;
            }
            let dims = b.dims(g);
            let (mut from, mut out) = (vec![0; rank], dims.clone());
            (from[self.axis], out[self.axis]) = (j, 1);
            let one = view(b, g, View::Window { dims, start: from, step: vec![1; rank], out });
            parts.push(placed(b, one, at.clamp(0, len - 1), 1));
        }
        parts
    }
}
