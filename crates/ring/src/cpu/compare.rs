//! Bit-sliced kernels of the chunked comparison. Work goes block by block, eight words (512 elements) at a time, so
//! that everything between loading planes and storing results stays in registers and the first-level cache.

use super::simd::dispatch;
use crate::Comparison;

const LANES: usize = 8;
type V = [u64; LANES];
const ZERO: V = [0; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(u64, u64) -> u64) -> V {
    let mut out = ZERO;
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}
#[inline(always)]
fn xor(a: V, b: V) -> V {
    zip(a, b, |x, y| x ^ y)
}
#[inline(always)]
fn and(a: V, b: V) -> V {
    zip(a, b, |x, y| x & y)
}
#[inline(always)]
fn mux(s: V, zero: V, one: V) -> V {
    xor(zero, and(s, xor(zero, one)))
}

/// Planes of `words` words each, read and written a block at a time.
struct Block {
    words: usize,
    at: usize,
    len: usize,
}

impl Block {
    #[inline(always)]
    fn load(&self, planes: &[u64], p: usize) -> V {
        let mut v = ZERO;
        let from = p * self.words + self.at;
        if self.len == LANES {
            v.copy_from_slice(&planes[from..from + LANES]);
        } else {
            v[..self.len].copy_from_slice(&planes[from..from + self.len]);
        }
        v
    }
    #[inline(always)]
    fn store(&self, planes: &mut [u64], p: usize, v: V) {
        let from = p * self.words + self.at;
        if self.len == LANES {
            planes[from..from + LANES].copy_from_slice(&v);
        } else {
            planes[from..from + self.len].copy_from_slice(&v[..self.len]);
        }
    }
}

#[inline(always)]
fn blocks(words: usize) -> impl Iterator<Item = Block> {
    (0..words).step_by(LANES).map(move |at| Block { words, at, len: LANES.min(words - at) })
}

dispatch! {
    /// For each chunk with value a: the bits a < 1, a < 2, ... a < 2^c (the last is always one and left out).
    pub(crate) fn thermometer(planes: &[u64], cmp: &Comparison) -> Vec<u64> {
        let words = planes.len() / cmp.bits() as usize;
        let mut out = vec![0; words * cmp.leaf_planes()];
        for block in blocks(words) {
            let (mut plane, mut leaf) = (0, 0);
            for &width in cmp.chunks() {
                // t[j] = [a < j] for the bits seen so far.
                let mut t = [ZERO; 17];
                t[1] = [u64::MAX; LANES];
                let mut len = 1;
                for _ in 0..width {
                    let a = block.load(planes, plane);
                    plane += 1;
                    for j in (0..len).rev() {
                        // a < j + len when the top bit is 0, or the rest is below j.
                        t[j + 1 + len] = zip(a, t[j + 1], |a, t| !a | t);
                    }
                    for t in t.iter_mut().take(len + 1) {
                        *t = zip(a, *t, |a, t| !a & t);
                    }
                    len *= 2;
                }
                for t in t.iter().take(len).skip(1) {
                    block.store(&mut out, leaf, *t);
                    leaf += 1;
                }
            }
        }
        out
    }
}

dispatch! {
    /// XOR shares of each chunk's less and equal, from shares of A's thermometers and the planes of B.
    pub(crate) fn leaves(shares: &[u64], planes: &[u64], cmp: &Comparison, one: bool) -> Vec<u64> {
        let words = planes.len() / cmp.bits() as usize;
        let mut out = vec![0; words * (2 * cmp.chunks().len() - 1)];
        let top = [if one { u64::MAX } else { 0 }; LANES];
        for block in blocks(words) {
            let (mut plane, mut leaf, mut wire) = (0, 0, 0);
            for (index, &width) in cmp.chunks().iter().enumerate() {
                // p[j] shares [a < j]; B selects less = p[B] and, shifted by one, less-or-equal = p[B + 1].
                let len = 1usize << width;
                let mut less = [ZERO; 16];
                let mut leq = [ZERO; 16];
                for j in 1..len {
                    less[j] = block.load(shares, leaf);
                    leq[j - 1] = less[j];
                    leaf += 1;
                }
                leq[len - 1] = top;
                let mut n = len / 2;
                for _ in 0..width {
                    let b = block.load(planes, plane);
                    plane += 1;
                    for j in 0..n {
                        less[j] = mux(b, less[2 * j], less[2 * j + 1]);
                        leq[j] = mux(b, leq[2 * j], leq[2 * j + 1]);
                    }
                    n /= 2;
                }
                block.store(&mut out, wire, less[0]);
                wire += 1;
                if index > 0 {
                    block.store(&mut out, wire, xor(less[0], leq[0]));
                    wire += 1;
                }
            }
        }
        out
    }
}

