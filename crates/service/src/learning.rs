//! The life of a training at a server: its rows are taken in, it runs from checkpoint to checkpoint, and its model answers at the end, or it fails.

use crate::agree::Verdict;
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::files::of_io;
use crate::names::Id;
use crate::push::{RowsHead, read_head, take_shares};
use crate::queue::Waiting;
use crate::records::Model;
use crate::shares::{Made, Splitter, What};
use crate::trainings::{Checkpoint, Losses, Rows, Spent, Stage, Training};
use std::io::{Read, Write};

/// How often a training is begun without getting on before it fails.
const ATTEMPTS: u32 = 3;
/// Checkpoints that are kept: whatever the moment servers are killed at, all of them have one in common.
const KEPT: usize = 2;
/// Longest head of rows.
const ROWS_HEAD: u64 = 4096;

/// What an end of a stretch of iterations leaves.
pub(crate) struct Left<'a> {
    /// The checkpoint that the session began from, and the iterations it has.
    pub(crate) from: Option<(Made, usize)>,
    pub(crate) checkpoint: Checkpoint,
    /// Losses since the last checkpoint: what was opened, and where and after how many iterations the first was.
    pub(crate) losses: Option<(Made, usize, Vec<Vec<u8>>)>,
    /// What is opened at the end, if this is it.
    pub(crate) opened: Option<&'a [u8]>,
    pub(crate) spent: Spent,
}

/// A model's training.
fn training(model: &mut Model) -> Result<&mut Training> {
    model.training.as_mut().ok_or_else(|| Fault::usage("the model is not trained here"))
}

impl Engine {
    /// Takes in the rows of a data owner.
    ///
    /// # Errors
    /// Why not.
    pub fn take_rows(&self, name: &str, client: &str, mut body: impl Read) -> Result<Model> {
        if self.is_stopping() {
            return Err(Fault::limit("the server is stopping; ask again in a moment"));
        }
        let RowsHead { id, upload, program, owner } = read_head(&mut body, ROWS_HEAD)?;
        let model = self.known_model(name, client)?;
        let open = |model: &Model| -> Result<()> {
            // Rows are for what their owner has seen, and for nothing else.
            if (model.upload, &model.program) != (upload, &program) {
                let why = format!("{name} was pushed anew since the rows were made for it; ask again");
                return Err(Fault::new(Blame::Conflict, why));
            }
            let training = model.training.as_ref();
            let training =
                training.ok_or_else(|| Fault::usage(format!("{name} takes no rows: it is not trained here")))?;
            match training.rows.get(owner) {
                Some(rows) if rows.owner == client => {}
                _ => return Err(Fault::refused(format!("rows {owner} of {name} are not {client}'s to give"))),
            }
            match training.stage {
                Stage::Waiting => Ok(()),
                _ => Err(Fault::new(Blame::Conflict, format!("the training of {name} was begun: its rows stay"))),
            }
        };
        open(&model)?;
        let public = self.public(model.public, &model.program)?;
        let course = public.course()?;
        let (what, party, limits) = (What::Rows(owner), self.config.party, &self.config.limits);
        let bytes = course.rows_bytes(owner, party);
        if bytes > limits.upload_mb << 20 {
            let mb = bytes >> 20;
            return Err(Fault::limit(format!("the rows have {mb} MB; {} are possible", limits.upload_mb)));
        }
        let mut file = self.store.create()?;
        let splitter = Splitter::new(&course.step, what, party).times(course.iterations);
        let components = take_shares(&mut body, &mut file, splitter)?;
        let shares = file.finish()?;
        let mut before = vec![];
        let changed = self.store.change_model(upload, |model| {
            // It may have been begun meanwhile.
            open(model)?;
            let training = training(model)?;
            let given = training.rows[owner].given.replace(Rows { upload: id, shares, components });
            before.extend(given.map(|r| r.shares));
            before.extend(training.start_anew());
            Ok(())
        });
        let model = changed.inspect_err(|_| self.store.discard([shares]))?;
        self.store.discard(before);
        tracing::info!(party, model = name, from = client, rows = owner, "rows were given");
        self.enqueue(&model);
        Ok(model)
    }

    /// A data owner takes its rows back, of a training that is not under way.
    ///
    /// # Errors
    /// When there are none; those of the store.
    pub fn withdraw_rows(&self, name: &str, client: &str) -> Result<()> {
        let model = self.known_model(name, client)?;
        let mut before = vec![];
        self.store.change_model(model.upload, |model| {
            let training = training(model)?;
            if !matches!(training.stage, Stage::Waiting | Stage::Failed(_)) {
                return Err(Fault::new(Blame::Conflict, format!("the training of {name} was begun: its rows stay")));
            }
            let own = training.rows.iter_mut().filter(|r| r.owner == client);
            before.extend(own.filter_map(|r| r.given.take()).map(|r| r.shares));
            if before.is_empty() {
                return Err(Fault::new(Blame::Conflict, format!("{name} has no rows of {client}")));
            }
            before.extend(training.start_anew());
            Ok(())
        })?;
        self.queue.forget(model.upload);
        self.store.discard(before);
        tracing::info!(party = self.config.party, model = name, from = client, "rows were taken back");
        Ok(())
    }

