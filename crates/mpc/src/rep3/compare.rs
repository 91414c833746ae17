//! The dealer-assisted comparison [A < B]: A known to a dealer, B to both evaluators, the result XOR-shared by them.

use super::engine::Rep3;
use super::keys::Side;
use super::layout::{plane_words, thirds};
use crate::{Error, Result, Step};
use sordino_net::{Message, Part, Segment};
use sordino_ring::{Comparison, Device, ZipOp};

/// What an evaluator holds of what the dealer dealt.
struct Dealt<D: Device> {
    thermometers: D::Buf<u64>,
    masks: Vec<D::Buf<u64>>,
    products: Vec<D::Buf<u64>>,
}

impl<D: Device> Rep3<D> {
    /// Compares for all three parts at once: this server deals its own part and evaluates the two others.
    ///
    /// `a` are the planes of A of part `me`; `b` those of B of the parts where this server is first and second
    /// evaluator: one or several rows of B for the one A, whose thermometers serve them all. `extra` rides on the dealer's message; the same from the previous dealer (of form `expect`) comes
    /// back. Returns XOR shares of [A < B] for the two evaluated parts, in that order, row after row.
    ///
    /// One message for the deal and one exchange per level of the tree.
    #[expect(clippy::too_many_arguments, reason = "two roles' operands")]
    pub(crate) fn compare(
        &self,
        at: &Step,
        cmp: &Comparison,
        n: usize,
        a: &D::Buf<u64>,
        b: [&[D::Buf<u64>]; 2],
        extra: Message,
        expect: &[Segment],
    ) -> Result<([D::Buf<u64>; 2], Message)> {
        let dev = &self.dev;
        let words = thirds(n).map(|(_, len)| plane_words(len));
        let (first, second) = (self.prev(), self.next());
        let (levels, rows) = (cmp.levels(), b[0].len());

        // Deal.
        let w = words[self.me];
        let own = self.streams(Side::Prev, at, cmp, self.me, [w, rows * w]);
        let mine = self.masks(Side::Next, at, cmp, self.me, rows * w);
        let mut planes = vec![dev.zip(ZipOp::Xor, &dev.thermometer(a, cmp), &own.thermometers)];
        for (level, mine) in mine.iter().enumerate() {
            let masks = dev.zip(ZipOp::Xor, &own.masks[level], mine);
            let products = dev.mask_products(&masks, cmp, level);
            planes.push(dev.zip(ZipOp::Xor, &products, &own.products[level]));
        }
        let mut message = vec![Part::Wide(dev.download(dev.join(planes))?)];
        message.extend(extra);
        self.send_deal(at, message)?;

        // As first evaluator: thermometers and products come from the dealer.
        let w = words[first];
        let mut form = vec![Segment::Wide(w * (cmp.leaf_planes() + rows * cmp.product_planes()))];
        form.extend_from_slice(expect);
        let mut received = self.recv_deal(at, &form)?;
        let extra = received.split_off(1);
        let Some(Part::Wide(dealt)) = received.pop() else { return Err(wrong_form()) };
        let dealt = dev.upload(dealt);
        let mut from = w * cmp.leaf_planes();
        let thermometers = dev.slice(&dealt, 0, from);
        let products = (0..levels)
            .map(|level| {
                let len = rows * w * cmp.products(level);
                from += len;
                dev.slice(&dealt, from - len, len)
            })
            .collect();
        let as_first = Dealt::<D> { thermometers, masks: self.masks(Side::Prev, at, cmp, first, rows * w), products };
        // As second evaluator: everything comes from the seed shared with the dealer.
        let as_second = self.streams(Side::Next, at, cmp, second, [words[second], rows * words[second]]);

        // Every row selects from the same thermometers; the rows of a wire lie side by side.
        let leaves = |dealt: &Dealt<D>, b: &[D::Buf<u64>], w: usize, one: bool| {
            let rows: Vec<_> = b.iter().map(|b| dev.leaves(&dealt.thermometers, b, cmp, one)).collect();
            dev.concat(&rows.iter().collect::<Vec<_>>(), 2 * cmp.chunks().len() - 1, &vec![w; rows.len()])
        };
        let mut wires = [leaves(&as_first, b[0], words[first], true), leaves(&as_second, b[1], words[second], false)];
        for level in 0..levels {
            let label = ["level 0", "level 1", "level 2", "level 3"][level];
            let masked = |wires: &D::Buf<u64>, masks: &D::Buf<u64>| {
                dev.zip(ZipOp::Xor, &dev.tree_inputs(wires, cmp, level), masks)
            };
            let own = [masked(&wires[0], &as_first.masks[level]), masked(&wires[1], &as_second.masks[level])];
            let opened = self.exchange_planes(at, label, own)?;
            let next = |i: usize, dealt: &Dealt<D>| {
                let (masks, products) = (&dealt.masks[level], &dealt.products[level]);
                dev.tree_level(&wires[i], &opened[i], masks, products, cmp, level, i == 0)
            };
            wires = [next(0, &as_first), next(1, &as_second)];
        }
        Ok((wires, extra))
    }

