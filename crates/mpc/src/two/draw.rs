//! What operations draw of transfers, in an order that follows from the program alone: made when they begin, or drawn ahead of them.

use super::engine::Two;
use super::transfers::{Plane, Triple};
use crate::{Result, Step};
use sordino_net::Part;
use sordino_ring::Device;
use std::collections::VecDeque;
use zeroize::Zeroize;

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

    /// Of each end, as it sends them.
    pub(super) fn by_end(self) -> [usize; 2] {
        [self.from_owner, self.from_client]
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

impl<D: Device> Two<D> {
    /// Before an operation draws: makes what is lacking of its transfers.
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
            stock.serves = false;
        }
        self.make(at, label, need)
    }

    /// Says what every run to come draws. Silent transfers are then made before operations need them, while this party waits or does something else.
    pub fn foresee(&self, draws: &[Draw]) {
        self.run.set(all(draws));
    }

    /// A run begins, whose transfers will be made unless they were drawn before.
    pub(super) fn expect_run(&self) {
        if self.stock.borrow().covers.less(self.run.get()).is_none() {
            self.pool.borrow_mut().expect(self.run.get().by_end());
        }
    }

    /// Strings for operations to come, of which these are the draws.
    ///
    /// # Errors
    /// Lost peers.
    pub fn prepare(&self, at: &Step, draws: &[Draw]) -> Result<()> {
        self.pool.borrow_mut().expect(all(draws).by_end());
        for (i, group) in groups(draws).into_iter().enumerate() {
            self.make(at, &format!("prepared {i}"), all(group))?;
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
        let covers = &mut self.stock.borrow_mut().covers;
        *covers = covers.plus(all(draws));
        Ok(())
    }

    fn make(&self, at: &Step, label: &str, need: Transfers) -> Result<()> {
        let mut step = 0;
        self.pool.borrow_mut().make(need.by_end(), |message, n| -> Result<Vec<u64>> {
            step += 1;
            let label = format!("{label} {step}");
            if !message.is_empty() {
                self.send(at, &label, vec![Part::Wide(message)])?;
            }
            if n > 0 { self.recv_words(at, &label, n) } else { Ok(vec![]) }
        })
    }

    /// The strings of a draw: what comes next of those drawn ahead, if the operation takes them from there, and they are what is asked for;
    /// otherwise the parties are at different places of the program. Or as they are drawn now.
    fn taken<T>(
        &self,
        draw: Draw,
        queue: impl FnOnce(&mut Stock) -> &mut VecDeque<(Draw, T)>,
        now: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let stock = &mut *self.stock.borrow_mut();
        if !stock.serves {
            return now();
        }
        match queue(stock).pop_front() {
            Some((drawn, strings)) if drawn == draw => Ok(strings),
            _ => Err(sordino_ot::Error::Short.into()),
        }
    }

    /// As sender: both strings of [`Draw::Short`].
    pub(super) fn short_sent(&self, n: usize) -> Result<[Vec<u32>; 2]> {
        let draw = Draw::Short { from_client: self.client, n };
        self.taken(draw, |stock| &mut stock.short_sent, || Ok(self.pool.borrow_mut().send(n)?))
    }

    /// As receiver: choices, and the strings chosen.
    pub(super) fn short_received(&self, n: usize) -> Result<(Plane, Vec<u32>)> {
        let draw = Draw::Short { from_client: !self.client, n };
        self.taken(draw, |stock| &mut stock.short_received, || Ok(self.pool.borrow_mut().receive(n)?))
    }

    /// As sender: both strings of [`Draw::Long`].
    pub(super) fn long_sent(&self, n: usize) -> Result<[Vec<u64>; 2]> {
        let draw = Draw::Long { from_client: self.client, n };
        self.taken(draw, |stock| &mut stock.long_sent, || Ok(self.pool.borrow_mut().send(n)?))
    }

    /// As receiver: the choices of [`Draw::Long`], and the strings chosen.
    pub(super) fn chosen(&self, n: usize) -> Result<(Plane, Vec<u64>)> {
        let draw = Draw::Long { from_client: !self.client, n };
        self.taken(draw, |stock| &mut stock.long_received, || Ok(self.pool.borrow_mut().receive(n)?))
    }

    /// As sender: both strings of [`Draw::Rows`].
    pub(super) fn rows_sent(&self, n: usize, blocks: usize) -> Result<[Vec<u64>; 2]> {
        let draw = Draw::Rows { from_client: self.client, n, blocks };
        self.taken(draw, |stock| &mut stock.long_sent, || Ok(self.pool.borrow_mut().send_rows(n, blocks)?))
    }

    /// As receiver: the choices of [`Draw::Rows`], and the strings chosen.
    pub(super) fn rows_received(&self, n: usize, blocks: usize) -> Result<(Plane, Vec<u64>)> {
        let draw = Draw::Rows { from_client: !self.client, n, blocks };
        self.taken(draw, |stock| &mut stock.long_received, || Ok(self.pool.borrow_mut().receive_rows(n, blocks)?))
    }

    /// [`Draw::Triples`].
    pub(super) fn triple(&self, n: usize) -> Result<Triple> {
        self.taken(Draw::Triples { n }, |stock| &mut stock.triples, || self.drawn_triple(n))
    }
}
