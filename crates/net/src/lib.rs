//! Frames, meters and transports between the endpoints of a protocol.
//!
//! A [`Net`] is one endpoint's view of the others. It carries typed [`Message`]s over [`Link`]s, names each with the
//! step it belongs to, refuses anything but the next expected frame, and counts every byte and the longest chain of
//! dependent messages. Links move frames: in memory ([`memory_links`]) or over any pair of byte streams
//! ([`StreamSender`], [`StreamReceiver`]); authentication and encryption are the stream's business.
//!
//! This crate knows nothing of shares, models or sockets.

mod error;
mod frame;
mod memory;
mod mesh;
mod meter;
mod shape;
mod stream;
mod timeline;

pub use error::{NetError, Result};
pub use frame::{Frame, FrameError, HEADER_BYTES, Header, MAX_PAYLOAD, Message, Part, Segment, Tag};
pub use memory::memory_links;
pub use mesh::{Link, Net};
pub use meter::{Meter, Traffic};
pub use shape::{LinkModel, Shaper};
pub use stream::{CountedWriter, StreamReceiver, StreamSender};
pub use timeline::{Activity, Span, Spent, Timeline};

use std::fmt;

/// A machine taking part: servers are 0, 1 and 2; whoever provides inputs and receives outputs is 3; further owners of
/// data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(pub u8);

impl Endpoint {
    /// The data and model owner's endpoint.
    pub const CLIENT: Self = Self(3);
    /// The three servers.
    pub const SERVERS: [Self; 3] = [Self(0), Self(1), Self(2)];

    /// True for a computing server.
    #[must_use]
    pub fn is_server(self) -> bool {
        self.0 < 3
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..=2 => write!(f, "server {}", self.0),
            3 => write!(f, "the client"),
            n => write!(f, "data owner {}", n - 2),
        }
    }
}
