//! Which elements belong to which part.

/// The thirds of a tensor of `n` elements: start and length of part 0, 1 and 2. Earlier parts take the remainder.
pub(crate) fn thirds(n: usize) -> [(usize, usize); 3] {
    let len = |p: usize| n / 3 + usize::from(p < n % 3);
    [(0, len(0)), (len(0), len(1)), (len(0) + len(1), len(2))]
}

/// Words of one plane of `n` bits.
pub(crate) fn plane_words(n: usize) -> usize {
    n.div_ceil(64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn thirds_cover() {
        for n in 0..20 {
            let t = super::thirds(n);
            assert_eq!(t[0].1 + t[1].1 + t[2].1, n);
            assert_eq!((t[1].0, t[2].0), (t[0].1, t[0].1 + t[1].1));
        }
    }
}
