//! Gates of a circuit: free exclusive ors (Kolesnikov and Schneider, ICALP 2008) and half gates (Zahur, Rosulek and Evans, EUROCRYPT 2015,
//! ePrint 2014/756), two blocks for each AND. A gate is garbled for many elements at a time.

use aes::Aes128;
use cipher::{BlockCipherEncrypt, KeyInit};
use sordino_mpc::{Error, Result};

/// A wire: a label for each element of a batch.
pub(crate) type Wire = Vec<u128>;

/// What a circuit is made of, at whichever end.
pub(crate) trait Gates {
    /// a & b.
    fn and(&mut self, a: &Wire, b: &Wire) -> Result<Wire>;
    /// !a.
    fn not(&self, a: &Wire) -> Wire;
    /// a ^ b.
    fn xor(&self, a: &Wire, b: &Wire) -> Wire {
        a.iter().zip(b).map(|(a, b)| a ^ b).collect()
    }
}

/// H(x, i) = AES(s) ^ s for s = sigma(x) ^ i, with a key that is fresh for every piece.
pub(crate) struct Hash {
    aes: Aes128,
    /// Number of the next half gate.
    next: u128,
}

impl Hash {
    pub(crate) fn new(key: u128) -> Self {
        Self { aes: Aes128::new(&key.to_le_bytes().into()), next: 0 }
    }

    /// Hashes of labels, each list under the same numbers.
    fn of<const N: usize>(&mut self, lists: [&mut [u128]; N]) {
        let first = self.next;
        let n = lists.first().map_or(0, |list| list.len());
        self.next += n as u128;
        for list in lists {
            for (i, x) in list.iter_mut().enumerate() {
                let (hi, lo) = (*x >> 64, *x & u128::from(u64::MAX));
                *x = ((hi ^ lo) << 64 | hi) ^ (first + i as u128);
            }
            let mut out = list.to_vec();
            let bytes: &mut [[u8; 16]] = bytemuck::cast_slice_mut(&mut out);
            self.aes.encrypt_blocks(aes::Block::cast_slice_from_core_mut(bytes));
            list.iter_mut().zip(out).for_each(|(x, out)| *x ^= out);
        }
    }
}

/// All ones where a label's lowest bit is set.
fn color(label: u128) -> u128 {
    0u128.wrapping_sub(label & 1)
}

/// The end that knows both labels of every wire, which differ by delta; wires are those of zero.
pub(crate) struct Garbler {
    pub(crate) hash: Hash,
    pub(crate) delta: u128,
    /// What the evaluator needs.
    pub(crate) tables: Vec<u128>,
}

impl Gates for Garbler {
    fn and(&mut self, a: &Wire, b: &Wire) -> Result<Wire> {
        let delta = self.delta;
        let (mut a0, mut b0) = (a.clone(), b.clone());
        let [mut a1, mut b1]: [Wire; 2] = [a, b].map(|x| x.iter().map(|x| x ^ delta).collect());
        self.hash.of([&mut a0, &mut a1]);
        self.hash.of([&mut b0, &mut b1]);
        let mut out = Vec::with_capacity(a.len());
        for i in 0..a.len() {
            let (pa, pb) = (color(a[i]), color(b[i]));
            let garbled = a0[i] ^ a1[i] ^ (pb & delta);
            let evaluated = b0[i] ^ b1[i] ^ a[i];
            self.tables.extend([garbled, evaluated]);
            out.push(a0[i] ^ (pa & garbled) ^ b0[i] ^ (pb & (evaluated ^ a[i])));
        }
        Ok(out)
    }

    fn not(&self, a: &Wire) -> Wire {
        a.iter().map(|x| x ^ self.delta).collect()
    }
}

/// The end that knows one label of every wire.
pub(crate) struct Evaluator<'a> {
    pub(crate) hash: Hash,
    pub(crate) tables: &'a [u128],
}

impl Gates for Evaluator<'_> {
    fn and(&mut self, a: &Wire, b: &Wire) -> Result<Wire> {
        let short = || Error::Usage("a garbled circuit ends early".into());
        let (now, later) = self.tables.split_at_checked(2 * a.len()).ok_or_else(short)?;
        self.tables = later;
        let (mut ha, mut hb) = (a.clone(), b.clone());
        self.hash.of([&mut ha]);
        self.hash.of([&mut hb]);
        let gate = |(i, [garbled, evaluated]): (usize, &[u128; 2])| {
            ha[i] ^ (color(a[i]) & garbled) ^ hb[i] ^ (color(b[i]) & (evaluated ^ a[i]))
        };
        Ok(now.as_chunks::<2>().0.iter().enumerate().map(gate).collect())
    }

    fn not(&self, a: &Wire) -> Wire {
        a.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn every_gate_gives_the_label_of_its_value() {
        let delta = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321u128 | 1;
        let labels: Vec<u128> =
            (0..64u128).map(|i| (i + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).collect();
        let (a, b) = (labels[..32].to_vec(), labels[32..].to_vec());
        let mut garbler = Garbler { hash: Hash::new(5), delta, tables: vec![] };
        let and = garbler.and(&a, &b).unwrap();
        let again = garbler.and(&and, &garbler.not(&b)).unwrap();
        let value = |i: usize, bit: usize| 0u128.wrapping_sub((i >> bit & 1) as u128) & delta;
        let given =
            |wire: &Wire, bit: usize| -> Wire { wire.iter().enumerate().map(|(i, x)| x ^ value(i, bit)).collect() };
        let mut evaluator = Evaluator { hash: Hash::new(5), tables: &garbler.tables };
        let (x, y) = (given(&a, 0), given(&b, 1));
        let got = evaluator.and(&x, &y).unwrap();
        let second = evaluator.and(&got, &evaluator.not(&y)).unwrap();
        for i in 0..32 {
            assert_eq!(got[i], and[i] ^ (value(i, 0) & value(i, 1)));
            // a b (1 - b) is never set.
            assert_eq!(second[i], again[i]);
        }
        assert!(evaluator.and(&x, &y).is_err());
    }
}
