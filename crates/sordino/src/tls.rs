//! Mutually authenticated TLS 1.3 between processes: who may be whom is in the certificates.
//!
//! Every end holds a certificate for its role's name, signed by the session's authority. A dialler demands the
//! certificate of the role it dials; an accepter demands a certificate that is valid for the role the dialler claims.
//! There is no unauthenticated mode.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde::{Deserialize, Serialize};
use sordino_net::{CountedWriter, Endpoint};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why two processes could not connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer cannot be reached in time.
    #[error("cannot reach {peer} at {address}: {why}")]
    Unreachable {
        /// Who was dialled.
        peer: String,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// The certificate is not signed by the session's authority.
    #[error("{peer} has a certificate of another authority")]
    UnknownAuthority {
        /// Who.
        peer: String,
    },
    /// The certificate is no longer or not yet valid.
    #[error("the certificate of {peer} has expired or is not yet valid")]
    Expired {
        /// Who.
        peer: String,
    },
    /// The certificate is for another role.
    #[error("{peer} has a certificate for another role")]
    WrongRole {
        /// Who it claims or is expected to be.
        peer: String,
    },
    /// The connection comes from this very end.
    #[error("an end connected to itself")]
    SelfDial,
    /// A role that is not expected, or connected already.
    #[error("{peer} is not expected to connect now")]
    Unexpected {
        /// Who.
        peer: String,
    },
    /// The peer belongs to another session.
    #[error("{peer} belongs to another session")]
    WrongSession {
        /// Who.
        peer: String,
    },
    /// What came is no handshake of this version.
    #[error("{peer} did not complete the handshake: {why}")]
    Handshake {
        /// Who.
        peer: String,
        /// What happened.
        why: String,
    },
}

/// What an end needs to prove its role and to check others'. Erased on drop; no `Debug`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Identity {
    #[zeroize(skip)]
    authority: Vec<u8>,
    #[zeroize(skip)]
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Signs certificates for the roles of one session.
pub struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn role_name(end: Endpoint) -> String {
    match end {
        Endpoint::CLIENT => "client.sordino".into(),
        end if end.is_server() => format!("server-{}.sordino", end.0),
        end => format!("owner-{}.sordino", end.0 - Endpoint::CLIENT.0 + 1),
    }
}

impl Authority {
    /// A fresh authority whose key never leaves this process.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "sordino session authority");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// An identity for a role, valid for a day around now.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity(&self, end: Endpoint) -> Result<Identity, rcgen::Error> {
        let now = std::time::SystemTime::now();
        let day = Duration::from_secs(86400);
        self.identity_between(end, now - day, now + day)
    }

    /// An identity valid between two moments.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity_between(
        &self,
        end: Endpoint,
        from: std::time::SystemTime,
        to: std::time::SystemTime,
    ) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(vec![role_name(end)])?;
        params.not_before = from.into();
        params.not_after = to.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(Identity { authority: self.certificate.clone(), certificate, key: key.serialize_der() })
    }
}

/// One direction of a link, after the handshake.
pub type Stream = Box<dyn ReadWrite>;

/// Both halves of a byte stream.
pub trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// Which way frames go on a connection, from the dialler's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The dialler sends.
    Send,
    /// The dialler receives.
    Receive,
}

/// A connection after its handshake.
pub struct Connection {
    /// The other end.
    pub peer: Endpoint,
    /// Which way frames go, from the dialler's view.
    pub direction: Direction,
    /// True when the other end dialled.
    pub accepted: bool,
    /// The stream.
    pub stream: Stream,
    /// Bytes written to the network so far.
    pub wire: Arc<AtomicU64>,
    /// The socket below, for closing it from outside.
    pub socket: TcpStream,
}

/// Longest a single connection's handshake may take, so that a stranger who says nothing does not block the others.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// An end of a session that can dial and accept.
pub struct Ends {
    me: Endpoint,
    session: [u8; 16],
    deadline: Duration,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What a dialler says first, inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it claims to be; its certificate must agree.
    pub peer: Endpoint,
    /// Which way frames go.
    pub direction: Direction,
    /// Its session.
    pub session: [u8; 16],
}

