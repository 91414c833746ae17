//! A server's store: records in one database file, shares in sealed files of their own.
//!
//! A sealed file is complete and synced before a record names it, and removed after the last record that named it is gone: whatever the moment
//! a server is killed at, every record's files are there. Files that nobody names are swept away at the start.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::records::{Job, Model};
use crate::seal::{Opener, Sealer, StoreKey};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What this version writes. A store of a later one is refused.
const SCHEMA: u32 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const MODELS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("models");
const JOBS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("jobs");
/// Times at which a client's queries of a model were charged, by "MODEL CLIENT".
const BUDGETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("budgets");

/// Names of the files in a store's folder.
const DATABASE: &str = "records.redb";
const FILES: &str = "shares";
const KEY: &str = "store.key";

/// A server's store.
pub struct Store {
    database: Database,
    folder: PathBuf,
    key: StoreKey,
}

fn fault(e: impl Into<redb::Error>) -> Fault {
    let e = e.into();
    match e {
        redb::Error::Io(e) => of_io("the store", &e),
        e => Fault::new(Blame::Internal, format!("the store: {e}")),
    }
}

/// A failure of the system while something is read or written.
pub(crate) fn of_io(what: &str, e: &io::Error) -> Fault {
    let why = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full".to_string(),
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only".into(),
        _ => e.to_string(),
    };
    Fault::new(Blame::Internal, format!("{what}: {why}"))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Fault::internal("a record of the store cannot be read", &e))
}

fn written(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Fault::internal("a record cannot be written", &e))
}

/// What [`Store::check`] found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Models.
    pub models: usize,
    /// Jobs.
    pub jobs: usize,
    /// Sealed files that were read to their ends.
    pub files: usize,
    /// One sentence for everything that is wrong.
    pub faults: Vec<String>,
}

/// A sealed file that is being written; gone if it is dropped.
pub struct Writing<'a> {
    /// Its id.
    pub id: Id,
    sealer: Sealer<tempfile::NamedTempFile>,
    store: &'a Store,
    /// Bytes written so far.
    pub bytes: u64,
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.sealer.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.sealer.flush()
    }
}

impl Writing<'_> {
    /// Completes the file: from now on it is there.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> Result<Id> {
        let Self { id, sealer, store, .. } = self;
        let done = || -> io::Result<()> {
            let file = sealer.finish()?;
            file.as_file().sync_all()?;
            file.persist_noclobber(store.path(id)).map_err(|e| e.error)?;
            File::open(store.folder.join(FILES))?.sync_all()
        };
        done().map_err(|e| of_io("a share set cannot be kept", &e))?;
        Ok(id)
    }
}

