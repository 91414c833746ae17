//! Bits times values, and bits as values, in Z/N: by random bits that transfers chose, so that all that is opened is a bit under a
//! one-time pad.

use super::super::draw::Draw;
use super::super::engine::wrong_form;
use super::super::relu::Halves;
use super::super::transfers::{Plane, mask, xor};
use super::{Modulus, OneRing, bit};
use crate::{Result, Step};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};

/// What choosing by a bit draws.
pub(super) fn selection(n: usize) -> [Draw; 2] {
    [true, false].map(|from_client| Draw::Rows { from_client, n, blocks: 1 })
}

/// What a bit that becomes a value draws.
pub(super) fn valuation(halves: Halves) -> [Draw; 2] {
    [true, false].map(|from_client| Draw::Rows { from_client, n: halves.elements(from_client).len(), blocks: 1 })
}

/// A value if a bit is set, its negative otherwise.
fn signed(modulus: Modulus, value: u64, negative: u64) -> u64 {
    let other = modulus.negative(value);
    value ^ ((value ^ other) & negative.wrapping_neg())
}

impl<D: Device> OneRing<'_, D> {
    /// Elements of strings of a block each.
    fn elements(modulus: Modulus, strings: &[u64]) -> Vec<u64> {
        strings.as_chunks::<2>().0.iter().map(|[low, high]| modulus.uniform(*low, *high)).collect()
    }

    /// As sender: shares of c d for the receiver's random bits c; the message.
    fn correlate(&self, modulus: Modulus, d: &[u64]) -> Result<(Vec<u64>, Part)> {
        let strings = self.party.rows_sent(d.len(), 1)?;
        let [zero, one] = strings.map(|strings| Self::elements(modulus, &strings));
        let offers = zero.iter().zip(&one).zip(d).map(|((a, b), d)| modulus.add(modulus.sub(*a, *b), *d)).collect();
        let share = zero.into_iter().map(|a| modulus.negative(a)).collect();
        Ok((share, self.party.packed(offers, modulus.bits())?))
    }

    /// The receiver's share, of its bits and what it was given for them.
    fn correlated(&self, modulus: Modulus, c: &[u64], strings: &[u64], offers: Part) -> Result<Vec<u64>> {
        let given = Self::elements(modulus, strings);
        let offers = self.party.unpacked(offers, given.len(), modulus.bits())?;
        if offers.iter().any(|v| *v >= modulus.get()) {
            return Err(wrong_form());
        }
        let share = |(i, (s, z)): (usize, (u64, u64))| modulus.add(s, z & mask(c, i));
        Ok(given.into_iter().zip(offers).enumerate().map(share).collect())
    }

    /// `bit ? x : 0`: bits of N and one bit more from each party, one round.
    pub(super) fn select(&self, at: &Step, bits: &[u64], x: &[u64]) -> Result<Vec<u64>> {
        let (n, modulus) = (x.len(), self.modulus);
        let (rho, strings) = self.party.rows_received(n, 1)?;
        let d: Vec<u64> = x.iter().enumerate().map(|(i, v)| signed(modulus, *v, bit(&rho, i))).collect();
        let (share, part) = self.correlate(modulus, &d)?;
        let own = xor(bits, &rho);
        let expect = [Segment::Wide(own.len()), Segment::Wide(packed_words(n, modulus.bits()))];
        self.party.send(at, "select", vec![Part::Wide(own.clone()), part])?;
        let [Part::Wide(theirs), offers] =
            <[Part; 2]>::try_from(self.party.recv(at, "select", &expect)?).map_err(|_| wrong_form())?
        else {
            return Err(wrong_form());
        };
        let (opened, other) = (xor(&own, &theirs), self.correlated(modulus, &rho, &strings, offers)?);
        // b x = e x + (1 - 2 e) rho x for e = b ^ rho.
        let one = |(i, ((v, s), o)): (usize, ((&u64, u64), u64))| {
            let product = modulus.add(modulus.add(s, o), v & mask(&rho, i));
            modulus.add(v & mask(&opened, i), signed(modulus, product, bit(&opened, i)))
        };
        Ok(x.iter().zip(share).zip(other).enumerate().map(one).collect())
    }

    /// Shares of bits as elements of rings of their own: a transfer of half of the elements each way, the ring's bits from one party, one bit from each;
    /// one round for all of them.
    pub(super) fn values(&self, at: &Step, halves: Halves, bits: &[(&Plane, Modulus)]) -> Result<Vec<Vec<u64>>> {
        let [offered, chosen] = [self.party.client, !self.party.client].map(|client| halves.elements(client));
        let (mut message, mut expect) = (vec![], vec![Segment::Wide(bits.len() * halves.n.div_ceil(64))]);
        let (mut own, mut shares, mut waiting) = (vec![], vec![], vec![]);
        for (plane, modulus) in bits {
            // r = r_0 ^ r_1 = r_0 + r_1 - 2 r_0 r_1: of one half this party's bit is its own, of the other a choice.
            let mut masks: Plane = vec![0; halves.n.div_ceil(64)];
            let mut share = vec![0; halves.n];
            if !offered.is_empty() {
                let r = self.party.own_plane(offered.len());
                let two = modulus.of(-2);
                let d: Vec<u64> = (0..offered.len()).map(|i| two & mask(&r, i)).collect();
                let (sent, part) = self.correlate(*modulus, &d)?;
                for (i, (share, s)) in share[offered.clone()].iter_mut().zip(sent).enumerate() {
                    *share = modulus.add(s, bit(&r, i));
                }
                masks[halves.words(self.party.client)].copy_from_slice(&r);
                message.push(part);
            }
            if !chosen.is_empty() {
                let (r, strings) = self.party.rows_received(chosen.len(), 1)?;
                masks[halves.words(!self.party.client)].copy_from_slice(&r);
                expect.push(Segment::Wide(packed_words(chosen.len(), modulus.bits())));
                waiting.push((r, strings));
            }
            own.extend(xor(plane, &masks));
            shares.push(share);
        }
        message.insert(0, Part::Wide(own.clone()));
        self.party.send(at, "values", message)?;
        let mut theirs = self.party.recv(at, "values", &expect)?.into_iter();
        let Some(Part::Wide(opened)) = theirs.next() else { return Err(wrong_form()) };
        let opened = xor(&own, &opened);
        for (((_, modulus), share), ((r, strings), part)) in
            bits.iter().zip(&mut shares).zip(waiting.iter().zip(theirs))
        {
            let given = self.correlated(*modulus, r, strings, part)?;
            for (i, (share, s)) in share[chosen.clone()].iter_mut().zip(given).enumerate() {
                *share = modulus.add(s, bit(r, i));
            }
        }
        let words = halves.n.div_ceil(64).max(1);
        for (((_, modulus), share), opened) in bits.iter().zip(&mut shares).zip(opened.chunks(words)) {
            for (i, share) in share.iter_mut().enumerate() {
                let flip = bit(opened, i);
                *share = modulus.add(self.public(flip), signed(*modulus, *share, flip));
            }
        }
        Ok(shares)
    }
}
