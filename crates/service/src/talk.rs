//! One client's connection to one server: TLS with the server's name and, if it is known, its very certificate.

use crate::fault::{Blame, Fault, Result};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sordino::tls::fingerprint;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const MOST: usize = 1 << 30;

/// What a call sends.
pub(crate) enum Body {
    Empty,
    Whole(Bytes),
    Stream { first: Option<Bytes>, pieces: mpsc::Receiver<Bytes>, length: u64 },
}

impl Body {
    fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stream { length, .. } => *length,
        }
    }
    /// Whether the call can be made again.
    fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Stream { .. } => None,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Empty => None,
            Self::Whole(_) => match std::mem::replace(&mut *self, Self::Empty) {
                Self::Whole(bytes) => Some(bytes),
                _ => None,
            },
            Self::Stream { first, pieces, .. } => match first.take() {
                Some(first) => Some(first),
                None => match pieces.poll_recv(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(piece) => piece,
                },
            },
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream { .. } => SizeHint::default(),
            other => SizeHint::with_exact(other.length()),
        }
    }
}

/// What a server answered.
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A server as this client talks to it.
pub(crate) struct Talk {
    party: usize,
    address: String,
    fingerprint: Option<String>,
    config: Arc<ClientConfig>,
    open: Mutex<Option<Open>>,
}

/// A connection that is open.
struct Open {
    sender: SendRequest<Body>,
    /// Ends with the connection, and knows why.
    end: JoinHandle<hyper::Result<()>>,
}

impl Talk {
    pub(crate) fn new(party: usize, address: String, fingerprint: Option<String>, config: Arc<ClientConfig>) -> Self {
        Self { party, address, fingerprint, config, open: Mutex::new(None) }
    }

    fn lost(&self, why: &dyn std::fmt::Display) -> Fault {
        Fault::new(Blame::PeerLost, format!("server {} at {}: {why}", self.party, self.address))
    }

    /// What a failure of HTTP says: a server refuses a certificate after the handshake is over for its client.
    fn broken(&self, e: &hyper::Error) -> Fault {
        use rustls::{AlertDescription as Alert, Error as Tls};
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
        while let Some(e) = source {
            let inner = e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref()).and_then(|e| e.downcast_ref());
            if let Some(Tls::AlertReceived(alert)) = inner {
                let why = match alert {
                    Alert::UnknownCA => "it is not signed by an authority that the server knows",
                    Alert::CertificateExpired => "it has expired, or is not valid yet",
                    Alert::CertificateRevoked => "it is revoked",
                    _ => "it is not valid",
                };
                return Fault::refused(format!("server {} refuses this client's certificate: {why}", self.party));
            }
            source = e.source();
        }
        self.lost(e)
    }

    async fn connect(&self) -> Result<Open> {
        let tcp = TcpStream::connect(&self.address).await.map_err(|e| self.lost(&e))?;
        tcp.set_nodelay(true).map_err(|e| self.lost(&e))?;
        let name = ServerName::try_from(format!("server-{}.sordino", self.party)).map_err(|e| self.lost(&e))?;
        let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await;
        let tls = tls.map_err(|e| {
            let why = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            match why {
                Some(rustls::Error::InvalidCertificate(_)) => Fault::new(
                    Blame::PeerMisbehaved,
                    format!("whoever answers at {} is not server {}: {e}", self.address, self.party),
                ),
                _ => self.lost(&e),
            }
        })?;
        let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).map(fingerprint);
        if let (Some(known), Some(seen)) = (&self.fingerprint, &certificate)
            && known != seen
        {
            let why = format!(
                "server {} at {} has a certificate of fingerprint {seen}; cluster.toml names another",
                self.party, self.address
            );
            return Err(Fault::new(Blame::PeerMisbehaved, why));
        }
        let (sender, connection) = handshake(TokioIo::new(tls)).await.map_err(|e| self.lost(&e))?;
        Ok(Open { sender, end: tokio::spawn(connection) })
    }

    /// A connection that is open, or a new one.
    async fn opened(&self, open: &mut Option<Open>) -> Result<(Open, bool)> {
        if let Some(mut open) = open.take()
            && open.sender.ready().await.is_ok()
        {
            return Ok((open, true));
        }
        let connected = tokio::time::timeout(CONNECT, self.connect()).await;
        Ok((connected.map_err(|_| self.lost(&"it does not answer"))??, false))
    }

    /// One call.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Body, patience: Duration) -> Result<Reply> {
        let mut open = self.open.lock().await;
        let calling = async {
            let again = body.again();
            let (mut opened, used) = self.opened(&mut open).await?;
            let first = self.once(&mut opened, &method, path, body).await;
            let reply = match (first, again) {
                // A server closes what was idle for long; that is no failure of this call.
                (Err(_), Some(body)) if used => {
                    opened = self.opened(&mut open).await?.0;
                    self.once(&mut opened, &method, path, body).await?
                }
                (first, _) => first?,
            };
            Ok::<_, Fault>((opened, reply))
        };
        let called = tokio::time::timeout(patience, calling).await;
        let (opened, (status, reply)) =
            called.map_err(|_| self.lost(&format!("it did not answer within {} seconds", patience.as_secs())))??;
        *open = Some(opened);
        if (200..300).contains(&status) {
            return Ok(reply);
        }
        let fault: Fault = serde_json::from_slice(&reply.body).unwrap_or_else(|_| {
            Fault::new(
                Blame::Incompatible,
                format!("server {} answers {status}, and not as this version does", self.party),
            )
        });
        Err(fault.at(&format!("server {}", self.party)))
    }

    async fn once(&self, open: &mut Open, method: &Method, path: &str, body: Body) -> Result<(u16, Reply)> {
        let kind = if matches!(body, Body::Stream { .. }) { "application/octet-stream" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, kind)
            .header(CONTENT_LENGTH, body.length())
            .body(body)
            .map_err(|e| Fault::internal("a call", &e))?;
        let response = match open.sender.send_request(request).await {
            Ok(response) => response,
            Err(e) => {
                // The connection knows better than the request why it failed.
                let ended = tokio::time::timeout(Duration::from_millis(200), &mut open.end).await;
                return Err(match ended {
                    Ok(Ok(Err(cause))) => self.broken(&cause),
                    _ => self.broken(&e),
                });
            }
        };
        let (head, mut incoming) = response.into_parts();
        let mut bytes = vec![];
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            if let Ok(data) = frame.map_err(|e| self.broken(&e))?.into_data() {
                if bytes.len() + data.len() > MOST {
                    return Err(self.lost(&"its answer is too long"));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok((head.status.as_u16(), Reply { headers: head.headers, body: Bytes::from(bytes) }))
    }
}
