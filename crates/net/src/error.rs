//! What can go wrong between endpoints, and whose fault it is.

use crate::{Endpoint, FrameError};
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, NetError>;

/// A failure of communication. Ends the session: nothing is retried with the same randomness.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The peer closed its connection or its machine is unreachable.
    #[error("lost {peer}: {why}")]
    PeerLost {
        /// Who is gone.
        peer: Endpoint,
        /// What the transport said.
        why: String,
    },
    /// The peer is connected but nothing came within the deadline.
    #[error("{peer} sent nothing for {} seconds", after.as_secs_f32())]
    Timeout {
        /// Who is silent.
        peer: Endpoint,
        /// The deadline that passed.
        after: Duration,
    },
    /// Bytes that are no frame of this protocol.
    #[error("{peer} sent an invalid frame: {source}")]
    Frame {
        /// Who sent it.
        peer: Endpoint,
        /// What is wrong with it.
        source: FrameError,
    },
    /// A frame that was already received.
    #[error("{peer} replayed message {number}")]
    Replayed {
        /// Who sent it.
        peer: Endpoint,
        /// Its sequence number.
        number: u32,
    },
    /// A frame from the future: one before it is missing.
    #[error("{peer} sent message {got} where {want} was next")]
    OutOfOrder {
        /// Who sent it.
        peer: Endpoint,
        /// Its sequence number.
        got: u32,
        /// The expected one.
        want: u32,
    },
    /// The frame belongs to another step: the peer runs a different program.
    #[error("{peer} is at a different step of the computation")]
    WrongStep {
        /// Who sent it.
        peer: Endpoint,
    },
    /// The payload is not as long as this step needs.
    #[error("{peer} sent {got} bytes where this step needs {want}")]
    Length {
        /// Who sent it.
        peer: Endpoint,
        /// Bytes announced.
        got: u64,
        /// Bytes expected.
        want: u64,
    },
    /// No link to that endpoint exists in this session.
    #[error("there is no connection to {peer}")]
    NotConnected {
        /// Who was addressed.
        peer: Endpoint,
    },
}
