//! One end's supply of correlated transfers in both directions: made in bulk, handed out once.

use crate::hash::Hash;
use crate::softspoken::{self, Receiver, Sender};
use crate::{Cut, Error, Result, Stream, base};

/// Transfers are made in multiples of this.
const ROUND: usize = 128;

/// Blocks of one direction that are made and not drawn yet.
#[derive(Default)]
struct Made {
    blocks: Vec<u128>,
    drawn: usize,
    /// Number of the first block in the list, over the whole session.
    first: u64,
}

impl Made {
    fn left(&self) -> usize {
        self.blocks.len() - self.drawn
    }

    /// Room for more: what has been drawn is let go.
    fn grow(&mut self) -> &mut Vec<u128> {
        self.blocks.drain(..self.drawn);
        self.first += self.drawn as u64;
        self.drawn = 0;
        &mut self.blocks
    }

    /// The next `n` blocks, and the first one's number. No block is given twice.
    fn draw(&mut self, n: usize) -> Result<(u64, &[u128])> {
        if n > self.left() {
            return Err(Error::Short);
        }
        let (at, number) = (self.drawn, self.first + self.drawn as u64);
        self.drawn += n;
        Ok((number, &self.blocks[at..at + n]))
    }
}

/// The beginning of a session: three messages from each end, each after the other's one before.
pub struct Setup {
    random: Stream,
    session: Vec<u8>,
    first: bool,
    base: base::Sender,
    delta: u128,
    strings: Vec<u128>,
}

impl Setup {
    /// An end, and its first message, of [`base::POINT`] words. The two ends differ in `first`; `session` is both ends' and fresh, and
    /// `random` this end's alone.
    #[must_use]
    pub fn new(session: &[u8], first: bool, mut random: Stream) -> (Self, Vec<u64>) {
        let (base, message) = base::Sender::new(&mut random);
        let delta = random.block() | 1;
        (Self { random, session: session.to_vec(), first, base, delta, strings: vec![] }, message)
    }

    /// What tells the transfers of the two directions apart.
    fn name(&self, from_first: bool) -> Vec<u8> {
        [&self.session[..], &[u8::from(from_first)]].concat()
    }

    /// Words of the second message.
    pub const SECOND: usize = 128 * base::POINT;
    /// Words of the third message.
    pub const THIRD: usize = softspoken::SETUP;

    /// Takes the other end's first message; the second one.
    ///
    /// # Errors
    /// A message that cannot be one.
    pub fn second(&mut self, theirs: &[u64]) -> Result<Vec<u64>> {
        let name = self.name(!self.first);
        let (message, strings) = base::receive(&name, theirs, &softspoken::choices(self.delta), &mut self.random)?;
        self.strings = strings;
        Ok(message)
    }

    /// Takes the other end's second message; the third one, and the receiving half.
    fn third(&mut self, theirs: &[u64]) -> Result<(Receiver, Vec<u64>)> {
        if theirs.len() != Self::SECOND {
            return Err(Error::Length);
        }
        let strings = self.base.strings(&self.name(self.first), theirs)?;
        Receiver::new(&strings, &mut self.random)
    }

    /// Takes the other end's second message, hands out the third one, and takes the other's. `seed` is both ends', and fixed only
    /// after both have said their first message.
    ///
    /// # Errors
    /// Messages that cannot be right; those of `exchange`.
    pub fn finish<E: From<Error>>(
        mut self,
        second: &[u64],
        seed: u128,
        exchange: impl FnOnce(Vec<u64>) -> std::result::Result<Vec<u64>, E>,
    ) -> std::result::Result<Pool, E> {
        let (receiver, message) = self.third(second)?;
        let theirs = exchange(message)?;
        let sender = Sender::new(self.delta, &self.strings, &theirs)?;
        let hash = |from_first: bool| Hash::new(seed, u8::from(from_first));
        Ok(Pool {
            sending: (sender, Made::default(), hash(self.first)),
            receiving: (receiver, Made::default(), hash(!self.first)),
            delta: self.delta,
        })
    }
}

/// One end's supply. No `Debug`, no `Clone`.
pub struct Pool {
    sending: (Sender, Made, Hash),
    receiving: (Receiver, Made, Hash),
    delta: u128,
}

impl Pool {
    /// How many transfers are made when so many are asked for.
    #[must_use]
    pub fn made_for(n: usize) -> usize {
        n.next_multiple_of(ROUND)
    }

