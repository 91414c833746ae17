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
pub(crate) mod params;
pub(crate) mod tree;

use crate::aes128::Aes;
use crate::{Error, Result, Stream, in_parallel};
use code::add;
pub(crate) use params::{COMPACT, FAST, Params};
use std::sync::{Mutex, PoisonError};
use tree::{grow, punctured};
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
    keys: Aes,
    /// Number of the next round.
    round: u64,
    /// The transfers of each instance that the next round starts from.
    base: [Vec<u128>; INSTANCES],
    /// Threads that trees and codes are spread over.
    pub(crate) threads: usize,
}

/// A round that waits for the other end.
pub(crate) struct Round {
    /// Of each instance that this end receives: the leaf that it will lack in every tree.
    holes: Vec<Vec<u32>>,
}

/// A buffer of so many blocks, of which every one will be written.
fn buffer(spare: &mut Vec<Vec<u128>>, n: usize) -> Vec<u128> {
    let mut blocks = spare.pop().unwrap_or_default();
    blocks.resize(n, 0);
    blocks
}

impl Drop for Ferret {
    fn drop(&mut self) {
        self.base.zeroize();
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.holes.zeroize();
    }
}

/// Trees that a thread takes at a time: their outputs are whole pieces of the code.
const TREES: usize = 32;

/// Outputs of some instances, cut into groups of trees, each worked on by whichever thread comes first: results by instance and group. `work` gets an
/// instance's place in the list, the group's first tree, and its outputs.
fn by_trees<T: Send>(
    (threads, params): (usize, Params),
    instances: &mut [&mut Vec<u128>],
    work: impl Fn(usize, usize, &mut [u128]) -> T + Sync,
) -> Vec<T> {
    let groups = params.trees.div_ceil(TREES);
    let cut = instances.iter_mut().flat_map(|outputs| outputs.chunks_mut(TREES << params.depth));
    let parts: Vec<Mutex<&mut [u128]>> = cut.map(Mutex::new).collect();
    in_parallel(threads, parts.len(), |i| {
        let mut outputs = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        work(i / groups, i % groups * TREES, &mut outputs)
    })
}

/// What a round has made, by instance.
pub(crate) type Made = [Vec<u128>; INSTANCES];

impl Ferret {
    /// From transfers for all instances: as many as the first round asks for.
    pub(crate) fn new(first: bool, params: Params, seed: u128, base: [Vec<u128>; INSTANCES]) -> Self {
        Self { first, params, keys: Aes::new(seed ^ 0x6665_7272_6574), round: 0, base, threads: 1 }
    }

    fn receives(&self) -> std::ops::Range<usize> {
        sent_by(!self.first)
    }

    /// As receiver: leaves to lack, and where the complements of their numbers' bits differ from the choices of the base.
    pub(crate) fn begin(&self, random: &mut Stream) -> (Round, Vec<u64>) {
        let params = self.params;
        let depth = params.depth as usize;
        let (mut holes, mut message) = (vec![], vec![]);
        for i in self.receives() {
            let own: Vec<u32> = random.words(params.trees).iter().map(|w| *w as u32 & ((1 << depth) - 1)).collect();
            let levels = &self.base[i][params.table()..params.base()];
            let flips: Vec<u64> = (0..params.trees * depth)
                .map(|at| {
                    let side = own[at / depth] >> (depth - 1 - at % depth) & 1 ^ 1;
                    u64::from(side) ^ levels[at] as u64 & 1
                })
                .collect();
            message.extend(flips.chunks(64).map(|c| c.iter().rev().fold(0, |w, b| w << 1 | b)));
            holes.push(own);
        }
        (Round { holes }, message)
    }

