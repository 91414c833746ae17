//! What transfers are used for: pairs of products of bits, and additive shares of a bit times a value.
//!
//! Both parties draw from their pools in the same order, which follows from the program alone.

use super::engine::{Two, wrong_form};
use crate::{Result, Step};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};

/// One bit of every element, 64 to a word.
pub(super) type Plane = Vec<u64>;

/// Planes one after the other.
pub(super) struct Planes {
    words: usize,
    all: Vec<u64>,
}

impl Planes {
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.all.chunks_exact(self.words)
    }
}

impl std::ops::Index<usize> for Planes {
    type Output = [u64];
    fn index(&self, i: usize) -> &[u64] {
        &self.all[i * self.words..(i + 1) * self.words]
    }
}

/// Shares of two products with a common factor that is not known yet (Beaver, CRYPTO 1991).
pub(super) struct Triple {
    pub(super) common: Plane,
    pub(super) other: [Plane; 2],
    pub(super) product: [Plane; 2],
}

/// Elements whose strings are made and used while they are in the caches: a multiple of 64.
pub(super) const BLOCK: usize = 1 << 12;

/// So many elements, block by block.
pub(super) fn blocks(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(BLOCK).map(move |at| BLOCK.min(n - at))
}

pub(super) fn xor(a: &[u64], b: &[u64]) -> Plane {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

pub(super) fn and(a: &[u64], b: &[u64]) -> Plane {
    a.iter().zip(b).map(|(a, b)| a & b).collect()
}

/// Swaps a sender's strings where the receiver wants another bit than it was given.
pub(super) fn swap(zero: &mut [u64], one: &mut [u64], flips: &[u64]) {
    for (i, (a, b)) in zero.iter_mut().zip(one).enumerate() {
        let swap = (*a ^ *b) & mask(flips, i);
        *a ^= swap;
        *b ^= swap;
    }
}

/// All ones where the element's bit is set.
pub(super) fn mask(plane: &[u64], i: usize) -> u64 {
    0u64.wrapping_sub(plane[i / 64] >> (i % 64) & 1)
}

impl<D: Device> Two<D> {
    /// Planes `0 .. count` of strings.
    pub(super) fn string_planes(&self, strings: Vec<u32>, count: u32) -> Result<Planes> {
        let words = strings.len().div_ceil(64).max(1);
        Ok(Planes { words, all: self.dev.download(self.dev.planes(&self.dev.upload(strings), 0, count))? })
    }

    /// A pair of products of random bits, one transfer each way and no message: the receiver's choice is its share of the
    /// common factor, the difference of the sender's strings its shares of the others.
    pub(super) fn drawn_triple(&self, n: usize) -> Result<Triple> {
        let empty = || Plane::with_capacity(n.div_ceil(64));
        let mut triple = Triple { common: empty(), other: [empty(), empty()], product: [empty(), empty()] };
        for n in blocks(n) {
            let (sent, (common, received)) = {
                let mut pool = self.pool.borrow_mut();
                (pool.send::<u32>(n)?, pool.receive::<u32>(n)?)
            };
            let [zero, one] = sent.map(|s| self.string_planes(s, 2));
            let (zero, one) = (zero?, one?);
            let received = self.string_planes(received, 2)?;
            let rows =
                zero.rows().zip(one.rows()).zip(received.rows()).zip(triple.other.iter_mut().zip(&mut triple.product));
            for (((zero, one), received), (other, product)) in rows {
                let words = zero.iter().zip(one).zip(received).zip(&common);
                for (((zero, one), received), common) in words {
                    other.push(zero ^ one);
                    product.push(zero ^ received ^ common & (zero ^ one));
                }
            }
            triple.common.extend(common);
        }
        Ok(triple)
    }

    /// As sender: shares of c d for the receiver's bits c. Returns the share; the message is `bits` bits an element. With `flips`
    /// the receiver has chosen its bits, and says where they differ from those it was given.
    pub(super) fn correlate(&self, d: &[u64], flips: Option<&[u64]>, bits: u32) -> Result<(Vec<u64>, Part)> {
        let [mut zero, mut one] = self.long_sent(d.len())?;
        if let Some(flips) = flips {
            swap(&mut zero, &mut one, flips);
        }
        let message = zero.iter().zip(&one).zip(d).map(|((a, b), d)| a.wrapping_sub(*b).wrapping_add(*d)).collect();
        let share = zero.into_iter().map(u64::wrapping_neg).collect();
        Ok((share, self.packed(message, bits)?))
    }

    /// The receiver's share of c d, once the sender's message is there: for its bits c, and what it was given for them.
    pub(super) fn correlated(&self, c: &[u64], string: Vec<u64>, message: Part, bits: u32) -> Result<Vec<u64>> {
        let message = self.unpacked(message, string.len(), bits)?;
        let share = |(i, (s, z)): (usize, (u64, u64))| s.wrapping_add(z & mask(c, i));
        Ok(string.into_iter().zip(message).enumerate().map(share).collect())
    }

    /// Elements as they travel.
    pub(super) fn packed(&self, values: Vec<u64>, bits: u32) -> Result<Part> {
        Ok(Part::Wide(self.dev.pack(&self.dev.upload(values), bits)?))
    }

    /// Elements of a received part.
    pub(super) fn unpacked(&self, part: Part, n: usize, bits: u32) -> Result<Vec<u64>> {
        match part {
            Part::Wide(words) if words.len() == packed_words(n, bits) => {
                Ok(self.dev.download(self.dev.unpack(&words, n, bits))?)
            }
            _ => Err(wrong_form()),
        }
    }

    /// Opens planes to both parties: the sum of what each sends.
    pub(super) fn opened(&self, at: &Step, label: &str, planes: &[&Plane]) -> Result<Vec<Plane>> {
        let own: Vec<u64> = planes.iter().flat_map(|p| p.iter().copied()).collect();
        let words = planes.first().map_or(0, |p| p.len());
        self.send(at, label, vec![Part::Wide(own.clone())])?;
        let theirs = self.recv_words(at, label, own.len())?;
        Ok(xor(&own, &theirs).chunks(words.max(1)).map(<[u64]>::to_vec).collect())
    }

    /// Words of a message of one part.
    pub(super) fn recv_words(&self, at: &Step, label: &str, n: usize) -> Result<Vec<u64>> {
        match self.recv(at, label, &[Segment::Wide(n)])?.pop() {
            Some(Part::Wide(words)) => Ok(words),
            _ => Err(wrong_form()),
        }
    }
}
