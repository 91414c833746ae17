//! The guard: whether any value of a run left its range, told to the receiver alone as one bit for each row of a batch.
//!
//! A narrow x = a + b is outside when its top bits say so. The dealer shares the thermometers of the top three bits of a, the evaluators
//! select from them by those of b, and have XOR shares of a flag for every element ([`Device::outliers`]): zero for whatever is in range,
//! whatever the bits below carry. Flags are never opened: their words are coefficients of a polynomial over GF(2^64), which every server
//! evaluates on its shares at a point that owners do not know. What dealers send travels with the next deal, so that nothing waits for it.

use super::compare::wrong_form;
use super::engine::Rep3;
use super::keys::Side;
use super::layout::{plane_words, thirds};
use super::share::Shared;
use crate::{Ends, Error, Result, Role, Step};
use sordino_net::{Message, Part, Segment};
use sordino_ring::{Comparison, Device, ZipOp, field_product};
use std::ops::Range;

/// Bits that are looked at.
const TOP: u32 = 3;

/// Planes that a dealer sends.
pub(super) fn dealt_planes() -> usize {
    Comparison::new(TOP).leaf_planes()
}

/// What a server knows of what it was told to watch.
pub(crate) struct Guard<D: Device> {
    /// Its share of the hash of flags that are every row's.
    whole: u64,
    /// Of each row's own.
    sums: Vec<u64>,
    /// Thermometers that wait for a deal to travel with.
    outgoing: Vec<Part>,
    /// What waits for those of the previous dealer.
    incoming: Vec<Awaited<D>>,
}

impl<D: Device> Default for Guard<D> {
    fn default() -> Self {
        Self { whole: 0, sums: vec![], outgoing: vec![], incoming: vec![] }
    }
}

impl<D: Device> Guard<D> {
    /// Makes room for so many rows of `n` elements in all; how many a row has.
    fn row_of(&mut self, n: usize, rows: usize) -> Result<usize> {
        if rows == 0 || !n.is_multiple_of(rows) {
            return Err(Error::Usage(format!("{n} elements are not {rows} rows")));
        }
        self.sums.resize(self.sums.len().max(rows), 0);
        Ok(n / rows)
    }

    /// Adds a part's flags, hashed at its point, to what they are of: to every row's sum, or to that of their own row.
    fn add(
        &mut self,
        dev: &D,
        flags: &D::Buf<u64>,
        part: (usize, usize),
        [rows, row]: [usize; 2],
        point: u64,
    ) -> Result<()> {
        for (r, within) in met(part, row) {
            let sum = if rows == 1 { &mut self.whole } else { &mut self.sums[r] };
            *sum ^= dev.polynomial(flags, within, point)?;
        }
        Ok(())
    }
}

struct Awaited<D: Device> {
    /// The top bits of b.
    tops: D::Buf<u64>,
    part: (usize, usize),
    /// Rows, and elements of one.
    rows: [usize; 2],
    point: u64,
}

/// Rows of so many elements that a part meets, and their elements in it.
fn met((start, len): (usize, usize), row: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let end = start + len;
    (start.checked_div(row).unwrap_or(0)..end.div_ceil(row.max(1))).map(move |r| {
        let [from, to] = [r * row, (r + 1) * row].map(|at| at.clamp(start, end) - start);
        (r, from..to)
    })
}

