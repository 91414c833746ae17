//! What can go wrong between endpoints, and whose fault it is.

use crate::{Endpoint, FrameError};
use std::fmt;
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, NetError>;

/// A failure of communication. Ends the session: nothing is retried with the same randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetError {
    /// The peer closed its connection or its machine is unreachable.
    PeerLost {
        /// Who is gone.
        peer: Endpoint,
        /// What the transport said.
        why: String,
    },
    /// The peer is connected but nothing came within the deadline.
    Timeout {
        /// Who is silent.
        peer: Endpoint,
        /// The deadline that passed.
        after: Duration,
    },
    /// The peer is in the middle of a frame and slower than the least rate.
    Slow {
        /// Who is slow.
        peer: Endpoint,
        /// Bytes of the payload that came.
        got: u64,
        /// Bytes announced.
        want: u64,
        /// How long that took.
        after: Duration,
    },
    /// Bytes that are no frame of this protocol.
    Frame {
        /// Who sent it.
        peer: Endpoint,
        /// What is wrong with it.
        source: FrameError,
    },
    /// A frame that was already received.
    Replayed {
        /// Who sent it.
        peer: Endpoint,
        /// Its sequence number.
        number: u32,
    },
    /// A frame from the future: one before it is missing.
    OutOfOrder {
        /// Who sent it.
        peer: Endpoint,
        /// Its sequence number.
        got: u32,
        /// The expected one.
        want: u32,
    },
    /// The frame belongs to another step: the peer runs a different program.
    WrongStep {
        /// Who sent it.
        peer: Endpoint,
    },
    /// The payload is not as long as this step needs.
    Length {
        /// Who sent it.
        peer: Endpoint,
        /// Bytes announced.
        got: u64,
        /// Bytes expected.
        want: u64,
    },
    /// No link to that endpoint exists in this session.
    NotConnected {
        /// Who was addressed.
        peer: Endpoint,
    },
    /// The system starts no more threads.
    Thread {
        /// Whose connection needs one.
        peer: Endpoint,
        /// What the system said.
        why: String,
    },
}

impl NetError {
    /// The peer at fault.
    #[must_use]
    pub fn peer(&self) -> Endpoint {
        match self {
            Self::PeerLost { peer, .. }
            | Self::Timeout { peer, .. }
            | Self::Slow { peer, .. }
            | Self::Frame { peer, .. }
            | Self::Replayed { peer, .. }
            | Self::OutOfOrder { peer, .. }
            | Self::WrongStep { peer }
            | Self::Length { peer, .. }
            | Self::NotConnected { peer }
            | Self::Thread { peer, .. } => *peer,
        }
    }

    /// True when the peer is there and does not get on: likelier the cause of a failed session than whoever is gone.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Slow { .. })
    }

    /// One sentence in which the peer has this name.
    #[must_use]
    pub fn sentence(&self, peer: &str) -> String {
        match self {
            Self::PeerLost { why, .. } => format!("lost {peer}: {why}"),
            Self::Timeout { after, .. } => format!("{peer} sent nothing for {} seconds", after.as_secs_f32()),
            Self::Slow { got, want, after, .. } => {
                format!("{peer} sent {got} of {want} bytes in {} seconds, which is too slow", after.as_secs_f32())
            }
            Self::Frame { source, .. } => format!("{peer} sent an invalid frame: {source}"),
            Self::Replayed { number, .. } => format!("{peer} replayed message {number}"),
            Self::OutOfOrder { got, want, .. } => format!("{peer} sent message {got} where {want} was next"),
            Self::WrongStep { .. } => format!("{peer} is at a different step of the computation"),
            Self::Length { got, want, .. } => format!("{peer} sent {got} bytes where this step needs {want}"),
            Self::NotConnected { .. } => format!("there is no connection to {peer}"),
            Self::Thread { why, .. } => format!("no thread can be started for the connection to {peer}: {why}"),
        }
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&self.peer().to_string()))
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Frame { source, .. } => Some(source),
            _ => None,
        }
    }
}