    /// A training that failed is to be tried again, from its last checkpoint on.
    ///
    /// # Errors
    /// When it is not this client's; those of the store.
    pub fn try_training_again(&self, name: &str, client: &str) -> Result<Model> {
        let model = self.known_model(name, client)?;
        if model.owner != client {
            return Err(Fault::refused(format!("{name} belongs to {}", model.owner)));
        }
        let model = self.store.change_model(model.upload, |model| {
            let training = training(model)?;
            if matches!(training.stage, Stage::Failed(_)) {
                training.stage = Stage::Waiting;
                (training.attempts, training.note) = (0, None);
            }
            Ok(())
        })?;
        self.enqueue(&model);
        Ok(model)
    }

    /// A training that needs a session waits for its turn, if this server leads.
    pub(crate) fn enqueue(&self, model: &Model) {
        if self.leads() && model.training.as_ref().is_some_and(Training::needs_session) {
            self.queue.push(Waiting::of_training(model));
        }
    }

    /// Trainings that an earlier process left wait again.
    pub(crate) fn recover_trainings(&self) -> Result<()> {
        for model in self.store.models()? {
            if model.training.as_ref().is_some_and(|t| t.stage == Stage::Begun && t.kept.is_empty()) {
                self.store.change_model(model.upload, |model| {
                    training(model)?.stage = Stage::Waiting;
                    Ok(())
                })?;
            }
            self.enqueue(&model);
        }
        Ok(())
    }

    /// What this server has to say of a training: a verdict on itself, and one on the rows of each owner.
    pub(crate) fn judge_rows(&self, session: Id, model: &Model) -> Vec<Verdict> {
        let rows = model.training.iter().flat_map(|t| &t.rows).enumerate();
        rows.map(|(k, rows)| {
            let missing =
                || Fault::new(Blame::Pending, format!("{} has not given its rows to every server", rows.owner));
            let given = rows.given.as_ref();
            Verdict {
                digest: given
                    .map(|g| crate::agree::of_rows(session, model, k, &rows.owner, g.upload))
                    .ok_or_else(missing),
                left: u64::MAX,
                able: true,
                made: None,
                components: given.map(|g| g.components.clone()).unwrap_or_default(),
                // Rows may be given anew while the others still have those of before.
                blame: Blame::Pending,
            }
        })
        .collect()
    }

