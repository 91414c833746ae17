//! How large the modulus must be, and what an answer's error is.
//!
//! An answer is 2^k C / q rounded, with k = w + g for results of w bits and g guard bits. Its error, in units of the lowest guard bit:
//! the rounding of C_0 and of the client's product, a half each; and rounding of C_1 to k + 8 bits (deviation at most
//! sqrt(2N / 3 / 12) / 256 = 0.06) with the scheme's noise, which the choice of q keeps below a deviation of 0.053: together below 0.75 at
//! 9.5 deviations, which is exceeded with probability 2^-69 a coefficient. So it is below 1.75 for one answer, 3.5 for two.

use crate::N;
use crate::modulus::WIDEST;

/// Bits of C_1 beyond those of the result.
pub const EXTRA: u32 = 8;

/// Deviation of a fresh ciphertext's error: a centred binomial of 21 pairs (3.24), and the message's rounding up or down by chance, at
/// most a half.
const SIGMA: f64 = 3.28;

/// Deviations that no coefficient exceeds.
const TAIL: f64 = 9.5;

/// Largest modulus, in bits, at N = 4096 and secrets in {-1, 0, 1} for 128 bits of security (homomorphic encryption standard, 2018, table 1).
pub const MOST: u32 = 109;

/// A modulus of two primes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Bits of each of the two primes, which are the largest there are.
    pub prime_bits: u32,
}

/// Guard bits of a sum of so many answers: the error stays below half of 2^guard.
#[must_use]
pub fn guard(answers: usize) -> u32 {
    (2 * answers as u32).next_power_of_two().trailing_zeros() + 1
}

/// Largest noise of an answer, in the units of q: weights below 2^(bits - 1) in magnitude, so many of them in an answer; the terms of
/// its re-randomisation.
#[must_use]
pub fn noise(weight_bits: u32, weights: usize) -> f64 {
    let own = TAIL * SIGMA * 2f64.powi(weight_bits as i32 - 1) * (weights as f64).sqrt();
    let fresh = TAIL * SIGMA * (4.0 / 3.0 * N as f64).sqrt();
    own + fresh
}

impl Params {
    /// The smallest modulus for answers of `bits` = w + g bits with this noise; nothing when none is large enough.
    #[must_use]
    pub fn new(bits: u32, noise: f64) -> Option<Self> {
        // Half of what the roundings leave: noise 2^bits / q is at most a half. The primes are the largest below a power of two; from 26 bits on
        // the product lacks less than a hundredth of a bit. Powers of two, products and roots are exact to the last bit on every machine, as
        // logarithms are not: both ends must find the same.
        let enough = |prime_bits: u32| 2f64.powi(2 * prime_bits as i32 - bits as i32 - 1) * 0.993 >= noise;
        let prime_bits = (26..=WIDEST.min(MOST / 2)).find(|bits| enough(*bits))?;
        (bits + EXTRA <= 64).then_some(Self { prime_bits })
    }

    /// The smallest one that serves both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { prime_bits: self.prime_bits.max(other.prime_bits) }
    }

    /// Words of a polynomial modulo q.
    #[must_use]
    pub fn words(&self) -> usize {
        N / 64 * 2 * self.prime_bits as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modulus::Modulus;

    #[test]
    fn the_modulus_is_as_the_rule_says() {
        // 3 x 3 x 512 weights of 13 bits, three outputs to an answer.
        let p = Params::new(39, noise(13, 3 * 4608)).map(|p| p.prime_bits);
        assert_eq!(p, Some(32));
        for bits in [26, 32, 40, 50] {
            let [a, b] = [0, 1].map(|skip| (Modulus::below(bits, skip).p as f64).log2());
            assert!(a + b > f64::from(2 * bits) - 0.01);
        }
        assert!(Params::new(57, 2.0).is_none() && Params::new(56, 2f64.powi(44)).is_none());
        assert_eq!((guard(1), guard(2), guard(3), guard(4)), (2, 3, 4, 4));
    }
}
