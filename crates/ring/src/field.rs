//! The field GF(2^64) = GF(2)[x] / (x^64 + x^4 + x^3 + x + 1), for hashes that are linear in bits. A word's bit i is the coefficient of x^i.

/// The product.
#[must_use]
pub fn times(a: u64, b: u64) -> u64 {
    let mut power = b;
    let mut sum = 0;
    for bit in 0..64 {
        sum ^= power & (a >> bit & 1).wrapping_neg();
        power = twice(power);
    }
    sum
}

/// Times x.
pub(crate) fn twice(a: u64) -> u64 {
    (a << 1) ^ (0x1b & (a >> 63).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrgKey;

    #[test]
    fn a_field() {
        let words: Vec<u64> = PrgKey::new([9; 16]).words(300);
        for w in words.chunks(3) {
            assert_eq!(times(w[0], w[1]), times(w[1], w[0]));
            assert_eq!(times(w[0] ^ w[1], w[2]), times(w[0], w[2]) ^ times(w[1], w[2]));
            assert_eq!(times(times(w[0], w[1]), w[2]), times(w[0], times(w[1], w[2])));
            // The multiplicative group has 2^64 - 1 elements: a^(2^64) = a.
            assert_eq!((0..64).fold(w[0], |a, _| times(a, a)), w[0]);
        }
        // x^64 is what the modulus says.
        assert_eq!((times(1 << 63, 2), times(7, 1)), (0x1b, 7));
        // x has the order of the whole group, which only a primitive modulus gives it.
        let order_divides = |n: u64| {
            let mut power = 1;
            let mut square = 2;
            for bit in 0..64 {
                if n >> bit & 1 == 1 {
                    power = times(power, square);
                }
                square = times(square, square);
            }
            power == 1
        };
        assert!(order_divides(u64::MAX));
        // 2^64 - 1 = 3 5 17 257 641 65537 6700417.
        assert!([3, 5, 17, 257, 641, 65537, 6_700_417].iter().all(|p| !order_divides(u64::MAX / p)));
    }
}
