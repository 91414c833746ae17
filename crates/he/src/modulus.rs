//! Prime moduli with roots of unity for transforms of [`N`] points.

use crate::N;

/// Widest prime: sums of products in two halves of 52 bits, and lazy reduction, need the room.
pub const WIDEST: u32 = 50;

/// A prime p = 1 mod 2N, below 2^[`WIDEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modulus {
    /// The prime.
    pub p: u64,
    /// floor((2^128 - 1) / p).
    ratio: u128,
}

/// A fixed factor w with floor(w 2^64 / p): a product modulo p takes two multiplications (Shoup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// The factor.
    pub w: u64,
    /// Its ratio to the modulus.
    pub ratio: u64,
}

impl Modulus {
    /// Of a prime.
    #[must_use]
    pub fn new(p: u64) -> Self {
        Self { p, ratio: u128::MAX / u128::from(p) }
    }

    /// The `skip`-th largest prime of at most `bits` bits with roots of order 2N.
    #[must_use]
    pub fn below(bits: u32, skip: usize) -> Self {
        let step = 2 * N as u64;
        let candidates = (1..(1u64 << bits) / step).rev().map(|k| k * step + 1);
        let mut primes = candidates.map(Self::new).filter(Self::is_prime).skip(skip);
        // There are hundreds of them for every width from 25 bits on.
        primes.next().unwrap_or(Self::new(40961))
    }

    /// Miller and Rabin's test with bases that leave no composite below 2^64.
    fn is_prime(&self) -> bool {
        let (odd, twos) = ((self.p - 1) >> (self.p - 1).trailing_zeros(), (self.p - 1).trailing_zeros());
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].iter().all(|&base| {
            if base % self.p == 0 {
                return true;
            }
            let mut x = self.pow(base, odd);
            x == 1
                || (0..twos).any(|_| {
                    let minus_one = x == self.p - 1;
                    x = self.mul(x, x);
                    minus_one
                })
        })
    }

    /// x mod p.
    #[must_use]
    pub fn reduce(&self, x: u128) -> u64 {
        // Barrett: the quotient from the upper half of x times 2^128 / p, short of it by at most two.
        let (hi, lo) = ((x >> 64) as u64, x as u64);
        let (rhi, rlo) = ((self.ratio >> 64) as u64, self.ratio as u64);
        let middle = ((u128::from(hi) * u128::from(rlo)) >> 64) + ((u128::from(lo) * u128::from(rhi)) >> 64);
        let q = u128::from(hi) * u128::from(rhi) + middle;
        let mut r = x.wrapping_sub(q.wrapping_mul(u128::from(self.p))) as u64;
        for _ in 0..3 {
            r = r.min(r.wrapping_sub(self.p));
        }
        r
    }

    /// a b mod p.
    #[must_use]
    pub fn mul(&self, a: u64, b: u64) -> u64 {
        self.reduce(u128::from(a) * u128::from(b))
    }

    /// a + b mod p, for reduced operands.
    #[must_use]
    pub fn add(&self, a: u64, b: u64) -> u64 {
        let sum = a + b;
        sum.min(sum.wrapping_sub(self.p))
    }

    /// a - b mod p, for reduced operands.
    #[must_use]
    pub fn sub(&self, a: u64, b: u64) -> u64 {
        let difference = a.wrapping_sub(b);
        difference.min(difference.wrapping_add(self.p))
    }

    /// A small signed integer.
    #[must_use]
    pub fn signed(&self, v: i64) -> u64 {
        let r = v as u64;
        r.min(r.wrapping_add(self.p))
    }

    /// base^exponent mod p.
    #[must_use]
    pub fn pow(&self, base: u64, exponent: u64) -> u64 {
        let (mut base, mut left, mut result) = (base % self.p, exponent, 1);
        while left > 0 {
            if left & 1 == 1 {
                result = self.mul(result, base);
            }
            base = self.mul(base, base);
            left >>= 1;
        }
        result
    }

    /// 1 / a mod p.
    #[must_use]
    pub fn inverse(&self, a: u64) -> u64 {
        self.pow(a, self.p - 2)
    }

    /// A root of order 2N: the smallest power of a small base that is one.
    #[must_use]
    pub fn root(&self) -> u64 {
        let order = 2 * N as u64;
        let candidates = (2..).map(|base| self.pow(base, (self.p - 1) / order));
        candidates.into_iter().find(|r| self.pow(*r, order / 2) == self.p - 1).unwrap_or(1)
    }

    /// A factor.
    #[must_use]
    pub fn factor(&self, w: u64) -> Factor {
        Factor { w, ratio: ((u128::from(w) << 64) / u128::from(self.p)) as u64 }
    }
}

impl Factor {
    /// x w mod p, below 2p, for any x.
    #[inline]
    #[must_use]
    pub fn times(&self, x: u64, p: u64) -> u64 {
        let q = ((u128::from(self.ratio) * u128::from(x)) >> 64) as u64;
        self.w.wrapping_mul(x).wrapping_sub(q.wrapping_mul(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_have_their_roots() {
        for bits in [26, 32, 33, 47, 50] {
            for skip in 0..3 {
                let m = Modulus::below(bits, skip);
                assert!(m.p < 1 << bits && m.p > 1 << (bits - 1) && m.p % (2 * N as u64) == 1);
                assert!((2..2000).all(|d| !m.p.is_multiple_of(d)));
                let root = m.root();
                assert_eq!((m.pow(root, N as u64), m.mul(root, m.inverse(root))), (m.p - 1, 1));
            }
        }
    }

    #[test]
    fn reductions_are_right() {
        for m in [Modulus::below(26, 0), Modulus::below(50, 1)] {
            let mut x = 1u128;
            for i in 0..10_000u128 {
                x = x.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(i);
                // Sums of products stay far below this.
                let x = x >> 8;
                assert_eq!(u128::from(m.reduce(x)), x % u128::from(m.p));
                let (a, w) = (x as u64, (x >> 70) as u64 % m.p);
                let got = m.factor(w).times(a, m.p);
                assert!(got < 2 * m.p && u128::from(got % m.p) == u128::from(a) * u128::from(w) % u128::from(m.p));
            }
            assert_eq!((m.signed(-1), m.signed(3), m.sub(2, 5), m.add(m.p - 1, 1)), (m.p - 1, 3, m.p - 3, 0));
        }
    }
}
