//! What transfers are used for: pairs of products of bits, and additive shares of a bit times a value.
//!
//! Both parties draw from their pools in the same order, which follows from the program alone.

use super::engine::{Two, wrong_form};
use crate::{Result, Step};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};
use std::collections::VecDeque;
use zeroize::Zeroize;

/// One bit of every element, 64 to a word.
pub(super) type Plane = Vec<u64>;

/// Transfers that an operation uses: those the model's owner sends, and those the client sends.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Transfers {
    pub(super) from_owner: usize,
    pub(super) from_client: usize,
}

impl Transfers {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { from_owner: self.from_owner + other.from_owner, from_client: self.from_client + other.from_client }
    }

    /// What is left of these, if there are so many.
    pub(super) fn less(self, need: Self) -> Option<Self> {
        Some(Self {
            from_owner: self.from_owner.checked_sub(need.from_owner)?,
            from_client: self.from_client.checked_sub(need.from_client)?,
        })
    }

    fn one_way(from_client: bool, n: usize) -> Self {
        if from_client { Self { from_owner: 0, from_client: n } } else { Self { from_owner: n, from_client: 0 } }
    }
}

/// What an operation draws at a time: strings of so many transfers. Both parties draw in the order that [`Draw`]s of an operation stand in,
/// each direction by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Strings of 32 bits: pads of tables.
    Short {
        /// Who sends.
        from_client: bool,
        /// How many.
        n: usize,
    },
    /// Strings of 64 bits: additive shares.
    Long {
        /// Who sends.
        from_client: bool,
        /// How many.
        n: usize,
    },
    /// Pairs of products of bits: a transfer each way.
    Triples {
        /// How many.
        n: usize,
    },
    /// Strings of so many blocks.
    Rows {
        /// Who sends.
        from_client: bool,
        /// How many.
        n: usize,
        /// Of 128 bits.
        blocks: usize,
    },
}

impl Draw {
    pub(super) fn transfers(self) -> Transfers {
        match self {
            Self::Short { from_client, n } | Self::Long { from_client, n } | Self::Rows { from_client, n, .. } => {
                Transfers::one_way(from_client, n)
            }
            Self::Triples { n } => Transfers { from_owner: n, from_client: n },
        }
    }

    /// Bytes that its strings take at an end, drawn ahead.
    #[must_use]
    pub fn bytes(self, client: bool) -> u64 {
        let strings = |from_client: bool, n: usize, each: usize| {
            let n = if from_client == client { 2 * each * n } else { each * n + n / 8 };
            n as u64
        };
        match self {
            Self::Short { from_client, n } => strings(from_client, n, 4),
            Self::Long { from_client, n } => strings(from_client, n, 8),
            Self::Rows { from_client, n, blocks } => strings(from_client, n, 16 * blocks),
            // Five planes.
            Self::Triples { n } => 5 * n as u64 / 8,
        }
    }
}

pub(super) fn all(draws: &[Draw]) -> Transfers {
    draws.iter().fold(Transfers::default(), |sum, draw| sum.plus(draw.transfers()))
}

/// Transfers of a direction that are made before they are drawn ahead.
const GROUP: usize = 1 << 22;

/// Draws that are made, and drawn ahead, together.
pub(super) fn groups(draws: &[Draw]) -> Vec<&[Draw]> {
    let (mut groups, mut from, mut sum) = (vec![], 0, Transfers::default());
    for (i, draw) in draws.iter().enumerate() {
        let with = sum.plus(draw.transfers());
        if i > from && with.from_owner.max(with.from_client) > GROUP {
            groups.push(&draws[from..i]);
            (from, sum) = (i, draw.transfers());
        } else {
            sum = with;
        }
    }
    groups.push(&draws[from..]);
    groups
}

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

