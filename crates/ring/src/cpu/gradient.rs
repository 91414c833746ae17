//! Replicated gradient of a convolution's weights: a matrix product over all output pixels, taken a few images at a time
//! so that what meets each weight is never written out as a whole.

use super::products::{PIXELS, lane_products, multiply_add, pair_products};
use super::tile::{CHANNELS, Row, Taps, row};
use super::{Cpu, Isa, batch};
use crate::Conv2d;
use rayon::prelude::*;

/// Images of at most so many output pixels are worked on pixel by pixel, so that padding is never multiplied.
const SMALL: usize = 16;

/// Replicated images of one block: the first, how many, and what they are cut from.
struct Block<'a> {
    x0: &'a [u64],
    x1: &'a [u64],
    op: &'a Conv2d,
    group: usize,
    images: std::ops::Range<usize>,
}

impl Block<'_> {
    /// What up to 16 weights of one output channel meet at each output pixel, packed as [`row`] takes it.
    fn panel(&self, isa: Isa, first: usize, lanes: usize, panel: &mut [u64], corr: &mut [u64; CHANNELS]) {
        let op = self.op;
        let (ci, pixels) = (op.cin / op.groups, op.out_h() * op.out_w());
        let k = self.images.len() * pixels;
        panel.fill(0);
        let mut lane = 0;
        while lane < lanes {
            // A run of channels of one tap within one half of the lanes.
            let (tap, channel) = ((first + lane) / ci, (first + lane) % ci);
            let run = (ci - channel).min(lanes - lane).min(8 - lane % 8);
            let (ky, kx) = (tap / op.kernel[1], tap % op.kernel[1]);
            let half = lane / 8 * 2 * k * 8 + lane % 8;
            let mut t = 0;
            for n in self.images.clone() {
                for oy in 0..op.out_h() {
                    let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
                    if y >= op.h {
                        t += op.out_w();
                        continue;
                    }
                    for ox in 0..op.out_w() {
                        let xx = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
                        if xx < op.w {
                            let from = ((n * op.h + y) * op.w + xx) * op.cin + self.group * ci + channel;
                            let (a, b) = (&self.x0[from..from + run], &self.x1[from..from + run]);
                            let (sum, plain) = (half + t * 8, half + (k + t) * 8);
                            panel[plain..plain + run].copy_from_slice(a);
                            let sums = panel[sum..sum + run].iter_mut().zip(a.iter().zip(b));
                            sums.for_each(|(s, (a, b))| *s = a.wrapping_add(*b));
                        }
                        t += 1;
                    }
                }
            }
            lane += run;
        }
        for (half, corr) in panel.chunks_exact(2 * k * 8).zip(corr.chunks_exact_mut(8)) {
            corr.copy_from_slice(&lane_products(isa, half));
        }
    }
}

