//! Mutually authenticated TLS 1.3 between processes: who may be whom is in the certificates.
//!
//! Every end holds a certificate for its role's name, signed by the session's authority. A dialler demands the
//! certificate of the role it dials; an accepter demands a certificate that is valid for the role the dialler claims.
//! There is no unauthenticated mode.

mod accept;
mod error;
mod hello;
mod identity;
mod stream;

pub use accept::accept_all;
pub(crate) use accept::{Next, each_connection};
pub use error::ConnectError;
pub use hello::{Direction, Hello};
pub use identity::{Authority, Identity, fingerprint, names, own_name};
pub use stream::Stream;

use error::classify;
use identity::{is_for, role_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use stream::{Tcp, Tls};

/// A connection after its handshake.
pub struct Connection {
    /// The other end.
    pub peer: Endpoint,
    /// Which way frames go, from the dialler's view.
    pub direction: Direction,
    /// True when the other end dialled.
    pub accepted: bool,
    /// The stream.
    pub stream: Box<dyn Stream>,
    /// Bytes written to the network so far.
    pub wire: Arc<AtomicU64>,
    /// The socket below, for closing it from outside.
    pub socket: TcpStream,
    /// What its two ends alone can know of it.
    pub binding: [u8; 32],
}

/// A dialler that has said who it is and what it wants; its certificate is of the end it claims to be.
pub struct Guest {
    /// What it said.
    pub hello: Hello,
    /// Its certificate's [`fingerprint`].
    pub fingerprint: String,
    /// The names that its certificate is for.
    pub names: Vec<String>,
    stream: Tls<ServerConnection, rustls::server::ServerConnectionData>,
    wire: Arc<AtomicU64>,
    socket: TcpStream,
    name: String,
}

/// Why a guest may not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is this very end.
    Itself,
    /// Its session is not known here, or not yet.
    Session,
    /// It is not expected, or there already.
    Unexpected,
    /// There are too many at the moment; it may try again.
    Busy,
}

impl Guest {
    fn answer(&mut self, code: u8) -> Result<(), ConnectError> {
        self.stream.write_all(&[code]).and_then(|()| self.stream.flush()).map_err(|e| classify("a peer", &e))
    }

    /// Lets it in.
    ///
    /// # Errors
    /// When it is gone.
    pub fn admit(mut self) -> Result<Connection, ConnectError> {
        self.answer(0)?;
        let Hello { peer, direction, session } = self.hello;
        let bound = binding(self.stream.connection(), &session);
        let binding = bound.map_err(|e| ConnectError::Handshake { peer: self.name, why: e.to_string() })?;
        self.stream.settle(direction == Direction::Receive);
        let Self { stream, wire, socket, .. } = self;
        Ok(Connection { peer, direction, accepted: true, stream: Box::new(stream), wire, socket, binding })
    }

    /// Tells it why not; returns the same as an error.
    #[must_use]
    pub fn refuse(mut self, why: Refusal) -> ConnectError {
        let name = std::mem::take(&mut self.name);
        let (code, error) = match why {
            Refusal::Itself => (1, ConnectError::SelfDial),
            Refusal::Session => (2, ConnectError::WrongSession { peer: name }),
            Refusal::Unexpected => (4, ConnectError::Unexpected { peer: name }),
            Refusal::Busy => (5, ConnectError::Handshake { peer: name, why: BUSY.into() }),
        };
        // It may be gone already.
        let _ = self.answer(code);
        error
    }
}

const BUSY: &str = "it serves as many as it can at the moment";

/// Longest a single connection's handshake may take in all.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What connections are encrypted with.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // AES-128-GCM first: the fastest here, and as strong as the rest of the protocol.
    provider.cipher_suites.sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What both ends of a connection, and nobody else, can derive from its handshake (RFC 8446, section 7.5).
fn binding<S>(connection: &ConnectionCommon<S>, session: &[u8; 16]) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], b"EXPORTER-sordino-link", Some(session))
}

/// An end of a session that can dial and accept.
pub struct Ends {
    me: Endpoint,
    topology: Topology,
    session: [u8; 16],
    deadline: Duration,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Ends {
    /// An end with its identity, for one session. A handshake takes five seconds at most, or `deadline`.
    ///
    /// # Errors
    /// When the identity is malformed.
    pub fn new(
        me: Endpoint,
        topology: Topology,
        identity: &Identity,
        session: [u8; 16],
        deadline: Duration,
    ) -> Result<Self, rustls::Error> {
        let (client, server) = (identity.dialler()?, identity.accepter()?);
        Ok(Self { me, topology, session, deadline, client: Arc::new(client), server: Arc::new(server) })
    }

    /// The session's ends.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn name(&self, end: Endpoint) -> String {
        self.topology.name(end)
    }

