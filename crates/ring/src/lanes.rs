//! How a polynomial over GF(2^64) is hashed by lanes: what all devices have in common.

use crate::field::{times, twice};

/// Words that lie side by side, each a lane of its own.
pub const LANES: usize = 8;

/// A point at which a polynomial is taken; the lanes' own polynomials are in its eighth power.
pub struct LanePoint {
    point: u64,
    step: u64,
}

impl LanePoint {
    /// A point.
    #[must_use]
    pub fn new(point: u64) -> Self {
        Self { point, step: (0..3).fold(point, |p, _| times(p, p)) }
    }

    /// The lanes' point.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The lanes' point times the powers of x, which is what a product with it is made of.
    #[must_use]
    pub fn multiples(&self) -> [u64; 64] {
        let mut all = [self.step; 64];
        for i in 1..64 {
            all[i] = twice(all[i - 1]);
        }
        all
    }

    /// The lanes' words as coefficients of the powers of the point from one upwards.
    #[must_use]
    pub fn joined(&self, lanes: [u64; LANES]) -> u64 {
        lanes.iter().rev().fold(0, |sum, &lane| times(sum ^ lane, self.point))
    }
}
