//! Vector micro-kernels. With `simd` this is the only module with `unsafe`: raw loads and stores whose bounds the
//! safe entry points check.

use super::simd::{Isa, Level};

/// Output channels a packed panel holds.
pub(crate) const CHANNELS: usize = 16;

/// What one tile reads: `taps` kernel positions, each a run of `depth` (even) elements per pixel.
pub(crate) struct Taps {
    /// Kernel height and width.
    pub(crate) kernel: [usize; 2],
    /// Elements between neighbouring kernel rows and columns in the packed input.
    pub(crate) step: [usize; 2],
    /// Elements per pixel and tap.
    pub(crate) depth: usize,
}

impl Taps {
    /// Elements from the first to one past the last that a pixel reads.
    fn reach(&self) -> usize {
        (self.kernel[0] - 1) * self.step[0] + (self.kernel[1] - 1) * self.step[1] + self.depth
    }
    fn weights(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.depth * CHANNELS
    }
}

/// One row of output pixels for one panel of up to 16 channels:
/// `out[r * ldo + j] = sum_k x[r * sx + tap(k)] w[k][j]`, by the inner-product form
/// (Winograd 1968): pairs contribute `(x1 + w2)(x2 + w1)`, and the sums of `x1 x2` (`rows`) and `w1 w2` (`corr`)
/// are taken off. Half the multiplications of the plain form; exact, because the ring is commutative.
pub(crate) struct Row<'a> {
    /// Packed input from the first pixel on.
    pub(crate) x: &'a [u64],
    /// Elements between the inputs of neighbouring output pixels.
    pub(crate) sx: usize,
    /// Packed weights `[tap][depth][16]`.
    pub(crate) w: &'a [u64],
    /// Sum of pair products of each pixel's inputs.
    pub(crate) rows: &'a [u64],
    /// Sum of pair products of each channel's weights.
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
    assert!(row.x.len() >= (n - 1) * row.sx + taps.reach());
    assert!(row.w.len() >= taps.weights() && taps.depth.is_multiple_of(2));
    assert!((1..=CHANNELS).contains(&row.lanes) && row.out.len() >= (n - 1) * row.ldo + row.lanes);
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
        Level::Avx2 => tiles!(avx2, 2, 1),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => tiles!(avx512, 14, 7, 4, 2, 1),
    }
}

