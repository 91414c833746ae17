//! What is public of a training: the program of an iteration, whose rows it takes and in which order, and what is opened at its end.

use crate::fault::{Fault, Result};
use crate::names;
use crate::shares::{MOST_RUNS, What, is_whole, share_bytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino::training::{order_of, rows_of};
use sordino_mpc::{Kind, MOST_OWNERS};
use sordino_nn::program::Program;

/// Rows of all batches, and samples, at most.
const MOST_ROWS: usize = 1 << 26;

/// A training, as everybody knows it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// The program of an iteration. Its secrets are what the states start as.
    pub step: Program,
    /// Whose rows it takes: the names of clients, one for each data owner of the program. A client may be several of them.
    pub owners: Vec<String>,
    /// How many samples each of them has.
    pub samples: Vec<usize>,
    /// How many iterations.
    pub iterations: usize,
    /// Samples of an iteration.
    pub batch: usize,
    /// What the order of the samples is drawn from.
    pub seed: u64,
    /// How many states, from the first on, are opened to the model's owner at the end.
    pub opened: usize,
}

impl Course {
    /// What servers and clients compare.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new().chain_update(b"sordino training v1").chain_update(self.step.hash());
        for (owner, samples) in self.owners.iter().zip(&self.samples) {
            hash.update((owner.len() as u64).to_le_bytes());
            hash.update(owner);
            hash.update((*samples as u64).to_le_bytes());
        }
        for n in [self.iterations as u64, self.batch as u64, self.seed, self.opened as u64] {
            hash.update(n.to_le_bytes());
        }
        hash.finalize().into()
    }

    /// Whether the loss of every iteration is opened to the model's owner.
    #[must_use]
    pub fn tells_loss(&self) -> bool {
        !self.step.outputs.is_empty()
    }

    /// Bytes of a server's share set of the rows of an owner, of all batches.
    #[must_use]
    pub fn rows_bytes(&self, owner: usize, party: usize) -> u64 {
        share_bytes(&self.step, What::Rows(owner), party).saturating_mul(self.iterations as u64)
    }

    /// Which rows every batch takes of an owner.
    #[must_use]
    pub fn order_of(&self, owner: usize) -> Vec<Vec<usize>> {
        let rows = self.step.inputs[owner].dims.first().copied().unwrap_or(0);
        order_of(self.samples[owner], rows, self.iterations, self.seed, owner)
    }

    /// Whether servers run it, and `answer` answers with what it leaves.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, answer: &Program) -> Result<()> {
        let wrong = |why: &str| Err(Fault::usage(format!("the training {why}")));
        let step = &self.step;
        if step.settings.kind != Kind::Three {
            return wrong("is for two parties; servers take programs for three");
        }
        is_whole(step)?;
        let n = self.owners.len();
        if n == 0 || n > usize::from(MOST_OWNERS) || self.samples.len() != n || usize::from(step.owners()) != n {
            return wrong("has other owners than its program");
        }
        self.owners.iter().try_for_each(|owner| names::client(owner))?;
        if !(1..=MOST_RUNS).contains(&(self.iterations as u64)) {
            return Err(Fault::usage(format!("a training has 1 to {MOST_RUNS} iterations, not {}", self.iterations)));
        }
        if step.states.is_empty() || step.states.iter().any(|s| s.start.is_none()) {
            return wrong("has no states that start from what its owner shares");
        }
        // One number an iteration; what it is, the program says, which is its owner's.
        if step.guarded > 0 || step.outputs.iter().map(|o| step.slots[o.slot].shape.len()).sum::<usize>() > 1 {
            return wrong("opens more than a loss");
        }
        // Every owner has samples and labels of every batch, in the order of the program's inputs.
        if step.inputs.len() != 2 * n || step.inputs.iter().enumerate().any(|(i, p)| usize::from(p.owner) != i % n) {
            return wrong("does not take samples and labels of each owner");
        }
        let rows: Vec<usize> = step.inputs[..n].iter().map(|p| p.dims.first().copied().unwrap_or(0)).collect();
        let alike =
            step.inputs.iter().zip(rows.iter().cycle()).all(|(p, rows)| p.dims.first() == Some(rows) && *rows > 0);
        let most = |a: usize, b: usize| a.checked_mul(b).is_some_and(|rows| rows <= MOST_ROWS);
        let all = self.samples.iter().try_fold(0usize, |sum, n| sum.checked_add(*n).filter(|sum| *sum <= MOST_ROWS));
        let fits = all.is_some_and(|all| (1..=all).contains(&self.batch)) && most(self.iterations, self.batch);
        if !alike || !fits || rows.iter().sum::<usize>() != self.batch || rows_of(&self.samples, self.batch) != Ok(rows)
        {
            return wrong("takes other rows than its program, or too many");
        }
        if self.opened > step.states.len() {
            return wrong("opens more states than it has");
        }
        let shapes = |p: &Program| p.states.iter().map(|s| p.slots[s.read].shape.len()).collect::<Vec<_>>();
        let kept = answer.secrets.is_empty() && answer.states.iter().all(|s| s.start.is_none() && s.read == s.left);
        if !kept || answer.settings != step.settings || shapes(answer) != shapes(step) {
            return wrong("leaves other states than the program takes that answers");
        }
        Ok(())
    }
}
