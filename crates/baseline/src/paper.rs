//! ReLU over Z/2^l as CrypTFlow2 has it (ePrint 2020/1002, sections 3 and 4): digits of four bits by one of 16 strings, a tree of AND gates
//! on Beaver's bits, two with a factor in common from one of 8 strings, two others from one of 16, selection by two transfers of two strings; all
//! transfers by extensions that send 128 or 256 bits each. The lowest digit, and the lowest node of every level, have no equality.

use crate::bits::{bit, packed, packed_words, unpacked};
use crate::end::End;
use sordino_mpc::Result;
use sordino_ot::kkot::{self, Receiver, Sender};

/// Bits of a digit.
const DIGIT: u32 = 4;

/// Elements that go through together.
const PIECE: usize = 1 << 17;

/// One end of transfers of one of many strings.
enum Many {
    Offers(Box<Sender>),
    Chooses(Box<Receiver>),
}

/// An end that has made its first transfers of one of many strings.
pub struct Paper<'a> {
    end: &'a End,
    many: Many,
}

/// A share of a bit for every element.
type Bits = Vec<u8>;

/// Shares of whether a digit is larger, and whether it is equal where that is needed.
struct Leaf {
    larger: Bits,
    equal: Option<Bits>,
}

/// Shares of random bits a, b and of a b; of b' and a b'.
struct Triple {
    common: Bits,
    first: [Bits; 2],
    second: Option<[Bits; 2]>,
}

/// The first of a list, and the others.
fn lowest_and_others<T>(list: &[T]) -> [&[T]; 2] {
    let (low, others) = list.split_at(list.len().min(1));
    [low, others]
}

impl<'a> Paper<'a> {
    /// Makes what all later transfers come from.
    ///
    /// # Errors
    /// A lost peer.
    pub fn new(end: &'a End) -> Result<Self> {
        let session = end.fresh_seed();
        let many = if end.is_first() {
            let delta = [end.own_block(), end.own_block()];
            let strings = end.base_received(&kkot::choices(delta))?;
            Many::Offers(Box::new(Sender::new(delta, &strings, session)?))
        } else {
            Many::Chooses(Box::new(Receiver::new(&end.base_sent(kkot::ROWS)?, session)?))
        };
        end.start();
        Ok(Self { end, many })
    }

    /// Shares of max(x, 0) in Z/2^bits.
    ///
    /// # Errors
    /// A lost peer.
    pub fn relu(&mut self, bits: u32, x: &[u64]) -> Result<Vec<u64>> {
        let mut y = Vec::with_capacity(x.len());
        for x in x.chunks(PIECE) {
            let carry = self.compare(bits - 1, x)?;
            let own = u8::from(self.end.is_first());
            let positive: Bits = x.iter().zip(carry).map(|(x, c)| own ^ c ^ (x >> (bits - 1) & 1) as u8).collect();
            y.extend(self.select(bits, &positive, x)?);
        }
        Ok(y)
    }

    /// Of each element one of as many strings as the sizes say, for several sizes: end 0 offers numbers of `width` bits, end 1 gets those of
    /// its choices; the other end's lists are empty. One message each way.
    fn look_up(
        &mut self,
        n: usize,
        width: u32,
        lists: &[(usize, Vec<u64>)],
        choices: &[(usize, Bits)],
    ) -> Result<Vec<Vec<u64>>> {
        match &mut self.many {
            Many::Offers(sender) => {
                let each: usize = (0..n).step_by(1 << 12).map(|at| kkot::words((n - at).min(1 << 12))).sum();
                let said = self.end.hear(each * lists.len())?;
                let mut message = vec![];
                for ((of, list), said) in lists.iter().zip(said.chunks(each.max(1))) {
                    let strings = sender.strings(n, *of, said)?;
                    let low = (1 << width) - 1;
                    message.extend(packed(strings.iter().zip(list).map(|(s, v)| (s & low) ^ v), width));
                }
                self.end.say(message)?;
                Ok(vec![])
            }
            Many::Chooses(receiver) => {
                let (mut message, mut strings) = (vec![], vec![]);
                for (_, choices) in choices {
                    let (said, given) = receiver.choose(choices);
                    message.extend(said);
                    strings.push(given);
                }
                self.end.say(message)?;
                let words = |of: usize| packed_words(n * of, width);
                let offers = self.end.hear(choices.iter().map(|(of, _)| words(*of)).sum())?;
                let (mut offers, mut found) = (&offers[..], vec![]);
                for ((of, choices), strings) in choices.iter().zip(strings) {
                    let (now, later) = offers.split_at(words(*of));
                    offers = later;
                    let values = unpacked(now, n * of, width);
                    let one =
                        |(i, s): (usize, u64)| (values[i * of + usize::from(choices[i])] ^ s) & ((1 << width) - 1);
                    found.push(strings.into_iter().enumerate().map(one).collect());
                }
                Ok(found)
            }
        }
    }

