//! The float reference: the same network in ordinary arithmetic. Calibration and checks rest on it.

mod training;

use crate::network::{Layer, LayerNode, Network, Window};
use crate::tensor::Tensor;
use crate::{Result, import};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use sordino_ring::IndexMap;

/// Runs a network. `watch` sees every layer's result as it is made.
///
/// # Errors
/// When an input is missing, has another shape, or is not finite.
pub fn evaluate(net: &Network, inputs: &[Tensor], mut watch: impl FnMut(&LayerNode, &Tensor)) -> Result<Vec<Tensor>> {
    import::check_inputs(net, inputs)?;
    let mut uses = net.uses();
    let mut values: Vec<Option<Tensor>> = vec![None; net.shapes.len()];
    for (&id, x) in net.inputs.iter().zip(inputs) {
        values[id] = Some(x.clone());
    }
    for node in &net.nodes {
        let operands: Vec<&Tensor> = node.inputs.iter().filter_map(|&i| values[i].as_ref()).collect();
        let out = layer(&node.layer, &operands, &net.shapes[node.output]);
        watch(node, &out);
        values[node.output] = Some(out);
        for &i in &node.inputs {
            uses[i] -= 1;
            if uses[i] == 0 {
                values[i] = None;
            }
        }
    }
    Ok(net.outputs.iter().map(|(_, id)| values[*id].clone().unwrap_or_default()).collect())
}

fn map(x: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    Tensor::new(&x.dims, x.data.iter().map(|&v| f(v)).collect())
}

fn zip(x: &Tensor, y: &Tensor, f: impl Fn(f32, f32) -> f32) -> Tensor {
    Tensor::new(&x.dims, x.data.iter().zip(&y.data).map(|(&a, &b)| f(a, b)).collect())
}

/// Applies `f` to each channel (axis 1) with its number.
fn channels(x: &Tensor, f: impl Fn(usize, f32) -> f32) -> Tensor {
    let inner: usize = x.dims[2..].iter().product();
    let c = x.dims[1];
    Tensor::new(&x.dims, x.data.iter().enumerate().map(|(i, &v)| f(i / inner % c, v)).collect())
}

fn gather(x: &Tensor, map: &IndexMap, fill: f32) -> Tensor {
    let data = map.source.iter().map(|&s| if s == sordino_ring::PAD { fill } else { x.data[s as usize] }).collect();
    Tensor::new(map.shape.dims(), data)
}

