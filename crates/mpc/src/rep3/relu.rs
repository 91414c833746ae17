//! Signs, selection and extension.

use super::compare::wrong_form;
use super::engine::{Rep3, form};
use super::keys::Side;
use super::layout::{plane_words, thirds};
use super::share::{Pair, Shared, local};
use crate::{Local, Result, Step, Width};
use sordino_net::{Message, Part, Segment};
use sordino_ring::{Comparison, Device, Shape, ZipOp};

/// Shared bits: for each part the evaluators know e, the dealer knows rho, and the bit is e xor rho.
pub struct Bits<D: Device> {
    shape: Shape,
    /// Of the part this server deals.
    rho: D::Buf<u64>,
    /// Of the parts where it is first and second evaluator.
    e: [D::Buf<u64>; 2],
    /// This server's additive shares of rho in the narrow ring for these parts, where a ReLU had them dealt already.
    r: Option<[D::Buf<u32>; 2]>,
}

/// A narrow tensor as the parts see it.
pub(super) struct Views<D: Device> {
    /// a of the own part.
    pub(super) a: D::Buf<u32>,
    /// First evaluator's own component plus b; b.
    pub(super) first: [D::Buf<u32>; 2],
    /// Second evaluator's own component; b.
    pub(super) second: [D::Buf<u32>; 2],
}

impl<D: Device> Views<D> {
    /// b of the two evaluated parts, as one row each.
    fn rows(&self) -> [&[D::Buf<u32>]; 2] {
        [&self.first[1..], &self.second[1..]]
    }
}

impl<D: Device> Rep3<D> {
    pub(super) fn views(&self, x: &Pair<D, u32>, n: usize, offset: u32) -> Views<D> {
        let parts = thirds(n);
        let cut = |x: &D::Buf<u32>, p: usize| self.dev.slice(x, parts[p].0, parts[p].1);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let a = self.dev.zip(ZipOp::Add, &cut(&x.0, me), &cut(&x.1, me));
        let b = self.dev.affine(&cut(&x.1, prev), 1, offset);
        let sum = self.dev.zip(ZipOp::Add, &cut(&x.0, prev), &b);
        Views { a, first: [sum, b], second: [cut(&x.1, next), self.dev.affine(&cut(&x.0, next), 1, offset)] }
    }

    /// Compares the bits below the sign and opens the result masked: e = carry ^ rho', for the two evaluated parts.
    /// `b` has one or several rows for the one a.
    pub(super) fn masked_carry(
        &self,
        at: &Step,
        n: usize,
        a: &D::Buf<u32>,
        b: [&[D::Buf<u32>]; 2],
        extra: Message,
        expect: &[Segment],
    ) -> Result<([D::Buf<u64>; 2], Message)> {
        let cmp = Comparison::new(self.sign());
        // With k bits compared, A = 2^k - 1 - a_low: the complement's low bits.
        let a = self.dev.planes(&self.dev.affine(a, u32::MAX, u32::MAX), 0, self.sign());
        let planes = b.map(|rows| rows.iter().map(|b| self.dev.planes(b, 0, self.sign())).collect::<Vec<_>>());
        let (carry, dealt) = self.compare(at, &cmp, n, &a, [&planes[0], &planes[1]], extra, expect)?;
        Ok((self.open_masked(at, n, b[0].len(), carry)?, dealt))
    }

    /// Position of the narrow ring's sign bit.
    fn sign(&self) -> u32 {
        self.settings.narrow_bits - 1
    }

    fn not(&self, plane: &D::Buf<u64>) -> D::Buf<u64> {
        self.dev.affine(plane, u64::MAX, u64::MAX)
    }

    /// sign = msb(a) ^ msb(b) ^ carry; msb(a) goes into the dealer's rho, msb(b) into the evaluators' e.
    pub(crate) fn sign_bits(&self, at: &Step, x: &Shared<D>) -> Result<Bits<D>> {
        let n = x.shape.len();
        let v = self.views(x.as_narrow()?, n, 0);
        let rho = self.sign_rho(at, &v.a, n, 1);
        let (e, _) = self.masked_carry(at, n, &v.a, v.rows(), vec![], &[])?;
        Ok(Bits { shape: x.shape.clone(), rho, e: self.with_sign_of_b(v.rows(), e), r: None })
    }

    pub(super) fn sign_rho(&self, at: &Step, a: &D::Buf<u32>, n: usize, rows: usize) -> D::Buf<u64> {
        let rho = self.dealer_rho(at, self.me, thirds(n)[self.me].1, rows);
        let sign = self.dev.planes(a, self.sign(), self.sign() + 1);
        let signs = (0..rows).map(|_| self.dev.copy(&sign)).collect();
        self.dev.zip(ZipOp::Xor, &rho, &self.dev.join(signs))
    }

    pub(super) fn with_sign_of_b(&self, b: [&[D::Buf<u32>]; 2], e: [D::Buf<u64>; 2]) -> [D::Buf<u64>; 2] {
        let flip = |e: &D::Buf<u64>, b: &[D::Buf<u32>]| {
            let signs = b.iter().map(|b| self.dev.planes(b, self.sign(), self.sign() + 1)).collect();
            self.dev.zip(ZipOp::Xor, e, &self.dev.join(signs))
        };
        [flip(&e[0], b[0]), flip(&e[1], b[1])]
    }