    /// As sender: the trees, and what lets the receiver grow them.
    pub(crate) fn answer(
        &self,
        delta: u128,
        begun: &[u64],
        random: &mut Stream,
        spare: &mut Vec<Vec<u128>>,
    ) -> Result<(Vec<Vec<u128>>, Vec<u64>)> {
        let params = self.params;
        if begun.len() != self.params.begin_words(!self.first) {
            return Err(Error::Length);
        }
        let (depth, all) = (params.depth as usize, params.trees * params.depth as usize);
        let (receivers, words) = (sent_by(self.first), all.div_ceil(64));
        let roots: Vec<Vec<u128>> = receivers.clone().map(|_| random.blocks(params.trees)).collect();
        let mut grown: Vec<Vec<u128>> = receivers.clone().map(|_| buffer(spare, params.outputs())).collect();
        let parts = by_trees((self.threads, params), &mut grown.iter_mut().collect::<Vec<_>>(), |j, first, leaves| {
            let i = receivers.start + j;
            let (levels, flips) = (&self.base[i][params.table()..params.base()], &begun[j * words..(j + 1) * words]);
            let mut message = vec![];
            for (t, leaves) in (first..).zip(leaves.chunks_exact_mut(1 << depth)) {
                let sums = grow(&self.tree_key(i, t), roots[j][t], delta, leaves);
                for (l, sum) in sums.iter().enumerate() {
                    let at = t * depth + l;
                    let flip = 0u128.wrapping_sub(u128::from(flips[at / 64] >> (at % 64) & 1));
                    message.extend(crate::hash::halves(sum ^ levels[at] ^ (delta & flip)));
                }
            }
            message
        });
        let message = parts.concat();
        Ok((grown, message))
    }

    /// Takes the answer; what the round made, of which the first so many are kept for the next one.
    pub(crate) fn finish(
        &mut self,
        round: &Round,
        grown: Vec<Vec<u128>>,
        answered: &[u64],
        spare: &mut Vec<Vec<u128>>,
    ) -> Result<(Made, usize)> {
        let (params, holes) = (self.params, &round.holes);
        if answered.len() != self.params.answer_words(!self.first) {
            return Err(Error::Length);
        }
        let (depth, all) = (params.depth as usize, params.trees * params.depth as usize);
        let mut made: Made = Default::default();
        for (i, leaves) in sent_by(self.first).zip(grown) {
            made[i] = leaves;
        }
        let received = self.receives();
        let start = received.start;
        received.clone().for_each(|i| made[i] = buffer(spare, params.outputs()));
        let mut outputs: Vec<&mut Vec<u128>> = made[received].iter_mut().collect();
        by_trees((self.threads, params), &mut outputs, |j, first, leaves| {
            let levels = &self.base[start + j][params.table()..params.base()];
            let sums = &answered[2 * all * j..2 * all * (j + 1)];
            let mut wanted = vec![0; depth];
            for (t, leaves) in (first..).zip(leaves.chunks_exact_mut(1 << depth)) {
                for (l, want) in wanted.iter_mut().enumerate() {
                    let at = t * depth + l;
                    *want = (u128::from(sums[2 * at]) | u128::from(sums[2 * at + 1]) << 64) ^ levels[at];
                }
                punctured(&self.tree_key(start + j, t), holes[j][t] as usize, &wanted, leaves);
            }
        });
        let code = self.code_key();
        by_trees((self.threads, params), &mut made.iter_mut().collect::<Vec<_>>(), |i, first, outputs| {
            add(&code, &self.base[i][..params.table()], first << params.depth, outputs);
        });
        self.round += 1;
        let keep = params.base();
        for (base, made) in self.base.iter_mut().zip(&made) {
            base.clear();
            base.extend_from_slice(&made[..keep]);
        }
        Ok((made, keep))
    }

    fn key(&self, kind: u128, number: u128) -> Aes {
        let mut key = [kind << 120 | u128::from(self.round) << 64 | number];
        self.keys.encrypt(&mut key);
        Aes::new(key[0])
    }

    /// Fresh for every tree: under one key all nodes of a session would be targets of one search for delta.
    fn tree_key(&self, instance: usize, tree: usize) -> Aes {
        self.key(1, (instance << 32 | tree) as u128)
    }

    /// Fresh for every round: under one matrix an elimination would be paid once.
    fn code_key(&self) -> Aes {
        self.key(2, 0)
    }
}
