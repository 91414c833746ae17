//! Training's layers in protocol steps.

use super::builder::{Builder, Pending};
use super::pool;
use super::shaping::{FEW, border_factors, conv2d, four, gather, permute, reorder, reshape};
use super::spline::{self, Function};
use crate::network::{Blend, Layer, LayerNode, Network, Training, Window};
use crate::program::{Op, Slot, View};
use crate::training::Kind;
use crate::{Error, Result};
use sordino_ring::{Conv2d, WindowSum};
use std::sync::Arc;

/// Most fractional bits of weights: a step of the optimiser is a multiple of the last.
const WEIGHT_BITS: u32 = 30;
/// Most fractional bits of gradients, which are small, and of what is made of them.
const GRADIENT_BITS: u32 = 28;
/// Most fractional bits of values that may be very small: squares of gradients, means of them.
const SMALL_BITS: u32 = 44;
/// Most fractional bits of running statistics.
const STATISTIC_BITS: u32 = 24;

/// Most fractional bits of a state.
pub(super) fn state_cap(kind: Kind) -> u32 {
    match kind {
        Kind::Value => WEIGHT_BITS,
        Kind::Velocity => GRADIENT_BITS,
        Kind::Moment => SMALL_BITS,
        Kind::Statistic => STATISTIC_BITS,
    }
}

/// Finds the comparisons that gradients need.
pub(super) fn keep(net: &Network, b: &mut Builder) {
    for node in &net.nodes {
        match node.layer {
            Layer::Training(Training::Relu) => {
                let bits = b.signs.len();
                b.signs.entry(node.inputs[0]).or_insert(bits);
            }
            Layer::Training(Training::MaxPool(_)) => {
                b.pools.insert(node.inputs[1], None);
            }
            _ => {}
        }
    }
    b.bits = b.signs.len();
}

/// The convolution that carries a gradient back: over pixels moved apart, with stride one, to the input's size.
fn backwards(window: &Window, dy: &[usize], out: &[usize], cout: usize, groups: usize, name: &str) -> Result<Conv2d> {
    let spread = |a: usize| (dy[1 + a] - 1) * window.stride[a] + 1;
    let span = |a: usize| window.dilation[a] * (window.kernel[a] - 1);
    let after = |a: usize, before: usize| (out[1 + a] + span(a)).checked_sub(spread(a) + before);
    let fit = || {
        let before = |a: usize| span(a).checked_sub(window.pad[a]);
        let (top, left) = (before(0)?, before(1)?);
        Some([top, left, after(0, top)?, after(1, left)?])
    };
    let Some(pad) = fit() else {
        let why = "its padding is as wide as its window, and that has no gradient here";
        return Err(Error::Training(format!("{name}: {why}")));
    };
    let (kernel, stride, dilation) = (window.kernel, [1, 1], window.dilation);
    Ok(Conv2d { n: dy[0], h: spread(0), w: spread(1), cin: dy[3], cout, kernel, stride, dilation, pad, groups })
}

/// Pixels moved apart by a stride.
fn spread(b: &mut Builder, dy: Slot, stride: [usize; 2]) -> Slot {
    if stride == [1, 1] {
        return dy;
    }
    let dims = b.dims(dy);
    let far = |a: usize| (dims[1 + a] - 1) * stride[a] + 1;
    let out = vec![dims[0], far(0), far(1), dims[3]];
    let step = vec![1, stride[0] as isize, stride[1] as isize, 1];
    gather(b, dy, View::Scatter { dims, start: vec![0; 4], step, out })
}

/// Times a number, exactly, if it is one or minus one.
fn negated(b: &mut Builder, x: Slot, minus: bool) -> Slot {
    if !minus {
        return x;
    }
    let (dims, range) = (b.dims(x), b.range(x));
    b.like(x, 1.0, Pending::Done(Op::Scale { x, factor: -1 }), &dims, range)
}

/// A tensor with its channels last as `[rows, channels]`, and the pointwise convolution of one channel each.
fn by_channel(b: &mut Builder, x: Slot) -> (Slot, Conv2d) {
    let dims = b.dims(x);
    let channels = dims[dims.len() - 1];
    let rows = dims.iter().product::<usize>() / channels;
    let conv = Conv2d { groups: channels, ..Conv2d::matmul(rows, channels, channels) };
    (reshape(b, x, &[rows, channels]), conv)
}

/// What the factors of a blend multiply.
fn addends(rule: &Blend, others: &[Slot]) -> Vec<(Slot, f64)> {
    others.iter().zip(&rule.others).map(|(&x, &f)| (x, f64::from(f))).collect()
}

