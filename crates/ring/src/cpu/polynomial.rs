//! A hash of bits that is linear in them: a polynomial over GF(2^64), by lanes.

use super::simd::{Isa, dispatch};
use crate::lanes::{LANES, LanePoint};
use std::ops::Range;

/// [`crate::Device::polynomial`].
pub(crate) fn polynomial(isa: Isa, plane: &[u64], within: Range<usize>, point: u64) -> u64 {
    if within.is_empty() {
        return 0;
    }
    let point = LanePoint::new(point);
    point.joined(hashed(isa, plane, within, &point.multiples()))
}

dispatch! {
    /// Words by lanes, each lane a polynomial in the point whose multiples by powers of x are given.
    fn hashed(plane: &[u64], within: Range<usize>, multiples: &[u64; 64]) -> [u64; 8] {
        let mut sum = [0u64; LANES];
        let (from, to) = (within.start / 64, within.end.div_ceil(64));
        for (block, words) in plane[from..to].chunks(LANES).enumerate() {
            let mut next = [0u64; LANES];
            next[..words.len()].copy_from_slice(words);
            // Bits of other elements than those asked for do not count.
            for (i, word) in next.iter_mut().enumerate().take(words.len()) {
                let start = 64 * (from + block * LANES + i);
                if within.start > start {
                    *word &= u64::MAX << (within.start - start);
                }
                if within.end < start + 64 {
                    *word &= u64::MAX >> (start + 64 - within.end);
                }
            }
            for (bit, &m) in multiples.iter().enumerate() {
                for i in 0..LANES {
                    next[i] ^= m & (sum[i] >> bit & 1).wrapping_neg();
                }
            }
            sum = next;
        }
        sum
    }
}
