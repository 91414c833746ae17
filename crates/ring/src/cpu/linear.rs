//! Replicated convolution: packing, the inner-product corrections, and the walk over tiles.

use super::products::{lane_products, multiply_add, pair_products};
use super::simd::dispatch;
use super::tile::{CHANNELS, Row, Taps, row};
use super::{Cpu, Isa, batch, winograd};
use crate::Conv2d;
use rayon::prelude::*;

/// Replicated weights packed for one geometry.
pub struct Panel(Kind);

enum Kind {
    /// Per group and 16 channels: two halves of `[tap][w0 + w1 of each input channel, then w0][8]`, and the
    /// pair-product sums of each tap.
    Tiled { weights: Vec<u64>, corr: Vec<[u64; CHANNELS]> },
    /// One input and one output channel per group: `[tap][channel]` of `w0 + w1`, then of `w0`.
    Depthwise { sum: Vec<u64>, first: Vec<u64> },
    /// For a convolution with a gain.
    Winograd(winograd::Transformed),
}

pub(crate) fn prepare(isa: Isa, w0: &[u64], w1: &[u64], op: &Conv2d, gain: bool) -> Panel {
    if gain && op.gain() > 1 {
        return Panel(Kind::Winograd(winograd::prepare(w0, w1, op)));
    }
    let taps = op.kernel[0] * op.kernel[1];
    if op.is_depthwise() {
        let mut sum = vec![0; taps * op.cout];
        let mut first = sum.clone();
        for c in 0..op.cout {
            for t in 0..taps {
                first[t * op.cout + c] = w0[c * taps + t];
                sum[t * op.cout + c] = w0[c * taps + t].wrapping_add(w1[c * taps + t]);
            }
        }
        return Panel(Kind::Depthwise { sum, first });
    }
    let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
    let panels = co.div_ceil(CHANNELS);
    let size = taps * 2 * ci * CHANNELS;
    let mut weights = vec![0u64; op.groups * panels * size];
    let mut corr = vec![[0u64; CHANNELS]; op.groups * panels * taps];
    for (i, (panel, corr)) in weights.chunks_exact_mut(size).zip(corr.chunks_exact_mut(taps)).enumerate() {
        let (group, within) = (i / panels, i % panels * CHANNELS);
        let channels = group * co + within..group * co + co.min(within + CHANNELS);
        let (from, to) = (channels.start * taps * ci, channels.end * taps * ci);
        fill(isa, &w0[from..to], &w1[from..to], taps, ci, panel);
        for (i, half) in panel.chunks_exact(size / 2).enumerate() {
            for (corr, tap) in corr.iter_mut().zip(half.chunks_exact(2 * ci * 8)) {
                corr[8 * i..8 * i + 8].copy_from_slice(&lane_products(isa, tap));
            }
        }
    }
    Panel(Kind::Tiled { weights, corr })
}

dispatch! {
    /// Fills the panel of up to 16 channels, whose weights follow each other.
    fn fill(w0: &[u64], w1: &[u64], taps: usize, ci: usize, panel: &mut [u64]) {
        let half = panel.len() / 2;
        let channels = w0.chunks_exact(taps * ci).zip(w1.chunks_exact(taps * ci));
        for (lane, (w0, w1)) in channels.enumerate() {
            let out = &mut panel[lane / 8 * half..][..half];
            let taps = w0.chunks_exact(ci).zip(w1.chunks_exact(ci));
            for (out, (w0, w1)) in out.chunks_exact_mut(2 * ci * 8).zip(taps) {
                let (sum, first) = out.split_at_mut(ci * 8);
                let rows = sum.chunks_exact_mut(8).zip(first.chunks_exact_mut(8));
                for ((sum, first), (a, b)) in rows.zip(w0.iter().zip(w1)) {
                    sum[lane % 8] = a.wrapping_add(*b);
                    first[lane % 8] = *a;
                }
            }
        }
    }
}

/// One image and group with both components interleaved per pixel and zero padding written out.
struct Packed {
    pixels: Vec<u64>,
    /// Elements per pixel.
    stride: usize,
    /// Pixels per row.
    width: usize,
}

