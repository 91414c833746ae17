//! Softmaxes, their logarithms, and where the largest element is.

use super::builder::{Builder, Pending, mantissa};
use super::shaping::{from_row_major, gather, line_sums, permute, reshape, row_major};
use super::spline::{self, Function};
use crate::Result;
use crate::program::{Op, Slot, View};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Where the first largest element along an axis is: a tree that carries the places along.
pub(super) fn arg_max(b: &mut Builder, x: Slot, dims: &[usize], axis: usize) -> Slot {
    let (outer, n, inner): (usize, usize, usize) =
        (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product());
    let flat = row_major(b, x, dims);
    let shape = [outer, n, inner];
    let mut values = reshape(b, flat, &shape);
    let range = b.range(values);
    let places = (0..n).flat_map(|j| std::iter::repeat_n(j as f32, inner)).collect();
    let places = Arc::new(Tensor::new(&[1, n, inner], places));
    let top = (n as f64 - 1.0).max(1.0);
    // Public, but a value of the program like others.
    let places = b.source(Pending::Secret(places), &[1, n, inner], top, 0);
    b.values[places].exact = true;
    let view = View::Broadcast { dims: vec![1, n, inner], out: shape.to_vec() };
    let mut places = b.like(places, 1.0, Pending::Done(Op::Gather { x: places, view, fill: 0 }), &shape, top);
    b.values[places].exact = true;
    while b.dims(values)[1] > 1 {
        let len = b.dims(values)[1];
        let half = [outer, len.div_ceil(2), inner];
        // Neighbours, so that of equal ones the first stays; a last one without a neighbour meets itself.
        let part = |first: isize| View::Clamped {
            dims: vec![outer, len, inner],
            start: vec![0, first, 0],
            step: vec![1, 2, 1],
            out: half.to_vec(),
        };
        let [v0, v1] = [0, 1].map(|i| gather(b, values, part(i)));
        let [p0, p1] = [0, 1].map(|i| gather(b, places, part(i)));
        let bit = b.bits;
        b.bits += 1;
        values = b.like(v0, 1.0, Pending::Done(Op::Max { x: v0, y: v1, keep: Some(bit) }), &half, range);
        let lead = b.like(p0, 1.0, Pending::Done(Op::Sub { x: p0, y: p1 }), &half, top);
        let lead = b.like(p0, 1.0, Pending::Done(Op::Select { x: lead, bit, wide: false }), &half, top);
        places = b.like(p0, 1.0, Pending::Done(Op::Add { x: p1, y: lead }), &half, top);
        for slot in [p0, p1, lead, places] {
            b.values[slot].exact = true;
        }
    }
    let mut out = dims.to_vec();
    out[axis] = 1;
    let y = reshape(b, places, &out);
    b.values[y].exact = true;
    from_row_major(b, y, &out)
}

/// exp(x - max) / sum, or the logarithm of that, over axes `axis..end` of a value with these dimensions.
pub(super) fn softmax(
    b: &mut Builder,
    x: Slot,
    dims: &[usize],
    axis: usize,
    end: usize,
    logarithm: bool,
) -> Result<Slot> {
    let (outer, n, inner): (usize, usize, usize) =
        (dims[..axis].iter().product(), dims[axis..end].iter().product(), dims[end..].iter().product());
    let rows = outer * inner;
    let range = b.range(x);
    let spread = View::Broadcast { dims: vec![rows, 1], out: vec![rows, n] };
    let made = b.exponentials.get(&(x, axis, end)).copied();
    let [below, exp, sum] = match made {
        Some(made) => made,
        None => exponentials(b, x, dims, [outer, n, inner])?,
    };
    b.exponentials.insert((x, axis, end), [below, exp, sum]);
    let back = |b: &mut Builder, y: Slot| {
        let y = reshape(b, y, &[outer, inner, n]);
        let y = permute(b, y, &[0, 2, 1]);
        let y = reshape(b, y, dims);
        from_row_major(b, y, dims)
    };
    if logarithm {
        let top = (n as f64 * 1.01).ln().max(0.5);
        let log = spline::apply(b, sum, &Function::log(0.99, n as f64 * 1.01), top)?;
        let log = gather(b, log, spread);
        let log = b.agree(below, log);
        let y = b.like(below, 1.0, Pending::Done(Op::Sub { x: below, y: log }), &[rows, n], 2.0 * range + top);
        return Ok(back(b, y));
    }
    // In training all gradients follow from it, and keep its ratio: their means over the rows keep the learning rate's pace.
    let ratio = b.pace().map_or(1.0, |pace| mantissa(pace / rows as f64));
    let inverse = spline::apply(b, sum, &Function::reciprocal(0.99, n as f64 * 1.01).at(ratio), 1.02)?;
    let inverse = gather(b, inverse, spread);
    let y = b.mul(exp, inverse, None, &[rows, n], 1.02, b.cap());
    Ok(back(b, y))
}

/// Rows `x - max`, their exponentials, and the sums of those.
fn exponentials(b: &mut Builder, x: Slot, dims: &[usize], [outer, n, inner]: [usize; 3]) -> Result<[Slot; 3]> {
    let rows = outer * inner;
    let flat = row_major(b, x, dims);
    let flat = reshape(b, flat, &[outer, n, inner]);
    let flat = permute(b, flat, &[0, 2, 1]);
    let flat = reshape(b, flat, &[rows, n]);
    let range = b.range(flat);
    let mut max = flat;
    while b.dims(max)[1] > 1 {
        let len = b.dims(max)[1];
        let half = len.div_ceil(2);
        let part = |start: usize| View::Clamped {
            dims: vec![rows, len],
            start: vec![0, start as isize],
            step: vec![1, 1],
            out: vec![rows, half],
        };
        let (low, high) = (gather(b, max, part(0)), gather(b, max, part(len - half)));
        max = b.like(low, 1.0, Pending::Done(Op::Max { x: low, y: high, keep: None }), &[rows, half], range);
    }
    let spread = View::Broadcast { dims: vec![rows, 1], out: vec![rows, n] };
    let max = gather(b, max, spread);
    let below = b.like(flat, 1.0, Pending::Done(Op::Sub { x: flat, y: max }), &[rows, n], 2.0 * range);
    let exp = spline::apply(b, below, &Function::exp_of_negative(), 1.0)?;
    let shaped = reshape(b, exp, &[rows, n, 1, 1]);
    let sum = line_sums(b, shaped, n, [0, 0], n as f64 * 1.01);
    b.values[sum].exact = true;
    let sum = reshape(b, sum, &[rows, 1]);
    b.values[sum].exact = true;
    Ok([below, exp, sum])
}
