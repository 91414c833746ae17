//! A server's store: records in one database file, shares in sealed files.
//!
//! A sealed file is complete and synced before a record names it, or written together with that record, and removed after the last record that named it is
//! gone: whatever the moment a server is killed at, every record's files are there. Files that nobody names are swept away at the start. What must hold
//! between records is checked inside the transaction that writes them.

use crate::adds::Adding;
use crate::briefs::{Brief, Briefs};
use crate::charges::Charges;
use crate::fault::{Blame, Fault, Result};
use crate::files::{Files, Writing, of_io};
use crate::names::Id;
use crate::records::{Answer, Grant, Job, Model, State};
use crate::seal::{Opener, StoreKey};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use zeroize::Zeroizing;

/// What this version writes. A store of a later one is refused.
const SCHEMA: u64 = 2;
/// What it also reads: version 1 had no trainings, and forgot uploads whose models were gone.
const OLDEST: u64 = 1;

pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(crate) const MODELS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("models");
pub(crate) const JOBS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("jobs");
/// Charges of a client's queries of a model, by "MODEL CLIENT".
const BUDGETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("budgets");
/// Every upload there ever was: what somebody has seen under an id is never something else later.
const UPLOADS: TableDefinition<'_, &[u8; 16], ()> = TableDefinition::new("uploads");
/// Small sealed files.
const SMALL: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("small files");

/// Names of the files in a store's folder.
pub(crate) const DATABASE: &str = "records.redb";
/// Bytes of records that are kept in memory, at most; there are few, and small.
const CACHE: usize = 16 << 20;
pub(crate) const FILES: &str = "shares";
pub(crate) const KEY: &str = "store.key";

/// A server's store.
pub struct Store {
    pub(crate) database: Database,
    pub(crate) folder: PathBuf,
    /// The file of its key.
    pub(crate) key: PathBuf,
    pub(crate) files: Files,
    briefs: Mutex<Briefs>,
    pub(crate) adds: Mutex<Vec<Adding>>,
}

pub(crate) fn fault(e: impl Into<redb::Error>) -> Fault {
    match e.into() {
        redb::Error::Io(e) => of_io("the store", &e),
        e => Fault::new(Blame::Internal, format!("the store: {e}")),
    }
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Fault::internal("a record of the store cannot be read", &e))
}

pub(crate) fn written(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Fault::internal("a record cannot be written", &e))
}

