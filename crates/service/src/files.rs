//! Sealed files: shares of models, inputs and answers at rest. Small ones are kept with the records and need no file of their own.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::seal::{Opener, Sealer, StoreKey};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tempfile::NamedTempFile;

/// Sealed bytes up to which a file is kept with the records.
const SMALL: usize = 96 << 10;

/// A failure of the system while something is read or written.
pub(crate) fn of_io(what: &str, e: &io::Error) -> Fault {
    let why = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full".to_string(),
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only".into(),
        _ => e.to_string(),
    };
    Fault::new(Blame::Internal, format!("{what}: {why}"))
}

/// Small files that go with the next records that are written, and those that leave with them.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) put: HashMap<Id, Vec<u8>>,
    pub(crate) gone: Vec<Id>,
}

/// The folder of sealed files.
pub(crate) struct Files {
    folder: PathBuf,
    key: StoreKey,
    pending: Mutex<Pending>,
}

/// Where a file is written: in memory until it is no longer small.
enum Spill<'a> {
    Memory(Vec<u8>, &'a Path),
    File(NamedTempFile),
}

impl Write for Spill<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Memory(held, _) if held.len() + bytes.len() <= SMALL => held.write(bytes),
            Self::Memory(held, folder) => {
                let mut file = NamedTempFile::new_in(folder)?;
                file.write_all(held)?;
                *self = Self::File(file);
                self.write(bytes)
            }
            Self::File(file) => file.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sealed file that is being written; gone if it is dropped.
pub struct Writing<'a> {
    /// Its id.
    pub id: Id,
    sealer: Sealer<Spill<'a>>,
    files: &'a Files,
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sealer.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.sealer.flush()
    }
}

impl Writing<'_> {
    /// Completes the file: from now on it is there, for a record to name it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> Result<Id> {
        let Self { id, sealer, files } = self;
        let done = || -> io::Result<()> {
            match sealer.finish()? {
                Spill::Memory(bytes, _) => {
                    files.pending().put.insert(id, bytes);
                    Ok(())
                }
                Spill::File(file) => {
                    file.as_file().sync_all()?;
                    file.persist_noclobber(files.path(id)).map_err(|e| e.error)?;
                    File::open(&files.folder)?.sync_all()
                }
            }
        };
        done().map_err(|e| of_io("a share set cannot be kept", &e))?;
        Ok(id)
    }
}

impl Files {
    pub(crate) fn new(folder: PathBuf, key: StoreKey) -> Self {
        Self { folder, key, pending: Mutex::default() }
    }

    /// What tells one key from another, and nothing else of it.
    pub(crate) fn key_mark(&self) -> u64 {
        self.key.mark()
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn path(&self, id: Id) -> PathBuf {
        self.folder.join(id.to_string())
    }

    pub(crate) fn create(&self) -> Result<Writing<'_>> {
        let id = Id::fresh()?;
        let sealer = Sealer::new(Spill::Memory(vec![], &self.folder), &self.key, id);
        Ok(Writing { id, sealer: sealer.map_err(|e| of_io("a share set cannot be kept", &e))?, files: self })
    }

    /// A file; `kept` are its sealed bytes, if it is a small one.
    pub(crate) fn opener(&self, id: Id, kept: Option<Vec<u8>>) -> Result<Opener> {
        let small = kept.or_else(|| self.pending().put.get(&id).cloned());
        let missing = |e: io::Error| {
            tracing::error!("{}: {e}", self.path(id).display());
            Fault::new(Blame::Internal, format!("file {id} of the store cannot be read"))
        };
        match small {
            Some(bytes) => Opener::new(Box::new(io::Cursor::new(bytes)), &self.key, id),
            None => Opener::new(Box::new(File::open(self.path(id)).map_err(missing)?), &self.key, id),
        }
    }

    /// Removes files that no record names any more; small ones with the next records that are written.
    pub(crate) fn discard(&self, ids: impl IntoIterator<Item = Id>) {
        let mut pending = self.pending();
        for id in ids {
            // What stays is swept away at the next start.
            if pending.put.remove(&id).is_none() && std::fs::remove_file(self.path(id)).is_err() {
                pending.gone.push(id);
            }
        }
    }

    /// Names of all that are files.
    pub(crate) fn all(&self) -> Result<Vec<PathBuf>> {
        let files = std::fs::read_dir(&self.folder).map_err(|e| of_io("the store", &e))?;
        Ok(files.flatten().map(|f| f.path()).collect())
    }
}
