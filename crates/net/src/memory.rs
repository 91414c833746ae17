//! Links within one process: frames move, nothing is copied.

use crate::{Endpoint, Frame, HEADER_BYTES, Link, LinkModel, NetError, Result, Segment, Shaper};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Memory {
    peer: Endpoint,
    out: Sender<(Instant, Frame)>,
    incoming: Receiver<(Instant, Frame)>,
    shaper: Mutex<Shaper>,
    deadline: Duration,
    wire: AtomicU64,
}

/// A pair of linked ends between `a` and `b`; the first is `a`'s link to `b`.
#[must_use]
pub fn memory_links(a: Endpoint, b: Endpoint, model: LinkModel, deadline: Duration) -> (Box<dyn Link>, Box<dyn Link>) {
    let (to_b, from_a) = unbounded();
    let (to_a, from_b) = unbounded();
    let end = |peer, out, incoming| -> Box<dyn Link> {
        Box::new(Memory {
            peer,
            out,
            incoming,
            shaper: Mutex::new(Shaper::new(model)),
            deadline,
            wire: AtomicU64::new(0),
        })
    };
    (end(b, to_b, from_b), end(a, to_a, from_a))
}

impl Link for Memory {
    fn send(&self, frame: Frame) -> Result<()> {
        let bytes = HEADER_BYTES as u64 + frame.header.payload;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        let at = match self.shaper.lock() {
            Ok(mut shaper) => shaper.deliver(Instant::now(), bytes).1,
            Err(_) => Instant::now(),
        };
        self.out.send((at, frame)).map_err(|_| self.lost())
    }

    fn recv(&self, _expect: &[Segment]) -> Result<Frame> {
        let (at, frame) = self.incoming.recv_timeout(self.deadline).map_err(|e| match e {
            RecvTimeoutError::Timeout => NetError::Timeout { peer: self.peer, after: self.deadline },
            RecvTimeoutError::Disconnected => self.lost(),
        })?;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        Ok(frame)
    }

    fn wire(&self) -> u64 {
        self.wire.load(Ordering::Relaxed)
    }
}

impl Memory {
    fn lost(&self) -> NetError {
        NetError::PeerLost { peer: self.peer, why: "it has stopped".into() }
    }
}