    /// No checkpoint of it is common to all servers: it begins from its start, and rows may be given anew until it does.
    pub(crate) fn loosen(&self, upload: Id) -> Result<()> {
        self.store.change_model(upload, |model| {
            let training = training(model)?;
            if training.stage == Stage::Begun {
                training.stage = Stage::Waiting;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// A training is begun, once more, in a session, with the rows that it was judged with.
    pub(crate) fn begin_training(&self, session: Id, judged: &Model) -> Result<()> {
        self.store.change_model(judged.upload, |model| {
            let training = training(model)?;
            if judged.training.as_ref().is_none_or(|t| t.rows != training.rows) || !training.is_due() {
                return Err(Fault::new(Blame::Pending, "rows are being given anew"));
            }
            training.stage = Stage::Begun;
            training.session = Some(session);
            training.attempts += 1;
            training.note = None;
            Ok(())
        })?;
        Ok(())
    }

    /// Keeps what a stretch of iterations left. What is opened makes it the last one. Checkpoints of other lines go only now: until there is a new
    /// one, whatever a server says, none is lost.
    ///
    /// # Errors
    /// When another session trains it; those of the store.
    pub(crate) fn keep_training(&self, upload: Id, left: Left<'_>) -> Result<()> {
        let Left { from, checkpoint, losses, opened, spent } = left;
        let session = checkpoint.made.session;
        let mut fresh = vec![checkpoint.shares];
        let mut gone = vec![];
        let mut seal = |bytes: &[&[u8]]| -> Result<Id> {
            let mut file = self.store.create()?;
            let what = "what a training opened cannot be kept";
            bytes.iter().try_for_each(|b| file.write_all(b)).map_err(|e| of_io(what, &e))?;
            let id = file.finish()?;
            fresh.push(id);
            Ok(id)
        };
        let keep = || -> Result<()> {
            let losses = losses.map(|(made, before, all)| -> Result<Losses> {
                let shares = seal(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                Ok(Losses { made, before, count: all.len(), shares })
            });
            let losses = losses.transpose()?;
            let opened = opened.map(|bytes| seal(&[bytes])).transpose()?;
            self.store.change_model(upload, |model| {
                let training = training(model)?;
                if training.stage != Stage::Begun || training.session != Some(session) {
                    return Err(Fault::new(Blame::Conflict, "another session trains the model"));
                }
                let (base, done) = (from.map(|f| f.0), from.map_or(0, |f| f.1));
                let ours = |made: Made| made.session == session || Some(made) == base;
                let (stay, other) = std::mem::take(&mut training.kept).into_iter().partition(|k| ours(k.made));
                training.kept = stay;
                gone.extend(other.iter().map(|k: &Checkpoint| k.shares));
                let (stay, later) = std::mem::take(&mut training.losses)
                    .into_iter()
                    .partition(|l: &Losses| l.made.session == session || l.before < done);
                training.losses = stay;
                gone.extend(later.iter().map(|l: &Losses| l.shares));
                training.attempts = 0;
                training.spent = spent;
                training.kept.push(checkpoint);
                while training.kept.len() > KEPT {
                    gone.push(training.kept.remove(0).shares);
                }
                training.losses.extend(losses);
                if let Some(opened) = opened {
                    training.stage = Stage::Trained;
                    gone.extend(training.opened.replace(opened));
                }
                Ok(())
            })?;
            Ok(())
        };
        let kept = keep();
        self.store.discard(if kept.is_ok() { gone } else { fresh });
        kept
    }

    /// All three servers have what the model became: it answers from now on, and what it was made from goes.
    ///
    /// # Errors
    /// When this server has something else; those of the store.
    pub(crate) fn trained(&self, upload: Id, made: Made) -> Result<Model> {
        let mut gone = vec![];
        let model = self.store.change_model(upload, |model| {
            let start = model.shares;
            let training = training(model)?;
            if training.became().is_none_or(|c| c.made != made) {
                return Err(Fault::new(Blame::Conflict, "the model became something else meanwhile"));
            }
            if training.stage != Stage::Trained {
                return Ok(());
            }
            training.stage = Stage::Done;
            gone.extend(training.rows.iter_mut().filter_map(|r| r.given.take()).map(|r| r.shares));
            let last = training.kept.split_off(training.kept.len() - 1);
            gone.extend(std::mem::replace(&mut training.kept, last).iter().map(|k| k.shares));
            gone.push(start);
            model.shares = training.kept[0].shares;
            Ok(())
        })?;
        self.store.discard(gone);
        tracing::info!(party = self.config.party, model = %model.name, "a model is trained");
        Ok(model)
    }

    /// All servers know that a training is over.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn confirm_trained(&self, upload: Id) -> Result<Model> {
        self.forget_progress(upload);
        self.store.change_model(upload, |model| {
            training(model)?.confirmed = true;
            Ok(())
        })
    }

    /// A session failed while it trained: the training goes on from its last checkpoint, or fails if it was begun often enough without getting on. Peers that are
    /// lost come back.
    pub(crate) fn training_broken_off(&self, session: Id, upload: Id, fault: &Fault) {
        let noted = self.store.change_model(upload, |model| {
            let training = training(model)?;
            if training.stage != Stage::Begun || training.session != Some(session) {
                return Ok(());
            }
            if training.kept.is_empty() {
                // Nothing has come of the rows yet: their owners may give them anew.
                training.stage = Stage::Waiting;
            }
            training.note = Some(format!("attempt {} failed: {fault}", training.attempts));
            if matches!(fault.kind, Blame::Pending | Blame::PeerLost) {
                training.attempts -= training.attempts.min(1);
                return Ok(());
            }
            // What takes too long, or does not fit, does so again.
            if training.attempts >= ATTEMPTS || matches!(fault.kind, Blame::Limit | Blame::Usage) {
                training.stage = Stage::Failed(fault.clone());
            }
            Ok(())
        });
        match noted {
            Ok(model) => {
                let blame = fault.kind.name();
                tracing::warn!(party = self.config.party, model = %model.name, blame, "a training was broken off: {fault}");
            }
            // A model that is gone needs no note.
            Err(e) if e.kind == Blame::Unknown => {}
            Err(e) => {
                tracing::error!(party = self.config.party, upload = %upload, "a training cannot be put back: {e}")
            }
        }
    }

    /// Ends a training that cannot be done.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn fail_training(&self, upload: Id, fault: Fault) -> Result<()> {
        self.store.change_model(upload, |model| {
            let training = training(model)?;
            // What this server has of the end stays.
            if training.became().is_none() {
                training.stage = Stage::Failed(fault);
            }
            Ok(())
        })?;
        Ok(())
    }
}
