//! Transposition of bit matrices.

/// Transposes 64 x 64 bits in place: bit j of word i goes to bit i of word j (Hacker's Delight, section 7-3).
fn square(a: &mut [u64; 64]) {
    let (mut half, mut mask) = (32, 0x0000_0000_ffff_ffffu64);
    while half > 0 {
        let mut k = 0;
        while k < 64 {
            let t = (a[k] >> half ^ a[k + half]) & mask;
            a[k] ^= t << half;
            a[k + half] ^= t;
            k = (k + half + 1) & !half;
        }
        half >>= 1;
        mask ^= mask << half;
    }
}

/// Columns of 128 rows, `words` words of 64 columns each: element j has bit i of row i's column j.
pub(crate) fn columns(rows: &[u64], words: usize, out: &mut Vec<u128>) {
    debug_assert_eq!(rows.len(), 128 * words);
    for w in 0..words {
        let [mut low, mut high] =
            [0, 64].map(|first| std::array::from_fn::<u64, 64, _>(|i| rows[(first + i) * words + w]));
        square(&mut low);
        square(&mut high);
        out.extend(low.iter().zip(&high).map(|(l, h)| u128::from(*l) | u128::from(*h) << 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    #[test]
    fn bits_are_where_they_belong() {
        let words = 3;
        let rows = Stream::new([1; 16]).words(128 * words);
        let mut out = vec![];
        columns(&rows, words, &mut out);
        assert_eq!(out.len(), 64 * words);
        for (j, column) in out.iter().enumerate() {
            for i in 0..128 {
                assert_eq!((column >> i & 1) as u64, rows[i * words + j / 64] >> (j % 64) & 1);
            }
        }
    }
}