    /// max(x, 0): one deal carries the comparison, the selection and the extension.
    pub(crate) fn relu_shared(&self, at: &Step, x: &Shared<D>, out: Width) -> Result<(Shared<D>, Bits<D>)> {
        let n = x.shape.len();
        let parts = thirds(n);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let dev = &self.dev;
        let v = self.views(x.as_narrow()?, n, 0);

        // Dealer: rho and rho * a, shared between the evaluators; the second's shares come from the seed.
        let len = parts[me].1;
        let rho = self.sign_rho(at, &v.a, n, 1);
        let r: D::Buf<u32> = dev.expand(&rho, len);
        let q = dev.hadamard(&r, &v.a);
        let sub = |x: &D::Buf<u32>, purpose: &str| {
            let mask = self.random::<u32>(Side::Prev, at, purpose, me, len);
            self.outgoing(dev.zip(ZipOp::Sub, x, &mask), self.settings.narrow_bits)
        };
        let mut extra = vec![sub(&r, "r")?, sub(&q, "q")?];
        let mut expect = vec![form(parts[prev].1, self.settings.narrow_bits); 2];
        if out == Width::Wide {
            extra.push(self.deal_widening(at, n)?);
            expect.push(form(parts[prev].1, self.settings.most_shift()));
        }

        let (e, dealt) = self.masked_carry(at, n, &v.a, v.rows(), extra, &expect)?;
        // Keep where the sign is clear.
        let e = self.with_sign_of_b(v.rows(), e).map(|e| self.not(&e));
        let mut dealt = dealt.into_iter();
        let mut next_part = |bits: u32| -> Result<D::Buf<u32>> {
            self.incoming(dealt.next().ok_or_else(wrong_form)?, parts[prev].1, bits)
        };
        let (r1, q1) = (next_part(self.settings.narrow_bits)?, next_part(self.settings.narrow_bits)?);
        let y1 = dev.select(&e[0], &v.first[0], &v.first[1], &r1, &q1);
        let len = parts[next].1;
        let r2 = self.random::<u32>(Side::Next, at, "r", next, len);
        let q2 = self.random::<u32>(Side::Next, at, "q", next, len);
        let y2 = dev.select(&e[1], &v.second[0], &v.second[1], &r2, &q2);
        let kept = Bits { shape: x.shape.clone(), rho, e, r: Some([r1, r2]) };
        let y = match out {
            Width::Narrow => Shared::narrow(x.shape.clone(), self.remask(at, n, y1, y2)?),
            Width::Wide => self.remask_wide(at, x.shape.clone(), [y1, y2], next_part(self.settings.most_shift())?)?,
        };
        Ok((y, kept))
    }

    /// Non-negative additive shares in the narrow ring to replicated ones in the wide ring, with the dealt share of
    /// the product of the masks of their tops.
    fn remask_wide(&self, at: &Step, shape: Shape, y: [D::Buf<u32>; 2], product: D::Buf<u32>) -> Result<Shared<D>> {
        let n = shape.len();
        let y = [&y[0], &y[1]];
        let masked = self.mask_tops(at, n, y);
        let opened = self.exchange(at, "tops", [&masked[0], &masked[1]])?;
        let [y1, y2] = self.widened(at, n, y, &masked, &opened, &product);
        Ok(Shared::wide(shape, self.remask(at, n, y1, y2)?))
    }

    /// bit ? x : 0 for a bit that is there already: as in [`Rep3::relu_shared`] the dealer shares rho a, and rho unless that
    /// ReLU left shares of it.
    pub(crate) fn select_shared(&self, at: &Step, bit: &Bits<D>, x: &Shared<D>, out: Width) -> Result<Shared<D>> {
        let n = x.shape.len();
        crate::fit::fits_bits(&bit.shape, &x.shape)?;
        let parts = thirds(n);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let (dev, narrow) = (&self.dev, self.settings.narrow_bits);
        let v = self.views(x.as_narrow()?, n, 0);
        let r: D::Buf<u32> = dev.expand(&bit.rho, parts[me].1);
        let q = dev.hadamard(&r, &v.a);
        let sub = |x: &D::Buf<u32>, purpose: &str| {
            let mask = self.random::<u32>(Side::Prev, at, purpose, me, parts[me].1);
            self.outgoing(dev.zip(ZipOp::Sub, x, &mask), narrow)
        };
        let mut deal = vec![sub(&q, "q")?];
        let mut expect = vec![form(parts[prev].1, narrow)];
        if bit.r.is_none() {
            deal.push(sub(&r, "r")?);
            expect.push(form(parts[prev].1, narrow));
        }
        if out == Width::Wide {
            deal.push(self.deal_widening(at, n)?);
            expect.push(form(parts[prev].1, self.settings.most_shift()));
        }
        self.send_deal(at, deal)?;
        let mut dealt = self.recv_deal(at, &expect)?.into_iter();
        let mut next_part = |bits: u32| -> Result<D::Buf<u32>> {
            self.incoming(dealt.next().ok_or_else(wrong_form)?, parts[prev].1, bits)
        };
        let q1 = next_part(narrow)?;
        let q2 = self.random::<u32>(Side::Next, at, "q", next, parts[next].1);
        let own;
        let [r1, r2] = match &bit.r {
            Some(kept) => kept,
            None => {
                own = [next_part(narrow)?, self.random::<u32>(Side::Next, at, "r", next, parts[next].1)];
                &own
            }
        };
        let y1 = dev.select(&bit.e[0], &v.first[0], &v.first[1], r1, &q1);
        let y2 = dev.select(&bit.e[1], &v.second[0], &v.second[1], r2, &q2);
        if out == Width::Narrow {
            return Ok(Shared::narrow(x.shape.clone(), self.remask(at, n, y1, y2)?));
        }
        // An offset makes the selected value non-negative for the extension.
        let offset = 1u32 << (narrow - 2);
        let y1 = dev.affine(&y1, 1, offset);
        let wide = self.remask_wide(at, x.shape.clone(), [y1, y2], next_part(self.settings.most_shift())?)?;
        local(dev, me, &Local::Offset(-i64::from(offset)), &[&wide])
    }

