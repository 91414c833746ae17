//! Named places in a computation.

use sha2::{Digest, Sha256};
use sordino_net::Tag;

/// A place in the computation, passed by value and used once: neither `Clone` nor `Copy`.
///
/// Its name is the path from the session's root; all parties derive the same names because they run the same program.
/// Correlated randomness and message tags derive from it, so neither can be used twice.
#[must_use]
pub struct Step {
    digest: [u8; 32],
    children: u64,
    /// Which child of the root this lies below; zero for the root.
    part: u64,
}

impl Step {
    /// The root of a session. Call it once per session: the session's id makes all names in it fresh.
    pub fn root(session: [u8; 16]) -> Self {
        Self {
            digest: Sha256::new().chain_update(b"sordino step").chain_update(session).finalize().into(),
            children: 0,
            part: 0,
        }
    }

    /// A place below this one. Its name is this one's, the label, and how many children came before it.
    pub fn child(&mut self, label: &str) -> Self {
        let root = self.part == 0;
        self.children += 1;
        let digest = Sha256::new()
            .chain_update(self.digest)
            .chain_update(self.children.to_le_bytes())
            .chain_update(label.as_bytes())
            .finalize();
        Self { digest: digest.into(), children: 0, part: if root { self.children } else { self.part } }
    }

    /// The name of a message within this step.
    #[must_use]
    pub fn tag(&self, label: &str) -> Tag {
        let digest = Sha256::new().chain_update(self.digest).chain_update([0; 8]).chain_update(label).finalize();
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        Tag(tag)
    }

    /// Which part of the session this belongs to, that is which child of the root: parts follow each other.
    pub(crate) fn part(&self) -> u64 {
        self.part
    }

    /// The name itself, for deriving keys.
    pub(crate) fn name(&self) -> &[u8; 32] {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_reproducible() {
        let names = || {
            let mut root = Step::root([7; 16]);
            let mut a = root.child("a");
            let b = root.child("a");
            [*a.child("x").name(), *b.name(), *a.name(), *root.name()]
        };
        let all = names();
        assert_eq!(all, names());
        for i in 0..4 {
            assert!(all[..i].iter().all(|n| *n != all[i]));
        }
        assert_ne!(Step::root([8; 16]).name(), Step::root([7; 16]).name());
    }
}
