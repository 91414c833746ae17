//! Errors as users see them: one sentence, and an exit code.

use sordino_mpc::Topology;
use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What ends a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that makes no sense, or gave an input that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be used as what it was given as.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A model cannot be compiled or an input does not fit it.
    #[error(transparent)]
    Model(#[from] sordino_nn::Error),
    /// A session between parties failed.
    #[error("{0}")]
    Session(String),
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// 2 for what the caller can mend, 1 for what failed while running.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } => 2,
            Self::Model(sordino_nn::Error::Protocol(_) | sordino_nn::Error::State(_)) | Self::Session(_) => 1,
            Self::Model(_) => 2,
            Self::Interrupted => 130,
        }
    }

    /// Names the file an error belongs to.
    pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |e| {
            let why = match e.kind() {
                std::io::ErrorKind::NotFound => "no such file".to_string(),
                std::io::ErrorKind::IsADirectory => "it is a folder, not a file".to_string(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
                _ => e.to_string(),
            };
            Self::File { path, why }
        }
    }
}

/// An error of an end as a sentence with the names of the session's ends.
pub(crate) fn sentence(topology: &Topology, e: &sordino_nn::Error) -> String {
    match e {
        sordino_nn::Error::Protocol(e) => e.sentence(&|end| topology.name(end)),
        e => e.to_string(),
    }
}
