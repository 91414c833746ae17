//! One of up to 256 strings: Kolesnikov and Kumaresan, "Improved OT extension for transferring short secrets" (CRYPTO 2013, ePrint
//! 2013/491). CrypTFlow2's comparisons are made of it; ours are not, and it is here so that the two can be compared.
//!
//! As the extension of Ishai and others, with rows of 256 bits: a receiver's choice r stands as the word c(r) of a code, here Walsh and
//! Hadamard's, whose bit i is the sum of the bits of r and i. The receiver has two streams for each row, and says the sum of
//! both and of the code's row; the sender, who has one of the two by its secret delta, has q = t ^ (c(r) and delta), and the
//! string of v is the hash of q ^ (c(v) and delta). Two words of the code differ in 128 places, so that whoever knows one string must guess
//! 128 bits of delta for another.

use crate::aes128::Aes;
use crate::transpose::columns;
use crate::{Error, Result, Stream};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// Rows, and transfers by public keys that a direction starts from.
pub const ROWS: usize = 256;

/// Most strings to choose from.
pub const STRINGS: usize = 256;

/// Transfers that are made at a time: a multiple of 128.
const PIECE: usize = 1 << 12;

/// Words of the receiver's message for `n` transfers.
#[must_use]
pub fn words(n: usize) -> usize {
    ROWS * n.next_multiple_of(128) / 64
}

/// A column of all rows.
type Column = [u128; 2];

/// A word of the code.
pub(crate) fn word(r: u8) -> Column {
    [0, 128].map(|first| (0..128).fold(0, |c, i| c | u128::from((r & (first + i)).count_ones() & 1) << i))
}

/// A hash that is robust against correlations of the code, as a random oracle is; all of it is one block of the hash's.
pub(crate) fn string(session: u128, number: u64, column: Column) -> u64 {
    let digest = Sha256::new()
        .chain_update(column[0].to_le_bytes())
        .chain_update(column[1].to_le_bytes())
        .chain_update(number.to_le_bytes())
        .chain_update(&session.to_le_bytes()[..15])
        .finalize();
    let mut low = [0; 8];
    low.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(low)
}

/// Columns of 256 rows of so many words.
fn turned(rows: &[u64], words: usize) -> impl Iterator<Item = Column> {
    let (low, high) = rows.split_at(128 * words);
    let [mut a, mut b] = [Vec::with_capacity(64 * words), Vec::with_capacity(64 * words)];
    columns(low, words, &mut a);
    columns(high, words, &mut b);
    a.into_iter().zip(b).map(|(a, b)| [a, b])
}

fn stream(seed: &Aes, start: u64, words: usize) -> Vec<u64> {
    let mut blocks = vec![0u128; words / 2];
    seed.counter(start, &mut blocks);
    bytemuck::cast_slice(&blocks).to_vec()
}

/// The end that chooses. No `Debug`, no `Clone`.
pub struct Receiver {
    seeds: Vec<[Aes; 2]>,
    session: u128,
    made: u64,
}

impl Receiver {
    /// From the strings of [`ROWS`] transfers by public keys that this end sent; `session` is both ends' and fresh.
    ///
    /// # Errors
    /// Another number of strings.
    pub fn new(strings: &[[u128; 2]], session: u128) -> Result<Self> {
        if strings.len() != ROWS {
            return Err(Error::Length);
        }
        Ok(Self { seeds: strings.iter().map(|pair| pair.map(Aes::new)).collect(), session, made: 0 })
    }

    /// Chooses: the message, of [`words`] words, and the string of each choice.
    pub fn choose(&mut self, choices: &[u8]) -> (Vec<u64>, Vec<u64>) {
        let (mut message, mut strings) = (Vec::with_capacity(words(choices.len())), Vec::with_capacity(choices.len()));
        for choices in choices.chunks(PIECE) {
            let words = choices.len().next_multiple_of(128) / 64;
            let planes: [Vec<u64>; 8] = std::array::from_fn(|bit| {
                let mut plane = vec![0; words];
                for (i, choice) in choices.iter().enumerate() {
                    plane[i / 64] |= u64::from(choice >> bit & 1) << (i % 64);
                }
                plane
            });
            let mut rows = Vec::with_capacity(ROWS * words);
            for (i, seeds) in self.seeds.iter().enumerate() {
                let [kept, other] = seeds.each_ref().map(|seed| stream(seed, self.made, words));
                let mut said: Vec<u64> = kept.iter().zip(&other).map(|(a, b)| a ^ b).collect();
                for (_, plane) in planes.iter().enumerate().filter(|(bit, _)| i >> bit & 1 == 1) {
                    said.iter_mut().zip(plane).for_each(|(s, p)| *s ^= p);
                }
                message.extend(said);
                rows.extend(kept);
            }
            let numbers = (128 * self.made)..;
            strings
                .extend(turned(&rows, words).zip(numbers).take(choices.len()).map(|(t, i)| string(self.session, i, t)));
            self.made += (words / 2) as u64;
        }
        (message, strings)
    }
}

