//! Accepting a session's connections on a port that anybody can reach.

use super::{ConnectError, Connection, Direction, Ends};
use crate::threads::spawn;
use sordino_net::Endpoint;
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Handshakes at the same time, at most. When another connection comes, the oldest handshake gives way: an honest peer's is
/// over in milliseconds, a stranger's may never be.
const MOST: usize = 32;

/// How often the listener is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// How long a system without descriptors or memory is given.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// True for failures of one connection or of the moment, after which a listener goes on.
fn passes(kind: ErrorKind, code: Option<i32>) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::PROTO];
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::Interrupted | ErrorKind::OutOfMemory)
        || code.is_some_and(|code| exhausted.iter().any(|e| e.raw_os_error() == code))
}

/// What a listener's connections are told to do.
pub(crate) enum Next {
    /// Go on.
    More,
    /// No more connections.
    Enough,
}

/// Hands every connection of a listener to a thread of its own, until `next` says so; it is asked every few milliseconds. Handshakes run side by
/// side: strangers who say nothing, or a byte at a time, keep nobody out. A thread says by the flag it is given that its connection is an honest
/// peer's and must not give way any more. Comes back when all threads are over; connections that are none's yet are closed.
///
/// # Errors
/// When the listener fails.
pub(crate) fn each_connection(
    listener: &TcpListener,
    next: &mut dyn FnMut() -> Next,
    handshake: &(dyn Fn(TcpStream, &AtomicBool) + Sync),
) -> Result<(), ConnectError> {
    let broken = |why: String| ConnectError::Handshake { peer: "a peer".into(), why };
    listener.set_nonblocking(true).map_err(|e| broken(e.to_string()))?;
    let mut open: Vec<Open> = vec![];
    std::thread::scope(|scope| {
        let result = loop {
            open.retain(|o| !o.over.load(Ordering::Acquire));
            if let Next::Enough = next() {
                break Ok(());
            }
            match listener.accept() {
                Ok((tcp, _)) => {
                    let Ok(socket) = tcp.try_clone() else { continue };
                    let strangers = || open.iter().filter(|o| !o.placed.load(Ordering::Acquire));
                    if strangers().count() >= MOST
                        && let Some(oldest) = strangers().next()
                    {
                        // Its handshake fails, and its thread ends.
                        let _ = oldest.socket.shutdown(Shutdown::Both);
                        oldest.over.store(true, Ordering::Release);
                    }
                    let entry = Open { socket, placed: Arc::default(), over: Arc::default() };
                    let (placed, over) = (Arc::clone(&entry.placed), Arc::clone(&entry.over));
                    // A connection for which there is no thread is closed; an honest peer dials again.
                    let started = spawn(scope, "a handshake", move || {
                        // Whatever happens: one that stops unexpectedly must not take a place for good, nor the others with it.
                        let handshake = std::panic::AssertUnwindSafe(|| handshake(tcp, &placed));
                        if std::panic::catch_unwind(handshake).is_err() {
                            tracing::error!("a connection's thread stopped unexpectedly");
                        }
                        over.store(true, Ordering::Release);
                    });
                    match started {
                        Ok(_) => open.push(entry),
                        Err(_) => std::thread::sleep(EXHAUSTED),
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(e) if passes(e.kind(), e.raw_os_error()) => std::thread::sleep(EXHAUSTED),
                Err(e) => break Err(broken(e.to_string())),
            }
        };
        // Handshakes that nobody waits for any more.
        for one in open.iter().filter(|o| !o.placed.load(Ordering::Acquire)) {
            let _ = one.socket.shutdown(Shutdown::Both);
        }
        result
    })
}

/// A connection whose thread runs.
struct Open {
    socket: TcpStream,
    /// It has its place, and must not give way any more.
    placed: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

/// Accepts one connection from each of `expected`, a peer and the direction it dials for, each within a time limit of its own.
///
/// # Errors
/// [`ConnectError`] when the deadline passes first, or `stop` says so.
pub fn accept_all(
    ends: &Ends,
    listener: &TcpListener,
    expected: Vec<(Endpoint, Direction)>,
    deadline: Duration,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Connection>, ConnectError> {
    let count = expected.len();
    let places = Mutex::new(expected);
    let missing = || {
        let first = places.lock().ok().and_then(|p| p.first().map(|e| e.0));
        first.map_or_else(|| "a peer".to_string(), |end| ends.name(end))
    };
    let until = Instant::now() + deadline;
    let (finished, results) = mpsc::channel::<Result<Connection, ConnectError>>();
    let (mut accepted, mut refused): (Vec<Connection>, _) = (vec![], None);
    let mut outcome = Ok(());
    let mut next = || {
        while let Ok(result) = results.try_recv() {
            match result {
                Ok(connection) => accepted.push(connection),
                Err(error) => {
                    tracing::warn!("refused a connection: {error}");
                    refused = Some(error);
                }
            }
        }
        if accepted.len() == count {
            return Next::Enough;
        }
        if stop() {
            outcome = Err(ConnectError::Stopped { peer: missing() });
        } else if Instant::now() >= until {
            let last = refused.take().map(|e| format!("; the last one refused: {e}")).unwrap_or_default();
            let why = format!("it did not connect within {} seconds{last}", deadline.as_secs_f64());
            outcome = Err(ConnectError::Handshake { peer: missing(), why });
        } else {
            return Next::More;
        }
        Next::Enough
    };
    each_connection(listener, &mut next, &|tcp, placed| {
        let _ = finished.send(greet(ends, tcp, &places, placed));
    })?;
    outcome.map(|()| accepted)
}

/// A handshake for one of the places that are left; a place whose peer is lost before it is told is free again.
fn greet(
    ends: &Ends,
    tcp: TcpStream,
    places: &Mutex<Vec<(Endpoint, Direction)>>,
    placed: &AtomicBool,
) -> Result<Connection, ConnectError> {
    let taken = Cell::new(None);
    let claim = |peer, direction| {
        let Ok(mut places) = places.lock() else { return false };
        let Some(at) = places.iter().position(|p| *p == (peer, direction)) else { return false };
        taken.set(Some(places.swap_remove(at)));
        placed.store(true, Ordering::Release);
        true
    };
    let result = ends.greet(tcp, &claim);
    if let (Err(_), Some(place), Ok(mut places)) = (&result, taken.get(), places.lock()) {
        places.push(place);
    }
    result
}
