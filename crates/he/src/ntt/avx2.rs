//! Transforms and sums of products with AVX2 and fused multiply-add in double precision: four values to a register.
//!
//! x w modulo p, for integers in doubles: h = x w rounded and l = x w - h, both exact; q = h / p rounded; then (h - q p) + l, which is exact
//! because it is an integer below 2^52 (the method of FLINT's `fft_small`). With |w| at most p / 2, p below 2^50 and |x| below 4p, q is
//! off by less than one, so the result is below 1.5p in magnitude. Numbers are signed between levels; the last pass brings them to 0 .. p.

use super::{Inputs, Weights};
use crate::N;
use crate::modulus::{Factor, Modulus};
use std::arch::x86_64::*;
use std::ops::Range;

/// What the kernels need of a prime.
pub(super) struct Tables {
    modulus: Modulus,
    /// Factors of each direction, at most p / 2 in magnitude.
    forward: Vec<f64>,
    backward: Vec<f64>,
    /// 1 / N.
    last: f64,
}

/// Bits of the lower half of a value, for products of integers.
const HALF: u32 = 25;

/// Of the numbers with this exponent the lowest bits are an integer below 2^52.
const MAGIC: f64 = 4_503_599_627_370_496.0;

impl Tables {
    /// Nothing where the processor lacks the instructions.
    pub(super) fn new(modulus: Modulus, forward: &[Factor], backward: &[Factor], last: Factor) -> Option<Self> {
        let there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let signed = |f: &Factor| {
            let w = f.w as i64;
            (if f.w > modulus.p / 2 { w - modulus.p as i64 } else { w }) as f64
        };
        there.then(|| Self {
            modulus,
            forward: forward.iter().map(signed).collect(),
            backward: backward.iter().map(signed).collect(),
            last: signed(&last),
        })
    }

    pub(super) fn forward(&self, x: &mut [u64]) {
        assert_eq!((x.len(), self.forward.len()), (N, N));
        // SAFETY: these tables are made only where the instructions are there.
        unsafe { self.forward_simd(x) }
    }

    pub(super) fn backward(&self, x: &mut [u64]) {
        assert_eq!((x.len(), self.backward.len()), (N, N));
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

    #[target_feature(enable = "avx2,fma")]
    fn forward_simd(&self, x: &mut [u64]) {
        let c = Consts::new(self.modulus.p);
        (0..N).step_by(4).for_each(|i| store(x, i, from_integers(load_integers(x, i))));
        let (mut groups, mut half) = (1, N / 2);
        while half >= 4 {
            for i in 0..groups {
                let (w, at) = (_mm256_set1_pd(self.forward[groups + i]), 2 * half * i);
                for j in (at..at + half).step_by(4) {
                    let (a, b) = c.down(load(x, j), load(x, j + half), w);
                    store(x, j, a);
                    store(x, j + half, b);
                }
            }
            groups *= 2;
            half /= 2;
        }
        for i in (0..N).step_by(8) {
            let pair = (load(x, i), load(x, i + 4));
            // Two groups of four, then four groups of two.
            let (a, b) = halves(pair);
            let w = &self.forward[N / 4 + i / 4..][..2];
            let pair = halves(c.down(a, b, _mm256_set_pd(w[1], w[1], w[0], w[0])));
            let (a, b) = evens(pair);
            let w = &self.forward[N / 2 + i / 2..][..4];
            let (a, b) = evens(c.down(a, b, _mm256_set_pd(w[3], w[1], w[2], w[0])));
            store_integers(x, i, c.integers(a));
            store_integers(x, i + 4, c.integers(b));
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn backward_simd(&self, x: &mut [u64]) {
        let c = Consts::new(self.modulus.p);
        for i in (0..N).step_by(8) {
            let [a, b] = [i, i + 4].map(|i| from_integers(load_integers(x, i)));
            let (a, b) = evens((a, b));
            let w = &self.backward[N / 2 + i / 2..][..4];
            let pair = evens(c.up(a, b, _mm256_set_pd(w[3], w[1], w[2], w[0])));
            let (a, b) = halves(pair);
            let w = &self.backward[N / 4 + i / 4..][..2];
            let (a, b) = halves(c.up(a, b, _mm256_set_pd(w[1], w[1], w[0], w[0])));
            store(x, i, a);
            store(x, i + 4, b);
        }
        let (mut groups, mut half) = (N / 8, 4);
        while groups > 0 {
            for i in 0..groups {
                let (w, at) = (_mm256_set1_pd(self.backward[groups + i]), 2 * half * i);
                for j in (at..at + half).step_by(4) {
                    let (a, b) = c.up(load(x, j), load(x, j + half), w);
                    store(x, j, a);
                    store(x, j + half, b);
                }
            }
            groups /= 2;
            half *= 2;
        }
        let last = _mm256_set1_pd(self.last);
        (0..N).step_by(4).for_each(|i| {
            let v = c.integers(c.times(load(x, i), last));
            store_integers(x, i, v);
        });
    }

    /// Products of integers in halves of 25 bits: sums of up to 2^11 of them stay below 2^63.
    #[target_feature(enable = "avx2")]
    fn dot_simd<const O: usize>(
        &self,
        x: &Inputs,
        first: usize,
        w: &Weights,
        part: Range<usize>,
        out: &mut [[Vec<u64>; 2]],
    ) {
        let mask = _mm256_set1_epi64x((1 << HALF) - 1);
        let cut = |v: __m256i| (_mm256_and_si256(v, mask), _mm256_srli_epi64::<{ HALF as i32 }>(v));
        for at in (0..N).step_by(4) {
            let (block, within) = (at / 8, at % 8);
            for h in 0..2 {
                let mut sums = [[_mm256_setzero_si256(); 3]; O];
                for i in part.clone() {
                    let (xl, xh) = cut(load_integers(&x.words, ((block * x.count + first + i) * 2 + h) * 8 + within));
                    for (o, [low, middle, high]) in sums.iter_mut().enumerate() {
                        let w = if w.run == 1 {
                            load_integers(&w.words, ((block * w.count + i) * O + o) * 8 + within)
                        } else {
                            _mm256_set1_epi64x(w.words[(at / w.run * w.count + i) * O + o] as i64)
                        };
                        let (wl, wh) = cut(w);
                        *low = _mm256_add_epi64(*low, _mm256_mul_epu32(xl, wl));
                        *middle = _mm256_add_epi64(*middle, _mm256_mul_epu32(xl, wh));
                        *middle = _mm256_add_epi64(*middle, _mm256_mul_epu32(xh, wl));
                        *high = _mm256_add_epi64(*high, _mm256_mul_epu32(xh, wh));
                    }
                }
                for (sums, out) in sums.iter().zip(out.iter_mut()) {
                    let mut parts = [[0u64; 4]; 3];
                    parts.iter_mut().zip(sums).for_each(|(part, sum)| store_integers(part, 0, *sum));
                    for (lane, out) in out[h][at..at + 4].iter_mut().enumerate() {
                        let [low, middle, high] = parts.map(|part| u128::from(part[lane]));
                        let sum = low + (middle << HALF) + (high << (2 * HALF));
                        *out = self.modulus.add(*out, self.modulus.reduce(sum));
                    }
                }
            }
        }
    }
}

struct Consts {
    p: __m256d,
    inverse: __m256d,
}

impl Consts {
    #[target_feature(enable = "avx2,fma")]
    fn new(p: u64) -> Self {
        Self { p: _mm256_set1_pd(p as f64), inverse: _mm256_set1_pd(1.0 / p as f64) }
    }

    /// x w modulo p, below 1.5p in magnitude, for x below 4p and w at most p / 2.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn times(&self, x: __m256d, w: __m256d) -> __m256d {
        let h = _mm256_mul_pd(x, w);
        let l = _mm256_fmsub_pd(x, w, h);
        let q = rounded(_mm256_mul_pd(h, self.inverse));
        _mm256_add_pd(_mm256_fnmadd_pd(q, self.p, h), l)
    }

    /// The same number, at most a little more than p / 2 in magnitude; from below 4p.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn small(&self, x: __m256d) -> __m256d {
        _mm256_fnmadd_pd(rounded(_mm256_mul_pd(x, self.inverse)), self.p, x)
    }

    /// Below 2.1p in magnitude in, and out.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn down(&self, a: __m256d, b: __m256d, w: __m256d) -> (__m256d, __m256d) {
        let (u, v) = (self.small(a), self.times(b, w));
        (_mm256_add_pd(u, v), _mm256_sub_pd(u, v))
    }

