//! Whether one party's numbers are larger than the other's: digits by tables, then a tree.
//!
//! One party's number is cut into digits of at most four bits. For each digit it offers a table with an entry for every digit that
//! the other one may have: whether its own is larger, and whether the two are equal; the other gets the entry of its digit by one
//! transfer for each bit (CrypTFlow2, section 3.1; tables from random transfers). Nodes join neighbours: larger above, or equal above
//! and larger below.

use super::engine::{Two, wrong_form};
use super::transfers::{BLOCK, Plane, and, blocks, xor};
use crate::{Result, Step};
use sordino_ring::Device;
use std::ops::Range;

/// A number's digits in bits, from the lowest on. As many as a tree of the least depth has room for: more digits of fewer bits send
/// less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digits(pub(super) Vec<u32>);

/// Widest digit.
const WIDEST: u32 = 4;

impl Digits {
    pub(super) fn new(bits: u32) -> Self {
        if bits == 0 {
            return Self(vec![]);
        }
        let leaves = bits.div_ceil(WIDEST).next_power_of_two().min(bits);
        Self((0..leaves).map(|i| bits / leaves + u32::from(i < bits % leaves)).collect())
    }

    /// What each digit's table has in an entry: 1 plane or 2. The lowest one needs no equality unless the whole number does.
    pub(super) fn kinds(&self, equal: bool) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.0.iter().enumerate().map(move |(i, bits)| (*bits, if i == 0 && !equal { 1 } else { 2 }))
    }
}

/// For each level of a tree over so many leaves: for each pair whether both products are needed.
pub(super) fn levels(leaves: usize, equal: bool) -> Vec<Vec<bool>> {
    let (mut n, mut all) = (leaves, vec![]);
    while n > 1 {
        all.push((0..n / 2).map(|i| i > 0 || equal).collect());
        n = n.div_ceil(2);
    }
    all
}

/// Two numbers that are compared, as this party holds its own: planes from the lowest on.
pub(super) struct Number<'a> {
    pub(super) planes: &'a [Plane],
    /// Whether equality is wanted too.
    pub(super) equal: bool,
}

impl Number<'_> {
    /// Its bits, and whether equality is wanted.
    pub(super) fn form(&self) -> (u32, bool) {
        (self.planes.len() as u32, self.equal)
    }
}

/// Shares of whether the offered number is larger than the chooser's, and whether they are equal.
#[derive(Clone)]
pub(super) struct Compared {
    pub(super) larger: Plane,
    pub(super) equal: Option<Plane>,
}

/// Planes that are set where a digit has each value.
fn indicators(digit: &[Plane]) -> Vec<Plane> {
    let words = digit.first().map_or(0, Vec::len);
    let mut all = vec![vec![u64::MAX; words]];
    // From the highest bit on: the value's bits in order.
    for bit in digit.iter().rev() {
        let split = |set: Plane| {
            let one = and(&set, bit);
            [xor(&set, &one), one]
        };
        all = all.into_iter().flat_map(split).collect();
    }
    all
}

/// What the chooser keeps of its transfers until the tables come: for each block and digit the planes of the entry's pad.
pub(super) struct Waiting(Vec<Vec<Vec<Plane>>>);

