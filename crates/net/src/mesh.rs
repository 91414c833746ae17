//! One endpoint's view of the others: order, names and counts.

use crate::{Activity, Endpoint, Frame, Header, Message, Meter, NetError, Result, Segment, Tag, Timeline};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Moves frames between two endpoints, both ways, in order.
pub trait Link: Send + Sync {
    /// Hands a frame over; may return before it has left.
    ///
    /// # Errors
    /// When the peer is gone.
    fn send(&self, frame: Frame) -> Result<()>;
    /// The next frame. A link that parses bytes gives the payload the expected form and refuses any other length
    /// before reading it.
    ///
    /// # Errors
    /// When the peer is gone or silent, or sent something else.
    fn recv(&self, expect: &[Segment]) -> Result<Frame>;
    /// The next frame, where it is known which one it is: for a link that holds what was sent before the step had its name.
    ///
    /// # Errors
    /// As [`Link::recv`].
    fn recv_named(&self, _tag: Tag, _number: u32, expect: &[Segment]) -> Result<Frame> {
        self.recv(expect)
    }
    /// Bytes handed to the network so far.
    fn wire(&self) -> u64;
    /// What both ends of an authenticated channel, and nobody else, can know of it. Zeros where there is no such channel.
    fn binding(&self) -> [u8; 32] {
        [0; 32]
    }
    /// Gives up at once: nothing queued is sent any more, and whoever waits on the link stops waiting.
    fn abort(&self) {}
}

/// An endpoint's links, with whom each leads to.
pub type Links = Vec<(Endpoint, Box<dyn Link>)>;

struct Peer {
    link: Box<dyn Link>,
    next_out: AtomicU32,
    next_in: AtomicU32,
}

/// The transport of one endpoint in one session.
pub struct Net {
    me: Endpoint,
    peers: BTreeMap<Endpoint, Peer>,
    depth: AtomicU32,
    timeline: Timeline,
    sent: Mutex<Meter>,
}

impl Net {
    /// An endpoint with its links.
    #[must_use]
    pub fn new(me: Endpoint, links: impl IntoIterator<Item = (Endpoint, Box<dyn Link>)>) -> Self {
        let peer = |link| Peer { link, next_out: AtomicU32::new(0), next_in: AtomicU32::new(0) };
        Self {
            me,
            peers: links.into_iter().map(|(e, l)| (e, peer(l))).collect(),
            depth: AtomicU32::new(0),
            timeline: Timeline::default(),
            sent: Mutex::new(Meter::default()),
        }
    }

    /// Who this is.
    #[must_use]
    pub fn me(&self) -> Endpoint {
        self.me
    }

    /// What a link is bound to: see [`Link::binding`].
    #[must_use]
    pub fn binding(&self, peer: Endpoint) -> [u8; 32] {
        self.peers.get(&peer).map_or([0; 32], |p| p.link.binding())
    }

