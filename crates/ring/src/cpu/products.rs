//! What convolutions and their gradients share: products of one line with itself, and the size of a block.

use super::simd::dispatch;

/// Output pixels of a block: its panels stay in the second-level cache.
pub(super) const PIXELS: usize = 128;

dispatch! {
    /// Products of neighbouring rows of eight lanes, summed.
    pub(crate) fn lane_products(rows: &[u64]) -> [u64; 8] {
        let mut sums = [0u64; 8];
        for pair in rows.chunks_exact(16) {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(pair[j].wrapping_mul(pair[8 + j]));
            }
        }
        sums
    }
}

dispatch! {
    pub(crate) fn pair_products(pixels: &[u64], stride: usize, depth: usize) -> Vec<u64> {
        pixels
            .chunks_exact(stride)
            .map(|p| p[..depth].chunks_exact(2).fold(0u64, |s, v| s.wrapping_add(v[0].wrapping_mul(v[1]))))
            .collect()
    }
}

dispatch! {
    pub(crate) fn multiply_add(out: &mut [u64], x0: &[u64], x1: &[u64], sum: &[u64], first: &[u64]) {
        for ((o, (&a, &b)), (&s, &f)) in out.iter_mut().zip(x0.iter().zip(x1)).zip(sum.iter().zip(first)) {
            *o = o.wrapping_add(a.wrapping_mul(s)).wrapping_add(b.wrapping_mul(f));
        }
    }
}
