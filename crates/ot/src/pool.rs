//! One end's supply of correlated transfers in both directions: made in bulk, handed out once.

use crate::ferret::{Ferret, Growing, sent_by};
use crate::hash::Hash;
use crate::softspoken::{self, Receiver, Sender};
use crate::{Cut, Error, Method, Result, Stream, Supply};
use zeroize::Zeroize;

/// Blocks of one direction that are drawn next, and where in the session they are.
#[derive(Default)]
struct Made {
    blocks: Vec<u128>,
    /// The first that has not been drawn.
    at: usize,
    /// Its number, over the whole session.
    next: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.blocks.zeroize();
    }
}

impl Made {
    /// Those that are here.
    fn left(&self) -> usize {
        self.blocks.len() - self.at
    }

    fn pass(&mut self, n: usize) {
        self.at += n;
        self.next += n as u64;
    }

    /// Hands the next `n` blocks to `each`, with their first one's number. No block is given twice. `more` brings others for those that have been used up.
    fn draw(
        &mut self,
        n: usize,
        mut more: impl FnMut(Vec<u128>) -> Option<Vec<u128>>,
        mut each: impl FnMut(u64, &[u128]),
    ) -> Result<()> {
        let mut needed = n;
        while needed > 0 {
            if self.left() == 0 {
                self.at = 0;
                self.blocks = more(std::mem::take(&mut self.blocks)).ok_or(Error::Short)?;
            }
            let now = needed.min(self.left());
            each(self.next, &self.blocks[self.at..self.at + now]);
            self.pass(now);
            needed -= now;
        }
        Ok(())
    }
}

pub(crate) type Symmetric<const K: usize> = (Sender<K>, Receiver<K>);

pub(crate) enum Bulk {
    SoftSpoken(Symmetric<{ softspoken::K }>),
    Iknp(Symmetric<1>),
    Silent(Box<Ferret>, Growing),
}

impl Bulk {
    /// What follows in a direction, if it is there.
    fn more(&mut self, way: usize, used: Vec<u128>) -> Option<Vec<u128>> {
        match self {
            Self::Silent(_, growing) => growing.next(way, used),
            Self::SoftSpoken(_) | Self::Iknp(_) => None,
        }
    }
}

/// Blocks of so many transfers that this end sends, and that it receives, in the buffers of those before; the other end says so many words.
fn extend<const K: usize, E: From<Error>>(
    (sender, receiver): &mut Symmetric<K>,
    made: [&mut Made; 2],
    [sent, received]: [usize; 2],
    words: usize,
    mut exchange: impl FnMut(Vec<u64>, usize) -> std::result::Result<Vec<u64>, E>,
) -> std::result::Result<(), E> {
    // What an operation left over is set aside.
    let [made_sent, made_received] = made.map(|made| {
        made.pass(made.left());
        made.at = 0;
        made.blocks.clear();
        &mut made.blocks
    });
    // Blocks are not moved when there are more of them: nothing of them is left behind.
    for (blocks, n) in [(&mut *made_sent, sent), (&mut *made_received, received)] {
        if blocks.capacity() < n {
            blocks.zeroize();
            blocks.reserve_exact(n);
        }
    }
    let message = receiver.extend(received, made_received);
    let said = exchange(message, words)?;
    Ok(sender.extend(sent, &said, made_sent)?)
}

/// What there is of a direction, and the hash that makes strings of it.
struct Way {
    made: Made,
    hash: Hash,
}

/// Directions as an end sees them.
const SENT: usize = 0;
const RECEIVED: usize = 1;

/// One end's supply. No `Debug`, no `Clone`.
pub struct Pool {
    first: bool,
    supply: Supply,
    ways: [Way; 2],
    bulk: Bulk,
    delta: u128,
    random: Stream,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

impl Pool {
    /// An end's supply with nothing in it. `seed` is both ends', `delta` and `random` are its own.
    pub(crate) fn new(first: bool, method: Method, bulk: Bulk, delta: u128, seed: u128, random: Stream) -> Self {
        let way = |from_first: bool| Way { made: Made::default(), hash: Hash::new(seed, u8::from(from_first)) };
        Self { first, supply: Supply::new(method), ways: [way(first), way(!first)], bulk, delta, random }
    }

    /// Spreads making silent transfers over so many threads; what is made does not depend on it. Those besides the one that draws make what
    /// will be drawn next, whatever that one does.
    pub fn use_threads(&mut self, threads: usize) {
        if let Bulk::Silent(ferret, growing) = &mut self.bulk {
            ferret.threads = threads;
            growing.use_threads(threads.saturating_sub(1));
        }
    }

    /// So many more will be drawn for sure that the first end sends, and that the second one sends: see [`Supply::expect`].
    pub fn expect(&mut self, more: [usize; 2]) {
        self.supply.expect(more);
        self.want([0, 0]);
    }