fn pack(x0: &[u64], x1: &[u64], op: &Conv2d, group: usize) -> Packed {
    let ci = op.cin / op.groups;
    let depth = 2 * ci;
    // A stride that is a multiple of 1 KiB would put a tile's pixels into the same cache sets.
    let stride = if depth.is_multiple_of(128) { depth + 8 } else { depth };
    let (hp, width) = (op.h + op.pad[0] + op.pad[2], op.w + op.pad[1] + op.pad[3]);
    let mut pixels = vec![0u64; hp * width * stride];
    for y in 0..op.h {
        let rows = &mut pixels[((y + op.pad[0]) * width + op.pad[1]) * stride..][..op.w * stride];
        for (x, pixel) in rows.chunks_exact_mut(stride).enumerate() {
            let from = (y * op.w + x) * op.cin + group * ci;
            pixel[..ci].copy_from_slice(&x0[from..from + ci]);
            pixel[ci..depth].copy_from_slice(&x1[from..from + ci]);
        }
    }
    Packed { pixels, stride, width }
}

/// `x0 (w0 + w1)^T + x1 w0^T`, as scalar products of rows that lie as they came: with few rows, packing would cost more.
pub(crate) fn full(cpu: &Cpu, x: [&[u64]; 2], w: [&[u64]; 2], depth: usize) -> Vec<u64> {
    let (rows, outputs) = (x[0].len() / depth, w[0].len() / depth);
    let mut out = vec![0u64; rows * outputs];
    let row = |i: usize, out: &mut [u64]| {
        // x0 w1 + (x0 + x1) w0.
        let (x0, x1) = (&x[0][i * depth..][..depth], &x[1][i * depth..][..depth]);
        let sum: Vec<u64> = x0.iter().zip(x1).map(|(a, b)| a.wrapping_add(*b)).collect();
        let weights = w[0].chunks_exact(depth).zip(w[1].chunks_exact(depth));
        for (out, (w0, w1)) in out.iter_mut().zip(weights) {
            // Four sums, so that no product waits for another.
            let mut sums = [0u64; 4];
            let quads = |v: &[u64]| v.len() / 4 * 4;
            let whole = quads(x0);
            for k in (0..whole).step_by(4) {
                for (j, s) in sums.iter_mut().enumerate() {
                    let product = x0[k + j].wrapping_mul(w1[k + j]).wrapping_add(sum[k + j].wrapping_mul(w0[k + j]));
                    *s = s.wrapping_add(product);
                }
            }
            for k in whole..depth {
                sums[0] = sums[0].wrapping_add(x0[k].wrapping_mul(w1[k])).wrapping_add(sum[k].wrapping_mul(w0[k]));
            }
            *out = sums.iter().fold(0, |a, b| a.wrapping_add(*b));
        }
    };
    cpu.run(|| out.par_chunks_mut(outputs.max(1)).enumerate().for_each(|(i, out)| row(i, out)));
    out
}

/// `conv(x0, w0 + w1) + conv(x1, w0)`, NHWC.
pub(crate) fn linear(cpu: &Cpu, x0: &[u64], x1: &[u64], panel: &Panel, op: &Conv2d) -> Vec<u64> {
    // A pointwise layer has no notion of rows: all pixels of all images are one long row.
    let op = &if op.is_pointwise() { Conv2d { n: 1, h: 1, w: op.n * op.h * op.w, ..*op } } else { *op };
    let mut out = vec![0u64; op.output().len()];
    if let Kind::Winograd(weights) = &panel.0 {
        winograd::linear(cpu, x0, x1, weights, op, &mut out);
        return out;
    }
    if let (Kind::Tiled { weights, corr }, true) = (&panel.0, batch::pays(op)) {
        let (weights, corr) =
            (weights.chunks_exact(weights.len() / op.groups), corr.chunks_exact(corr.len() / op.groups));
        for (group, panels) in weights.zip(corr).enumerate() {
            batch::linear(cpu, [x0, x1], panels, op, group, &mut out);
        }
        return out;
    }
    let image = op.h * op.w * op.cin;
    let out_image = op.out_h() * op.out_w() * op.cout;
    for (n, out) in out.chunks_exact_mut(out_image).enumerate() {
        let (x0, x1) = (&x0[n * image..(n + 1) * image], &x1[n * image..(n + 1) * image]);
        match &panel.0 {
            Kind::Tiled { weights, corr } => {
                for group in 0..op.groups {
                    tiled(cpu, x0, x1, weights, corr, op, group, out);
                }
            }
            Kind::Depthwise { sum, first } => depthwise(cpu, x0, x1, sum, first, op, out),
            Kind::Winograd(_) => {}
        }
    }
    out
}

