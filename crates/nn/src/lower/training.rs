//! Training's layers in protocol steps.

use super::builder::{Builder, Pending};
use super::layers::{conv2d, line_sums, permute, reshape};
use super::spline::{self, Function};
use crate::network::{Layer, LayerNode, Network, Training, ValueId, Velocity, Window};
use crate::program::{Op, Slot, View};
use crate::{Error, Result};
use sordino_ring::{Conv2d, WindowSum};

/// Most fractional bits of weights: a step of the optimiser is a multiple of the last.
const WEIGHT_BITS: u32 = 30;
/// Most fractional bits of velocities.
const VELOCITY_BITS: u32 = 16;
/// Units of weights that a learning rate is for one unit of velocity, at least: the rate is exact to one in twice as many.
const RATE_UNITS: f64 = 48.0;
/// Most fractional bits of gradients, which are small.
const GRADIENT_BITS: u32 = 28;

/// Most fractional bits of a state. States alternate: a weight, its velocity, which has few enough bits that a learning
/// rate is many units of weights for one of its own.
pub(super) fn state_cap(net: &Network, state: usize) -> u32 {
    if state.is_multiple_of(2) {
        return WEIGHT_BITS;
    }
    let rates = net.nodes.iter().filter_map(|n| match n.layer {
        Layer::Training(Training::Descend(rate)) => Some(f64::from(rate)),
        _ => None,
    });
    let finest = rates.fold(1.0, f64::min);
    VELOCITY_BITS.min(WEIGHT_BITS.saturating_sub((RATE_UNITS / finest).log2().ceil() as u32).max(4))
}

/// Values whose sign a ReLU's gradient needs.
pub(super) fn kept(net: &Network) -> Vec<ValueId> {
    let gradients = net.nodes.iter().filter(|n| matches!(n.layer, Layer::Training(Training::Relu)));
    gradients.map(|n| n.inputs[0]).collect()
}

fn gather(b: &mut Builder, x: Slot, view: View) -> Slot {
    let (out, range) = (view.out(), b.range(x));
    b.like(x, 1.0, Pending::Done(Op::Gather { x, view, fill: 0 }), &out, range)
}

fn four(dims: &[usize]) -> [usize; 4] {
    [dims[0], dims[1], dims[2], dims[3]]
}

/// The convolution that carries a gradient back: over pixels moved apart, with stride one, to the input's size.
fn backwards(window: &Window, dy: &[usize], out: &[usize], cout: usize, name: &str) -> Result<Conv2d> {
    let spread = |a: usize| (dy[1 + a] - 1) * window.stride[a] + 1;
    let reach = |a: usize| window.kernel[a].checked_sub(1 + window.pad[a]);
    let after = |a: usize, before: usize| (out[1 + a] + window.kernel[a] - 1).checked_sub(spread(a) + before);
    let fit = || {
        let (top, left) = (reach(0)?, reach(1)?);
        Some([top, left, after(0, top)?, after(1, left)?])
    };
    let (true, Some(pad)) = (window.dilation == [1, 1], fit()) else {
        let why = "its gradient needs dilation, or padding as wide as the window, which training does not have";
        return Err(Error::Training(format!("{name}: {why}")));
    };
    let (kernel, stride, dilation) = (window.kernel, [1, 1], [1, 1]);
    Ok(Conv2d { n: dy[0], h: spread(0), w: spread(1), cin: dy[3], cout, kernel, stride, dilation, pad, groups: 1 })
}

fn dilated(b: &mut Builder, dy: Slot, stride: [usize; 2]) -> Slot {
    if stride == [1, 1] {
        return dy;
    }
    let dims = four(&b.dims(dy));
    gather(b, dy, View::Dilate { dims, stride })
}

/// `mean * a w + momentum * velocity + decay * weight`, in one truncation, at the velocity's scale.
fn velocity(
    b: &mut Builder,
    product: (Slot, Slot, Conv2d),
    [v, w]: [Slot; 2],
    rule: &Velocity,
    dims: &[usize],
    range: f64,
) -> Slot {
    let mean = f64::from(rule.mean);
    let addends = vec![(v, f64::from(rule.momentum)), (w, f64::from(rule.decay))];
    let next = b.product(product, mean, addends, dims, range, VELOCITY_BITS);
    b.agree(next, v);
    next
}

