//! What a server keeps of a training.

use crate::course::Course;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::shares::Made;
use serde::{Deserialize, Serialize};

/// A training, as a server keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Training {
    /// Iterations of the whole training.
    pub iterations: usize,
    /// What each data owner gives.
    pub rows: Vec<RowsOf>,
    /// Where it is.
    pub stage: Stage,
    /// The session that trains it, or did last: what an older one still does counts no more.
    pub session: Option<Id>,
    /// Whether all three servers know that it is over, as far as this one heard.
    pub confirmed: bool,
    /// The last checkpoints, the latest one last.
    pub kept: Vec<Checkpoint>,
    /// Shares of the losses, from checkpoint to checkpoint, if they are opened.
    pub losses: Vec<Losses>,
    /// The sealed file of this server's shares of what is opened at the end.
    pub opened: Option<Id>,
    /// How often it was begun since it last got on.
    pub attempts: u32,
    /// Why it does not get on.
    pub note: Option<String>,
    /// What it took so far, up to the last checkpoint.
    pub spent: Spent,
}

/// Where a training is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It waits for rows, or for its turn.
    Waiting,
    /// It was begun: rows stay what they are.
    Begun,
    /// The model is trained, as far as this server knows; its last checkpoint is what it became.
    Trained,
    /// All three servers have what it became: it answers.
    Done,
    /// It will not go on.
    Failed(Fault),
}

/// Rows of a data owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsOf {
    /// Whose, as a client.
    pub owner: String,
    /// How many samples they come from.
    pub samples: usize,
    /// The rows, once they are here.
    pub given: Option<Rows>,
}

/// A share set of the rows of all batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Of this very upload, the same on all three servers.
    pub upload: Id,
    /// The sealed file.
    pub shares: Id,
    /// SHA-256 of each of the two components that this server holds, in hexadecimal digits.
    pub components: [String; 2],
}

/// Shares of all states after so many iterations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// In which session, after how many of its runs: shares of different sessions do not fit together.
    pub made: Made,
    /// Iterations of the whole training that are done.
    pub iteration: usize,
    /// The sealed file.
    pub shares: Id,
}

/// A server's shares of the losses of some iterations, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Where the first of them was opened.
    pub made: Made,
    /// Iterations of the whole training that were done before it.
    pub before: usize,
    /// How many there are.
    pub count: usize,
    /// The sealed file.
    pub shares: Id,
}

/// What a training took at a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Seconds of its iterations.
    pub seconds: f64,
    /// Bytes of shares that this server sent for them.
    pub payload: u64,
    /// Bytes that it handed to the network for them.
    pub wire: u64,
    /// Rounds of the last iteration.
    pub rounds: u32,
}

impl Eq for Spent {}

impl Training {
    /// One that waits for its rows.
    #[must_use]
    pub fn new(course: &Course) -> Self {
        let rows = course.owners.iter().zip(&course.samples);
        Self {
            iterations: course.iterations,
            rows: rows.map(|(owner, &samples)| RowsOf { owner: owner.clone(), samples, given: None }).collect(),
            stage: Stage::Waiting,
            session: None,
            confirmed: false,
            kept: vec![],
            losses: vec![],
            opened: None,
            attempts: 0,
            note: None,
            spent: Spent::default(),
        }
    }

    /// Whether it is over, and well.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Refuses one that failed, or that waits for rows.
    pub(crate) fn goes_on(&self) -> Result<()> {
        match &self.stage {
            Stage::Failed(fault) => Err(Fault::new(Blame::Conflict, format!("the training failed: {}", fault.why))),
            Stage::Waiting if !self.is_due() => Err(Fault::new(Blame::Pending, "rows are not here yet")),
            _ => Ok(()),
        }
    }

    /// Whether all rows are here, and it is to go on.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Begun | Stage::Trained)
            && self.rows.iter().all(|r| r.given.is_some())
    }

    /// Whether there is something to do in a session: iterations, or telling everybody that they are over.
    pub(crate) fn needs_session(&self) -> bool {
        self.is_due() || self.stage == Stage::Done && !self.confirmed
    }

    /// Iterations that a checkpoint has.
    #[must_use]
    pub fn done(&self) -> usize {
        self.kept.last().map_or(0, |k| k.iteration)
    }

    /// What the model became, if this server has it.
    pub(crate) fn became(&self) -> Option<&Checkpoint> {
        let is_over = matches!(self.stage, Stage::Trained | Stage::Done);
        self.kept.last().filter(|k| is_over && k.iteration == self.iterations)
    }

    /// With other rows nothing stays of what was learnt: its files.
    pub(crate) fn start_anew(&mut self) -> Vec<Id> {
        let kept = std::mem::take(&mut self.kept).into_iter().map(|k| k.shares);
        let losses = std::mem::take(&mut self.losses).into_iter().map(|l| l.shares);
        kept.chain(losses).chain(self.opened.take()).collect()
    }

    /// Its sealed files.
    pub(crate) fn files(&self) -> impl Iterator<Item = (Id, &'static str)> {
        let rows = self.rows.iter().flat_map(|r| &r.given).map(|r| (r.shares, "rows"));
        let kept = self.kept.iter().map(|k| (k.shares, "a checkpoint"));
        let losses = self.losses.iter().map(|l| (l.shares, "losses"));
        rows.chain(kept).chain(losses).chain(self.opened.map(|id| (id, "the opened states")))
    }
}
