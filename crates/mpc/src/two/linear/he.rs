//! A product on the client's encrypted share.

use super::Weight;
use crate::two::engine::{Two, wrong_form};
use crate::two::share::Shared;
use crate::{Result, Step};
use sordino_he::{Layout, Params, PublicKey, Scheme, SecretKey, layer};
use sordino_net::Part;
use sordino_ring::Device;

/// The scheme of a session, and this party's key.
pub(super) struct Cipher {
    scheme: Scheme,
    key: Key,
}

enum Key {
    Client(SecretKey),
    Owner(PublicKey),
}

impl<D: Device> Two<D> {
    /// Makes the key at the client, and tells the owner its public part.
    pub(super) fn keyed(&self, at: &Step, params: Params) -> Result<Cipher> {
        let scheme = Scheme::new(params);
        let key = if self.client {
            let (key, message) = SecretKey::new(&scheme, &mut self.own.borrow_mut());
            self.send(at, "public key", vec![Part::Wide(message)])?;
            Key::Client(key)
        } else {
            Key::Owner(PublicKey::read(&scheme, &self.recv_words(at, "public key", PublicKey::words(params))?)?)
        };
        Ok(Cipher { scheme, key })
    }

    /// A share of 2^guard conv(x, w), with an error below half of that.
    pub(super) fn encrypted_product(
        &self,
        at: &Step,
        x: &Shared<D>,
        weight: &Weight,
        Cipher { scheme, key }: &Cipher,
        layout: &Layout,
        guard: u32,
    ) -> Result<Vec<u64>> {
        let bits = self.settings.wide_bits + guard;
        let place = layer::Place { scheme, layout, bits, threads: self.threads };
        match (key, &weight.values) {
            (Key::Client(key), None) => {
                let wide = self.settings.wide_bits;
                let mut share = x.words(&self.dev)?;
                share.iter_mut().for_each(|v| *v &= u64::MAX >> (64 - wide));
                let question = layer::question(&place, key, &share, wide, &mut self.own.borrow_mut());
                self.send(at, "ciphertexts", vec![Part::Wide(question)])?;
                let answer = self.recv_words(at, "answers", layout.answer_words(bits))?;
                Ok(layer::read(&place, key, &answer)?)
            }
            (Key::Owner(key), Some(weights)) => {
                // What needs no message goes first: it is done while ciphertexts travel.
                let own = self.own_product(x, weights, &layout.op)?;
                let question = self.recv_words(at, "ciphertexts", layer::question_words(scheme.params, layout))?;
                let mut random = self.own.borrow_mut();
                let (answer, share) = layer::answer(&place, key, weights, &question, &mut random)?;
                self.send(at, "answers", vec![Part::Wide(answer)])?;
                Ok(share.iter().zip(own).map(|(r, y)| r.wrapping_add(y << guard)).collect())
            }
            _ => Err(wrong_form()),
        }
    }
}