#[expect(clippy::too_many_lines, reason = "one arm for each layer")]
pub(super) fn layer(
    b: &mut Builder,
    layer: &Training,
    xs: &[Slot],
    node: &LayerNode,
    dims: &[usize],
    range: f64,
) -> Result<Slot> {
    let cap = b.cap();
    let linear =
        |terms: Vec<(Slot, Slot, Conv2d)>, addends: Vec<(Slot, f64)>| Pending::Product { terms, by: 1.0, addends };
    let bias: Vec<(Slot, f64)> = xs.get(2).map(|&b| (b, 1.0)).into_iter().collect();
    let times = |x: Slot, y: Slot| Pending::Times { x, y, by: 1.0, addends: vec![] };
    Ok(match layer {
        Training::Conv(window, groups) => {
            let op = conv2d(window, *groups, &b.dims(xs[0]), dims[3]);
            b.product(linear(vec![(xs[0], xs[1], op)], bias), dims, range, cap)
        }
        Training::Full => {
            let x = b.dims(xs[0]);
            let op = Conv2d::matmul(x[0], x[1], dims[1]);
            b.product(linear(vec![(xs[0], xs[1], op)], bias), dims, range, cap)
        }
        Training::ConvInput(window, groups) => {
            let op = backwards(window, &b.dims(xs[0]), dims, dims[3], *groups, &node.name)?;
            let moved = spread(b, xs[0], window.stride);
            let weights = four(&b.dims(xs[1]));
            let turned = gather(b, xs[1], View::Rotate { dims: weights, groups: *groups });
            b.product(linear(vec![(moved, turned, op)], vec![]), dims, range, GRADIENT_BITS)
        }
        Training::FullInput => {
            let (dy, w) = (b.dims(xs[0]), permute(b, xs[1], &[1, 0]));
            let op = Conv2d::matmul(dy[0], dy[1], dims[1]);
            b.product(linear(vec![(xs[0], w, op)], vec![]), dims, range, GRADIENT_BITS)
        }
        Training::ConvWeight(window, groups, rule) => {
            let conv = conv2d(window, *groups, &b.dims(xs[0]), dims[0]);
            let (by, addends) = (f64::from(rule.gradient), addends(rule, &xs[2..]));
            let step = Pending::WeightGradient { x: xs[0], dy: xs[1], conv, by, addends };
            b.product(step, dims, range, GRADIENT_BITS)
        }
        Training::FullWeight(rule) => {
            let conv = Conv2d::matmul(b.dims(xs[0])[0], dims[1], dims[0]);
            let (by, addends) = (f64::from(rule.gradient), addends(rule, &xs[2..]));
            let step = Pending::WeightGradient { x: xs[0], dy: xs[1], conv, by, addends };
            b.product(step, dims, range, GRADIENT_BITS)
        }
        Training::Sum(factors) => match factors[..] {
            [one] if one.abs() == 1.0 => negated(b, xs[0], one < 0.0),
            _ => {
                let terms = xs.iter().zip(factors).map(|(&x, &f)| (x, f64::from(f))).collect();
                b.source(Pending::Blend(terms), dims, range, GRADIENT_BITS)
            }
        },
        Training::Relu => {
            let bit = b.signs.get(&node.inputs[0]).copied();
            let bit = bit.ok_or_else(|| Error::Training("a gradient of a ReLU whose bit is not kept".into()))?;
            b.like(xs[1], 1.0, Pending::Done(Op::Select { x: xs[1], bit, wide: false }), dims, range)
        }
        Training::AveragePool(window, include_pad) => {
            let mut dy = xs[0];
            let op = backwards(window, &b.dims(dy), dims, dims[3], 1, &node.name)?;
            let mut count = (window.kernel[0] * window.kernel[1]) as f64;
            if !include_pad && window.pad != [0; 4] {
                // Windows at the border had fewer members: their shares are larger.
                let forward = conv2d(window, 1, dims, dims[3]);
                let factors = Arc::new(border_factors(&forward, dims[3]));
                let (shape, range) = (b.dims(dy), b.range(dy));
                dy = b.source_like(dy, Pending::MulPublic { x: dy, factors }, &shape, range, GRADIENT_BITS);
                count = 1.0;
            } else if count > FEW {
                dy = b.mean(dy, 1.0 / count, range, GRADIENT_BITS);
                count = 1.0;
            }
            let moved = spread(b, dy, window.stride);
            let windows = WindowSum(Conv2d { groups: op.cin, ..op });
            b.like(moved, count, Pending::Done(Op::WindowSum { x: moved, windows }), dims, range)
        }
        Training::MaxPool(_) => {
            let axes = b.pools.get(&node.inputs[1]).cloned().flatten();
            let axes = axes.ok_or_else(|| Error::Training("a gradient of a pooling that is not kept".into()))?;
            let dx = pool::gradient(b, xs[2], &axes);
            b.values[dx].range = range;
            dx
        }
        Training::Dropout(mask, _) => {
            let own = if dims.len() == 4 { vec![dims[0], dims[3], dims[1], dims[2]] } else { dims.to_vec() };
            let step = Pending::Done(Op::Dropout { x: xs[0], mask: *mask, dims: own });
            b.like(xs[0], mask.share(), step, dims, range)
        }
        Training::ChannelSum(by) => {
            let (flat, Conv2d { w: rows, cin, .. }) = by_channel(b, xs[0]);
            let lines = reshape(b, flat, &[1, rows, 1, cin]);
            let op =
                Conv2d { h: rows, w: 1, kernel: [rows, 1], cin, cout: cin, groups: cin, ..Conv2d::matmul(1, 1, 1) };
            let step = Pending::Done(Op::WindowSum { x: lines, windows: WindowSum(op) });
            let by = f64::from(*by);
            let sum = b.like(lines, 1.0, step, &[1, 1, 1, cin], range / by.abs());
            let sum = reshape(b, sum, dims);
            if by == 1.0 { sum } else { b.mean(sum, by, range, SMALL_BITS) }
        }
        Training::ChannelDot(by) => {
            let ((x, conv), (dy, _)) = (by_channel(b, xs[0]), by_channel(b, xs[1]));
            let step = Pending::WeightGradient { x, dy, conv, by: f64::from(by.abs()), addends: vec![] };
            let dot = b.product(step, dims, range, SMALL_BITS);
            negated(b, dot, *by < 0.0)
        }
        Training::Centre => {
            let mean = b.agree(xs[0], xs[1]);
            b.like(xs[0], 1.0, Pending::Done(Op::Sub { x: xs[0], y: mean }), dims, range)
        }
        Training::ChannelScale => {
            let mut terms = vec![];
            for pair in xs[..xs.len() - 1].chunks_exact(2) {
                let (x, conv) = by_channel(b, pair[0]);
                terms.push((x, pair[1], conv));
            }
            let cap = if terms.len() > 1 { GRADIENT_BITS } else { cap };
            b.product(linear(terms, vec![(xs[xs.len() - 1], 1.0)]), dims, range, cap)
        }
        Training::Mul => b.product(times(xs[0], xs[1]), dims, range, SMALL_BITS),
        Training::InverseRoot { epsilon, error } => {
            // What one unit of the argument is cannot be told from zero, where the root must not be larger than that.
            let unit = b.unit(xs[0]);
            let epsilon = f64::from(*epsilon).max(unit);
            let function = Function::inverse_root(epsilon, b.reach(xs[0]), f64::from(*error));
            spline::apply(b, xs[0], &function, 1.01 / epsilon.sqrt())?
        }
        Training::Square(of, rest) => {
            let addends = vec![(xs[1], f64::from(*rest))];
            let step = Pending::Times { x: xs[0], y: xs[0], by: f64::from(*of), addends };
            b.product(step, dims, range, SMALL_BITS)
        }
        Training::Slope(f) => {
            let function = Function::slope(*f, b.reach(xs[0]));
            let largest = function.largest();
            spline::apply(b, xs[0], &function, largest)?
        }
        Training::Unslice { start, step } => {
            let view =
                View::Scatter { dims: b.dims(xs[0]), start: reorder(start), step: reorder(step), out: dims.to_vec() };
            gather(b, xs[0], view)
        }
        Training::Descend(_) => {
            b.keep_pace(xs[1]);
            let step = Pending::Descend { w: xs[0], v: xs[1] };
            b.like(xs[0], 1.0, step, dims, range)
        }
        Training::CrossEntropy => {
            let [rows, n] = [b.dims(xs[0])[0], b.dims(xs[0])[1]];
            let [minus, labels] = [reshape(b, xs[0], &[1, rows * n]), reshape(b, xs[1], &[1, rows * n])];
            let terms = vec![(minus, labels, Conv2d::matmul(1, rows * n, 1))];
            let step = Pending::Product { terms, by: 1.0 / rows as f64, addends: vec![] };
            b.product(step, dims, range, cap)
        }
        Training::SquaredError => {
            let [rows, n] = [b.dims(xs[0])[0], b.dims(xs[0])[1]];
            let flat = reshape(b, xs[0], &[1, rows * n]);
            let terms = vec![(flat, flat, Conv2d::matmul(1, rows * n, 1))];
            let step = Pending::Product { terms, by: 0.5 / rows as f64, addends: vec![] };
            b.product(step, dims, range, cap)
        }
    })
}
