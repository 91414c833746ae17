//! One end's supply of correlated transfers in both directions: made in bulk, handed out once.

use crate::ferret::{COMPACT, FAST, Ferret, Params, sent_by};
use crate::hash::Hash;
use crate::softspoken::{self, Receiver, Sender};
use crate::{Cut, Error, Result, Stream};
use std::collections::VecDeque;
use zeroize::Zeroize;

/// How transfers are made in bulk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Silently, from learning parity with noise: 2.5 bits a transfer.
    #[default]
    Silent,
    /// The same with larger tables: 0.7 bits a transfer, for more time.
    Compact,
    /// By SoftSpokenOT, from symmetric cryptography alone: 31 bits a transfer.
    SoftSpoken,
    /// By the extension of Ishai, Kilian, Nissim and Petrank (CRYPTO 2003), what CrypTFlow2 was measured with: 127 bits a transfer.
    Iknp,
}

impl Method {
    /// Of silent transfers.
    pub(crate) fn params(self) -> Option<Params> {
        match self {
            Self::Silent => Some(FAST),
            Self::Compact => Some(COMPACT),
            Self::SoftSpoken | Self::Iknp => None,
        }
    }

    /// Bits of delta that a tree of SoftSpokenOT covers; silent transfers begin with those, too.
    pub(crate) fn bits(self) -> usize {
        if self == Self::Iknp { 1 } else { softspoken::K }
    }
}

/// Transfers are made in multiples of this by SoftSpokenOT.
pub(crate) const ROUND: usize = 128;

/// Blocks of one direction that are made and not drawn yet, in the order they were made.
#[derive(Default)]
struct Made {
    chunks: VecDeque<Chunk>,
    /// Number of the next block, over the whole session.
    next: u64,
}

struct Chunk {
    blocks: Vec<u128>,
    /// The first that has not been drawn.
    at: usize,
}

impl Made {
    fn left(&self) -> usize {
        self.chunks.iter().map(|c| c.blocks.len() - c.at).sum()
    }

    fn put(&mut self, blocks: Vec<u128>, at: usize) {
        self.chunks.push_back(Chunk { blocks, at });
    }

    /// Hands the next `n` blocks to `each`, with their first one's number. No block is given twice. Used up buffers go to `spare`.
    fn draw(&mut self, n: usize, spare: &mut Vec<Vec<u128>>, mut each: impl FnMut(u64, &[u128])) -> Result<()> {
        if n > self.left() {
            return Err(Error::Short);
        }
        let mut needed = n;
        while needed > 0 {
            let Some(chunk) = self.chunks.front_mut() else { return Err(Error::Short) };
            let now = needed.min(chunk.blocks.len() - chunk.at);
            each(self.next, &chunk.blocks[chunk.at..chunk.at + now]);
            chunk.at += now;
            self.next += now as u64;
            needed -= now;
            if chunk.at == chunk.blocks.len()
                && let Some(used) = self.chunks.pop_front()
            {
                spare.push(used.blocks);
            }
        }
        Ok(())
    }

    /// Keeps the newest so many: what is older is never drawn.
    fn keep(&mut self, most: usize, spare: &mut Vec<Vec<u128>>) -> Result<()> {
        let surplus = self.left().saturating_sub(most);
        self.draw(surplus, spare, |_, _| ())
    }
}

/// How many transfers are at hand in both directions, and what making more of them says: known to both ends, and to whoever plans.
/// Directions are named by who sends: the first end, or the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    method: Method,
    left: [usize; 2],
}

/// What a round makes of each direction.
fn each(params: Params) -> [usize; 2] {
    [true, false].map(|first| sent_by(first).len() * params.yields())
}

/// Words that the two ends say in one step of making transfers; a step in which neither says anything does not happen.
pub type Words = [usize; 2];

impl Supply {
    /// At the beginning of a session.
    #[must_use]
    pub fn new(method: Method) -> Self {
        Self { method, left: [0, 0] }
    }