/// Where node j's wires are: `less`, then `equal`; node 0 has no `equal`.
#[inline(always)]
fn less_wire(node: usize) -> usize {
    if node == 0 { 0 } else { 2 * node - 1 }
}

/// Wires a group opens, in order: lowest `less`, lowest `equal` unless nobody needs it, middle `less`, middle `equal`,
/// highest `equal`.
fn inputs(group: &crate::comparison::Group) -> Vec<usize> {
    let mut wires = Vec::with_capacity(5);
    if group.size > 1 {
        wires.push(less_wire(group.first));
        if !group.lowest() {
            wires.push(less_wire(group.first) + 1);
        }
        for node in group.first + 1..group.first + group.size - 1 {
            wires.extend([less_wire(node), less_wire(node) + 1]);
        }
        wires.push(less_wire(group.first + group.size - 1) + 1);
    }
    wires
}

dispatch! {
    /// Copies the wires that a level opens.
    pub(crate) fn tree_inputs(wires: &[u64], cmp: &Comparison, level: usize) -> Vec<u64> {
        let words = wires.len() / (2 * cmp.nodes(level) - 1);
        let mut out = Vec::with_capacity(words * cmp.opened(level));
        for group in cmp.groups(level) {
            for wire in inputs(&group) {
                out.extend_from_slice(&wires[wire * words..(wire + 1) * words]);
            }
        }
        out
    }
}

/// The members of a group's inputs by their place in the formulas: c = lowest less, d = lowest equal, a = middle less,
/// v = middle equal, u = highest equal.
#[derive(Clone, Copy)]
struct Inputs {
    c: V,
    d: V,
    a: V,
    v: V,
    u: V,
}

#[inline(always)]
fn load_inputs(block: &Block, planes: &[u64], mut at: usize, size: usize, lowest: bool) -> Inputs {
    let mut next = || {
        at += 1;
        block.load(planes, at - 1)
    };
    let c = next();
    let d = if lowest { ZERO } else { next() };
    let (a, v) = if size == 3 { (next(), next()) } else { (ZERO, ZERO) };
    Inputs { c, d, a, v, u: next() }
}

dispatch! {
    /// Products of the masks of a level's inputs, in the order `tree_level` reads them.
    pub(crate) fn mask_products(masks: &[u64], cmp: &Comparison, level: usize) -> Vec<u64> {
        let words = masks.len() / cmp.opened(level).max(1);
        let mut out = vec![0; words * cmp.products(level)];
        for block in blocks(words) {
            let (mut at, mut to) = (0, 0);
            for group in cmp.groups(level) {
                if group.size == 1 {
                    continue;
                }
                let m = load_inputs(&block, masks, at, group.size, group.lowest());
                at += group.opened();
                let mut put = |v: V| {
                    block.store(&mut out, to, v);
                    to += 1;
                };
                put(and(m.u, m.c));
                if group.size == 3 {
                    let uv = and(m.u, m.v);
                    put(and(m.u, m.a));
                    put(uv);
                    put(and(m.v, m.c));
                    put(and(uv, m.c));
                    if !group.lowest() {
                        put(and(m.u, m.d));
                        put(and(m.v, m.d));
                        put(and(uv, m.d));
                    }
                } else if !group.lowest() {
                    put(and(m.u, m.d));
                }
            }
        }
        out
    }
}

/// A share of x * y from opened x' = x ^ m, y' = y ^ n, shares of m, n and of the product m n.
#[inline(always)]
fn times2(x: V, y: V, m: V, n: V, mn: V, one: V) -> V {
    xor(xor(and(and(x, y), one), and(x, n)), xor(and(y, m), mn))
}

/// A share of x * y * z likewise, from the shares of all products of the masks.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "three factors, their masks and four products of masks")]
fn times3(x: V, y: V, z: V, m: V, n: V, o: V, mn: V, mo: V, no: V, mno: V, one: V) -> V {
    let linear = xor(and(and(x, y), o), xor(and(and(x, z), n), and(and(y, z), m)));
    let quadratic = xor(and(x, no), xor(and(y, mo), and(z, mn)));
    xor(xor(and(and(x, and(y, z)), one), linear), xor(quadratic, mno))
}

