//! AES-128 as a permutation of many blocks at once, and as a source of pseudo-random bytes.
//!
//! The cipher is the `aes` crate's: vector instructions where the processor has them, constant-time code elsewhere, the same
//! bytes everywhere.

use aes::Aes128;
use cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroize;

/// Blocks of 128 bits are integers; their bytes are little-endian.
pub(crate) struct Aes(Aes128);

impl Aes {
    pub(crate) fn new(key: u128) -> Self {
        Self(Aes128::new(&key.to_le_bytes().into()))
    }

    /// Encrypts every block in place.
    pub(crate) fn encrypt(&self, blocks: &mut [u128]) {
        let bytes: &mut [[u8; 16]] = bytemuck::cast_slice_mut(blocks);
        self.0.encrypt_blocks(aes::Block::cast_slice_from_core_mut(bytes));
    }

    /// Blocks `start ..` of the stream in counter mode.
    pub(crate) fn counter(&self, start: u64, out: &mut [u128]) {
        for (i, block) in out.iter_mut().enumerate() {
            *block = u128::from(start + i as u64);
        }
        self.encrypt(out);
    }
}

/// Pseudo-random bytes from a seed: what an end draws its own secrets from. No `Debug`, no `Clone`.
pub struct Stream {
    aes: Aes,
    next: u64,
}

impl Stream {
    /// The stream of a seed, which must be fresh.
    #[must_use]
    pub fn new(mut seed: [u8; 16]) -> Self {
        let stream = Self { aes: Aes::new(u128::from_le_bytes(seed)), next: 0 };
        seed.zeroize();
        stream
    }

    /// The next `n` blocks.
    #[must_use]
    pub fn blocks(&mut self, n: usize) -> Vec<u128> {
        let mut out = vec![0; n];
        self.aes.counter(self.next, &mut out);
        self.next += n as u64;
        out
    }

    /// The next `n` words.
    #[must_use]
    pub fn words(&mut self, n: usize) -> Vec<u64> {
        let mut words: Vec<u64> = self.blocks(n.div_ceil(2)).into_iter().flat_map(crate::hash::halves).collect();
        words.truncate(n);
        words
    }

    /// Block number i, wherever the stream is.
    #[must_use]
    pub fn at(&self, i: u64) -> u128 {
        let mut block = [0];
        self.aes.counter(i, &mut block);
        block[0]
    }

    /// One block.
    #[must_use]
    pub fn block(&mut self) -> u128 {
        self.blocks(1).first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standards_vector() {
        // FIPS-197, appendix C.1.
        let bytes = |v: u128| u128::from_be_bytes(v.to_le_bytes());
        let aes = Aes::new(bytes(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f));
        let mut block = [bytes(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff); 9];
        aes.encrypt(&mut block);
        assert!(block.iter().all(|b| *b == bytes(0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a)));
    }

    #[test]
    fn a_stream_goes_on() {
        let (mut a, mut b) = (Stream::new([7; 16]), Stream::new([7; 16]));
        let whole = a.blocks(5);
        assert!(whole[..2] == b.blocks(2) && whole[2..4] == b.blocks(2) && whole[4] == b.block());
        assert!(Stream::new([8; 16]).block() != whole[0]);
    }
}
