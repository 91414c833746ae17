//! Transforms and sums of products with AVX-512's 52-bit multiply-add: eight values to a register.
//!
//! Twelve levels go in four passes of three: two over the whole polynomial, and two on each 64 values, which are transposed in
//! between so that the last three levels, too, pair whole registers. Values stay below 4p < 2^52 between levels.

use super::{Inputs, Weights};
use crate::N;
use crate::modulus::{Factor, Modulus};
use std::arch::x86_64::*;
use std::ops::Range;

/// A factor w in every lane, or lane by lane, with floor(w 2^52 / p).
#[derive(Clone, Copy)]
struct W(__m512i, __m512i);

/// Factors as (w, ratio).
type Pairs = Vec<(u64, u64)>;

/// One direction's factors.
struct Direction {
    factors: Pairs,
    /// Of the three levels within eight values: for each 64 values the factors 1, 2, 2, 4, 4, 4, 4 lane by lane, (w, ratio).
    inner: Vec<[[[u64; 8]; 2]; 7]>,
}

/// What the kernels need of a prime.
pub(super) struct Tables {
    modulus: Modulus,
    forward: Direction,
    backward: Direction,
    /// 1 / N, 1, 2^52 and 2^104.
    last: (u64, u64),
    ones: [(u64, u64); 3],
}

fn cut(modulus: Modulus, w: u64) -> (u64, u64) {
    (w, ((u128::from(w) << 52) / u128::from(modulus.p)) as u64)
}

impl Direction {
    fn new(modulus: Modulus, factors: &[Factor]) -> Self {
        let factors: Pairs = factors.iter().map(|f| cut(modulus, f.w)).collect();
        let block = |block: usize| {
            let mut all = [[[0; 8]; 2]; 7];
            for (k, lanes) in all.iter_mut().enumerate() {
                // Number k of seven: level, and place within it.
                let level = (k + 1).ilog2();
                let place = k + 1 - (1 << level);
                for g in 0..8 {
                    let (w, ratio) = factors[((N / 8) << level) + ((8 * block + g) << level) + place];
                    (lanes[0][g], lanes[1][g]) = (w, ratio);
                }
            }
            all
        };
        Self { inner: (0..N / 64).map(block).collect(), factors }
    }

    /// The seven factors of three levels that start with group i of m.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn seven(&self, m: usize, i: usize) -> [W; 7] {
        std::array::from_fn(|k| {
            let level = (k + 1).ilog2();
            let (w, ratio) = self.factors[((m + i) << level) + k + 1 - (1 << level)];
            W(_mm512_set1_epi64(w as i64), _mm512_set1_epi64(ratio as i64))
        })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn lanes(&self, block: usize) -> [W; 7] {
        std::array::from_fn(|k| {
            let [w, ratio] = &self.inner[block][k];
            W(load(w, 0), load(ratio, 0))
        })
    }
}

