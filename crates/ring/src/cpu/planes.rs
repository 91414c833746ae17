//! Bit slicing: from one integer per element to one plane per bit.

use super::simd::{Isa, dispatch};
use crate::Word;

/// Bit planes `from .. to` of `x`, plane after plane.
pub(crate) fn planes<W: Word>(isa: Isa, x: &[W], from: u32, to: u32) -> Vec<u64> {
    #[cfg(target_arch = "x86_64")]
    if isa.0 == super::simd::Level::Avx512 && W::BITS == 32 {
        return super::tile::planes32(isa, bytemuck::cast_slice(x), from, to);
    }
    scalar(isa, x, from, to)
}

dispatch! {
    fn scalar<W: Word>(x: &[W], from: u32, to: u32) -> Vec<u64> {
        let words = x.len().div_ceil(64);
        let count = (to - from) as usize;
        let mut out = vec![0u64; words * count];
        for (w, chunk) in x.chunks(64).enumerate() {
            let mut block = [0u64; 64];
            for (b, v) in block.iter_mut().zip(chunk) {
                *b = v.to_i64() as u64;
            }
            transpose(&mut block);
            for p in 0..count {
                out[p * words + w] = block[from as usize + p];
            }
        }
        out
    }
}

/// Transposes a 64x64 bit matrix: bit j of row i goes to bit i of row j (Hacker's Delight, section 7-3, little-endian).
#[inline(always)]
fn transpose(a: &mut [u64; 64]) {
    let mut j = 32;
    let mut mask = 0x0000_0000_ffff_ffffu64;
    while j != 0 {
        let mut k = 0;
        while k < 64 {
            let t = ((a[k] >> j) ^ a[k + j]) & mask;
            a[k] ^= t << j;
            a[k + j] ^= t;
            k = (k + j + 1) & !j;
        }
        j >>= 1;
        mask ^= mask << j;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_bits() {
        for n in [1, 63, 64, 65, 200] {
            let x: Vec<u32> = crate::PrgKey::new([3; 16]).words(n);
            let y: Vec<u64> = crate::PrgKey::new([4; 16]).words(n);
            let words = n.div_ceil(64);
            for isa in Isa::available() {
                let (px, py) = (planes(isa, &x, 3, 32), planes(isa, &y, 0, 64));
                for e in 0..n {
                    for p in 0..29 {
                        assert_eq!((px[p * words + e / 64] >> (e % 64)) & 1, u64::from(x[e] >> (p + 3) & 1));
                    }
                    for p in 0..64 {
                        assert_eq!((py[p * words + e / 64] >> (e % 64)) & 1, (y[e] >> p) & 1);
                    }
                }
            }
        }
    }
}
