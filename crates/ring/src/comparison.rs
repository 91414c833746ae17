//! The public plan of a comparison: how the bits are cut into chunks and how the chunks are joined.

/// A comparison A < B of `bits`-bit integers as chunks of at most four bits joined by a tree of fan-in three.
///
/// Chunks run from the low bits to the high ones. A chunk contributes two *wires*, `less` and `equal`, except the
/// lowest, whose `equal` nobody needs. A level joins up to three neighbours into one:
/// `less = l3 ^ e3 l2 ^ e3 e2 l1`, `equal = e3 e2 e1`. The source of the shape is CrypTFlow2 (ePrint 2020/1002, section
/// 3.1); products are taken with masks that a dealer knows, so one level is one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    bits: u32,
    chunks: Vec<u32>,
}

/// What joining a group of neighbours costs: wires opened and products of masks.
pub struct Group {
    /// Index of the lowest member among the level's nodes.
    pub first: usize,
    /// Members: 1 (passed through), 2 or 3.
    pub size: usize,
}

impl Group {
    /// True for the group of the lowest chunk, whose `equal` nobody needs.
    #[must_use]
    pub fn lowest(&self) -> bool {
        self.first == 0
    }
    /// Wires opened: every `less` but the highest member's, every `equal` but the lowest chunk's.
    #[must_use]
    pub fn opened(&self) -> usize {
        match self.size {
            1 => 0,
            n => 2 * n - 1 - usize::from(self.lowest()),
        }
    }
    /// Products of masks.
    #[must_use]
    pub fn products(&self) -> usize {
        match (self.size, self.lowest()) {
            (2, true) => 1,
            (2, false) => 2,
            (3, true) => 5,
            (3, false) => 8,
            _ => 0,
        }
    }
}

impl Comparison {
    /// The plan for `bits` (1 to 64) with the fewest bits sent among those with the fewest rounds whose chunks
    /// have at most four bits.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(1, 64);
        let level_count = |leaves: u32| {
            let mut n = leaves;
            let mut levels = 0;
            while n > 1 {
                n = n.div_ceil(3);
                levels += 1;
            }
            levels
        };
        (bits.div_ceil(4)..=bits)
            .map(|leaves| Self {
                bits,
                chunks: (0..leaves).map(|i| bits / leaves + u32::from(i < bits % leaves)).collect(),
            })
            .min_by_key(|c| (level_count(c.chunks.len() as u32), c.dealt_planes() + 2 * c.opened_planes()))
            .unwrap_or(Self { bits, chunks: vec![bits] })
    }

    /// Bits compared.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }
    /// Widths of the chunks, low to high.
    #[must_use]
    pub fn chunks(&self) -> &[u32] {
        &self.chunks
    }
    /// Planes of all thermometers together.
    #[must_use]
    pub fn leaf_planes(&self) -> usize {
        self.chunks.iter().map(|&c| (1 << c) - 1).sum()
    }
    /// Number of levels, which is the number of exchanges.
    #[must_use]
    pub fn levels(&self) -> usize {
        let mut n = self.chunks.len();
        let mut levels = 0;
        while n > 1 {
            n = n.div_ceil(3);
            levels += 1;
        }
        levels
    }
    /// Nodes that enter a level.
    #[must_use]
    pub fn nodes(&self, level: usize) -> usize {
        (0..level).fold(self.chunks.len(), |n, _| n.div_ceil(3))
    }
    /// The groups that a level joins, from the low bits to the high ones.
    pub fn groups(&self, level: usize) -> impl Iterator<Item = Group> {
        let n = self.nodes(level);
        (0..n.div_ceil(3)).map(move |g| Group { first: 3 * g, size: 3.min(n - 3 * g) })
    }
    /// Planes opened at a level.
    #[must_use]
    pub fn opened(&self, level: usize) -> usize {
        self.groups(level).map(|g| g.opened()).sum()
    }
    /// Planes of mask products at a level.
    #[must_use]
    pub fn products(&self, level: usize) -> usize {
        self.groups(level).map(|g| g.products()).sum()
    }
    /// Planes opened over all levels.
    #[must_use]
    pub fn opened_planes(&self) -> usize {
        (0..self.levels()).map(|l| self.opened(l)).sum()
    }
    /// Planes of mask products over all levels.
    #[must_use]
    pub fn product_planes(&self) -> usize {
        (0..self.levels()).map(|l| self.products(l)).sum()
    }
    /// Planes the dealer sends: thermometers and mask products.
    #[must_use]
    pub fn dealt_planes(&self) -> usize {
        self.leaf_planes() + self.product_planes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_plan() {
        let c = Comparison::new(31);
        assert_eq!(c.chunks(), [4, 4, 4, 4, 3, 3, 3, 3, 3]);
        // 95 thermometer bits, 26 products, 18 openings of two bits each, in one deal and two exchanges.
        assert_eq!((c.leaf_planes(), c.dealt_planes(), c.opened_planes(), c.levels()), (95, 121, 18, 2));
    }

    #[test]
    fn every_width_has_a_plan() {
        for bits in 1..=64 {
            let c = Comparison::new(bits);
            assert_eq!(c.chunks().iter().sum::<u32>(), bits);
            assert!(c.chunks().iter().all(|&w| (1..=4).contains(&w)));
        }
    }
}
