//! Winograd's F(2x2, 3x3) over the ring: 16 products for four outputs instead of 36.
//!
//! The weights' transform has halves; doubled it is exact over the integers, and outputs come out times four
//! (Lavin and Gray, CVPR 2016, section 4.1, with 2G for G). Products of one position in all tiles are a matrix
//! product, which the tiles' inner-product kernel computes.

use super::Cpu;
use super::simd::dispatch;
use super::tile::{CHANNELS, Row, Taps, row};
use crate::Conv2d;
use rayon::prelude::*;

/// Tiles worked on at once: their transforms stay in the second- or third-level cache.
const TILES: usize = 64;

/// Elements between the matrices of neighbouring positions: without them, strides of whole pages would share cache sets.
const GAP: usize = 40;

/// Transformed weights of both components.
pub(super) struct Transformed {
    /// By position and 16 channels: two halves of `[w0 + w1 of each input channel, then w0][8]`.
    weights: Vec<u64>,
    /// Sums of pair products, by position and 16 channels.
    corr: Vec<[u64; CHANNELS]>,
}

/// `(2G) g (2G)^T` of a 3x3 kernel.
fn transform_weights(g: [u64; 9]) -> [u64; 16] {
    let one = |v: [u64; 3]| {
        let sum = v[0].wrapping_add(v[2]);
        [v[0].wrapping_mul(2), sum.wrapping_add(v[1]), sum.wrapping_sub(v[1]), v[2].wrapping_mul(2)]
    };
    let columns = [0, 1, 2].map(|x| one([g[x], g[3 + x], g[6 + x]]));
    let mut out = [0; 16];
    for y in 0..4 {
        out[4 * y..4 * y + 4].copy_from_slice(&one([columns[0][y], columns[1][y], columns[2][y]]));
    }
    out
}

pub(super) fn prepare(w0: &[u64], w1: &[u64], op: &Conv2d) -> Transformed {
    let (ci, co) = (op.cin, op.cout);
    let (depth, panels) = (2 * ci, co.div_ceil(CHANNELS));
    let size = depth * CHANNELS;
    let mut weights = vec![0u64; 16 * panels * size];
    let mut corr = vec![[0u64; CHANNELS]; 16 * panels];
    for c in 0..co {
        let (panel, lane) = (c / CHANNELS, c % CHANNELS);
        for i in 0..ci {
            let kernel = |w: &[u64]| std::array::from_fn(|t| w[(c * 9 + t) * ci + i]);
            let (first, second) = (transform_weights(kernel(w0)), transform_weights(kernel(w1)));
            for (position, (&a, &b)) in first.iter().zip(&second).enumerate() {
                let half = (position * panels + panel) * size + lane / 8 * size / 2;
                weights[half + i * 8 + lane % 8] = a.wrapping_add(b);
                weights[half + (ci + i) * 8 + lane % 8] = a;
            }
        }
    }
    for (panel, corr) in weights.chunks_exact(size).zip(&mut corr) {
        for (lane, corr) in corr.iter_mut().enumerate() {
            let half = &panel[lane / 8 * size / 2..][..size / 2];
            *corr = half
                .chunks_exact(16)
                .fold(0u64, |s, pair| s.wrapping_add(pair[lane % 8].wrapping_mul(pair[8 + lane % 8])));
        }
    }
    Transformed { weights, corr }
}