impl Tables {
    /// Nothing where the processor lacks the instructions.
    pub(super) fn new(modulus: Modulus, forward: &[Factor], backward: &[Factor], last: Factor) -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512dq");
        there.then(|| {
            let power = modulus.reduce(1 << 52);
            Self {
                modulus,
                forward: Direction::new(modulus, forward),
                backward: Direction::new(modulus, backward),
                last: cut(modulus, last.w),
                ones: [1, power, modulus.mul(power, power)].map(|w| cut(modulus, w)),
            }
        })
    }

    pub(super) fn forward(&self, x: &mut [u64]) {
        assert_eq!(x.len(), N);
        // SAFETY: these tables are made only where the instructions are there.
        unsafe { self.forward_simd(x) }
    }

    pub(super) fn backward(&self, x: &mut [u64]) {
        assert_eq!(x.len(), N);
        // SAFETY: these tables are made only where the instructions are there.
        unsafe { self.backward_simd(x) }
    }

    pub(super) fn dot(&self, x: &Inputs, first: usize, w: &Weights, part: Range<usize>, out: &mut [[Vec<u64>; 2]]) {
        super::assert_summable(x, first, w, &part, out);
        // SAFETY: these tables are made only where the instructions are there.
        unsafe {
            match w.outputs {
                1 => self.dot_simd::<1>(x, first, w, part, out),
                2 => self.dot_simd::<2>(x, first, w, part, out),
                3 => self.dot_simd::<3>(x, first, w, part, out),
                4 => self.dot_simd::<4>(x, first, w, part, out),
                n => unreachable!("{n} outputs where there are at most four"),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn forward_simd(&self, x: &mut [u64]) {
        let c = Consts::new(self.modulus.p);
        for m in [1, 8] {
            let span = N / m;
            for i in 0..m {
                let w = self.forward.seven(m, i);
                for j in (0..span / 8).step_by(8) {
                    let at = i * span + j;
                    let mut v: [__m512i; 8] = std::array::from_fn(|k| load(x, at + k * span / 8));
                    down(&mut v, &w, &c);
                    (0..8).for_each(|k| store(x, at + k * span / 8, v[k]));
                }
            }
        }
        for i in 0..N / 64 {
            let mut v: [__m512i; 8] = std::array::from_fn(|k| load(x, 64 * i + 8 * k));
            down(&mut v, &self.forward.seven(64, i), &c);
            transpose(&mut v);
            down(&mut v, &self.forward.lanes(i), &c);
            v.iter_mut().for_each(|v| *v = c.reduced(*v));
            transpose(&mut v);
            (0..8).for_each(|k| store(x, 64 * i + 8 * k, v[k]));
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn backward_simd(&self, x: &mut [u64]) {
        let c = Consts::new(self.modulus.p);
        for i in 0..N / 64 {
            let mut v: [__m512i; 8] = std::array::from_fn(|k| load(x, 64 * i + 8 * k));
            transpose(&mut v);
            up(&mut v, &self.backward.lanes(i), &c);
            transpose(&mut v);
            up(&mut v, &self.backward.seven(64, i), &c);
            (0..8).for_each(|k| store(x, 64 * i + 8 * k, v[k]));
        }
        let last = broadcast(self.last);
        for m in [8, 1] {
            let span = N / m;
            for i in 0..m {
                let w = self.backward.seven(m, i);
                for j in (0..span / 8).step_by(8) {
                    let at = i * span + j;
                    let mut v: [__m512i; 8] = std::array::from_fn(|k| load(x, at + k * span / 8));
                    up(&mut v, &w, &c);
                    if m == 1 {
                        v.iter_mut().for_each(|v| *v = c.reduced(c.times(*v, last)));
                    }
                    (0..8).for_each(|k| store(x, at + k * span / 8, v[k]));
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn dot_simd<const O: usize>(
        &self,
        x: &Inputs,
        first: usize,
        w: &Weights,
        part: Range<usize>,
        out: &mut [[Vec<u64>; 2]],
    ) {
        let c = Consts::new(self.modulus.p);
        let ones = self.ones.map(|one| broadcast(one));
        let zero = _mm512_setzero_si512();
        for block in 0..N / 8 {
            let (mut lo, mut hi) = ([[zero; 2]; O], [[zero; 2]; O]);
            for i in part.clone() {
                let at = ((block * x.count + first + i) * 2) * 8;
                let pair = [load(&x.words, at), load(&x.words, at + 8)];
                for o in 0..O {
                    let w = if w.run == 1 {
                        load(&w.words, ((block * w.count + i) * O + o) * 8)
                    } else {
                        _mm512_set1_epi64(w.words[(8 * block / w.run * w.count + i) * O + o] as i64)
                    };
                    for h in 0..2 {
                        lo[o][h] = _mm512_madd52lo_epu64(lo[o][h], pair[h], w);
                        hi[o][h] = _mm512_madd52hi_epu64(hi[o][h], pair[h], w);
                    }
                }
            }
            for o in 0..O {
                for h in 0..2 {
                    // lo + 2^52 hi, cut into three pieces of 52 bits.
                    let high = _mm512_add_epi64(hi[o][h], _mm512_srli_epi64::<52>(lo[o][h]));
                    let pieces = [
                        _mm512_and_si512(lo[o][h], c.mask),
                        _mm512_and_si512(high, c.mask),
                        _mm512_srli_epi64::<52>(high),
                    ];
                    let parts: [__m512i; 3] = std::array::from_fn(|k| c.times(pieces[k], ones[k]));
                    let sum = c.reduced(_mm512_add_epi64(parts[0], parts[1]));
                    // Below p, 2p and p: what was there before is reduced.
                    let sum = c.reduced(_mm512_add_epi64(sum, parts[2]));
                    let sum = c.reduced(_mm512_add_epi64(sum, load(&out[o][h], 8 * block)));
                    store(&mut out[o][h], 8 * block, sum);
                }
            }
        }
    }
}

struct Consts {
    p: __m512i,
    two_p: __m512i,
    minus_p: __m512i,
    mask: __m512i,
}

impl Consts {
    #[target_feature(enable = "avx512f")]
    fn new(p: u64) -> Self {
        let all = |v: u64| _mm512_set1_epi64(v as i64);
        Self { p: all(p), two_p: all(2 * p), minus_p: all((1 << 52) - p), mask: all((1 << 52) - 1) }
    }

    /// x w below 2p, for x below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn times(&self, x: __m512i, w: W) -> __m512i {
        let zero = _mm512_setzero_si512();
        let q = _mm512_madd52hi_epu64(zero, x, w.1);
        let low = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, x, w.0), q, self.minus_p);
        _mm512_and_si512(low, self.mask)
    }

    /// From below 4p.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn below_two_p(&self, x: __m512i) -> __m512i {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.two_p))
    }

    /// Below 4p in, below 4p out.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn down(&self, a: __m512i, b: __m512i, w: W) -> (__m512i, __m512i) {
        let (x, t) = (self.below_two_p(a), self.times(b, w));
        (_mm512_add_epi64(x, t), _mm512_add_epi64(_mm512_sub_epi64(x, t), self.two_p))
    }

    /// Below 2p in, below 2p out.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
    fn up(&self, a: __m512i, b: __m512i, w: W) -> (__m512i, __m512i) {
        let difference = _mm512_add_epi64(_mm512_sub_epi64(a, b), self.two_p);
        (self.below_two_p(_mm512_add_epi64(a, b)), self.times(difference, w))
    }

    /// From below 4p to below p.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduced(&self, x: __m512i) -> __m512i {
        let x = self.below_two_p(x);
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.p))
    }
}

