//! Accepting a session's connections on a port that anybody can reach.

use super::{ConnectError, Connection, Direction, Ends};
use crate::threads::spawn;
use sordino_net::Endpoint;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
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
    mut expected: Vec<(Endpoint, Direction)>,
    deadline: Duration,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Connection>, ConnectError> {
    let missing = |expected: &[(Endpoint, Direction)]| expected.first().map_or_else(String::new, |e| ends.name(e.0));
    let broken = |why: String| ConnectError::Handshake { peer: "a peer".into(), why };
    listener.set_nonblocking(true).map_err(|e| broken(e.to_string()))?;
    let until = Instant::now() + deadline;
    let all = expected.clone();
    let (finished, results) = mpsc::channel::<(u64, Result<Connection, ConnectError>)>();
    let (mut accepted, mut open): (Vec<Connection>, Vec<(u64, TcpStream)>) = (vec![], vec![]);
    let (mut number, mut refused) = (0, None);
    std::thread::scope(|scope| {
        let result = loop {
            while let Ok((which, result)) = results.try_recv() {
                open.retain(|o| o.0 != which);
                match result {
                    Ok(connection) => {
                        let place = expected.iter().position(|e| *e == (connection.peer, connection.direction));
                        // Two of one kind may have shaken hands at the same time: the first counts.
                        if let Some(place) = place {
                            expected.swap_remove(place);
                            accepted.push(connection);
                        }
                    }
                    Err(error) => {
                        tracing::warn!("refused a connection: {error}");
                        refused = Some(error);
                    }
                }
            }
            if expected.is_empty() {
                break Ok(());
            }
            if stop() {
                break Err(ConnectError::Stopped { peer: missing(&expected) });
            }
            if Instant::now() >= until {
                let last = refused.take().map(|e| format!("; the last one refused: {e}")).unwrap_or_default();
                let why = format!("it did not connect within {} seconds{last}", deadline.as_secs_f64());
                break Err(ConnectError::Handshake { peer: missing(&expected), why });
            }
            match listener.accept() {
                Ok((tcp, _)) => {
                    let Ok(socket) = tcp.try_clone() else { continue };
                    if open.len() == MOST {
                        // Its handshake fails, and its thread ends.
                        let _ = open.remove(0).1.shutdown(Shutdown::Both);
                    }
                    number += 1;
                    let (which, finished, all) = (number, finished.clone(), &all);
                    // A connection for which there is no thread is closed; an honest peer dials again.
                    let started = spawn(scope, "a handshake", move || {
                        let _ = finished.send((which, ends.greet(tcp, all)));
                    });
                    match started {
                        Ok(_) => open.push((which, socket)),
                        Err(_) => std::thread::sleep(EXHAUSTED),
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(e) if passes(e.kind(), e.raw_os_error()) => std::thread::sleep(EXHAUSTED),
                Err(e) => break Err(broken(e.to_string())),
            }
        };
        // Handshakes that nobody waits for any more.
        for (_, socket) in &open {
            let _ = socket.shutdown(Shutdown::Both);
        }
        result
    })?;
    Ok(accepted)
}