fn portable(taps: &Taps, row: &mut Row<'_>, at: usize) {
    let mut acc = [0u64; CHANNELS];
    let mut weights = row.w.chunks_exact(2 * CHANNELS);
    for ky in 0..taps.kernel[0] {
        for kx in 0..taps.kernel[1] {
            let from = at * row.sx + ky * taps.step[0] + kx * taps.step[1];
            for (x, w) in row.x[from..from + taps.depth].chunks_exact(2).zip(&mut weights) {
                for j in 0..CHANNELS {
                    let product = x[0].wrapping_add(w[CHANNELS + j]).wrapping_mul(x[1].wrapping_add(w[j]));
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
    let mut w = row.w.as_ptr();
    // SAFETY: as stated above.
    let base = unsafe { row.x.as_ptr().add(at * row.sx) };
    for ky in 0..taps.kernel[0] {
        for kx in 0..taps.kernel[1] {
            // SAFETY: the offset is below `Taps::reach`.
            let x = unsafe { base.add(ky * taps.step[0] + kx * taps.step[1]) };
            let mut k = 0;
            while k < taps.depth {
                // SAFETY: `w` advances by 32 for each pair of each tap, `Taps::weights` in all; `x` is read at
                // r * sx + k + 1 with k + 1 < depth.
                unsafe {
                    let w1 = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(8).cast())];
                    let w2 = [_mm512_loadu_si512(w.add(16).cast()), _mm512_loadu_si512(w.add(24).cast())];
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let x1 = _mm512_set1_epi64(*x.add(r * row.sx + k) as i64);
                        let x2 = _mm512_set1_epi64(*x.add(r * row.sx + k + 1) as i64);
                        for v in 0..2 {
                            let product = _mm512_mullo_epi64(_mm512_add_epi64(x1, w2[v]), _mm512_add_epi64(x2, w1[v]));
                            acc[v] = _mm512_add_epi64(acc[v], product);
                        }
                    }
                    w = w.add(2 * CHANNELS);
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

/// 64-bit products by one 32x32 multiplication for the low halves and one 32-bit multiplication against swapped halves
/// for the cross terms, which are summed on their own and folded in at the end.
///
/// # Safety
/// The processor has AVX2, and the bounds asserted in [`row`] hold for pixels `at .. at + MR`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const MR: usize>(taps: &Taps, row: &mut Row<'_>, at: usize) {
    // Eight channels at a time: four accumulators per pixel leave registers for the operands.
    for half in 0..2 {
        if half * 8 >= row.lanes {
            break;
        }
        let zero = _mm256_setzero_si256();
        let mut low = [[zero; 2]; MR];
        let mut cross = [[zero; 2]; MR];
        // SAFETY: as stated above.
        let base = unsafe { row.x.as_ptr().add(at * row.sx) };
        let mut w = row.w[half * 8..].as_ptr();
        for ky in 0..taps.kernel[0] {
            for kx in 0..taps.kernel[1] {
                // SAFETY: the offset is below `Taps::reach`.
                let x = unsafe { base.add(ky * taps.step[0] + kx * taps.step[1]) };
                let mut k = 0;
                while k < taps.depth {
                    // SAFETY: as in `avx512`, within the half panel.
                    unsafe {
                        let w1 = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(4).cast())];
                        let w2 = [_mm256_loadu_si256(w.add(16).cast()), _mm256_loadu_si256(w.add(20).cast())];
                        for r in 0..MR {
                            let x1 = _mm256_set1_epi64x(*x.add(r * row.sx + k) as i64);
                            let x2 = _mm256_set1_epi64x(*x.add(r * row.sx + k + 1) as i64);
                            for v in 0..2 {
                                let a = _mm256_add_epi64(x1, w2[v]);
                                let b = _mm256_add_epi64(x2, w1[v]);
                                let swapped = _mm256_shuffle_epi32::<0xB1>(b);
                                low[r][v] = _mm256_add_epi64(low[r][v], _mm256_mul_epu32(a, b));
                                cross[r][v] = _mm256_add_epi32(cross[r][v], _mm256_mullo_epi32(a, swapped));
                            }
                        }
                    }
                    w = w.wrapping_add(2 * CHANNELS);
                    k += 2;
                }
            }
        }
        for r in 0..MR {
            let mut lanes = [0u64; 8];
            for v in 0..2 {
                let c = _mm256_add_epi32(cross[r][v], _mm256_srli_epi64::<32>(cross[r][v]));
                let sum = _mm256_add_epi64(low[r][v], _mm256_slli_epi64::<32>(c));
                // SAFETY: four elements at 4 v of eight.
                unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().add(4 * v).cast(), sum) };
            }
            let channels = half * 8..row.lanes.min(half * 8 + 8);
            let out = &mut row.out[(at + r) * row.ldo..][channels.clone()];
            for ((out, lane), corr) in out.iter_mut().zip(lanes).zip(&row.corr[channels]) {
                *out = lane.wrapping_sub(row.rows[at + r]).wrapping_sub(*corr);
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
        // SAFETY: the level was detected.
        let planes = unsafe { planes32_block(&block) };
        for p in from..to {
            out[(p - from) as usize * words + w] = planes[p as usize];
        }
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn planes32_block(block: &[u32; 64]) -> [u64; 32] {
    let mut v = [_mm512_setzero_si512(); 4];
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: sixteen elements at 16 i of 64.
        *v = unsafe { _mm512_loadu_si512(block.as_ptr().add(16 * i).cast()) };
    }
    let mut bit = _mm512_set1_epi32(1);
    let mut out = [0; 32];
    for plane in &mut out {
        for (i, &v) in v.iter().enumerate() {
            *plane |= u64::from(_mm512_test_epi32_mask(v, bit)) << (16 * i);
        }
        bit = _mm512_slli_epi32::<1>(bit);
    }
    out
}
