//! What goes wrong, and whose fault it is. The same on the wire, in logs, in metrics and as exit codes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The caller asked for something that makes no sense, and can mend it.
    Usage,
    /// The caller may not do that.
    Refused,
    /// There is no such thing, or it is not the caller's.
    Unknown,
    /// It is there already, or not in a state for it.
    Conflict,
    /// It has not reached every server yet.
    Pending,
    /// Too large, too many, or too late.
    Limit,
    /// The other side speaks another version, or runs another program.
    Incompatible,
    /// A server is gone or silent.
    PeerLost,
    /// A server does not follow the protocol.
    PeerMisbehaved,
    /// The server's own failure: its disk, its memory, its code.
    Internal,
}

impl Blame {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Usage,
        Self::Refused,
        Self::Unknown,
        Self::Conflict,
        Self::Pending,
        Self::Limit,
        Self::Incompatible,
        Self::PeerLost,
        Self::PeerMisbehaved,
        Self::Internal,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Conflict => "conflict",
            Self::Pending => "pending",
            Self::Limit => "limit",
            Self::Incompatible => "incompatible",
            Self::PeerLost => "peer-lost",
            Self::PeerMisbehaved => "peer-misbehaved",
            Self::Internal => "internal",
        }
    }

    /// The status of an HTTP answer that says so.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Usage => 400,
            Self::Refused => 403,
            Self::Unknown => 404,
            Self::Conflict | Self::Pending => 409,
            Self::Limit => 429,
            Self::Incompatible => 426,
            Self::PeerLost | Self::PeerMisbehaved => 502,
            Self::Internal => 500,
        }
    }

    /// Its number in a verdict between servers; 0 is none.
    pub(crate) fn code(self) -> u64 {
        1 + self as u64
    }

    /// The kind of a number in a verdict.
    pub(crate) fn of_code(code: u64) -> Self {
        let at = usize::try_from(code.wrapping_sub(1)).ok();
        at.and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::PeerMisbehaved)
    }
}

/// A failure: one sentence, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whose fault.
    pub kind: Blame,
    /// What happened, in one sentence.
    pub why: String,
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// A failure of this kind.
    pub fn new(kind: Blame, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }
    /// The caller can mend it.
    pub fn usage(why: impl Into<String>) -> Self {
        Self::new(Blame::Usage, why)
    }
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::new(Blame::Refused, why)
    }
    pub(crate) fn unknown(why: impl Into<String>) -> Self {
        Self::new(Blame::Unknown, why)
    }
    pub(crate) fn limit(why: impl Into<String>) -> Self {
        Self::new(Blame::Limit, why)
    }
    /// The server's own failure while it did something.
    pub(crate) fn internal(doing: &str, e: &dyn fmt::Display) -> Self {
        Self::new(Blame::Internal, format!("{doing}: {e}"))
    }
    /// The same failure with where it happened before it.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self { why: format!("{place}: {}", self.why), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for sordino::Error {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            Blame::Usage | Blame::Refused | Blame::Unknown | Blame::Conflict => Self::Usage(fault.why),
            _ => Self::Session(fault.why),
        }
    }
}

impl From<sordino::Error> for Fault {
    fn from(e: sordino::Error) -> Self {
        let kind = if e.exit_code() == 2 { Blame::Usage } else { Blame::Internal };
        Self::new(kind, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_every_form() {
        for kind in Blame::ALL {
            assert_eq!(Blame::of_code(kind.code()), kind);
            assert_eq!(serde_json::to_string(&kind).ok(), Some(format!("\"{}\"", kind.name())));
        }
        assert_eq!([Blame::of_code(0), Blame::of_code(99)], [Blame::PeerMisbehaved; 2]);
    }
}
