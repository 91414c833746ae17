//! Replicated convolution of many small images, and its weights' gradient: one output pixel of all images at a time. Short rows of pixels would leave
//! the tiles' registers empty, and what lies in the padding is never multiplied: all images skip the same taps.

use super::Cpu;
use super::products::{PIXELS, lane_products, pair_products};
use super::tile::{CHANNELS, Row, Taps, row};
use crate::Conv2d;
use rayon::prelude::*;
use std::ops::Range;

/// Pixels that fill a tile's registers.
const TILE: usize = 14;

/// True when images are so small and so many that this is the faster order.
pub(super) fn pays(op: &Conv2d) -> bool {
    op.out_w() < TILE && op.n > op.out_w()
}

/// Kernel positions along one axis that fall into the image for output `o`: those of the kernel, and the first's input.
pub(super) fn inside(op: &Conv2d, axis: usize, o: usize) -> (Range<usize>, usize) {
    let len = [op.h, op.w][axis];
    let (from, dilation) = (o * op.stride[axis], op.dilation[axis]);
    let first = op.pad[axis].saturating_sub(from).div_ceil(dilation).min(op.kernel[axis]);
    let end = (len + op.pad[axis]).saturating_sub(from).div_ceil(dilation).clamp(first, op.kernel[axis]);
    (first..end, (from + first * dilation).saturating_sub(op.pad[axis]))
}

/// As [`super::linear::linear`] for one group of channels, with its `weights` and their pair sums of each panel and tap.
pub(super) fn linear(
    cpu: &Cpu,
    [x0, x1]: [&[u64]; 2],
    (weights, corr): (&[u64], &[[u64; CHANNELS]]),
    op: &Conv2d,
    group: usize,
    out: &mut [u64],
) {
    let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
    let (depth, taps) = (2 * ci, op.kernel[0] * op.kernel[1]);
    let size = taps * depth * CHANNELS;
    // Images a whole kilobyte apart would share cache sets.
    let pixels = op.h * op.w;
    let image = pixels * depth + if (pixels * depth).is_multiple_of(128) { 8 } else { 0 };
    let mut x = vec![0u64; op.n * image];
    let parts = x0.chunks_exact(pixels * op.cin).zip(x1.chunks_exact(pixels * op.cin));
    for (to, (x0, x1)) in x.chunks_exact_mut(image).zip(parts) {
        let pairs = x0.chunks_exact(op.cin).zip(x1.chunks_exact(op.cin));
        for (to, (x0, x1)) in to.chunks_exact_mut(depth).zip(pairs) {
            to[..ci].copy_from_slice(&x0[group * ci..][..ci]);
            to[ci..].copy_from_slice(&x1[group * ci..][..ci]);
        }
    }
    let sums: Vec<Vec<u64>> =
        x.chunks_exact(image).map(|x| pair_products(cpu.isa, &x[..pixels * depth], depth, depth)).collect();
    let step = [op.dilation[0] * op.w * depth, op.dilation[1] * depth];
    let output = op.out_h() * op.out_w() * op.cout;
    let block = |sums: &[Vec<u64>], x: &[u64], out: &mut [u64]| {
        let mut rows = vec![0u64; sums.len()];
        for (p, (weights, corr)) in weights.chunks_exact(size).zip(corr.chunks_exact(taps)).enumerate() {
            let lanes = CHANNELS.min(co - p * CHANNELS);
            for position in 0..op.out_h() * op.out_w() {
                let ((ky, y), (kx, xx)) = (inside(op, 0, position / op.out_w()), inside(op, 1, position % op.out_w()));
                let at = position * op.cout + group * co + p * CHANNELS;
                if ky.is_empty() || kx.is_empty() {
                    continue;
                }
                let mut total = [0u64; CHANNELS];
                rows.fill(0);
                for (i, tap) in ky.clone().flat_map(|y| kx.clone().map(move |x| (y, x))).enumerate() {
                    let (dy, dx) = (i / kx.len() * op.dilation[0], i % kx.len() * op.dilation[1]);
                    let pixel = (y + dy) * op.w + xx + dx;
                    rows.iter_mut().zip(sums).for_each(|(r, sums)| *r = r.wrapping_add(sums[pixel]));
                    let corr = &corr[tap.0 * op.kernel[1] + tap.1];
                    total.iter_mut().zip(corr).for_each(|(t, c)| *t = t.wrapping_add(*c));
                }
                let rectangle =
                    Taps { kernel: [ky.len(), kx.len()], step, depth, of: op.kernel, first: [ky.start, kx.start] };
                row(
                    cpu.isa,
                    &rectangle,
                    &mut Row {
                        x: &x[(y * op.w + xx) * depth..],
                        sx: image,
                        w: weights,
                        rows: &rows,
                        corr: &total,
                        out: &mut out[at..],
                        ldo: output,
                        lanes,
                    },
                );
            }
        }
    };
    if cpu.threads == 1 {
        block(&sums, &x, out);
    } else {
        let images = op.n.div_ceil(cpu.threads).next_multiple_of(TILE).min(op.n);
        let parts = out.par_chunks_mut(images * output).zip(sums.par_chunks(images)).zip(x.par_chunks(images * image));
        cpu.run(|| parts.for_each(|((out, sums), x)| block(sums, x, out)));
    }
}

