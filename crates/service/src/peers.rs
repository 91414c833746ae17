//! The port for the other two servers: who dials, for which session, and making a session's links.

use crate::config::Server;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::shares::PARTIES;
use sordino::links::assemble;
use sordino::tls::{ConnectError, Connection, Direction, Ends, Identity, Refusal};
use sordino_mpc::Topology;
use sordino_net::{Endpoint, LinkModel, Links, Patience};
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, mpsc};
use std::time::{Duration, Instant};

/// Handshakes at the same time, at most. When another connection comes, the oldest gives way.
const MOST: usize = 32;
/// First pause before dialling again; each is twice as long as the one before, up to half a second.
const PAUSE: Duration = Duration::from_millis(5);

/// Patience with a peer that is asked whether it is there.
const PROBE: Duration = Duration::from_millis(500);

/// Connections that a session still waits for.
struct Expected {
    places: Vec<Endpoint>,
    arrived: mpsc::Sender<Connection>,
}

/// A session whose connections are being made.
pub(crate) struct Meeting {
    session: Id,
    arrivals: mpsc::Receiver<Connection>,
}

impl Meeting {
    pub(crate) fn session(&self) -> Id {
        self.session
    }
}

/// A handshake that runs.
struct Handshake {
    number: u64,
    socket: TcpStream,
    /// It has its place, and must not give way any more.
    placed: Arc<AtomicBool>,
}

/// This server among the three.
pub(crate) struct Peers {
    me: Endpoint,
    addresses: [SocketAddr; PARTIES],
    deadline: Duration,
    link: LinkModel,
    identity: RwLock<Arc<Identity>>,
    revoked: Vec<String>,
    sessions: Mutex<HashMap<Id, Expected>>,
    stopping: AtomicBool,
}

fn topology() -> Topology {
    Topology::three(1)
}

/// A name for an end of a session, in sentences.
pub(crate) fn name(end: Endpoint) -> String {
    topology().name(end)
}

/// What happened to a connection, and whose fault it is.
fn of_connect(e: &ConnectError) -> Fault {
    let kind = match e {
        ConnectError::UnknownAuthority { .. } | ConnectError::Expired { .. } | ConnectError::WrongRole { .. } => {
            Blame::PeerMisbehaved
        }
        _ => Blame::PeerLost,
    };
    // Where servers are is for the log; clients are told less.
    match e {
        ConnectError::Unreachable { peer, .. } => {
            tracing::warn!("{e}");
            Fault::new(kind, format!("{peer} cannot be reached"))
        }
        e => Fault::new(kind, e.to_string()),
    }
}