    /// A part of the deadline after which the clock is looked at.
    fn moment(&self) -> Duration {
        (self.deadline / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Connects to a peer for one direction.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn dial(&self, peer: Endpoint, address: SocketAddr, direction: Direction) -> Result<Connection, ConnectError> {
        let name = self.name(peer);
        let unreachable =
            |e: std::io::Error| ConnectError::Unreachable { peer: name.clone(), address, why: e.to_string() };
        let limit = self.deadline.min(HANDSHAKE);
        let until = Instant::now() + limit;
        let tcp = TcpStream::connect_timeout(&address, limit).map_err(unreachable)?;
        let tcp = Tcp::new(tcp, self.moment()).map_err(unreachable)?;
        let handshake = |why: String| ConnectError::Handshake { peer: name.clone(), why };
        let server_name =
            ServerName::try_from(role_name(&self.topology, peer)).map_err(|e| handshake(e.to_string()))?;
        let tls = ClientConnection::new(Arc::clone(&self.client), server_name).map_err(|e| handshake(e.to_string()))?;
        let socket = tcp.try_clone().map_err(unreachable)?;
        let wire = Arc::new(AtomicU64::new(0));
        let mut stream = Tls::new(tls, tcp, Arc::clone(&wire), until);
        let hello = Hello { peer: self.me, direction, session: self.session }.encode();
        let mut greet = || {
            stream.write_all(&hello)?;
            stream.flush()?;
            let mut answer = [0; 1];
            stream.read_exact(&mut answer)?;
            Ok(answer[0])
        };
        match greet().map_err(|e| classify(&name, &e))? {
            0 => {
                let binding = binding(stream.connection(), &self.session).map_err(|e| handshake(e.to_string()))?;
                stream.settle(direction == Direction::Send);
                Ok(Connection { peer, direction, accepted: false, stream: Box::new(stream), wire, socket, binding })
            }
            1 => Err(ConnectError::SelfDial),
            2 => Err(ConnectError::WrongSession { peer: name }),
            3 => Err(ConnectError::WrongRole { peer: self.name(self.me) }),
            5 => Err(handshake(BUSY.into())),
            _ => Err(ConnectError::Unexpected { peer: self.name(self.me) }),
        }
    }

    /// The accepter's side of a handshake. `claim` says whether a peer with its direction is expected, and that it now has its
    /// place, before the peer is told so.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn greet(
        &self,
        tcp: TcpStream,
        claim: &dyn Fn(Endpoint, Direction) -> bool,
    ) -> Result<Connection, ConnectError> {
        let guest = self.welcome(tcp)?;
        let Hello { peer, direction, session } = guest.hello;
        if peer == self.me {
            Err(guest.refuse(Refusal::Itself))
        } else if session != self.session {
            Err(guest.refuse(Refusal::Session))
        } else if !claim(peer, direction) {
            Err(guest.refuse(Refusal::Unexpected))
        } else {
            guest.admit()
        }
    }

    /// Hears who dials, of whatever session.
    ///
    /// # Errors
    /// [`ConnectError`], also when its certificate is for another end than it says.
    pub fn welcome(&self, tcp: TcpStream) -> Result<Guest, ConnectError> {
        let somebody = || "a peer".to_string();
        let handshake = |why: String| ConnectError::Handshake { peer: somebody(), why };
        let io = |e: std::io::Error| handshake(e.to_string());
        let until = Instant::now() + self.deadline.min(HANDSHAKE);
        // A listener that does not block may hand this on.
        tcp.set_nonblocking(false).map_err(io)?;
        let tcp = Tcp::new(tcp, self.moment()).map_err(io)?;
        let tls = ServerConnection::new(Arc::clone(&self.server)).map_err(|e| handshake(e.to_string()))?;
        let socket = tcp.try_clone().map_err(io)?;
        let wire = Arc::new(AtomicU64::new(0));
        let mut stream = Tls::new(tls, tcp, Arc::clone(&wire), until);
        let mut hello = [0; 26];
        stream.read_exact(&mut hello).map_err(|e| classify(&somebody(), &e))?;
        let Some(hello) = Hello::decode(&hello) else {
            return Err(handshake("it speaks another version".into()));
        };
        let name = self.name(hello.peer);
        let certificate = stream.connection().peer_certificates().and_then(|c| c.first());
        let fingerprint = certificate.map(fingerprint).unwrap_or_default();
        let names = certificate.map(names).unwrap_or_default();
        let role = role_name(&self.topology, hello.peer);
        if !certificate.is_some_and(|c| is_for(c, &role)) {
            let _ = stream.write_all(&[3]).and_then(|()| stream.flush());
            return Err(ConnectError::WrongRole { peer: name });
        }
        Ok(Guest { hello, fingerprint, names, stream, wire, socket, name })
    }
}