    /// Lets threads grow what will be drawn for sure, of which so many now.
    fn want(&mut self, need: [usize; 2]) {
        let sure = self.supply.sure(need);
        let [us, them] = if self.first { [0, 1] } else { [1, 0] };
        let here = |way: usize| self.ways[way].made.left();
        let wanted = [sure[us].saturating_sub(here(SENT)), sure[them].saturating_sub(here(RECEIVED))];
        if let Bulk::Silent(_, growing) = &mut self.bulk {
            growing.want(wanted);
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
        let [sent, received] = self.ways.each_mut().map(|way| &mut way.made);
        match &mut self.bulk {
            Bulk::SoftSpoken(bulk) => extend(bulk, [sent, received], left, words, exchange),
            Bulk::Iknp(bulk) => extend(bulk, [sent, received], left, words, exchange),
            Bulk::Silent(ferret, growing) => {
                for step in steps.chunks_exact(2) {
                    let (round, message) = ferret.begin(&mut self.random);
                    let begun = exchange(message, step[0][them])?;
                    let (roots, message) = ferret.answer(self.delta, &begun, &mut self.random)?;
                    let answered = exchange(message, step[1][them])?;
                    let made = ferret.finish((round, roots), self.delta, &answered)?;
                    for (i, units) in made.into_iter().enumerate() {
                        let way = if sent_by(self.first).contains(&i) { SENT } else { RECEIVED };
                        growing.put(way, units);
                    }
                }
                // The oldest go.
                for (way, made) in [(SENT, sent), (RECEIVED, received)] {
                    let mut surplus = (made.left() + growing.left(way)).saturating_sub(left[way]);
                    let now = surplus.min(made.left());
                    made.pass(now);
                    surplus -= now;
                    while surplus > 0
                        && let Some(len) = growing.set_aside(way, surplus)
                    {
                        made.next += len as u64;
                        surplus -= len;
                    }
                    made.draw(surplus, |used| growing.next(way, used), |_, _| ())?;
                }
                self.want(need);
                Ok(())
            }
        }
    }

    /// Blocks of a direction that are here.
    #[cfg(test)]
    fn left(&self, way: usize) -> usize {
        let later = if let Bulk::Silent(_, growing) = &self.bulk { growing.left(way) } else { 0 };
        self.ways[way].made.left() + later
    }

    /// The next blocks of a direction.
    fn draw(&mut self, way: usize, n: usize, mut each: impl FnMut(&Hash, u64, &[u128])) -> Result<()> {
        let first = self.first == (way == SENT);
        if n > self.supply.left[usize::from(!first)] {
            return Err(Error::Short);
        }
        let (Way { made, hash }, bulk) = (&mut self.ways[way], &mut self.bulk);
        made.draw(n, |used| bulk.more(way, used), |number, blocks| each(hash, number, blocks))?;
        self.supply.draw(if first { [n, 0] } else { [0, n] });
        Ok(())
    }

    /// As sender: both strings of the next `n` transfers.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn send<T: Cut>(&mut self, n: usize) -> Result<[Vec<T>; 2]> {
        let (delta, mut strings) = (self.delta, [Vec::with_capacity(n), Vec::with_capacity(n)]);
        self.draw(SENT, n, |hash, number, blocks| {
            for (out, add) in strings.iter_mut().zip([0, delta]) {
                hash.cut(number, blocks, add, out);
            }
        })?;
        Ok(strings)
    }

    /// As sender: both strings of the next `n` transfers, of so many blocks each, two words a block.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn send_rows(&mut self, n: usize, blocks: usize) -> Result<[Vec<u64>; 2]> {
        let (delta, mut strings) = (self.delta, [(); 2].map(|()| Vec::with_capacity(2 * n * blocks)));
        self.draw(SENT, n, |hash, number, drawn| {
            for (out, add) in strings.iter_mut().zip([0, delta]) {
                hash.rows(number, drawn, add, blocks, out);
            }
        })?;
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
        let (mut choices, mut word, mut drawn) = (Vec::with_capacity(n.div_ceil(64)), 0, 0);
        self.draw(RECEIVED, n, |hash, number, blocks| {
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
                let here = [SENT, RECEIVED].map(|way| pool.left(way));
                most = most.max(here[0] + here[1]);
                assert_eq!(pool.supply.left, if pool.first { here } else { [here[1], here[0]] });
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

    /// Some need more than is grown ahead, some a part of a unit, some one direction alone; of neither direction so much more that some are set aside.
    const NEEDS: [[usize; 2]; 6] =
        [[100, 70], [9_000_000, 8_500_000], [1, 0], [0, 700_000], [65_536, 65_536], [4_000_000, 4_100_000]];

    /// Strings of all [`NEEDS`], digested, and the messages said for them.
    fn said_and_drawn(method: Method, threads: usize, foreseen: bool) -> [(usize, Vec<u8>); 2] {
        use sha2::{Digest, Sha256};
        ends(method, move |mut pool, wire| {
            pool.use_threads(threads);
            if foreseen {
                pool.expect(NEEDS.iter().fold([0; 2], |[a, b], need| [a + need[0], b + need[1]]));
            }
            let (mut said, mut digest) = (0, Sha256::new());
            for need in NEEDS {
                pool.make(need, |m, n| {
                    said += m.len();
                    swap(&wire, m, n)
                })
                .unwrap();
                let [us, them] = if pool.first { need } else { [need[1], need[0]] };
                // A bit at a time, as operations do.
                for at in (0..us.max(them)).step_by(1 << 20) {
                    let now = |all: usize| (1usize << 20).min(all.saturating_sub(at));
                    let (sent, (_, received)) =
                        (pool.send::<u32>(now(us)).unwrap(), pool.receive::<u32>(now(them)).unwrap());
                    sent.iter().chain([&received]).for_each(|s| digest.update(bytemuck::cast_slice::<u32, u8>(s)));
                }
            }
            (said, digest.finalize().to_vec())
        })
    }

    #[test]
    fn what_is_drawn_does_not_depend_on_who_grew_it_nor_when_rounds_were_made() {
        for method in [Method::Silent, Method::Compact] {
            let want = said_and_drawn(method, 1, false);
            for (threads, foreseen) in [(4, false), (1, true), (3, true)] {
                assert!(said_and_drawn(method, threads, foreseen) == want, "{method:?} {threads} {foreseen}");
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
                let left = pool.left(SENT);
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