    /// Random bits of this end, one an element.
    fn random(&self, n: usize) -> Bits {
        let words = self.end.own_words(n.div_ceil(64));
        (0..n).map(|i| bit(&words, i) as u8).collect()
    }

    /// Shares of whether the low bits of end 0's number are larger than the complement of end 1's: of the carry of their sum.
    fn compare(&mut self, bits: u32, x: &[u64]) -> Result<Bits> {
        let n = x.len();
        let first = self.end.is_first();
        let digits: Vec<(u32, u32)> = (0..bits).step_by(DIGIT as usize).map(|at| (at, DIGIT.min(bits - at))).collect();
        let digit = |x: u64, (at, width): (u32, u32)| {
            let v = if first { x } else { !x };
            (v >> at & ((1 << width) - 1)) as u8
        };
        let (mut leaves, mut lists, mut choices) = (vec![], vec![], vec![]);
        for d in &digits {
            let (of, lowest) = (1usize << d.1, d.0 == 0);
            if first {
                let share = Leaf { larger: self.random(n), equal: (!lowest).then(|| self.random(n)) };
                let entries = x.iter().enumerate().flat_map(|(i, x)| {
                    let (own, larger) = (digit(*x, *d), share.larger[i]);
                    let equal = share.equal.as_ref().map(|equal| equal[i]);
                    (0..of as u8).map(move |v| {
                        let equal = equal.map_or(0, |equal| equal ^ u8::from(own == v));
                        u64::from(larger ^ u8::from(own > v) | equal << 1)
                    })
                });
                lists.push((of, entries.collect()));
                leaves.push(share);
            } else {
                choices.push((of, x.iter().map(|x| digit(*x, *d)).collect()));
            }
        }
        // The lowest digit's entries have one bit.
        let ([low_lists, lists], [low_choices, choices]) = (lowest_and_others(&lists), lowest_and_others(&choices));
        let mut found = self.look_up(n, 1, low_lists, low_choices)?;
        if digits.len() > 1 {
            found.extend(self.look_up(n, 2, lists, choices)?);
        }
        for (i, found) in found.into_iter().enumerate() {
            let bit = |at: u32| found.iter().map(|v| (v >> at & 1) as u8).collect();
            leaves.push(Leaf { larger: bit(0), equal: (i > 0).then(|| bit(1)) });
        }
        while leaves.len() > 1 {
            leaves = self.level(n, leaves)?;
        }
        Ok(leaves.pop().map_or_else(|| vec![0; n], |root| root.larger))
    }

    /// Joins neighbours: larger above, or equal above and larger below.
    fn level(&mut self, n: usize, leaves: Vec<Leaf>) -> Result<Vec<Leaf>> {
        let triples = self.triples(n, leaves.len() / 2)?;
        let mask = |bits: &Bits, by: &Bits| bits.iter().zip(by).map(|(a, b)| a ^ b).collect::<Bits>();
        let equal = |leaf: &Leaf| leaf.equal.clone().unwrap_or_default();
        let mut own = vec![];
        for (pair, t) in leaves.chunks_exact(2).zip(&triples) {
            own.extend([mask(&equal(&pair[1]), &t.common), mask(&pair[0].larger, &t.first[0])]);
            own.extend(t.second.as_ref().map(|second| mask(&equal(&pair[0]), &second[0])));
        }
        let flat: Vec<u8> = own.concat();
        let theirs = self.end.swap(packed(flat.iter().map(|b| u64::from(*b)), 1))?;
        let theirs = unpacked(&theirs, flat.len(), 1);
        let opened: Vec<u8> = flat.iter().zip(theirs).map(|(a, b)| a ^ b as u8).collect();
        let mut opened = opened.chunks(n.max(1));
        let first = u8::from(self.end.is_first());
        let mut joined = vec![];
        let mut leaves = leaves.into_iter();
        for t in &triples {
            let (Some(_), Some(high)) = (leaves.next(), leaves.next()) else { break };
            let Some(e) = opened.next() else { break };
            let mut product = |[y, xy]: &[Bits; 2]| -> Bits {
                let f = opened.next().unwrap_or_default();
                let one = |i: usize| e[i] & y[i] ^ f[i] & t.common[i] ^ xy[i] ^ first & e[i] & f[i];
                (0..n).map(one).collect()
            };
            let larger = mask(&high.larger, &product(&t.first));
            joined.push(Leaf { larger, equal: t.second.as_ref().map(&mut product) });
        }
        joined.extend(leaves);
        Ok(joined)
    }