#[expect(clippy::too_many_arguments, reason = "the operands of one image and group")]
fn tiled(
    cpu: &Cpu,
    x0: &[u64],
    x1: &[u64],
    weights: &[u64],
    corr: &[[u64; CHANNELS]],
    op: &Conv2d,
    group: usize,
    out: &mut [u64],
) {
    let co = op.cout / op.groups;
    let packed = pack(x0, x1, op, group);
    let depth = 2 * (op.cin / op.groups);
    let step = [op.dilation[0] * packed.width * packed.stride, op.dilation[1] * packed.stride];
    let taps = Taps::all(op.kernel, step, depth);
    let count = op.kernel[0] * op.kernel[1];
    let size = count * depth * CHANNELS;
    let panels = co.div_ceil(CHANNELS);
    let corr: Vec<[u64; CHANNELS]> = corr[group * panels * count..][..panels * count]
        .chunks_exact(count)
        .map(|taps| std::array::from_fn(|lane| taps.iter().fold(0u64, |s, tap| s.wrapping_add(tap[lane]))))
        .collect();
    let sums = pair_products(cpu.isa, &packed.pixels, packed.stride, depth);
    let (oh, ow) = (op.out_h(), op.out_w());
    let mut rows = vec![0u64; oh * ow];
    for (i, r) in rows.iter_mut().enumerate() {
        let at = (i / ow * op.stride[0]) * packed.width + i % ow * op.stride[1];
        for ky in 0..op.kernel[0] {
            for kx in 0..op.kernel[1] {
                *r = r.wrapping_add(sums[at + ky * op.dilation[0] * packed.width + kx * op.dilation[1]]);
            }
        }
    }
    // Work is cut along pixels: whole rows, or pieces of the one long row of a pointwise layer.
    let piece = if oh == 1 { (ow.div_ceil(cpu.threads)).next_multiple_of(14) } else { ow };
    let block = |first: usize, out: &mut [u64]| {
        for p in 0..panels {
            let panel = group * panels + p;
            let lanes = CHANNELS.min(co - p * CHANNELS);
            for (r, out) in out.chunks_mut(piece * op.cout).enumerate() {
                let at = first + r * piece;
                let n = out.len() / op.cout;
                let from = (at / ow * op.stride[0] * packed.width + at % ow * op.stride[1]) * packed.stride;
                row(
                    cpu.isa,
                    &taps,
                    &mut Row {
                        x: &packed.pixels[from..],
                        sx: op.stride[1] * packed.stride,
                        w: &weights[panel * size..(panel + 1) * size],
                        rows: &rows[at..at + n],
                        corr: &corr[p],
                        out: &mut out[group * co + p * CHANNELS..],
                        ldo: op.cout,
                        lanes,
                    },
                );
            }
        }
    };
    if cpu.threads == 1 {
        block(0, out);
    } else {
        let pixels = (oh * ow / piece).div_ceil(cpu.threads).max(1) * piece;
        cpu.run(|| out.par_chunks_mut(pixels * op.cout).enumerate().for_each(|(i, out)| block(i * pixels, out)));
    }
}

