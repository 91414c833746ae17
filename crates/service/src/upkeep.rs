//! Looking after a store: reading all of it, and copying it.

use crate::fault::{Fault, Result};
use crate::files::of_io;
use crate::store::{DATABASE, FILES, KEY, Store};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

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

impl Store {
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

    /// Copies the whole store into a new folder; its key, too, if that lies in the store.
    ///
    /// # Errors
    /// When the folder is there already; those of the disk.
    pub fn backup(self, to: &Path) -> Result<()> {
        if to.exists() {
            return Err(Fault::usage(format!("{}: it is there already", to.display())));
        }
        let Self { database, folder, key, files, .. } = self;
        let files = files.all()?;
        // Nothing is half-written once the database is closed.
        drop(database);
        let partial = to.with_extension("partial");
        sordino::private::folder(&partial, true)?;
        sordino::private::folder(&partial.join(FILES), true)?;
        let copy = |name: &Path| -> io::Result<()> {
            let from = folder.join(name);
            std::fs::copy(&from, partial.join(name))
                .and_then(|_| File::open(partial.join(name))?.sync_all())
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))
        };
        let files = files.iter().filter_map(|f| f.file_name()).map(|name| Path::new(FILES).join(name));
        let own = (key == folder.join(KEY)).then_some(KEY);
        let mut all = std::iter::once(DATABASE).chain(own).map(PathBuf::from).chain(files);
        let done = all.try_for_each(|name| copy(&name));
        done.and_then(|()| std::fs::rename(&partial, to)).map_err(|e| of_io(&to.display().to_string(), &e))
    }
}
