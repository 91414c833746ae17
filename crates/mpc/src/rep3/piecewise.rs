//! Piecewise constant functions of one value: comparisons with many public thresholds at the price of few.
//!
//! x - t_j = a + (b - t_j): the dealer's a is the same for all thresholds, so its thermometer codes are dealt once and
//! every threshold selects from them. The functions are linear in the bits, so evaluators combine their additive shares
//! of the bits first, and only the results are made replicated.

use super::compare::wrong_form;
use super::engine::{Rep3, form};
use super::keys::Side;
use super::layout::{plane_words, thirds};
use super::share::{Pair, Shared};
use crate::fit::function_rows;
use crate::{Ends, Result, Step};
use sordino_ring::{Device, ZipOp};

impl<D: Device> Rep3<D> {
    /// Sums of the weights whose threshold is above x, wide, a row for each function. One deal, the levels of a
    /// comparison, two exchanges.
    pub(crate) fn piecewise_shared(
        &self,
        at: &Step,
        x: &Shared<D>,
        thresholds: &[i64],
        functions: &[Vec<i64>],
        ends: Ends,
    ) -> Result<Shared<D>> {
        let (n, rows) = (x.shape.len(), thresholds.len());
        let shape = function_rows(&x.shape, thresholds, functions)?;
        let lens = thirds(n).map(|(_, len)| len);
        let (me, prev, next) = (self.me, self.prev(), self.next());
        let (dev, wide) = (&self.dev, self.settings.wide_bits);
        let v = self.views(x.as_narrow()?, n, 0);

        // Dealer: rho of every threshold, shared between the evaluators; the second's shares come from the seed.
        let rho = self.sign_rho(at, &v.a, n, rows);
        let word = |plane: &D::Buf<u64>, j: usize, len: usize| -> D::Buf<u64> {
            let w = plane_words(len);
            dev.expand(&dev.slice(plane, j * w, w), len)
        };
        let r = dev.join((0..rows).map(|j| word(&rho, j, lens[me])).collect());
        let mask = self.random::<u64>(Side::Prev, at, "rho share", me, rows * lens[me]);
        let extra = vec![self.outgoing(dev.zip(ZipOp::Sub, &r, &mask), wide)?];
        let expect = [form(rows * lens[prev], wide)];

        let below = |b: &D::Buf<u32>| -> Vec<D::Buf<u32>> {
            thresholds.iter().map(|t| dev.affine(b, 1, (t.wrapping_neg()) as u32)).collect()
        };
        let b = [below(&v.first[1]), below(&v.second[1])];
        let b = [&b[0][..], &b[1][..]];
        let (e, mut dealt) = self.masked_carry(at, n, &v.a, b, extra, &expect)?;
        let e = self.with_sign_of_b(b, e);
        if ends.below || ends.above {
            // x < t_0, and not x < t_last: the first evaluator turns the latter round.
            let cut = |plane: &D::Buf<u64>, len: usize, turn: bool| {
                let w = plane_words(len);
                let at = |j: usize| dev.slice(plane, j * w, w);
                let above = |p: D::Buf<u64>| if turn { dev.affine(&p, u64::MAX, u64::MAX) } else { p };
                [ends.below.then(|| at(0)), ends.above.then(|| above(at(rows - 1)))]
            };
            self.watch_ends(at, n, ends, [&cut(&rho, lens[me], false), &cut(&e[0], lens[prev], true)])?;
        }

        // Evaluators: additive shares of the bits e + (1 - 2 e) rho.
        let r1: D::Buf<u64> = self.incoming(dealt.pop().ok_or_else(wrong_form)?, rows * lens[prev], wide)?;
        let r2 = self.random::<u64>(Side::Next, at, "rho share", next, rows * lens[next]);
        let bits = |e: &D::Buf<u64>, r: &D::Buf<u64>, len: usize, first: bool| -> Vec<D::Buf<u64>> {
            let share = |j: usize| {
                let e = word(e, j, len);
                let signed = dev.hadamard(&dev.affine(&e, 2u64.wrapping_neg(), 1), &dev.slice(r, j * len, len));
                if first { dev.zip(ZipOp::Add, &e, &signed) } else { signed }
            };
            (0..rows).map(share).collect()
        };
        let bits = [bits(&e[0], &r1, lens[prev], true), bits(&e[1], &r2, lens[next], false)];

        // Whichever are fewer become replicated: the bits or the functions.
        let combined = |bits: &[D::Buf<u64>]| functions.iter().map(|f| self.weighted(bits, f)).collect();
        if functions.len() < rows {
            let y = bits.map(|bits| dev.join(combined(&bits)));
            return Ok(Shared::wide(shape, self.remask_rows(at, n, functions.len(), y)?));
        }
        let Pair(first, second) = self.remask_rows(at, n, rows, bits.map(|bits| dev.join(bits)))?;
        let cut = |all: &D::Buf<u64>| -> Vec<D::Buf<u64>> { (0..rows).map(|j| dev.slice(all, j * n, n)).collect() };
        let [first, second] = [first, second].map(|all| dev.join(combined(&cut(&all))));
        Ok(Shared::wide(shape, Pair(first, second)))
    }

    /// A public combination of buffers of one length.
    fn weighted(&self, of: &[D::Buf<u64>], weights: &[i64]) -> D::Buf<u64> {
        let mut terms = of.iter().zip(weights).filter(|(_, w)| **w != 0).map(|(x, &w)| self.dev.affine(x, w as u64, 0));
        let first = terms.next().unwrap_or_else(|| self.dev.affine(&of[0], 0, 0));
        terms.fold(first, |sum, term| self.dev.zip(ZipOp::Add, &sum, &term))
    }
}
