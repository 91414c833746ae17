//! Trees whose levels add up to delta: a node's left child is its hash, and the right one is the left one plus the node.

use crate::aes128::Aes;
use crate::softspoken::equal;

/// The sum of the nodes of either side of a level.
fn sides(nodes: &[u128]) -> [u128; 2] {
    nodes.chunks_exact(2).fold([0; 2], |[a, b], pair| [a ^ pair[0], b ^ pair[1]])
}

/// A tree's nodes from its root, level by level, of which each writes over the one before; `level` is shown all of them.
fn levels(key: &Aes, root: u128, delta: u128, nodes: &mut [u128], mut level: impl FnMut(&[u128])) {
    (nodes[0], nodes[1]) = (root, root ^ delta);
    level(&nodes[..2]);
    for depth in 1..nodes.len().trailing_zeros() {
        let half = 1 << depth;
        key.children(nodes, half);
        level(&nodes[..2 * half]);
    }
}

/// A tree's leaves from its root, with their lowest bits cleared.
pub(crate) fn grow(key: &Aes, root: u128, delta: u128, leaves: &mut [u128]) {
    levels(key, root, delta, leaves, |_| ());
    leaves.iter_mut().for_each(|v| *v &= !1);
}

/// The sum of left nodes of every level of the same tree; `nodes` is room for as many as it has leaves.
pub(crate) fn left_sums(key: &Aes, root: u128, delta: u128, nodes: &mut [u128]) -> Vec<u128> {
    let mut sums = Vec::with_capacity(nodes.len().trailing_zeros() as usize);
    levels(key, root, delta, nodes, |level| sums.push(sides(level)[0]));
    sums
}

/// Nodes that are looked at together.
const LANES: usize = 8;

/// Adds two values to the pair of nodes at a place that nobody sees: all are touched. What is kept of every node is `mask`.
fn add_at(nodes: &mut [u128], pair: usize, values: [u128; 2], mask: u128) {
    const PAIRS: usize = LANES / 2;
    let lanes: [u128; LANES] = std::array::from_fn(|j| equal(j / 2, pair % PAIRS) & values[j % 2]);
    for (i, nodes) in nodes.chunks_mut(LANES).enumerate() {
        let here = equal(i, pair / PAIRS);
        nodes.iter_mut().zip(lanes).for_each(|(node, lane)| *node = *node & mask ^ lane & here);
    }
}

/// Two values, exchanged where the bit is set.
fn exchanged(bit: usize, [a, b]: [u128; 2]) -> [u128; 2] {
    let swap = (a ^ b) & 0u128.wrapping_sub((bit & 1) as u128);
    [a ^ swap, b ^ swap]
}

/// The same leaves but one, from sums of the nodes on the other side of the way to it; in its place the leaf plus delta, with its
/// lowest bit set. Nothing is read or written at a place that depends on which it is.
pub(crate) fn punctured(key: &Aes, hole: usize, sums: &[u128], leaves: &mut [u128]) {
    let depth = sums.len();
    // The node on the way counts as zero: both its children are then the hash of zero.
    let mut hash_of_zero = [0; 2];
    key.children(&mut hash_of_zero, 1);
    leaves[..2].fill(0);
    for (level, sum) in sums.iter().enumerate() {
        let nodes = 2 << level;
        let zero = if level > 0 { hash_of_zero[0] } else { 0 };
        if level > 0 {
            key.children(leaves, nodes / 2);
        }
        let way = hole >> (depth - 1 - level);
        let [_, other] = exchanged(way, sides(&leaves[..nodes]));
        // What is known of the other side holds the hash of zero, which is there in its place as well.
        add_at(&mut leaves[..nodes], way / 2, exchanged(way, [zero, sum ^ other]), u128::MAX);
    }
    let others = leaves.iter().fold(0, |s, v| s ^ v) | 1;
    add_at(leaves, hole / 2, exchanged(hole, [others, 0]), !1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_punctured_tree_is_the_tree_but_for_one_leaf() {
        let (key, delta) = (Aes::new(3), 0x1234_5678_9abc_def1_u128);
        for depth in [1, 2, 5, 9] {
            for hole in [0, (1 << depth) - 1, (1 << depth) / 3] {
                let mut whole = vec![0; 1 << depth];
                let left = left_sums(&key, 77, delta, &mut whole);
                grow(&key, 77, delta, &mut whole);
                // Of every level the sum of the side that does not lead to the hole.
                let sums: Vec<u128> = (0..depth)
                    .map(|l| if hole >> (depth - 1 - l) & 1 == 1 { left[l] } else { left[l] ^ delta })
                    .collect();
                let mut lacking = vec![0; 1 << depth];
                punctured(&key, hole, &sums, &mut lacking);
                for (i, (a, b)) in whole.iter().zip(&lacking).enumerate() {
                    assert!(*b == if i == hole { a ^ delta } else { *a }, "depth {depth} hole {hole} at {i}");
                }
            }
        }
    }
}
