//! What clients and servers say to each other over HTTP: paths, heads and answers, all of version 1.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/about` | | [`About`] |
//! | `GET /v1/models` | | list of [`ModelView`] |
//! | `GET /v1/models/NAME` | | [`ModelView`] |
//! | `GET /v1/models/NAME/public` | | [`crate::push::Public`] |
//! | `POST /v1/models/NAME/ask` | [`Ask`] | whether it may be pushed |
//! | `PUT /v1/models/NAME` | head, share set | [`ModelView`] |
//! | `DELETE /v1/models/NAME` | | |
//! | `PUT /v1/models/NAME/rows` | head, share set | [`ModelView`], of a model that is trained |
//! | `DELETE /v1/models/NAME/rows` | | the caller's rows are gone, if the training is not under way |
//! | `POST /v1/models/NAME/again` | | [`ModelView`]; a training that failed is tried again |
//! | `GET /v1/models/NAME/losses/I` | | shares of the I-th stretch of losses |
//! | `GET /v1/models/NAME/opened` | | share of the states that are opened at the end |
//! | `PUT /v1/models/NAME/grants/CLIENT` | [`crate::records::Grant`] | [`ModelView`] |
//! | `DELETE /v1/models/NAME/grants/CLIENT` | | [`ModelView`] |
//! | `POST /v1/jobs` | head, share set | [`JobView`] |
//! | `GET /v1/jobs` | | list of [`JobView`] |
//! | `GET /v1/jobs/ID?wait=SECONDS` | | [`JobView`], at the latest then |
//! | `GET /v1/jobs/ID/public` | | [`crate::push::Public`] of its model |
//! | `GET /v1/jobs/ID/answer` | | share of the answer; `sordino-made`, `sordino-program` |
//! | `DELETE /v1/jobs/ID` | | |
//!
//! Operators have `GET /`, `/metrics`, `/healthz` and `/readyz`. A refusal is a [`crate::Fault`] with the status of its kind.

use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::records::{Grant, Job, Model, State};
use crate::shares::Made;
use crate::trainings::{Spent, Stage, Training};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of these calls.
pub const VERSION: u32 = 1;

/// The header that says where an answer was made ([`crate::shares::Made`], as JSON).
pub const MADE: &str = "sordino-made";
/// The header that names what is public of its model, by hash.
pub const PROGRAM: &str = "sordino-program";

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// Version of the calls.
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// Which of the three it is.
    pub party: usize,
    /// Jobs that wait or run, of whoever: by which a client of several clusters chooses.
    #[serde(default)]
    pub waiting: usize,
}

/// What is going to be pushed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Bytes of the share set for this server.
    pub bytes: u64,
    /// Memory of a session, in bytes.
    pub memory: u64,
}

/// A model as a client sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Its upload.
    pub upload: Id,
    /// Hash of what is public of it.
    pub program: String,
    /// Bytes of its shares at this server.
    pub bytes: u64,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// Queries the caller has left, where they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Whether the caller may not ask, and only gives rows to its training.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub barred: bool,
    /// Who may ask; told to its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, Grant>,
    /// How often each of them asked in the time that counts; told to its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, u64>,
    /// How it is, or was, trained here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingView>,
}

/// A training as a client sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingView {
    /// Where it is.
    pub stage: Stage,
    /// Iterations of the whole training.
    pub iterations: usize,
    /// Iterations that are done, also those since the last checkpoint.
    pub done: usize,
    /// The clients whose rows it takes, and whether they are here.
    pub rows: Vec<(String, bool)>,
    /// Why it does not get on, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it took so far, up to the last checkpoint, at this server.
    pub spent: Spent,
    /// What there is of losses: where each stretch of them began, how many iterations were done before, and how many it has; told to the model's owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<(Made, usize, usize)>,
    /// Where the model was made, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

impl TrainingView {
    /// Whose rows are not there yet.
    #[must_use]
    pub fn waits_for(&self) -> Vec<String> {
        self.rows.iter().filter(|r| !r.1).map(|r| r.0.clone()).collect()
    }

