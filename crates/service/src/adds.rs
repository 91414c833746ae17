//! Taking jobs in: those that come while others are being written are written together, so that a disk is synced once for all of them.

use crate::briefs::{Brief, Briefs, Room};
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::records::{Job, Model};
use crate::store::{JOBS, META, MODELS, Store, fault, read, written};
use redb::{ReadableTable, WriteTransaction};
use std::sync::{Arc, Mutex};

/// A job that is to be added, and where the result goes.
pub(crate) struct Adding {
    job: Job,
    room: Room,
    done: Arc<Mutex<Option<Result<Job>>>>,
}

impl Adding {
    fn finish(&self, result: Result<Job>) {
        *self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
    }
}

/// Adds a job beside those that were added in the same transaction.
fn add_in(txn: &WriteTransaction, adding: &Adding, briefs: &Briefs, added: &[(Id, Brief)]) -> Result<Job> {
    let mut job = adding.job.clone();
    if briefs.contains_key(&job.id) || added.iter().any(|(id, _)| *id == job.id) {
        return Err(Fault::new(Blame::Conflict, format!("there is a job {} already", job.id)));
    }
    let models = txn.open_table(MODELS).map_err(fault)?;
    let model: Option<Model> = models.get(job.model.as_str()).map_err(fault)?.map(|v| read(v.value())).transpose()?;
    if model.is_none_or(|m| m.upload != job.upload) {
        return Err(Fault::new(Blame::Conflict, "the model was pushed anew meanwhile; ask again"));
    }
    adding.room.check(&job.owner, briefs.values().chain(added.iter().map(|(_, brief)| brief)))?;
    let mut meta = txn.open_table(META).map_err(fault)?;
    job.sequence = meta.get("jobs").map_err(fault)?.map_or(0, |v| v.value()) + 1;
    meta.insert("jobs", job.sequence).map_err(fault)?;
    txn.open_table(JOBS).map_err(fault)?.insert(&job.id.0, &*written(&job)?).map_err(fault)?;
    Ok(job)
}

impl Store {
    /// Takes a new job in, and gives it its place in the order, if its model is still the one it was made for and there is room. Jobs that come while
    /// others are being written are written together: a disk is synced once for all of them.
    ///
    /// # Errors
    /// When its id is taken, or there is no room; those of the store.
    pub fn add_job(&self, job: Job, room: Room) -> Result<Job> {
        let done: Arc<Mutex<Option<Result<Job>>>> = Arc::default();
        let taken = || done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let adds = || self.adds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        adds().push(Adding { job, room, done: Arc::clone(&done) });
        let mut briefs = self.briefs();
        // Whoever had the turn before may have written it.
        if let Some(result) = taken() {
            return result;
        }
        let all = std::mem::take(&mut *adds());
        let written = self.write(|txn| {
            let (mut added, mut results) = (vec![], vec![]);
            for adding in &all {
                let result = add_in(txn, adding, &briefs, &added);
                added.extend(result.as_ref().ok().map(|job| (job.id, Brief::of(job))));
                results.push(result);
            }
            Ok((added, results))
        });
        match written {
            Ok((added, results)) => {
                briefs.extend(added);
                all.iter().zip(results).for_each(|(adding, result)| adding.finish(result));
            }
            Err(e) => all.iter().for_each(|adding| adding.finish(Err(e.clone()))),
        }
        taken().unwrap_or_else(|| Err(Fault::internal("the store", &"a job was not written")))
    }
}
