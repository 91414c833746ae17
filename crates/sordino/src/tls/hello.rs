//! What a dialler says first, inside TLS.

use sordino_net::Endpoint;

/// Which way frames go on a connection, from the dialler's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The dialler sends.
    Send,
    /// The dialler receives.
    Receive,
}

/// A dialler's greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it claims to be; its certificate must agree.
    pub peer: Endpoint,
    /// Which way frames go.
    pub direction: Direction,
    /// Its session.
    pub session: [u8; 16],
}

const MAGIC: &[u8; 8] = b"sordino2";

impl Hello {
    /// The wire form: magic, role, direction, session.
    #[must_use]
    pub fn encode(&self) -> [u8; 26] {
        let mut out = [0; 26];
        out[..8].copy_from_slice(MAGIC);
        out[8] = self.peer.0;
        out[9] = u8::from(self.direction == Direction::Receive);
        out[10..].copy_from_slice(&self.session);
        out
    }

    /// Parses; whatever is accepted encodes to the same bytes. `None` for another version. Whether such an end exists is
    /// for the session to say.
    #[must_use]
    pub fn decode(bytes: &[u8; 26]) -> Option<Self> {
        let direction = match bytes[9] {
            0 => Direction::Send,
            1 => Direction::Receive,
            _ => return None,
        };
        if bytes[..8] != *MAGIC {
            return None;
        }
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[10..]);
        Some(Self { peer: Endpoint(bytes[8]), direction, session })
    }
}
