//! The public code: every output adds ten entries of the table, at places from a stream.

use super::INSTANCES;
use super::params::LOCAL;
use crate::aes128::Aes;

/// The entries of all instances at one place: a line of the cache.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(super) struct Row(pub(super) [u128; INSTANCES]);

/// Outputs at a time.
const PIECE: usize = 1 << 10;

/// Adds the code's entries to the outputs of all instances.
pub(super) fn add(key: &Aes, table: &[Row], outputs: &mut [Vec<u128>; INSTANCES]) {
    let mask = table.len() - 1;
    let blocks = PIECE * LOCAL / 4;
    let mut places = vec![0u128; blocks];
    let n = outputs[0].len();
    for (piece, at) in (0..n).step_by(PIECE).enumerate() {
        key.counter((piece * blocks) as u64, &mut places);
        let places: &[u32] = bytemuck::cast_slice(&places);
        for (i, places) in (at..n.min(at + PIECE)).zip(places.chunks_exact(LOCAL)) {
            let mut sum = [0u128; INSTANCES];
            for place in places {
                let row = &table[*place as usize & mask].0;
                sum.iter_mut().zip(row).for_each(|(s, r)| *s ^= r);
            }
            outputs.iter_mut().zip(sum).for_each(|(out, s)| out[i] ^= s);
        }
    }
}
