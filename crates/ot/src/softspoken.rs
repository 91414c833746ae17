//! Correlated transfers in bulk: SoftSpokenOT (Roy, CRYPTO 2022, ePrint 2022/192, figures 6 and 7, for ends that follow the
//! protocol), with fields of 2^k elements; k = 1 is IKNP.
//!
//! The receiver grows 128 / k trees of 2^k seeds each; the sender gets all of a tree's seeds but the one at the k bits of delta
//! that belong to the tree. With s_x the seeds' streams, the receiver takes u = sum s_x and v = sum x s_x; the sender takes
//! sum (x ^ delta) s_x = v ^ delta u, where the unknown seed counts zero times. A message of 128 / k - 1 bits a transfer makes
//! all trees' u one and the same: the choices.

use crate::aes128::Aes;
use crate::transpose::columns;
use crate::{Error, Result, Stream};
use zeroize::Zeroize;

/// Bits of delta a tree covers, where nothing else is asked for. Eight would halve the bytes once more for eight times the work.
pub(crate) const K: usize = 4;

/// Transfers that are made at a time: a multiple of 128, small enough for the caches.
const PIECE: usize = 1 << 12;
const BLOCKS: usize = PIECE / 128;
const WORDS: usize = PIECE / 64;

/// Words of the receiver's message for `n` transfers, which are a multiple of 128, with trees of so many bits of delta.
pub(crate) fn words(k: usize, n: usize) -> usize {
    (128 / k - 1) * n / 64
}

/// Words of the setup's message from the receiver of the bulk, who is the sender of the transfers by public keys.
pub(crate) const SETUP: usize = 128 * 4;

fn double(seed: u128) -> [u128; 2] {
    // A fixed permutation, with the input fed forward: seeds are uniform and used for nothing else.
    let mut out = [seed ^ 1, seed ^ 2];
    let before = out;
    Aes::new(0x736f_7264_696e_6f20_7472_6565).encrypt(&mut out);
    [out[0] ^ before[0], out[1] ^ before[1]]
}

/// The receiver's end: knows all seeds.
pub(crate) struct Receiver<const K: usize> {
    seeds: Vec<Aes>,
    made: u64,
}

impl<const K: usize> Receiver<K> {
    /// From the strings of 128 transfers by public keys, of which this end is the sender; its message for them.
    pub(crate) fn new(strings: &[[u128; 2]], random: &mut Stream) -> Result<(Self, Vec<u64>)> {
        if strings.len() != 128 {
            return Err(Error::Length);
        }
        let (mut seeds, mut message) = (vec![], vec![]);
        for tree in strings.chunks(K) {
            let mut level = vec![random.block()];
            for masks in tree {
                level = level.into_iter().flat_map(double).collect();
                for (side, mask) in masks.iter().enumerate() {
                    let sum = level.iter().skip(side).step_by(2).fold(0, |s, v| s ^ v);
                    message.extend(crate::hash::halves(sum ^ mask));
                }
            }
            seeds.extend(level.into_iter().map(Aes::new));
        }
        Ok((Self { seeds, made: 0 }, message))
    }

    /// Makes `n` transfers: the message, and blocks whose lowest bit is the choice.
    pub(crate) fn extend(&mut self, n: usize, blocks: &mut Vec<u128>) -> Vec<u64> {
        let mut message = Vec::with_capacity(words(K, n));
        let mut rows = vec![0u64; 128 * WORDS];
        let (mut stream, mut first) = (vec![0u128; BLOCKS], vec![0u64; WORDS]);
        for piece in pieces(n) {
            let words = piece / 64;
            let rows = &mut rows[..128 * words];
            for (tree, seeds) in self.seeds.chunks(1 << K).enumerate() {
                let rows = &mut rows[tree * K * words..(tree + 1) * K * words];
                let u = sums(seeds, self.made, words, &mut stream, rows, |x| x);
                if tree == 0 {
                    first[..words].copy_from_slice(&u);
                } else {
                    message.extend(u.iter().zip(&first).map(|(a, b)| a ^ b));
                }
            }
            // The lowest bit of a block is its choice: delta's is one, and the sender's blocks have none.
            rows[..words].copy_from_slice(&first[..words]);
            columns(rows, words, blocks);
            self.made += (piece / 128) as u64;
        }
        message
    }
}

/// The sender's end: knows delta, and all seeds but one of each tree.
pub(crate) struct Sender<const K: usize> {
    delta: u128,
    /// The unknown one of each tree is zero there; its stream counts zero times.
    seeds: Vec<Aes>,
    made: u64,
}

/// The choices for the transfers by public keys that give the seeds: a tree's levels from the root on, complements of delta's bits.
pub(crate) fn choices(k: usize, delta: u128) -> Vec<bool> {
    let bit = |i: usize| delta >> i & 1 == 0;
    (0..128).map(|i| bit(i / k * k + (k - 1 - i % k))).collect()
}

