//! Correlated transfers from little communication: Ferret (Yang, Weng, Lan, Zhang, Wang, CCS 2020, ePrint 2020/924) with half trees
//! (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, ePrint 2022/1431).
//!
//! A round grows a tree for every unit of noise, of which the receiver lacks one leaf; adds to each leaf ten entries of a table of
//! transfers that were there before; and keeps the first outputs as the next round's table. What the receiver's choices are rests on
//! learning parity with regular noise and this code: [`params`].
//!
//! Instances go side by side, as many in either direction, so that both ends work at the same time. They share the public code;
//! tables, trees and noise are each one's own. Instances of one direction have one delta, as the rounds of one instance do: it is the choices that
//! rest on noise, and those are independent.

pub(crate) mod code;
mod outputs;
pub(crate) mod params;
mod queue;
pub(crate) mod tree;

use crate::aes128::Aes;
use crate::{Error, Result, Stream, in_parallel};
pub(crate) use outputs::UNIT;
use outputs::{Base, Keys, Outputs, Trees};
pub(crate) use params::{COMPACT, FAST, Params};
pub(crate) use queue::{AHEAD, Growing, Units};
use std::sync::{Arc, Mutex, PoisonError};
use tree::left_sums;
use zeroize::Zeroize;

/// Instances in both directions.
pub(crate) const INSTANCES: usize = 4;

/// Instances that an end sends.
pub(crate) fn sent_by(first: bool) -> std::ops::Range<usize> {
    if first { 0..INSTANCES / 2 } else { INSTANCES / 2..INSTANCES }
}

impl Params {
    /// How many transfers of an instance a round is left with when the next one has its own.
    pub(crate) fn yields(&self) -> usize {
        self.outputs() - self.base()
    }

    /// Blocks that an end holds of a round until the last of its transfers is drawn, about.
    pub(crate) fn held(&self) -> usize {
        INSTANCES * self.base() + INSTANCES / 2 * self.trees * (self.depth as usize + 1)
    }

    /// Words of the message that begins a round, of an end.
    pub(crate) fn begin_words(&self, first: bool) -> usize {
        sent_by(!first).len() * (self.trees * self.depth as usize).div_ceil(64)
    }

    /// Words of its answer.
    pub(crate) fn answer_words(&self, first: bool) -> usize {
        sent_by(first).len() * self.trees * self.depth as usize * 2
    }
}

/// What one end holds between rounds.
pub(crate) struct Ferret {
    first: bool,
    params: Params,
    /// Keys of trees and codes: both ends' seed.
    seed: Arc<Aes>,
    /// Number of the next round.
    round: u64,
    /// The transfers of each instance that the next round starts from.
    base: [Arc<Base>; INSTANCES],
    /// Threads that trees and codes are spread over.
    pub(crate) threads: usize,
}

/// A round that waits for the other end: of each instance that this end receives, the leaf that it will lack in every tree.
pub(crate) struct Round(Vec<Vec<u32>>);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The trees of each instance that this end sends, by their roots.
pub(crate) struct Roots(Vec<Vec<u128>>);

impl Drop for Roots {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Trees that a thread takes at a time.
const TREES: usize = 32;

impl Ferret {
    /// From transfers for all instances: as many as the first round asks for.
    pub(crate) fn new(first: bool, params: Params, seed: u128, base: [Vec<u128>; INSTANCES]) -> Self {
        let base = base.map(|base| Arc::new(Base(base)));
        Self { first, params, seed: Arc::new(Aes::new(seed ^ 0x6665_7272_6574)), round: 0, base, threads: 1 }
    }

    fn receives(&self) -> std::ops::Range<usize> {
        sent_by(!self.first)
    }

    fn keys(&self) -> Keys {
        Keys { seed: Arc::clone(&self.seed), round: self.round }
    }

    /// Of an instance's base, what is there for the levels of trees.
    fn levels(&self, instance: usize) -> &[u128] {
        &self.base[instance].0[self.params.table()..self.params.base()]
    }

    /// As receiver: leaves to lack, and where the complements of their numbers' bits differ from the choices of the base.
    pub(crate) fn begin(&self, random: &mut Stream) -> (Round, Vec<u64>) {
        let params = self.params;
        let depth = params.depth as usize;
        let (mut holes, mut message) = (vec![], vec![]);
        for i in self.receives() {
            let own: Vec<u32> = random.words(params.trees).iter().map(|w| *w as u32 & ((1 << depth) - 1)).collect();
            let levels = self.levels(i);
            let flips: Vec<u64> = (0..params.trees * depth)
                .map(|at| {
                    let side = own[at / depth] >> (depth - 1 - at % depth) & 1 ^ 1;
                    u64::from(side) ^ levels[at] as u64 & 1
                })
                .collect();
            message.extend(flips.chunks(64).map(|c| c.iter().rev().fold(0, |w, b| w << 1 | b)));
            holes.push(own);
        }
        (Round(holes), message)
    }