dispatch! {
    /// Joins each group's members.
    pub(crate) fn tree_level(
        wires: &[u64], opened: &[u64], masks: &[u64], products: &[u64], cmp: &Comparison, level: usize, one: bool,
    ) -> Vec<u64> {
        let words = wires.len() / (2 * cmp.nodes(level) - 1);
        let mut out = vec![0; words * (2 * cmp.nodes(level + 1) - 1)];
        let one = [if one { u64::MAX } else { 0 }; LANES];
        for block in blocks(words) {
            let (mut at, mut from) = (0, 0);
            for (index, group) in cmp.groups(level).enumerate() {
                let top = group.first + group.size - 1;
                let (to, top_less) = (less_wire(index), block.load(wires, less_wire(top)));
                if group.size == 1 {
                    block.store(&mut out, to, top_less);
                    if index > 0 {
                        block.store(&mut out, to + 1, block.load(wires, less_wire(top) + 1));
                    }
                    continue;
                }
                let x = load_inputs(&block, opened, at, group.size, group.lowest());
                let m = load_inputs(&block, masks, at, group.size, group.lowest());
                at += group.opened();
                let mut next = || {
                    from += 1;
                    block.load(products, from - 1)
                };
                let uc = next();
                if group.size == 2 {
                    block.store(&mut out, to, xor(top_less, times2(x.u, x.c, m.u, m.c, uc, one)));
                    if index > 0 {
                        block.store(&mut out, to + 1, times2(x.u, x.d, m.u, m.d, next(), one));
                    }
                    continue;
                }
                let (ua, uv, vc, uvc) = (next(), next(), next(), next());
                let middle = times2(x.u, x.a, m.u, m.a, ua, one);
                let low = times3(x.u, x.v, x.c, m.u, m.v, m.c, uv, uc, vc, uvc, one);
                block.store(&mut out, to, xor(top_less, xor(middle, low)));
                if index > 0 {
                    let (ud, vd, uvd) = (next(), next(), next());
                    block.store(&mut out, to + 1, times3(x.u, x.v, x.d, m.u, m.v, m.d, uv, ud, vd, uvd, one));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::planes::planes;
    use super::*;
    use crate::{Isa, PrgKey};

    fn random(seed: u8, n: usize) -> Vec<u64> {
        PrgKey::new([seed; 16]).words(n)
    }
    fn xor_all(a: &[u64], b: &[u64]) -> Vec<u64> {
        a.iter().zip(b).map(|(x, y)| x ^ y).collect()
    }

    /// Runs the whole comparison between a dealer and two evaluators and returns [a < b] for each pair.
    fn compare(isa: Isa, a: &[u64], b: &[u64], bits: u32) -> Vec<bool> {
        let cmp = Comparison::new(bits);
        let n = a.len();
        let t = thermometer(isa, &planes(isa, a, 0, bits), &cmp);
        let second = random(1, t.len());
        let pb = planes(isa, b, 0, bits);
        let mut w1 = leaves(isa, &xor_all(&t, &second), &pb, &cmp, true);
        let mut w2 = leaves(isa, &second, &pb, &cmp, false);
        for level in 0..cmp.levels() {
            let size = n.div_ceil(64) * cmp.opened(level);
            let (m1, m2) = (random(2, size), random(3, size));
            let products = mask_products(isa, &xor_all(&m1, &m2), &cmp, level);
            let p2 = random(4, products.len());
            let p1 = xor_all(&products, &p2);
            let inputs = xor_all(&tree_inputs(isa, &w1, &cmp, level), &tree_inputs(isa, &w2, &cmp, level));
            let opened = xor_all(&inputs, &xor_all(&m1, &m2));
            w1 = tree_level(isa, &w1, &opened, &m1, &p1, &cmp, level, true);
            w2 = tree_level(isa, &w2, &opened, &m2, &p2, &cmp, level, false);
        }
        let less = xor_all(&w1, &w2);
        (0..n).map(|e| (less[e / 64] >> (e % 64)) & 1 == 1).collect()
    }

    #[test]
    fn compares_every_width() {
        for isa in Isa::available() {
            for bits in (1..=8).chain([20, 31, 32, 43, 63, 64]) {
                let mask = u64::MAX >> (64 - bits);
                let n = 700;
                let a: Vec<u64> = random(5, n).iter().map(|v| v & mask).collect();
                // Half the pairs are equal or neighbours, where a comparison is most easily wrong.
                let near = |i: usize| a[i].wrapping_add((i as u64 % 6) / 2).wrapping_sub(1) & mask;
                let b: Vec<u64> =
                    random(6, n).iter().enumerate().map(|(i, v)| if i % 2 == 0 { v & mask } else { near(i) }).collect();
                let want: Vec<bool> = a.iter().zip(&b).map(|(x, y)| x < y).collect();
                assert_eq!(compare(isa, &a, &b, bits), want, "{bits} bits");
            }
        }
    }
}