impl<const K: usize> Drop for Sender<K> {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

impl<const K: usize> Sender<K> {
    /// From the strings of its [`choices`] and the receiver's message.
    pub(crate) fn new(delta: u128, strings: &[u128], message: &[u64]) -> Result<Self> {
        if strings.len() != 128 || message.len() != SETUP {
            return Err(Error::Length);
        }
        let block = |i: usize| u128::from(message[2 * i]) | u128::from(message[2 * i + 1]) << 64;
        let mut seeds = Vec::with_capacity((128 / K) << K);
        for tree in 0..128 / K {
            let hole = (delta >> (tree * K)) as usize % (1 << K);
            let mut level = vec![0u128];
            for depth in 0..K {
                let side = hole >> (K - 1 - depth) & 1;
                let at = tree * K + depth;
                // Both candidates are read, so that the place in memory says nothing of delta.
                let pair = [block(2 * at), block(2 * at + 1)];
                let mask = 0u128.wrapping_sub((side ^ 1) as u128);
                let sum = pair[0] ^ (mask & (pair[0] ^ pair[1])) ^ strings[at];
                // The node on the way to the hole counts as zero; its children are put in below.
                let path = hole >> (K - depth);
                let mut next: Vec<u128> = level.iter().flat_map(|seed| double(*seed)).collect();
                for (i, node) in next.iter_mut().enumerate() {
                    *node &= !equal(i / 2, path);
                }
                let sums = [0, 1].map(|first| next.iter().skip(first).step_by(2).fold(0, |s, v| s ^ v));
                let others = sums[0] ^ (mask & (sums[0] ^ sums[1]));
                // Its sibling is what the others lack.
                for (i, node) in next.iter_mut().enumerate() {
                    *node |= equal(i, 2 * path + (side ^ 1)) & (sum ^ others);
                }
                level = next;
            }
            seeds.extend(level.into_iter().map(Aes::new));
        }
        Ok(Self { delta, seeds, made: 0 })
    }

    /// Takes the receiver's message for `n` transfers: blocks whose lowest bit is zero.
    pub(crate) fn extend(&mut self, n: usize, message: &[u64], blocks: &mut Vec<u128>) -> Result<()> {
        if message.len() != words(K, n) {
            return Err(Error::Length);
        }
        let mut rows = vec![0u64; 128 * WORDS];
        let (mut stream, mut message) = (vec![0u128; BLOCKS], message);
        for piece in pieces(n) {
            let words = piece / 64;
            let rows = &mut rows[..128 * words];
            for (tree, seeds) in self.seeds.chunks(1 << K).enumerate() {
                let rows = &mut rows[tree * K * words..(tree + 1) * K * words];
                let hole = (self.delta >> (tree * K)) as usize % (1 << K);
                sums(seeds, self.made, words, &mut stream, rows, |x| x ^ hole);
                if tree > 0 {
                    let (now, later) = message.split_at(words);
                    message = later;
                    for (bit, row) in rows.chunks_exact_mut(words).enumerate() {
                        let mask = 0u64.wrapping_sub((hole >> bit & 1) as u64);
                        row.iter_mut().zip(now).for_each(|(r, c)| *r ^= c & mask);
                    }
                }
            }
            rows[..words].fill(0);
            columns(rows, words, blocks);
            self.made += (piece / 128) as u64;
        }
        Ok(())
    }
}

/// All ones where two numbers are equal, without a branch.
pub(crate) fn equal(a: usize, b: usize) -> u128 {
    let differ = (a ^ b) as u64;
    u128::from((differ | differ.wrapping_neg()) >> 63).wrapping_sub(1)
}

fn pieces(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(PIECE).map(move |at| PIECE.min(n - at))
}

/// The sum of all streams, and in each of the K rows the sum of those whose number, after `weigh`, has that bit.
fn sums(
    seeds: &[Aes],
    start: u64,
    words: usize,
    stream: &mut [u128],
    rows: &mut [u64],
    weigh: impl Fn(usize) -> usize,
) -> Vec<u64> {
    let stream = &mut stream[..words / 2];
    let mut all = vec![0u64; words];
    rows.fill(0);
    for (x, seed) in seeds.iter().enumerate() {
        seed.counter(start, stream);
        let stream: &[u64] = bytemuck::cast_slice(stream);
        all.iter_mut().zip(stream).for_each(|(a, s)| *a ^= s);
        // The sender's weights depend on delta: a mask, not a branch.
        for (bit, row) in rows.chunks_exact_mut(words).enumerate() {
            let mask = 0u64.wrapping_sub((weigh(x) >> bit & 1) as u64);
            row.iter_mut().zip(stream).for_each(|(r, s)| *r ^= s & mask);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn blocks_differ_by_delta_where_the_choice_is_one() {
        differ_by_delta::<K>();
        differ_by_delta::<1>();
        differ_by_delta::<2>();
    }

    fn differ_by_delta<const K: usize>() {
        for delta in [1u128, u128::MAX, 0x0123_4567_89ab_cdef_1122_3344_5566_7789] {
            let mut random = Stream::new([3; 16]);
            let strings: Vec<[u128; 2]> = (0..128).map(|_| [random.block(), random.block()]).collect();
            let chosen: Vec<u128> = strings.iter().zip(choices(K, delta)).map(|(s, c)| s[usize::from(c)]).collect();
            let (mut receiver, setup) = Receiver::<K>::new(&strings, &mut random).unwrap();
            let mut sender = Sender::<K>::new(delta, &chosen, &setup).unwrap();
            let mut ones = 0;
            for n in [128, PIECE + 256, 2 * PIECE] {
                let (mut r, mut t) = (vec![], vec![]);
                let message = receiver.extend(n, &mut t);
                assert_eq!(message.len(), words(K, n));
                sender.extend(n, &message, &mut r).unwrap();
                assert_eq!((r.len(), t.len()), (n, n));
                for (r, t) in r.iter().zip(&t) {
                    let choice = t & 1;
                    assert!(r & 1 == 0 && *t == r ^ (delta & 0u128.wrapping_sub(choice)));
                    ones += choice;
                }
            }
            // 12,672 fair bits; six standard deviations are 338.
            assert!((6336 - 338..6336 + 338).contains(&ones), "{ones}");
            assert_eq!(sender.extend(128, &[0; 3], &mut vec![]), Err(Error::Length));
        }
    }
}
