//! Numbers of a few bits as they travel.

/// A bit of many that stand in words.
pub(crate) fn bit(words: &[u64], at: usize) -> u64 {
    words[at / 64] >> (at % 64) & 1
}

/// Numbers of so many bits each, one after the other in words.
pub(crate) fn packed(values: impl IntoIterator<Item = u64>, bits: u32) -> Vec<u64> {
    let (mut words, mut word, mut filled) = (vec![], 0u64, 0);
    for v in values {
        word |= v << filled;
        if filled + bits >= 64 {
            words.push(word);
            // What did not fit.
            word = if filled + bits > 64 { v >> (64 - filled) } else { 0 };
        }
        filled = (filled + bits) % 64;
    }
    if filled > 0 {
        words.push(word);
    }
    words
}

/// Words of so many such numbers.
pub(crate) fn packed_words(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(64)
}

/// The numbers again.
pub(crate) fn unpacked(words: &[u64], n: usize, bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let one = |i: usize| {
        let (at, from) = (i * bits as usize / 64, (i * bits as usize % 64) as u32);
        let high = if from + bits > 64 { words[at + 1] << (64 - from) } else { 0 };
        (words[at] >> from | high) & mask
    };
    (0..n).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for bits in [1, 2, 3, 7, 32, 41, 63, 64] {
            let mask = u64::MAX >> (64 - bits);
            let values: Vec<u64> = (0..150u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask).collect();
            let words = packed(values.iter().copied(), bits);
            assert_eq!((words.len(), unpacked(&words, 150, bits)), (packed_words(150, bits), values));
        }
    }
}