    /// What both ends say so that so many transfers can be drawn that the first end sends, and that the second one sends.
    pub fn make(&mut self, need: [usize; 2]) -> Vec<Words> {
        let mut steps = vec![];
        let Some(params) = self.method.params() else {
            // What an operation leaves over is set aside, so that each asks for its own.
            self.left = need.map(|n| n.next_multiple_of(ROUND));
            let words = self.left.map(|n| softspoken::words(self.method.bits(), n));
            // The receiver of a direction asks.
            steps.push([words[1], words[0]]);
            return steps;
        };
        let each = each(params);
        while self.left.iter().zip(need).any(|(left, need)| *left < need) {
            steps.push([true, false].map(|first| params.begin_words(first)));
            steps.push([true, false].map(|first| params.answer_words(first)));
            self.left.iter_mut().zip(each).for_each(|(left, each)| *left += each);
        }
        let most = self.most(need);
        self.left.iter_mut().zip(most).for_each(|(left, most)| *left = (*left).min(most));
        steps
    }

    /// A round makes as many both ways. Of a direction that is used less, no more than a round's are kept beyond what is needed: both ends set
    /// aside the oldest.
    fn most(&self, need: [usize; 2]) -> [usize; 2] {
        let each = self.method.params().map_or([0; 2], each);
        [0, 1].map(|way| need[way].max(each[way]) + each[way])
    }

    /// Transfers at hand in both directions.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.iter().sum()
    }

    /// So many are drawn.
    pub fn draw(&mut self, used: [usize; 2]) {
        self.left.iter_mut().zip(used).for_each(|(left, used)| *left = left.saturating_sub(used));
    }
}

pub(crate) type Symmetric<const K: usize> = (Sender<K>, Receiver<K>);

pub(crate) enum Bulk {
    SoftSpoken(Symmetric<{ softspoken::K }>),
    Iknp(Symmetric<1>),
    Silent(Box<Ferret>),
}

/// Blocks of so many transfers that this end sends, and that it receives, in these buffers; the other end says so many words.
fn extend<const K: usize, E: From<Error>>(
    (sender, receiver): &mut Symmetric<K>,
    [sent, received]: [usize; 2],
    words: usize,
    mut blocks: [Vec<u128>; 2],
    mut exchange: impl FnMut(Vec<u64>, usize) -> std::result::Result<Vec<u64>, E>,
) -> std::result::Result<[Vec<u128>; 2], E> {
    blocks.iter_mut().for_each(Vec::clear);
    let message = receiver.extend(received, &mut blocks[1]);
    let said = exchange(message, words)?;
    sender.extend(sent, &said, &mut blocks[0])?;
    Ok(blocks)
}

/// One end's supply. No `Debug`, no `Clone`.
pub struct Pool {
    first: bool,
    supply: Supply,
    sent: (Made, Hash),
    received: (Made, Hash),
    bulk: Bulk,
    delta: u128,
    random: Stream,
    /// Buffers that have been used up.
    spare: Vec<Vec<u128>>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.delta.zeroize();
        self.spare.zeroize();
        for made in [&mut self.sent.0, &mut self.received.0] {
            made.chunks.iter_mut().for_each(|chunk| chunk.blocks.zeroize());
        }
    }
}

impl Pool {
    /// An end's supply with nothing in it. `seed` is both ends', `delta` and `random` are its own.
    pub(crate) fn new(first: bool, method: Method, bulk: Bulk, delta: u128, seed: u128, random: Stream) -> Self {
        let hash = |from_first: bool| Hash::new(seed, u8::from(from_first));
        Self {
            first,
            supply: Supply::new(method),
            sent: (Made::default(), hash(first)),
            received: (Made::default(), hash(!first)),
            bulk,
            delta,
            random,
            spare: vec![],
        }
    }

    /// Spreads making silent transfers over so many threads; what is made does not depend on it.
    pub fn use_threads(&mut self, threads: usize) {
        if let Bulk::Silent(ferret) = &mut self.bulk {
            ferret.threads = threads;
        }
    }

