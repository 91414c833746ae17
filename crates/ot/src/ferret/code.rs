//! The public code: every output adds ten entries of the table, at places from a stream.

use super::params::LOCAL;
use crate::aes128::Aes;

/// Outputs at a time.
const PIECE: usize = 1 << 10;

/// Adds the code's entries to an instance's outputs. A table of 2^16 entries is a mebibyte, which stays in the second cache.
pub(super) fn add(key: &Aes, table: &[u128], outputs: &mut [u128]) {
    assert_eq!(table.len(), 1 << u16::BITS, "a place is sixteen bits");
    let blocks = PIECE * LOCAL / 8;
    let mut places = vec![0u128; blocks];
    for (piece, outputs) in outputs.chunks_mut(PIECE).enumerate() {
        key.counter((piece * blocks) as u64, &mut places);
        let places: &[u16] = bytemuck::cast_slice(&places);
        for (out, places) in outputs.iter_mut().zip(places.chunks_exact(LOCAL)) {
            *out = places.iter().fold(*out, |sum, place| sum ^ table[usize::from(*place)]);
        }
    }
}
