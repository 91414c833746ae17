//! Which values are outside a range: bit-sliced selection from dealt tables.

use super::simd::dispatch;

const LANES: usize = 8;

/// Sums of a top a and a top b (three bits each, mod 8) that are outside whatever the bits below carry: 2, 3 and 4.
const FIRST: usize = 2;
const COUNT: usize = 3;

/// For every b, the thresholds of the two thermometer bits whose xor says that a + b is outside, and whether the interval of such a
/// wraps, which turns the bit round.
const fn interval(b: usize) -> (usize, usize, bool) {
    let from = (FIRST + 8 - b) % 8;
    let to = (FIRST + COUNT + 8 - b) % 8;
    (from, to, to < from)
}

dispatch! {
    /// [`crate::Device::outliers`].
    pub(crate) fn outliers(table: &[u64], b: &[u64], first: bool) -> Vec<u64> {
        let words = b.len() / 3;
        let whole = if first { u64::MAX } else { 0 };
        let mut out = vec![0; words];
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            let (at, len) = (block * LANES, out.len());
            let load = |planes: &[u64], p: usize| {
                let mut v = [0u64; LANES];
                v[..len].copy_from_slice(&planes[p * words + at..][..len]);
                v
            };
            // Thermometer bit j says that a < j; that of zero is never set.
            let mut less = [[0u64; LANES]; 8];
            for (j, less) in less.iter_mut().enumerate().skip(1) {
                *less = load(table, j - 1);
            }
            let mut flags = [[0u64; LANES]; 8];
            for (b, flags) in flags.iter_mut().enumerate() {
                let (low, high, wraps) = interval(b);
                let turn = if wraps { whole } else { 0 };
                for i in 0..LANES {
                    flags[i] = less[low][i] ^ less[high][i] ^ turn;
                }
            }
            for bit in 0..3 {
                let b = load(b, bit);
                for j in 0..4 >> bit {
                    for i in 0..LANES {
                        flags[j][i] = flags[2 * j][i] ^ b[i] & (flags[2 * j][i] ^ flags[2 * j + 1][i]);
                    }
                }
            }
            out.copy_from_slice(&flags[0][..len]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::thermometer;
    use super::super::planes::planes;
    use super::super::polynomial::polynomial;
    use super::*;
    use crate::{Comparison, Isa, PrgKey};
    use std::ops::Range;

    /// The hash of both evaluators' shares of what is outside among a + b.
    fn hash(isa: Isa, a: &[u32], b: &[u32], within: Range<usize>) -> u64 {
        let cmp = Comparison::new(3);
        let table = thermometer(isa, &planes(isa, a, 29, 32), &cmp);
        let second: Vec<u64> = PrgKey::new([7; 16]).words(table.len());
        let first: Vec<u64> = table.iter().zip(&second).map(|(x, y)| x ^ y).collect();
        let b = planes(isa, b, 29, 32);
        let point = 0x0123_4567_89ab_cdef;
        let share = |table: &[u64], one: bool| polynomial(isa, &outliers(isa, table, &b, one), within.clone(), point);
        share(&first, true) ^ share(&second, false)
    }

    #[test]
    fn every_pair_of_tops() {
        for isa in Isa::available() {
            for (a, b) in (0..64u32).map(|i| (i / 8, i % 8)) {
                let outside = matches!((a + b) % 8, 2..=4);
                // Whatever the bits below are.
                for low in [0, (1 << 29) - 1] {
                    let found = hash(isa, &[a << 29 | low], &[b << 29 | low], 0..1) != 0;
                    assert_eq!(found, outside, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn one_among_many_is_found_where_it_is_asked_for() {
        for n in [1usize, 63, 64, 65, 700, 5000] {
            let b: Vec<u32> = PrgKey::new([3; 16]).words(n);
            let mut hashes = vec![];
            for isa in Isa::available() {
                let inside: Vec<u32> = b.iter().map(|b| 5u32.wrapping_sub(*b)).collect();
                assert_eq!(hash(isa, &inside, &b, 0..n), 0);
                for at in [0, n / 2, n - 1] {
                    let mut a = inside.clone();
                    a[at] = (3u32 << 29).wrapping_sub(b[at]);
                    let found = hash(isa, &a, &b, 0..n);
                    assert!(found != 0 && hash(isa, &a, &b, at..at + 1) != 0, "{n} {at}");
                    assert_eq!((hash(isa, &a, &b, 0..at), hash(isa, &a, &b, at + 1..n)), (0, 0), "{n} {at}");
                    hashes.push(found);
                }
            }
            // Every instruction set has the same words.
            assert!(hashes.chunks(3).all(|h| h == &hashes[..3]));
        }
    }
}
