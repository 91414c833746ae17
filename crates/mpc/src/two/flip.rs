//! Signs of channels that the model's owner alone knows: `s x` for s in {1, -1}, as `x - 2 [s < 0] x`.
//!
//! One transfer a channel, whose strings are pads for all elements of the channel: the owner chooses [s < 0], the client offers
//! d = -2 x_1. By itself the owner knows its own share times s. The client sees where choices differ from random ones, the owner d under a pad.

use super::draw::Draw;
use super::engine::Two;
use super::share::Shared;
use super::transfers::{Plane, mask, xor};
use crate::{Result, Step, Width};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};

/// Blocks of a string that pads so many elements, a word each.
fn blocks(elements: usize) -> usize {
    elements.div_ceil(2).max(1)
}

pub(super) fn draws(n: usize, channels: usize) -> [Draw; 1] {
    [Draw::Rows { from_client: true, n: channels, blocks: blocks(n / channels) }]
}

/// Pads for so many elements of each channel, from the strings of the channels' transfers; laid out like the elements, channels last.
fn pads(strings: &[u64], n: usize, channels: usize) -> Vec<u64> {
    let mut all = vec![0; n];
    for (c, words) in strings.chunks_exact(2 * blocks(n / channels)).enumerate() {
        all[c..].iter_mut().step_by(channels).zip(words).for_each(|(pad, word)| *pad = *word);
    }
    all
}

impl<D: Device> Two<D> {
    /// Narrow x times a sign for each of its channels, which are its last axis.
    pub(super) fn flipped(&self, at: &Step, x: &Shared<D>, signs: &Shared<D>) -> Result<Shared<D>> {
        let (n, channels) = crate::fit::fits_signs(&x.shape, &signs.shape)?;
        let own = x.narrow()?.exact()?.words(&self.dev)?;
        let bits = self.settings.narrow_bits;
        self.begin(at, "transfers", &draws(n, channels))?;
        let words = channels.div_ceil(64);
        let form = [Segment::Wide(packed_words(n, bits))];
        let y = if self.client {
            let strings = self.rows_sent(channels, blocks(n / channels))?;
            let differ = self.recv_words(at, "choices", words)?;
            let [mut zero, mut one] = strings.map(|strings| pads(&strings, n, channels));
            for (i, (zero, one)) in zero.iter_mut().zip(&mut one).enumerate() {
                let swap = (*zero ^ *one) & mask(&differ, i % channels);
                (*zero, *one) = (*zero ^ swap, *one ^ swap);
            }
            // d + pad of no - pad of yes, for d = -2 x_1.
            let offer = own.iter().zip(zero.iter().zip(&one));
            let offer = offer.map(|(x, (zero, one))| zero.wrapping_sub(*one).wrapping_sub(x.wrapping_mul(2))).collect();
            self.send(at, "offer", vec![self.packed(offer, bits)?])?;
            own.iter().zip(&zero).map(|(x, pad)| x.wrapping_sub(*pad)).collect()
        } else {
            let signs = signs.wide()?.exact()?.words(&self.dev)?;
            let mut negative: Plane = vec![0; words];
            signs.iter().enumerate().for_each(|(c, sign)| negative[c / 64] |= (sign >> 63) << (c % 64));
            let (chosen, strings) = self.rows_received(channels, blocks(n / channels))?;
            self.send(at, "choices", vec![Part::Wide(xor(&chosen, &negative))])?;
            let pads = pads(&strings, n, channels);
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