dispatch! {
    /// `B^T d B` of one tile, channel by channel; `out` has one slice for each of the 16 positions.
    fn transform_input(d: &[&[u64]; 16], out: &mut [&mut [u64]; 16]) {
        let n = d[0].len();
        let d: [&[u64]; 16] = std::array::from_fn(|i| &d[i][..n]);
        let [o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14, o15] = out;
        let outs = [o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14, o15];
        let outs = outs.map(|o| &mut o[..n]);
        for c in 0..n {
            let one = |v: [u64; 4]| {
                [v[0].wrapping_sub(v[2]), v[1].wrapping_add(v[2]), v[2].wrapping_sub(v[1]), v[1].wrapping_sub(v[3])]
            };
            let mut columns = [[0u64; 4]; 4];
            for x in 0..4 {
                columns[x] = one([d[x][c], d[4 + x][c], d[8 + x][c], d[12 + x][c]]);
            }
            for y in 0..4 {
                let r = one([columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
                for x in 0..4 {
                    outs[4 * y + x][c] = r[x];
                }
            }
        }
    }
}

dispatch! {
    /// `A^T m A` of one tile; `out` are the four output pixels, `None` beyond the image.
    fn transform_output(m: &[&[u64]; 16], out: [Option<&mut [u64]>; 4]) {
        let n = m[0].len();
        let m: [&[u64]; 16] = std::array::from_fn(|i| &m[i][..n]);
        for (i, out) in out.into_iter().enumerate() {
            let Some(out) = out else { continue };
            let out = &mut out[..n];
            // Rows 0, 1, 2 added, or 1 less 2 less 3; the same for columns.
            let row = |x: usize, c: usize| {
                if i < 2 {
                    m[x][c].wrapping_add(m[4 + x][c]).wrapping_add(m[8 + x][c])
                } else {
                    m[4 + x][c].wrapping_sub(m[8 + x][c]).wrapping_sub(m[12 + x][c])
                }
            };
            for (c, out) in out.iter_mut().enumerate() {
                *out = if i % 2 == 0 {
                    row(0, c).wrapping_add(row(1, c)).wrapping_add(row(2, c))
                } else {
                    row(1, c).wrapping_sub(row(2, c)).wrapping_sub(row(3, c))
                };
            }
        }
    }
}

dispatch! {
    fn pair_sums(v: &[u64], stride: usize, depth: usize, out: &mut [u64]) {
        for (v, out) in v.chunks_exact(stride).zip(out) {
            *out = v[..depth].chunks_exact(2).fold(0u64, |s, p| s.wrapping_add(p[0].wrapping_mul(p[1])));
        }
    }
}

/// Four times `conv(x0, w0 + w1) + conv(x1, w0)`.
pub(super) fn linear(cpu: &Cpu, x0: &[u64], x1: &[u64], w: &Transformed, op: &Conv2d, out: &mut [u64]) {
    let (tiles_w, tiles_h) = (op.out_w().div_ceil(2), op.out_h().div_ceil(2));
    let (row_pixels, image) = (op.out_w() * op.cout, op.out_h() * op.out_w() * op.cout);
    let rows = TILES.div_ceil(tiles_w).min(tiles_h);
    let images = out.chunks_mut(image).enumerate();
    let blocks: Vec<(usize, usize, &mut [u64])> = images
        .flat_map(|(n, out)| {
            let parts = out.chunks_mut(2 * rows * row_pixels).enumerate();
            parts.map(move |(b, out)| (n, b * rows, out))
        })
        .collect();
    let work = |(n, first, out): (usize, usize, &mut [u64])| block(cpu, [x0, x1], w, op, (n, first), out);
    if cpu.threads == 1 {
        blocks.into_iter().for_each(work);
    } else {
        cpu.run(|| blocks.into_par_iter().for_each(work));
    }
}

/// The tile rows of image `n` from `first` on whose outputs are `out`.
fn block(cpu: &Cpu, x: [&[u64]; 2], w: &Transformed, op: &Conv2d, (n, first): (usize, usize), out: &mut [u64]) {
    let (ci, co, width) = (op.cin, op.cout, op.out_w());
    let tiles_w = width.div_ceil(2);
    let out_rows = out.len() / (width * co);
    let tiles = out_rows.div_ceil(2) * tiles_w;
    let depth = 2 * ci;
    // As in the direct kernel: strides of whole kilobytes would share cache sets.
    let stride = if depth.is_multiple_of(128) { depth + 8 } else { depth };
    let zeros = vec![0u64; ci];
    let (v_size, m_size) = (tiles * stride + GAP, tiles * co + GAP);
    let mut v = vec![0u64; 16 * v_size];
    for tile in 0..tiles {
        let (top, left) = (2 * (first + tile / tiles_w), 2 * (tile % tiles_w));
        for (side, x) in x.iter().enumerate() {
            let d: [&[u64]; 16] = std::array::from_fn(|i| {
                let (y, xx) = ((top + i / 4).wrapping_sub(op.pad[0]), (left + i % 4).wrapping_sub(op.pad[1]));
                if y < op.h && xx < op.w { &x[((n * op.h + y) * op.w + xx) * ci..][..ci] } else { &zeros }
            });
            let mut positions = v.chunks_exact_mut(v_size);
            let mut to = std::array::from_fn(|_| match positions.next() {
                Some(p) => &mut p[tile * stride + side * ci..][..ci],
                None => &mut [],
            });
            transform_input(cpu.isa, &d, &mut to);
        }
    }
    let panels = co.div_ceil(CHANNELS);
    let size = depth * CHANNELS;
    let taps = Taps::all([1, 1], [0, 0], depth);
    let mut sums = vec![0u64; tiles];
    let mut m = vec![0u64; 16 * m_size];
    for (position, (v, m)) in v.chunks_exact(v_size).zip(m.chunks_exact_mut(m_size)).enumerate() {
        pair_sums(cpu.isa, v, stride, depth, &mut sums);
        for p in 0..panels {
            let panel = position * panels + p;
            row(
                cpu.isa,
                &taps,
                &mut Row {
                    x: v,
                    sx: stride,
                    w: &w.weights[panel * size..(panel + 1) * size],
                    rows: &sums,
                    corr: &w.corr[panel],
                    out: &mut m[p * CHANNELS..],
                    ldo: co,
                    lanes: CHANNELS.min(co - p * CHANNELS),
                },
            );
        }
    }
    for tile in 0..tiles {
        let (top, left) = (2 * (tile / tiles_w), 2 * (tile % tiles_w));
        let products: [&[u64]; 16] = std::array::from_fn(|i| &m[i * m_size + tile * co..][..co]);
        let (upper, lower) = out[top * width * co..].split_at_mut(width * co);
        let mut pixels = [upper, lower].into_iter().flat_map(|line| {
            let usable = line.len() / co;
            let (a, b) = line[..usable.min(width) * co].split_at_mut(((left + 1) * co).min(usable * co));
            let first = if a.is_empty() { None } else { Some(&mut a[left * co..]) };
            [first, b.get_mut(..co)]
        });
        let four = std::array::from_fn(|_| pixels.next().flatten());
        transform_output(cpu.isa, &products, four);
    }
}
