//! AES-128 as a permutation of many blocks at once, and as a source of pseudo-random bytes.
//!
//! Where the processor has vectors of AES rounds the kernels are ours; elsewhere the cipher is the `aes` crate's, with AES
//! instructions or constant-time code. The bytes are the same everywhere.

#[cfg(target_arch = "x86_64")]
mod vaes;

use aes::Aes128;
use cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroize;

/// Blocks of 128 bits are integers; their bytes are little-endian.
pub(crate) enum Aes {
    #[cfg(target_arch = "x86_64")]
    Vectors(vaes::Keys),
    Portable(Box<Aes128>),
}

/// A linear permutation x whose sum with x is one too: AES(sigma x) ^ sigma x is then robust against circular correlations
/// (ePrint 2019/074, section 7.3).
fn sigma(x: u128) -> u128 {
    let (hi, lo) = ((x >> 64) as u64, x as u64);
    u128::from(hi ^ lo) << 64 | u128::from(hi)
}

impl Aes {
    pub(crate) fn new(key: u128) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = vaes::Keys::new(key) {
            return Self::Vectors(keys);
        }
        Self::portable(key)
    }

    fn portable(key: u128) -> Self {
        Self::Portable(Box::new(Aes128::new(&key.to_le_bytes().into())))
    }

    /// Encrypts every block in place.
    pub(crate) fn encrypt(&self, blocks: &mut [u128]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vectors(keys) => keys.encrypt(blocks),
            Self::Portable(aes) => {
                let bytes: &mut [[u8; 16]] = bytemuck::cast_slice_mut(blocks);
                aes.encrypt_blocks(aes::Block::cast_slice_from_core_mut(bytes));
            }
        }
    }

    /// The low halves of AES(x ^ add) ^ x ^ add.
    pub(crate) fn forward(&self, blocks: &[u128], add: u128, out: &mut [u64]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vectors(keys) => keys.forward(blocks, add, out),
            Self::Portable(_) => {
                let mut hashes: Vec<u128> = blocks.iter().map(|x| x ^ add).collect();
                self.encrypt(&mut hashes);
                let all = out.iter_mut().zip(hashes.iter().zip(blocks));
                all.for_each(|(out, (h, x))| *out = (h ^ x ^ add) as u64);
            }
        }
    }

    /// The children of the first `half` nodes of a tree, in place: the left one is AES(sigma x) ^ sigma x, the right one that plus x.
    pub(crate) fn children(&self, nodes: &mut [u128], half: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Self::Vectors(keys) = self
            && half.is_multiple_of(32)
        {
            return keys.children(nodes, half);
        }
        let mut hashes = [0u128; 32];
        for at in (0..half).step_by(hashes.len()).rev() {
            let parents = at..half.min(at + hashes.len());
            let hashes = &mut hashes[..parents.len()];
            hashes.iter_mut().zip(&nodes[parents.clone()]).for_each(|(h, x)| *h = sigma(*x));
            self.encrypt(hashes);
            for (i, h) in parents.zip(hashes.iter()).rev() {
                let left = h ^ sigma(nodes[i]);
                (nodes[2 * i], nodes[2 * i + 1]) = (left, left ^ nodes[i]);
            }
        }
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
        let mut words = vec![0; n];
        self.fill(&mut words);
        words
    }

    /// As many words as there is room for, from the next block on.
    pub fn fill(&mut self, out: &mut [u64]) {
        let mut blocks = [0u128; 64];
        for words in out.chunks_mut(2 * blocks.len()) {
            let blocks = &mut blocks[..words.len().div_ceil(2)];
            self.aes.counter(self.next, blocks);
            self.next += blocks.len() as u64;
            let (pairs, last) = words.as_chunks_mut::<2>();
            pairs.iter_mut().zip(&*blocks).for_each(|(pair, block)| *pair = crate::hash::halves(*block));
            last.iter_mut().zip(&blocks[pairs.len()..]).for_each(|(low, block)| *low = *block as u64);
        }
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
    fn every_instruction_set_gives_the_same_bytes() {
        let (a, b) = (Aes::new(77), Aes::portable(77));
        for n in [1, 31, 32, 33, 200] {
            let blocks = Stream::new([n as u8; 16]).blocks(2 * n);
            let run = |aes: &Aes| {
                let (mut x, mut nodes, mut low) = (blocks.clone(), blocks.clone(), vec![0; 2 * n]);
                aes.encrypt(&mut x);
                aes.forward(&blocks, 5, &mut low);
                aes.children(&mut nodes, n);
                (x, nodes, low)
            };
            assert!(run(&a) == run(&b));
            let (x, nodes, low) = run(&b);
            let mut plus: Vec<u128> = blocks.iter().map(|x| x ^ 5).collect();
            b.encrypt(&mut plus);
            assert!(low.iter().zip(plus.iter().zip(&blocks)).all(|(l, (h, x))| *l == (h ^ x ^ 5) as u64));
            assert!(nodes[..2 * n].chunks(2).zip(&blocks).all(|(c, x)| c[0] ^ c[1] == *x));
            assert!(x != blocks);
        }
    }

    #[test]
    fn a_stream_goes_on() {
        let (mut a, mut b) = (Stream::new([7; 16]), Stream::new([7; 16]));
        let whole = a.blocks(5);
        assert!(whole[..2] == b.blocks(2) && whole[2..4] == b.blocks(2) && whole[4] == b.block());
        assert!(Stream::new([8; 16]).block() != whole[0]);
    }
}
