//! Files at rest: encrypted and authenticated in pieces, so that they can be written and read as streams.
//!
//! A file's key is derived from the store's (HKDF-SHA-256, RFC 5869) with the file's id. Piece i is sealed by AES-256-GCM with i as its
//! nonce, and whether it is the last as associated data: pieces cannot be moved, dropped, or put into another file (the construction of STREAM, Hoang,
//! Reyhanitabar, Rogaway, Vizár, CRYPTO 2015). A key seals one file once.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, BufWriter, Read, Write};
use zeroize::Zeroizing;

/// Bytes of a piece before it is sealed.
const PIECE: usize = 1 << 16;
const TAG: usize = 16;
const MAGIC: &[u8; 8] = b"sordino1";

/// The key of a store. No `Debug`.
pub struct StoreKey(Zeroizing<[u8; 32]>);

struct Length;
impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl StoreKey {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// What tells one key from another, and nothing else of it.
    pub(crate) fn mark(&self) -> u64 {
        let digest = Sha256::new().chain_update(b"sordino store key").chain_update(*self.0).finalize();
        digest[..8].iter().fold(0, |mark, b| mark << 8 | u64::from(*b))
    }

    fn of_file(&self, id: Id) -> io::Result<LessSafeKey> {
        let broken = |_| io::Error::other("a key cannot be derived");
        let extracted = Salt::new(HKDF_SHA256, b"sordino store v1").extract(&*self.0);
        let info: [&[u8]; 1] = [&id.0];
        let mut key = Zeroizing::new([0; 32]);
        extracted.expand(&info, Length).and_then(|okm| okm.fill(&mut *key)).map_err(broken)?;
        UnboundKey::new(&AES_256_GCM, &*key).map(LessSafeKey::new).map_err(broken)
    }
}

/// The nonce of a piece.
fn nonce(piece: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&piece.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written.
pub(crate) struct Sealer<W: Write> {
    out: BufWriter<W>,
    key: LessSafeKey,
    piece: u64,
    held: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealer<W> {
    /// A file of this id, which must be fresh.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn new(out: W, key: &StoreKey, id: Id) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        out.write_all(MAGIC)?;
        Ok(Self { out, key: key.of_file(id)?, piece: 0, held: Zeroizing::new(Vec::with_capacity(PIECE + TAG)) })
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let aad = Aad::from([u8::from(last)]);
        let broken = |_| io::Error::other("a piece cannot be sealed");
        self.key.seal_in_place_append_tag(nonce(self.piece), aad, &mut *self.held).map_err(broken)?;
        self.piece += 1;
        self.out.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

    /// Seals the last piece, and gives back what was written to.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The last piece is sealed at the end, so a full one waits until more comes.
        if self.held.len() == PIECE {
            self.seal(false)?;
        }
        let n = bytes.len().min(PIECE - self.held.len());
        self.held.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what was sealed, and refuses anything else.
pub struct Opener {
    file: BufReader<Box<dyn Read + Send>>,
    id: Id,
    key: LessSafeKey,
    piece: u64,
    held: Zeroizing<Vec<u8>>,
    at: usize,
    /// The next sealed piece, and whether anything is behind it.
    next: Vec<u8>,
    over: bool,
}

impl Opener {
    /// The file of this id.
    ///
    /// # Errors
    /// When it was sealed by something else.
    pub fn new(file: Box<dyn Read + Send>, key: &StoreKey, id: Id) -> Result<Self> {
        let damaged = |e: io::Error| Fault::new(Blame::Internal, format!("file {id} of the store: {e}"));
        let mut file = BufReader::with_capacity(2 * PIECE, file);
        let mut magic = [0; 8];
        file.read_exact(&mut magic).map_err(damaged)?;
        if &magic != MAGIC {
            return Err(damaged(io::Error::other("it was written by something else")));
        }
        let key = key.of_file(id).map_err(damaged)?;
        let held = Zeroizing::new(vec![]);
        let mut opener = Self { file, id, key, piece: 0, held, at: 0, next: vec![], over: false };
        opener.next = opener.sealed().map_err(damaged)?;
        Ok(opener)
    }

    /// As much of a sealed piece as there is.
    fn sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(PIECE + TAG);
        (&mut self.file).take((PIECE + TAG) as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open(&mut self) -> io::Result<()> {
        let mut piece = Zeroizing::new(std::mem::take(&mut self.next));
        self.next = self.sealed()?;
        self.over = self.next.is_empty();
        let aad = Aad::from([u8::from(self.over)]);
        let opened = self.key.open_in_place(nonce(self.piece), aad, &mut piece).map(|plain| plain.len());
        let Ok(length) = opened else {
            let why = format!("file {}: piece {} is damaged, or sealed by another key", self.id, self.piece);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        piece.truncate(length);
        (self.held, self.at) = (piece, 0);
        self.piece += 1;
        Ok(())
    }
}

impl Read for Opener {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at == self.held.len() {
            if self.over {
                return Ok(0);
            }
            self.open()?;
        }
        let n = bytes.len().min(self.held.len() - self.at);
        bytes[..n].copy_from_slice(&self.held[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn key(byte: u8) -> StoreKey {
        StoreKey::new(Zeroizing::new([byte; 32]))
    }

    fn sealed(plain: &[u8], id: Id) -> Vec<u8> {
        let mut sealer = Sealer::new(vec![], &key(1), id).unwrap();
        sealer.write_all(plain).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(bytes: &[u8], key: &StoreKey, id: Id) -> std::result::Result<Vec<u8>, String> {
        let mut plain = vec![];
        let mut opener = Opener::new(Box::new(io::Cursor::new(bytes.to_vec())), key, id).map_err(|e| e.why)?;
        opener.read_to_end(&mut plain).map_err(|e| e.to_string())?;
        Ok(plain)
    }

    #[test]
    fn what_is_sealed_is_read_again_and_nothing_else() {
        let (id, other) = (Id([7; 16]), Id([8; 16]));
        for n in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5] {
            let plain: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
            let bytes = sealed(&plain, id);
            assert_eq!(opened(&bytes, &key(1), id).unwrap(), plain);
            assert!(opened(&bytes, &key(2), id).is_err() && opened(&bytes, &key(1), other).is_err());
            // Whatever is cut off, put on, or changed.
            for cut in [1, TAG, TAG + 1, bytes.len() / 2, bytes.len() - 8] {
                assert!(opened(&bytes[..bytes.len() - cut], &key(1), id).is_err(), "{n} bytes, {cut} cut off");
            }
            assert!(opened(&[&bytes[..], b"x"].concat(), &key(1), id).is_err());
            for at in [0, 8, bytes.len() / 2, bytes.len() - 1] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert!(opened(&flipped, &key(1), id).is_err(), "{n} bytes, byte {at} flipped");
            }
        }
    }

    #[test]
    fn pieces_have_their_places() {
        let id = Id([7; 16]);
        let plain = vec![5; 3 * PIECE];
        let mut bytes = sealed(&plain, id);
        let whole = PIECE + TAG;
        let (first, second) = bytes[8..8 + 2 * whole].split_at_mut(whole);
        first.swap_with_slice(second);
        assert!(opened(&bytes, &key(1), id).unwrap_err().contains("piece 0"));
        // The last piece alone is no whole file, and a file without its last piece has no end.
        let bytes = sealed(&plain, id);
        assert!(opened(&bytes[..8 + 2 * whole], &key(1), id).unwrap_err().contains("piece 1"));
    }
}
