//! Truncation and ReLU from one comparison, and what else is made of comparisons.
//!
//! A value is x = x_0 + x_1 in Z/2^(n + low), of which `low` bits are truncated. With t_i the n bits above them, m_i the top one of these,
//! u_i the rest, and c the carry of the low bits: x >> low = t_0 + t_1 + c mod 2^n, and its sign is m_0 ^ m_1 ^ [u_0 + u_1 + c >= 2^(n-1)]
//! = m_0 ^ m_1 ^ larger ^ equal c, where one party's u is compared with the complement of the other's. Where it is not negative it is the integer
//! T_0 + T_1 + c + 2^n m_0 m_1 for T_i = t_i - 2^n m_i.
//!
//! Nothing is opened but bits masked by random choices of transfers: d ^ rho with shares of rho T, and c ^ r with shares of r, that were
//! made while the tree ran.

use super::compare::{Compared, Digits, Number, as_numbers, cut, joined, levels};
use super::draw::Draw;
use super::engine::{Two, wrong_form};
use super::share::{Bits, Shared, local};
use super::transfers::{Plane, blocks, mask, xor};
use crate::{Local, Result, Settings, Step, Transfers, Truncation, Width};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};
use std::ops::Range;

/// Elements that go through together: what the caches hold of them, or more where every round counts.
pub(super) fn piece(settings: &Settings) -> usize {
    if settings.transfers == Transfers::Compact { 1 << 20 } else { 1 << 17 }
}

/// The two halves of the elements: for the first one the client offers tables, for the second one the model's owner, so that both work
/// at the same time.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    pub(super) n: usize,
    /// Words of the first half.
    first: usize,
}

impl Halves {
    pub(super) fn new(n: usize) -> Self {
        Self { n, first: n.div_ceil(64).div_ceil(2) }
    }

    /// The elements that an end offers tables for.
    pub(super) fn elements(&self, client: bool) -> Range<usize> {
        let middle = (64 * self.first).min(self.n);
        if client { 0..middle } else { middle..self.n }
    }

    /// The words of their bits.
    pub(super) fn words(&self, client: bool) -> Range<usize> {
        if client { 0..self.first } else { self.first..self.n.div_ceil(64) }
    }
}

/// What is done to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// [x < 0], of a narrow value.
    Sign,
    /// max(x, 0), after `low` bits are truncated.
    Relu { low: u32, out: Width },
    /// x >> low.
    Truncate { low: u32 },
    /// The same in the wide ring.
    Unguard { low: u32 },
    /// A narrow value that is not negative, in the wide ring.
    Extend,
    /// A shared bit, in the wide ring.
    Carry,
}

/// The widths an operation works with, and what it draws.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Bits of the ring that the value is in, once the low ones are gone.
    n: u32,
    /// Bits of the result.
    out: u32,
    /// Truncated bits.
    low: u32,
    kind: Kind,
}

impl Form {
    pub(super) fn new(kind: Kind, settings: Settings) -> Self {
        let wide = settings.wide_bits;
        let n = if matches!(kind, Kind::Unguard { .. }) { wide } else { settings.narrow_bits };
        let (low, out) = match kind {
            Kind::Sign => (0, n),
            Kind::Relu { low, out } => (low, settings.bits(out)),
            Kind::Truncate { low } | Kind::Unguard { low } => (low, n),
            Kind::Extend | Kind::Carry => (0, wide),
        };
        Self { n, out, low, kind }
    }

    /// Bits that are compared below: the truncated ones.
    pub(super) fn lower(&self) -> u32 {
        self.low
    }

    /// Bits that are compared for the sign.
    pub(super) fn upper(&self) -> u32 {
        match self.kind {
            Kind::Sign | Kind::Relu { .. } => self.n - 1,
            Kind::Truncate { .. } | Kind::Unguard { .. } | Kind::Extend | Kind::Carry => 0,
        }
    }

    /// Bits of the product of the two top bits: where the result is wider than the narrow ring.
    pub(super) fn top(&self) -> u32 {
        match self.kind {
            Kind::Relu { .. } | Kind::Extend => self.out - self.n,
            Kind::Sign | Kind::Truncate { .. } | Kind::Unguard { .. } | Kind::Carry => 0,
        }
    }

