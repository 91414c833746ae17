//! From correlated blocks to independent strings.
//!
//! H(x) = AES_k(x) ^ x with a key for every 1024 blocks of a direction, drawn from a seed that both ends chose together: a hash that
//! is robust against the correlation by delta (Guo, Katz, Wang, Yu, ePrint 2019/074, section 7; keys as in its multi-instance
//! form). A key hashes the blocks of one direction once.

use crate::aes128::Aes;
use zeroize::Zeroize;

/// Blocks under one key.
const PER_KEY: usize = 1024;

/// What of a hash is used: its low bits.
pub trait Cut: Copy + Default {
    /// The low bits of a word.
    fn cut(word: u64) -> Self;
}

impl Cut for u32 {
    fn cut(word: u64) -> Self {
        word as u32
    }
}

impl Cut for u64 {
    fn cut(word: u64) -> Self {
        word
    }
}

pub(crate) fn halves(block: u128) -> [u64; 2] {
    [block as u64, (block >> 64) as u64]
}

/// The hash of one direction.
pub(crate) struct Hash {
    keys: Aes,
    direction: u128,
}

impl Hash {
    /// `seed` is both ends'; `direction` tells the two directions apart.
    pub(crate) fn new(seed: u128, direction: u8) -> Self {
        Self { keys: Aes::new(seed), direction: u128::from(direction) << 64 }
    }

    fn key(&self, number: u128) -> Aes {
        let mut key = [self.direction | number];
        self.keys.encrypt(&mut key);
        Aes::new(key[0])
    }

    /// Appends hashes of blocks number `start ..`, each plus a constant: `H(x ^ add)`.
    pub(crate) fn cut<T: Cut>(&self, start: u64, blocks: &[u128], add: u128, out: &mut Vec<T>) {
        let (mut at, mut rest) = (start, blocks);
        let mut low = [0u64; PER_KEY];
        while !rest.is_empty() {
            let within = (at % PER_KEY as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PER_KEY - within));
            let low = &mut low[..now.len()];
            self.key(u128::from(at / PER_KEY as u64)).forward(now, add, low);
            out.extend(low.iter().map(|h| T::cut(*h)));
            at += now.len() as u64;
            rest = later;
        }
    }

    /// The key of some blocks' strings of one length, and of a part of them: 1024 points.
    fn long_key(&self, length: usize, part: usize, group: u64) -> Aes {
        self.key((part as u128) << 100 | (length as u128) << 72 | u128::from(group))
    }

    /// Appends strings of so many blocks each, at most 2^28, two words a block: H at x, x ^ 1, x ^ 2 and so on, for blocks number `start ..`, each
    /// plus a constant. Robustness against the correlation is a matter of the points being different, and blocks are random: those of
    /// one key meet with less than 2^-98. A key serves 1024 points, and no strings of another length.
    pub(crate) fn rows(&self, start: u64, blocks: &[u128], add: u128, length: usize, out: &mut Vec<u64>) {
        debug_assert!(length < 1 << 28);
        let per_key = (PER_KEY / length.max(1)).max(1);
        let (mut at, mut rest) = (start, blocks);
        let (mut points, mut hashes) = (vec![], vec![]);
        while !rest.is_empty() {
            let within = (at % per_key as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(per_key - within));
            // Of strings that are longer than what a key serves there is one in a group, and it goes part by part.
            for (part, from) in (0..length).step_by(PER_KEY).enumerate() {
                points.clear();
                let part_of = from as u128..length.min(from + PER_KEY) as u128;
                now.iter().for_each(|x| points.extend(part_of.clone().map(|t| x ^ add ^ t)));
                hashes.clone_from(&points);
                self.long_key(length, part, at / per_key as u64).encrypt(&mut hashes);
                let before = out.len();
                out.resize(before + 2 * points.len(), 0);
                let words = out[before..].as_chunks_mut::<2>().0.iter_mut();
                words.zip(hashes.iter().zip(&points)).for_each(|(words, (h, x))| *words = halves(h ^ x));
            }
            at += now.len() as u64;
            rest = later;
        }
        // At the sender the points differ by its delta from others.
        points.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_block_number_and_direction_alone() {
        let blocks: Vec<u128> = (0..3000).map(|i| i * 0x1_0001).collect();
        let cut = |hash: Hash, start: u64, blocks: &[u128], add: u128| {
            let mut out: Vec<u64> = vec![];
            hash.cut(start, blocks, add, &mut out);
            out
        };
        let hash = || Hash::new(5, 0);
        let whole = cut(hash(), 100, &blocks, 9);
        let pieces = [cut(hash(), 100, &blocks[..777], 9), cut(hash(), 877, &blocks[777..], 9)];
        assert!(whole == pieces.concat());
        let plus: Vec<u128> = blocks.iter().map(|b| b ^ 9).collect();
        assert!(whole == cut(hash(), 100, &plus, 0));
        assert!(whole != cut(Hash::new(5, 1), 100, &blocks, 9) && whole != cut(Hash::new(6, 0), 100, &blocks, 9));
        let mut low: Vec<u32> = vec![];
        hash().cut(100, &blocks, 9, &mut low);
        assert!(whole.iter().map(|w| *w as u32).eq(low));
    }

    #[test]
    fn rows_depend_on_block_number_direction_and_length_alone() {
        let blocks = crate::Stream::new([4; 16]).blocks(400);
        let rows = |hash: Hash, start: u64, blocks: &[u128], add: u128, length: usize| {
            let mut out = vec![];
            hash.rows(start, blocks, add, length, &mut out);
            assert_eq!(out.len(), 2 * length * blocks.len());
            out
        };
        let hash = |direction| Hash::new(5, direction);
        for length in [1, 3, 43, 1024, 1500] {
            let whole = rows(hash(0), 100, &blocks[..30], 9, length);
            let pieces = [(100, &blocks[..17]), (117, &blocks[17..30])].map(|(at, b)| rows(hash(0), at, b, 9, length));
            assert!(whole == pieces.concat());
            let plus: Vec<u128> = blocks[..30].iter().map(|b| b ^ 9).collect();
            assert!(whole == rows(hash(0), 100, &plus, 0, length));
            assert!(whole != rows(hash(1), 100, &blocks[..30], 9, length));
            // By definition, from a key of its own.
            let per_key = (1024 / length).max(1) as u64;
            for (i, row) in whole.chunks(2 * length).enumerate() {
                let key = hash(0).long_key(length, (length - 1) / 1024, (100 + i as u64) / per_key);
                let mut last = [blocks[i] ^ 9 ^ (length as u128 - 1)];
                let point = last[0];
                key.encrypt(&mut last);
                assert_eq!(row[2 * length - 2..], halves(last[0] ^ point));
            }
        }
        let lengths = [2, 3].map(|length| rows(hash(0), 0, &blocks[..1], 0, length)[0]);
        assert_ne!(lengths[0], lengths[1]);
    }
}
