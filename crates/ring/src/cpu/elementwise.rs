//! One-pass kernels over flat buffers.

use super::simd::dispatch;
use crate::Word;

dispatch! {
    /// x0 * (y0 + y1) + x1 * y0.
    pub(crate) fn product<W: Word>(x0: &[W], x1: &[W], y0: &[W], y1: &[W]) -> Vec<W> {
        x0.iter().zip(x1).zip(y0.iter().zip(y1)).map(|((&a, &b), (&c, &d))| a.mul(c.add(d)).add(b.mul(c))).collect()
    }
}

dispatch! {
    /// x + row, row by row.
    pub(crate) fn add_rows<W: Word>(x: &[W], row: &[W]) -> Vec<W> {
        let mut out = x.to_vec();
        for line in out.chunks_exact_mut(row.len()) {
            line.iter_mut().zip(row).for_each(|(o, &r)| *o = o.add(r));
        }
        out
    }
}

dispatch! {
    /// x * mul + add.
    pub(crate) fn affine<W: Word>(x: &[W], mul: W, add: W) -> Vec<W> {
        x.iter().map(|&v| v.mul(mul).add(add)).collect()
    }
}

dispatch! {
    /// a * b.
    pub(crate) fn hadamard<W: Word>(a: &[W], b: &[W]) -> Vec<W> {
        a.iter().zip(b).map(|(&x, &y)| x.mul(y)).collect()
    }
}

dispatch! {
    /// ((x + add) without its `unused` highest bits >> shift) + plus - minus, low 32 bits.
    pub(crate) fn truncate(x: &[u64], add: u64, unused: u32, shift: u32, plus: &[u32], minus: &[u32]) -> Vec<u32> {
        x.iter()
            .zip(plus.iter().zip(minus))
            .map(|(&v, (&p, &m))| ((v.wrapping_add(add) << unused >> (shift + unused)) as u32).wrapping_add(p).wrapping_sub(m))
            .collect()
    }
}

/// The 0/1 value of bit `i` of a word, and the same as an all-ones mask.
#[inline(always)]
fn bit(word: u64, i: usize) -> u64 {
    (word >> i) & 1
}

dispatch! {
    /// One ring element for each of `n` bits.
    pub(crate) fn expand<W: Word>(plane: &[u64], n: usize) -> Vec<W> {
        let mut out = vec![W::zeroed(); n];
        for (chunk, &word) in out.chunks_mut(64).zip(plane) {
            for (i, o) in chunk.iter_mut().enumerate() {
                *o = W::from_i64(bit(word, i) as i64);
            }
        }
        out
    }
}

dispatch! {
    /// e * x + (1 - 2e) * (r * b + q).
    pub(crate) fn select<W: Word>(e: &[u64], x: &[W], b: &[W], r: &[W], q: &[W]) -> Vec<W> {
        let mut out = vec![W::zeroed(); x.len()];
        for (block, &word) in e.iter().enumerate() {
            let from = (block * 64).min(x.len());
            let to = (from + 64).min(x.len());
            let (x, b, r, q) = (&x[from..to], &b[from..to], &r[from..to], &q[from..to]);
            for (i, o) in out[from..to].iter_mut().enumerate() {
                let e = W::from_i64(bit(word, i) as i64);
                let sign = W::from_i64(1).sub(e).sub(e);
                *o = e.mul(x[i]).add(sign.mul(r[i].mul(b[i]).add(q[i])));
            }
        }
        out
    }
}

dispatch! {
    /// (y mod 2^bits) + 2^bits w, with w = keep * opened + (1 - 2 own)(1 - 2 opened) product, less 1 + own * opened for the first.
    pub(crate) fn widen(
        y: &[u32],
        bits: u32,
        first: bool,
        keep: &[u64],
        own: &[u64],
        opened: &[u64],
        product: &[u32],
    ) -> Vec<u64> {
        let low = u32::MAX >> (32 - bits);
        let mut out = vec![0u64; y.len()];
        let first = if first { u64::MAX } else { 0 };
        for block in 0..keep.len() {
            let from = (block * 64).min(y.len());
            let to = (from + 64).min(y.len());
            let (y, product) = (&y[from..to], &product[from..to]);
            let (flip, both) = (own[block] ^ opened[block], keep[block] & opened[block]);
            let less = own[block] & opened[block] & first;
            for (i, o) in out[from..to].iter_mut().enumerate() {
                // (1 - 2a)(1 - 2b) = 1 - 2 (a xor b)
                let sign = 1u32.wrapping_sub(2 * bit(flip, i) as u32);
                let own = (bit(less, i) + bit(first, 0)) as u32;
                let high = (bit(both, i) as u32).wrapping_sub(own).wrapping_add(sign.wrapping_mul(product[i]));
                *o = u64::from(y[i] & low) | (u64::from(high) << bits);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn instruction_sets_agree() {
        let n = 131;
        let w = |s: u64| -> Vec<u64> { crate::PrgKey::new([s as u8; 16]).words(n) };
        let v = |s: u64| -> Vec<u32> { crate::PrgKey::new([s as u8; 16]).words(n) };
        let run = |isa| {
            (
                product(isa, &w(1), &w(2), &w(3), &w(4)),
                truncate(isa, &w(1), 7, 12, 20, &v(2), &v(3)),
                select(isa, &w(1)[..3], &v(2), &v(3), &v(4), &v(5)),
                widen(isa, &v(1), 28, true, &w(2)[..3], &w(3)[..3], &w(4)[..3], &v(5)),
                expand::<u32>(isa, &w(1)[..3], n),
                hadamard(isa, &w(1), &w(2)),
                affine(isa, &v(1), 3, 5),
                add_rows(isa, &v(1), &v(2)[..n]),
            )
        };
        for isa in Isa::available() {
            assert_eq!(run(isa), run(Isa::available()[0]));
        }
    }
}
