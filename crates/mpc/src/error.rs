//! Errors by whose fault they are.

use sordino_net::NetError;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Ends the session: nothing is retried with the same randomness, and no partial output exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A peer is gone, silent, or sent something else than the protocol has next.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A peer is there but runs something else.
    #[error("{peer} runs a different {what}")]
    Incompatible {
        /// Who.
        peer: sordino_net::Endpoint,
        /// What differs: program, session or version.
        what: &'static str,
    },
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed")]
    Randomness,
}