fn depthwise(cpu: &Cpu, x0: &[u64], x1: &[u64], sum: &[u64], first: &[u64], op: &Conv2d, out: &mut [u64]) {
    let c = op.cout;
    for (oy, out) in out.chunks_exact_mut(op.out_w() * c).enumerate() {
        for (ox, out) in out.chunks_exact_mut(c).enumerate() {
            for ky in 0..op.kernel[0] {
                let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
                for kx in 0..op.kernel[1] {
                    let x = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
                    if y < op.h && x < op.w {
                        let (at, t) = ((y * op.w + x) * c, (ky * op.kernel[1] + kx) * c);
                        multiply_add(cpu.isa, out, &x0[at..at + c], &x1[at..at + c], &sum[t..t + c], &first[t..t + c]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Isa, PrgKey};
    use proptest::prelude::*;

    /// The definition, in the clear and one multiplication at a time.
    fn naive(x: &[u64], w: &[u64], op: &Conv2d) -> Vec<u64> {
        let (ci, co) = (op.cin / op.groups, op.cout / op.groups);
        let mut out = Vec::with_capacity(op.output().len());
        for n in 0..op.n {
            for oy in 0..op.out_h() {
                for ox in 0..op.out_w() {
                    for c in 0..op.cout {
                        let mut sum = 0u64;
                        for ky in 0..op.kernel[0] {
                            for kx in 0..op.kernel[1] {
                                let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
                                let xx = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
                                if y >= op.h || xx >= op.w {
                                    continue;
                                }
                                for i in 0..ci {
                                    let a = x[((n * op.h + y) * op.w + xx) * op.cin + c / co * ci + i];
                                    let b = w[((c * op.kernel[0] + ky) * op.kernel[1] + kx) * ci + i];
                                    sum = sum.wrapping_add(a.wrapping_mul(b));
                                }
                            }
                        }
                        out.push(sum);
                    }
                }
            }
        }
        out
    }

    /// Ring elements of stream `i` of a seed.
    pub(crate) fn random(mut seed: [u8; 16], i: u8, n: usize) -> Vec<u64> {
        seed[0] ^= i;
        PrgKey::new(seed).words(n)
    }

    pub(crate) fn geometry() -> impl Strategy<Value = Conv2d> {
        let pair = |r: std::ops::Range<usize>| [r.clone(), r].prop_map(|v| v);
        (
            prop_oneof![3 => 1..3usize, 1 => 3..18usize],
            pair(1..18),
            1..5usize,
            1..20usize,
            pair(1..4),
            pair(1..4),
            pair(1..3),
            0..4usize,
            any::<[bool; 4]>(),
        )
            .prop_map(|(n, [h, w], ci, co, kernel, stride, dilation, g, pad)| {
                let (groups, ci, co) = match g {
                    0 => (2, ci, co),
                    1 => (3, 1, 1),
                    _ => (1, ci, co),
                };
                let pad = pad.map(usize::from);
                Conv2d { n, h, w, cin: ci * groups, cout: co * groups, kernel, stride, dilation, pad, groups }
            })
            .prop_filter("fits", |op| op.check().is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn equals_the_definition(op in geometry(), seed in any::<[u8; 16]>(), threads in 1usize..4) {
            let (x0, x1) = (random(seed, 1, op.input().len()), random(seed, 2, op.input().len()));
            let (w0, w1) = (random(seed, 3, op.weight().len()), random(seed, 4, op.weight().len()));
            let sum: Vec<u64> = w0.iter().zip(&w1).map(|(a, b)| a.wrapping_add(*b)).collect();
            let mut want = naive(&x0, &sum, &op);
            for (a, b) in want.iter_mut().zip(naive(&x1, &w0, &op)) {
                *a = a.wrapping_add(b);
            }
            for isa in Isa::available() {
                let cpu = Cpu::with(isa, threads);
                prop_assert_eq!(&linear(&cpu, &x0, &x1, &prepare(isa, &w0, &w1, &op, false), &op), &want);
            }
        }
    }

    proptest! {
        #[test]
        fn full_layers_need_no_packing(rows in 1..5usize, k in 1..70usize, n in 1..20usize, seed in any::<[u8; 16]>()) {
            let op = Conv2d::matmul(rows, k, n);
            let (x0, x1) = (random(seed, 1, rows * k), random(seed, 2, rows * k));
            let (w0, w1) = (random(seed, 3, k * n), random(seed, 4, k * n));
            let cpu = Cpu::new(2);
            let want = linear(&cpu, &x0, &x1, &prepare(Isa::detect(), &w0, &w1, &op, false), &op);
            prop_assert_eq!(full(&cpu, [&x0, &x1], [&w0, &w1], k), want);
        }
    }

    fn winograd_geometry() -> impl Strategy<Value = Conv2d> {
        (1..4usize, 14..20usize, 14..30usize, 16..22usize, 16..36usize, 0..2usize)
            .prop_map(|(n, h, w, cin, cout, p)| Conv2d {
                n,
                h,
                w,
                cin,
                cout,
                kernel: [3, 3],
                stride: [1, 1],
                dilation: [1, 1],
                pad: [p; 4],
                groups: 1,
            })
            .prop_filter("has a gain", |op| op.gain() == 4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn with_a_gain_equals_a_multiple(op in winograd_geometry(), seed in any::<[u8; 16]>(), threads in 1usize..4) {
            let (x0, x1) = (random(seed, 1, op.input().len()), random(seed, 2, op.input().len()));
            let (w0, w1) = (random(seed, 3, op.weight().len()), random(seed, 4, op.weight().len()));
            for isa in Isa::available() {
                let cpu = Cpu::with(isa, threads);
                let plain = linear(&cpu, &x0, &x1, &prepare(isa, &w0, &w1, &op, false), &op);
                let want: Vec<u64> = plain.iter().map(|v| v.wrapping_mul(op.gain())).collect();
                prop_assert_eq!(&linear(&cpu, &x0, &x1, &prepare(isa, &w0, &w1, &op, true), &op), &want);
            }
        }
    }
}
