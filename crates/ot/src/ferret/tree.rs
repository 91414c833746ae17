//! Trees whose levels add up to delta: a node's left child is its hash, and the right one is the left one plus the node.

use crate::aes128::Aes;

/// Room for a level's hashes.
#[derive(Default)]
pub(super) struct Grown(Vec<u128>);

/// A linear permutation x with x + id also one: AES_K(sigma x) ^ sigma x is then robust against circular correlations (ePrint
/// 2019/074, section 7.3).
fn sigma(x: u128) -> u128 {
    let (hi, lo) = ((x >> 64) as u64, x as u64);
    u128::from(hi ^ lo) << 64 | u128::from(hi)
}

impl Grown {
    /// The children of `half` nodes, in place.
    fn children(&mut self, key: &Aes, nodes: &mut [u128], half: usize) {
        let hashes = &mut self.0;
        hashes.clear();
        hashes.extend(nodes[..half].iter().map(|x| sigma(*x)));
        key.encrypt(hashes);
        for i in (0..half).rev() {
            let parent = nodes[i];
            let left = hashes[i] ^ sigma(parent);
            nodes[2 * i] = left;
            nodes[2 * i + 1] = left ^ parent;
        }
    }

    /// A tree's leaves from its root, with their lowest bits cleared; the sum of left nodes of every level.
    pub(super) fn grow(&mut self, key: &Aes, root: u128, delta: u128, leaves: &mut [u128]) -> Vec<u128> {
        let depth = leaves.len().trailing_zeros();
        let mut sums = Vec::with_capacity(depth as usize);
        (leaves[0], leaves[1]) = (root, root ^ delta);
        sums.push(root);
        for level in 1..depth {
            let half = 1 << level;
            self.children(key, leaves, half);
            sums.push(leaves[..2 * half].iter().step_by(2).fold(0, |s, v| s ^ v));
        }
        leaves.iter_mut().for_each(|v| *v &= !1);
        sums
    }
}

/// All ones where two numbers are equal, without a branch.
fn equal(a: usize, b: usize) -> u128 {
    let differ = (a ^ b) as u64;
    let one = ((differ | differ.wrapping_neg()) >> 63) ^ 1;
    0u128.wrapping_sub(u128::from(one))
}

/// The same leaves but one, from sums of the nodes on the other side of the way to it; in its place the leaf plus delta, with its
/// lowest bit set. Nothing is read or written at a place that depends on which it is.
pub(super) fn punctured(room: &mut Grown, key: &Aes, hole: usize, sums: &[u128], leaves: &mut [u128]) {
    let depth = sums.len();
    leaves[..2].fill(0);
    for (level, sum) in sums.iter().enumerate() {
        let half = 1 << level;
        let nodes = 2 * half;
        if level > 0 {
            room.children(key, leaves, half);
        }
        // The node on the way is zero: its children are one hash each, and both are put right.
        let path = hole >> (depth - level);
        let side = hole >> (depth - 1 - level) & 1 ^ 1;
        let mut known = [0u128; 2];
        for (i, node) in leaves[..nodes].iter_mut().enumerate() {
            *node &= !equal(i / 2, path);
            known[i % 2] ^= *node;
        }
        let mask = 0u128.wrapping_sub(side as u128);
        let missing = sum ^ known[0] ^ (mask & (known[0] ^ known[1]));
        for (i, node) in leaves[..nodes].iter_mut().enumerate() {
            *node |= equal(i, 2 * path + side) & missing;
        }
    }
    let others = leaves.iter().fold(0, |s, v| s ^ v) | 1;
    for (i, leaf) in leaves.iter_mut().enumerate() {
        *leaf = *leaf & !1 | equal(i, hole) & others;
    }
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
                let left = Grown::default().grow(&key, 77, delta, &mut whole);
                // Of every level the sum of the side that does not lead to the hole.
                let sums: Vec<u128> = (0..depth)
                    .map(|l| if hole >> (depth - 1 - l) & 1 == 1 { left[l] } else { left[l] ^ delta })
                    .collect();
                let mut lacking = vec![0; 1 << depth];
                punctured(&mut Grown::default(), &key, hole, &sums, &mut lacking);
                for (i, (a, b)) in whole.iter().zip(&lacking).enumerate() {
                    assert!(*b == if i == hole { a ^ delta } else { *a }, "depth {depth} hole {hole} at {i}");
                }
            }
        }
    }
}
