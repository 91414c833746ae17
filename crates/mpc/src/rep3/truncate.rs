//! From three additive wide shares to a replicated narrow sharing of the truncated value.

use super::engine::{Rep3, form};
use super::keys::Side;
use super::layout::thirds;
use super::share::Pair;
use crate::{Result, Step};
use sordino_ring::{Comparison, Device, ZipOp};

impl<D: Device> Rep3<D> {
    /// Truncate-reduce. Each server shifts its own additive share right and keeps the narrow ring's bits; a wrap of the
    /// wide sum falls above them and disappears, so there is no large-error case. Three floors lose between 0 and 3 units less
    /// the carries; adding 1.5 units first centres the error: the result is within 1 unit of the rounded quotient.
    pub(crate) fn truncate_additive(&self, at: Step, z: D::Buf<u64>, n: usize, shift: u32) -> Result<Pair<D, u32>> {
        if self.settings.faithful && shift > 0 {
            return self.truncate_faithfully(at, z, n, shift);
        }
        let add = if self.me == 0 && shift > 0 { 3 << (shift - 1) } else { 0 };
        let plus = self.random::<u32>(Side::Prev, &at, "zero", 0, n);
        let minus = self.random::<u32>(Side::Next, &at, "zero", 0, n);
        let own = self.dev.truncate(&z, add, self.settings.wide_bits, shift, &plus, &minus);
        let next = self.reshare(&at, "reshare", &own, n)?;
        Ok(Pair(own, next))
    }

    /// Exact rounding: reshare wide, compare the low bits of the dealer's and the evaluators' parts, add the carry.
    fn truncate_faithfully(&self, at: Step, z: D::Buf<u64>, n: usize, shift: u32) -> Result<Pair<D, u32>> {
        let half = if self.me == 0 { 1u64 << (shift - 1) } else { 0 };
        let zero = self.dev.zip(
            ZipOp::Sub,
            &self.random::<u64>(Side::Prev, &at, "zero", 0, n),
            &self.random::<u64>(Side::Next, &at, "zero", 0, n),
        );
        let own = self.dev.zip(ZipOp::Add, &self.dev.affine(&z, 1, half), &zero);
        let next = self.reshare(&at, "reshare", &own, n)?;
        let parts = thirds(n);
        let cmp = Comparison::new(shift);
        let (prev_p, me_p, next_p) = (self.prev(), self.me, self.next());
        let cut = |x: &D::Buf<u64>, p: usize| self.dev.slice(x, parts[p].0, parts[p].1);

        // Dealer: the carry is [A < b] on the low bits, with A the complement of a.
        let a = self.dev.zip(ZipOp::Add, &cut(&own, me_p), &cut(&next, me_p));
        let a_planes = self.dev.planes(&self.dev.affine(&a, u64::MAX, u64::MAX), 0, shift);
        let len = parts[me_p].1;
        let rho = self.dealer_rho(&at, me_p, len, 1);
        let r: D::Buf<u32> = self.dev.expand(&rho, len);
        let second_r = self.random::<u32>(Side::Prev, &at, "carry", me_p, len);
        let second_a = self.random::<u32>(Side::Prev, &at, "high", me_p, len);
        let none = self.dev.affine(&r, 0, 0);
        let wide = self.settings.wide_bits;
        let high = self.dev.truncate(&a, 0, wide, shift, &none, &none);
        let narrow = self.settings.narrow_bits;
        let extra = vec![
            self.outgoing(self.dev.zip(ZipOp::Sub, &r, &second_r), narrow)?,
            self.outgoing(self.dev.zip(ZipOp::Sub, &high, &second_a), narrow)?,
        ];

        // Evaluators.
        let (b_first, b_second) = (cut(&next, prev_p), cut(&own, next_p));
        let planes = [[self.dev.planes(&b_first, 0, shift)], [self.dev.planes(&b_second, 0, shift)]];
        let got = parts[prev_p].1;
        let expect = [form(got, narrow); 2];
        let (carries, dealt) = self.compare(&at, &cmp, n, &a_planes, [&planes[0], &planes[1]], extra, &expect)?;
        let e = self.open_masked(&at, n, 1, carries)?;

        // Shares of b >> shift (the first evaluator's), of the carry, and of a >> shift.
        let [r1, a1] = self.upload_narrow(dealt, got)?;
        let share = |e: &D::Buf<u32>, r: &D::Buf<u32>, plus: &D::Buf<u32>| {
            let sign = self.dev.affine(e, 2u32.wrapping_neg(), 1);
            self.dev.zip(ZipOp::Add, &self.dev.hadamard(&sign, r), plus)
        };
        let none = self.dev.affine(&r1, 0, 0);
        let b_high = self.dev.truncate(&b_first, 0, wide, shift, &a1, &none);
        let e_first: D::Buf<u32> = self.dev.expand(&e[0], got);
        let y1 = self.dev.zip(ZipOp::Add, &e_first, &share(&e_first, &r1, &b_high));
        let len = parts[next_p].1;
        let r2 = self.random::<u32>(Side::Next, &at, "carry", next_p, len);
        let a2 = self.random::<u32>(Side::Next, &at, "high", next_p, len);
        let y2 = share(&self.dev.expand(&e[1], len), &r2, &a2);
        self.remask(&at, n, y1, y2)
    }
}