/// Three levels of the forward transform, from coarse to fine. Written out: as loops over a table of places they stay loops.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
fn down(v: &mut [__m512i; 8], w: &[W; 7], c: &Consts) {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = *v;
    let ((a0, a4), (a1, a5)) = (c.down(a0, a4, w[0]), c.down(a1, a5, w[0]));
    let ((a2, a6), (a3, a7)) = (c.down(a2, a6, w[0]), c.down(a3, a7, w[0]));
    let ((a0, a2), (a1, a3)) = (c.down(a0, a2, w[1]), c.down(a1, a3, w[1]));
    let ((a4, a6), (a5, a7)) = (c.down(a4, a6, w[2]), c.down(a5, a7, w[2]));
    let ((a0, a1), (a2, a3)) = (c.down(a0, a1, w[3]), c.down(a2, a3, w[4]));
    let ((a4, a5), (a6, a7)) = (c.down(a4, a5, w[5]), c.down(a6, a7, w[6]));
    *v = [a0, a1, a2, a3, a4, a5, a6, a7];
}

/// Three levels of the backward one, from fine to coarse; values below 2p.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq")]
fn up(v: &mut [__m512i; 8], w: &[W; 7], c: &Consts) {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = *v;
    let ((a0, a1), (a2, a3)) = (c.up(a0, a1, w[3]), c.up(a2, a3, w[4]));
    let ((a4, a5), (a6, a7)) = (c.up(a4, a5, w[5]), c.up(a6, a7, w[6]));
    let ((a0, a2), (a1, a3)) = (c.up(a0, a2, w[1]), c.up(a1, a3, w[1]));
    let ((a4, a6), (a5, a7)) = (c.up(a4, a6, w[2]), c.up(a5, a7, w[2]));
    let ((a0, a4), (a1, a5)) = (c.up(a0, a4, w[0]), c.up(a1, a5, w[0]));
    let ((a2, a6), (a3, a7)) = (c.up(a2, a6, w[0]), c.up(a3, a7, w[0]));
    *v = [a0, a1, a2, a3, a4, a5, a6, a7];
}

/// Eight registers as an 8 x 8 matrix.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: &mut [__m512i; 8]) {
    // Pairs of lanes, then pairs of pairs, then halves.
    let a: [__m512i; 8] = std::array::from_fn(|i| {
        let (x, y) = (v[i & !1], v[i | 1]);
        if i % 2 == 0 { _mm512_unpacklo_epi64(x, y) } else { _mm512_unpackhi_epi64(x, y) }
    });
    let b: [__m512i; 8] = std::array::from_fn(|i| {
        let (x, y) = (a[i & !2], a[i | 2]);
        let low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
        let high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
        _mm512_permutex2var_epi64(x, if i & 2 == 0 { low } else { high }, y)
    });
    for i in 0..4 {
        v[i] = _mm512_shuffle_i64x2::<0b01_00_01_00>(b[i], b[i + 4]);
        v[i + 4] = _mm512_shuffle_i64x2::<0b11_10_11_10>(b[i], b[i + 4]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast((w, ratio): (u64, u64)) -> W {
    W(_mm512_set1_epi64(w as i64), _mm512_set1_epi64(ratio as i64))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[u64], at: usize) -> __m512i {
    debug_assert!(at + 8 <= x.len());
    // SAFETY: callers step within slices whose lengths the entry points check.
    unsafe { _mm512_loadu_si512(x.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [u64], at: usize, v: __m512i) {
    debug_assert!(at + 8 <= x.len());
    // SAFETY: callers step within slices whose lengths the entry points check.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().add(at).cast(), v) }
}
