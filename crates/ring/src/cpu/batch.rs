//! Replicated convolution of many small images: one output pixel of all images at a time. Short rows of pixels would leave
//! the tiles' registers empty, and what lies in the padding is never multiplied: all images skip the same taps.

use super::Cpu;
use super::linear::pair_products;
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
