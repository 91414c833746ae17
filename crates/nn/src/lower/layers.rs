//! Each layer in protocol steps. Rank-4 values are laid out NHWC; everything else is row-major as in ONNX.

use super::Ranges;
use super::builder::{Builder, Pending};
use super::moved::{movable, move_norm};
use super::pool;
use super::shaping::{
    FEW, axis, border_factors, conv2d, factor_bits, from_row_major, gather, line_sums, permute, physical, reorder,
    reshape, row_major,
};
use super::softmax::{arg_max, softmax};
use super::spline::{self, Function};
use crate::network::{Layer, LayerNode, Network, Smooth};
use crate::program::{LayerInfo, Op, Slot, View};
use crate::tensor::Tensor;
use crate::training::State;
use crate::{Error, Result};
use sordino_mpc::Kind;
use sordino_ring::{Conv2d, WindowSum};
use std::sync::Arc;

/// Where a program's states come from.
pub(super) enum States<'a> {
    /// The model owner's first values; their next values are the last outputs of the network.
    Own(&'a [State]),
    /// Another program has left them at these scales; they stay as they are.
    Left(&'a [f64]),
}

/// The states are the last inputs of the network.
pub(super) fn lower(net: &Network, ranges: &Ranges, states: &States<'_>, b: &mut Builder) -> Result<()> {
    let (count, moved) = match states {
        States::Own(own) => (own.len(), own.len()),
        States::Left(scales) => (scales.len(), 0),
    };
    let data = net.inputs.len() - count;
    let mut slots: Vec<Option<Slot>> = vec![None; net.shapes.len()];
    b.layers.push(LayerInfo { name: "input".into(), op: "Input".into(), result: None });
    for (i, &id) in net.inputs.iter().enumerate() {
        let range = b.rounded(ranges.largest(&net.names[id]).unwrap_or(1.0));
        let dims = physical(&net.shapes[id]);
        slots[id] = Some(match (i.checked_sub(data), states) {
            (None, _) => {
                let slot = b.source(Pending::Done(Op::Input(i)), &dims, range, b.cap());
                b.inputs.push((net.names[id].clone(), slot, net.shapes[id].clone()));
                slot
            }
            (Some(state), States::Own(own)) => {
                let cap = super::training::state_cap(own[state].kind);
                b.source(Pending::Done(Op::State(state)), &dims, range, cap)
            }
            (Some(state), States::Left(scales)) => {
                b.fixed(Pending::Done(Op::State(state)), &dims, range, scales[state])
            }
        });
    }
    super::training::keep(net, b);
    let fused = sums_of_linears(net);
    let movable = movable(net, b.options.settings.kind);
    for (index, node) in net.nodes.iter().enumerate() {
        if fused.iter().any(|f| f.parts.contains(&index)) {
            continue;
        }
        b.layers.push(LayerInfo { name: node.name.clone(), op: node.op.clone(), result: None });
        if let (Layer::Affine { scale, shift }, Some(relu)) = (&node.layer, movable.get(&node.output)) {
            // Its result is another than the model's, and so is the ReLU's: neither is looked at by itself.
            let (z, behind) = move_norm(b, operand(&slots, node.inputs[0])?, scale, shift);
            b.behind.insert(*relu, behind);
            slots[node.output] = Some(z);
            continue;
        }
        let slot = match fused.iter().find(|f| f.sum == index) {
            Some(f) => {
                let parts: Vec<&LayerNode> = f.parts.iter().map(|&p| &net.nodes[p]).collect();
                let range = range_of(net, node, ranges, b)?;
                linear(net, &parts, &slots, range, b)?
            }
            None => layer(net, node, &slots, ranges, b)?,
        };
        slots[node.output] = Some(slot);
        // A mean of what has lost its factors has lost them as well.
        if let (Layer::AveragePool { .. }, Some(behind)) = (&node.layer, b.behind.get(&node.inputs[0]).cloned()) {
            b.behind.insert(node.output, behind);
        }
        if let Some(info) = b.layers.last_mut().filter(|_| !b.behind.contains_key(&node.output)) {
            info.result = Some((net.names[node.output].clone(), slot));
        }
    }
    b.layers.push(LayerInfo { name: "output".into(), op: "Output".into(), result: None });
    let answers = net.outputs.len() - moved;
    for (i, &id) in net.inputs[data..].iter().enumerate() {
        let read = operand(&slots, id)?;
        let States::Own(own) = states else {
            b.states.push((read, read, None));
            continue;
        };
        let start = &own[i].start;
        let start = if start.dims.len() == 4 { start.permute(&[0, 2, 3, 1]) } else { start.clone() };
        let left = operand(&slots, net.outputs[answers + i].1)?;
        let left = b.agree(read, left);
        b.states.push((read, left, Some(start)));
    }
    for (name, id) in &net.outputs[..answers] {
        let slot = row_major(b, operand(&slots, *id)?, &net.shapes[*id]);
        b.outputs.push((name.clone(), slot, net.shapes[*id].clone()));
    }
    Ok(())
}

/// A smooth function on the calibrated range of a layer's operand.
fn function_of(net: &Network, node: &LayerNode, f: Smooth, ranges: &Ranges, b: &Builder) -> Result<Function> {
    let argument = ranges.values.get(&net.names[node.inputs[0]]).copied().unwrap_or_default();
    let fault = |why: String| Error::Range { layer: node.name.clone(), why };
    Function::smooth(f, argument, b.options.margin).map_err(fault)
}

/// Magnitude from which on a number stands for infinity.
const INFINITE: f64 = 1e30;

/// A layer's calibrated range, rounded up.
fn range_of(net: &Network, node: &LayerNode, ranges: &Ranges, b: &Builder) -> Result<f64> {
    let fault = |why: String| Error::Range { layer: node.name.clone(), why };
    let name = &net.names[node.output];
    let range = ranges.largest(name).ok_or_else(|| fault(format!("the calibration has no range for {name}")))?;
    if !range.is_finite() || range > INFINITE {
        let why = "in floats its values reach {range:.1e}, or are no numbers: nothing beside them can be told apart";
        return Err(fault(why.replace("{range:.1e}", &format!("{range:.1e}"))));
    }
    Ok(b.rounded(range))
}

fn operand(slots: &[Option<Slot>], id: usize) -> Result<Slot> {
    slots[id].ok_or_else(|| Error::Model("a layer reads a value that is made later".into()))
}

/// A sum of two linear layers that nobody else reads: one truncation serves both.
struct Fused {
    sum: usize,
    parts: Vec<usize>,
}

fn sums_of_linears(net: &Network) -> Vec<Fused> {
    let uses = net.uses();
    let maker = |id: usize| {
        let at = net.nodes.iter().position(|n| n.output == id)?;
        (uses[id] == 1 && matches!(net.nodes[at].layer, Layer::Conv { .. })).then_some(at)
    };
    let adds = net.nodes.iter().enumerate().filter(|(_, n)| n.layer == Layer::Add && n.inputs[0] != n.inputs[1]);
    adds.filter_map(|(sum, n)| Some(Fused { sum, parts: vec![maker(n.inputs[0])?, maker(n.inputs[1])?] })).collect()
}

/// One or more linear layers, summed before one truncation.
fn linear(net: &Network, nodes: &[&LayerNode], slots: &[Option<Slot>], range: f64, b: &mut Builder) -> Result<Slot> {
    let mut terms = vec![];
    let mut bias: Option<Vec<f32>> = None;
    let mut channels = 0;
    for node in nodes {
        let x = operand(slots, node.inputs[0])?;
        let (weight, own, op) = match &node.layer {
            Layer::Conv { window, groups, weight, bias } => {
                let op = conv2d(window, *groups, &b.dims(x), weight.dims[0]);
                (Arc::new(weight.permute(&[0, 2, 3, 1])), bias, op)
            }
            Layer::MatMul { weight, bias } => {
                let rows = b.dims(x)[0];
                (Arc::new(weight.permute(&[1, 0])), bias, Conv2d::matmul(rows, weight.dims[0], weight.dims[1]))
            }
            _ => return Err(Error::Model("a sum of layers that are not linear".into())),
        };
        op.check().map_err(|e| Error::Range { layer: node.name.clone(), why: e.to_string() })?;
        channels = op.cout;
        let weight = match b.behind.get(&node.inputs[0]) {
            Some(behind) => {
                let (weight, added) = behind.absorb(&weight);
                let sum = bias.get_or_insert_with(|| vec![0.0; channels]);
                sum.iter_mut().zip(added).for_each(|(s, v)| *s += v);
                Arc::new(weight)
            }
            None => weight,
        };
        if let Some(own) = own {
            let sum = bias.get_or_insert_with(|| vec![0.0; channels]);
            sum.iter_mut().zip(&own.data).for_each(|(s, v)| *s += v);
        }
        terms.push((x, weight, op));
    }
    let dims = match nodes.first() {
        Some(node) => physical(&net.shapes[node.output]),
        None => vec![],
    };
    let bias = bias.map(|data| Arc::new(Tensor::new(&[channels], data)));
    Ok(b.source(Pending::Linear { terms, bias, channels }, &dims, range, b.cap()))
}

fn layer(net: &Network, node: &LayerNode, slots: &[Option<Slot>], ranges: &Ranges, b: &mut Builder) -> Result<Slot> {
    // Where a function is not defined, that is what is wrong, and not what floats make of it.
    if let Layer::Smooth(f) = &node.layer {
        function_of(net, node, *f, ranges, b)?;
    }
    let range = range_of(net, node, ranges, b)?;
    let x = operand(slots, node.inputs[0])?;
    let out = &net.shapes[node.output];
    let dims = physical(out);
    let input = &net.shapes[node.inputs[0]];
    let rank = out.len();
    let second = || operand(slots, node.inputs[1]);
    Ok(match &node.layer {
        Layer::Conv { .. } | Layer::MatMul { .. } => linear(net, &[node], slots, range, b)?,
        Layer::BatchNorm { .. } => return Err(Error::Model("batch norms must be folded before lowering".into())),
        Layer::Affine { scale, shift } => affine(b, x, scale, shift, range),
        Layer::Relu => {
            let keep = b.signs.get(&node.inputs[0]).copied();
            relu_with(b, x, keep)
        }
        Layer::Training(training) => {
            let operands = node.inputs.iter().map(|&id| operand(slots, id)).collect::<Result<Vec<_>>>()?;
            super::training::layer(b, training, &operands, node, &dims, range)?
        }
        Layer::Clip { lo, hi } => clip(b, x, *lo, *hi, range),
        Layer::LeakyRelu(alpha) => {
            // x + (alpha - 1) min(x, 0) = alpha x + (1 - alpha) max(x, 0)
            let positive = relu(b, x);
            let part = |b: &mut Builder, x: Slot, by: f64| {
                let range = b.range(x) * by.abs().max(1e-6);
                b.source(Pending::Rescale { x, by }, &dims, range, b.cap())
            };
            let alpha = f64::from(*alpha);
            let (low, high) = (part(b, x, alpha), part(b, positive, 1.0 - alpha));
            add(b, low, high, range)
        }
        Layer::PRelu(slope) => {
            let positive = relu(b, x);
            let high = slope.data.iter().map(|v| 1.0 - v).collect();
            let zero = Tensor::new(&slope.dims, vec![0.0; slope.data.len()]);
            let largest = f64::from(slope.max_abs()) + 1.0;
            let (rx, rp) = (b.range(x) * largest, b.range(positive) * largest);
            let low = affine(b, x, slope, &zero, rx);
            let high = affine(b, positive, &Tensor::new(&slope.dims, high), &zero, rp);
            add(b, low, high, range)
        }
        Layer::MaxPool(window) => {
            if window.pad != [0; 4] && window.dilation != [1, 1] {
                // What stands for padding would not lie within the window.
                return Err(Error::Model(format!(
                    "{}: maximum pooling with dilation and padding is not supported",
                    node.name
                )));
            }
            let keep = b.pools.contains_key(&node.output);
            let (y, axes) = pool::max_pool(b, x, window, &dims, keep);
            if keep {
                b.pools.insert(node.output, Some(axes));
            }
            y
        }
        Layer::AveragePool { window, include_pad } => {
            let op = conv2d(window, 1, &b.dims(x), dims[3]);
            let op = Conv2d { groups: op.cin, ..op };
            let count = (window.kernel[0] * window.kernel[1]) as f64;
            let step = Pending::Done(Op::WindowSum { x, windows: WindowSum(op) });
            if *include_pad || window.pad == [0; 4] {
                if b.training && count > FEW {
                    let sum = b.like(x, 1.0, step, &dims, range * count);
                    return Ok(b.mean(sum, 1.0 / count, range, b.cap()));
                }
                // Of a norm that was moved the calibrated range is another value's.
                let range = if b.behind.contains_key(&node.inputs[0]) { b.range(x) } else { range };
                return Ok(b.like(x, count, step, &dims, range));
            }
            // Windows at the border have fewer members: a public divisor per position.
            let sum = b.like(x, 1.0, step, &dims, b.range(x) * count);
            let factors = border_factors(&op, dims[3]);
            b.source(Pending::MulPublic { x: sum, factors: Arc::new(factors) }, &dims, range, b.cap())
        }
        Layer::Add => {
            let y = second()?;
            add(b, x, y, range)
        }
        Layer::Sub => {
            let y = b.agree(x, second()?);
            b.like(x, 1.0, Pending::Done(Op::Sub { x, y }), &dims, range)
        }
        Layer::Mul => {
            let y = second()?;
            b.mul(x, y, None, &dims, range, b.cap())
        }
        Layer::AddConst(c) => {
            let full = full_constant(c, input);
            let secret = b.like(x, 1.0, Pending::Secret(Arc::new(full)), &dims, f64::from(c.max_abs()));
            add(b, x, secret, range)
        }
        Layer::MulConst(c) => {
            let full = full_constant(c, input);
            let secret = b.source(
                Pending::Secret(Arc::new(full)),
                &dims,
                f64::from(c.max_abs()),
                factor_bits(f64::from(c.max_abs())),
            );
            b.mul(x, secret, None, &dims, range, b.cap())
        }
        Layer::Max => {
            let y = b.agree(x, second()?);
            b.like(x, 1.0, Pending::Done(Op::Max { x, y, keep: None }), &dims, range)
        }
        Layer::Scale { by, add } => scaled(b, x, f64::from(*by), f64::from(*add)),
        Layer::Step => spline::step(b, x),
        Layer::Gather { source, fill } => {
            let source = laid_out(source, input, out);
            let view = View::List { source, out: dims.clone() };
            filled(b, x, view, *fill)
        }
        Layer::Broadcast => {
            // Leading axes of one may be added on the way, so go through the row-major form.
            let flat = row_major(b, x, input);
            let view = View::Broadcast { dims: input.clone(), out: out.clone() };
            let wide = b.like(flat, 1.0, Pending::Done(Op::Gather { x: flat, view, fill: 0 }), out, range);
            from_row_major(b, wide, out)
        }
        Layer::Concat(at) => {
            let at = axis(rank, *at);
            let mut xs = vec![x];
            for &id in &node.inputs[1..] {
                let y = operand(slots, id)?;
                xs.push(b.agree(x, y));
            }
            let widths = xs.iter().map(|&x| b.dims(x)[at..].iter().product()).collect();
            let outer = dims[..at].iter().product();
            let step = Op::Concat { xs, outer, widths, dims: dims.clone() };
            b.like(x, 1.0, Pending::Done(step), &dims, range)
        }
        Layer::Slice { start, step, fill } => {
            let view = View::Window { dims: b.dims(x), start: reorder(start), step: reorder(step), out: dims.clone() };
            filled(b, x, view, *fill)
        }
        Layer::Reshape => {
            let flat = row_major(b, x, input);
            let reshaped = reshape(b, flat, out);
            from_row_major(b, reshaped, out)
        }
        Layer::Transpose(perm) => {
            // The permutation between the two layouts.
            let order = |dims: usize| -> Vec<usize> {
                (0..dims).map(|a| if dims == 4 { [0, 2, 3, 1][a] } else { a }).collect()
            };
            let of_out = order(rank);
            let perm: Vec<usize> = of_out.iter().map(|&a| axis(rank, perm[a])).collect();
            permute(b, x, &perm)
        }
        Layer::Softmax { axis, end } => softmax(b, x, input, *axis, *end, false)?,
        Layer::LogSoftmax { axis, end } => softmax(b, x, input, *axis, *end, true)?,
        Layer::ArgMax(axis) => arg_max(b, x, input, *axis),
        Layer::Smooth(Smooth::Gelu) => {
            let share = spline::apply(b, x, &Function::normal_distribution(b.reach(x)), 1.0)?;
            b.mul(x, share, None, &dims, range, b.cap())
        }
        Layer::Smooth(f) => {
            let function = function_of(net, node, *f, ranges, b)?;
            let largest = function.largest();
            spline::apply(b, x, &function, largest)?
        }
        Layer::Dropout(_) => return Err(Error::Model("dropouts must be dropped before lowering".into())),
        Layer::Lrn { size, alpha, beta, bias } => lrn(b, x, *size, *alpha, *beta, *bias, range)?,
    })
}

fn relu(b: &mut Builder, x: Slot) -> Slot {
    relu_with(b, x, None)
}

/// A ReLU that may keep its bit.
fn relu_with(b: &mut Builder, x: Slot, keep: Option<usize>) -> Slot {
    let (dims, range) = (b.dims(x), b.range(x));
    b.like(x, 1.0, Pending::Done(Op::Relu { x, shift: None, wide: false, keep }), &dims, range)
}

pub(super) fn add(b: &mut Builder, x: Slot, y: Slot, range: f64) -> Slot {
    let y = b.agree(x, y);
    let dims = b.dims(x);
    b.like(x, 1.0, Pending::Done(Op::Add { x, y }), &dims, range)
}

fn offset(b: &mut Builder, x: Slot, addend: f64) -> Slot {
    let (dims, range) = (b.dims(x), b.range(x) + addend.abs());
    b.like(x, 1.0, Pending::Offset { x, addend }, &dims, range)
}

/// A constant broadcast to a value's dimensions, in the layout.
fn full_constant(c: &Tensor, dims: &[usize]) -> Tensor {
    let map = sordino_ring::IndexMap::broadcast(&c.dims, dims);
    let full = Tensor::new(dims, map.source.iter().map(|&s| c.data[s as usize]).collect());
    if dims.len() == 4 { full.permute(&[0, 2, 3, 1]) } else { full }
}

/// Channels are the last axis at rank 4, the second otherwise.
fn channels_at(dims: &[usize]) -> usize {
    if dims.len() == 4 { 3 } else { 1 }
}

/// Dimensions of a number for each channel.
pub(super) fn by_channel(dims: &[usize]) -> Vec<usize> {
    let at = channels_at(dims);
    (0..dims.len()).map(|a| if a == at { dims[a] } else { 1 }).collect()
}

/// A number for each channel, for all elements.
pub(super) fn spread(b: &mut Builder, c: Slot, small: &[usize], dims: &[usize]) -> Slot {
    let view = View::Broadcast { dims: small.to_vec(), out: dims.to_vec() };
    let range = b.range(c);
    b.like(c, 1.0, Pending::Done(Op::Gather { x: c, view, fill: 0 }), dims, range)
}

/// x * scale + shift per channel, both secret: one product, one truncation.
fn affine(b: &mut Builder, x: Slot, scale: &Tensor, shift: &Tensor, range: f64) -> Slot {
    let dims = b.dims(x);
    let small = by_channel(&dims);
    let at = channels_at(&dims);
    let spread = |b: &mut Builder, c: Slot| spread(b, c, &small, &dims);
    let shaped = |t: &Tensor| Arc::new(Tensor::new(&small, t.data.clone()));
    let one = scale.data.iter().all(|&v| v == 1.0);
    if one {
        let secret = b.like(x, 1.0, Pending::Secret(shaped(shift)), &small, f64::from(shift.max_abs()));
        let secret = spread(b, secret);
        return add(b, x, secret, range);
    }
    if b.options.settings.kind == Kind::Two && matches!(dims.len(), 2 | 4) {
        // The owner of both knows them in the clear: a product of shares would be dearer than a convolution of single pixels.
        let op = match dims[..] {
            [n, h, w, c] => Conv2d { n, h, w, cin: c, cout: c, groups: c, ..Conv2d::matmul(1, 1, 1) },
            _ => Conv2d { cin: dims[1], cout: dims[1], groups: dims[1], ..Conv2d::matmul(dims[0], 1, 1) },
        };
        let channels = dims[at];
        let weight = Arc::new(Tensor::new(&[channels, 1, 1, 1], scale.data.clone()));
        let bias = Some(Arc::new(Tensor::new(&[channels], shift.data.clone())));
        return b.source(Pending::Linear { terms: vec![(x, weight, op)], bias, channels }, &dims, range, b.cap());
    }
    let largest = f64::from(scale.max_abs()).max(f64::MIN_POSITIVE);
    let factor = b.source(Pending::Secret(shaped(scale)), &small, largest, factor_bits(largest));
    let factor = spread(b, factor);
    let bias = (shift.max_abs() > 0.0).then(|| {
        let step = Pending::SecretAtProduct { values: shaped(shift), x, y: factor };
        let secret = b.source(step, &small, f64::from(shift.max_abs()), 52);
        spread(b, secret)
    });
    b.mul(x, factor, bias, &dims, range, b.cap())
}

/// min(max(x, lo), hi) = lo + relu(x - lo) - relu(x - hi), leaving out infinite bounds.
fn clip(b: &mut Builder, x: Slot, lo: f32, hi: f32, range: f64) -> Slot {
    let above = |b: &mut Builder, x: Slot, bound: f32| {
        let shifted = if bound == 0.0 { x } else { offset(b, x, -f64::from(bound)) };
        relu(b, shifted)
    };
    // A bound beyond what the value can be is none.
    let top = b.reach(x) as f32;
    let (lo, hi) = (if lo <= -top { f32::NEG_INFINITY } else { lo }, if hi >= top { f32::INFINITY } else { hi });
    let mut y = x;
    if lo.is_finite() {
        y = above(b, x, lo);
        if lo != 0.0 {
            y = offset(b, y, f64::from(lo));
        }
    }
    if hi.is_finite() {
        let excess = above(b, x, hi);
        let dims = b.dims(x);
        y = b.like(x, 1.0, Pending::Done(Op::Sub { x: y, y: excess }), &dims, range);
    }
    y
}

/// `by x + add` with public numbers: the same integers at another scale.
fn scaled(b: &mut Builder, x: Slot, by: f64, add: f64) -> Slot {
    let (dims, range) = (b.dims(x), b.range(x) * by.abs());
    if by == 0.0 {
        let zero = b.like(x, 1.0, Pending::Done(Op::Sub { x, y: x }), &dims, 1e-9);
        return offset(b, zero, add);
    }
    let step = if by < 0.0 { Op::Scale { x, factor: -1 } } else { Op::Reshape { x, dims: dims.clone() } };
    let y = b.like(x, 1.0 / by.abs(), Pending::Done(step), &dims, range);
    if add == 0.0 { y } else { offset(b, y, add) }
}

/// A re-indexing whose empty places take a public number.
fn filled(b: &mut Builder, x: Slot, view: View, fill: f32) -> Slot {
    let (dims, fill) = (view.out(), f64::from(fill));
    if fill == 0.0 {
        return gather(b, x, view);
    }
    // x - fill with zeros, plus fill.
    let shifted = offset(b, x, -fill);
    let range = b.range(shifted);
    let padded = b.like(shifted, 1.0, Pending::Done(Op::Gather { x: shifted, view, fill: 0 }), &dims, range);
    let range = b.range(x).max(fill.abs());
    b.like(padded, 1.0, Pending::Offset { x: padded, addend: fill }, &dims, range)
}

/// Row-major places of elements as places in the layout.
fn laid_out(source: &[u32], from: &[usize], to: &[usize]) -> Vec<u32> {
    // Where an element of a model's tensor lies.
    let place = |dims: &[usize], at: usize| match *dims {
        [_, c, h, w] => {
            let (n, c_at, pixel) = (at / (c * h * w), at / (h * w) % c, at % (h * w));
            (n * h * w + pixel) * c + c_at
        }
        _ => at,
    };
    let mut out = vec![sordino_ring::PAD; source.len()];
    for (at, &s) in source.iter().enumerate() {
        out[place(to, at)] = if s == sordino_ring::PAD { s } else { place(from, s as usize) as u32 };
    }
    out
}

/// x * (bias + alpha / size * sum of squares of neighbouring channels)^-beta.
fn lrn(b: &mut Builder, x: Slot, size: usize, alpha: f32, beta: f32, bias: f32, range: f64) -> Result<Slot> {
    let dims = b.dims(x);
    let top = b.reach(x);
    let square = b.mul(x, x, None, &dims, b.range(x).powi(2), b.cap());
    let (rows, c) = (dims[..3].iter().product(), dims[3]);
    // Channels become a spatial axis of one channel.
    let line = reshape(b, square, &[rows, c, 1, 1]);
    let range_of_sum = b.range(square) * size as f64;
    let sum = line_sums(b, line, size, [(size - 1) / 2, size / 2], range_of_sum);
    let sum = reshape(b, sum, &dims);
    let (alpha, beta, bias) = (f64::from(alpha), f64::from(beta), f64::from(bias));
    let power = Function::power(bias, alpha / size as f64, -beta, top * top * size as f64);
    let largest = bias.powf(-beta) * 1.01;
    let factor = spline::apply(b, sum, &power, largest)?;
    Ok(b.mul(x, factor, None, &dims, range, b.cap()))
}
