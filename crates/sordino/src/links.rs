//! Links between processes, and making all of an end's connections.

use crate::tls::{ConnectError, Connection, Direction, Ends, accept_all};
use sha2::{Digest, Sha256};
use sordino_mpc::Topology;
use sordino_net::{Endpoint, LinkModel, Links, Net, NetError, Patience, StreamLink, StreamReceiver, StreamSender};
use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How an end connects to the others.
pub struct Connecting<'a> {
    /// Where those listen who compute. A party that computes and does not listen dials for both directions.
    pub addresses: &'a BTreeMap<u8, SocketAddr>,
    /// Shape of every link.
    pub link: LinkModel,
    /// How long to try.
    pub connect: Duration,
    /// How long an end that computes is then waited for. One that does not is waited for as long as a person or a large file
    /// takes.
    pub deadline: Duration,
    /// How long this end waits for those that compute, if that is longer.
    pub patience: Duration,
    /// Set from outside when there is no point in going on.
    pub stop: &'a AtomicBool,
}

/// First pause before dialling again; each is twice as long as the one before, up to half a second.
const PAUSE: Duration = Duration::from_millis(20);

impl Connecting<'_> {
    /// Dials until it works or this moment has come.
    fn dial(
        &self,
        ends: &Ends,
        (peer, direction): (Endpoint, Direction),
        until: Instant,
    ) -> Result<Connection, ConnectError> {
        let name = || ends.topology().name(peer);
        let Some(&address) = self.addresses.get(&peer.0) else {
            return Err(ConnectError::Unexpected { peer: name() });
        };
        let mut pause = PAUSE;
        loop {
            match ends.dial(peer, address, direction) {
                Err(e) if e.may_pass() && Instant::now() + pause < until => {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(ConnectError::Stopped { peer: name() });
                    }
                    tracing::debug!("dialling again: {e}");
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(500));
                }
                other => return other,
            }
        }
    }

    /// How long this end waits for a peer.
    fn patience_for(&self, ends: &Ends, peer: Endpoint) -> Patience {
        let silence =
            if ends.topology().computes(peer) { self.deadline.max(self.patience) } else { crate::in_process::PATIENT };
        Patience::new(silence, self.deadline, self.link)
    }
}

/// Connects an end to all others: those that compute dial each other to send, owners dial them for both directions.
///
/// # Errors
/// [`ConnectError`].
pub fn connect(
    me: Endpoint,
    ends: &Ends,
    listener: Option<&TcpListener>,
    how: &Connecting<'_>,
) -> Result<Net, ConnectError> {
    let topology = ends.topology();
    let computing = || topology.computing().into_iter().filter(|&s| s != me);
    // All connections together take no longer than that.
    let until = Instant::now() + how.connect;
    let connections: Vec<Connection> = match listener {
        None => computing()
            .flat_map(|peer| [Direction::Send, Direction::Receive].map(|direction| (peer, direction)))
            .map(|to| how.dial(ends, to, until))
            .collect::<Result<_, _>>()?,
        Some(listener) => {
            let dials = |s: &Endpoint| !how.addresses.contains_key(&s.0);
            let mut expected: Vec<_> = computing().map(|s| (s, Direction::Send)).collect();
            let both = |o| [(o, Direction::Send), (o, Direction::Receive)];
            expected.extend(topology.owning().into_iter().flat_map(both));
            expected.extend(computing().filter(dials).map(|s| (s, Direction::Receive)));
            let stop = AtomicBool::new(false);
            // Accepting goes on while dialling: the others do the same.
            std::thread::scope(|scope| {
                let accepting = crate::threads::spawn(scope, "the listener", || {
                    let stopped = || stop.load(Ordering::Relaxed) || how.stop.load(Ordering::Relaxed);
                    accept_all(ends, listener, expected, how.connect, &stopped)
                });
                let broken = |why: String| ConnectError::Handshake { peer: "a peer".into(), why };
                let accepting = accepting.map_err(|e| broken(e.to_string()))?;
                let to = computing().filter(|s| !dials(s)).map(|peer| (peer, Direction::Send));
                let dialled: Result<Vec<_>, _> = to.map(|to| how.dial(ends, to, until)).collect();
                stop.store(dialled.is_err(), Ordering::Relaxed);
                let accepted = crate::threads::join(accepting).map_err(|e| broken(e.to_string()));
                let mut all = dialled?;
                all.extend(accepted??);
                Ok(all)
            })?
        }
    };
    Ok(Net::new(me, assemble(me, topology, connections, how.link, &|peer| how.patience_for(ends, peer))?))
}

/// What two connections of a pair of ends are bound to, whichever of them asks.
fn bound(me: Endpoint, peer: Endpoint, outgoing: &[u8; 32], incoming: &[u8; 32]) -> [u8; 32] {
    let (first, second) = if me < peer { (outgoing, incoming) } else { (incoming, outgoing) };
    Sha256::new().chain_update(b"sordino link").chain_update(first).chain_update(second).finalize().into()
}

/// Links over connections, of which there must be one for each direction and peer.
///
/// # Errors
/// When one of a peer's is missing, or the system has no thread for it.
pub fn assemble(
    me: Endpoint,
    topology: &Topology,
    connections: Vec<Connection>,
    link: LinkModel,
    patience: &dyn Fn(Endpoint) -> Patience,
) -> Result<Links, ConnectError> {
    let mut halves: BTreeMap<Endpoint, (Option<Connection>, Option<Connection>)> = BTreeMap::new();
    for connection in connections {
        let half = halves.entry(connection.peer).or_default();
        // What a dialler sends, the accepter receives.
        let outgoing = (connection.direction == Direction::Send) != connection.accepted;
        if outgoing { half.0 = Some(connection) } else { half.1 = Some(connection) }
    }
    let mut links: Links = vec![];
    for (peer, half) in halves {
        let (Some(out), Some(incoming)) = half else {
            return Err(ConnectError::Unexpected { peer: topology.name(peer) });
        };
        let patience = patience(peer);
        let thread = |e: NetError| ConnectError::Handshake { peer: topology.name(peer), why: e.to_string() };
        let binding = bound(me, peer, &out.binding, &incoming.binding);
        let sockets = [out.socket, incoming.socket];
        let close = move || {
            for socket in &sockets {
                // It may be closed already.
                let _ = socket.shutdown(Shutdown::Both);
            }
        };
        let link = StreamLink {
            out: StreamSender::new(peer, out.stream, link, patience).map_err(thread)?,
            incoming: StreamReceiver::new(peer, incoming.stream, patience),
            wire: out.wire,
            close: Box::new(close),
            binding,
        };
        links.push((peer, Box::new(link)));
    }
    Ok(links)
}