fn layer(layer: &Layer, xs: &[&Tensor], out: &[usize]) -> Tensor {
    let x = xs[0];
    match layer {
        Layer::Conv { window, groups, weight, bias } => conv(x, weight, bias.as_deref(), window, *groups, out),
        Layer::MatMul { weight, bias } => {
            let (m, k, n) = (x.dims[0], weight.dims[0], weight.dims[1]);
            let mut data: Vec<f32> = match bias {
                Some(b) => b.data.iter().copied().cycle().take(m * n).collect(),
                None => vec![0.0; m * n],
            };
            gemm(m, k, n, &x.data, &weight.data, &mut data);
            Tensor::new(out, data)
        }
        Layer::BatchNorm { stats, epsilon, .. } => {
            let [scale, shift, mean, var] = stats;
            channels(x, |c, v| (v - mean.data[c]) / (var.data[c] + epsilon).sqrt() * scale.data[c] + shift.data[c])
        }
        Layer::Affine { scale, shift } => channels(x, |c, v| v * scale.data[c] + shift.data[c]),
        Layer::Relu => map(x, |v| v.max(0.0)),
        Layer::Clip { lo, hi } => map(x, |v| v.max(*lo).min(*hi)),
        Layer::LeakyRelu(alpha) => map(x, |v| if v < 0.0 { alpha * v } else { v }),
        Layer::PRelu(slope) => channels(x, |c, v| if v < 0.0 { slope.data[c] * v } else { v }),
        Layer::MaxPool(window) => pool(x, window, out, |values, _| values.fold(f32::NEG_INFINITY, f32::max)),
        Layer::AveragePool { window, include_pad } => pool(x, window, out, |values, inside| {
            let all = window.kernel[0] * window.kernel[1];
            values.map(f64::from).sum::<f64>() as f32 / if *include_pad { all } else { inside } as f32
        }),
        Layer::Add => zip(x, xs[1], |a, b| a + b),
        Layer::Sub => zip(x, xs[1], |a, b| a - b),
        Layer::Mul => zip(x, xs[1], |a, b| a * b),
        Layer::AddConst(c) => zip(x, &gather(c, &IndexMap::broadcast(&c.dims, &x.dims), 0.0), |a, b| a + b),
        Layer::MulConst(c) => zip(x, &gather(c, &IndexMap::broadcast(&c.dims, &x.dims), 0.0), |a, b| a * b),
        Layer::Max => zip(x, xs[1], f32::max),
        Layer::Scale { by, add } => map(x, |v| by * v + add),
        Layer::Step => map(x, |v| f32::from(u8::from(v >= 0.0))),
        Layer::Gather { source, fill } => {
            let at = |&s: &u32| if s == sordino_ring::PAD { *fill } else { x.data[s as usize] };
            Tensor::new(out, source.iter().map(at).collect())
        }
        Layer::LogSoftmax { axis, end } => softmax(x, *axis, *end, true),
        Layer::ArgMax(axis) => arg_max(x, *axis, out),
        Layer::Broadcast => gather(x, &IndexMap::broadcast(&x.dims, out), 0.0),
        Layer::Concat(axis) => {
            let outer: usize = out[..*axis].iter().product();
            let mut data = Vec::with_capacity(out.iter().product());
            for o in 0..outer {
                for x in xs {
                    let w: usize = x.dims[*axis..].iter().product();
                    data.extend_from_slice(&x.data[o * w..(o + 1) * w]);
                }
            }
            Tensor::new(out, data)
        }
        Layer::Slice { start, step, fill } => gather(x, &IndexMap::window(&x.dims, start, step, out), *fill),
        Layer::Reshape => Tensor::new(out, x.data.clone()),
        Layer::Transpose(perm) => x.permute(perm),
        Layer::Softmax { axis, end } => softmax(x, *axis, *end, false),
        Layer::Smooth(f) => map(x, |v| f.value(f64::from(v)) as f32),
        Layer::Dropout(_) => x.clone(),
        Layer::Training(training) => training::layer(training, xs, out),
        Layer::Lrn { size, alpha, beta, bias } => {
            let inner: usize = x.dims[2..].iter().product();
            let c = x.dims[1];
            let data = x.data.iter().enumerate().map(|(i, &v)| {
                let (at, first) = (i / inner % c, i - (i / inner % c) * inner);
                let (lo, hi) = (at.saturating_sub((size - 1) / 2), (at + size / 2).min(c - 1));
                let sum: f32 = (lo..=hi).map(|j| x.data[first + j * inner].powi(2)).sum();
                v / (bias + alpha / *size as f32 * sum).powf(*beta)
            });
            Tensor::new(&x.dims, data.collect())
        }
    }
}

/// c += a b, row-major.
pub(super) fn gemm(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    let views = (
        ArrayView2::from_shape((m, k), &a[..m * k]),
        ArrayView2::from_shape((k, n), &b[..k * n]),
        ArrayViewMut2::from_shape((m, n), &mut c[..m * n]),
    );
    // The slices have exactly these sizes.
    if let (Ok(a), Ok(b), Ok(mut c)) = views {
        general_mat_mul(1.0, &a, &b, 1.0, &mut c);
    }
}

fn conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: &Window, groups: usize, out: &[usize]) -> Tensor {
    let [n, o, oh, ow] = [out[0], out[1], out[2], out[3]];
    let [c, h, w] = [x.dims[1], x.dims[2], x.dims[3]];
    let (ci, co) = (c / groups, o / groups);
    let (k, pixels) = (ci * window.kernel[0] * window.kernel[1], oh * ow);
    let mut data = vec![0f32; n * o * pixels];
    if let Some(b) = bias {
        for (i, plane) in data.chunks_exact_mut(pixels).enumerate() {
            plane.fill(b.data[i % o]);
        }
    }
    for image in 0..n {
        for g in 0..groups {
            let columns = columns(&x.data[image * c * h * w..], [c, h, w], g * ci..(g + 1) * ci, window, [oh, ow]);
            let weights = &weight.data[g * co * k..(g + 1) * co * k];
            gemm(co, k, pixels, weights, &columns, &mut data[(image * o + g * co) * pixels..][..co * pixels]);
        }
    }
    Tensor::new(out, data)
}