    /// Shares of random bits and their products for a level: the lowest pair needs one product, all others two. End 1 chooses by its own bits, end 0
    /// offers its share of the products for each of their values.
    fn triples(&mut self, n: usize, count: usize) -> Result<Vec<Triple>> {
        if count == 0 {
            return Ok(vec![]);
        }
        // Two products without a common factor from one of 16 strings: those of two halves of the elements.
        let half = n.div_ceil(2);
        let [a, b] = [(); 2].map(|()| self.random(2 * half));
        let both = |i: usize| (a[i], b[i], a[half + i], b[half + i]);
        let (mut lists, mut choices, mut p) = (vec![], vec![], self.random(2 * half));
        if self.end.is_first() {
            let entry = |i: usize, v: u8| {
                let (a, b, c, d) = both(i);
                let products = [(a ^ v & 1) & (b ^ v >> 1 & 1), (c ^ v >> 2 & 1) & (d ^ v >> 3)];
                u64::from(p[i] ^ products[0] | (p[half + i] ^ products[1]) << 1)
            };
            lists.push((16, (0..half).flat_map(|i| (0..16).map(move |v| (i, v))).map(|(i, v)| entry(i, v)).collect()));
        } else {
            let choice = |i: usize| {
                let (a, b, c, d) = both(i);
                a | b << 1 | c << 2 | d << 3
            };
            choices.push((16, (0..half).map(choice).collect::<Bits>()));
        }
        for found in self.look_up(half, 2, &lists, &choices)? {
            p = (0..2).flat_map(|at| found.iter().map(move |v| (v >> at & 1) as u8)).collect();
        }
        let cut = |bits: Bits| bits[..n].to_vec();
        let mut all = vec![Triple { common: cut(a), first: [cut(b), cut(p)], second: None }];
        let (mut lists, mut choices) = (vec![], vec![]);
        for _ in 1..count {
            let [a, b, c] = [(); 3].map(|()| self.random(n));
            let [p, q] = [(); 2].map(|()| self.random(n));
            if self.end.is_first() {
                let entry = |i: usize, v: u8| {
                    let common = a[i] ^ v & 1;
                    u64::from(p[i] ^ common & (b[i] ^ v >> 1 & 1) | (q[i] ^ common & (c[i] ^ v >> 2)) << 1)
                };
                lists.push((8, (0..n).flat_map(|i| (0..8).map(move |v| (i, v))).map(|(i, v)| entry(i, v)).collect()));
            } else {
                choices.push((8, (0..n).map(|i| a[i] | b[i] << 1 | c[i] << 2).collect::<Bits>()));
            }
            all.push(Triple { common: a, first: [b, p], second: Some([c, q]) });
        }
        if count > 1 {
            for (t, found) in all[1..].iter_mut().zip(self.look_up(n, 2, &lists, &choices)?) {
                let bit = |at: u32| found.iter().map(|v| (v >> at & 1) as u8).collect();
                (t.first[1], t.second) = (bit(0), t.second.take().map(|[c, _]| [c, bit(1)]));
            }
        }
        Ok(all)
    }

    /// `bit ? x : 0`: each end offers both of what the other's bit could make of its share.
    fn select(&self, bits: u32, bit: &Bits, x: &[u64]) -> Result<Vec<u64>> {
        let (n, ring) = (x.len(), u64::MAX >> (64 - bits));
        self.end.make([n, n])?;
        let (choices, given) = self.end.received(n)?;
        let chosen = unpacked(&choices, n, 1);
        let flips = self.end.swap(packed(chosen.iter().zip(bit).map(|(c, b)| c ^ u64::from(*b)), 1))?;
        let flips = unpacked(&flips, n, 1);
        let [zero, one] = self.end.sent(n)?;
        let r = self.end.own_words(n);
        let offer = |(i, which): (usize, u64)| {
            let pad = if flips[i] ^ which == 0 { zero[i] } else { one[i] } as u64;
            let set = 0u64.wrapping_sub(u64::from(bit[i]) ^ which);
            ((x[i] & set).wrapping_sub(r[i]) ^ pad) & ring
        };
        let offers = packed((0..n).flat_map(|i| [(i, 0), (i, 1)]).map(offer), bits);
        let theirs = unpacked(&self.end.swap(offers)?, 2 * n, bits);
        let one = |i: usize| {
            let mine = theirs[2 * i + usize::from(bit[i])] ^ given[i] as u64;
            mine.wrapping_add(r[i]) & ring
        };
        Ok((0..n).map(one).collect())
    }
}