    fn masks(&self, side: Side, at: &Step, cmp: &Comparison, part: usize, words: usize) -> Vec<D::Buf<u64>> {
        let all = self.random::<u64>(side, at, "masks", part, words * cmp.opened_planes());
        let mut from = 0;
        (0..cmp.levels())
            .map(|level| {
                let len = words * cmp.opened(level);
                from += len;
                self.dev.slice(&all, from - len, len)
            })
            .collect()
    }

    /// What the second evaluator and the dealer expand from their seed: words of a plane of thermometers, and of a plane
    /// of all rows.
    fn streams(&self, side: Side, at: &Step, cmp: &Comparison, part: usize, [w, all_rows]: [usize; 2]) -> Dealt<D> {
        let mut from = w * cmp.leaf_planes();
        let all = self.random::<u64>(side, at, "deal", part, from + all_rows * cmp.product_planes());
        let thermometers = self.dev.slice(&all, 0, from);
        let products = (0..cmp.levels())
            .map(|level| {
                let len = all_rows * cmp.products(level);
                from += len;
                self.dev.slice(&all, from - len, len)
            })
            .collect();
        Dealt { thermometers, masks: self.masks(side, at, cmp, part, all_rows), products }
    }

    /// The mask of the opened result bit, known to the dealer as the xor of one stream with each evaluator.
    pub(crate) fn dealer_rho(&self, at: &Step, part: usize, n: usize, rows: usize) -> D::Buf<u64> {
        let w = rows * plane_words(n);
        let first = self.random::<u64>(Side::Next, at, "rho", part, w);
        let second = self.random::<u64>(Side::Prev, at, "rho", part, w);
        self.dev.zip(ZipOp::Xor, &first, &second)
    }

    /// Opens rows of XOR-shared bits, masked by rho, to the two evaluators of each part. One exchange of a plane a row.
    pub(crate) fn open_masked(
        &self,
        at: &Step,
        n: usize,
        rows: usize,
        bits: [D::Buf<u64>; 2],
    ) -> Result<[D::Buf<u64>; 2]> {
        let words = thirds(n).map(|(_, len)| rows * plane_words(len));
        let first = self.random::<u64>(Side::Prev, at, "rho", self.prev(), words[self.prev()]);
        let second = self.random::<u64>(Side::Next, at, "rho", self.next(), words[self.next()]);
        let own = [self.dev.zip(ZipOp::Xor, &bits[0], &first), self.dev.zip(ZipOp::Xor, &bits[1], &second)];
        self.exchange_planes(at, "open masked", own)
    }

    /// The evaluators of each part send each other their shares; both end with the xor.
    pub(crate) fn exchange_planes(&self, at: &Step, label: &str, own: [D::Buf<u64>; 2]) -> Result<[D::Buf<u64>; 2]> {
        let [theirs_first, theirs_second] = self.exchange(at, label, [&own[0], &own[1]])?;
        let [first, second] = own;
        Ok([self.dev.zip(ZipOp::Xor, &first, &theirs_first), self.dev.zip(ZipOp::Xor, &second, &theirs_second)])
    }
}

pub(crate) fn wrong_form() -> Error {
    Error::Usage("a received message does not have the form that was asked for".into())
}
