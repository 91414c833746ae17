//! Training's layers in floats.

use super::{columns, gemm, source};
use crate::network::{Blend, Training, Window};
use crate::tensor::Tensor;

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn blend(gradient: &mut [f32], rule: &Blend, others: &[&Tensor]) {
    for (i, g) in gradient.iter_mut().enumerate() {
        *g *= rule.gradient;
        for (factor, other) in rule.others.iter().zip(others) {
            *g += factor * other.data[i];
        }
    }
}

/// Elements of each channel value: after them come those of the next channel.
fn inner(dims: &[usize]) -> usize {
    dims[2..].iter().product()
}

/// Sums over everything but axis 1, with the precision that a variance needs.
fn channel_sums(dims: &[usize], terms: impl Iterator<Item = f64>, by: f32) -> Vec<f32> {
    let mut sums = vec![0f64; dims[1]];
    terms.enumerate().for_each(|(i, v)| sums[i / inner(dims) % dims[1]] += v);
    sums.into_iter().map(|v| (v * f64::from(by)) as f32).collect()
}

/// One group of a convolution.
struct Group<'a> {
    window: &'a Window,
    /// Channels, height and width of the input's whole image.
    input: [usize; 3],
    /// Height and width of the output.
    output: [usize; 2],
    channels: std::ops::Range<usize>,
}

impl<'a> Group<'a> {
    fn all(window: &'a Window, groups: usize, input: &[usize], output: &[usize]) -> Vec<Self> {
        let size = input[1] / groups;
        let group = |g: usize| Self {
            window,
            input: [input[1], input[2], input[3]],
            output: [output[2], output[3]],
            channels: g * size..(g + 1) * size,
        };
        (0..groups).map(group).collect()
    }
    fn columns(&self, image: &[f32]) -> Vec<f32> {
        columns(image, self.input, self.channels.clone(), self.window, self.output)
    }
    /// The transpose of [`Group::columns`]: adds every element where it came from.
    fn scatter(&self, columns: &[f32], image: &mut [f32]) {
        let ([_, h, w], [oh, ow], [kh, kw]) = (self.input, self.output, self.window.kernel);
        for (r, row) in columns.chunks_exact(oh * ow).enumerate() {
            let (ch, ky, kx) = (self.channels.start + r / (kh * kw), r / kw % kh, r % kw);
            for (i, v) in row.iter().enumerate() {
                if let Some(at) = source(self.window, [h, w], [i / ow, i % ow], [ky, kx]) {
                    image[ch * h * w + at] += v;
                }
            }
        }
    }
}