    /// A signed narrow value in the wide ring: offset to non-negative, zero-extend, take the offset off.
    pub(crate) fn extend_shared(&self, at: &Step, x: &Shared<D>) -> Result<Shared<D>> {
        let n = x.shape.len();
        // Makes every value of less than this in magnitude non-negative.
        let offset = 1u32 << (self.settings.narrow_bits - 2);
        let v = self.views(x.as_narrow()?, n, offset);
        let deal = self.deal_widening(at, n)?;
        self.send_deal(at, vec![deal])?;
        let y = [&v.first[0], &v.second[0]];
        let masked = self.mask_tops(at, n, y);
        self.send_planes(at, "tops", [&masked[0], &masked[1]])?;
        let (len, bits) = (thirds(n)[self.prev()].1, self.settings.most_shift());
        let got = self.recv_deal(at, &[form(len, bits)])?.pop();
        let product = self.incoming(got.ok_or_else(wrong_form)?, len, bits)?;
        let opened = self.recv_planes(at, "tops", [&masked[0], &masked[1]])?;
        let [y1, y2] = self.widened(at, n, y, &masked, &opened, &product);
        let shifted = Shared::wide(x.shape.clone(), self.remask(at, n, y1, y2)?);
        local(&self.dev, self.me, &Local::Offset(-i64::from(offset)), &[&shifted])
    }

    /// The dealer's message for an extension: a share of the product of the two masks of the tops.
    fn deal_widening(&self, at: &Step, n: usize) -> Result<Part> {
        let len = thirds(n)[self.me].1;
        let w = plane_words(len);
        let first = self.random::<u64>(Side::Next, at, "top", self.me, w);
        let second = self.random::<u64>(Side::Prev, at, "top", self.me, w);
        let product: D::Buf<u32> = self.dev.expand(&self.dev.and(&first, &second), len);
        let mask = self.random::<u32>(Side::Prev, at, "top product", self.me, len);
        self.outgoing(self.dev.zip(ZipOp::Sub, &product, &mask), self.settings.most_shift())
    }

    fn tops(&self, y: [&D::Buf<u32>; 2]) -> [D::Buf<u64>; 2] {
        y.map(|y| self.not(&self.dev.planes(y, self.sign(), self.sign() + 1)))
    }

    fn mask_tops(&self, at: &Step, n: usize, y: [&D::Buf<u32>; 2]) -> [D::Buf<u64>; 2] {
        let parts = thirds(n);
        let masks = [
            self.random::<u64>(Side::Prev, at, "top", self.prev(), plane_words(parts[self.prev()].1)),
            self.random::<u64>(Side::Next, at, "top", self.next(), plane_words(parts[self.next()].1)),
        ];
        let [u, v] = self.tops(y);
        [self.dev.zip(ZipOp::Xor, &u, &masks[0]), self.dev.zip(ZipOp::Xor, &v, &masks[1])]
    }

    /// The evaluators' shares in the wide ring, from the swapped tops and the dealt share of the masks' product.
    fn widened(
        &self,
        at: &Step,
        n: usize,
        y: [&D::Buf<u32>; 2],
        masked: &[D::Buf<u64>; 2],
        opened: &[D::Buf<u64>; 2],
        product: &D::Buf<u32>,
    ) -> [D::Buf<u64>; 2] {
        let second = self.random::<u32>(Side::Next, at, "top product", self.next(), thirds(n)[self.next()].1);
        let (keep, bits) = (self.tops(y), self.settings.narrow_bits);
        [
            self.dev.widen(y[0], bits, true, &keep[0], &masked[0], &opened[0], product),
            self.dev.widen(y[1], bits, false, &keep[1], &masked[1], &opened[1], &second),
        ]
    }
}
