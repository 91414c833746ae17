//! Division by a public number, and truncation, both rounding down and exact (the paper's sections 4.2 and 5).

use super::super::draw::Draw;
use super::super::engine::wrong_form;
use super::super::relu::Halves;
use super::super::transfers::xor;
use super::modulus::Divisor;
use super::{Form, Modulus, OneRing, comparison, share};
use crate::{Error, Result, Step};
use sordino_ring::Device;

/// Draws of so many bits that become values.
fn valuations(halves: Halves, count: usize) -> impl Iterator<Item = Draw> {
    (0..count).flat_map(move |_| share::valuation(halves))
}

impl<D: Device> OneRing<'_, D> {
    /// floor(x / d) for a public d. x = x_0 + x_1 - k N, where k counts whether the sum reaches N and whether x is negative; so the quotient is
    /// that of both shares, less k floor(N / d), plus what the remainders' sum A = x_0 mod d + x_1 mod d - k (N mod d) has of d, which lies between
    /// -2 d and 2 d: three comparisons in a ring that holds 6 d.
    ///
    /// # Errors
    /// Lost peers; shares that are not below N; d = 0, or above N or 2^58.
    pub fn divide(&self, at: Step, x: &[u64], d: u64) -> Result<Vec<u64>> {
        self.check(x)?;
        let n = self.modulus.get();
        if !(1..=n.min(1 << 58)).contains(&d) {
            return Err(Error::Usage(format!("a division by {d} in a ring of {n} elements")));
        }
        if d == 1 {
            return Ok(x.to_vec());
        }
        let small = Modulus::new((6 * d).next_power_of_two())?;
        let remainders = OneRing { party: self.party, modulus: small };
        let forms: [Form; 2] = [vec![(self.modulus.bits(), false); 2], vec![(small.bits() - 1, false); 3]];
        let divisor = Divisor::new(d);
        let mut quotients = Vec::with_capacity(x.len());
        self.pieces(at, x, 4, |mut at, x| {
            let halves = Halves::new(x.len());
            let mut draws = comparison(&forms[0], halves);
            draws.extend(valuations(halves, 4));
            draws.extend(comparison(&forms[1], halves));
            draws.extend(valuations(halves, 3));
            self.party.begin(&at, "transfers", &draws)?;
            let (wrap, sign) = self.wrap_and_sign(&mut at, x, halves)?;
            let bits = [(&wrap, self.modulus), (&sign, self.modulus), (&wrap, small), (&sign, small)];
            let [wrap, sign, small_wrap, small_sign] =
                <[Vec<u64>; 4]>::try_from(self.values(&at.child("counts"), halves, &bits)?)
                    .map_err(|_| wrong_form())?;
            let remainder = |i: usize| {
                let k = small.add(small_wrap[i], small_sign[i]);
                small.sub(divisor.divide(x[i]).1, small.times(k, n % d))
            };
            let moved = [d as i64, 0, -(d as i64)].map(|by| {
                (0..x.len()).map(|i| small.sub(remainder(i), self.public(small.of(by)))).collect::<Vec<u64>>()
            });
            let below = remainders.signs(&mut at, &moved, halves)?;
            // [A >= d] - [A < 0] - [A < -d].
            let bits: Vec<_> = below.iter().map(|plane| (plane, self.modulus)).collect();
            let below = self.values(&at.child("remainders"), halves, &bits)?;
            for i in 0..x.len() {
                let m = self.modulus;
                let k = m.add(wrap[i], sign[i]);
                let below = below.iter().fold(0, |sum, below| m.add(sum, below[i]));
                let whole = m.sub(divisor.divide(x[i]).0, m.times(k, n / d));
                quotients.push(m.add(m.sub(whole, below), self.public(1)));
            }
            Ok(())
        })?;
        Ok(quotients)
    }

    /// Signs of several lists, compared together; N is a power of two.
    fn signs(&self, at: &mut Step, lists: &[Vec<u64>], halves: Halves) -> Result<Vec<Vec<u64>>> {
        let top = self.modulus.bits() - 1;
        let low = (1 << top) - 1;
        let mut numbers = vec![];
        for x in lists {
            numbers.extend(self.numbers(x, halves, top, &[(&|v| v & low, &|v| low - (v & low))])?);
        }
        let carries = self.compare(&mut at.child("signs"), halves, numbers)?;
        let sign = |(x, carry): (&Vec<u64>, super::Compared)| {
            let tops: Vec<u64> = x.iter().map(|v| v >> top).collect();
            Ok(xor(&self.party.planes(&tops, 1)?.concat(), &carry.larger))
        };
        lists.iter().zip(carries).map(sign).collect()
    }

    /// floor(x / 2^shift) in Z/2^l: one comparison of l bits, cut where the shift is, gives the carry of the bits that go and, joined
    /// with it, the carry out of the ring; l + shift bits for the two as values.
    ///
    /// # Errors
    /// Lost peers; shares that are not below N; a ring that is not of 2^l elements, or a shift of more than l - 1 bits.
    pub fn truncate(&self, at: Step, x: &[u64], shift: u32) -> Result<Vec<u64>> {
        self.check(x)?;
        let l = self.modulus.bits();
        if !self.modulus.is_binary() || shift >= l {
            let n = self.modulus.get();
            return Err(Error::Usage(format!("a shift by {shift} bits in a ring of {n} elements")));
        }
        if shift == 0 {
            return Ok(x.to_vec());
        }
        // What leaves the ring counts modulo 2^shift, times 2^(l - shift).
        let (out, high) = (Modulus::new(1 << shift)?, l - shift);
        let form: Form = vec![(shift, false), (high, true)];
        let mut quotients = Vec::with_capacity(x.len());
        self.pieces(at, x, 1, |mut at, x| {
            let halves = Halves::new(x.len());
            let mut draws = comparison(&form, halves);
            draws.push(Draw::Triples { n: x.len() });
            draws.extend(valuations(halves, 2));
            self.party.begin(&at, "transfers", &draws)?;
            // Not negative any more.
            let moved: Vec<u64> = x.iter().map(|v| self.modulus.add(*v, self.public(1 << (l - 1)))).collect();
            let ones = |bits: u32| (1u64 << bits) - 1;
            let mut numbers = self.numbers(&moved, halves, shift, &[(&|v| v & ones(shift), &|v| !v & ones(shift))])?;
            numbers.extend(self.numbers(&moved, halves, high, &[(&|v| v >> shift, &|v| ones(high) - (v >> shift))])?);
            if let Some((_, equal)) = numbers.last_mut() {
                *equal = true;
            }
            let mut compared = self.compare(&mut at, halves, numbers)?;
            let (upper, carry) =
                (compared.pop().ok_or_else(wrong_form)?, compared.pop().ok_or_else(wrong_form)?.larger);
            let equal = upper.equal.ok_or_else(wrong_form)?;
            let mut joined = self.party.multiply(&at.child("join"), x.len(), &[(&carry, &equal, None)])?;
            let wrap = xor(&upper.larger, &joined.pop().ok_or_else(wrong_form)?.0);
            let values = self.values(&at.child("carries"), halves, &[(&carry, self.modulus), (&wrap, out)])?;
            let [carry, wrap] = <[Vec<u64>; 2]>::try_from(values).map_err(|_| wrong_form())?;
            for (i, v) in moved.iter().enumerate() {
                let sum = self.modulus.add(v >> shift, carry[i]);
                let sum = self.modulus.sub(sum, wrap[i] << high);
                quotients.push(self.modulus.sub(sum, self.public(1 << (high - 1))));
            }
            Ok(())
        })?;
        Ok(quotients)
    }
}
