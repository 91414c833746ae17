//! Errors by whose fault they are.

use sordino_net::{Endpoint, NetError};
use sordino_ring::DeviceError;
use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Ends the session: nothing is retried with the same randomness, and no partial output exists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that makes no sense.
    Usage(String),
    /// A peer is gone, silent, or sent something else than the protocol has next.
    Net(NetError),
    /// A peer is there but runs something else.
    Incompatible {
        /// Who.
        peer: Endpoint,
        /// What differs: program, session or version.
        what: &'static str,
    },
    /// Two ends hold different copies of the same shares: one of them deviates from the protocol, or an owner gave them
    /// shares that do not fit together.
    Inconsistent {
        /// Whose copies differ.
        peers: [Endpoint; 2],
        /// What they are copies of.
        what: &'static str,
    },
    /// A value of the run was not within the range that the program was compiled for: the answer would be wrong.
    OutOfRange,
    /// The operating system gave no randomness.
    Randomness,
    /// The device that an end computes on failed.
    Device(DeviceError),
}

impl Error {
    /// One sentence in which ends have these names.
    #[must_use]
    pub fn sentence(&self, name: &dyn Fn(Endpoint) -> String) -> String {
        match self {
            Self::Usage(why) => why.clone(),
            Self::Net(e) => e.sentence(&name(e.peer())),
            Self::Incompatible { peer, what } => format!("{} runs a different {what}", name(*peer)),
            Self::Inconsistent { peers: [a, b], what } => {
                let (a, b) = (name(*a), name(*b));
                format!("{a} and {b} hold different {what}: one of them deviates from the protocol, or an owner does")
            }
            Self::OutOfRange => "a value of this run left the range that the model was calibrated for, so the answer is refused: calibrate with inputs like this one, or set a larger --margin; `sordino infer --guard off --check` compares layer by layer".into(),
            Self::Device(e) => e.to_string(),
            Self::Randomness => "the operating system's random generator failed".into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&|end| end.to_string()))
    }
}

impl std::error::Error for Error {}

impl From<DeviceError> for Error {
    fn from(e: DeviceError) -> Self {
        Self::Device(e)
    }
}

impl From<NetError> for Error {
    fn from(e: NetError) -> Self {
        Self::Net(e)
    }
}