/// `[channels * kh * kw, oh * ow]` of one image: what each weight meets at each output pixel.
fn columns(
    image: &[f32],
    [_, h, w]: [usize; 3],
    channels: std::ops::Range<usize>,
    window: &Window,
    [oh, ow]: [usize; 2],
) -> Vec<f32> {
    let [kh, kw] = window.kernel;
    let mut out = vec![0f32; channels.len() * kh * kw * oh * ow];
    for (r, rows) in out.chunks_exact_mut(oh * ow).enumerate() {
        let (ch, ky, kx) = (channels.start + r / (kh * kw), r / kw % kh, r % kw);
        let plane = &image[ch * h * w..][..h * w];
        for (oy, row) in rows.chunks_exact_mut(ow).enumerate() {
            for (ox, v) in row.iter_mut().enumerate() {
                if let Some(at) = source(window, [h, w], [oy, ox], [ky, kx]) {
                    *v = plane[at];
                }
            }
        }
    }
    out
}

/// Where a kernel position of an output pixel reads, if inside.
fn source(window: &Window, [h, w]: [usize; 2], out: [usize; 2], k: [usize; 2]) -> Option<usize> {
    let at = |a: usize| (out[a] * window.stride[a] + k[a] * window.dilation[a]).wrapping_sub(window.pad[a]);
    (at(0) < h && at(1) < w).then(|| at(0) * w + at(1))
}

fn pool(
    x: &Tensor,
    window: &Window,
    out: &[usize],
    reduce: impl Fn(&mut dyn Iterator<Item = f32>, usize) -> f32,
) -> Tensor {
    let (h, w) = (x.dims[2], x.dims[3]);
    let range = |axis: usize, at: usize, len: usize| -> Vec<usize> {
        (0..window.kernel[axis])
            .map(|k| (at * window.stride[axis] + k * window.dilation[axis]).wrapping_sub(window.pad[axis]))
            .filter(|&p| p < len)
            .collect()
    };
    let mut data = Vec::with_capacity(out.iter().product());
    for plane in x.data.chunks_exact(h * w) {
        for oy in 0..out[2] {
            let ys = range(0, oy, h);
            for ox in 0..out[3] {
                let xs = range(1, ox, w);
                let mut values = ys.iter().flat_map(|&y| xs.iter().map(move |&x| plane[y * w + x]));
                data.push(reduce(&mut values, ys.len() * xs.len()));
            }
        }
    }
    Tensor::new(out, data)
}

/// Where the first largest element along an axis is.
fn arg_max(x: &Tensor, axis: usize, out: &[usize]) -> Tensor {
    let (n, inner): (usize, usize) = (x.dims[axis], x.dims[axis + 1..].iter().product());
    let mut data = Vec::with_capacity(out.iter().product());
    for block in x.data.chunks_exact((n * inner).max(1)) {
        for i in 0..inner {
            let better = |best: usize, j: usize| if block[j * inner + i] > block[best * inner + i] { j } else { best };
            data.push((1..n).fold(0, better) as f32);
        }
    }
    Tensor::new(out, data)
}

/// Softmax or its logarithm.
fn softmax(x: &Tensor, axis: usize, end: usize, logarithm: bool) -> Tensor {
    let (n, inner): (usize, usize) = (x.dims[axis..end].iter().product(), x.dims[end..].iter().product());
    let mut data = x.data.clone();
    for block in data.chunks_exact_mut(n * inner) {
        for i in 0..inner {
            let max = (0..n).map(|j| block[j * inner + i]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = (0..n).map(|j| (block[j * inner + i] - max).exp()).sum();
            for v in (0..n).map(|j| j * inner + i) {
                let below = block[v] - max;
                block[v] = if logarithm { below - sum.ln() } else { below.exp() / sum };
            }
        }
    }
    Tensor::new(&x.dims, data)
}
