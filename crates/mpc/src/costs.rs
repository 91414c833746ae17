//! What a protocol declares of its cost, operation by operation; [`crate::Plan`] adds it up for any of them.

use crate::{Result, Settings, Width, refused};
use sordino_ring::Conv2d;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// What a computation sends and how long its chain of messages is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Payload bytes sent by each end that computes, in their order, and last by all owners that do not.
    pub sent: [u64; 4],
    /// Longest chain of dependent messages.
    pub rounds: u32,
    /// Ring multiplications in linear layers, per end, counted as plain convolutions.
    pub macs: u64,
    /// Oblivious transfers that are used, both ways together.
    pub transfers: u64,
    /// Processor time of both of two parties together, about, in nanoseconds of one core: what transfers, comparisons and encryption take.
    pub work: u64,
}

impl Cost {
    /// Payload bytes of everybody.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sent.iter().sum()
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let mut sent = self.sent;
        sent.iter_mut().zip(other.sent).for_each(|(a, b)| *a += b);
        Self {
            sent,
            rounds: self.rounds + other.rounds,
            macs: self.macs + other.macs,
            transfers: self.transfers + other.transfers,
            work: self.work + other.work,
        }
    }
}

/// What came later, of what is counted on and on.
impl Sub for Cost {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        let mut sent = self.sent;
        sent.iter_mut().zip(earlier.sent).for_each(|(a, b)| *a -= b);
        Self {
            sent,
            rounds: self.rounds - earlier.rounds,
            macs: self.macs - earlier.macs,
            transfers: self.transfers - earlier.transfers,
            work: self.work - earlier.work,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

/// A protocol's declared cost, exactly what it sends, and bounds on the memory of an end. Operations that a protocol does
/// not offer keep the defaults, which refuse.
pub trait Costs {
    /// The declaration of a program with these settings.
    fn new(settings: Settings) -> Self;

    /// Chains of messages are counted anew.
    fn restart(&self) {}

    /// Whether what a run sends when depends on what it needs later: then a run is rehearsed before others are counted.
    const REHEARSES: bool = false;

    /// A run has been rehearsed: nothing of it has happened, but what runs need is known.
    fn rehearsed(&self) {}

    /// A run begins.
    fn run_begins(&self) {}

    /// A tensor of `n` elements from an owner.
    fn input(&self, n: usize) -> Cost;
    /// Takes note of prepared weights; what products with them come multiplied by.
    fn prepare(&self, op: &Conv2d) -> u64 {
        let _ = op;
        1
    }
    /// Bits below the sum of such products that only its truncation takes off.
    fn guard(&self, terms: &[(Conv2d, u64)]) -> u32 {
        let _ = terms;
        0
    }
    /// What convolutions with weights of these gains, summed, send before the truncation, for a truncation by `shift`: the
    /// bits it really shifts by, and the multiplications.
    ///
    /// # Errors
    /// When the protocol cannot do them.
    fn linear(&self, terms: &[(Conv2d, u64)], shift: u32) -> Result<(u32, Cost)>;
    /// Truncation of `n` elements after a product, or of a value.
    fn truncate(&self, n: usize, shift: u32) -> Cost;
    /// Signs of `n` elements.
    fn msb(&self, n: usize) -> Cost;
    /// max(x, 0).
    fn relu(&self, n: usize, out: Width) -> Cost;
    /// Narrow to wide.
    fn extend(&self, n: usize) -> Cost;
    /// Opening to the receiver.
    fn open(&self, n: usize, width: Width) -> Cost;
    /// Watching whether `n` elements are in range.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn watch(&self, n: usize) -> Result<Cost> {
        let _ = n;
        refused("a guard of ranges")
    }
    /// Telling the receiver whether those of a row were.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn sound(&self) -> Result<Cost> {
        refused("a guard of ranges")
    }
    /// Comparing copies of shares.
    fn agree(&self) -> Cost {
        Cost::default()
    }

    /// Convolutions whose truncation waits.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn linear_wide(&self, terms: &[(Conv2d, u64)]) -> Result<Cost> {
        let _ = terms;
        refused("a product that is not truncated")
    }
    /// A ReLU that truncates first; `None` where that is a truncation, then a ReLU.
    fn relu_truncated(&self, n: usize, shift: u32, out: Width) -> Option<Cost> {
        let _ = (n, shift, out);
        None
    }
    /// A product of two shared tensors of `n` elements, before the truncation.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn mul(&self, n: usize) -> Result<Cost> {
        let _ = n;
        refused("a product of two shared values")
    }
    /// Signs of so many channels of `n` elements in all.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn flip(&self, n: usize, channels: usize) -> Result<Cost> {
        let _ = (n, channels);
        refused("signs of channels")
    }
    /// A gradient of weights, before the truncation.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn weight_gradient(&self, op: &Conv2d) -> Result<Cost> {
        let _ = op;
        refused("a gradient of weights")
    }
    /// Functions of `n` elements that are constant between `thresholds`.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn piecewise(&self, n: usize, thresholds: usize, functions: usize) -> Result<Cost> {
        let _ = (n, thresholds, functions);
        refused("a piecewise function")
    }
    /// A value where a bit is set, else zero; `dealt` when a ReLU left shares of the bit's mask.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn select(&self, n: usize, dealt: bool, out: Width) -> Result<Cost> {
        let _ = (n, dealt, out);
        refused("a selection by a kept bit")
    }
    /// Packing computed weights: their gain.
    ///
    /// # Errors
    /// When the protocol does not offer it.
    fn pack(&self, op: &Conv2d) -> Result<u64> {
        let _ = op;
        refused("a product with computed weights")
    }

    /// Most bytes of an end besides tensors, bits and weights, of what has been declared so far.
    fn other_bytes(&self) -> u64 {
        0
    }
    /// Bytes of an end's share of a tensor.
    fn tensor_bytes(&self, n: usize, width: Width) -> u64;
    /// Bytes of an end's share of bits.
    fn bits_bytes(&self, n: usize, dealt: bool) -> u64;
    /// Bytes of an end's packed weights.
    fn panel_bytes(&self, op: &Conv2d, gain: u64) -> u64;
}
