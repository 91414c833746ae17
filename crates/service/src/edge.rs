//! The port for clients: TLS, HTTP, who calls, and bodies that stream. The only asynchronous code.

use crate::calls::{Call, answer, refusal};
use crate::engine::Engine;
use crate::fault::{Blame, Fault};
use crate::names::{CLIENT, OPERATOR};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use sordino::tls::{Identity, fingerprint, names};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Longest a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time, at most; then the oldest gives way.
const HANDSHAKES: usize = 256;
/// Longest until a request's head is there, also on a connection that has answered before.
const HEAD: Duration = Duration::from_secs(60);
/// Slowest upload after its first seconds, in bytes a second.
const SLOWEST: u64 = 16 << 10;
/// Seconds before the rate of an upload counts.
const GRACE: Duration = Duration::from_secs(30);
/// Pieces of an upload that wait for the thread that takes them.
const PIECES: usize = 16;
/// Uploads that are taken in at the same time, of all clients and of one; others wait. Each holds a thread.
const UPLOADS: [usize; 2] = [32, 4];
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(60);
/// Longest body that is no upload, and how long it may take.
const SMALL: usize = 1 << 16;
const SMALL_WITHIN: Duration = Duration::from_secs(10);
/// Connections of one client at the same time, at most.
const CONNECTIONS: usize = 128;

/// Who calls, as the certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Client(String),
    Operator(String),
    /// Somebody whom an authority knows and this server does not serve, and why.
    Nobody(String),
}

impl Caller {
    fn of(names: &[String]) -> Self {
        let client = names.iter().find_map(|n| n.strip_suffix(CLIENT));
        let operator = names.iter().find_map(|n| n.strip_suffix(OPERATOR));
        let known = |name: &str| crate::names::client(name).is_ok();
        match (client, operator) {
            (Some(name), None) if known(name) => Self::Client(name.into()),
            (None, Some(name)) if known(name) => Self::Operator(name.into()),
            _ => Self::Nobody(format!("a certificate for {:?} is no client's", names.join(", "))),
        }
    }
}

/// The port for clients.
pub(crate) struct Edge {
    engine: Arc<Engine>,
    acceptor: RwLock<TlsAcceptor>,
    connections: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    /// Of each client that is here: its connections and its uploads.
    clients: Mutex<HashMap<String, Arc<Places>>>,
}

/// What one client may have at the same time.
struct Places {
    connections: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

fn acceptor(identity: &Identity) -> crate::Result<TlsAcceptor> {
    let config = identity.accepter().map_err(|e| Fault::internal("the certificate cannot be used", &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Edge {
    pub(crate) fn new(engine: Arc<Engine>, identity: &Identity) -> crate::Result<Self> {
        let connections = Arc::new(Semaphore::new(engine.config.limits.connections));
        let uploads = Arc::new(Semaphore::new(UPLOADS[0]));
        Ok(Self { engine, acceptor: RwLock::new(acceptor(identity)?), connections, uploads, clients: Mutex::default() })
    }

    /// Another certificate from now on.
    pub(crate) fn renew(&self, identity: &Identity) -> crate::Result<()> {
        let new = acceptor(identity)?;
        if let Ok(mut held) = self.acceptor.write() {
            *held = new;
        }
        Ok(())
    }

    /// Serves the port until the receiver hears of the end; then finishes what is under way.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut end: watch::Receiver<bool>) {
        let handshakes: Arc<Mutex<VecDeque<(u64, AbortHandle)>>> = Arc::default();
        for number in 0u64.. {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = over(&mut end) => return,
            };
            let Ok((tcp, from)) = accepted else {
                // Without descriptors or memory: they come back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (edge, done, end) = (Arc::clone(&self), Arc::clone(&handshakes), end.clone());
            let task = tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, edge.shake(tcp)).await;
                // Its place among handshakes is free, and it is not to be ended for another any more.
                if let Ok(mut held) = done.lock() {
                    held.retain(|h| h.0 != number);
                }
                match shaken {
                    Ok(Ok((stream, caller))) => edge.converse(stream, caller, end).await,
                    Ok(Err(why)) => {
                        edge.engine.metrics.refused(Blame::Refused);
                        tracing::warn!(%from, "a client's connection is refused: {why}");
                    }
                    Err(_) => tracing::debug!(%from, "a client's handshake took too long"),
                }
            });
            if let Ok(mut held) = handshakes.lock() {
                if !task.is_finished() {
                    held.push_back((number, task.abort_handle()));
                }
                if held.len() > HANDSHAKES
                    && let Some((_, oldest)) = held.pop_front()
                {
                    oldest.abort();
                }
            }
        }
    }