impl<D: Device> Rep3<D> {
    fn guard(&self) -> Result<std::sync::MutexGuard<'_, Guard<D>>> {
        self.guard.lock().map_err(|_| Error::Usage("a part of this server has stopped".into()))
    }

    /// Shares flags of what is outside among narrow x, in `rows` runs of equal length. No message of its own.
    pub(crate) fn watch_shared(&self, at: &Step, x: &Shared<D>, rows: usize) -> Result<()> {
        let n = x.shape.len();
        let mut guard = self.guard()?;
        let rows = [rows, guard.row_of(n, rows)?];
        let (x, parts, dev) = (x.as_narrow()?, thirds(n), &self.dev);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let cut = |x: &D::Buf<u32>, p: usize| dev.slice(x, parts[p].0, parts[p].1);
        let bits = self.settings.narrow_bits;
        let tops = |x: &D::Buf<u32>| dev.planes(x, bits - TOP, bits);
        let words = |p: usize| plane_words(parts[p].1) * dealt_planes();
        // Parts have points of their own: at one, equal places of two of them would cancel.
        let point = |part: usize| self.prss.common(at, &format!("point {part}"));

        // Dealer: the second evaluator's share is a stream, the first's is sent.
        let a = dev.zip(ZipOp::Add, &cut(&x.0, me), &cut(&x.1, me));
        let table = dev.thermometer(&tops(&a), &Comparison::new(TOP));
        let masked = dev.zip(ZipOp::Xor, &table, &self.random::<u64>(Side::Prev, at, "watched", me, words(me)));
        guard.outgoing.push(Part::Wide(dev.download(masked)?));
        // First evaluator: it comes with the next deal.
        guard.incoming.push(Awaited { tops: tops(&cut(&x.1, prev)), part: parts[prev], rows, point: point(prev) });
        // Second evaluator.
        let table = self.random::<u64>(Side::Next, at, "watched", next, words(next));
        let flags = dev.outliers(&table, &tops(&cut(&x.0, next)), false);
        guard.add(dev, &flags, parts[next], rows, point(next))
    }

    /// Takes note of comparisons' bits e ^ rho, one plane an end: the dealer of rho, the evaluators of e, one of them for both.
    pub(crate) fn watch_ends(
        &self,
        at: &Step,
        n: usize,
        ends: Ends,
        [rho, first]: [&[Option<D::Buf<u64>>; 2]; 2],
    ) -> Result<()> {
        let parts = thirds(n);
        let mut guard = self.guard()?;
        let rows = [ends.rows, guard.row_of(n, ends.rows)?];
        // Every end of every part has a point of its own, which its dealer and its first evaluator know.
        for (part, planes) in [(self.me, rho), (self.prev(), first)] {
            for (end, plane) in planes.iter().enumerate() {
                let Some(plane) = plane else { continue };
                let point = self.prss.common(at, &format!("end {end} point {part}"));
                guard.add(&self.dev, plane, parts[part], rows, point)?;
            }
        }
        Ok(())
    }

    /// Sends a deal to the next server, and what waited for one.
    pub(crate) fn send_deal(&self, at: &Step, mut message: Message) -> Result<()> {
        message.append(&mut self.guard()?.outgoing);
        self.send(self.next(), at, "deal", message)
    }

    /// Receives the previous server's deal, and takes in what came with it.
    pub(crate) fn recv_deal(&self, at: &Step, form: &[Segment]) -> Result<Message> {
        let awaited = std::mem::take(&mut self.guard()?.incoming);
        let mut all = form.to_vec();
        all.extend(awaited.iter().map(|a| Segment::Wide(plane_words(a.part.1) * dealt_planes())));
        let mut message = self.recv(self.prev(), at, "deal", &all)?;
        let tables = message.split_off(form.len());
        let mut guard = self.guard()?;
        for (of, part) in awaited.iter().zip(tables) {
            let Part::Wide(table) = part else { return Err(wrong_form()) };
            let flags = self.dev.outliers(&self.dev.upload(table), &of.tops, true);
            guard.add(&self.dev, &flags, of.part, of.rows, of.point)?;
        }
        Ok(message)
    }

    /// Tells the receiver whether a row's hash is zero: the hash itself comes times a number that owners do not know. The last row ends a run.
    pub(crate) fn sound_shared(&self, at: &Step, [row, rows]: [usize; 2], to: Role) -> Result<()> {
        let sum = {
            let mut guard = self.guard()?;
            if !guard.outgoing.is_empty() || !guard.incoming.is_empty() || guard.sums.len() > rows {
                return Err(Error::Usage("watched values have not been dealt, or are of more rows".into()));
            }
            let sum = guard.whole ^ guard.sums.get(row).copied().unwrap_or(0);
            if row + 1 == rows {
                *guard = Guard::default();
            }
            sum
        };
        let [prev, next] = [Side::Prev, Side::Next].map(|side| self.random::<u64>(side, at, "zero", 0, 1));
        let zero = self.dev.download(self.dev.zip(ZipOp::Xor, &prev, &next))?[0];
        let factor = self.prss.common(at, "factor");
        let word = field_product(sum, factor) ^ zero;
        Ok(self.net.send(self.settings.kind.end(to), at.tag("sound"), vec![Part::Wide(vec![word])])?)
    }
}

/// The form of what a server says of a row.
pub(crate) const SOUND: Segment = Segment::Wide(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_parts_cover_every_element_once() {
        for rows in 1..6 {
            for row in 0..9 {
                let n = rows * row;
                let mut seen = vec![0; n];
                for part in thirds(n) {
                    for (r, within) in met(part, row) {
                        for at in within {
                            assert_eq!((part.0 + at) / row, r);
                            seen[part.0 + at] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&s| s == 1));
            }
        }
    }
}
