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
pub use error::ConnectError;
pub use hello::{Direction, Hello};
pub use identity::{Authority, Identity};
pub use stream::Stream;

use error::classify;
use identity::role_name;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
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
}

/// Longest a single connection's handshake may take in all.
const HANDSHAKE: Duration = Duration::from_secs(5);

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
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(identity.authority.clone()))?;
        let roots = Arc::new(roots);
        let chain = || vec![CertificateDer::from(identity.certificate.clone())];
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // AES-128-GCM first: the fastest here, and as strong as the rest of the protocol.
        provider.cipher_suites.sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let versions = &[&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain(), key())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(), key())?;
        // One session, one connection: nothing to resume.
        server.send_tls13_tickets = 0;
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
                stream.settle(direction == Direction::Send);
                Ok(Connection { peer, direction, accepted: false, stream: Box::new(stream), wire, socket })
            }
            1 => Err(ConnectError::SelfDial),
            2 => Err(ConnectError::WrongSession { peer: name }),
            3 => Err(ConnectError::WrongRole { peer: self.name(self.me) }),
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
        let Some(Hello { peer, direction, session }) = Hello::decode(&hello) else {
            return Err(handshake("it speaks another version".into()));
        };
        let name = self.name(peer);
        let verdict = if peer == self.me {
            Err((1, ConnectError::SelfDial))
        } else if session != self.session {
            Err((2, ConnectError::WrongSession { peer: name }))
        } else if !self.has_role(stream.connection(), peer) {
            Err((3, ConnectError::WrongRole { peer: name }))
        } else if !claim(peer, direction) {
            Err((4, ConnectError::Unexpected { peer: name }))
        } else {
            Ok(())
        };
        let code = verdict.as_ref().err().map_or(0, |(code, _)| *code);
        stream.write_all(&[code]).and_then(|()| stream.flush()).map_err(|e| classify(&somebody(), &e))?;
        verdict.map_err(|(_, error)| error)?;
        stream.settle(direction == Direction::Receive);
        Ok(Connection { peer, direction, accepted: true, stream: Box::new(stream), wire, socket })
    }

    /// True when the peer's certificate is for the role it claims.
    fn has_role(&self, connection: &ServerConnection, peer: Endpoint) -> bool {
        let Some(certificate) = connection.peer_certificates().and_then(|c| c.first()) else { return false };
        let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return false };
        ServerName::try_from(role_name(&self.topology, peer))
            .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    }
}
