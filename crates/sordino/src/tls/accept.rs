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

/// Accepts one connection from each of `expected`, a peer and the direction it dials for. Handshakes run side by side, each
/// with a time limit of its own: strangers who say nothing, or a byte at a time, keep nobody out.
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
    let broken = |why: String| ConnectError::Handshake { peer: "a peer".into(), why };
    listener.set_nonblocking(true).map_err(|e| broken(e.to_string()))?;
    let until = Instant::now() + deadline;
    let (finished, results) = mpsc::channel::<(u64, Result<Connection, ConnectError>)>();
    let (mut accepted, mut open): (Vec<Connection>, Vec<Open>) = (vec![], vec![]);
    let (mut number, mut refused) = (0, None);
    std::thread::scope(|scope| {
        let result = loop {
            while let Ok((which, result)) = results.try_recv() {
                open.retain(|o| o.number != which);
                match result {
                    Ok(connection) => accepted.push(connection),
                    Err(error) => {
                        tracing::warn!("refused a connection: {error}");
                        refused = Some(error);
                    }
                }
            }
            if accepted.len() == count {
                break Ok(());
            }
            if stop() {
                break Err(ConnectError::Stopped { peer: missing() });
            }
            if Instant::now() >= until {
                let last = refused.take().map(|e| format!("; the last one refused: {e}")).unwrap_or_default();
                let why = format!("it did not connect within {} seconds{last}", deadline.as_secs_f64());
                break Err(ConnectError::Handshake { peer: missing(), why });
            }
            match listener.accept() {
                Ok((tcp, _)) => {
                    let Ok(socket) = tcp.try_clone() else { continue };
                    if open.len() >= MOST
                        && let Some(oldest) = open.iter().position(|o| !o.placed.load(Ordering::Acquire))
                    {
                        // Its handshake fails, and its thread ends.
                        let _ = open.remove(oldest).socket.shutdown(Shutdown::Both);
                    }
                    number += 1;
                    let placed = Arc::new(AtomicBool::new(false));
                    let entry = Open { number, socket, placed: Arc::clone(&placed) };
                    let (which, finished, places) = (number, finished.clone(), &places);
                    // A connection for which there is no thread is closed; an honest peer dials again.
                    let started = spawn(scope, "a handshake", move || {
                        let result = greet(ends, tcp, places, &placed);
                        let _ = finished.send((which, result));
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
        for one in &open {
            let _ = one.socket.shutdown(Shutdown::Both);
        }
        result
    })?;
    Ok(accepted)
}

/// A handshake that runs.
struct Open {
    number: u64,
    socket: TcpStream,
    /// It has its place, and must not give way any more.
    placed: Arc<AtomicBool>,
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
