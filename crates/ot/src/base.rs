//! Transfers by public keys: Chou and Orlandi, "The simplest protocol for oblivious transfer" (ePrint 2015/267), over the Ristretto
//! group, with strings hashed from the whole transcript and the transfer's number.
//!
//! The sender says A = aG. The receiver says B = bG + cA for a choice c. The sender's strings are the hashes of aB and
//! a(B - A); the receiver's is the hash of bA. B is uniform whatever c is; the other string is as hard as computational
//! Diffie-Hellman, in the random-oracle model.

use crate::{Error, Result, Stream};
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Words of a point.
pub const POINT: usize = 4;

fn scalar(random: &mut Stream) -> Scalar {
    let mut wide = [0u8; 64];
    for (bytes, block) in wide.chunks_exact_mut(16).zip(random.blocks(4)) {
        bytes.copy_from_slice(&block.to_le_bytes());
    }
    let scalar = Scalar::from_bytes_mod_order_wide(&wide);
    wide.zeroize();
    scalar
}

fn words(point: &RistrettoPoint) -> [u64; POINT] {
    bytemuck::cast(point.compress().to_bytes())
}

fn point(words: &[u64]) -> Result<RistrettoPoint> {
    let words: [u64; POINT] = words.try_into().map_err(|_| Error::Length)?;
    CompressedRistretto(bytemuck::cast(words)).decompress().ok_or(Error::Point)
}

fn string(session: &[u8], a: &[u64], b: &[u64], number: usize, shared: &RistrettoPoint) -> u128 {
    let digest = Sha256::new()
        .chain_update(b"sordino base transfer")
        .chain_update(session)
        .chain_update(bytemuck::cast_slice(a))
        .chain_update(bytemuck::cast_slice(b))
        .chain_update((number as u64).to_le_bytes())
        .chain_update(shared.compress().as_bytes())
        .finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(half)
}

/// The sender of a number of transfers.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Sender {
    secret: Scalar,
}

impl Sender {
    /// A sender and its only message: the point A.
    #[must_use]
    pub fn new(random: &mut Stream) -> (Self, Vec<u64>) {
        let secret = scalar(random);
        let message = words(&(&secret * G)).to_vec();
        (Self { secret }, message)
    }

    /// The two strings of every transfer, from the receiver's points. `session` is both ends' and fresh.
    ///
    /// # Errors
    /// Points that do not decode.
    pub fn strings(&self, session: &[u8], received: &[u64]) -> Result<Vec<[u128; 2]>> {
        let a = &self.secret * G;
        let (said, off) = (words(&a), self.secret * a);
        let strings = received.chunks(POINT).enumerate().map(|(i, b)| {
            let first = self.secret * point(b)?;
            Ok([first, first - off].map(|shared| string(session, &said, b, i, &shared)))
        });
        strings.collect()
    }
}

/// The receiver's points, and its strings: one for each choice.
///
/// # Errors
/// A sender's point that does not decode.
pub fn receive(session: &[u8], said: &[u64], choices: &[bool], random: &mut Stream) -> Result<(Vec<u64>, Vec<u128>)> {
    let a = point(said)?;
    let zero = RistrettoPoint::default();
    let (mut message, mut strings) = (vec![], vec![]);
    for (i, &choice) in choices.iter().enumerate() {
        let mut secret = scalar(random);
        let chosen = RistrettoPoint::conditional_select(&zero, &a, Choice::from(u8::from(choice)));
        let b = words(&(&secret * G + chosen));
        strings.push(string(session, said, &b, i, &(secret * a)));
        message.extend(b);
        secret.zeroize();
    }
    Ok((message, strings))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_receiver_has_the_string_of_its_choice() {
        let choices: Vec<bool> = (0..40).map(|i| i % 3 == 0).collect();
        let (sender, said) = Sender::new(&mut Stream::new([1; 16]));
        let (message, got) = receive(b"s", &said, &choices, &mut Stream::new([2; 16])).unwrap();
        let strings = sender.strings(b"s", &message).unwrap();
        for ((pair, &c), got) in strings.iter().zip(&choices).zip(&got) {
            assert!(pair[usize::from(c)] == *got && pair[usize::from(!c)] != *got);
        }
        assert!(sender.strings(b"another", &message).unwrap()[0] != strings[0]);
    }

    #[test]
    fn what_is_no_point_is_refused() {
        let (sender, _) = Sender::new(&mut Stream::new([1; 16]));
        assert_eq!(sender.strings(b"s", &[u64::MAX; 4]).unwrap_err(), Error::Point);
        assert_eq!(sender.strings(b"s", &[0; 3]).unwrap_err(), Error::Length);
        assert!(receive(b"s", &[1; 4], &[true], &mut Stream::new([1; 16])).is_err_and(|e| e == Error::Point));
    }
}