/// For every weight (OHWI), the sum over output pixels of `dy0 (x0 + x1) + dy1 x0`.
pub(crate) fn weight_gradient(cpu: &Cpu, [x0, x1]: [&[u64]; 2], [dy0, dy1]: [&[u64]; 2], op: &Conv2d) -> Vec<u64> {
    if op.is_depthwise() {
        return depthwise(cpu, [x0, x1], [dy0, dy1], op);
    }
    let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
    let (pixels, columns) = (op.out_h() * op.out_w(), op.kernel[0] * op.kernel[1] * ci);
    if pixels <= SMALL && op.n > 1 && op.pad != [0; 4] && ci.is_multiple_of(CHANNELS) {
        return batch::weight_gradient(cpu, [x0, x1], [dy0, dy1], op);
    }
    let together = (PIXELS / pixels).clamp(1, op.n);
    let mut out = vec![0u64; op.cout * columns];
    for group in 0..op.groups {
        let mut sums: Vec<Vec<u64>> = vec![vec![0; co * CHANNELS]; columns.div_ceil(CHANNELS)];
        for first in (0..op.n).step_by(together) {
            let images = first..(first + together).min(op.n);
            let k = images.len() * pixels;
            let stride = if (2 * k).is_multiple_of(128) { 2 * k + 8 } else { 2 * k };
            let rows = transposed(&[dy0, dy1], images.start * pixels, k, op.cout, group * co..(group + 1) * co, stride);
            let pairs = pair_products(cpu.isa, &rows, stride, 2 * k);
            let block = Block { x0, x1, op, group, images };
            let add = |i: usize, sum: &mut Vec<u64>| {
                let (mut panel, mut corr) = (vec![0u64; 2 * k * CHANNELS], [0u64; CHANNELS]);
                let lanes = CHANNELS.min(columns - i * CHANNELS);
                block.panel(cpu.isa, i * CHANNELS, lanes, &mut panel, &mut corr);
                let mut part = vec![0u64; co * CHANNELS];
                let taps = Taps::all([1, 1], [0, 0], 2 * k);
                let (out, ldo) = (&mut part[..], CHANNELS);
                row(
                    cpu.isa,
                    &taps,
                    &mut Row { x: &rows, sx: stride, w: &panel, rows: &pairs, corr: &corr, out, ldo, lanes },
                );
                sum.iter_mut().zip(&part).for_each(|(s, v)| *s = s.wrapping_add(*v));
            };
            if cpu.threads == 1 {
                sums.iter_mut().enumerate().for_each(|(i, sum)| add(i, sum));
            } else {
                cpu.run(|| sums.par_iter_mut().enumerate().for_each(|(i, sum)| add(i, sum)));
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            let lanes = CHANNELS.min(columns - i * CHANNELS);
            for (o, sum) in sum.chunks_exact(CHANNELS).enumerate() {
                out[(group * co + o) * columns + i * CHANNELS..][..lanes].copy_from_slice(&sum[..lanes]);
            }
        }
    }
    out
}

/// Pixels `from .. from + k` of both components, channel by channel: each row is one component after the other.
fn transposed(
    parts: &[&[u64]; 2],
    from: usize,
    k: usize,
    channels: usize,
    which: std::ops::Range<usize>,
    stride: usize,
) -> Vec<u64> {
    let mut out = vec![0u64; which.len() * stride];
    for (i, part) in parts.iter().enumerate() {
        let part = &part[from * channels..(from + k) * channels];
        // Blocks of pixels keep the lines of the result that are being written in the cache.
        for (b, pixels) in part.chunks(32 * channels).enumerate() {
            for (row, c) in out.chunks_exact_mut(stride).zip(which.clone()) {
                let row = &mut row[i * k + b * 32..];
                row.iter_mut().zip(pixels[c..].iter().step_by(channels)).for_each(|(o, v)| *o = *v);
            }
        }
    }
    out
}

fn depthwise(cpu: &Cpu, [x0, x1]: [&[u64]; 2], [dy0, dy1]: [&[u64]; 2], op: &Conv2d) -> Vec<u64> {
    let (c, taps) = (op.cout, op.kernel[0] * op.kernel[1]);
    let mut sums = vec![0u64; taps * c];
    let mut both = vec![0u64; c];
    for (i, (dy0, dy1)) in dy0.chunks_exact(c).zip(dy1.chunks_exact(c)).enumerate() {
        let (n, oy, ox) = (i / (op.out_h() * op.out_w()), i / op.out_w() % op.out_h(), i % op.out_w());
        for (tap, sums) in sums.chunks_exact_mut(c).enumerate() {
            let (ky, kx) = (tap / op.kernel[1], tap % op.kernel[1]);
            let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
            let x = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
            if y < op.h && x < op.w {
                let at = ((n * op.h + y) * op.w + x) * c;
                let (a, b) = (&x0[at..at + c], &x1[at..at + c]);
                both.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s = a.wrapping_add(*b));
                multiply_add(cpu.isa, sums, dy0, dy1, &both, a);
            }
        }
    }
    (0..c * taps).map(|i| sums[i % taps * c + i / taps]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::tests::{geometry, random};
    use crate::{Cpu, Isa};
    use proptest::prelude::*;

    /// The definition: the product is linear in each weight.
    fn naive(x: &[u64], dy: &[u64], op: &Conv2d) -> Vec<u64> {
        let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
        let mut out = vec![0u64; op.weight().len()];
        for (i, dy) in dy.iter().enumerate() {
            let (pixel, o) = (i / op.cout, i % op.cout);
            let (n, oy, ox) = (pixel / (op.out_h() * op.out_w()), pixel / op.out_w() % op.out_h(), pixel % op.out_w());
            for (j, w) in
                out[o * op.kernel[0] * op.kernel[1] * ci..][..op.kernel[0] * op.kernel[1] * ci].iter_mut().enumerate()
            {
                let (ky, kx, c) = (j / (op.kernel[1] * ci), j / ci % op.kernel[1], j % ci);
                let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
                let xx = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
                if y < op.h && xx < op.w {
                    let v = x[((n * op.h + y) * op.w + xx) * op.cin + o / co * ci + c];
                    *w = w.wrapping_add(v.wrapping_mul(*dy));
                }
            }
        }
        out
    }

    fn check(op: &Conv2d, seed: [u8; 16], threads: usize) -> Result<(), TestCaseError> {
        let (x, dy) = (op.input().len(), op.output().len());
        let (x0, x1, dy0, dy1) = (random(seed, 1, x), random(seed, 2, x), random(seed, 3, dy), random(seed, 4, dy));
        let sum: Vec<u64> = x0.iter().zip(&x1).map(|(a, b)| a.wrapping_add(*b)).collect();
        let mut want = naive(&sum, &dy0, op);
        for (a, b) in want.iter_mut().zip(naive(&x0, &dy1, op)) {
            *a = a.wrapping_add(b);
        }
        for isa in Isa::available() {
            let cpu = Cpu::with(isa, threads);
            prop_assert_eq!(&weight_gradient(&cpu, [&x0, &x1], [&dy0, &dy1], op), &want);
        }
        Ok(())
    }

    /// Many small images with as many channels as a panel has, or twice as many.
    fn small() -> impl Strategy<Value = Conv2d> {
        let pair = |r: std::ops::Range<usize>| [r.clone(), r].prop_map(|v| v);
        let pads = [0..3usize, 0..3, 0..3, 0..3];
        (2..40usize, pair(1..6), 1..3usize, 1..20usize, pair(1..4), pair(1..3), pair(1..3), 1..3usize, pads)
            .prop_map(|(n, [h, w], ci, co, kernel, stride, dilation, groups, pad)| {
                let (cin, cout) = (16 * ci * groups, co * groups);
                Conv2d { n, h, w, cin, cout, kernel, stride, dilation, pad, groups }
            })
            .prop_filter("fits", |op| op.check().is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn equals_the_definition(op in geometry(), seed in any::<[u8; 16]>(), threads in 1usize..4) {
            check(&op, seed, threads)?;
        }
        #[test]
        fn of_small_images_too(op in small(), seed in any::<[u8; 16]>(), threads in 1usize..4) {
            check(&op, seed, threads)?;
        }
    }
}