    /// The handshake, and who it is.
    async fn shake(&self, tcp: TcpStream) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Caller), String> {
        let acceptor = self.acceptor.read().map_err(|e| e.to_string())?.clone();
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = acceptor.accept(tcp).await.map_err(|e| e.to_string())?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
        let certificate = certificate.ok_or("there is no certificate")?;
        // Whoever is refused is told why.
        let all = names(certificate);
        let caller = match self.engine.config.policy.revoked.contains(&fingerprint(certificate)) {
            true => Caller::Nobody(format!("the certificate of {} is revoked", all.join(", "))),
            false => Caller::of(&all),
        };
        Ok((stream, caller))
    }

    async fn converse(
        self: Arc<Self>,
        stream: tokio_rustls::server::TlsStream<TcpStream>,
        caller: Caller,
        mut end: watch::Receiver<bool>,
    ) {
        let places = self.places(&caller);
        let of = |all: &Arc<Semaphore>| Arc::clone(all).try_acquire_owned();
        let (Ok(_place), Ok(_own)) = (of(&self.connections), of(&places.connections)) else {
            self.engine.metrics.refused(Blame::Limit);
            tracing::warn!(?caller, "a connection is refused: there are too many");
            return;
        };
        // Whoever is refused hears so once.
        let stays = !matches!(caller, Caller::Nobody(_));
        let edge = Arc::clone(&self);
        let service = hyper::service::service_fn(move |request| {
            let (edge, caller, places) = (Arc::clone(&edge), caller.clone(), Arc::clone(&places));
            async move { Ok::<_, Infallible>(edge.hear(request, caller, &places).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10).keep_alive(stays);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = over(&mut end) => {
                connection.as_mut().graceful_shutdown();
                // What is under way gets a little time.
                let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
            }
        }
    }

    /// What a caller may have; those that nobody uses any more are forgotten.
    fn places(&self, caller: &Caller) -> Arc<Places> {
        let name = match caller {
            Caller::Client(name) => name.clone(),
            Caller::Operator(name) => format!("operator {name}"),
            Caller::Nobody(_) => String::new(),
        };
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        clients.retain(|other, places| *other == name || Arc::strong_count(places) > 1);
        let new = || {
            let connections = Arc::new(Semaphore::new(CONNECTIONS));
            Arc::new(Places { connections, uploads: Arc::new(Semaphore::new(UPLOADS[1])) })
        };
        Arc::clone(clients.entry(name).or_insert_with(new))
    }

    async fn hear(&self, request: Request<Incoming>, caller: Caller, places: &Places) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let call = Call {
            method: head.method.clone(),
            path: head.uri.path().to_string(),
            query: head.uri.query().unwrap_or_default().to_string(),
            caller,
        };
        if !call.is_upload() {
            let small = tokio::time::timeout(SMALL_WITHIN, http_body_util::Limited::new(body, SMALL).collect()).await;
            return match small {
                Ok(Ok(body)) => answer(Arc::clone(&self.engine), call, Pieces::whole(body.to_bytes()), ()).await,
                Ok(Err(e)) => refusal(Fault::usage(format!("the call's body cannot be read: {e}"))),
                Err(_) => refusal(Fault::limit("the call's body did not come in time")),
            };
        }
        // Each upload holds a thread: its turn is waited for without one.
        let turns = async {
            let own = Arc::clone(&places.uploads).acquire_owned().await;
            (own, Arc::clone(&self.uploads).acquire_owned().await)
        };
        let Ok(turns) = tokio::time::timeout(TURN, turns).await else {
            return refusal(Fault::limit("too many uploads are under way; try again in a moment"));
        };
        let (pieces, received) = mpsc::channel(PIECES);
        let pump = tokio::spawn(pump(body, pieces));
        let end = pump.abort_handle();
        let response = answer(Arc::clone(&self.engine), call, Pieces::new(received), turns).await;
        if response.status().is_client_error() {
            // A refusal is read only by who has said all: a little is heard to its end.
            let _ = tokio::time::timeout(Duration::from_secs(2), pump).await;
        }
        end.abort();
        response
    }
}

/// Waits for the end.
async fn over(end: &mut watch::Receiver<bool>) {
    // Whoever would say so is gone: that is the end, too.
    let _ = end.wait_for(|over| *over).await.is_ok();
}

/// Hands a body on, as fast as it is taken, and not slower than [`SLOWEST`].
async fn pump(mut body: Incoming, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let (started, mut got) = (Instant::now(), 0u64);
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = match tokio::time::timeout(GRACE, next).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return,
            Ok(Some(Err(e))) => {
                let _ = pieces.send(Err(io::Error::other(e))).await;
                return;
            }
            Err(_) => {
                let _ = pieces.send(Err(io::Error::other("nothing came for too long"))).await;
                return;
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        got += data.len() as u64;
        let elapsed = started.elapsed();
        if elapsed > GRACE && got / elapsed.as_secs().max(1) < SLOWEST {
            let _ = pieces.send(Err(io::Error::other("it came too slowly"))).await;
            return;
        }
        // Where nobody takes it any more, it is heard all the same.
        let _ = pieces.send(Ok(data)).await;
    }
}

/// A body for a thread that blocks.
pub(crate) struct Pieces {
    received: Option<mpsc::Receiver<io::Result<Bytes>>>,
    held: Bytes,
}

impl Pieces {
    fn new(received: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { received: Some(received), held: Bytes::new() }
    }
    fn whole(held: Bytes) -> Self {
        Self { received: None, held }
    }
}

impl Read for Pieces {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.received.as_mut().and_then(mpsc::Receiver::blocking_recv) {
                Some(piece) => self.held = piece?,
                None => return Ok(0),
            }
        }
        let n = bytes.len().min(self.held.len());
        bytes[..n].copy_from_slice(&self.held.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_calls() {
        let of = |names: &[&str]| Caller::of(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(of(&["alice.client.sordino"]), Caller::Client("alice".into()));
        assert_eq!(of(&["ops.operator.sordino"]), Caller::Operator("ops".into()));
        let both = &["a.client.sordino", "b.operator.sordino"];
        for wrong in [&["server-0.sordino"][..], &[], &["a.b.client.sordino"], &[".client.sordino"], both] {
            assert!(matches!(of(wrong), Caller::Nobody(_)));
        }
    }
}
