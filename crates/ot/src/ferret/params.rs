//! Parameters: noise of one unit in every block of 2^depth outputs, a table of 2^log_table entries, ten of which each output adds.
//!
//! These are not the published sets for this code, which have half as much noise: their estimate takes the code for a random one, and
//! an attacker who keeps only outputs within a subset of the table's entries has an easier problem (docs/two-party.md, where
//! `scripts/lpn.py` prints the costs of attacks on these very sets).

/// Entries that an output adds up.
pub(crate) const LOCAL: usize = 10;

/// One round's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// Trees: units of noise.
    pub(crate) trees: usize,
    /// Levels of a tree.
    pub(crate) depth: u32,
    /// Bits of a place in the table.
    pub(crate) log_table: u32,
}

/// Small tables, which stay in the second cache: 870,400 outputs a round, 2.5 bits sent for each.
pub(crate) const FAST: Params = Params { trees: 1700, depth: 9, log_table: 16 };

/// Larger ones: 6,225,920 outputs a round, 0.7 bits sent for each.
pub(crate) const COMPACT: Params = Params { trees: 3040, depth: 11, log_table: 18 };

impl Params {
    /// Outputs.
    pub(crate) const fn outputs(&self) -> usize {
        self.trees << self.depth
    }
    /// Entries of the table.
    pub(crate) const fn table(&self) -> usize {
        1 << self.log_table
    }
    /// Transfers that a round starts from: the table, and one for every level of every tree.
    pub(crate) const fn base(&self) -> usize {
        self.table() + self.trees * self.depth as usize
    }
}
