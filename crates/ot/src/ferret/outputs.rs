//! What an instance makes in a round, some trees at a time: what both ends have said is enough to grow any of them.

use super::code::{self, PIECE};
use super::params::Params;
use super::tree::{grow, punctured};
use crate::aes128::Aes;
use std::ops::Range;
use std::sync::Arc;
use zeroize::Zeroize;

/// Outputs that are grown together: so many that the table, which other directions push out of the caches, is read for more of them than it
/// has lines.
pub(crate) const UNIT: usize = 1 << 16;

/// Fresh keys of a round, from both ends' seed.
pub(crate) struct Keys {
    pub(super) seed: Arc<Aes>,
    pub(super) round: u64,
}

impl Keys {
    fn key(&self, kind: u128, number: u128) -> Aes {
        let mut key = [kind << 120 | u128::from(self.round) << 64 | number];
        self.seed.encrypt(&mut key);
        Aes::new(key[0])
    }

    /// Fresh for every tree: under one key all nodes of a session would be targets of one search for delta.
    pub(super) fn tree(&self, instance: usize, tree: usize) -> Aes {
        self.key(1, (instance << 32 | tree) as u128)
    }

    /// Fresh for every round: under one matrix an elimination would be paid once.
    fn code(&self) -> Aes {
        self.key(2, 0)
    }
}

/// What an end knows of an instance's trees.
pub(super) enum Trees {
    /// All of them, by their roots.
    Whole { roots: Vec<u128>, delta: u128 },
    /// All but a leaf of each: which one, and of every level the sum of the nodes that are not on the way to it.
    Lacking { holes: Vec<u32>, sums: Vec<u128> },
}

/// An instance's outputs of a round.
pub(crate) struct Outputs {
    pub(super) params: Params,
    pub(super) instance: usize,
    pub(super) keys: Keys,
    /// What the round starts from, with the table in front.
    pub(super) base: Arc<Base>,
    pub(super) trees: Trees,
}

/// Transfers that a round of an instance starts from; erased when nothing needs them any more.
pub(super) struct Base(pub(super) Vec<u128>);

impl Drop for Base {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        match &mut self.trees {
            Trees::Whole { roots, delta } => {
                roots.zeroize();
                delta.zeroize();
            }
            Trees::Lacking { holes, sums } => {
                holes.zeroize();
                sums.zeroize();
            }
        }
    }
}

impl Params {
    /// Trees that are grown together.
    pub(crate) fn unit(&self) -> usize {
        UNIT >> self.depth
    }

    /// Trees whose outputs are at least what the next round starts from: whole pieces of the code.
    pub(crate) fn kept_trees(&self) -> usize {
        self.base().next_multiple_of(PIECE.max(1 << self.depth)) >> self.depth
    }
}

impl Outputs {
    /// Levels of its trees.
    pub(super) fn depth(&self) -> u32 {
        self.params.depth
    }

    /// The outputs of some trees, which begin where a piece of the code does.
    pub(crate) fn grow(&self, trees: Range<usize>, outputs: &mut [u128]) {
        let (depth, table) = (self.params.depth, &self.base.0[..self.params.table()]);
        let code = self.keys.code();
        // Leaves get their entries of the table while they are in the nearest cache.
        let together = (PIECE >> depth).max(1);
        let all = trees.step_by(together).zip(outputs.chunks_mut(together << depth));
        let (mut stream, mut wanted) = (vec![], vec![0; depth as usize]);
        for (first, outputs) in all {
            for (t, leaves) in (first..).zip(outputs.chunks_exact_mut(1 << depth)) {
                let key = self.keys.tree(self.instance, t);
                match &self.trees {
                    Trees::Whole { roots, delta } => grow(&key, roots[t], *delta, leaves),
                    Trees::Lacking { holes, sums } => {
                        wanted.copy_from_slice(&sums[t * depth as usize..(t + 1) * depth as usize]);
                        punctured(&key, holes[t] as usize, &wanted, leaves);
                    }
                }
            }
            code::add(&code, table, first << depth, outputs, &mut stream);
        }
        wanted.zeroize();
    }
}