    /// Words of [`Pool::ask`]'s message.
    #[must_use]
    pub fn words(n: usize) -> usize {
        softspoken::words(Self::made_for(n))
    }

    /// As receiver: makes transfers for `n`; the message for the sender.
    #[must_use]
    pub fn ask(&mut self, n: usize) -> Vec<u64> {
        self.receiving.0.extend(Self::made_for(n), self.receiving.1.grow())
    }

    /// As sender: makes transfers for `n` from the receiver's message.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn answer(&mut self, n: usize, message: &[u64]) -> Result<()> {
        self.sending.0.extend(Self::made_for(n), message, self.sending.1.grow())
    }

    /// What is left over of those made is set aside for good: both ends do so at the same place in the program.
    pub fn settle(&mut self) {
        for made in [&mut self.sending.1, &mut self.receiving.1] {
            made.drawn = made.blocks.len();
        }
    }

    /// As sender: both strings of the next `n` transfers.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn send<T: Cut>(&mut self, n: usize) -> Result<[Vec<T>; 2]> {
        let (_, made, hash) = &mut self.sending;
        let (number, blocks) = made.draw(n)?;
        Ok([0, self.delta].map(|add| hash.cut(number, blocks, add)))
    }

    /// As receiver: the choices of the next `n` transfers, 64 to a word, and the strings chosen.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn receive<T: Cut>(&mut self, n: usize) -> Result<(Vec<u64>, Vec<T>)> {
        let (_, made, hash) = &mut self.receiving;
        let (number, blocks) = made.draw(n)?;
        let choices = blocks.chunks(64).map(|c| c.iter().rev().fold(0, |w, b| w << 1 | (*b as u64 & 1))).collect();
        Ok((choices, hash.cut(number, blocks, 0)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// Two ends that have met.
    fn pair(session: &[u8]) -> [Pool; 2] {
        let (mut a, from_a) = Setup::new(session, true, Stream::new([1; 16]));
        let (mut b, from_b) = Setup::new(session, false, Stream::new([2; 16]));
        let (second_a, second_b) = (a.second(&from_b).unwrap(), b.second(&from_a).unwrap());
        let (ab, ba) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let end =
            |setup: Setup, second: Vec<u64>, to: std::sync::mpsc::Sender<_>, from: std::sync::mpsc::Receiver<_>| {
                move || {
                    setup
                        .finish(&second, 9, |message| -> Result<Vec<u64>> {
                            to.send(message).unwrap();
                            Ok(from.recv().unwrap())
                        })
                        .unwrap()
                }
            };
        let a = std::thread::spawn(end(a, second_b, ab.0, ba.1));
        let b = std::thread::spawn(end(b, second_a, ba.0, ab.1));
        [a.join().unwrap(), b.join().unwrap()]
    }

    fn check(sender: &mut Pool, receiver: &mut Pool, n: usize) -> Vec<u64> {
        let [zero, one] = sender.send::<u64>(n).unwrap();
        let (choices, got) = receiver.receive::<u64>(n).unwrap();
        for i in 0..n {
            let choice = choices[i / 64] >> (i % 64) & 1 == 1;
            assert!(got[i] == if choice { one[i] } else { zero[i] });
            assert!(zero[i] != one[i]);
        }
        got
    }

    #[test]
    fn the_receiver_has_one_string_of_two_in_both_directions() {
        let [mut a, mut b] = pair(b"a session");
        let mut all = vec![];
        for n in [64, 1, 5000] {
            let message = b.ask(n);
            assert_eq!(message.len(), Pool::words(n));
            a.answer(n, &message).unwrap();
            b.answer(n, &a.ask(n)).unwrap();
            all.extend(check(&mut a, &mut b, n));
            all.extend(check(&mut b, &mut a, n));
            a.settle();
            b.settle();
        }
        let many = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), many);
    }

    #[test]
    fn nothing_is_drawn_that_was_not_made() {
        let [mut a, mut b] = pair(b"a session");
        assert_eq!(a.send::<u32>(1).err(), Some(Error::Short));
        let message = b.ask(100);
        assert_eq!(a.answer(200, &message), Err(Error::Length));
        a.answer(100, &message).unwrap();
        assert!(a.send::<u32>(128).is_ok() && a.send::<u32>(1).is_err());
        b.settle();
        assert!(b.receive::<u32>(1).is_err());
    }
}