impl Store {
    /// Opens a store, and makes it if the folder has none.
    ///
    /// # Errors
    /// When it cannot be used: another process has it, the key is missing, a later version wrote it.
    pub fn open(folder: &Path) -> Result<Self> {
        sordino::private::folder(folder, true)?;
        sordino::private::folder(&folder.join(FILES), true)?;
        let (path, key) = (folder.join(DATABASE), folder.join(KEY));
        if path.exists() && !key.exists() {
            let why = format!("{}: the store's key is missing, and nothing can be read without it", key.display());
            return Err(Fault::usage(why));
        }
        if !key.exists() {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(|e| Fault::internal("the operating system's random generator", &e))?;
            sordino::model::create_own(&key, &*bytes)?;
        }
        let database = Database::create(&path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Fault::usage(format!("{}: another process has this store open", folder.display()))
            }
            e => fault(e).at(&path.display().to_string()),
        })?;
        let store = Self { database, folder: folder.into(), key: read_key(&key)? };
        store.settle()?;
        Ok(store)
    }

    /// Makes tables, checks the version, sweeps away what nobody names.
    fn settle(&self) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META).map_err(fault)?;
            let version = meta.get("schema").map_err(fault)?.map(|v| v.value());
            match version {
                None => drop(meta.insert("schema", u64::from(SCHEMA)).map_err(fault)?),
                Some(v) if v == u64::from(SCHEMA) => {}
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
            Ok(())
        })?;
        let named: BTreeSet<String> = self.named()?.into_iter().map(|(id, _)| id.to_string()).collect();
        let files = std::fs::read_dir(self.folder.join(FILES)).map_err(|e| of_io("the store", &e))?;
        for file in files.flatten().filter(|f| !named.contains(&*f.file_name().to_string_lossy())) {
            std::fs::remove_file(file.path()).map_err(|e| of_io("the store", &e))?;
        }
        Ok(())
    }

    /// All sealed files that records name, and what they are.
    fn named(&self) -> Result<Vec<(Id, String)>> {
        let mut all = vec![];
        for m in self.models()? {
            all.push((m.public, format!("the program of model {}", m.name)));
            all.push((m.shares, format!("the shares of model {}", m.name)));
        }
        for j in self.jobs()? {
            all.extend(j.shares.map(|id| (id, format!("the inputs of job {}", j.id))));
            all.extend(j.answer.map(|a| (a.shares, format!("the answer of job {}", j.id))));
        }
        Ok(all)
    }

    fn path(&self, id: Id) -> PathBuf {
        self.folder.join(FILES).join(id.to_string())
    }

    fn write<T>(&self, body: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let txn = self.database.begin_write().map_err(fault)?;
        let value = body(&txn)?;
        txn.commit().map_err(fault)?;
        Ok(value)
    }

    /// Begins a sealed file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(&self) -> Result<Writing<'_>> {
        let id = Id::fresh()?;
        let new = || {
            let file = tempfile::Builder::new().tempfile_in(self.folder.join(FILES))?;
            Sealer::new(file, &self.key, id)
        };
        let sealer = new().map_err(|e| of_io("a share set cannot be kept", &e))?;
        Ok(Writing { id, sealer, store: self, bytes: 0 })
    }

    /// Reads a sealed file.
    ///
    /// # Errors
    /// When it is gone or damaged.
    pub fn opener(&self, id: Id) -> Result<Opener> {
        Opener::new(&self.path(id), &self.key, id)
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
        for id in ids {
            // What stays is swept away at the next start.
            let _ = std::fs::remove_file(self.path(id));
        }
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

    /// Puts a model in its place; returns the one that was there.
    ///
    /// # Errors
    /// Those of the store, and of `allowed`, which is shown what is there.
    pub fn put_model(
        &self,
        model: &Model,
        allowed: impl FnOnce(Option<&Model>) -> Result<()>,
    ) -> Result<Option<Model>> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let before: Option<Model> =
                table.get(model.name.as_str()).map_err(fault)?.map(|v| read(v.value())).transpose()?;
            allowed(before.as_ref())?;
            table.insert(model.name.as_str(), &*written(model)?).map_err(fault)?;
            Ok(before)
        })
    }

    /// Changes a model.
    ///
    /// # Errors
    /// When there is none of that name; those of the store and of the change.
    pub fn change_model(&self, name: &str, change: impl FnOnce(&mut Model) -> Result<()>) -> Result<Model> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let found = table.get(name).map_err(fault)?.map(|v| read(v.value())).transpose()?;
            let mut model: Model = found.ok_or_else(|| Fault::unknown(format!("there is no model {name}")))?;
            change(&mut model)?;
            table.insert(name, &*written(&model)?).map_err(fault)?;
            Ok(model)
        })
    }

    /// Removes a model; its files are the caller's to discard.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove_model(&self, name: &str) -> Result<Option<Model>> {
        self.write(|txn| {
            let mut table = txn.open_table(MODELS).map_err(fault)?;
            let before = table.remove(name).map_err(fault)?.map(|v| read(v.value())).transpose()?;
            Ok(before)
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

    /// Takes a new job in, and gives it its place in the order.
    ///
    /// # Errors
    /// When its id is taken; those of the store.
    pub fn add_job(&self, job: &mut Job) -> Result<()> {
        self.write(|txn| {
            let mut table = txn.open_table(JOBS).map_err(fault)?;
            if table.get(&job.id.0).map_err(fault)?.is_some() {
                return Err(Fault::new(Blame::Conflict, format!("there is a job {} already", job.id)));
            }
            let mut meta = txn.open_table(META).map_err(fault)?;
            job.sequence = meta.get("jobs").map_err(fault)?.map_or(0, |v| v.value()) + 1;
            meta.insert("jobs", job.sequence).map_err(fault)?;
            table.insert(&job.id.0, &*written(job)?).map_err(fault)?;
            Ok(())
        })
    }

    /// Changes a job.
    ///
    /// # Errors
    /// When there is none of that id; those of the store and of the change.
    pub fn change_job(&self, id: Id, change: impl FnOnce(&mut Job) -> Result<()>) -> Result<Job> {
        self.write(|txn| change_in(txn, id, change))
    }

    /// Removes a job; its files are the caller's to discard.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove_job(&self, id: Id) -> Result<Option<Job>> {
        self.write(|txn| {
            let mut table = txn.open_table(JOBS).map_err(fault)?;
            let before = table.remove(&id.0).map_err(fault)?.map(|v| read(v.value())).transpose()?;
            Ok(before)
        })
    }

    /// When a client's queries of a model were charged, since `since`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn charges(&self, model: &str, client: &str, since: u64) -> Result<Vec<u64>> {
        let txn = self.database.begin_read().map_err(fault)?;
        let table = txn.open_table(BUDGETS).map_err(fault)?;
        let found = table.get(&*format!("{model} {client}")).map_err(fault)?;
        let times: Vec<u64> = found.map(|v| read(v.value())).transpose()?.unwrap_or_default();
        Ok(times.into_iter().filter(|t| *t >= since).collect())
    }

    /// Marks a job as running, and charges its query once, however often it is begun. Charges before `since` are forgotten; `counted` says
    /// whether they are kept at all.
    ///
    /// # Errors
    /// Those of the store.
    pub fn begin(&self, id: Id, now: u64, since: u64, counted: bool) -> Result<Job> {
        self.write(|txn| {
            let mut charge = false;
            let job = change_in(txn, id, |job| {
                charge = counted && !job.charged;
                job.charged = true;
                job.attempts += 1;
                job.state = crate::records::State::Running;
                Ok(())
            })?;
            if charge {
                let mut table = txn.open_table(BUDGETS).map_err(fault)?;
                let key = format!("{} {}", job.model, job.owner);
                let times: Vec<u64> =
                    table.get(&*key).map_err(fault)?.map(|v| read(v.value())).transpose()?.unwrap_or_default();
                let times: Vec<u64> = times.into_iter().filter(|t| *t >= since).chain([now]).collect();
                table.insert(&*key, &*written(&times)?).map_err(fault)?;
            }
            Ok(job)
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

    /// Reads everything, and names what is wrong.
    ///
    /// # Errors
    /// When the records themselves cannot be read.
    pub fn check(&self) -> Result<Checked> {
        let mut checked = Checked { models: self.models()?.len(), jobs: self.jobs()?.len(), ..Checked::default() };
        for (id, what) in self.named()? {
            let opened = self
                .opener(id)
                .and_then(|mut file| io::copy(&mut file, &mut io::sink()).map_err(|e| of_io("it cannot be read", &e)));
            match opened {
                Ok(_) => checked.files += 1,
                Err(e) => checked.faults.push(format!("{what}: {e}")),
            }
        }
        Ok(checked)
    }

    /// Copies the whole store, key and all, into a new folder.
    ///
    /// # Errors
    /// When the folder is there already; those of the disk.
    pub fn backup(self, to: &Path) -> Result<()> {
        if to.exists() {
            return Err(Fault::usage(format!("{}: it is there already", to.display())));
        }
        let named: Vec<Id> = self.named()?.into_iter().map(|(id, _)| id).collect();
        let Self { database, folder, .. } = self;
        // Nothing is half-written once the database is closed.
        drop(database);
        let partial = to.with_extension("partial");
        sordino::private::folder(&partial, true)?;
        sordino::private::folder(&partial.join(FILES), true)?;
        let copy = |name: &Path| -> io::Result<()> {
            std::fs::copy(folder.join(name), partial.join(name))?;
            File::open(partial.join(name))?.sync_all()
        };
        let files = named.iter().map(|id| Path::new(FILES).join(id.to_string()));
        let mut all = [DATABASE, KEY].iter().map(PathBuf::from).chain(files);
        let done = all.try_for_each(|name| copy(&name));
        done.and_then(|()| std::fs::rename(&partial, to)).map_err(|e| of_io(&to.display().to_string(), &e))
    }
}

fn change_in(txn: &WriteTransaction, id: Id, change: impl FnOnce(&mut Job) -> Result<()>) -> Result<Job> {
    let mut table = txn.open_table(JOBS).map_err(fault)?;
    let found = table.get(&id.0).map_err(fault)?.map(|v| read(v.value())).transpose()?;
    let mut job: Job = found.ok_or_else(|| Fault::unknown(format!("there is no job {id}")))?;
    change(&mut job)?;
    table.insert(&id.0, &*written(&job)?).map_err(fault)?;
    Ok(job)
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