pub(super) fn layer(
    b: &mut Builder,
    layer: &Training,
    xs: &[Slot],
    node: &LayerNode,
    dims: &[usize],
    range: f64,
) -> Result<Slot> {
    let cap = b.cap();
    Ok(match layer {
        Training::Conv(window) => {
            let op = conv2d(window, 1, &b.dims(xs[0]), dims[3]);
            b.product((xs[0], xs[1], op), 1.0, vec![(xs[2], 1.0)], dims, range, cap)
        }
        Training::Full => {
            let x = b.dims(xs[0]);
            b.product((xs[0], xs[1], Conv2d::matmul(x[0], x[1], dims[1])), 1.0, vec![(xs[2], 1.0)], dims, range, cap)
        }
        Training::ConvInput(window) => {
            let dy = b.dims(xs[0]);
            let op = backwards(window, &dy, dims, dims[3], &node.name)?;
            let spread = dilated(b, xs[0], window.stride);
            let weights = four(&b.dims(xs[1]));
            let turned = gather(b, xs[1], View::Rotate { dims: weights });
            b.product((spread, turned, op), 1.0, vec![], dims, range, GRADIENT_BITS)
        }
        Training::FullInput => {
            let (dy, w) = (b.dims(xs[0]), permute(b, xs[1], &[1, 0]));
            b.product((xs[0], w, Conv2d::matmul(dy[0], dy[1], dims[1])), 1.0, vec![], dims, range, GRADIENT_BITS)
        }
        Training::ConvWeight(window, rule) => {
            let co = dims[0];
            let op = conv2d(window, 1, &b.dims(xs[0]), co);
            let columns = gather(b, xs[0], View::Columns(op));
            let pixels = op.n * op.out_h() * op.out_w();
            let dy = reshape(b, xs[1], &[pixels, co]);
            let dy = permute(b, dy, &[1, 0]);
            let product = (dy, columns, Conv2d::matmul(co, pixels, op.kernel[0] * op.kernel[1] * op.cin));
            velocity(b, product, [xs[2], xs[3]], rule, dims, range)
        }
        Training::FullWeight(rule) => {
            let rows = b.dims(xs[0])[0];
            let (x, dy) = (permute(b, xs[0], &[1, 0]), permute(b, xs[1], &[1, 0]));
            velocity(b, (dy, x, Conv2d::matmul(dims[0], rows, dims[1])), [xs[2], xs[3]], rule, dims, range)
        }
        Training::Bias(rule) => {
            let dy = b.dims(xs[0]);
            let (channels, mean) = (dy[dy.len() - 1], f64::from(rule.mean));
            let rows = dy.iter().product::<usize>() / channels;
            let lines = reshape(b, xs[0], &[1, rows, 1, channels]);
            let op = Conv2d {
                kernel: [rows, 1],
                cin: channels,
                cout: channels,
                groups: channels,
                h: rows,
                w: 1,
                ..Conv2d::matmul(1, 1, 1)
            };
            let windows = WindowSum(op);
            let sum = b.like(
                lines,
                1.0,
                Pending::Done(Op::WindowSum { x: lines, windows }),
                &[1, 1, 1, channels],
                range / mean,
            );
            let sum = reshape(b, sum, dims);
            let terms = vec![(sum, mean), (xs[1], f64::from(rule.momentum))];
            let next = b.source(Pending::Blend(terms), dims, range, VELOCITY_BITS);
            b.agree(next, xs[1]);
            next
        }
        Training::Relu => {
            let bit = b.kept.iter().position(|&v| v == node.inputs[0]);
            let bit = bit.ok_or_else(|| Error::Training("a gradient of a ReLU whose bit is not kept".into()))?;
            b.like(xs[1], 1.0, Pending::Done(Op::Select { x: xs[1], bit, wide: false }), dims, range)
        }
        Training::AveragePool(window) => {
            let dy = b.dims(xs[0]);
            let op = backwards(window, &dy, dims, dims[3], &node.name)?;
            let spread = dilated(b, xs[0], window.stride);
            let windows = WindowSum(Conv2d { groups: op.cin, ..op });
            let count = (window.kernel[0] * window.kernel[1]) as f64;
            b.like(spread, count, Pending::Done(Op::WindowSum { x: spread, windows }), dims, range)
        }
        Training::Descend(rate) => {
            let step = Pending::Descend { w: xs[0], v: xs[1], rate: f64::from(*rate) };
            b.like(xs[0], 1.0, step, dims, range)
        }
        Training::CrossEntropy => {
            let (p, y) = (xs[0], xs[1]);
            let [rows, n] = [b.dims(p)[0], b.dims(p)[1]];
            let chosen = b.mul(p, y, None, &[rows, n], 1.02, cap);
            let line = reshape(b, chosen, &[rows, n, 1, 1]);
            let sum = line_sums(b, line, n, [0, 0], 1.02);
            b.values[sum].exact = true;
            let flat = reshape(b, sum, &[rows]);
            b.values[flat].exact = true;
            let losses = spline::apply(b, flat, &Function::negative_log(), 8.4)?;
            let line = reshape(b, losses, &[1, rows, 1, 1]);
            let sum = line_sums(b, line, rows, [0, 0], 8.4 * rows as f64);
            let total = reshape(b, sum, &[1]);
            b.values[total].ratio *= rows as f64;
            b.values[total].range = 8.4;
            total
        }
    })
}