    /// Bits of shares of rho T.
    pub(super) fn selected(&self) -> u32 {
        if matches!(self.kind, Kind::Relu { .. }) { self.out } else { 0 }
    }

    /// Bits of shares of r, for a carry.
    pub(super) fn carried(&self) -> u32 {
        match self.kind {
            Kind::Relu { low, .. } | Kind::Truncate { low } | Kind::Unguard { low } if low > 0 => self.out,
            Kind::Carry => self.out,
            _ => 0,
        }
    }

    /// The two numbers' bits that are compared, and whether equality is wanted.
    pub(super) fn numbers(&self) -> Vec<(u32, bool)> {
        let lower = (self.lower() > 0).then_some((self.lower(), false));
        // The carry decides where the upper bits are equal.
        let upper = (self.upper() > 0).then_some((self.upper(), self.lower() > 0));
        lower.into_iter().chain(upper).collect()
    }

    /// Whether the carry and the comparison are joined.
    pub(super) fn joined(&self) -> bool {
        self.lower() > 0 && self.upper() > 0
    }

    /// Products of the trees, and of the carry's and the comparison's.
    pub(super) fn nodes(&self) -> usize {
        nodes(&self.numbers()) + usize::from(self.joined())
    }

    /// What it draws for so many elements: of each half those of its tables go one way, everything else goes both ways.
    pub(super) fn draws(&self, halves: Halves) -> Vec<Draw> {
        let half = |client: bool| halves.elements(client).len();
        let mut draws = tables(&self.numbers(), halves);
        let halved = [true, false].map(|from_client| Draw::Long { from_client, n: half(from_client) });
        let of = |bits: u32, draws: [Draw; 2]| if bits > 0 { draws.to_vec() } else { vec![] };
        draws.extend(of(self.top(), halved));
        draws.extend((0..self.nodes()).map(|_| Draw::Triples { n: halves.n }));
        draws.extend(of(self.selected(), selection(halves.n)));
        draws.extend(of(self.carried(), halved));
        draws
    }
}

/// Products of the trees over numbers of so many bits that are compared.
pub(super) fn nodes(numbers: &[(u32, bool)]) -> usize {
    let trees = numbers.iter().flat_map(|(bits, equal)| levels(Digits::new(*bits).0.len(), *equal));
    trees.map(|level| level.len()).sum()
}

/// What their tables draw, those of each half one way.
pub(super) fn tables(numbers: &[(u32, bool)], halves: Halves) -> Vec<Draw> {
    let bits: u32 = numbers.iter().map(|(bits, _)| bits).sum();
    let mut draws = vec![];
    for from_client in [true, false] {
        for n in blocks(halves.elements(from_client).len()) {
            draws.extend((0..bits).map(|_| Draw::Short { from_client, n }));
        }
    }
    draws
}

/// What choosing by bits draws.
pub(super) fn selection(n: usize) -> [Draw; 2] {
    [true, false].map(|from_client| Draw::Long { from_client, n })
}

/// Top bits of a value, whose product, times 2^n, is added to it in so many bits above.
pub(super) struct Top<'a> {
    plane: &'a Plane,
    value: &'a mut [u64],
    n: u32,
    width: u32,
}

impl Top<'_> {
    fn carry(&mut self, elements: Range<usize>, share: Vec<u64>) {
        self.value[elements].iter_mut().zip(share).for_each(|(v, s)| *v = v.wrapping_add(s << self.n));
    }
}