    /// Makes what is lacking of so many transfers that the first end sends, and that the second one sends; both ends do so at the same
    /// place in the program. `exchange` hands out a message of this end and brings the other end's, of so many words; where one is empty,
    /// that end says nothing.
    ///
    /// # Errors
    /// Messages that cannot be right; those of `exchange`.
    pub fn make<E: From<Error>>(
        &mut self,
        need: [usize; 2],
        mut exchange: impl FnMut(Vec<u64>, usize) -> std::result::Result<Vec<u64>, E>,
    ) -> std::result::Result<(), E> {
        let (us, them) = if self.first { (0, 1) } else { (1, 0) };
        let steps = self.supply.make(need);
        let left = [us, them].map(|way| self.supply.left[way]);
        let words = steps.first().map_or(0, |words| words[them]);
        let (sent, received) = (&mut self.sent.0, &mut self.received.0);
        let mut buffers = || [(); 2].map(|()| self.spare.pop().unwrap_or_default());
        let extended = match &mut self.bulk {
            Bulk::SoftSpoken(bulk) => extend(bulk, left, words, buffers(), exchange)?,
            Bulk::Iknp(bulk) => extend(bulk, left, words, buffers(), exchange)?,
            Bulk::Silent(ferret) => {
                for step in steps.chunks_exact(2) {
                    let (round, message) = ferret.begin(&mut self.random);
                    let begun = exchange(message, step[0][them])?;
                    let (grown, message) = ferret.answer(self.delta, &begun, &mut self.random, &mut self.spare)?;
                    let answered = exchange(message, step[1][them])?;
                    let (made, kept) = ferret.finish(&round, grown, &answered, &mut self.spare)?;
                    for (i, blocks) in made.into_iter().enumerate() {
                        let to = if sent_by(self.first).contains(&i) { &mut *sent } else { &mut *received };
                        to.put(blocks, kept);
                    }
                    // Between rounds, too: what is asked for of one direction may take many.
                    for (made, way) in [(&mut *sent, us), (&mut *received, them)] {
                        made.keep(self.supply.most(need)[way], &mut self.spare)?;
                    }
                }
                for (made, left) in [sent, received].into_iter().zip(left) {
                    made.keep(left, &mut self.spare)?;
                }
                return Ok(());
            }
        };
        for (made, blocks) in [sent, received].into_iter().zip(extended) {
            made.keep(0, &mut self.spare)?;
            made.put(blocks, 0);
        }
        Ok(())
    }