const MAGIC: &[u8; 8] = b"sordino1";

/// Data owners besides the client, at most.
pub const MOST_OWNERS: u8 = 15;

impl Hello {
    /// The wire form: magic, role, direction, session.
    #[must_use]
    pub fn encode(&self) -> [u8; 26] {
        let mut out = [0; 26];
        out[..8].copy_from_slice(MAGIC);
        out[8] = self.peer.0;
        out[9] = u8::from(self.direction == Direction::Receive);
        out[10..].copy_from_slice(&self.session);
        out
    }

    /// Parses; whatever is accepted encodes to the same bytes. `None` for another version or an unknown role.
    #[must_use]
    pub fn decode(bytes: &[u8; 26]) -> Option<Self> {
        let direction = match bytes[9] {
            0 => Direction::Send,
            1 => Direction::Receive,
            _ => return None,
        };
        if bytes[..8] != *MAGIC || bytes[8] > Endpoint::CLIENT.0 + MOST_OWNERS {
            return None;
        }
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[10..]);
        Some(Self { peer: Endpoint(bytes[8]), direction, session })
    }
}

fn classify(peer: &str, error: &std::io::Error) -> ConnectError {
    let text = error.to_string();
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    use rustls::{AlertDescription as Alert, CertificateError as Cert, Error as Tls};
    let peer = peer.to_string();
    match inner {
        Some(Tls::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature))
        | Some(Tls::AlertReceived(Alert::UnknownCA)) => ConnectError::UnknownAuthority { peer },
        Some(Tls::InvalidCertificate(
            Cert::Expired | Cert::ExpiredContext { .. } | Cert::NotValidYet | Cert::NotValidYetContext { .. },
        ))
        | Some(Tls::AlertReceived(Alert::CertificateExpired)) => ConnectError::Expired { peer },
        Some(Tls::InvalidCertificate(Cert::NotValidForName | Cert::NotValidForNameContext { .. })) => {
            ConnectError::WrongRole { peer }
        }
        _ if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof) => {
            ConnectError::Handshake { peer, why: "it hung up; its time limit may have passed".into() }
        }
        _ if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            ConnectError::Handshake { peer, why: "it did not answer in time".into() }
        }
        _ => ConnectError::Handshake { peer, why: text },
    }
}

impl Ends {
    /// An end with its identity, for one session; every wait is bounded by `deadline`.
    ///
    /// # Errors
    /// When the identity is malformed.
    pub fn new(
        me: Endpoint,
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
        Ok(Self { me, session, deadline, client: Arc::new(client), server: Arc::new(server) })
    }

