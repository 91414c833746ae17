//! What a server keeps of models, jobs and budgets. All of it is known to whoever runs the server; shares are elsewhere.

use crate::fault::Fault;
use crate::names::Id;
use crate::shares::Made;
use crate::trainings::Training;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a client may do with a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// How often it may ask within [`Grant::seconds`]; as often as it likes where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<u64>,
    /// The time its queries are counted over; for ever where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Whom it may send answers to, besides itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<String>,
}

impl Grant {
    /// Most queries of a grant that counts them over a time: each one's moment is kept.
    pub const MOST_TIMED: u64 = 100_000;

    /// Refuses what cannot be kept account of.
    ///
    /// # Errors
    /// Too many queries over a time; names that are none.
    pub fn check(&self) -> crate::Result<()> {
        if self.seconds.is_some() && self.queries.is_some_and(|q| q > Self::MOST_TIMED) {
            return Err(Fault::limit(format!("{} queries over a time are possible at most", Self::MOST_TIMED)));
        }
        self.receivers.iter().try_for_each(|r| crate::names::client(r))
    }

    /// From when on queries count, in seconds since 1970.
    #[must_use]
    pub fn since(&self, now: u64) -> u64 {
        self.seconds.map_or(0, |s| now.saturating_sub(s))
    }
}

/// A model that an owner shared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Who pushed it.
    pub owner: String,
    /// Of this very upload, the same on all three servers.
    pub upload: Id,
    /// Hash of what is public of it, in hexadecimal digits.
    pub program: String,
    /// The sealed file of what is public of it.
    pub public: Id,
    /// The sealed file of its shares.
    pub shares: Id,
    /// SHA-256 of each of the two components that this server holds, in hexadecimal digits.
    pub components: [String; 2],
    /// Who may ask it, besides its owner.
    pub grants: BTreeMap<String, Grant>,
    /// Bytes of its shares.
    pub bytes: u64,
    /// Bound on the memory of a session with it, in bytes.
    pub memory: u64,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// How it is, or was, trained here; none for a model that was pushed as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
}

impl Model {
    /// Whether it can be asked: it was pushed as it is, or this server has what its training made of it.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.training.as_ref().is_none_or(|t| t.became().is_some())
    }

    /// Whether a client may know of it: it is the client's, was granted to it, or is trained on its rows.
    #[must_use]
    pub fn is_known_to(&self, client: &str) -> bool {
        self.owner == client
            || self.grants.contains_key(client)
            || self.training.as_ref().is_some_and(|t| t.rows.iter().any(|r| r.owner == client))
    }

    /// Its sealed files, but for that of what is public, with what they are.
    pub(crate) fn files(&self) -> Vec<(Id, String)> {
        let mut all = vec![(self.shares, format!("the shares of model {}", self.name))];
        for (id, what) in self.training.iter().flat_map(Training::files) {
            all.push((id, format!("{what} of the training of model {}", self.name)));
        }
        all
    }
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits.
    Queued,
    /// It runs.
    Running,
    /// Its answer waits for the receiver.
    Done,
    /// It will not be answered.
    Failed(Fault),
}

/// This server's share of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its sealed file.
    pub shares: Id,
    /// Where it was made.
    pub made: Made,
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its id, which its owner drew.
    pub id: Id,
    /// The model's name.
    pub model: String,
    /// The upload of the model that it was made for.
    pub upload: Id,
    /// Who asks.
    pub owner: String,
    /// Who receives the answer.
    pub receiver: String,
    /// Hash of what is public of the model.
    pub program: String,
    /// The sealed file of what is public of the model: an answer can be opened as long as it is there.
    pub public: Id,
    /// Where it is.
    pub state: State,
    /// The sealed file of the inputs' shares, until the job is over.
    pub shares: Option<Id>,
    /// SHA-256 of each of the two components that this server holds.
    pub components: [String; 2],
    /// The session that it was begun in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Id>,
    /// Its answer.
    pub answer: Option<Answer>,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// Its place in this server's order.
    pub sequence: u64,
    /// How often it was begun.
    pub attempts: u32,
    /// Whether the budget was charged for it.
    pub charged: bool,
    /// What happened to it last, while it waits.
    pub note: Option<String>,
}

impl Job {
    /// Whether it is over, one way or the other.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Failed(_))
    }
}
