//! Integers modulo N.

use crate::{Error, Result};

/// A modulus N of at most 2^62, a power of two or any other number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modulus(u64);

/// Bits of the largest modulus.
const MOST: u32 = 62;

impl Modulus {
    /// Z/N.
    ///
    /// # Errors
    /// Below 2 and above 2^62.
    pub fn new(n: u64) -> Result<Self> {
        if (2..=1 << MOST).contains(&n) {
            return Ok(Self(n));
        }
        Err(Error::Usage(format!("a ring of {n} elements; from 2 to 2^{MOST} are possible")))
    }

    /// N.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Bits of an element.
    #[must_use]
    pub fn bits(self) -> u32 {
        (self.0 - 1).ilog2() + 1
    }

    /// Whether N is a power of two.
    #[must_use]
    pub fn is_binary(self) -> bool {
        self.0.is_power_of_two()
    }

    /// The largest element that counts as not negative, (N - 1) / 2 rounded down; what is above stands for itself less N.
    #[must_use]
    pub fn largest(self) -> u64 {
        (self.0 - 1) / 2
    }

    /// The element of an integer.
    #[must_use]
    pub fn of(self, value: i64) -> u64 {
        i128::from(value).rem_euclid(i128::from(self.0)) as u64
    }

    /// The integer that an element stands for.
    #[must_use]
    pub fn signed(self, element: u64) -> i64 {
        if element > self.largest() { element as i64 - self.0 as i64 } else { element as i64 }
    }

    /// a + b.
    #[must_use]
    pub fn add(self, a: u64, b: u64) -> u64 {
        let sum = a + b;
        // Without a branch: elements are shares.
        let over = u64::from(sum >= self.0);
        sum - (self.0 & over.wrapping_neg())
    }

    /// -a.
    #[must_use]
    pub fn negative(self, a: u64) -> u64 {
        (self.0 - a) & u64::from(a == 0).wrapping_sub(1)
    }

    /// a - b.
    #[must_use]
    pub fn sub(self, a: u64, b: u64) -> u64 {
        self.add(a, self.negative(b))
    }

    /// c a for a public c, whose bits alone decide what is done.
    #[must_use]
    pub fn times(self, a: u64, c: u64) -> u64 {
        let (mut product, mut power, mut bits) = (0, a, c);
        while bits > 0 {
            if bits & 1 == 1 {
                product = self.add(product, power);
            }
            power = self.add(power, power);
            bits >>= 1;
        }
        product
    }

    /// An element from 128 uniform bits: its distance from uniform is at most N / 2^128.
    #[must_use]
    pub fn uniform(self, low: u64, high: u64) -> u64 {
        let n = u128::from(self.0);
        let carried = u128::from(high) * n + ((u128::from(low) * n) >> 64);
        (carried >> 64) as u64
    }
}

/// A public divisor of at most 2^62. Division itself may take a time that depends on what is divided; this takes two products.
#[derive(Clone, Copy)]
pub(super) struct Divisor {
    d: u64,
    /// 2^62 / d, rounded down.
    reciprocal: u64,
}

impl Divisor {
    pub(super) fn new(d: u64) -> Self {
        Self { d, reciprocal: (1 << MOST) / d }
    }

    /// Quotient and remainder of a number below 2^62.
    pub(super) fn divide(self, x: u64) -> (u64, u64) {
        // One too few at most: the reciprocal lacks less than one, and x is below 2^62.
        let quotient = ((u128::from(x) * u128::from(self.reciprocal)) >> MOST) as u64;
        let rest = x - quotient * self.d;
        let more = u64::from(rest >= self.d);
        (quotient + more, rest - (self.d & more.wrapping_neg()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn elements_are_integers_modulo_n() {
        for n in [2, 3, 4, 7, 64, 1 << 37, (1 << 41) - 21, (1 << 62) - 1, 1 << 62] {
            let modulus = Modulus::new(n).unwrap();
            let some = [0, 1, n / 2, modulus.largest(), n - 1];
            for a in some {
                assert_eq!(modulus.of(modulus.signed(a)), a);
                assert_eq!(modulus.add(a, modulus.negative(a)), 0);
                assert!(a < n && (n == 1 << modulus.bits() || n < 1 << modulus.bits()));
                for b in some {
                    let of = |v: i128| v.rem_euclid(i128::from(n)) as u64;
                    assert_eq!(modulus.add(a, b), of(i128::from(a) + i128::from(b)));
                    assert_eq!(modulus.sub(a, b), of(i128::from(a) - i128::from(b)));
                    assert_eq!(u128::from(modulus.times(a, b)), u128::from(a) * u128::from(b) % u128::from(n));
                }
            }
            assert_eq!((modulus.uniform(0, 0), modulus.uniform(u64::MAX, u64::MAX)), (0, n - 1));
        }
        for d in [1, 2, 3, 7, 49, 1 << 20, (1 << 40) + 1, (1 << 58) - 1] {
            for x in [0, 1, d - 1, d, d + 1, 5 * (d / 2), 12_345_678_901_234, (1 << 62) - 1] {
                assert_eq!(Divisor::new(d).divide(x), (x / d, x % d));
            }
        }
        assert!(Modulus::new(1).is_err() && Modulus::new((1 << 62) + 1).is_err());
    }
}