/// Strings that were drawn ahead of their use, each kind in the order of it, with what was asked for. No `Debug`.
#[derive(Default)]
pub(super) struct Stock {
    short_sent: VecDeque<(Draw, [Vec<u32>; 2])>,
    short_received: VecDeque<(Draw, (Plane, Vec<u32>))>,
    long_sent: VecDeque<(Draw, [Vec<u64>; 2])>,
    long_received: VecDeque<(Draw, (Plane, Vec<u64>))>,
    triples: VecDeque<(Draw, Triple)>,
    /// Transfers of whole operations that are here.
    pub(super) covers: Transfers,
    /// Whether the operation that runs takes its strings from here.
    serves: bool,
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.short_sent.iter_mut().for_each(|(_, strings)| strings.zeroize());
        self.short_received.iter_mut().for_each(|(_, strings)| strings.1.zeroize());
        self.long_sent.iter_mut().for_each(|(_, strings)| strings.zeroize());
        self.long_received.iter_mut().for_each(|(_, strings)| strings.1.zeroize());
        for (_, triple) in &mut self.triples {
            triple.common.zeroize();
            triple.other.zeroize();
            triple.product.zeroize();
        }
    }
}

impl Stock {
    fn is_empty(&self) -> bool {
        self.short_sent.is_empty()
            && self.short_received.is_empty()
            && self.long_sent.is_empty()
            && self.long_received.is_empty()
            && self.triples.is_empty()
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

/// What was drawn ahead, if it is what is asked for: otherwise the parties are at different places of the program. Nothing where the operation
/// draws by itself.
fn next<T>(serves: bool, queue: &mut VecDeque<(Draw, T)>, draw: Draw) -> Result<Option<T>> {
    if !serves {
        return Ok(None);
    }
    match queue.pop_front() {
        Some((drawn, strings)) if drawn == draw => Ok(Some(strings)),
        _ => Err(sordino_ot::Error::Short.into()),
    }
}

impl<D: Device> Two<D> {
    /// Before an operation draws: makes what is lacking of its transfers. Where pieces are large, their strings are drawn ahead, because they take
    /// less memory than the transfers they come from.
    pub(super) fn begin(&self, at: &Step, label: &str, draws: &[Draw]) -> Result<()> {
        let need = all(draws);
        {
            let mut stock = self.stock.borrow_mut();
            if let Some(left) = stock.covers.less(need) {
                (stock.covers, stock.serves) = (left, true);
                return Ok(());
            }
            // Whatever was drawn before has been used, or the program went another way.
            if !stock.is_empty() {
                return Err(sordino_ot::Error::Short.into());
            }
        }
        let ahead = self.settings.draws_ahead();
        self.stock.borrow_mut().serves = ahead;
        if ahead { self.draw_ahead(at, label, draws) } else { self.make(at, label, need) }
    }

    /// Strings for operations to come, of which these are the draws.
    ///
    /// # Errors
    /// Lost peers.
    pub fn prepare(&self, at: &Step, draws: &[Draw]) -> Result<()> {
        self.draw_ahead(at, "prepared", draws)?;
        let covers = &mut self.stock.borrow_mut().covers;
        *covers = covers.plus(all(draws));
        Ok(())
    }

    fn draw_ahead(&self, at: &Step, label: &str, draws: &[Draw]) -> Result<()> {
        for (i, group) in groups(draws).into_iter().enumerate() {
            self.make(at, &format!("{label} {i}"), all(group))?;
            // Half of a single element is none.
            for draw in group.iter().filter(|draw| draw.transfers() != Transfers::default()) {
                let (mut stock, mut pool) = (self.stock.borrow_mut(), self.pool.borrow_mut());
                let draw = *draw;
                match draw {
                    Draw::Short { from_client, n } if from_client == self.client => {
                        stock.short_sent.push_back((draw, pool.send(n)?));
                    }
                    Draw::Short { n, .. } => stock.short_received.push_back((draw, pool.receive(n)?)),
                    Draw::Long { from_client, n } if from_client == self.client => {
                        stock.long_sent.push_back((draw, pool.send(n)?));
                    }
                    Draw::Long { n, .. } => stock.long_received.push_back((draw, pool.receive(n)?)),
                    Draw::Rows { from_client, n, blocks } if from_client == self.client => {
                        stock.long_sent.push_back((draw, pool.send_rows(n, blocks)?));
                    }
                    Draw::Rows { n, blocks, .. } => {
                        stock.long_received.push_back((draw, pool.receive_rows(n, blocks)?));
                    }
                    Draw::Triples { n } => {
                        drop(pool);
                        let triple = self.drawn_triple(n)?;
                        stock.triples.push_back((draw, triple));
                    }
                }
            }
        }
        Ok(())
    }

    fn make(&self, at: &Step, label: &str, need: Transfers) -> Result<()> {
        let mut step = 0;
        self.pool.borrow_mut().make([need.from_owner, need.from_client], |message, n| -> Result<Vec<u64>> {
            step += 1;
            let label = format!("{label} {step}");
            if !message.is_empty() {
                self.send(at, &label, vec![Part::Wide(message)])?;
            }
            if n > 0 { self.recv_words(at, &label, n) } else { Ok(vec![]) }
        })
    }

    /// As sender: both strings of [`Draw::Short`].
    pub(super) fn short_sent(&self, n: usize) -> Result<[Vec<u32>; 2]> {
        let draw = Draw::Short { from_client: self.client, n };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.short_sent, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().send(n)?),
        }
    }

