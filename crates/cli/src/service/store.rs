//! `sordino store`.

use crate::print;
use clap::{Args, Subcommand};
use sordino::{Error, Result};
use sordino_service::config::Server;
use sordino_service::store::Store;
use std::path::PathBuf;

/// Arguments of `store`.
#[derive(Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Read everything that a stopped server keeps, and name what is damaged.
    Check {
        /// The server's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Copy all that a stopped server keeps into a new folder; with the store's key, if that lies in the store.
    Backup {
        /// The server's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The folder, which must not be there.
        to: PathBuf,
    },
}

fn opened(config: &std::path::Path) -> Result<Store> {
    let config = Server::read(config)?;
    let folder = config.folder.join(&config.store);
    if !folder.exists() {
        return Err(Error::File { path: folder, why: "there is no store".into() });
    }
    Ok(config.open_store()?)
}

impl StoreArgs {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Check { config } => {
                let checked = opened(&config)?.check()?;
                let (models, jobs, files) = (checked.models, checked.jobs, checked.files);
                for fault in &checked.faults {
                    print(&format!("{fault}\n"))?;
                }
                if checked.faults.is_empty() {
                    return print(&format!("{models} models, {jobs} jobs, {files} files of shares: all are whole\n"));
                }
                let n = checked.faults.len();
                Err(Error::Session(format!("{n} of {} files of shares are damaged or gone", files + n)))
            }
            What::Backup { config, to } => {
                opened(&config)?.backup(&to)?;
                print(&format!("{}: a copy of the store; a key that lies elsewhere is not in it\n", to.display()))
            }
        }
    }
}