impl Store {
    /// Opens a store, and makes it if the folder has none.
    ///
    /// # Errors
    /// When it cannot be used: another process has it, the key is missing, a later version wrote it.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(folder, &folder.join(KEY))
    }

    /// The same with a key in a file elsewhere.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(folder: &Path, key: &Path) -> Result<Self> {
        sordino::private::folder(folder, true)?;
        sordino::private::folder(&folder.join(FILES), true)?;
        let path = folder.join(DATABASE);
        if path.exists() && !key.exists() {
            let why = format!("{}: the store's key is missing, and nothing can be read without it", key.display());
            return Err(Fault::usage(why));
        }
        if !key.exists() {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(|e| Fault::internal("the operating system's random generator", &e))?;
            sordino::model::create_own(key, &*bytes)?;
        }
        let database = Database::builder().set_cache_size(CACHE).create(&path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Fault::usage(format!("{}: another process has this store open", folder.display()))
            }
            e => fault(e).at(&path.display().to_string()),
        })?;
        let files = Files::new(folder.join(FILES), read_key(key)?);
        let store = Self {
            database,
            folder: folder.into(),
            key: key.into(),
            files,
            briefs: Mutex::default(),
            adds: Mutex::default(),
        };
        store.settle()?;
        *store.briefs() = store.jobs()?.iter().map(|job| (job.id, Brief::of(job))).collect();
        Ok(store)
    }

    /// Makes tables, checks the version, sweeps away what nobody names.
    fn settle(&self) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META).map_err(fault)?;
            let version = meta.get("schema").map_err(fault)?.map(|v| v.value());
            match version {
                None => {
                    meta.insert("schema", SCHEMA).map_err(fault)?;
                    meta.insert("key", self.files.key_mark()).map_err(fault)?;
                }
                Some(OLDEST..=SCHEMA) => {
                    meta.insert("schema", SCHEMA).map_err(fault)?;
                    let mark = meta.get("key").map_err(fault)?.map(|v| v.value());
                    if mark != Some(self.files.key_mark()) {
                        let why = format!("{}: it is not the key of this store", self.key.display());
                        return Err(Fault::usage(why));
                    }
                }
                Some(v) => {
                    return Err(Fault::usage(format!(
                        "{}: the store has version {v}, and this program reads version {SCHEMA}: use the program that wrote it",
                        self.folder.display()
                    )));
                }
            }
            txn.open_table(MODELS).map_err(fault)?;
            txn.open_table(JOBS).map_err(fault)?;
            txn.open_table(BUDGETS).map_err(fault)?;
            txn.open_table(UPLOADS).map_err(fault)?;
            Ok(())
        })?;
        let named: BTreeSet<Id> = self.named()?.into_iter().map(|(id, _)| id).collect();
        let names: BTreeSet<String> = named.iter().map(Id::to_string).collect();
        let unnamed = |path: &PathBuf| !path.file_name().is_some_and(|n| names.contains(&*n.to_string_lossy()));
        for path in self.files.all()?.iter().filter(|p| unnamed(p)) {
            std::fs::remove_file(path).map_err(|e| of_io("the store", &e))?;
        }
        self.write(|txn| {
            let mut small = txn.open_table(SMALL).map_err(fault)?;
            small.retain(|id, _| named.contains(&Id(*id))).map_err(fault)
        })
    }

    /// All sealed files that records name, and what they are.
    pub(crate) fn named(&self) -> Result<Vec<(Id, String)>> {
        let mut all = vec![];
        for m in self.models()? {
            all.push((m.public, format!("the program of model {}", m.name)));
            all.extend(m.files());
        }
        for j in self.jobs()? {
            all.push((j.public, format!("the program of job {}", j.id)));
            all.extend(j.shares.map(|id| (id, format!("the inputs of job {}", j.id))));
            all.extend(j.answer.map(|a| (a.shares, format!("the answer of job {}", j.id))));
        }
        let mut seen = BTreeSet::new();
        all.retain(|(id, _)| seen.insert(*id));
        Ok(all)
    }

    pub(crate) fn write<T>(&self, body: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let txn = self.database.begin_write().map_err(fault)?;
        let value = body(&txn)?;
        // Small files that wait are as good as named now; what nobody names is swept away at a start.
        let (put, gone): (Vec<(Id, Vec<u8>)>, Vec<Id>) = {
            let mut pending = self.files.pending();
            let gone = std::mem::take(&mut pending.gone);
            (pending.put.iter().map(|(id, bytes)| (*id, bytes.clone())).collect(), gone)
        };
        if !put.is_empty() || !gone.is_empty() {
            let mut small = txn.open_table(SMALL).map_err(fault)?;
            for (id, bytes) in &put {
                small.insert(&id.0, &**bytes).map_err(fault)?;
            }
            for id in gone {
                small.remove(&id.0).map_err(fault)?;
            }
        }
        txn.commit().map_err(fault)?;
        let mut pending = self.files.pending();
        put.iter().for_each(|(id, _)| drop(pending.put.remove(id)));
        Ok(value)
    }

    /// Jobs as they are known most often.
    pub fn briefs(&self) -> MutexGuard<'_, Briefs> {
        self.briefs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes jobs, and remembers them.
    fn write_jobs<T>(&self, body: impl FnOnce(&WriteTransaction, &Briefs, &mut Vec<Job>) -> Result<T>) -> Result<T> {
        // Held all the time: two writers would otherwise remember in another order than they wrote.
        let mut briefs = self.briefs();
        let mut changed = vec![];
        let value = self.write(|txn| {
            let value = body(txn, &briefs, &mut changed)?;
            let mut table = txn.open_table(JOBS).map_err(fault)?;
            for job in &changed {
                table.insert(&job.id.0, &*written(job)?).map_err(fault)?;
            }
            Ok(value)
        })?;
        briefs.extend(changed.iter().map(|job| (job.id, Brief::of(job))));
        Ok(value)
    }

    /// Begins a sealed file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(&self) -> Result<Writing<'_>> {
        self.files.create()
    }

    /// Reads a sealed file.
    ///
    /// # Errors
    /// When it is gone or damaged.
    pub fn opener(&self, id: Id) -> Result<Opener> {
        let txn = self.database.begin_read().map_err(fault)?;
        let small = txn.open_table(SMALL).map_err(fault)?.get(&id.0).map_err(fault)?;
        self.files.opener(id, small.map(|v| v.value().to_vec()))
    }

    /// All of a sealed file.
    ///
    /// # Errors
    /// When it is gone or damaged.
    pub fn whole(&self, id: Id) -> Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(vec![]);
        self.opener(id)?.read_to_end(&mut bytes).map_err(|e| of_io("the store", &e))?;
        Ok(bytes)
    }

    /// Removes sealed files that no record names any more.
    pub fn discard(&self, ids: impl IntoIterator<Item = Id>) {
        self.files.discard(ids);
    }

    /// A model.
    ///
    /// # Errors
    /// Those of the store.
    pub fn model(&self, name: &str) -> Result<Option<Model>> {
        let txn = self.database.begin_read().map_err(fault)?;
        let found = txn.open_table(MODELS).map_err(fault)?.get(name).map_err(fault)?;
        found.map(|v| read(v.value())).transpose()
    }

    /// All models.
    ///
    /// # Errors
    /// Those of the store.
    pub fn models(&self) -> Result<Vec<Model>> {
        let txn = self.database.begin_read().map_err(fault)?;
        let table = txn.open_table(MODELS).map_err(fault)?;
        table.iter().map_err(fault)?.map(|entry| read(entry.map_err(fault)?.1.value())).collect()
    }

    /// Puts a model in its place, of which there may be so many; returns the one of its name and owner that was there, whose grants it may keep.
    ///
    /// # Errors
    /// When the name or the upload is somebody else's, or there is no room; those of the store.
    pub fn put_model(&self, model: &mut Model, most: usize, keep_grants: bool) -> Result<Option<Model>> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let mut before = None;
            let mut count = 0;
            for entry in table.iter().map_err(fault)? {
                let other: Model = read(entry.map_err(fault)?.1.value())?;
                // Uploads are told apart by their ids: an owner draws one that nobody has.
                if other.upload == model.upload || (other.name == model.name && other.owner != model.owner) {
                    return Err(Fault::new(Blame::Conflict, format!("there is another model {}", model.name)));
                }
                count += 1;
                if other.name == model.name {
                    before = Some(other);
                }
            }
            // Nor one that somebody had, whose users may still be about to send something for it.
            let mut uploads = txn.open_table(UPLOADS).map_err(fault)?;
            if uploads.insert(&model.upload.0, ()).map_err(fault)?.is_some() {
                return Err(Fault::new(Blame::Conflict, "the upload's id was used before"));
            }
            if before.is_none() && count >= most {
                return Err(Fault::limit(format!("{count} models are kept, and no more are taken")));
            }
            if let (Some(before), true) = (&before, keep_grants) {
                model.grants.clone_from(&before.grants);
            }
            table.insert(model.name.as_str(), &*written(model)?).map_err(fault)?;
            Ok(before)
        })
    }

    /// Changes the grants of a model that belongs to a client.
    ///
    /// # Errors
    /// When it does not; those of the store and of the change.
    pub fn change_grants(
        &self,
        name: &str,
        owner: &str,
        change: impl FnOnce(&mut BTreeMap<String, Grant>) -> Result<()>,
    ) -> Result<Model> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let mut model = owned(table.get(name).map_err(fault)?.map(|v| read(v.value())).transpose()?, name, owner)?;
            change(&mut model.grants)?;
            table.insert(name, &*written(&model)?).map_err(fault)?;
            Ok(model)
        })
    }

    /// Changes a model, if it is still the one of that upload.
    ///
    /// # Errors
    /// When it is gone; those of the store and of the change.
    pub fn change_model(&self, upload: Id, change: impl FnOnce(&mut Model) -> Result<()>) -> Result<Model> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let mut found = None;
            for entry in table.iter().map_err(fault)? {
                let model: Model = read(entry.map_err(fault)?.1.value())?;
                if model.upload == upload {
                    found = Some(model);
                }
            }
            let mut model = found.ok_or_else(|| Fault::unknown("the model is gone"))?;
            change(&mut model)?;
            table.insert(model.name.as_str(), &*written(&model)?).map_err(fault)?;
            Ok(model)
        })
    }

    /// Removes a model that belongs to a client; its files are the caller's to discard.
    ///
    /// # Errors
    /// When it does not; those of the store.
    pub fn remove_model(&self, name: &str, owner: &str) -> Result<Model> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let found = table.remove(name).map_err(fault)?.map(|v| read(v.value())).transpose()?;
            owned(found, name, owner)
        })
    }

    /// A job.
    ///
    /// # Errors
    /// Those of the store.
    pub fn job(&self, id: Id) -> Result<Option<Job>> {
        let txn = self.database.begin_read().map_err(fault)?;
        let found = txn.open_table(JOBS).map_err(fault)?.get(&id.0).map_err(fault)?;
        found.map(|v| read(v.value())).transpose()
    }

    /// All jobs, in the order they came.
    ///
    /// # Errors
    /// Those of the store.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let txn = self.database.begin_read().map_err(fault)?;
        let table = txn.open_table(JOBS).map_err(fault)?;
        let all: Result<Vec<Job>> =
            table.iter().map_err(fault)?.map(|entry| read(entry.map_err(fault)?.1.value())).collect();
        let mut all = all?;
        all.sort_by_key(|j| j.sequence);
        Ok(all)
    }

    /// The latest jobs that fulfil a condition, so many at most, in the order they came.
    ///
    /// # Errors
    /// Those of the store.
    pub fn jobs_where(&self, most: usize, condition: impl Fn(&Brief) -> bool) -> Result<Vec<Job>> {
        let mut chosen: Vec<(u64, Id)> =
            self.briefs().iter().filter(|(_, b)| condition(b)).map(|(id, b)| (b.sequence, *id)).collect();
        chosen.sort_unstable();
        let from = chosen.len().saturating_sub(most);
        let txn = self.database.begin_read().map_err(fault)?;
        let table = txn.open_table(JOBS).map_err(fault)?;
        let mut jobs = vec![];
        for (_, id) in &chosen[from..] {
            if let Some(v) = table.get(&id.0).map_err(fault)? {
                jobs.push(read(v.value())?);
            }
        }
        Ok(jobs)
    }

    /// Changes a job.
    ///
    /// # Errors
    /// When there is none of that id; those of the store and of the change.
    pub fn change_job(&self, id: Id, change: impl FnOnce(&mut Job) -> Result<()>) -> Result<Job> {
        self.write_jobs(|txn, _, changed| {
            let mut job = found(txn, id)?;
            change(&mut job)?;
            changed.push(job.clone());
            Ok(job)
        })
    }

    /// Changes several jobs together; those that are gone are left out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn change_jobs(&self, ids: &[Id], mut change: impl FnMut(&mut Job)) -> Result<()> {
        self.write_jobs(|txn, _, changed| {
            for id in ids {
                if let Ok(mut job) = found(txn, *id) {
                    change(&mut job);
                    changed.push(job);
                }
            }
            Ok(())
        })
    }

    /// Removes a job that may be removed; its files are the caller's to discard.
    ///
    /// # Errors
    /// When there is none, or it may not; those of the store.
    pub fn remove_job(&self, id: Id, allowed: impl FnOnce(&Job) -> Result<()>) -> Result<Job> {
        let mut briefs = self.briefs();
        let job = self.write(|txn| {
            let job = found(txn, id)?;
            allowed(&job)?;
            txn.open_table(JOBS).map_err(fault)?.remove(&id.0).map_err(fault)?;
            Ok(job)
        })?;
        briefs.remove(&id);
        Ok(job)
    }

    /// Queries of a model that a client was charged for, as its grant counts them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn charged(&self, model: &str, client: &str, grant: &Grant, now: u64) -> Result<u64> {
        let txn = self.database.begin_read().map_err(fault)?;
        let table = txn.open_table(BUDGETS).map_err(fault)?;
        let found = table.get(&*format!("{model} {client}")).map_err(fault)?;
        let charges: Charges = found.map(|v| read(v.value())).transpose()?.unwrap_or_default();
        Ok(charges.count(grant, now))
    }

    /// Marks jobs that wait as running in a session, and charges each one's query once, however often it is begun: `grant` says what its client may ask.
    /// Jobs must be as they were when servers agreed on them. Each has its own result.
    ///
    /// # Errors
    /// Those of the store.
    pub fn begin(
        &self,
        session: Id,
        judged: &[&Job],
        now: u64,
        mut grant: impl FnMut(&Job) -> Result<Grant>,
    ) -> Result<Vec<Result<Job>>> {
        self.write_jobs(|txn, _, changed| {
            let mut budgets = txn.open_table(BUDGETS).map_err(fault)?;
            let mut one = |was: &Job| -> Result<Job> {
                let mut job = found(txn, was.id)?;
                // One of the same id may have been submitted since.
                if job.state != State::Queued || (job.sequence, job.shares) != (was.sequence, was.shares) {
                    return Err(Fault::new(Blame::Conflict, format!("job {} does not wait as it did", job.id)));
                }
                let grant = grant(&job)?;
                if let (Some(queries), false) = (grant.queries, job.charged) {
                    let key = format!("{} {}", job.model, job.owner);
                    let charges = budgets.get(&*key).map_err(fault)?.map(|v| read(v.value())).transpose()?;
                    let mut charges: Charges = charges.unwrap_or_default();
                    if charges.count(&grant, now) >= queries {
                        return Err(Fault::limit("the budget is used up"));
                    }
                    charges.add(&grant, now);
                    budgets.insert(&*key, &*written(&charges)?).map_err(fault)?;
                }
                job.charged = true;
                job.attempts += 1;
                job.state = State::Running;
                job.session = Some(session);
                Ok(job)
            };
            let begun: Vec<Result<Job>> = judged.iter().map(|job| one(job)).collect();
            changed.extend(begun.iter().flatten().cloned());
            Ok(begun)
        })
    }

    /// Names this server's shares of answers in their jobs; returns the files of answers that were there before.
    ///
    /// # Errors
    /// When one of the jobs is gone; those of the store.
    pub fn keep(&self, answers: &[(Id, Answer)]) -> Result<Vec<Id>> {
        self.write_jobs(|txn, _, changed| {
            let mut before = vec![];
            for (id, answer) in answers {
                let mut job = found(txn, *id)?;
                before.extend(job.answer.replace(answer.clone()).map(|a| a.shares));
                changed.push(job);
            }
            Ok(before)
        })
    }

    /// Whether the store can be written to.
    ///
    /// # Errors
    /// Why not.
    pub fn is_writable(&self) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META).map_err(fault)?;
            meta.insert("looked at", 1).map_err(fault)?;
            Ok(())
        })
    }
}

fn found(txn: &WriteTransaction, id: Id) -> Result<Job> {
    let table = txn.open_table(JOBS).map_err(fault)?;
    let found = table.get(&id.0).map_err(fault)?.map(|v| read(v.value())).transpose()?;
    found.ok_or_else(|| Fault::unknown(format!("there is no job {id}")))
}

/// A model, if it belongs to a client. One of somebody else's does not exist for whoever may not ask it.
fn owned(model: Option<Model>, name: &str, owner: &str) -> Result<Model> {
    match model {
        Some(model) if model.owner == owner => Ok(model),
        Some(model) if model.grants.contains_key(owner) => {
            Err(Fault::refused(format!("{name} belongs to {}", model.owner)))
        }
        _ => Err(Fault::unknown(format!("there is no model {name}"))),
    }
}

fn read_key(path: &Path) -> Result<StoreKey> {
    let bytes = sordino::private::read(path)?.map(Zeroizing::new);
    let wrong = || Fault::usage(format!("{}: it is no key of a store, which has 32 bytes", path.display()));
    let bytes = bytes.ok_or_else(wrong)?;
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(wrong());
    }
    key.copy_from_slice(&bytes);
    Ok(StoreKey::new(key))
}
