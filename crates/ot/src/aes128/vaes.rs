//! AES-128 with AVX-512: four blocks to a register, eight registers in flight.

use std::arch::x86_64::*;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Round keys, erased on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Keys([__m128i; 11]);

/// Blocks that are in flight together.
const FLIGHT: usize = 32;

macro_rules! round_key {
    ($keys:ident, $i:literal, $constant:literal) => {{
        let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>($keys[$i - 1]));
        let mut v = $keys[$i - 1];
        v = _mm_xor_si128(v, _mm_slli_si128::<4>(v));
        v = _mm_xor_si128(v, _mm_slli_si128::<8>(v));
        $keys[$i] = _mm_xor_si128(v, word);
    }};
}

impl Keys {
    /// Nothing where the processor lacks the instructions.
    pub(super) fn new(key: u128) -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("aes");
        // SAFETY: the instructions are there.
        there.then(|| unsafe { Self::expanded(key) })
    }

    /// FIPS-197, section 5.2.
    #[target_feature(enable = "aes,sse2")]
    fn expanded(key: u128) -> Self {
        let mut keys = [_mm_set_epi64x((key >> 64) as i64, key as i64); 11];
        round_key!(keys, 1, 0x01);
        round_key!(keys, 2, 0x02);
        round_key!(keys, 3, 0x04);
        round_key!(keys, 4, 0x08);
        round_key!(keys, 5, 0x10);
        round_key!(keys, 6, 0x20);
        round_key!(keys, 7, 0x40);
        round_key!(keys, 8, 0x80);
        round_key!(keys, 9, 0x1b);
        round_key!(keys, 10, 0x36);
        Self(keys)
    }

    /// Encrypts in place.
    pub(super) fn encrypt(&self, blocks: &mut [u128]) {
        // SAFETY: keys are made only where the instructions are there.
        unsafe { self.encrypt_simd(blocks) }
    }

    /// The low halves of AES(x ^ add) ^ x ^ add.
    pub(super) fn forward(&self, blocks: &[u128], add: u128, out: &mut [u64]) {
        assert_eq!(blocks.len(), out.len());
        // SAFETY: keys are made only where the instructions are there.
        unsafe { self.forward_simd(blocks, add, out) }
    }

    /// The children of the first `half` nodes, in place.
    pub(super) fn children(&self, nodes: &mut [u128], half: usize) {
        assert!(nodes.len() >= 2 * half && half.is_multiple_of(FLIGHT));
        // SAFETY: keys are made only where the instructions are there.
        unsafe { self.children_simd(nodes, half) }
    }

    #[target_feature(enable = "avx512f,avx512bw,vaes,aes")]
    fn encrypt_simd(&self, blocks: &mut [u128]) {
        let mut whole = blocks.chunks_exact_mut(FLIGHT);
        for blocks in &mut whole {
            let v = self.rounds(std::array::from_fn(|i| load(blocks, 4 * i)));
            (0..8).for_each(|i| store(blocks, 4 * i, v[i]));
        }
        let rest = whole.into_remainder();
        if !rest.is_empty() {
            let mut padded = [0; FLIGHT];
            padded[..rest.len()].copy_from_slice(rest);
            let v = self.rounds(std::array::from_fn(|i| load(&padded, 4 * i)));
            (0..8).for_each(|i| store(&mut padded, 4 * i, v[i]));
            rest.copy_from_slice(&padded[..rest.len()]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,vaes,aes")]
    fn forward_simd(&self, blocks: &[u128], add: u128, out: &mut [u64]) {
        let add = _mm512_broadcast_i32x4(_mm_set_epi64x((add >> 64) as i64, add as i64));
        let mut padded = [0; FLIGHT];
        for (x, out) in blocks.chunks(FLIGHT).zip(out.chunks_mut(FLIGHT)) {
            let x = if x.len() == FLIGHT {
                x
            } else {
                padded[..x.len()].copy_from_slice(x);
                &padded
            };
            let v: [__m512i; 8] = std::array::from_fn(|i| _mm512_xor_si512(load(x, 4 * i), add));
            let h = self.rounds(v);
            let even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
            let mut low = [0u64; FLIGHT];
            for i in 0..4 {
                let [a, b] = [2 * i, 2 * i + 1].map(|i| _mm512_xor_si512(h[i], v[i]));
                // SAFETY: eight words of the buffer.
                unsafe { _mm512_storeu_si512(low[8 * i..].as_mut_ptr().cast(), _mm512_permutex2var_epi64(a, even, b)) };
            }
            out.copy_from_slice(&low[..out.len()]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,vaes,aes")]
    fn children_simd(&self, nodes: &mut [u128], half: usize) {
        let first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
        let second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
        for j in (0..half / FLIGHT).rev() {
            let parents: [__m512i; 8] = std::array::from_fn(|i| load(nodes, FLIGHT * j + 4 * i));
            let turned = parents.map(|v| sigma(v));
            let h = self.rounds(turned);
            for i in (0..8).rev() {
                let left = _mm512_xor_si512(h[i], turned[i]);
                let right = _mm512_xor_si512(left, parents[i]);
                let at = 2 * FLIGHT * j + 8 * i;
                store(nodes, at, _mm512_permutex2var_epi64(left, first, right));
                store(nodes, at + 4, _mm512_permutex2var_epi64(left, second, right));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vaes,aes")]
    fn rounds(&self, mut v: [__m512i; 8]) -> [__m512i; 8] {
        let key = |i: usize| _mm512_broadcast_i32x4(self.0[i]);
        let (first, last) = (key(0), key(10));
        v.iter_mut().for_each(|b| *b = _mm512_xor_si512(*b, first));
        for round in 1..10 {
            let key = key(round);
            v.iter_mut().for_each(|b| *b = _mm512_aesenc_epi128(*b, key));
        }
        v.iter_mut().for_each(|b| *b = _mm512_aesenclast_epi128(*b, last));
        v
    }
}

/// (high ^ low) and high, as [`super::sigma`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sigma(v: __m512i) -> __m512i {
    let swapped = _mm512_shuffle_epi32::<0b01_00_11_10>(v);
    _mm512_xor_si512(swapped, _mm512_maskz_mov_epi64(0b1010_1010, v))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[u128], at: usize) -> __m512i {
    debug_assert!(at + 4 <= x.len());
    // SAFETY: callers step within slices of whole registers.
    unsafe { _mm512_loadu_si512(x.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [u128], at: usize, v: __m512i) {
    debug_assert!(at + 4 <= x.len());
    // SAFETY: callers step within slices of whole registers.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().add(at).cast(), v) }
}
