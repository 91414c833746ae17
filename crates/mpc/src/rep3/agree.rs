//! Servers that hold copies of the same component compare hashes of them, and the receiver compares what is opened with
//! hashes that the other holders send. A single server that deviates, or an owner whose shares do not fit together, cannot
//! make the copies of two honest ends differ unnoticed in these places.

use super::engine::Rep3;
use super::share::{Data, Shared};
use crate::{Error, Result, Step};
use sha2::{Digest, Sha256};
use sordino_net::{Endpoint, Part, Segment};
use sordino_ring::Device;

/// Words of a hash on the wire.
pub(crate) const HASH: Segment = Segment::Wide(4);

fn as_part(hash: impl AsRef<[u8]>) -> Part {
    Part::of_bytes(hash.as_ref())
}

/// What a server says of a component that is opened: of the message that the next server sends.
pub(crate) fn opened(at: &Step, message: &Part) -> Part {
    as_part(
        Sha256::new().chain_update(b"sordino opened").chain_update(at.name()).chain_update(message.bytes()).finalize(),
    )
}

/// Hashes of what owners sent since copies were last compared: of the component that the previous server holds too, and of
/// the one that the next server holds.
#[derive(Clone, Default)]
pub(crate) struct Received([Sha256; 2]);

impl Received {
    /// Takes in the two parts of an owner's message.
    pub(crate) fn add(&mut self, message: &[Part]) {
        for (hash, part) in self.0.iter_mut().zip(message) {
            hash.update((part.bytes().len() as u64).to_le_bytes());
            hash.update(part.bytes());
        }
    }
}

impl<D: Device> Rep3<D> {
    /// Compares hashes of everything that owners sent since the last comparison, and of these tensors, with both
    /// neighbours: 64 bytes a server, one round.
    pub(crate) fn agree_shared(&self, at: &Step, tensors: &[&Shared<D>]) -> Result<()> {
        let mut hashes = match self.received.lock() {
            Ok(mut received) => std::mem::take(&mut *received).0,
            Err(_) => return Err(Error::Usage("a part of this server has stopped".into())),
        };
        for x in tensors {
            let components = match &*x.data {
                Data::Narrow(p) => [&p.0, &p.1].map(|c| self.outgoing(self.dev.copy(c), self.settings.narrow_bits)),
                Data::Wide(p) => [&p.0, &p.1].map(|c| self.outgoing(self.dev.copy(c), self.settings.wide_bits)),
            };
            for (hash, component) in hashes.iter_mut().zip(components) {
                hash.update(component?.bytes());
            }
        }
        // What each says differs by who says it: nobody can send a hash back as its own.
        let said = |copy: usize, by: usize| {
            as_part(Sha256::new().chain_update([by as u8]).chain_update(hashes[copy].clone().finalize()).finalize())
        };
        let peers = [(0, self.prev()), (1, self.next())];
        for (copy, peer) in peers {
            self.send(peer, at, "agree", vec![said(copy, self.me)])?;
        }
        for (copy, peer) in peers {
            if self.recv(peer, at, "agree", &[HASH])? != [said(copy, peer)] {
                let peers = [self.me, peer].map(|i| Endpoint(i as u8));
                return Err(Error::Inconsistent { peers, what: "shares that should be copies" });
            }
        }
        Ok(())
    }
}
