//! Frames, meters and transports between the endpoints of a protocol.
//!
//! A [`Net`] is one endpoint's view of the others. It carries typed [`Message`]s over [`Link`]s, names each with the
//! step it belongs to, refuses anything but the next expected frame, and counts every byte and the longest chain of
//! dependent messages. Links move frames: in memory ([`memory_links`]) or over any pair of byte streams
//! ([`StreamSender`], [`StreamReceiver`], with a [`Wire`] at the bottom); authentication and encryption are the stream's business.
//!
//! This crate knows nothing of shares, models, or how many parties there are; of sockets only what [`Socket`] asks for.

mod error;
mod frame;
mod memory;
mod mesh;
mod meter;
mod shape;
mod stream;
mod sync;
mod timeline;
mod wire;

pub use error::{NetError, Result};
pub use frame::{Frame, FrameError, HEADER_BYTES, Header, MAX_PAYLOAD, Message, Part, Segment, Tag};
pub use memory::memory_links;
pub use mesh::{Link, Links, Net};
pub use meter::{Meter, Traffic};
pub use shape::{LinkModel, Shaper};
pub use stream::{Outgoing, Patience, StreamLink, StreamReceiver, StreamSender};
pub use timeline::{Activity, Span, Spent, Timeline};
pub use wire::{Socket, Wire};

use std::fmt;

/// One end of a session. Ends are numbered; what each of them is, and its name, is known above this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Endpoint(pub u8);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end {}", self.0)
    }
}