    fn prepare(&self, tcp: &TcpStream) -> std::io::Result<()> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(self.deadline.min(HANDSHAKE)))?;
        tcp.set_write_timeout(Some(self.deadline))
    }

    /// Time limits after the handshake. The end that sends reads nothing, so a failed write must not be followed by a
    /// long read. Whoever waits for the client waits for a person's input, or for a large model to arrive.
    fn settle(&self, socket: &TcpStream, peer: Endpoint, sends: bool) -> std::io::Result<()> {
        let limit = if sends {
            Some(Duration::from_millis(10))
        } else if !peer.is_server() {
            None
        } else {
            Some(self.deadline)
        };
        socket.set_read_timeout(limit)
    }

    /// Connects to a peer for one direction.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn dial(&self, peer: Endpoint, address: SocketAddr, direction: Direction) -> Result<Connection, ConnectError> {
        let name = peer.to_string();
        let unreachable =
            |e: std::io::Error| ConnectError::Unreachable { peer: name.clone(), address, why: e.to_string() };
        let tcp = TcpStream::connect_timeout(&address, self.deadline).map_err(unreachable)?;
        self.prepare(&tcp).map_err(unreachable)?;
        let handshake = |why: String| ConnectError::Handshake { peer: name.clone(), why };
        let server_name = ServerName::try_from(role_name(peer)).map_err(|e| handshake(e.to_string()))?;
        let tls = ClientConnection::new(Arc::clone(&self.client), server_name).map_err(|e| handshake(e.to_string()))?;
        let socket = tcp.try_clone().map_err(unreachable)?;
        let wire = Arc::new(AtomicU64::new(0));
        let mut stream = StreamOwned::new(tls, CountedWriter::new(tcp, Arc::clone(&wire)));
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
                self.settle(&socket, peer, direction == Direction::Send).map_err(unreachable)?;
                Ok(Connection { peer, direction, accepted: false, stream: Box::new(stream), wire, socket })
            }
            1 => Err(ConnectError::SelfDial),
            2 => Err(ConnectError::WrongSession { peer: name }),
            3 => Err(ConnectError::WrongRole { peer: self.me.to_string() }),
            _ => Err(ConnectError::Unexpected { peer: self.me.to_string() }),
        }
    }

    /// Accepts one connection from one of `expected`, each a peer and the direction it dials for; gives up early when
    /// told to stop.
    ///
    /// # Errors
    /// [`ConnectError`]; the listener can go on accepting after one.
    pub fn accept(
        &self,
        listener: &TcpListener,
        expected: &[(Endpoint, Direction)],
        stop: &AtomicBool,
    ) -> Result<Connection, ConnectError> {
        let somebody = || "a peer".to_string();
        let handshake = |why: String| ConnectError::Handshake { peer: somebody(), why };
        let tcp = self.wait(listener, stop).map_err(|e| handshake(e.to_string()))?;
        self.prepare(&tcp).map_err(|e| handshake(e.to_string()))?;
        let tls = ServerConnection::new(Arc::clone(&self.server)).map_err(|e| handshake(e.to_string()))?;
        let socket = tcp.try_clone().map_err(|e| handshake(e.to_string()))?;
        let wire = Arc::new(AtomicU64::new(0));
        let mut stream = StreamOwned::new(tls, CountedWriter::new(tcp, Arc::clone(&wire)));
        let mut hello = [0; 26];
        stream.read_exact(&mut hello).map_err(|e| classify(&somebody(), &e))?;
        let Some(Hello { peer, direction, session }) = Hello::decode(&hello) else {
            return Err(handshake("it speaks another version".into()));
        };
        let name = peer.to_string();
        let verdict = if peer == self.me {
            Err((1, ConnectError::SelfDial))
        } else if session != self.session {
            Err((2, ConnectError::WrongSession { peer: name }))
        } else if !has_role(&stream.conn, peer) {
            Err((3, ConnectError::WrongRole { peer: name }))
        } else if !expected.contains(&(peer, direction)) {
            Err((4, ConnectError::Unexpected { peer: name }))
        } else {
            Ok(())
        };
        let code = verdict.as_ref().err().map_or(0, |(code, _)| *code);
        stream.write_all(&[code]).and_then(|()| stream.flush()).map_err(|e| classify(&somebody(), &e))?;
        verdict.map_err(|(_, error)| error)?;
        self.settle(&socket, peer, direction == Direction::Receive).map_err(|e| handshake(e.to_string()))?;
        Ok(Connection { peer, direction, accepted: true, stream: Box::new(stream), wire, socket })
    }

    /// Accepts within the deadline.
    fn wait(&self, listener: &TcpListener, stop: &AtomicBool) -> std::io::Result<TcpStream> {
        listener.set_nonblocking(true)?;
        let end = Instant::now() + self.deadline;
        loop {
            match listener.accept() {
                Ok((tcp, _)) => {
                    tcp.set_nonblocking(false)?;
                    return Ok(tcp);
                }
                Err(_) if stop.load(Ordering::Relaxed) => return Err(std::io::ErrorKind::Interrupted.into()),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody connected in time"));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// True when the peer's certificate is for the role it claims.
fn has_role(connection: &ServerConnection, peer: Endpoint) -> bool {
    let Some(certificate) = connection.peer_certificates().and_then(|c| c.first()) else { return false };
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return false };
    ServerName::try_from(role_name(peer)).is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
}