/// Some words of the planes of numbers.
pub(super) fn cut(numbers: &[Number<'_>], words: &Range<usize>) -> Vec<(Vec<Plane>, bool)> {
    let one = |number: &Number<'_>| (number.planes.iter().map(|p| p[words.clone()].to_vec()).collect(), number.equal);
    numbers.iter().map(one).collect()
}

/// The planes of some numbers within a block.
fn within(numbers: &[Number<'_>], at: usize, n: usize) -> Vec<(Vec<Plane>, bool)> {
    cut(numbers, &(at / 64..(at + n).div_ceil(64)))
}

/// Joins what blocks give, number by number and digit by digit.
pub(super) fn joined(all: &mut Vec<Vec<Compared>>, block: Vec<Vec<Compared>>) {
    if all.is_empty() {
        *all = block;
        return;
    }
    for (all, more) in all.iter_mut().flatten().zip(block.into_iter().flatten()) {
        all.larger.extend(more.larger);
        if let (Some(all), Some(more)) = (&mut all.equal, more.equal) {
            all.extend(more);
        }
    }
}

impl<D: Device> Two<D> {
    /// The chooser's message: where its digits differ from its choices, block by block.
    pub(super) fn choose_digits(&self, n: usize, numbers: &[Number<'_>]) -> Result<(Waiting, Plane)> {
        let (mut waiting, mut corrections) = (vec![], vec![]);
        for (i, n) in blocks(n).enumerate() {
            let cut = within(numbers, i * BLOCK, n);
            waiting.push(self.choose_block(n, &as_numbers(&cut), &mut corrections)?);
        }
        Ok((Waiting(waiting), corrections))
    }

    fn choose_block(&self, n: usize, numbers: &[Number<'_>], corrections: &mut Plane) -> Result<Vec<Vec<Plane>>> {
        let mut pads = vec![];
        for (digit, kind) in digits(numbers) {
            let values = indicators(digit);
            let entries = values.len();
            let mut pad: Vec<Plane> = vec![vec![0; n.div_ceil(64)]; kind];
            for bit in digit {
                let (choices, strings) = self.short_received(n)?;
                let strings = self.string_planes(strings, (kind * entries) as u32)?;
                corrections.extend(xor(&choices, bit));
                for (v, set) in values.iter().enumerate() {
                    for (j, pad) in pad.iter_mut().enumerate() {
                        select_xor(pad, set, &strings[v * kind + j]);
                    }
                }
            }
            pads.push(pad);
        }
        Ok(pads)
    }

    /// The answer: tables, masked, without their first entries, which its own shares make zero.
    pub(super) fn offer_tables(
        &self,
        n: usize,
        numbers: &[Number<'_>],
        corrections: &[u64],
    ) -> Result<(Vec<Vec<Compared>>, Plane)> {
        let bits: usize = numbers.iter().map(|number| number.planes.len()).sum();
        let (mut all, mut message, mut corrections) = (vec![], vec![], corrections);
        for (i, n) in blocks(n).enumerate() {
            let cut = within(numbers, i * BLOCK, n);
            let (now, later) = corrections.split_at_checked(bits * n.div_ceil(64)).ok_or_else(wrong_form)?;
            corrections = later;
            joined(&mut all, self.offer_block(n, &as_numbers(&cut), now, &mut message)?);
        }
        Ok((all, message))
    }

    fn offer_block(
        &self,
        n: usize,
        numbers: &[Number<'_>],
        corrections: &[u64],
        message: &mut Plane,
    ) -> Result<Vec<Vec<Compared>>> {
        let words = n.div_ceil(64);
        let mut corrections = corrections.chunks(words.max(1));
        let mut leaves = vec![];
        for (digit, kind) in digits(numbers) {
            let equal = indicators(digit);
            let entries = equal.len();
            // Pads of all entries.
            let mut table: Vec<Plane> = vec![vec![0; words]; kind * entries];
            for i in 0..digit.len() {
                let strings = self.short_sent(n)?;
                let [zero, one] = strings.map(|s| self.string_planes(s, (kind * entries) as u32));
                let (zero, one) = (zero?, one?);
                let flips = corrections.next().ok_or_else(wrong_form)?;
                for (at, pad) in table.iter_mut().enumerate() {
                    // The entry's bit, corrected, says which string it takes.
                    let (base, other) =
                        if (at / kind) >> i & 1 == 0 { (&zero[at], &one[at]) } else { (&one[at], &zero[at]) };
                    for (w, pad) in pad.iter_mut().enumerate() {
                        *pad ^= base[w] ^ (flips[w] & (base[w] ^ other[w]));
                    }
                }
            }
            // Entries: larger than v is the sum of the indicators above v.
            let mut larger = vec![0; words];
            for v in (0..entries).rev() {
                table[v * kind].iter_mut().zip(&larger).for_each(|(t, l)| *t ^= l);
                if kind == 2 {
                    table[v * kind + 1].iter_mut().zip(&equal[v]).for_each(|(t, e)| *t ^= e);
                }
                larger.iter_mut().zip(&equal[v]).for_each(|(l, e)| *l ^= e);
            }
            let share: Vec<Plane> = table[..kind].to_vec();
            for entry in table[kind..].chunks(kind) {
                entry.iter().zip(&share).for_each(|(t, s)| message.extend(xor(t, s)));
            }
            leaves.push(leaf(share)?);
        }
        Ok(by_number(numbers, leaves))
    }

    /// The chooser's shares, from the tables.
    pub(super) fn take_tables(
        &self,
        n: usize,
        numbers: &[Number<'_>],
        waiting: Waiting,
        message: &[u64],
    ) -> Result<Vec<Vec<Compared>>> {
        let (mut all, mut message) = (vec![], message);
        for ((i, n), pads) in blocks(n).enumerate().zip(waiting.0) {
            let cut = within(numbers, i * BLOCK, n);
            joined(&mut all, take_block(n, &as_numbers(&cut), pads, &mut message)?);
        }
        Ok(all)
    }

    /// Trees over the leaves of several numbers, level by level together: a round each.
    pub(super) fn trees(
        &self,
        at: &mut Step,
        n: usize,
        numbers: &[Number<'_>],
        leaves: Vec<Vec<Compared>>,
    ) -> Result<Vec<Compared>> {
        let mut trees = leaves;
        while trees.iter().any(|t| t.len() > 1) {
            let mut pairs = vec![];
            for (tree, number) in trees.iter().zip(numbers) {
                for (i, pair) in tree.chunks_exact(2).enumerate() {
                    let [low, high] = pair else { continue };
                    let both = i > 0 || number.equal;
                    let common = high.equal.as_ref().ok_or_else(wrong_form)?;
                    pairs.push((common, &low.larger, low.equal.as_ref().filter(|_| both)));
                }
            }
            let products = self.multiply(&at.child("level"), n, &pairs)?;
            let mut products = products.into_iter();
            let mut next = vec![];
            for tree in &trees {
                let mut joined = vec![];
                for pair in tree.chunks(2) {
                    let [_, high] = pair else {
                        joined.extend(pair.iter().cloned());
                        continue;
                    };
                    let (carried, equal) = products.next().ok_or_else(wrong_form)?;
                    joined.push(Compared { larger: xor(&high.larger, &carried), equal });
                }
                next.push(joined);
            }
            trees = next;
        }
        trees.into_iter().map(|mut t| t.pop().ok_or_else(wrong_form)).collect()
    }

    /// Products of a common bit with one or two others, for all of these: 2 or 3 bits from each party, one round.
    pub(super) fn multiply(
        &self,
        at: &Step,
        n: usize,
        pairs: &[(&Plane, &Plane, Option<&Plane>)],
    ) -> Result<Vec<(Plane, Option<Plane>)>> {
        let triples = pairs.iter().map(|_| self.triple(n)).collect::<Result<Vec<_>>>()?;
        let mut masked = vec![];
        for ((common, first, second), t) in pairs.iter().zip(&triples) {
            masked.push(xor(common, &t.common));
            masked.push(xor(first, &t.other[0]));
            masked.extend(second.map(|s| xor(s, &t.other[1])));
        }
        let opened = self.opened(at, "products", &masked.iter().collect::<Vec<_>>())?;
        let mut opened = opened.into_iter();
        let mut results = vec![];
        for ((_, _, second), t) in pairs.iter().zip(&triples) {
            let mut next = || opened.next().ok_or_else(wrong_form);
            let x = next()?;
            let product = |y: Plane, j: usize| -> Plane {
                let one = |w: usize| {
                    let own = x[w] & t.other[j][w] ^ y[w] & t.common[w] ^ t.product[j][w];
                    if self.client { own } else { own ^ x[w] & y[w] }
                };
                (0..x.len()).map(one).collect()
            };
            let first = product(next()?, 0);
            let second = match second {
                Some(_) => Some(product(next()?, 1)),
                None => None,
            };
            results.push((first, second));
        }
        Ok(results)
    }
}

/// The chooser's shares of a block; its tables are taken off the message.
fn take_block(
    n: usize,
    numbers: &[Number<'_>],
    pads: Vec<Vec<Plane>>,
    message: &mut &[u64],
) -> Result<Vec<Vec<Compared>>> {
    let mut leaves = vec![];
    for ((digit, kind), mut share) in digits(numbers).zip(pads) {
        for set in &indicators(digit)[1..] {
            for share in share.iter_mut().take(kind) {
                let (entry, later) = message.split_at_checked(n.div_ceil(64)).ok_or_else(wrong_form)?;
                *message = later;
                select_xor(share, set, entry);
            }
        }
        leaves.push(leaf(share)?);
    }
    Ok(by_number(numbers, leaves))
}

pub(super) fn as_numbers(cut: &[(Vec<Plane>, bool)]) -> Vec<Number<'_>> {
    cut.iter().map(|(planes, equal)| Number { planes, equal: *equal }).collect()
}

fn select_xor(to: &mut [u64], set: &[u64], from: &[u64]) {
    to.iter_mut().zip(set.iter().zip(from)).for_each(|(t, (s, f))| *t ^= s & f);
}

/// All digits of all numbers, lowest first, as planes, with the planes of a table's entry.
fn digits<'a>(numbers: &'a [Number<'a>]) -> impl Iterator<Item = (&'a [Plane], usize)> + 'a {
    numbers.iter().flat_map(|number| {
        let mut at = 0;
        let digits = Digits::new(number.planes.len() as u32);
        let kinds: Vec<(u32, usize)> = digits.kinds(number.equal).collect();
        kinds.into_iter().map(move |(bits, kind)| {
            at += bits as usize;
            (&number.planes[at - bits as usize..at], kind)
        })
    })
}

fn leaf(mut share: Vec<Plane>) -> Result<Compared> {
    let equal = if share.len() > 1 { share.pop() } else { None };
    Ok(Compared { larger: share.pop().ok_or_else(wrong_form)?, equal })
}

fn by_number(numbers: &[Number<'_>], leaves: Vec<Compared>) -> Vec<Vec<Compared>> {
    let mut leaves = leaves.into_iter();
    let count = |number: &Number<'_>| Digits::new(number.planes.len() as u32).0.len();
    numbers.iter().map(|number| leaves.by_ref().take(count(number)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_fill_a_tree_of_the_least_depth() {
        let of = |bits| Digits::new(bits).0;
        assert_eq!(of(24), [3; 8]);
        assert_eq!(of(13), [4, 3, 3, 3]);
        assert_eq!((of(0).len(), of(1), of(3), of(5)), (0, vec![1], vec![3], vec![3, 2]));
        for bits in 1..=64 {
            let digits = of(bits);
            assert_eq!(digits.iter().sum::<u32>(), bits);
            assert!(digits.iter().all(|d| (1..=WIDEST).contains(d)));
            let depth = levels(digits.len(), false).len();
            assert_eq!(depth as u32, bits.div_ceil(WIDEST).next_power_of_two().trailing_zeros());
        }
    }
}
