//! Ring elements of any width side by side in machine words: how narrower rings travel.

use crate::Word;

/// Words that `n` elements of `bits` bits fill.
#[must_use]
pub fn packed_words(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(64)
}

/// The low `bits` bits of each element, one after the other from the lowest bit of the first word on.
#[must_use]
pub fn pack<W: Word>(x: &[W], bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let mut out = Vec::with_capacity(packed_words(x.len(), bits));
    let (mut word, mut filled) = (0u64, 0u32);
    for v in x {
        let v = v.to_i64() as u64 & mask;
        word |= v << filled;
        filled += bits;
        if filled >= 64 {
            out.push(word);
            filled -= 64;
            // What did not fit; nothing when it fitted exactly.
            word = if filled == 0 { 0 } else { v >> (bits - filled) };
        }
    }
    if filled > 0 {
        out.push(word);
    }
    out
}

/// The `n` elements that [`pack`] packed; missing words are zero.
#[must_use]
pub fn unpack<W: Word>(words: &[u64], n: usize, bits: u32) -> Vec<W> {
    let mask = u64::MAX >> (64 - bits);
    let at = |i: usize| words.get(i).copied().unwrap_or(0);
    let mut out = Vec::with_capacity(n);
    let (mut index, mut used) = (0, 0u32);
    let mut word = at(0);
    for _ in 0..n {
        let mut v = word >> used;
        used += bits;
        if used >= 64 {
            used -= 64;
            index += 1;
            word = at(index);
            if used > 0 {
                v |= word << (bits - used);
            }
        }
        out.push(W::from_i64((v & mask) as i64));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(x in prop::collection::vec(any::<u64>(), 0..200), bits in 1u32..=64) {
            let packed = pack(&x, bits);
            prop_assert_eq!(packed.len(), packed_words(x.len(), bits));
            let want: Vec<u64> = x.iter().map(|v| v & (u64::MAX >> (64 - bits))).collect();
            prop_assert_eq!(unpack::<u64>(&packed, x.len(), bits), want);
            if bits <= 32 {
                let narrow: Vec<u32> = x.iter().map(|&v| v as u32).collect();
                prop_assert_eq!(pack(&narrow, bits), packed);
            }
        }
    }
}
