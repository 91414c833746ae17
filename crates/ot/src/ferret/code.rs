//! The public code: every output adds ten entries of the table, at places from a stream.

use super::params::LOCAL;
use crate::aes128::Aes;

/// Outputs at a time.
pub(super) const PIECE: usize = 1 << 10;

/// Adds the code's entries to an instance's outputs, from output `start` on, a multiple of [`PIECE`]; `stream` is room for their places.
pub(crate) fn add(key: &Aes, table: &[u128], start: usize, outputs: &mut [u128], stream: &mut Vec<u128>) {
    // A table of 2^16 entries is a mebibyte, which stays in the second cache; its places are half as long.
    if let Ok(table) = <&[u128; 1 << u16::BITS]>::try_from(table) {
        return with::<u16>(key, start, outputs, stream, |place| table[usize::from(*place)]);
    }
    assert!(table.len().is_power_of_two(), "a place is a number of bits");
    let mask = table.len() - 1;
    with::<u32>(key, start, outputs, stream, |place| table[*place as usize & mask]);
}

fn with<P: bytemuck::Pod>(
    key: &Aes,
    start: usize,
    outputs: &mut [u128],
    stream: &mut Vec<u128>,
    entry: impl Fn(&P) -> u128,
) {
    let blocks = (PIECE * LOCAL * size_of::<P>()).div_ceil(16);
    stream.resize(blocks, 0);
    for (piece, outputs) in (start / PIECE..).zip(outputs.chunks_mut(PIECE)) {
        key.counter((piece * blocks) as u64, stream);
        let places: &[P] = bytemuck::cast_slice(stream);
        for (out, places) in outputs.iter_mut().zip(places.chunks_exact(LOCAL)) {
            *out = places.iter().fold(*out, |sum, place| sum ^ entry(place));
        }
    }
}