/// For each window of each plane, the positions it covers.
fn windows(window: &Window, input: &[usize], output: &[usize], mut see: impl FnMut(usize, usize, &[usize])) {
    let (h, w, oh, ow) = (input[2], input[3], output[2], output[3]);
    for plane in 0..input[0] * input[1] {
        for i in 0..oh * ow {
            let all = (0..window.kernel[0] * window.kernel[1]).map(|k| [k / window.kernel[1], k % window.kernel[1]]);
            let inside: Vec<usize> = all.filter_map(|k| source(window, [h, w], [i / ow, i % ow], k)).collect();
            see(plane, i, &inside);
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each layer")]
pub(super) fn layer(training: &Training, xs: &[&Tensor], out: &[usize]) -> Tensor {
    let x = xs[0];
    let image = |t: &Tensor| t.dims[1..].iter().product::<usize>();
    let mut data = vec![0f32; out.iter().product()];
    match training {
        Training::Conv(window, groups) => return super::conv(x, xs[1], xs.get(2).copied(), window, *groups, out),
        Training::Full => {
            let (m, k, n) = (x.dims[0], x.dims[1], out[1]);
            if let Some(bias) = xs.get(2) {
                data.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(&bias.data));
            }
            gemm(m, k, n, &x.data, &transposed(&xs[1].data, n, k), &mut data);
        }
        Training::FullInput => gemm(x.dims[0], x.dims[1], out[1], &x.data, &xs[1].data, &mut data),
        Training::FullWeight(rule) => {
            let dy = xs[1];
            let (m, n, k) = (dy.dims[0], dy.dims[1], x.dims[1]);
            gemm(n, m, k, &transposed(&dy.data, m, n), &x.data, &mut data);
            blend(&mut data, rule, &xs[2..]);
        }
        Training::ConvInput(window, groups) => {
            let w = xs[1];
            let (o, k, pixels) = (w.dims[0] / groups, image(w), x.dims[2] * x.dims[3]);
            let size = image(x);
            for (g, group) in Group::all(window, *groups, out, &x.dims).iter().enumerate() {
                let turned = transposed(&w.data[g * o * k..(g + 1) * o * k], o, k);
                for (dy, dx) in x.data.chunks_exact(size).zip(data.chunks_exact_mut(out[1] * out[2] * out[3])) {
                    let mut columns = vec![0f32; k * pixels];
                    gemm(k, o, pixels, &turned, &dy[g * o * pixels..], &mut columns);
                    group.scatter(&columns, dx);
                }
            }
        }
        Training::ConvWeight(window, groups, rule) => {
            let dy = xs[1];
            let (o, pixels) = (dy.dims[1] / groups, dy.dims[2] * dy.dims[3]);
            let k = data.len() / dy.dims[1];
            for (g, group) in Group::all(window, *groups, &x.dims, &dy.dims).iter().enumerate() {
                for (x, dy) in x.data.chunks_exact(image(x)).zip(dy.data.chunks_exact(image(dy))) {
                    let columns = transposed(&group.columns(x), k, pixels);
                    gemm(o, pixels, k, &dy[g * o * pixels..], &columns, &mut data[g * o * k..]);
                }
            }
            blend(&mut data, rule, &xs[2..]);
        }
        Training::Sum(factors) => {
            for (x, f) in xs.iter().zip(factors) {
                data.iter_mut().zip(&x.data).for_each(|(s, v)| *s += f * v);
            }
        }
        Training::Relu => {
            let pairs = x.data.iter().zip(&xs[1].data);
            data = pairs.map(|(&x, &dy)| if x >= 0.0 { dy } else { 0.0 }).collect();
        }
        Training::AveragePool(window, include_pad) => {
            let (planes, pixels) = (out[2] * out[3], x.dims[2] * x.dims[3]);
            windows(window, out, &x.dims, |plane, i, inside| {
                let all = if *include_pad { window.kernel[0] * window.kernel[1] } else { inside.len() };
                let share = x.data[plane * pixels + i] / all as f32;
                inside.iter().for_each(|at| data[plane * planes + at] += share);
            });
        }
        Training::MaxPool(window) => {
            let (planes, dy) = (out[2] * out[3], xs[2]);
            let pixels = dy.dims[2] * dy.dims[3];
            windows(window, out, &dy.dims, |plane, i, inside| {
                let at = |p: usize| x.data[plane * planes + p];
                // The first of equal ones.
                let largest = inside.iter().copied().reduce(|a, b| if at(b) > at(a) { b } else { a });
                if let Some(p) = largest {
                    data[plane * planes + p] += dy.data[plane * pixels + i];
                }
            });
        }
        Training::Dropout(mask, iteration) => {
            let scale = (1.0 / mask.share()) as f32;
            let kept = mask.kept(*iteration, data.len());
            data = x.data.iter().zip(kept).map(|(&v, kept)| if kept { v * scale } else { 0.0 }).collect();
        }
        Training::ChannelSum(by) => data = channel_sums(&x.dims, x.data.iter().map(|&v| f64::from(v)), *by),
        Training::ChannelDot(by) => {
            let products = x.data.iter().zip(&xs[1].data).map(|(a, b)| f64::from(*a) * f64::from(*b));
            data = channel_sums(&x.dims, products, *by);
        }
        Training::Centre => return super::channels(x, |c, v| v - xs[1].data[c]),
        Training::ChannelScale => {
            let scaled = super::channels(x, |c, v| v * xs[1].data[c]);
            let shift = &xs[xs.len() - 1].data;
            let sum = match xs {
                [_, _, y, b, _] => super::zip(&scaled, &super::channels(y, |c, v| v * b.data[c]), |a, b| a + b),
                _ => scaled,
            };
            return super::channels(&sum, |c, v| v + shift[c]);
        }
        Training::Mul => return super::zip(x, xs[1], |a, b| a * b),
        Training::InverseRoot { epsilon, .. } => return super::map(x, |v| 1.0 / (v.max(0.0) + epsilon).sqrt()),
        Training::Square(a, b) => return super::zip(x, xs[1], |g, v| a * g * g + b * v),
        Training::Slope(f) => return super::map(x, |v| f.slope(f64::from(v)) as f32),
        Training::Unslice { start, step } => {
            return super::gather(x, &crate::program::scatter(&x.dims, start, step, out), 0.0);
        }
        Training::Descend(rate) => data = x.data.iter().zip(&xs[1].data).map(|(w, v)| w - rate * v).collect(),
        Training::CrossEntropy => {
            let sum: f32 = x.data.iter().zip(&xs[1].data).filter(|(_, y)| **y != 0.0).map(|(l, y)| l * y).sum();
            data = vec![sum / x.dims[0] as f32];
        }
        Training::SquaredError => data = vec![x.data.iter().map(|v| v * v).sum::<f32>() / (2 * x.dims[0]) as f32],
    }
    Tensor::new(out, data)
}
