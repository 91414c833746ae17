//! What is asked of jobs most often, in memory, and how many of them there may be.

use crate::fault::{Fault, Result};
use crate::names::Id;
use crate::records::{Job, State};
use std::collections::BTreeMap;

/// What is asked of jobs most often, in memory.
#[derive(Clone, Debug)]
pub struct Brief {
    /// Who asks.
    pub owner: String,
    /// Who receives.
    pub receiver: String,
    /// The upload of its model.
    pub upload: Id,
    /// The sealed file of what is public of its model.
    pub public: Id,
    /// Where it is; without the reason of a failure.
    pub phase: Phase,
    /// Whether its query was charged.
    pub charged: bool,
    /// Whether this server has its share of an answer.
    pub answered: bool,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// Its place in the order.
    pub sequence: u64,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits.
    Queued,
    /// It runs.
    Running,
    /// It is answered.
    Done,
    /// It failed.
    Failed,
}

impl Brief {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            owner: job.owner.clone(),
            receiver: job.receiver.clone(),
            upload: job.upload,
            public: job.public,
            phase: match job.state {
                State::Queued => Phase::Queued,
                State::Running => Phase::Running,
                State::Done => Phase::Done,
                State::Failed(_) => Phase::Failed,
            },
            charged: job.charged,
            answered: job.answer.is_some(),
            created: job.created,
            sequence: job.sequence,
        }
    }

    /// Whether it is over, one way or the other.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed)
    }
}

/// How many jobs there may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// That wait, in all.
    pub waiting: usize,
    /// That wait, of one client.
    pub own: usize,
    /// That are over and kept, of one client.
    pub over: usize,
}

impl Room {
    /// Whether there is room for one more job of a client.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check<'b>(&self, client: &str, briefs: impl Iterator<Item = &'b Brief>) -> Result<()> {
        let (mut waiting, mut own, mut over) = (0, 0, 0);
        for brief in briefs {
            let is_own = brief.owner == client;
            waiting += usize::from(!brief.is_over());
            own += usize::from(is_own && !brief.is_over());
            over += usize::from(is_own && brief.is_over());
        }
        if waiting >= self.waiting {
            return Err(Fault::limit(format!("{waiting} jobs wait, and no more are taken")));
        }
        if own >= self.own {
            return Err(Fault::limit(format!("{own} of your jobs wait, and no more are taken")));
        }
        if over >= self.over {
            let why = format!("{over} of your jobs are over and kept; `sordino forget` makes room");
            return Err(Fault::limit(why));
        }
        Ok(())
    }
}

/// Jobs by their ids.
pub type Briefs = BTreeMap<Id, Brief>;
