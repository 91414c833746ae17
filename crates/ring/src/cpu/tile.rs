//! Vector micro-kernels. With `simd` this is the only module with `unsafe`: raw loads and stores whose bounds the
//! safe entry points check.

use super::simd::{Isa, Level};

/// Output channels a packed panel holds.
pub(crate) const CHANNELS: usize = 16;

/// What one tile reads: a rectangle of kernel positions, each a run of `depth` (even) elements per pixel.
pub(crate) struct Taps {
    /// Height and width of the rectangle.
    pub(crate) kernel: [usize; 2],
    /// Elements between neighbouring kernel rows and columns in the packed input.
    pub(crate) step: [usize; 2],
    /// Elements per pixel and tap.
    pub(crate) depth: usize,
    /// Height and width of the kernel in the packed weights.
    pub(crate) of: [usize; 2],
    /// The rectangle's first row and column within it.
    pub(crate) first: [usize; 2],
}

impl Taps {
    /// A whole kernel.
    pub(crate) fn all(kernel: [usize; 2], step: [usize; 2], depth: usize) -> Self {
        Self { kernel, step, depth, of: kernel, first: [0, 0] }
    }
    /// Packed weights of eight channels.
    fn half(&self) -> usize {
        self.of[0] * self.of[1] * self.depth * CHANNELS / 2
    }
    /// Where the weights of one tap of the rectangle begin within a half.
    fn weights(&self, ky: usize, kx: usize) -> usize {
        ((self.first[0] + ky) * self.of[1] + self.first[1] + kx) * self.depth * CHANNELS / 2
    }
    /// True when nothing that `n` pixels, `sx` apart, read of inputs and weights lies beyond buffers of these lengths. Sizes
    /// that overflow lie beyond any.
    fn within(&self, n: usize, sx: usize, inputs: usize, weights: usize) -> bool {
        let inside = |axis: usize| {
            let end = self.first[axis].checked_add(self.kernel[axis]);
            self.kernel[axis] > 0 && end.is_some_and(|end| end <= self.of[axis])
        };
        let [ky, kx] = self.kernel;
        self.depth.is_multiple_of(2)
            && inside(0)
            && inside(1)
            && end(&[(ky - 1, self.step[0]), (kx - 1, self.step[1]), (n - 1, sx), (1, self.depth)], inputs)
            && self.of[0]
                .checked_mul(self.of[1])
                .is_some_and(|taps| self.depth.checked_mul(CHANNELS).is_some_and(|size| end(&[(taps, size)], weights)))
    }
}

/// True when the sum of the products is at most `len`.
fn end(products: &[(usize, usize)], len: usize) -> bool {
    let sum = products.iter().try_fold(0usize, |sum, (a, b)| sum.checked_add(a.checked_mul(*b)?));
    sum.is_some_and(|sum| sum <= len)
}

/// One row of output pixels (of one image, or the same pixel of many) for one panel of up to 16 channels:
/// `out[r * ldo + j] = sum_k x[r * sx + tap(k)] w[k][j]`, by the inner-product form
/// (Winograd 1968): pairs contribute `(x1 + w2)(x2 + w1)`, and the sums of `x1 x2` (`rows`) and `w1 w2` (`corr`)
/// are taken off. Half the multiplications of the plain form; exact, because the ring is commutative.
pub(crate) struct Row<'a> {
    /// Packed input from the first pixel's first tap on.
    pub(crate) x: &'a [u64],
    /// Elements between the inputs of neighbouring output pixels.
    pub(crate) sx: usize,
    /// Packed weights, two halves of eight channels: `[half][tap][depth][8]`.
    pub(crate) w: &'a [u64],
    /// Sum of pair products of each pixel's inputs.
    pub(crate) rows: &'a [u64],
    /// Sum of pair products of each channel's weights, of the rectangle's taps.
    pub(crate) corr: &'a [u64; CHANNELS],
    /// Output from the first pixel's first channel on.
    pub(crate) out: &'a mut [u64],
    /// Elements between neighbouring pixels of the output.
    pub(crate) ldo: usize,
    /// Channels to write, 1 to 16.
    pub(crate) lanes: usize,
}

