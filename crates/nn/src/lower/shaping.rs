//! Steps that move elements, and geometries: what layers and their gradients share. Rank-4 values are laid out NHWC.

use super::builder::{Builder, Pending};
use crate::network::Window;
use crate::program::{Op, Slot, View};
use sordino_ring::{Conv2d, WindowSum};

/// Elements of a mean whose divisor a product of two values can bear.
pub(super) const FEW: f64 = 9.0;

/// Fractional bits of a factor, or of a coefficient: as many more as it is smaller than one.
pub(super) fn factor_bits(largest: f64) -> u32 {
    26 + (-largest.max(1e-12).log2()).ceil().clamp(0.0, 40.0) as u32
}

/// Dimensions of a value as it is laid out.
pub(super) fn physical(dims: &[usize]) -> Vec<usize> {
    if dims.len() == 4 { vec![dims[0], dims[2], dims[3], dims[1]] } else { dims.to_vec() }
}

/// Where a model's axis is in the layout.
pub(super) fn axis(rank: usize, axis: usize) -> usize {
    if rank == 4 { [0, 3, 1, 2][axis] } else { axis }
}

/// A per-axis list in the order of the layout.
pub(super) fn reorder<T: Copy>(list: &[T]) -> Vec<T> {
    if list.len() == 4 { vec![list[0], list[2], list[3], list[1]] } else { list.to_vec() }
}

pub(super) fn conv2d(window: &Window, groups: usize, input: &[usize], cout: usize) -> Conv2d {
    let Window { kernel, stride, dilation, pad } = *window;
    Conv2d { n: input[0], h: input[1], w: input[2], cin: input[3], cout, kernel, stride, dilation, pad, groups }
}

pub(super) fn reshape(b: &mut Builder, x: Slot, dims: &[usize]) -> Slot {
    let range = b.range(x);
    b.like(x, 1.0, Pending::Done(Op::Reshape { x, dims: dims.to_vec() }), dims, range)
}

pub(super) fn gather(b: &mut Builder, x: Slot, view: View) -> Slot {
    let (out, range) = (view.out(), b.range(x));
    b.like(x, 1.0, Pending::Done(Op::Gather { x, view, fill: 0 }), &out, range)
}

pub(super) fn four(dims: &[usize]) -> [usize; 4] {
    [dims[0], dims[1], dims[2], dims[3]]
}

pub(super) fn permute(b: &mut Builder, x: Slot, perm: &[usize]) -> Slot {
    let view = View::Permute { dims: b.dims(x), perm: perm.to_vec() };
    gather(b, x, view)
}

/// From the layout to the model's row-major order; free when the spatial axes or the channels are single.
pub(super) fn row_major(b: &mut Builder, x: Slot, dims: &[usize]) -> Slot {
    if dims.len() != 4 {
        return x;
    }
    if dims[1] == 1 || dims[2] * dims[3] == 1 { reshape(b, x, dims) } else { permute(b, x, &[0, 3, 1, 2]) }
}

pub(super) fn from_row_major(b: &mut Builder, x: Slot, dims: &[usize]) -> Slot {
    if dims.len() != 4 {
        return x;
    }
    if dims[1] == 1 || dims[2] * dims[3] == 1 {
        return reshape(b, x, &physical(dims));
    }
    permute(b, x, &[0, 2, 3, 1])
}

/// Public divisors of average pooling that does not count padding: one per output position and channel.
pub(super) fn border_factors(op: &Conv2d, channels: usize) -> Vec<f64> {
    let inside = |axis: usize, at: usize, len: usize| {
        (0..op.kernel[axis]).filter(|k| (at * op.stride[axis] + k).wrapping_sub(op.pad[axis]) < len).count()
    };
    let mut factors = vec![];
    for _ in 0..op.n {
        for y in 0..op.out_h() {
            for x in 0..op.out_w() {
                let n = inside(0, y, op.h) * inside(1, x, op.w);
                factors.extend(std::iter::repeat_n(1.0 / n as f64, channels));
            }
        }
    }
    factors
}

/// Sums over `size` neighbours in each line of `[lines, length, 1, 1]`, with zeros before and after it.
pub(super) fn line_sums(b: &mut Builder, x: Slot, size: usize, pad: [usize; 2], range: f64) -> Slot {
    let window = Window { kernel: [size, 1], stride: [1, 1], dilation: [1, 1], pad: [pad[0], 0, pad[1], 0] };
    let op = conv2d(&window, 1, &b.dims(x), 1);
    b.like(x, 1.0, Pending::Done(Op::WindowSum { x, windows: WindowSum(op) }), op.output().dims(), range)
}