    /// As sender: the trees, and what lets the receiver grow them. They are grown for the sums of their levels alone: keeping their leaves would take
    /// more time than growing them again, where they are used and in the caches.
    pub(crate) fn answer(&self, delta: u128, begun: &[u64], random: &mut Stream) -> Result<(Roots, Vec<u64>)> {
        let params = self.params;
        if begun.len() != self.params.begin_words(!self.first) {
            return Err(Error::Length);
        }
        let (depth, all) = (params.depth as usize, params.trees * params.depth as usize);
        let (sends, words) = (sent_by(self.first), all.div_ceil(64));
        let roots = Roots(sends.clone().map(|_| random.blocks(params.trees)).collect());
        let (groups, keys) = (params.trees.div_ceil(TREES), self.keys());
        let parts = in_parallel(self.threads, sends.len() * groups, |part| {
            let (j, first) = (part / groups, part % groups * TREES);
            let i = sends.start + j;
            let (levels, flips) = (self.levels(i), &begun[j * words..(j + 1) * words]);
            let (mut leaves, mut message) = (vec![0; 1 << depth], vec![]);
            for t in first..params.trees.min(first + TREES) {
                let mut sums = left_sums(&keys.tree(i, t), roots.0[j][t], delta, &mut leaves);
                for (l, sum) in sums.iter().enumerate() {
                    let at = t * depth + l;
                    let flip = 0u128.wrapping_sub(u128::from(flips[at / 64] >> (at % 64) & 1));
                    message.extend(crate::hash::halves(sum ^ levels[at] ^ (delta & flip)));
                }
                // The first one is the root.
                sums.zeroize();
            }
            leaves.zeroize();
            message
        });
        Ok((roots, parts.concat()))
    }

    /// Takes the answer; what the round makes, by instance. Of that only what the next round starts from is grown here.
    pub(crate) fn finish(
        &mut self,
        (mut round, mut roots): (Round, Roots),
        delta: u128,
        answered: &[u64],
    ) -> Result<[Units; INSTANCES]> {
        let params = self.params;
        if answered.len() != params.answer_words(!self.first) {
            return Err(Error::Length);
        }
        let all = params.trees * params.depth as usize;
        let (sends, receives) = (sent_by(self.first), self.receives());
        let outputs = std::array::from_fn(|i| {
            let trees = if sends.contains(&i) {
                Trees::Whole { roots: std::mem::take(&mut roots.0[i - sends.start]), delta }
            } else {
                let j = i - receives.start;
                let sums = answered[2 * all * j..2 * all * (j + 1)].as_chunks::<2>().0.iter().zip(self.levels(i));
                let sum =
                    |([low, high], level): (&[u64; 2], &u128)| (u128::from(*low) | u128::from(*high) << 64) ^ level;
                Trees::Lacking { holes: std::mem::take(&mut round.0[j]), sums: sums.map(sum).collect() }
            };
            Arc::new(Outputs { params, instance: i, keys: self.keys(), base: Arc::clone(&self.base[i]), trees })
        });
        let (kept, unit) = (params.kept_trees(), params.unit());
        let mut grown: [Vec<u128>; INSTANCES] = std::array::from_fn(|_| vec![0; kept << params.depth]);
        let groups = kept.div_ceil(TREES);
        let parts: Vec<_> =
            grown.iter_mut().flat_map(|all| all.chunks_mut(TREES << params.depth)).map(Mutex::new).collect();
        let _grown = in_parallel(self.threads, parts.len(), |part| {
            let (i, first) = (part / groups, part % groups * TREES);
            let mut blocks = parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            outputs[i].grow(first..kept.min(first + TREES), &mut blocks);
        });
        self.round += 1;
        let mut i = 0;
        Ok(outputs.map(|outputs: Arc<Outputs>| {
            let mut base = std::mem::take(&mut grown[i]);
            let rest = base[params.base()..].to_vec();
            base[params.base()..].zeroize();
            base.truncate(params.base());
            self.base[i] = Arc::new(Base(base));
            i += 1;
            Units::new(rest, outputs, (kept..params.trees).step_by(unit).map(|t| t..params.trees.min(t + unit)))
        }))
    }
}