/// Computes a row of `row.rows.len()` pixels.
pub(crate) fn row(isa: Isa, taps: &Taps, row: &mut Row<'_>) {
    let n = row.rows.len();
    if n == 0 {
        return;
    }
    // These bounds are what the unchecked accesses below rely on.
    assert!(taps.within(n, row.sx, row.x.len(), row.w.len()));
    assert!((1..=CHANNELS).contains(&row.lanes) && end(&[(n - 1, row.ldo), (1, row.lanes)], row.out.len()));
    let mut at = 0;
    macro_rules! tiles {
        ($kernel:ident, $($size:literal),*) => {{
            // Each size in turn takes as many whole tiles as fit.
            $(while n - at >= $size {
                // SAFETY: the level was detected, and the asserts above bound all accesses of pixels at .. at + size.
                unsafe { $kernel::<$size>(taps, row, at) };
                at += $size;
            })*
        }};
    }
    match isa.0 {
        Level::Portable => {
            while at < n {
                portable(taps, row, at);
                at += 1;
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2_row(taps, row),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => tiles!(avx512, 14, 7, 4, 2, 1),
    }
}

fn portable(taps: &Taps, row: &mut Row<'_>, at: usize) {
    let mut acc = [0u64; CHANNELS];
    let (first, second) = row.w.split_at(taps.half());
    for ky in 0..taps.kernel[0] {
        for kx in 0..taps.kernel[1] {
            let from = at * row.sx + ky * taps.step[0] + kx * taps.step[1];
            let weights = first.chunks_exact(CHANNELS).zip(second.chunks_exact(CHANNELS));
            let weights = weights.skip(taps.weights(ky, kx) / CHANNELS);
            for (x, (low, high)) in row.x[from..from + taps.depth].chunks_exact(2).zip(weights) {
                for j in 0..CHANNELS {
                    let w = if j < 8 { low } else { high };
                    let product = x[0].wrapping_add(w[8 + j % 8]).wrapping_mul(x[1].wrapping_add(w[j % 8]));
                    acc[j] = acc[j].wrapping_add(product);
                }
            }
        }
    }
    let out = &mut row.out[at * row.ldo..][..row.lanes];
    for ((out, acc), corr) in out.iter_mut().zip(acc).zip(row.corr) {
        *out = acc.wrapping_sub(row.rows[at]).wrapping_sub(*corr);
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// # Safety
/// The processor has AVX-512 F, DQ and VL, and the bounds asserted in [`row`] hold for pixels `at .. at + MR`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
unsafe fn avx512<const MR: usize>(taps: &Taps, row: &mut Row<'_>, at: usize) {
    let mut acc = [[_mm512_setzero_si512(); 2]; MR];
    let half = taps.half();
    // SAFETY: as stated above.
    let base = unsafe { row.x.as_ptr().add(at * row.sx) };
    for ky in 0..taps.kernel[0] {
        for kx in 0..taps.kernel[1] {
            // SAFETY: `Taps::within` holds for these offsets.
            let (x, mut w) =
                unsafe { (base.add(ky * taps.step[0] + kx * taps.step[1]), row.w.as_ptr().add(taps.weights(ky, kx))) };
            let mut k = 0;
            while k < taps.depth {
                // SAFETY: `w` advances by 16 for each pair of one tap, which lies within `Taps::half`; `x` is read at
                // r * sx + k + 1 with k + 1 < depth.
                unsafe {
                    let w1 = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(half).cast())];
                    let w2 = [_mm512_loadu_si512(w.add(8).cast()), _mm512_loadu_si512(w.add(half + 8).cast())];
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let x1 = _mm512_set1_epi64(*x.add(r * row.sx + k) as i64);
                        let x2 = _mm512_set1_epi64(*x.add(r * row.sx + k + 1) as i64);
                        for v in 0..2 {
                            let product = _mm512_mullo_epi64(_mm512_add_epi64(x1, w2[v]), _mm512_add_epi64(x2, w1[v]));
                            acc[v] = _mm512_add_epi64(acc[v], product);
                        }
                    }
                    w = w.add(CHANNELS);
                }
                k += 2;
            }
        }
    }
    let mask = ((1u32 << row.lanes) - 1) as u16;
    // SAFETY: `corr` has 16 elements; each pixel's store is masked to `lanes` channels within `out`.
    unsafe {
        let c = row.corr.as_ptr();
        let corr = [_mm512_loadu_si512(c.cast()), _mm512_loadu_si512(c.add(8).cast())];
        for (r, acc) in acc.iter().enumerate() {
            let rows = _mm512_set1_epi64(row.rows[at + r] as i64);
            let out = row.out.as_mut_ptr().add((at + r) * row.ldo);
            for v in 0..2 {
                let value = _mm512_sub_epi64(_mm512_sub_epi64(acc[v], rows), corr[v]);
                _mm512_mask_storeu_epi64(out.wrapping_add(8 * v).cast(), (mask >> (8 * v)) as u8, value);
            }
        }
    }
}

/// Weights of one pass: so many input elements by eight channels stay in the first-level cache.
#[cfg(target_arch = "x86_64")]
const AVX2_DEPTH: usize = 256;

/// Pixels of one block: fewer would read the weights more often than they save.
#[cfg(target_arch = "x86_64")]
const AVX2_PIXELS: usize = 256;

/// A row in passes over the depth, each of which adds to sums in memory.
#[cfg(target_arch = "x86_64")]
fn avx2_row(taps: &Taps, row: &mut Row<'_>) {
    let mut sums = vec![[0u64; CHANNELS]; row.rows.len()];
    for (block, sums) in sums.chunks_mut(AVX2_PIXELS).enumerate() {
        for (half, w) in row.w.chunks_exact(taps.half()).take(row.lanes.div_ceil(8)).enumerate() {
            avx2_block(taps, row, block * AVX2_PIXELS, w, half, sums);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut row.out[r * row.ldo..][..row.lanes];
        for ((out, sum), corr) in out.iter_mut().zip(sums).zip(row.corr) {
            *out = sum.wrapping_sub(row.rows[r]).wrapping_sub(*corr);
        }
    }
}

/// Adds to the sums of the pixels from `first` on what half a panel's weights `w` contribute.
#[cfg(target_arch = "x86_64")]
fn avx2_block(taps: &Taps, row: &Row<'_>, first: usize, w: &[u64], half: usize, sums: &mut [[u64; CHANNELS]]) {
    for ky in 0..taps.kernel[0] {
        for kx in 0..taps.kernel[1] {
            let tap = ky * taps.step[0] + kx * taps.step[1];
            let mut w = &w[taps.weights(ky, kx)..];
            for k in (0..taps.depth).step_by(AVX2_DEPTH) {
                let depth = AVX2_DEPTH.min(taps.depth - k);
                let (now, rest) = w.split_at(depth * CHANNELS / 2);
                w = rest;
                for (pair, sums) in sums.chunks_mut(2).enumerate() {
                    let x = &row.x[(first + 2 * pair) * row.sx + tap + k..];
                    // SAFETY: the level was detected. `x` reaches `depth` elements from each of the pixels' starts,
                    // which `row` asserted; `now` has `depth` rows of eight; half is 0 or 1.
                    unsafe {
                        match sums {
                            [a, b] => avx2::<2>(x, row.sx, now, depth, [a, b], half),
                            [a] => avx2::<1>(x, row.sx, now, depth, [a], half),
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

/// 64-bit products by one 32x32 multiplication for the low halves and one 32-bit multiplication against swapped halves
/// for the cross terms, which are summed on their own and folded in at the end. Eight channels of MR pixels: four
/// accumulators per pixel leave registers for the operands.
///
/// # Safety
/// The processor has AVX2; `x` has `(MR - 1) * sx + depth` elements and `w` `depth * 8`; `half` is 0 or 1.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const MR: usize>(
    x: &[u64],
    sx: usize,
    w: &[u64],
    depth: usize,
    sums: [&mut [u64; CHANNELS]; MR],
    half: usize,
) {
    let zero = _mm256_setzero_si256();
    let mut low = [[zero; 2]; MR];
    let mut cross = [[zero; 2]; MR];
    let (x, mut w) = (x.as_ptr(), w.as_ptr());
    for k in (0..depth).step_by(2) {
        // SAFETY: as stated above; `w` advances by 16 for each pair of the depth.
        unsafe {
            let w1 = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(4).cast())];
            let w2 = [_mm256_loadu_si256(w.add(8).cast()), _mm256_loadu_si256(w.add(12).cast())];
            for r in 0..MR {
                let x1 = _mm256_set1_epi64x(*x.add(r * sx + k) as i64);
                let x2 = _mm256_set1_epi64x(*x.add(r * sx + k + 1) as i64);
                for v in 0..2 {
                    let a = _mm256_add_epi64(x1, w2[v]);
                    let b = _mm256_add_epi64(x2, w1[v]);
                    let swapped = _mm256_shuffle_epi32::<0xB1>(b);
                    low[r][v] = _mm256_add_epi64(low[r][v], _mm256_mul_epu32(a, b));
                    cross[r][v] = _mm256_add_epi32(cross[r][v], _mm256_mullo_epi32(a, swapped));
                }
            }
        }
        w = w.wrapping_add(CHANNELS);
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for v in 0..2 {
            let c = _mm256_add_epi32(cross[r][v], _mm256_srli_epi64::<32>(cross[r][v]));
            let sum = _mm256_add_epi64(low[r][v], _mm256_slli_epi64::<32>(c));
            // SAFETY: four elements at 8 half + 4 v of sixteen.
            unsafe {
                let to = sums.as_mut_ptr().add(8 * half + 4 * v);
                _mm256_storeu_si256(to.cast(), _mm256_add_epi64(_mm256_loadu_si256(to.cast()), sum));
            }
        }
    }
}

/// Bit planes of 32-bit elements by vector bit tests.
#[cfg(target_arch = "x86_64")]
pub(crate) fn planes32(isa: Isa, x: &[u32], from: u32, to: u32) -> Vec<u64> {
    assert!(isa.0 == Level::Avx512 && from <= to && to <= 32);
    let words = x.len().div_ceil(64);
    let mut out = vec![0u64; words * (to - from) as usize];
    for (w, chunk) in x.chunks(64).enumerate() {
        let mut block = [0u32; 64];
        block[..chunk.len()].copy_from_slice(chunk);
        let mut planes = [0; 32];
        let planes = &mut planes[..(to - from) as usize];
        // SAFETY: the level was detected.
        unsafe { planes32_block(&block, from, planes) };
        for (p, &plane) in planes.iter().enumerate() {
            out[p * words + w] = plane;
        }
    }
    out
}

/// The planes from one on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn planes32_block(block: &[u32; 64], from: u32, planes: &mut [u64]) {
    let mut v = [_mm512_setzero_si512(); 4];
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: sixteen elements at 16 i of 64.
        *v = unsafe { _mm512_loadu_si512(block.as_ptr().add(16 * i).cast()) };
    }
    let mut bit = _mm512_set1_epi32((1u32 << from.min(31)) as i32);
    for plane in planes {
        *plane = 0;
        for (i, &v) in v.iter().enumerate() {
            *plane |= u64::from(_mm512_test_epi32_mask(v, bit)) << (16 * i);
        }
        bit = _mm512_slli_epi32::<1>(bit);
    }
}
