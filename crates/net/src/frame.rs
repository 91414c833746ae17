//! The frame: a fixed header that says what the payload is, then the payload.

/// Bytes of a header.
pub const HEADER_BYTES: usize = 40;
/// Largest payload accepted, in bytes: far above any layer, far below what would exhaust a machine.
pub const MAX_PAYLOAD: u64 = 1 << 34;

const MAGIC: [u8; 4] = *b"sor1";

/// Names the step of the computation a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 16]);

/// What precedes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Step of the computation.
    pub tag: Tag,
    /// Position in this direction's sequence, from zero.
    pub number: u32,
    /// Length of the longest chain of messages that ends with this one.
    pub depth: u32,
    /// Bytes that follow.
    pub payload: u64,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not start as a frame of this version does.
    #[error("it does not begin like a frame of this version")]
    Magic,
    /// It announces more than [`MAX_PAYLOAD`].
    #[error("it announces {0} bytes, more than the limit")]
    Oversized(u64),
    /// Reserved bytes are set.
    #[error("its reserved bytes are not zero")]
    Reserved,
}

impl Header {
    /// The wire form, little-endian: magic, number, depth, reserved, payload, tag.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..12].copy_from_slice(&self.depth.to_le_bytes());
        out[16..24].copy_from_slice(&self.payload.to_le_bytes());
        out[24..].copy_from_slice(&self.tag.0);
        out
    }

    /// Parses and checks a header; every accepted header encodes to the same bytes.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if word(12) != 0 {
            return Err(FrameError::Reserved);
        }
        let payload = u64::from(word(16)) | u64::from(word(20)) << 32;
        if payload > MAX_PAYLOAD {
            return Err(FrameError::Oversized(payload));
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&bytes[24..]);
        Ok(Self { tag: Tag(tag), number: word(4), depth: word(8), payload })
    }
}

/// A run of ring elements or bit planes within a message.
#[derive(Clone, PartialEq, Eq)]
pub enum Part {
    /// 32-bit words.
    Narrow(Vec<u32>),
    /// 64-bit words.
    Wide(Vec<u64>),
}

/// The expected form of a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// So many 32-bit words.
    Narrow(usize),
    /// So many 64-bit words.
    Wide(usize),
}

impl Segment {
    /// Bytes on the wire.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Narrow(n) => 4 * n as u64,
            Self::Wide(n) => 8 * n as u64,
        }
    }
}

impl Part {
    /// Its form.
    #[must_use]
    pub fn segment(&self) -> Segment {
        match self {
            Self::Narrow(v) => Segment::Narrow(v.len()),
            Self::Wide(v) => Segment::Wide(v.len()),
        }
    }
    /// Wide words that carry bytes, little-endian; zeros fill the last word.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut part = Self::zeroed(Segment::Wide(bytes.len().div_ceil(8)));
        part.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        part
    }
    /// Its bytes, little-endian.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Narrow(v) => bytemuck::cast_slice(v),
            Self::Wide(v) => bytemuck::cast_slice(v),
        }
    }
    /// As many bytes as its form has.
    ///
    /// # Errors
    /// Those of reading, also when there are fewer.
    pub fn read(form: Segment, from: &mut dyn std::io::Read) -> std::io::Result<Self> {
        let mut part = Self::zeroed(form);
        from.read_exact(part.bytes_mut())?;
        Ok(part)
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Narrow(v) => bytemuck::cast_slice_mut(v),
            Self::Wide(v) => bytemuck::cast_slice_mut(v),
        }
    }
    pub(crate) fn zeroed(form: Segment) -> Self {
        match form {
            Segment::Narrow(n) => Self::Narrow(vec![0; n]),
            Segment::Wide(n) => Self::Wide(vec![0; n]),
        }
    }
}

/// What one step sends to one peer. Has no `Debug`: payloads are shares.
pub type Message = Vec<Part>;

/// A header with its payload.
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The payload.
    pub message: Message,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(mut bytes in any::<[u8; HEADER_BYTES]>(), valid in any::<bool>()) {
            if valid {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[12..16].fill(0);
                bytes[20..24].fill(0);
            }
            match Header::decode(&bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(_) => prop_assert!(!valid),
            }
        }
    }

    #[test]
    fn refuses_oversized() {
        let header = Header { tag: Tag([1; 16]), number: 0, depth: 0, payload: MAX_PAYLOAD + 1 };
        assert_eq!(Header::decode(&header.encode()), Err(FrameError::Oversized(MAX_PAYLOAD + 1)));
    }
}
