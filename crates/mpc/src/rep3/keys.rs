//! Key agreement and pseudo-random secret sharing (Cramer, Damgård, Ishai, TCC 2005).

use crate::{Entropy, Error, Result, Step};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sordino_net::{Endpoint, Net, Part, Segment};
use sordino_ring::PrgKey;
use std::collections::HashSet;
use std::sync::Mutex;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What the servers of a session must agree on before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Fresh for every session.
    pub session: [u8; 16],
    /// Hash of the compiled program.
    pub program: [u8; 32],
}

impl SessionInfo {
    /// What a party says of itself first: the version of its protocol (1 word), the session (2), the program (4).
    pub(crate) fn hello(&self, version: u64) -> Vec<Part> {
        vec![Part::Wide(vec![version]), Part::of_bytes(&self.session), Part::of_bytes(&self.program)]
    }

    /// Whether a peer's first message begins as this party's does.
    ///
    /// # Errors
    /// [`Error::Incompatible`] names the peer and what differs.
    pub(crate) fn meets(&self, version: u64, peer: Endpoint, theirs: &[Part]) -> Result<()> {
        for ((part, want), what) in theirs.iter().zip(self.hello(version)).zip(["version", "session", "program"]) {
            if *part != want {
                return Err(Error::Incompatible { peer, what });
            }
        }
        Ok(())
    }
}

const VERSION: u64 = 5;

#[derive(Zeroize, ZeroizeOnDrop)]
struct Key([u8; 32]);

/// Which of a server's two keys: the one shared with the server before it, or with the one after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Prev,
    Next,
}

/// The keys one server shares with each of its peers in one session. No `Debug`, no `Clone`.
///
/// Server i shares K_i with server i-1 and K_{i+1} with server i+1, and one key with both. Streams are named by step, purpose and part; a
/// name is derived once.
pub struct Prss {
    prev: Key,
    next: Key,
    /// Known to all three servers, and to nobody else.
    common: Key,
    used: Mutex<Used>,
}

/// The streams that one part of the session (a run) has drawn. Names of different parts differ, so an earlier part's need not
/// be kept: nothing of it is drawn any more.
#[derive(Default)]
struct Used {
    part: u64,
    streams: HashSet<[u8; 16]>,
}

