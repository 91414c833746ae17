//! Training's layers in floats.

use super::gemm;
use crate::network::{Training, Velocity, Window};
use crate::tensor::Tensor;

/// `[c * kh * kw, oh * ow]` of one image: what each weight meets at each output pixel.
fn columns(image: &[f32], [c, h, w]: [usize; 3], window: &Window, [oh, ow]: [usize; 2]) -> Vec<f32> {
    let [kh, kw] = window.kernel;
    let mut out = vec![0f32; c * kh * kw * oh * ow];
    for (r, row) in out.chunks_exact_mut(oh * ow).enumerate() {
        let (ch, ky, kx) = (r / (kh * kw), r / kw % kh, r % kw);
        for (i, v) in row.iter_mut().enumerate() {
            if let Some(at) = source(window, [h, w], [i / ow, i % ow], [ky, kx]) {
                *v = image[ch * h * w + at];
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

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn descend(gradient: &mut [f32], rule: &Velocity, v: &Tensor, w: Option<&Tensor>) {
    for (i, g) in gradient.iter_mut().enumerate() {
        *g = rule.mean * *g + rule.momentum * v.data[i] + rule.decay * w.map_or(0.0, |w| w.data[i]);
    }
}

pub(super) fn layer(training: &Training, xs: &[&Tensor], out: &[usize]) -> Tensor {
    let x = xs[0];
    let image = |t: &Tensor| t.dims[1..].iter().product::<usize>();
    let mut data = vec![0f32; out.iter().product()];
    match training {
        Training::Conv(window) => return super::conv(x, xs[1], Some(xs[2]), window, 1, out),
        Training::Full => {
            let (m, k, n) = (x.dims[0], x.dims[1], out[1]);
            data.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(&xs[2].data));
            gemm(m, k, n, &x.data, &transposed(&xs[1].data, n, k), &mut data);
        }
        Training::FullInput => gemm(x.dims[0], x.dims[1], out[1], &x.data, &xs[1].data, &mut data),
        Training::FullWeight(rule) => {
            let dy = xs[1];
            let (m, n, k) = (dy.dims[0], dy.dims[1], x.dims[1]);
            gemm(n, m, k, &transposed(&dy.data, m, n), &x.data, &mut data);
            descend(&mut data, rule, xs[2], Some(xs[3]));
        }
        Training::ConvInput(window) => {
            let w = xs[1];
            let (o, k) = (w.dims[0], image(w));
            let [c, h, width] = [out[1], out[2], out[3]];
            let (oh, ow) = (x.dims[2], x.dims[3]);
            let turned = transposed(&w.data, o, k);
            for (dy, dx) in x.data.chunks_exact(image(x)).zip(data.chunks_exact_mut(c * h * width)) {
                let mut columns = vec![0f32; k * oh * ow];
                gemm(k, o, oh * ow, &turned, dy, &mut columns);
                for (r, row) in columns.chunks_exact(oh * ow).enumerate() {
                    let [kh, kw] = window.kernel;
                    let (ch, ky, kx) = (r / (kh * kw), r / kw % kh, r % kw);
                    for (i, v) in row.iter().enumerate() {
                        if let Some(at) = source(window, [h, width], [i / ow, i % ow], [ky, kx]) {
                            dx[ch * h * width + at] += v;
                        }
                    }
                }
            }
        }
        Training::ConvWeight(window, rule) => {
            let dy = xs[1];
            let (o, pixels) = (dy.dims[1], dy.dims[2] * dy.dims[3]);
            let k = data.len() / o;
            let dims = [x.dims[1], x.dims[2], x.dims[3]];
            for (x, dy) in x.data.chunks_exact(image(x)).zip(dy.data.chunks_exact(image(dy))) {
                let columns = columns(x, dims, window, [xs[1].dims[2], xs[1].dims[3]]);
                gemm(o, pixels, k, dy, &transposed(&columns, k, pixels), &mut data);
            }
            descend(&mut data, rule, xs[2], Some(xs[3]));
        }
        Training::Bias(rule) => {
            let inner: usize = x.dims[2..].iter().product();
            x.data.iter().enumerate().for_each(|(i, v)| data[i / inner % out[0]] += v);
            descend(&mut data, rule, xs[1], None);
        }
        Training::Relu => {
            let pairs = x.data.iter().zip(&xs[1].data);
            data = pairs.map(|(&x, &dy)| if x >= 0.0 { dy } else { 0.0 }).collect();
        }
        Training::AveragePool(window) => {
            let (h, w, oh, ow) = (out[2], out[3], x.dims[2], x.dims[3]);
            let share = 1.0 / (window.kernel[0] * window.kernel[1]) as f32;
            for (dy, dx) in x.data.chunks_exact(oh * ow).zip(data.chunks_exact_mut(h * w)) {
                for (i, v) in dy.iter().enumerate() {
                    for k in 0..window.kernel[0] * window.kernel[1] {
                        let k = [k / window.kernel[1], k % window.kernel[1]];
                        if let Some(at) = source(window, [h, w], [i / ow, i % ow], k) {
                            dx[at] += v * share;
                        }
                    }
                }
            }
        }
        Training::Descend(rate) => data = x.data.iter().zip(&xs[1].data).map(|(w, v)| w - rate * v).collect(),
        Training::CrossEntropy => {
            let (rows, n) = (x.dims[0], x.dims[1]);
            let chosen = x.data.chunks_exact(n).zip(xs[1].data.chunks_exact(n));
            let loss = |(p, y): (&[f32], &[f32])| {
                let p: f32 = p.iter().zip(y).map(|(p, y)| p * y).sum();
                -p.max(2f32.powi(-12)).ln()
            };
            data = vec![chosen.map(loss).sum::<f32>() / rows as f32];
        }
    }
    Tensor::new(out, data)
}