/// The end that has the strings. No `Debug`, no `Clone`.
pub struct Sender {
    delta: Column,
    seeds: Vec<Aes>,
    session: u128,
    made: u64,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// A sender's secret.
#[must_use]
pub fn delta(random: &mut Stream) -> Column {
    [random.block(), random.block()]
}

/// The choices of the transfers by public keys that it receives.
#[must_use]
pub fn choices(delta: Column) -> Vec<bool> {
    (0..ROWS).map(|i| delta[i / 128] >> (i % 128) & 1 == 1).collect()
}

impl Sender {
    /// From its secret and the strings of its [`choices`]; `session` is both ends' and fresh.
    ///
    /// # Errors
    /// Another number of strings.
    pub fn new(delta: Column, strings: &[u128], session: u128) -> Result<Self> {
        if strings.len() != ROWS {
            return Err(Error::Length);
        }
        Ok(Self { delta, seeds: strings.iter().map(|seed| Aes::new(*seed)).collect(), session, made: 0 })
    }

    /// Takes the receiver's message for `n` transfers: of each all its strings, the first `of` of them.
    ///
    /// # Errors
    /// A message of another length, or more than [`STRINGS`] strings.
    pub fn strings(&mut self, n: usize, of: usize, message: &[u64]) -> Result<Vec<u64>> {
        let length: usize = pieces(n).map(words).sum();
        if message.len() != length || of > STRINGS {
            return Err(Error::Length);
        }
        let masks: Vec<Column> = (0..of).map(|v| [0, 1].map(|half| word(v as u8)[half] & self.delta[half])).collect();
        let (mut message, mut strings) = (message, Vec::with_capacity(n * of));
        for n in pieces(n) {
            let words = n.next_multiple_of(128) / 64;
            let mut rows = Vec::with_capacity(ROWS * words);
            for (i, seed) in self.seeds.iter().enumerate() {
                let (said, later) = message.split_at(words);
                message = later;
                // A mask, not a branch: delta is secret.
                let mask = 0u64.wrapping_sub((self.delta[i / 128] >> (i % 128) & 1) as u64);
                rows.extend(stream(seed, self.made, words).iter().zip(said).map(|(s, u)| s ^ (u & mask)));
            }
            for (q, number) in turned(&rows, words).zip((128 * self.made)..).take(n) {
                strings.extend(masks.iter().map(|m| string(self.session, number, [q[0] ^ m[0], q[1] ^ m[1]])));
            }
            self.made += (words / 2) as u64;
        }
        Ok(strings)
    }
}

fn pieces(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(PIECE).map(move |at| PIECE.min(n - at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn ends(seed: u8) -> (Sender, Receiver) {
        let mut random = Stream::new([seed; 16]);
        let strings: Vec<[u128; 2]> = (0..ROWS).map(|_| [random.block(), random.block()]).collect();
        let delta = delta(&mut random);
        let chosen: Vec<u128> = strings.iter().zip(choices(delta)).map(|(s, c)| s[usize::from(c)]).collect();
        (Sender::new(delta, &chosen, 7).unwrap(), Receiver::new(&strings, 7).unwrap())
    }

    #[test]
    fn words_of_the_code_differ_in_half_of_their_bits() {
        for a in 0..=255u8 {
            for b in 0..a {
                let differ = [0, 1].map(|half| (word(a)[half] ^ word(b)[half]).count_ones());
                assert_eq!(differ.iter().sum::<u32>(), 128);
            }
        }
    }

    #[test]
    fn the_receiver_has_the_string_of_its_choice_and_no_other() {
        let (mut sender, mut receiver) = ends(3);
        let mut all = vec![];
        for (n, of) in [(1, 2), (300, 16), (PIECE + 70, 256), (128, 8)] {
            let choices: Vec<u8> = (0..n).map(|i| (i * 7 % of) as u8).collect();
            let (message, got) = receiver.choose(&choices);
            let strings = sender.strings(n, of, &message).unwrap();
            assert_eq!((message.len() * 64, got.len()), (pieces(n).map(|n| 64 * words(n)).sum(), n));
            for (i, got) in got.iter().enumerate() {
                assert_eq!(*got, strings[i * of + usize::from(choices[i])]);
            }
            all.extend(strings);
        }
        // A million words of 64 bits: two are equal with a probability of 2^-25.
        let many = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), many);
        assert_eq!(sender.strings(5, 16, &[0; 3]), Err(Error::Length));
        assert_eq!(sender.strings(5, 257, &vec![0; words(5)]), Err(Error::Length));
        assert!(Receiver::new(&[[0; 2]; 3], 7).is_err() && Sender::new([0; 2], &[0; 3], 7).is_err());
    }

    /// What the receiver says is one-time pads: as uniform for one list of choices as for another.
    #[test]
    fn a_message_tells_nothing_of_choices() {
        for choice in [0u8, 15] {
            let (_, mut receiver) = ends(5);
            let (message, _) = receiver.choose(&vec![choice; 4096]);
            let ones: u32 = message.iter().map(|w| w.count_ones()).sum();
            // A million fair bits under a fixed seed; six standard deviations.
            assert!((f64::from(ones) - 524_288.0).abs() < 6.0 * 512.0, "{ones}");
        }
    }
}