impl Used {
    /// Whether a stream is drawn for the first time, and by the part that is running.
    fn insert(&mut self, part: u64, stream: [u8; 16]) -> bool {
        if part > self.part {
            self.part = part;
            self.streams.clear();
        }
        part == self.part && self.streams.insert(stream)
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    // HMAC takes keys of any length.
    #[expect(clippy::expect_used, reason = "no key length is invalid")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

impl Prss {
    /// The stream key for one purpose at one step, for one part of a tensor.
    ///
    /// # Panics
    /// When the same stream is asked for twice, or by a part of the session that is over: that would reuse a mask, so
    /// nothing may go on.
    pub(crate) fn stream(&self, side: Side, at: &Step, purpose: &str, part: usize) -> PrgKey {
        let key = match side {
            Side::Prev => &self.prev,
            Side::Next => &self.next,
        };
        let bytes = mac(&key.0, &[at.name(), purpose.as_bytes(), &[part as u8]]);
        // The second half names the stream in the set of used ones; the first is its key.
        self.draw(at, &bytes);
        let mut half = Zeroizing::new([0; 16]);
        half.copy_from_slice(&bytes[..16]);
        PrgKey::new(*half)
    }

    /// A number that all three servers know and owners do not; not zero.
    ///
    /// # Panics
    /// When the same number is asked for twice, as for [`Prss::stream`].
    pub(crate) fn common(&self, at: &Step, purpose: &str) -> u64 {
        let bytes = mac(&self.common.0, &[at.name(), purpose.as_bytes()]);
        self.draw(at, &bytes);
        bytes.iter().take(8).fold(0, |v, &b| v << 8 | u64::from(b)).max(1)
    }

    /// Takes note of a stream by the second half of its bytes.
    fn draw(&self, at: &Step, bytes: &[u8; 32]) {
        let mut half = [0; 16];
        half.copy_from_slice(&bytes[16..]);
        let fresh = self.used.lock().is_ok_and(|mut used| used.insert(at.part(), half));
        assert!(fresh, "a random stream was asked for twice");
    }
}

/// Agrees on fresh keys: each pair of servers exchanges 32 random bytes over their (authenticated, encrypted) link and
/// derives its key from both halves, the pair's ids, the session, the program and what their channel is bound to, by HMAC-SHA-256 in
/// extract-then-expand form (RFC 5869); so do all three, of 32 more bytes that each tells both others. Two messages per server, one round;
/// the meter starts counting afterwards.
///
/// # Errors
/// Lost peers; peers with another version, session or program.
pub fn establish(net: &Net, info: &SessionInfo, entropy: &dyn Entropy) -> Result<Prss> {
    let me = net.me();
    let mut at = Step::root(info.session);
    let tag = at.child("keys").tag("hello");
    let peers = [Endpoint((me.0 + 2) % 3), Endpoint((me.0 + 1) % 3)];
    let mut own = Zeroizing::new([[0u8; 32]; 2]);
    let mut contributions = Zeroizing::new([[0u8; 32]; 3]);
    entropy.fill(&mut contributions[usize::from(me.0)])?;
    for (random, peer) in own.iter_mut().zip(peers) {
        entropy.fill(random)?;
        let mut hello = info.hello(VERSION);
        hello.push(Part::of_bytes(random));
        hello.push(Part::of_bytes(&contributions[usize::from(me.0)]));
        net.send(peer, tag, hello)?;
    }
    let mut keys = Vec::with_capacity(2);
    for (random, peer) in own.iter().zip(peers) {
        let form = [Segment::Wide(1), Segment::Wide(2), Segment::Wide(4), Segment::Wide(4), Segment::Wide(4)];
        let hello = net.recv(peer, tag, &form)?;
        info.meets(VERSION, peer, &hello)?;
        contributions[usize::from(peer.0)].copy_from_slice(hello[4].bytes());
        let theirs = hello[3].bytes();
        let (first, second) = if me < peer { (&random[..], theirs) } else { (theirs, &random[..]) };
        let extracted = mac(b"sordino prss v2", &[first, second]);
        let ids = [me.0.min(peer.0), me.0.max(peer.0)];
        keys.push(Key(*mac(&*extracted, &[&ids, &info.session, &info.program, &net.binding(peer)])));
        for part in hello {
            if let Part::Wide(mut words) = part {
                words.zeroize();
            }
        }
    }
    let extracted = mac(b"sordino common", &[&contributions[0], &contributions[1], &contributions[2]]);
    let common = Key(*mac(&*extracted, &[&info.session, &info.program]));
    net.reset_meter();
    let (Some(next), Some(prev)) = (keys.pop(), keys.pop()) else { return Err(Error::Randomness) };
    Ok(Prss { prev, next, common, used: Mutex::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_pair_keys(server: usize, keys: &[[u8; 32]; 3]) -> Prss {
        Prss {
            prev: Key(keys[server]),
            next: Key(keys[(server + 1) % 3]),
            common: Key([9; 32]),
            used: Mutex::default(),
        }
    }

    #[test]
    fn neighbours_agree_and_streams_differ() {
        let keys = [[1; 32], [2; 32], [3; 32]];
        let prss: Vec<Prss> = (0..3).map(|i| from_pair_keys(i, &keys)).collect();
        let at = Step::root([0; 16]);
        let words = |k: PrgKey| k.words::<u64>(2);
        let a = words(prss[0].stream(Side::Next, &at, "x", 1));
        assert_eq!(a, words(prss[1].stream(Side::Prev, &at, "x", 1)));
        assert_ne!(a, words(prss[1].stream(Side::Prev, &at, "y", 1)));
        assert_ne!(a, words(prss[1].stream(Side::Prev, &at, "x", 2)));
        assert_ne!(a, words(prss[1].stream(Side::Next, &at, "x", 1)));
    }

    #[test]
    fn a_part_that_is_over_is_forgotten_and_draws_nothing() {
        let mut used = Used::default();
        assert!(used.insert(1, [1; 16]) && used.insert(1, [2; 16]) && !used.insert(1, [1; 16]));
        assert!(used.insert(2, [3; 16]));
        assert_eq!(used.streams.len(), 1);
        assert!(!used.insert(1, [4; 16]) && !used.insert(2, [3; 16]));
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_stream_is_given_once() {
        let prss = from_pair_keys(0, &[[1; 32], [2; 32], [3; 32]]);
        let at = Step::root([0; 16]);
        let _ = prss.stream(Side::Next, &at, "x", 0);
        let _ = prss.stream(Side::Next, &at, "x", 0);
    }
}