/// Output positions along one axis whose kernel position `k` falls into the image.
fn outputs(op: &Conv2d, axis: usize, k: usize) -> Range<usize> {
    let (len, out) = ([op.h, op.w][axis], [op.out_h(), op.out_w()][axis]);
    let at = |edge: usize| edge.saturating_sub(k * op.dilation[axis]).div_ceil(op.stride[axis]).min(out);
    at(op.pad[axis])..at(len + op.pad[axis])
}

/// As [`super::gradient::weight_gradient`], where 16 channels at a time belong to one kernel position.
pub(super) fn weight_gradient(cpu: &Cpu, x: [&[u64]; 2], dy: [&[u64]; 2], op: &Conv2d) -> Vec<u64> {
    let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
    let (positions, columns) = (op.out_h() * op.out_w(), op.kernel[0] * op.kernel[1] * ci);
    let together = (PIXELS / positions).clamp(1, op.n);
    let mut out = vec![0u64; op.cout * columns];
    for group in 0..op.groups {
        let mut sums: Vec<Vec<u64>> = vec![vec![0; co * CHANNELS]; columns / CHANNELS];
        for first in (0..op.n).step_by(together) {
            let images = first..(first + together).min(op.n);
            let gradients = Gradients::new(cpu, dy, op, group * co..(group + 1) * co, images.clone());
            let add = |i: usize, sum: &mut Vec<u64>| {
                let (tap, channel) = (i * CHANNELS / ci, group * ci + i * CHANNELS % ci);
                gradients.add(cpu, x, op, [tap / op.kernel[1], tap % op.kernel[1]], channel, images.start, sum);
            };
            if cpu.threads == 1 {
                sums.iter_mut().enumerate().for_each(|(i, sum)| add(i, sum));
            } else {
                cpu.run(|| sums.par_iter_mut().enumerate().for_each(|(i, sum)| add(i, sum)));
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (o, sum) in sum.chunks_exact(CHANNELS).enumerate() {
                out[(group * co + o) * columns + i * CHANNELS..][..CHANNELS].copy_from_slice(sum);
            }
        }
    }
    out
}

/// Gradients of some images' outputs: for each channel and position one component of all images, then the other.
struct Gradients {
    rows: Vec<u64>,
    /// Elements from one channel to the next.
    stride: usize,
    /// Twice the images.
    depth: usize,
    /// Pair products of each channel and position.
    pairs: Vec<u64>,
}

impl Gradients {
    fn new(cpu: &Cpu, dy: [&[u64]; 2], op: &Conv2d, channels: Range<usize>, images: Range<usize>) -> Self {
        let (positions, depth) = (op.out_h() * op.out_w(), 2 * images.len());
        let len = positions * depth;
        // As for images: whole kilobytes would share cache sets.
        let stride = if len.is_multiple_of(128) { len + 8 } else { len };
        let mut rows = vec![0u64; channels.len() * stride];
        for (part, dy) in dy.iter().enumerate() {
            for (i, n) in images.clone().enumerate() {
                for position in 0..positions {
                    let from = &dy[(n * positions + position) * op.cout..][channels.clone()];
                    let to = rows[position * depth + part * images.len() + i..].iter_mut().step_by(stride);
                    to.zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let pairs = rows.chunks_exact(stride).flat_map(|r| pair_products(cpu.isa, &r[..len], depth, depth)).collect();
        Self { rows, stride, depth, pairs }
    }

    /// Adds to `sum` (16 for each output channel) the gradients of the weights at one kernel position of 16 input channels
    /// from `channel` on; the images start with `image`.
    #[expect(clippy::too_many_arguments, reason = "which weights and which images")]
    fn add(
        &self,
        cpu: &Cpu,
        [x0, x1]: [&[u64]; 2],
        op: &Conv2d,
        [ky, kx]: [usize; 2],
        channel: usize,
        image: usize,
        sum: &mut [u64],
    ) {
        let (ys, xs) = (outputs(op, 0, ky), outputs(op, 1, kx));
        if ys.is_empty() || xs.is_empty() {
            return;
        }
        let (depth, images, count) = (self.depth, self.depth / 2, ys.len() * xs.len());
        let mut panel = vec![0u64; count * depth * CHANNELS];
        let inputs = ys.clone().flat_map(|oy| xs.clone().map(move |ox| (oy, ox))).map(|(oy, ox)| {
            let y = oy * op.stride[0] + ky * op.dilation[0] - op.pad[0];
            y * op.w + ox * op.stride[1] + kx * op.dilation[1] - op.pad[1]
        });
        let (low, high) = panel.split_at_mut(count * depth * 8);
        for ((low, high), pixel) in low.chunks_exact_mut(depth * 8).zip(high.chunks_exact_mut(depth * 8)).zip(inputs) {
            for i in 0..images {
                let at = ((image + i) * op.h * op.w + pixel) * op.cin + channel;
                let (x0, x1) = (&x0[at..at + CHANNELS], &x1[at..at + CHANNELS]);
                for (half, (x0, x1)) in [&mut *low, &mut *high].into_iter().zip(x0.chunks(8).zip(x1.chunks(8))) {
                    half[(images + i) * 8..][..8].copy_from_slice(x0);
                    let sums = half[i * 8..][..8].iter_mut().zip(x0.iter().zip(x1));
                    sums.for_each(|(s, (a, b))| *s = a.wrapping_add(*b));
                }
            }
        }
        let mut corr = [0u64; CHANNELS];
        for (half, corr) in panel.chunks_exact(count * depth * 8).zip(corr.chunks_exact_mut(8)) {
            corr.copy_from_slice(&lane_products(cpu.isa, half));
        }
        let of_channel = |pairs: &[u64]| {
            let row = |oy: usize| &pairs[oy * op.out_w()..][xs.clone()];
            ys.clone().flat_map(row).fold(0u64, |s, v| s.wrapping_add(*v))
        };
        let rows: Vec<u64> = self.pairs.chunks_exact(op.out_h() * op.out_w()).map(of_channel).collect();
        let mut part = vec![0u64; sum.len()];
        row(
            cpu.isa,
            &Taps::all([ys.len(), xs.len()], [op.out_w() * depth, depth], depth),
            &mut Row {
                x: &self.rows[(ys.start * op.out_w() + xs.start) * depth..],
                sx: self.stride,
                w: &panel,
                rows: &rows,
                corr: &corr,
                out: &mut part,
                ldo: CHANNELS,
                lanes: CHANNELS,
            },
        );
        sum.iter_mut().zip(&part).for_each(|(s, v)| *s = s.wrapping_add(*v));
    }
}
