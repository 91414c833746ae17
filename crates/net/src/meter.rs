//! Counting what leaves an endpoint.

use crate::{Endpoint, Spent};
use std::collections::BTreeMap;

/// Bytes and messages sent to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of shares.
    pub payload: u64,
    /// Frames.
    pub messages: u64,
}

/// What an endpoint has sent so far, and how long the longest chain of dependent messages known to it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// By peer.
    pub sent: BTreeMap<Endpoint, Traffic>,
    /// Bytes handed to the network: payload, headers, and encryption where the link has it.
    pub wire: u64,
    /// Longest chain of dependent messages.
    pub rounds: u32,
    /// Where the time since the endpoint began went.
    pub spent: Spent,
}

impl Meter {
    /// Payload bytes to all peers.
    #[must_use]
    pub fn payload(&self) -> u64 {
        self.sent.values().map(|t| t.payload).sum()
    }
    /// Frames to all peers.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.sent.values().map(|t| t.messages).sum()
    }
}