    /// Where its time goes.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    fn peer(&self, peer: Endpoint) -> Result<&Peer> {
        self.peers.get(&peer).ok_or(NetError::NotConnected { peer })
    }

    /// Sends what a step has for a peer. Empty messages are sent too: every step then has the same dependencies at
    /// every size.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn send(&self, to: Endpoint, tag: Tag, message: Message) -> Result<()> {
        self.guard(self.try_send(to, tag, message))
    }

    /// Gives up: whoever waits on a link, here or at the other end, stops waiting, and nothing passes any more.
    pub fn abort(&self) {
        self.peers.values().for_each(|p| p.link.abort());
    }

    /// A failure ends the session: links are let go, so that none of them waits for a peer that reads nothing.
    fn guard<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn try_send(&self, to: Endpoint, tag: Tag, message: Message) -> Result<()> {
        let peer = self.peer(to)?;
        let payload = message.iter().map(|p| p.segment().bytes()).sum();
        let depth = self.depth.load(Ordering::Relaxed).saturating_add(1);
        let header = Header { tag, number: peer.next_out.fetch_add(1, Ordering::Relaxed), depth, payload };
        self.timeline.time(Activity::Send, || peer.link.send(Frame { header, message }))?;
        if let Ok(mut meter) = self.sent.lock() {
            let traffic = meter.sent.entry(to).or_default();
            traffic.payload += payload;
            traffic.messages += 1;
        }
        Ok(())
    }

    /// Receives what a step expects from a peer: the very next frame, of that step, of exactly that form.
    ///
    /// # Errors
    /// Any other frame, a lost or a silent peer.
    pub fn recv(&self, from: Endpoint, tag: Tag, expect: &[Segment]) -> Result<Message> {
        self.guard(self.try_recv(from, tag, expect))
    }

    fn try_recv(&self, from: Endpoint, tag: Tag, expect: &[Segment]) -> Result<Message> {
        let peer = self.peer(from)?;
        let want = peer.next_in.load(Ordering::Relaxed);
        let frame = self.timeline.time(Activity::Receive, || peer.link.recv_named(tag, want, expect))?;
        let got = frame.header.number;
        if got < want {
            return Err(NetError::Replayed { peer: from, number: got });
        }
        if got > want {
            return Err(NetError::OutOfOrder { peer: from, got, want });
        }
        if frame.header.tag != tag {
            return Err(NetError::WrongStep { peer: from });
        }
        let fits = frame.message.len() == expect.len()
            && frame.message.iter().zip(expect).all(|(part, &form)| part.segment() == form);
        if !fits {
            let want = expect.iter().map(|s| s.bytes()).sum();
            return Err(NetError::Length { peer: from, got: frame.header.payload, want });
        }
        peer.next_in.store(want + 1, Ordering::Relaxed);
        self.depth.fetch_max(frame.header.depth, Ordering::Relaxed);
        Ok(frame.message)
    }

    /// Starts counting chains and bytes anew.
    pub fn reset_meter(&self) {
        self.depth.store(0, Ordering::Relaxed);
        if let Ok(mut meter) = self.sent.lock() {
            *meter = Meter { wire: self.wire(), ..Meter::default() };
        }
    }

    fn wire(&self) -> u64 {
        self.peers.values().map(|p| p.link.wire()).sum()
    }

    /// What has been sent since the meter was reset.
    #[must_use]
    pub fn meter(&self) -> Meter {
        let mut meter = self.sent.lock().map(|m| m.clone()).unwrap_or_default();
        meter.wire = self.wire() - meter.wire;
        meter.rounds = self.depth.load(Ordering::Relaxed);
        meter.spent = self.timeline.spent();
        meter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkModel, Part, memory_links};
    use std::time::Duration;

    fn pair() -> (Net, Net, Box<dyn Link>) {
        let (a, b) = (Endpoint(0), Endpoint(1));
        let (ab, ba) = memory_links(a, b, LinkModel::UNLIMITED, Duration::from_millis(50));
        let (raw, other) = memory_links(a, Endpoint(2), LinkModel::UNLIMITED, Duration::from_millis(50));
        (Net::new(a, [(b, ab), (Endpoint(2), other)]), Net::new(b, [(a, ba)]), raw)
    }

    #[test]
    fn counts_and_chains() -> Result<()> {
        let (a, b, _) = pair();
        let (s, t) = (Tag([1; 16]), Tag([2; 16]));
        a.send(b.me(), s, vec![Part::Wide(vec![1, 2]), Part::Narrow(vec![3])])?;
        let got = b.recv(a.me(), s, &[Segment::Wide(2), Segment::Narrow(1)])?;
        assert!(got[0] == Part::Wide(vec![1, 2]));
        b.send(a.me(), t, vec![])?;
        a.recv(b.me(), t, &[])?;
        assert_eq!((a.meter().payload(), a.meter().rounds, b.meter().rounds), (20, 2, 1));
        Ok(())
    }

    #[test]
    fn refuses_anything_but_the_next_frame() -> Result<()> {
        let (a, b, _) = pair();
        let (s, t) = (Tag([1; 16]), Tag([2; 16]));
        a.send(b.me(), s, vec![Part::Wide(vec![1])])?;
        assert!(matches!(b.recv(a.me(), t, &[Segment::Wide(1)]), Err(NetError::WrongStep { .. })));
        a.send(b.me(), s, vec![Part::Wide(vec![1])])?;
        assert!(matches!(b.recv(a.me(), s, &[Segment::Wide(1)]), Err(NetError::OutOfOrder { got: 1, want: 0, .. })));
        assert!(matches!(b.recv(a.me(), s, &[]), Err(NetError::Timeout { .. })));
        let me = b.me();
        drop(b);
        assert!(matches!(a.send(me, s, vec![]), Err(NetError::PeerLost { .. })));
        assert!(matches!(a.send(Endpoint(9), s, vec![]), Err(NetError::NotConnected { .. })));
        Ok(())
    }

    #[test]
    fn refuses_replays_and_wrong_lengths() -> Result<()> {
        let (a, _b, raw) = pair();
        let s = Tag([1; 16]);
        let frame = |number| Frame {
            header: Header { tag: s, number, depth: 1, payload: 8 },
            message: vec![Part::Wide(vec![7])],
        };
        raw.send(frame(0))?;
        a.recv(Endpoint(2), s, &[Segment::Wide(1)])?;
        raw.send(frame(0))?;
        let replay = a.recv(Endpoint(2), s, &[Segment::Wide(1)]);
        assert!(matches!(replay, Err(NetError::Replayed { number: 0, .. })));
        raw.send(frame(1))?;
        let long = a.recv(Endpoint(2), s, &[Segment::Narrow(1)]);
        assert!(matches!(long, Err(NetError::Length { got: 8, want: 4, .. })));
        Ok(())
    }
}