impl Peers {
    pub(crate) fn new(config: &Server, identity: Identity) -> Result<Self> {
        let mut addresses = vec![];
        for (i, text) in config.servers.iter().enumerate() {
            addresses.push(crate::config::address(text).map_err(|e| e.at(&format!("servers[{i}]")))?);
        }
        let addresses = addresses.try_into().map_err(|_| Fault::usage("servers are three"))?;
        Ok(Self {
            me: Endpoint(config.party as u8),
            addresses,
            deadline: config.deadline(),
            link: config.link(),
            identity: RwLock::new(Arc::new(identity)),
            revoked: config.policy.revoked.clone(),
            sessions: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Id, Expected>> {
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The other two.
    pub(crate) fn others(&self) -> [Endpoint; 2] {
        [1, 2].map(|k| Endpoint((self.me.0 + k) % PARTIES as u8))
    }

    /// Whether a peer answers at all, within this time.
    fn answers(&self, peer: Endpoint) -> bool {
        let identity = self.identity.read().map(|i| Arc::clone(&i));
        let ends = identity.map(|i| Ends::new(self.me, topology(), &i, [0; 16], PROBE));
        // Nobody awaits this direction of anybody: a server that is there refuses it.
        let Ok(Ok(ends)) = ends else { return true };
        match ends.dial(peer, self.addresses[usize::from(peer.0)], Direction::Receive) {
            Ok(_) => true,
            Err(e) => !matches!(e, ConnectError::Unreachable { .. }) && !e.may_pass(),
        }
    }

    /// A fault with the server whose fault it is. One that waits for another is lost to the third as well, which cannot know which of them it was: so both
    /// are asked, and the one that does not answer is named, if it is just one.
    pub(crate) fn traced(&self, fault: Fault) -> Fault {
        if fault.kind != Blame::PeerLost || self.stopping.load(Ordering::Relaxed) {
            return fault;
        }
        let others = self.others();
        let answers = std::thread::scope(|scope| {
            let asked = others.map(|peer| {
                std::thread::Builder::new().name("a question".into()).spawn_scoped(scope, move || self.answers(peer))
            });
            asked.map(|asked| asked.ok().and_then(|a| a.join().ok()).unwrap_or(true))
        });
        let [silent, well] = match answers {
            [false, true] => others,
            [true, false] => [others[1], others[0]],
            _ => return fault,
        };
        // What is said of the right one says more.
        if !fault.why.contains(&name(well)) || fault.why.contains(&name(silent)) {
            return fault;
        }
        Fault::new(Blame::PeerLost, format!("{} does not answer", name(silent)))
    }

    /// Another certificate from now on.
    pub(crate) fn renew(&self, identity: Identity) {
        if let Ok(mut held) = self.identity.write() {
            *held = Arc::new(identity);
        }
    }

    /// When the certificate expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> Option<u64> {
        self.identity.read().ok()?.expires()
    }

    fn ends(&self, session: Id) -> Result<Ends> {
        let identity = self.identity.read().map(|i| Arc::clone(&i)).map_err(|e| Fault::internal("identity", &e))?;
        Ends::new(self.me, topology(), &identity, session.0, self.deadline)
            .map_err(|e| Fault::internal("the certificate cannot be used", &e))
    }

    /// Expects the others' connections for a session; `None` when it is expected already.
    pub(crate) fn expect(&self, session: Id) -> Option<Meeting> {
        let (arrived, arrivals) = mpsc::channel();
        let mut sessions = self.sessions();
        if sessions.contains_key(&session) {
            return None;
        }
        sessions.insert(session, Expected { places: self.others().to_vec(), arrived });
        Some(Meeting { session, arrivals })
    }

    /// Forgets a session.
    pub(crate) fn forget(&self, session: Id) {
        self.sessions().remove(&session);
    }

    /// Dials the other two, and waits for their connections.
    pub(crate) fn meet(&self, meeting: Meeting) -> Result<Links> {
        let Meeting { session, arrivals } = meeting;
        let ends = self.ends(session)?;
        let until = Instant::now() + self.deadline;
        let mut connections = vec![];
        for peer in self.others() {
            connections.push(self.dial(&ends, peer, until)?);
        }
        while connections.len() < 2 * self.others().len() {
            let left = until.saturating_duration_since(Instant::now());
            let connection = arrivals.recv_timeout(left).map_err(|_| {
                let missing = self
                    .others()
                    .into_iter()
                    .find(|p| !connections.iter().any(|c: &Connection| c.accepted && c.peer == *p));
                let missing = missing.map_or_else(|| "a server".into(), name);
                Fault::new(
                    Blame::PeerLost,
                    format!("{missing} did not connect within {} seconds", self.deadline.as_secs_f64()),
                )
            })?;
            connections.push(connection);
        }
        let patience = |_| Patience::new(self.deadline, self.deadline, self.link);
        assemble(self.me, &topology(), connections, self.link, &patience).map_err(|e| of_connect(&e))
    }

    fn dial(&self, ends: &Ends, peer: Endpoint, until: Instant) -> Result<Connection> {
        let mut pause = PAUSE;
        loop {
            match ends.dial(peer, self.addresses[usize::from(peer.0)], Direction::Send) {
                Ok(connection) => return Ok(connection),
                // It may not have heard of the session yet: the leader tells the others one after the other.
                Err(e) if e.may_pass() || matches!(e, ConnectError::WrongSession { .. }) => {
                    if Instant::now() + pause >= until || self.stopping.load(Ordering::Relaxed) {
                        return Err(of_connect(&e));
                    }
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(500));
                }
                Err(ConnectError::WrongRole { .. }) => {
                    let i = peer.0;
                    let why = format!(
                        "whoever answers at servers[{i}] of server {}'s configuration is not server {i}",
                        self.me.0
                    );
                    return Err(Fault::new(Blame::PeerMisbehaved, why));
                }
                Err(e) => return Err(of_connect(&e)),
            }
        }
    }

    /// Lets a guest in, or not. `invited` is asked when the leader begins a session that is not known here yet; it starts whoever runs it.
    fn receive(&self, tcp: TcpStream, placed: &AtomicBool, invited: &dyn Fn(Meeting) -> bool) -> Result<()> {
        let guest = self.ends(Id([0; 16]))?.welcome(tcp).map_err(|e| of_connect(&e))?;
        let (peer, session) = (guest.hello.peer, Id(guest.hello.session));
        let refuse = |guest: sordino::tls::Guest, why| Err(of_connect(&guest.refuse(why)));
        if peer == self.me {
            return refuse(guest, Refusal::Itself);
        }
        let stranger = self.revoked.contains(&guest.fingerprint);
        if !stranger && guest.hello.direction != Direction::Send {
            // It asks whether anybody is here.
            let refused = guest.refuse(Refusal::Unexpected);
            tracing::debug!("{refused}");
            return Ok(());
        }
        if stranger || self.stopping.load(Ordering::Relaxed) {
            return refuse(guest, Refusal::Unexpected);
        }
        let leader = peer == Endpoint(0);
        if leader
            && let Some(meeting) = self.expect(session)
            && !invited(meeting)
        {
            self.forget(session);
            return refuse(guest, Refusal::Unexpected);
        }
        let arrived = {
            let mut sessions = self.sessions();
            let Some(expected) = sessions.get_mut(&session) else {
                drop(sessions);
                // It was told of the session before this server was, and dials again; or it has none.
                let refused = guest.refuse(Refusal::Session);
                tracing::debug!("{refused}");
                return Ok(());
            };
            let Some(place) = expected.places.iter().position(|p| *p == peer) else {
                drop(sessions);
                return refuse(guest, Refusal::Unexpected);
            };
            expected.places.swap_remove(place);
            expected.arrived.clone()
        };
        placed.store(true, Ordering::Release);
        let connection = guest.admit().map_err(|e| {
            // It was lost before it heard: its place is free again.
            if let Some(expected) = self.sessions().get_mut(&session) {
                expected.places.push(peer);
            }
            of_connect(&e)
        })?;
        // A session that has ended meanwhile needs it no more.
        let _ = arrived.send(connection);
        Ok(())
    }

    /// Serves the port until [`Peers::stop`].
    pub(crate) fn serve(self: &Arc<Self>, listener: &TcpListener, invited: Arc<dyn Fn(Meeting) -> bool + Send + Sync>) {
        let open: Arc<Mutex<Vec<Handshake>>> = Arc::default();
        for number in 0u64.. {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let Ok((tcp, from)) = accepted else {
                // Without descriptors or memory: they come back.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let Ok(socket) = tcp.try_clone() else { continue };
            let placed = Arc::new(AtomicBool::new(false));
            if let Ok(mut open) = open.lock() {
                let oldest = open.iter().position(|h| !h.placed.load(Ordering::Acquire));
                if let (true, Some(oldest)) = (open.len() >= MOST, oldest) {
                    let _ = open.remove(oldest).socket.shutdown(Shutdown::Both);
                }
                open.push(Handshake { number, socket, placed: Arc::clone(&placed) });
            }
            let (peers, invited, done) = (Arc::clone(self), Arc::clone(&invited), Arc::clone(&open));
            let handshake = move || {
                if let Err(e) = peers.receive(tcp, &placed, &*invited) {
                    tracing::warn!(%from, "a peer's connection is refused: {e}");
                }
                if let Ok(mut open) = done.lock() {
                    open.retain(|h| h.number != number);
                }
            };
            // A connection for which there is no thread is closed; a peer dials again.
            let started = std::thread::Builder::new().name("a peer's handshake".into()).spawn(handshake);
            if started.is_err() {
                if let Ok(mut open) = open.lock() {
                    open.retain(|h| h.number != number);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Ends [`Peers::serve`] at this address, and dialling.
    pub(crate) fn stop(&self, listening: SocketAddr) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect_timeout(&listening, Duration::from_millis(200));
    }
}