    /// As sender: both strings of the next `n` transfers.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn send<T: Cut>(&mut self, n: usize) -> Result<[Vec<T>; 2]> {
        let (made, hash) = &mut self.sent;
        let mut strings = [Vec::with_capacity(n), Vec::with_capacity(n)];
        made.draw(n, &mut self.spare, |number, blocks| {
            for (out, add) in strings.iter_mut().zip([0, self.delta]) {
                hash.cut(number, blocks, add, out);
            }
        })?;
        self.supply.draw(if self.first { [n, 0] } else { [0, n] });
        Ok(strings)
    }

    /// As sender: both strings of the next `n` transfers, of so many blocks each, two words a block.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn send_rows(&mut self, n: usize, blocks: usize) -> Result<[Vec<u64>; 2]> {
        let (made, hash) = &mut self.sent;
        let mut strings = [(); 2].map(|()| Vec::with_capacity(2 * n * blocks));
        made.draw(n, &mut self.spare, |number, drawn| {
            for (out, add) in strings.iter_mut().zip([0, self.delta]) {
                hash.rows(number, drawn, add, blocks, out);
            }
        })?;
        self.supply.draw(if self.first { [n, 0] } else { [0, n] });
        Ok(strings)
    }

    /// As receiver: the choices of the next `n` transfers, 64 to a word, and the strings chosen, of so many blocks each.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn receive_rows(&mut self, n: usize, blocks: usize) -> Result<(Vec<u64>, Vec<u64>)> {
        let mut strings = Vec::with_capacity(2 * n * blocks);
        let choices = self.received(n, |hash, number, drawn| hash.rows(number, drawn, 0, blocks, &mut strings))?;
        Ok((choices, strings))
    }

    /// As receiver: the choices of the next `n` transfers, 64 to a word, and the strings chosen.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn receive<T: Cut>(&mut self, n: usize) -> Result<(Vec<u64>, Vec<T>)> {
        let mut strings = Vec::with_capacity(n);
        let choices = self.received(n, |hash, number, drawn| hash.cut(number, drawn, 0, &mut strings))?;
        Ok((choices, strings))
    }

    /// The choices of the next `n` received transfers, whose blocks go to `each`.
    fn received(&mut self, n: usize, mut each: impl FnMut(&Hash, u64, &[u128])) -> Result<Vec<u64>> {
        let (made, hash) = &mut self.received;
        let (mut choices, mut word, mut drawn) = (Vec::with_capacity(n.div_ceil(64)), 0, 0);
        made.draw(n, &mut self.spare, |number, blocks| {
            each(hash, number, blocks);
            for block in blocks {
                word |= (*block as u64 & 1) << (drawn % 64);
                drawn += 1;
                if drawn % 64 == 0 {
                    choices.push(std::mem::take(&mut word));
                }
            }
        })?;
        if drawn % 64 > 0 {
            choices.push(word);
        }
        self.supply.draw(if self.first { [0, n] } else { [n, 0] });
        Ok(choices)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::Setup;
    use std::sync::mpsc::{Receiver, Sender, channel};

    type Wire = (Sender<Vec<u64>>, Receiver<Vec<u64>>);

    fn swap(wire: &Wire, message: Vec<u64>, words: usize) -> Result<Vec<u64>> {
        if !message.is_empty() {
            wire.0.send(message).unwrap();
        }
        Ok(if words > 0 { wire.1.recv().unwrap() } else { vec![] })
    }

    /// Both ends of a session, each on a thread of its own.
    fn ends<T: Send + 'static>(method: Method, body: impl Fn(Pool, Wire) -> T + Copy + Send + 'static) -> [T; 2] {
        let (ab, ba) = (channel(), channel());
        let (mut a, from_a) = Setup::new(b"a session", true, method, Stream::new([1; 16]));
        let (mut b, from_b) = Setup::new(b"a session", false, method, Stream::new([2; 16]));
        let (from_a, from_b) = (a.second(&from_b).unwrap(), b.second(&from_a).unwrap());
        let run = |setup: Setup, second: Vec<u64>, wire: Wire| {
            std::thread::spawn(move || {
                let pool = setup.finish(&second, 9, |m, n| swap(&wire, m, n)).unwrap();
                body(pool, wire)
            })
        };
        let (a, b) = (run(a, from_b, (ab.0, ba.1)), run(b, from_a, (ba.0, ab.1)));
        [a.join().unwrap(), b.join().unwrap()]
    }

    type Drawn = (Vec<[Vec<u64>; 2]>, Vec<(Vec<u64>, Vec<u64>)>);

    const SIZES: [[usize; 2]; 4] = [[64, 100], [1, 0], [5000, 30_000], [2_000_000, 3_000_000]];

    fn draws(mut pool: Pool, wire: Wire) -> Drawn {
        let (mut sent, mut received) = (vec![], vec![]);
        for need in SIZES {
            pool.make(need, |m, n| swap(&wire, m, n)).unwrap();
            let (us, them) = if pool.first { (need[0], need[1]) } else { (need[1], need[0]) };
            sent.push(pool.send(us).unwrap());
            received.push(pool.receive(them).unwrap());
        }
        (sent, received)
    }

    #[test]
    fn the_receiver_has_one_string_of_two_in_both_directions() {
        for method in [Method::SoftSpoken, Method::Iknp, Method::Silent, Method::Compact] {
            let [a, b] = ends(method, draws);
            let (mut all, mut ones) = (Vec::<u64>::new(), 0u64);
            for (sent, received) in [(&a.0, &b.1), (&b.0, &a.1)] {
                for ([zero, one], (choices, got)) in sent.iter().zip(received) {
                    assert_eq!((zero.len(), zero.len()), (one.len(), got.len()));
                    for i in 0..got.len() {
                        let choice = choices[i / 64] >> (i % 64) & 1;
                        assert!(got[i] == if choice == 1 { one[i] } else { zero[i] } && zero[i] != one[i]);
                        ones += choice;
                    }
                    all.extend(zero);
                    all.extend(one);
                }
            }
            // Fair bits: six standard deviations.
            let n = all.len() as f64 / 2.0;
            assert!((ones as f64 - n / 2.0).abs() < 3.0 * n.sqrt(), "{ones} of {n}");
            // Ten million words of 64 bits: two are equal with a probability of 3 in a million.
            let many = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), many);
        }
    }

    /// One direction alone, again and again: the other one does not pile up, and what is drawn later is right.
    #[test]
    fn a_direction_that_is_not_used_does_not_pile_up() {
        let [a, b] = ends(Method::Silent, |mut pool, wire| {
            let mut most = 0;
            for _ in 0..6 {
                pool.make([0, 2_000_000], |m, n| swap(&wire, m, n)).unwrap();
                most = most.max(pool.sent.0.left() + pool.received.0.left());
                let got = pool.supply.left;
                assert_eq!(
                    got,
                    if pool.first {
                        [pool.sent.0.left(), pool.received.0.left()]
                    } else {
                        [pool.received.0.left(), pool.sent.0.left()]
                    }
                );
                if pool.first {
                    pool.receive::<u32>(2_000_000).unwrap();
                } else {
                    pool.send::<u32>(2_000_000).unwrap();
                }
            }
            pool.make([1000, 1000], |m, n| swap(&wire, m, n)).unwrap();
            (most, pool.send::<u64>(1000).unwrap(), pool.receive::<u64>(1000).unwrap())
        });
        // A round makes 1.6 million of each direction.
        assert!(a.0.max(b.0) < 8_000_000, "{} blocks at hand", a.0.max(b.0));
        for ((_, [zero, one], _), (_, _, (choices, got))) in [(&a, &b), (&b, &a)] {
            for i in 0..1000 {
                let chosen = if choices[i / 64] >> (i % 64) & 1 == 1 { one[i] } else { zero[i] };
                assert_eq!(got[i], chosen);
            }
        }
    }

    #[test]
    fn rows_are_strings_of_any_length() {
        const LENGTHS: [(usize, usize); 4] = [(100, 1), (1, 2000), (300, 5), (64, 1024)];
        let [a, b] = ends(Method::SoftSpoken, |mut pool, wire| {
            let (mut sent, mut received) = (vec![], vec![]);
            for (n, blocks) in LENGTHS {
                pool.make([n, n], |m, n| swap(&wire, m, n)).unwrap();
                sent.push(pool.send_rows(n, blocks).unwrap());
                received.push(pool.receive_rows(n, blocks).unwrap());
            }
            (sent, received)
        });
        for (sent, received) in [(&a.0, &b.1), (&b.0, &a.1)] {
            for (((n, blocks), [zero, one]), (choices, got)) in LENGTHS.into_iter().zip(sent).zip(received) {
                assert_eq!([zero.len(), one.len(), got.len()], [2 * n * blocks; 3]);
                for i in 0..n {
                    let row = |rows: &[u64]| rows[2 * i * blocks..2 * (i + 1) * blocks].to_vec();
                    let chosen = if choices[i / 64] >> (i % 64) & 1 == 1 { one } else { zero };
                    assert!(row(got) == row(chosen) && row(zero) != row(one));
                }
            }
        }
    }

    /// Two ends must make the same of the same seeds whatever machine they run on, and whatever version.
    #[test]
    fn known_answers() {
        use sha2::{Digest, Sha256};
        for (method, want) in [
            (Method::SoftSpoken, "fc624b9bc3d41aed783e0865ede4b5f6"),
            (Method::Iknp, "13093e971dc4a6849c6f5ba7aa96ba29"),
            (Method::Silent, "f1e8c5df6cd349efaef8ad766a85e20d"),
            (Method::Compact, "7913e819ff36d5db22ddc4bfc7f077aa"),
        ] {
            let strings = |mut pool: Pool, wire: Wire| {
                // However many threads an end has.
                pool.use_threads(if pool.first { 1 } else { 3 });
                pool.make([5000, 6000], |m, n| swap(&wire, m, n)).unwrap();
                let sent = if pool.first { 5000 } else { 6000 };
                pool.send::<u64>(sent).unwrap().concat()
            };
            let all: Vec<u64> = ends(method, strings).concat();
            let digest = Sha256::digest(bytemuck::cast_slice::<u64, u8>(&all));
            let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, want, "{method:?}");
        }
    }

    #[test]
    fn nothing_is_drawn_that_was_not_made() {
        for method in [Method::SoftSpoken, Method::Iknp, Method::Silent, Method::Compact] {
            ends(method, |mut pool, wire| {
                assert_eq!(pool.send::<u32>(1).err(), Some(Error::Short));
                pool.make([128, 128], |m, n| swap(&wire, m, n)).unwrap();
                let left = pool.sent.0.left();
                assert!(pool.send::<u32>(left).is_ok() && pool.send::<u32>(1).is_err());
                assert!(pool.receive::<u32>(128).is_ok());
            });
        }
    }

    #[test]
    fn messages_of_another_length_are_refused() {
        for method in [Method::SoftSpoken, Method::Iknp, Method::Silent, Method::Compact] {
            ends(method, |mut pool, wire| {
                let cut = |message: Vec<u64>, n: usize| {
                    let mut theirs = swap(&wire, message, n)?;
                    theirs.pop();
                    Ok(theirs)
                };
                assert_eq!(pool.make([128, 128], cut), Err(Error::Length));
            });
        }
    }
}
