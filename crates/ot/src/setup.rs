//! How a pool begins: transfers by public keys in both directions, the bulk that comes from them, and for silent ones what their first round starts from.

use crate::ferret::{Ferret, Growing, INSTANCES, sent_by};
use crate::pool::{Bulk, Symmetric};
use crate::softspoken::{self, Receiver, Sender};
use crate::supply::ROUND;
use crate::{Error, Method, Pool, Result, Stream, base};
use zeroize::{Zeroize, Zeroizing};

/// The beginning of a session: messages of both ends in steps, each after the other end's one before.
pub struct Setup {
    random: Stream,
    session: Vec<u8>,
    first: bool,
    method: Method,
    base: base::Sender,
    delta: u128,
    strings: Zeroizing<Vec<u128>>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

impl Setup {
    /// An end, and its first message, of [`base::POINT`] words. The two ends differ in `first`; `session` is both ends' and fresh, and
    /// `random` this end's alone.
    #[must_use]
    pub fn new(session: &[u8], first: bool, method: Method, mut random: Stream) -> (Self, Vec<u64>) {
        let (base, message) = base::Sender::new(&mut random);
        let delta = random.block() | 1;
        (Self { random, session: session.to_vec(), first, method, base, delta, strings: Zeroizing::default() }, message)
    }

    /// What tells the transfers of the two directions apart.
    fn name(&self, from_first: bool) -> Vec<u8> {
        [&self.session[..], &[u8::from(from_first)]].concat()
    }

    /// Takes the other end's first message; the second one.
    ///
    /// # Errors
    /// A message that cannot be one.
    pub fn second(&mut self, theirs: &[u64]) -> Result<Vec<u64>> {
        let name = self.name(!self.first);
        let choices = Zeroizing::new(softspoken::choices(self.method.bits(), self.delta));
        let (message, strings) = base::receive(&name, theirs, &choices, &mut self.random)?;
        self.strings = Zeroizing::new(strings);
        Ok(message)
    }

    /// Words of the second message.
    pub const SECOND: usize = 128 * base::POINT;

    /// Takes the other end's second message and does what is left. `exchange` hands out a message of this end and brings the other
    /// end's, of so many words. `seed` is both ends', and fixed only after both have said their first message.
    ///
    /// # Errors
    /// Messages that cannot be right; those of `exchange`.
    pub fn finish<E: From<Error>>(
        mut self,
        second: &[u64],
        seed: u128,
        mut exchange: impl FnMut(Vec<u64>, usize) -> std::result::Result<Vec<u64>, E>,
    ) -> std::result::Result<Pool, E> {
        if second.len() != Self::SECOND {
            return Err(Error::Length.into());
        }
        let strings = Zeroizing::new(self.base.strings(&self.name(self.first), second)?);
        let bulk = match self.method.params() {
            None if self.method == Method::Iknp => Bulk::Iknp(self.symmetric(&strings, exchange)?),
            None => Bulk::SoftSpoken(self.symmetric(&strings, exchange)?),
            Some(params) => {
                let (mut sender, mut receiver) = self.symmetric::<{ softspoken::K }, E>(&strings, &mut exchange)?;
                let each = params.base();
                let made_for = |first: bool| (sent_by(first).len() * each).next_multiple_of(ROUND);
                let room = |first: bool| Zeroizing::new(Vec::with_capacity(made_for(first)));
                let (mut sent, mut received) = (room(self.first), room(!self.first));
                let message = receiver.extend(made_for(!self.first), &mut received);
                let theirs = exchange(message, softspoken::words(softspoken::K, made_for(self.first)))?;
                sender.extend(made_for(self.first), &theirs, &mut sent)?;
                let mut base: [Vec<u128>; INSTANCES] = Default::default();
                for (from_us, blocks) in [(self.first, sent), (!self.first, received)] {
                    for (i, part) in sent_by(from_us).zip(blocks.chunks_exact(each)) {
                        base[i] = part.to_vec();
                    }
                }
                Bulk::Silent(Box::new(Ferret::new(self.first, params, seed, base)), Growing::default())
            }
        };
        Ok(Pool::new(
            self.first,
            self.method,
            bulk,
            self.delta,
            seed,
            std::mem::replace(&mut self.random, Stream::new([0; 16])),
        ))
    }

    /// Both directions' bulk, from the transfers by public keys.
    fn symmetric<const K: usize, E: From<Error>>(
        &mut self,
        strings: &[[u128; 2]],
        mut exchange: impl FnMut(Vec<u64>, usize) -> std::result::Result<Vec<u64>, E>,
    ) -> std::result::Result<Symmetric<K>, E> {
        let (receiver, message) = Receiver::new(strings, &mut self.random)?;
        let sender = Sender::new(self.delta, &self.strings, &exchange(message, softspoken::SETUP)?)?;
        Ok((sender, receiver))
    }
}