    /// Where it is, in words.
    #[must_use]
    pub fn shown(&self) -> String {
        let note = self.note.as_ref().map(|n| format!("; {n}")).unwrap_or_default();
        match (&self.stage, &self.waits_for()[..]) {
            (Stage::Failed(fault), _) => format!("its training failed ({}): {fault}", fault.kind.name()),
            (Stage::Trained | Stage::Done, _) => format!("trained over {} iterations", self.iterations),
            (_, []) if self.done == 0 => format!("waits for its turn to be trained{note}"),
            (_, []) => format!("iteration {} of {}{note}", self.done, self.iterations),
            (_, names) => format!("waits for the rows of {}", names.join(", ")),
        }
    }

    pub(crate) fn new(engine: &Engine, upload: Id, training: Training, own: bool) -> Self {
        let runs = matches!(training.stage, Stage::Waiting | Stage::Begun);
        let done = if runs { engine.progressed(upload).unwrap_or(0).max(training.done()) } else { training.done() };
        Self {
            iterations: training.iterations,
            done,
            rows: training.rows.iter().map(|r| (r.owner.clone(), r.given.is_some() || !runs)).collect(),
            note: training.note.clone().or_else(|| engine.obstacle(upload)).filter(|_| runs),
            spent: training.spent,
            losses: training.losses.iter().filter(|_| own).map(|l| (l.made, l.before, l.count)).collect(),
            made: training.became().map(|c| c.made),
            stage: training.stage,
        }
    }
}

/// A job as a client sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: Id,
    /// The model.
    pub model: String,
    /// The upload of the model that it was made for.
    pub upload: Id,
    /// Who asks.
    pub owner: String,
    /// Who receives the answer.
    pub receiver: String,
    /// Hash of what is public of the model.
    pub program: String,
    /// Where it is.
    pub state: State,
    /// When it came, in seconds since 1970.
    pub created: u64,
    /// How often it was begun.
    pub attempts: u32,
    /// Why it does not get on, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl JobView {
    pub(crate) fn new(engine: &Engine, job: Job) -> Self {
        let waits = job.state == State::Queued;
        let note = if waits { job.note.or_else(|| engine.obstacle(job.upload)) } else { None };
        Self {
            id: job.id,
            model: job.model,
            upload: job.upload,
            owner: job.owner,
            receiver: job.receiver,
            program: job.program,
            state: job.state,
            created: job.created,
            attempts: job.attempts,
            note,
        }
    }
}

impl ModelView {
    pub(crate) fn new(engine: &Engine, model: Model, client: &str) -> Result<Self> {
        let own = model.owner == client;
        // Whoever only gives rows asks nothing.
        let asks = own || model.grants.contains_key(client);
        let left = if asks { engine.left(&model, client)? } else { u64::MAX };
        let mut used = BTreeMap::new();
        for (grantee, grant) in model.grants.iter().filter(|_| own) {
            let charged = engine.store.charged(&model.name, grantee, grant, crate::clock::now())?;
            used.insert(grantee.clone(), charged);
        }
        Ok(Self {
            used,
            name: model.name,
            owner: model.owner,
            upload: model.upload,
            program: model.program,
            bytes: model.bytes,
            created: model.created,
            left: Some(left).filter(|l| *l != u64::MAX),
            barred: !asks,
            grants: if own { model.grants } else { BTreeMap::new() },
            training: model.training.map(|t| TrainingView::new(engine, model.upload, t, own)),
        })
    }
}

/// Why a training failed, as its servers say; a server that only heard that another one refuses says less than that one.
#[must_use]
pub fn failure(views: &[ModelView]) -> Option<&Fault> {
    let faults = views.iter().filter_map(|v| match &v.training.as_ref()?.stage {
        Stage::Failed(fault) => Some(fault),
        _ => None,
    });
    faults.clone().find(|f| f.kind != Blame::Conflict).or_else(|| faults.clone().next())
}

/// What a server says that does not speak this version.
pub(crate) fn other_version(path: &str) -> Fault {
    let why = format!("this server speaks version {VERSION} of the calls, and {path} is none of them");
    Fault::new(crate::Blame::Incompatible, why)
}