    /// Below 1.5p in magnitude in, and out.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn up(&self, a: __m256d, b: __m256d, w: __m256d) -> (__m256d, __m256d) {
        (self.small(_mm256_add_pd(a, b)), self.times(_mm256_sub_pd(a, b), w))
    }

    /// Integers in 0 .. p.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn integers(&self, x: __m256d) -> __m256i {
        let x = self.small(x);
        let negative = _mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_setzero_pd());
        let x = _mm256_add_pd(x, _mm256_and_pd(negative, self.p));
        let bits = _mm256_castpd_si256(_mm256_add_pd(x, _mm256_set1_pd(MAGIC)));
        _mm256_and_si256(bits, _mm256_set1_epi64x((1 << 52) - 1))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256d) -> __m256d {
    _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
}

/// Integers below 2^52 as doubles.
#[inline]
#[target_feature(enable = "avx2")]
fn from_integers(x: __m256i) -> __m256d {
    let magic = _mm256_set1_pd(MAGIC);
    _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(x, _mm256_castpd_si256(magic))), magic)
}

/// The first halves of two registers, and the second ones; its own inverse.
#[inline]
#[target_feature(enable = "avx2")]
fn halves((x, y): (__m256d, __m256d)) -> (__m256d, __m256d) {
    (_mm256_permute2f128_pd::<0x20>(x, y), _mm256_permute2f128_pd::<0x31>(x, y))
}

/// The even lanes of two registers, and the odd ones, each pair side by side; its own inverse.
#[inline]
#[target_feature(enable = "avx2")]
fn evens((x, y): (__m256d, __m256d)) -> (__m256d, __m256d) {
    (_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_integers(x: &[u64], at: usize) -> __m256i {
    debug_assert!(at + 4 <= x.len());
    // SAFETY: callers step within slices whose lengths the entry points check.
    unsafe { _mm256_loadu_si256(x.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_integers(x: &mut [u64], at: usize, v: __m256i) {
    debug_assert!(at + 4 <= x.len());
    // SAFETY: callers step within slices whose lengths the entry points check.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().add(at).cast(), v) }
}

/// Doubles lie in the same words between levels.
#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[u64], at: usize) -> __m256d {
    _mm256_castsi256_pd(load_integers(x, at))
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(x: &mut [u64], at: usize, v: __m256d) {
    store_integers(x, at, _mm256_castpd_si256(v));
}