impl<D: Device> Two<D> {
    /// An operation on all elements of a share whose words' low bits count: shares of its value, and of its bit.
    pub(super) fn each(&self, mut at: Step, x: &[u64], kind: Kind) -> Result<(Vec<u64>, Plane)> {
        let (mut values, mut bits) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len().div_ceil(64)));
        for piece in x.chunks(piece(&self.settings)) {
            let (v, b) = self.piece(at.child("piece"), piece, Form::new(kind, self.settings))?;
            values.extend(v);
            bits.extend(b);
        }
        Ok((values, bits))
    }

    fn piece(&self, mut at: Step, x: &[u64], form: Form) -> Result<(Vec<u64>, Plane)> {
        let n = x.len();
        let halves = Halves::new(n);
        self.begin(&at, "transfers", &form.draws(halves))?;
        let planes = self.planes(x, form.low + form.n)?;
        let (low, high) = planes.split_at(form.low as usize);
        let (top, high) = high.split_last().ok_or_else(wrong_form)?;
        // Whoever chooses an entry compares with the complement of its own bits.
        let chosen = halves.words(!self.client);
        let own = |planes: &[Plane]| -> Vec<Plane> {
            let turned = |p: &Plane| {
                let mut p = p.clone();
                p[chosen.clone()].iter_mut().for_each(|w| *w = !*w);
                p
            };
            planes.iter().map(turned).collect()
        };
        let (low, high) = (own(low), own(if form.upper() > 0 { high } else { &[] }));
        let lower = (!low.is_empty()).then_some(Number { planes: &low, equal: false });
        // The carry decides where the upper bits are equal.
        let upper = (!high.is_empty()).then_some(Number { planes: &high, equal: !low.is_empty() });
        let numbers: Vec<Number<'_>> = lower.into_iter().chain(upper).collect();
        let t = |(i, v): (usize, &u64)| {
            let t = (v >> form.low) & (u64::MAX >> (64 - form.n));
            t.wrapping_sub(mask(top, i) & (1 << form.n))
        };
        let mut value: Vec<u64> = x.iter().enumerate().map(t).collect();
        let wrap = Top { plane: top, value: &mut value, n: form.n, width: form.top() };
        let leaves = self.leaves(&at, halves, &numbers, Some(wrap).filter(|top| top.width > 0))?;
        let compared = self.trees(&mut at, n, &numbers, leaves)?;
        self.decide(at, value, compared, top, halves, &form)
    }

    /// Both parties choose digits of one half and offer tables for the other; on the way the value gets its missing 2^n.
    pub(super) fn leaves(
        &self,
        at: &Step,
        halves: Halves,
        numbers: &[Number<'_>],
        top: Option<Top<'_>>,
    ) -> Result<Vec<Vec<Compared>>> {
        let bits: usize = numbers.iter().map(|n| n.planes.len()).sum();
        if bits == 0 && top.is_none() {
            return Ok(vec![]);
        }
        let [offered, chosen] = [self.client, !self.client].map(|client| halves.elements(client));
        let mut top = top;
        // Where this party's digits and top bits differ from its choices.
        let mine = cut(numbers, &halves.words(!self.client));
        let (waiting, mut corrections) = self.choose_digits(chosen.len(), &as_numbers(&mine))?;
        let mut string = vec![];
        if let Some(top) = top.as_ref().filter(|_| !chosen.is_empty()) {
            let (choices, given) = self.chosen(chosen.len())?;
            corrections.extend(xor(&choices, &top.plane[halves.words(!self.client)]));
            string = given;
        }
        if !chosen.is_empty() {
            self.send(at, "digits", vec![Part::Wide(corrections)])?;
        }
        let mut theirs = vec![];
        if !offered.is_empty() {
            let words = offered.len().div_ceil(64);
            let planes = bits + usize::from(top.is_some());
            let corrections = self.recv_words(at, "digits", planes * words)?;
            let (digits, flips) = corrections.split_at(bits * words);
            let numbers = cut(numbers, &halves.words(self.client));
            let (leaves, tables) = self.offer_tables(offered.len(), &as_numbers(&numbers), digits)?;
            theirs = leaves;
            let mut message = vec![Part::Wide(tables)];
            if let Some(top) = &mut top {
                let plane = &top.plane[halves.words(self.client)];
                let own: Vec<u64> = (0..offered.len()).map(|i| mask(plane, i) & 1).collect();
                let (share, part) = self.correlate(&own, Some(flips), top.width)?;
                top.carry(offered.clone(), share);
                message.push(part);
            }
            self.send(at, "tables", message)?;
        }
        let mut ours = vec![];
        if !chosen.is_empty() {
            let words = chosen.len().div_ceil(64);
            let mut expect = vec![Segment::Wide(table_planes(numbers.iter().map(Number::form)) * words)];
            if let Some(top) = &top {
                expect.push(Segment::Wide(packed_words(chosen.len(), top.width)));
            }
            let mut message = self.recv(at, "tables", &expect)?.into_iter();
            let Some(Part::Wide(tables)) = message.next() else { return Err(wrong_form()) };
            if let (Some(part), Some(top)) = (message.next(), &mut top) {
                let share = self.correlated(&top.plane[halves.words(!self.client)], string, part, top.width)?;
                top.carry(chosen.clone(), share);
            }
            ours = self.take_tables(chosen.len(), &as_numbers(&mine), waiting, &tables)?;
        }
        let (mut first, second) = if self.client { (theirs, ours) } else { (ours, theirs) };
        if !second.is_empty() {
            joined(&mut first, second);
        }
        Ok(first)
    }

    /// The result from the compared numbers.
    fn decide(
        &self,
        mut at: Step,
        value: Vec<u64>,
        mut compared: Vec<Compared>,
        top: &Plane,
        halves: Halves,
        form: &Form,
    ) -> Result<(Vec<u64>, Plane)> {
        let n = value.len();
        let upper = (form.upper() > 0).then(|| compared.pop()).flatten();
        let carry = compared.pop().map(|c| c.larger);
        // Of both parties' shares together: 1 ^ m_0 ^ m_1 ^ larger.
        let positive = upper.as_ref().map(|u| xor(&if self.client { top.clone() } else { not(top) }, &u.larger));
        let (positive, carry) = match (positive, carry, upper.and_then(|u| u.equal)) {
            (Some(positive), Some(carry), Some(equal)) => {
                let both = xor(&positive, &equal);
                let mut products = self.multiply(&at.child("join"), n, &[(&carry, &equal, Some(&both))])?;
                let Some((turned, Some(kept))) = products.pop() else { return Err(wrong_form()) };
                (Some(xor(&positive, &turned)), Some(kept))
            }
            (positive, carry, _) => (positive, carry),
        };
        if form.kind == Kind::Sign {
            let positive = positive.ok_or_else(wrong_form)?;
            return Ok((vec![], if self.client { positive } else { not(&positive) }));
        }
        let selecting = positive.as_ref().filter(|_| form.selected() > 0);
        self.selected(&at, value, selecting, carry.as_ref().map(|c| (c, halves)), form)
            .map(|y| (y, positive.unwrap_or_default()))
    }

    /// The value where a bit is set, if one is given, plus a carry, if there is one: what is opened is masked by choices of
    /// transfers; 2 bits an element and, for each, a message of shares.
    pub(super) fn selected(
        &self,
        at: &Step,
        value: Vec<u64>,
        bit: Option<&Plane>,
        carry: Option<(&Plane, Halves)>,
        form: &Form,
    ) -> Result<Vec<u64>> {
        let n = value.len();
        if bit.is_none() && carry.is_none() {
            return Ok(value);
        }
        let (mut planes, mut message) = (vec![], vec![]);
        let (mut expect, mut waiting) = (vec![], vec![]);
        let mut shares = vec![];
        if let Some(bit) = bit {
            let (rho, string) = self.chosen(n)?;
            let signed: Vec<u64> = value.iter().enumerate().map(|(i, v)| negated_if(*v, mask(&rho, i))).collect();
            let (share, part) = self.correlate(&signed, None, form.selected())?;
            let own = |(i, s): (usize, u64)| s.wrapping_add(value[i] & mask(&rho, i));
            shares.push(share.into_iter().enumerate().map(own).collect::<Vec<u64>>());
            planes.push(xor(bit, &rho));
            message.push(part);
            expect.push(Segment::Wide(packed_words(n, form.selected())));
            waiting.push((shares.len() - 1, 0..n, rho, string, form.selected()));
        }
        if let Some((carry, halves)) = carry {
            // r = r_0 ^ r_1 = r_0 + r_1 - 2 r_0 r_1: of one half this party's bit is its own, of the other a choice.
            let [offered, chosen] = [self.client, !self.client].map(|client| halves.elements(client));
            let mut masks = vec![0; n.div_ceil(64)];
            let mut share = vec![0; n];
            if !offered.is_empty() {
                let r = self.own_plane(offered.len());
                let d: Vec<u64> = (0..offered.len()).map(|i| (mask(&r, i) & 2).wrapping_neg()).collect();
                let (sent, part) = self.correlate(&d, None, form.carried())?;
                for (i, (share, s)) in share[offered].iter_mut().zip(sent).enumerate() {
                    *share = s.wrapping_add(mask(&r, i) & 1);
                }
                masks[halves.words(self.client)].copy_from_slice(&r);
                message.push(part);
            }
            if !chosen.is_empty() {
                let (r, string) = self.chosen(chosen.len())?;
                for (i, share) in share[chosen.clone()].iter_mut().enumerate() {
                    *share = mask(&r, i) & 1;
                }
                masks[halves.words(!self.client)].copy_from_slice(&r);
                expect.push(Segment::Wide(packed_words(chosen.len(), form.carried())));
                waiting.push((shares.len(), chosen, r, string, form.carried()));
            }
            shares.push(share);
            planes.push(xor(carry, &masks));
        }
        let words = n.div_ceil(64);
        let own: Vec<u64> = planes.concat();
        message.insert(0, Part::Wide(own.clone()));
        expect.insert(0, Segment::Wide(own.len()));
        self.send(at, "select", message)?;
        let mut theirs = self.recv(at, "select", &expect)?.into_iter();
        let Some(Part::Wide(opened)) = theirs.next() else { return Err(wrong_form()) };
        let opened = xor(&own, &opened);
        for ((which, elements, c, string, bits), part) in waiting.into_iter().zip(theirs) {
            let more = self.correlated(&c, string, part, bits)?;
            shares[which][elements].iter_mut().zip(more).for_each(|(s, m)| *s = s.wrapping_add(m));
        }
        let (mut shares, mut opened) = (shares.into_iter(), opened.chunks(words.max(1)));
        // b v = e v + (1 - 2 e) rho v for e = b ^ rho.
        let mut y = match bit {
            Some(_) => {
                let (share, e) = (shares.next().ok_or_else(wrong_form)?, opened.next().ok_or_else(wrong_form)?);
                let one = |(i, (v, s)): (usize, (u64, u64))| (v & mask(e, i)).wrapping_add(negated_if(s, mask(e, i)));
                value.into_iter().zip(share).enumerate().map(one).collect()
            }
            None => value,
        };
        if carry.is_some() {
            let (share, f) = (shares.next().ok_or_else(wrong_form)?, opened.next().ok_or_else(wrong_form)?);
            for (i, (y, s)) in y.iter_mut().zip(share).enumerate() {
                let public = if self.client { 0 } else { mask(f, i) & 1 };
                *y = y.wrapping_add(public).wrapping_add(negated_if(s, mask(f, i)));
            }
        }
        Ok(y)
    }

    /// `bit ? x : 0` in a ring, for shares in it.
    pub(super) fn choose(&self, mut at: Step, bit: &[u64], x: &[u64], out: Width) -> Result<Vec<u64>> {
        let form = Form::new(Kind::Relu { low: 0, out }, self.settings);
        let mut y = Vec::with_capacity(x.len());
        let piece = piece(&self.settings);
        for (x, bit) in x.chunks(piece).zip(bit.chunks(piece / 64)) {
            let at = at.child("piece");
            self.begin(&at, "transfers", &selection(x.len()))?;
            y.extend(self.selected(&at, x.to_vec(), Some(&bit.to_vec()), None, &form)?);
        }
        Ok(y)
    }

    /// Planes `0 .. count` of a share's words.
    pub(super) fn planes(&self, x: &[u64], count: u32) -> Result<Vec<Plane>> {
        let words = x.len().div_ceil(64);
        let planes = self.dev.download(self.dev.planes(&self.dev.upload(x.to_vec()), 0, count))?;
        Ok(planes.chunks(words.max(1)).map(<[u64]>::to_vec).collect())
    }

    /// Truncation's rounding: half of the result's unit, and half of the guard bits' range, at the owner; the bits that go.
    pub(super) fn rounded(&self, x: &Shared<D>, shift: u32) -> Result<(Vec<u64>, u32)> {
        let low = shift + x.guard;
        let half = |bits: u32| if bits > 0 { 1u64 << (bits - 1) } else { 0 };
        let unit = if shift > 0 { half(low) } else { 0 };
        let add = if self.client { 0 } else { unit.wrapping_add(half(x.guard)) };
        Ok((self.dev.download(self.dev.affine(&x.data, 1, add))?, low))
    }

    /// max(x, 0) of a narrow value, and the bit x >= 0.
    pub(super) fn relu_shared(&self, at: Step, x: &Shared<D>, out: Width) -> Result<(Shared<D>, Bits)> {
        let (y, plane) = self.each(at, &x.narrow()?.exact()?.words(&self.dev)?, Kind::Relu { low: 0, out })?;
        Ok((Shared::new(&self.dev, x.shape.clone(), out, 0, y), Bits { shape: x.shape.clone(), plane }))
    }

    /// The same of round(x / 2^shift) for wide x.
    pub(super) fn relu_rounded(&self, at: Step, x: &Shared<D>, shift: u32, out: Width) -> Result<(Shared<D>, Bits)> {
        if self.settings.truncation == Truncation::OneBit {
            return self.relu_shared(at, &self.shifted(x, shift)?, out);
        }
        let (words, low) = self.rounded(x.wide()?, shift)?;
        let (y, plane) = self.each(at, &words, Kind::Relu { low, out })?;
        Ok((Shared::new(&self.dev, x.shape.clone(), out, 0, y), Bits { shape: x.shape.clone(), plane }))
    }

    /// round(x / 2^shift), narrow.
    pub(super) fn truncate_shared(&self, at: Step, x: &Shared<D>, shift: u32) -> Result<Shared<D>> {
        if self.settings.truncation == Truncation::OneBit {
            return self.shifted(x, shift);
        }
        let (words, low) = self.rounded(x.wide()?, shift)?;
        let (y, _) = self.each(at, &words, Kind::Truncate { low })?;
        Ok(Shared::new(&self.dev, x.shape.clone(), Width::Narrow, 0, y))
    }

    /// floor(x / 2^shift) or one more, narrow, and no message: each party shifts its own share. The carry of the low bits is lost; a unit
    /// stands for half of one in its place and half of one for rounding.
    fn shifted(&self, x: &Shared<D>, shift: u32) -> Result<Shared<D>> {
        let mut words = x.wide()?.exact()?.words(&self.dev)?;
        let unit = u64::from(shift > 0 && !self.client);
        let ring = u64::MAX >> (64 - self.settings.wide_bits);
        words.iter_mut().for_each(|v| *v = ((*v & ring) >> shift).wrapping_add(unit));
        Ok(Shared::new(&self.dev, x.shape.clone(), Width::Narrow, 0, words))
    }

    /// Takes off a product's guard bits, exactly: a wide share of the product itself.
    pub(super) fn unguarded(&self, at: Step, x: &Shared<D>) -> Result<Shared<D>> {
        if x.guard == 0 {
            return Ok(x.clone());
        }
        let (words, low) = self.rounded(x, 0)?;
        let (y, _) = self.each(at, &words, Kind::Unguard { low })?;
        Ok(Shared::new(&self.dev, x.shape.clone(), Width::Wide, 0, y))
    }

    /// A signed narrow value in the wide ring: an offset makes it non-negative.
    pub(super) fn extend_shared(&self, at: Step, x: &Shared<D>) -> Result<Shared<D>> {
        let offset = 1i64 << (self.settings.narrow_bits - 2);
        let raised = local(&self.dev, !self.client, &Local::Offset(offset), &[x.narrow()?.exact()?])?;
        let (y, _) = self.each(at, &raised.words(&self.dev)?, Kind::Extend)?;
        let wide = Shared::new(&self.dev, x.shape.clone(), Width::Wide, 0, y);
        local(&self.dev, !self.client, &Local::Offset(-offset), &[&wide])
    }

    /// x < 0.
    pub(super) fn sign(&self, at: Step, x: &Shared<D>) -> Result<Bits> {
        let (_, plane) = self.each(at, &x.narrow()?.exact()?.words(&self.dev)?, Kind::Sign)?;
        Ok(Bits { shape: x.shape.clone(), plane })
    }
}

pub(super) fn not(plane: &Plane) -> Plane {
    plane.iter().map(|w| !w).collect()
}

/// -v where the mask is all ones.
fn negated_if(v: u64, mask: u64) -> u64 {
    (v ^ mask).wrapping_sub(mask)
}

/// Planes of all tables of numbers that are compared.
pub(super) fn table_planes(numbers: impl IntoIterator<Item = (u32, bool)>) -> usize {
    let of = |(bits, equal): (u32, bool)| -> usize {
        Digits::new(bits).kinds(equal).map(|(bits, kind)| ((1 << bits) - 1) * kind).sum()
    };
    numbers.into_iter().map(of).sum()
}