    /// As receiver: choices, and the strings chosen.
    pub(super) fn short_received(&self, n: usize) -> Result<(Plane, Vec<u32>)> {
        let draw = Draw::Short { from_client: !self.client, n };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.short_received, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().receive(n)?),
        }
    }

    /// As sender: both strings of [`Draw::Long`].
    pub(super) fn long_sent(&self, n: usize) -> Result<[Vec<u64>; 2]> {
        let draw = Draw::Long { from_client: self.client, n };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.long_sent, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().send(n)?),
        }
    }

    /// As receiver: the choices of [`Draw::Long`], and the strings chosen.
    pub(super) fn chosen(&self, n: usize) -> Result<(Plane, Vec<u64>)> {
        let draw = Draw::Long { from_client: !self.client, n };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.long_received, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().receive(n)?),
        }
    }

    /// As sender: both strings of [`Draw::Rows`].
    pub(super) fn rows_sent(&self, n: usize, blocks: usize) -> Result<[Vec<u64>; 2]> {
        let draw = Draw::Rows { from_client: self.client, n, blocks };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.long_sent, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().send_rows(n, blocks)?),
        }
    }

    /// As receiver: the choices of [`Draw::Rows`], and the strings chosen.
    pub(super) fn rows_received(&self, n: usize, blocks: usize) -> Result<(Plane, Vec<u64>)> {
        let draw = Draw::Rows { from_client: !self.client, n, blocks };
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.long_received, draw)? {
            Some(strings) => Ok(strings),
            None => Ok(self.pool.borrow_mut().receive_rows(n, blocks)?),
        }
    }

    /// Planes `0 .. count` of strings.
    pub(super) fn string_planes(&self, strings: Vec<u32>, count: u32) -> Result<Planes> {
        let words = strings.len().div_ceil(64).max(1);
        Ok(Planes { words, all: self.dev.download(self.dev.planes(&self.dev.upload(strings), 0, count))? })
    }

    /// A pair of products of random bits, one transfer each way and no message: the receiver's choice is its share of the
    /// common factor, the difference of the sender's strings its shares of the others.
    pub(super) fn triple(&self, n: usize) -> Result<Triple> {
        let stock = &mut *self.stock.borrow_mut();
        match next(stock.serves, &mut stock.triples, Draw::Triples { n })? {
            Some(triple) => Ok(triple),
            None => self.drawn_triple(n),
        }
    }

    fn drawn_triple(&self, n: usize) -> Result<Triple> {
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
