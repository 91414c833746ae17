//! Signs of channels that the model's owner alone knows: `s x` for s in {1, -1}, as `x - 2 [s < 0] x`.
//!
//! One transfer of a bit a channel, whose strings grow to pads for all elements of the channel: the owner chooses [s < 0], the client offers
//! d = -2 x_1. By itself the owner knows its own share times s. The client sees where choices differ from random ones, the owner d under a pad.

use super::engine::Two;
use super::share::Shared;
use super::transfers::{Plane, Transfers, swap, xor};
use crate::{Result, Step, Width};
use sordino_net::{Part, Segment};
use sordino_ot::Stream;
use sordino_ring::{Device, packed_words};

/// Transfers for one channel: two strings of 64 bits are the seed of its pads.
pub(super) const SEED: usize = 2;

/// Pads for so many elements of each channel, from the strings of its transfers; laid out like the elements, channels last.
fn pads(strings: &[u64], n: usize) -> Vec<u64> {
    let channels = strings.len() / SEED;
    let mut all = vec![0; n];
    for (c, seed) in strings.chunks_exact(SEED).enumerate() {
        let mut key = [0; 16];
        key.chunks_exact_mut(8).zip(seed).for_each(|(k, s)| k.copy_from_slice(&s.to_le_bytes()));
        let words = Stream::new(key).words(n / channels);
        all[c..].iter_mut().step_by(channels).zip(words).for_each(|(pad, word)| *pad = word);
    }
    all
}

impl<D: Device> Two<D> {
    /// Narrow x times a sign for each of its channels, which are its last axis.
    pub(super) fn flipped(&self, at: &Step, x: &Shared<D>, signs: &Shared<D>) -> Result<Shared<D>> {
        let (n, channels) = crate::fit::fits_signs(&x.shape, &signs.shape)?;
        let own = x.narrow()?.exact()?.words(&self.dev)?;
        let bits = self.settings.narrow_bits;
        self.make(at, "transfers", Transfers { from_owner: 0, from_client: SEED * channels })?;
        let words = (SEED * channels).div_ceil(64);
        let form = [Segment::Wide(packed_words(n, bits))];
        let y = if self.client {
            let [mut zero, mut one] = self.pool.borrow_mut().send::<u64>(SEED * channels)?;
            let differ = self.recv_words(at, "choices", words)?;
            swap(&mut zero, &mut one, &differ);
            let (zero, one) = (pads(&zero, n), pads(&one, n));
            // d + pad of no - pad of yes, for d = -2 x_1.
            let offer = own.iter().zip(zero.iter().zip(&one));
            let offer = offer.map(|(x, (zero, one))| zero.wrapping_sub(*one).wrapping_sub(x.wrapping_mul(2))).collect();
            self.send(at, "offer", vec![self.packed(offer, bits)?])?;
            own.iter().zip(&zero).map(|(x, pad)| x.wrapping_sub(*pad)).collect()
        } else {
            let signs = signs.wide()?.exact()?.words(&self.dev)?;
            let negative: Plane = (0..words)
                .map(|w| {
                    let bit = |i: usize| signs.get((64 * w + i) / SEED).map_or(0, |s| s >> 63) << i;
                    (0..64).fold(0, |plane, i| plane | bit(i))
                })
                .collect();
            let (chosen, strings) = self.chosen(SEED * channels)?;
            self.send(at, "choices", vec![Part::Wide(xor(&chosen, &negative))])?;
            let pads = pads(&strings, n);
            let part = self.recv(at, "offer", &form)?.pop();
            let offer = self.unpacked(part.ok_or_else(super::engine::wrong_form)?, n, bits)?;
            let each = own.iter().zip(pads.iter().zip(offer)).enumerate();
            each.map(|(i, (x, (pad, offer)))| {
                let yes = 0u64.wrapping_sub(signs[i % channels] >> 63);
                // x_0 s, and the share of [s < 0] d.
                (x ^ yes).wrapping_sub(yes).wrapping_add(*pad).wrapping_add(offer & yes)
            })
            .collect()
        };
        Ok(Shared::new(&self.dev, x.shape.clone(), Width::Narrow, 0, y))
    }
}
