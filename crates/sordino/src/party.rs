//! A party as a process of its own: links over TLS, and the body of the child process.

use crate::checkpoint::Checkpoints;
use crate::report::EndReport;
use crate::session::{Shared, serve};
use crate::tls::{ConnectError, Connection, Direction, Ends, Identity, Stream};
use serde::{Deserialize, Serialize};
use sordino_mpc::Role;
use sordino_net::{Endpoint, Frame, Link, LinkModel, Net, Segment, StreamReceiver, StreamSender};
use sordino_nn::program::Program;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Both directions to one peer.
struct TlsLink {
    out: StreamSender<Stream>,
    incoming: StreamReceiver<Stream>,
    wire: Arc<AtomicU64>,
    sockets: [TcpStream; 2],
}

impl Link for TlsLink {
    fn send(&self, frame: Frame) -> sordino_net::Result<()> {
        self.out.send(frame)
    }
    fn recv(&self, expect: &[Segment]) -> sordino_net::Result<Frame> {
        self.incoming.recv(expect)
    }
    fn wire(&self) -> u64 {
        self.wire.load(Ordering::Relaxed)
    }
    fn abort(&self) {
        self.out.abandon();
        for socket in &self.sockets {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connects an end to all others: servers dial each other to send, data owners (the client first) dial servers for both
/// directions.
///
/// # Errors
/// [`ConnectError`].
pub fn connect(
    me: Endpoint,
    ends: &Ends,
    listener: Option<&TcpListener>,
    addresses: &BTreeMap<u8, SocketAddr>,
    owners: u8,
    link: LinkModel,
    deadline: Duration,
) -> Result<Net, ConnectError> {
    let servers = || Endpoint::SERVERS.into_iter().filter(|&s| s != me);
    let dial = |peer: Endpoint, direction: Direction| match addresses.get(&peer.0) {
        Some(&address) => ends.dial(peer, address, direction),
        None => Err(ConnectError::Unexpected { peer: peer.to_string() }),
    };
    let connections: Vec<Connection> = match listener {
        None => servers()
            .flat_map(|peer| [dial(peer, Direction::Send), dial(peer, Direction::Receive)])
            .collect::<Result<_, _>>()?,
        Some(listener) => {
            let mut expected: Vec<_> = servers().map(|s| (s, Direction::Send)).collect();
            let owners = (0..owners).map(|k| Role::owner(k).endpoint());
            expected.extend(owners.flat_map(|o| [(o, Direction::Send), (o, Direction::Receive)]));
            let stop = AtomicBool::new(false);
            // Accepting goes on while dialling: the others do the same.
            std::thread::scope(|scope| {
                let accepting = scope.spawn(|| accept_all(ends, listener, expected, deadline, &stop));
                let dialled: Result<Vec<_>, _> = servers().map(|peer| dial(peer, Direction::Send)).collect();
                stop.store(dialled.is_err(), Ordering::Relaxed);
                let accepted = accepting.join();
                let mut all = dialled?;
                all.extend(accepted.unwrap_or_else(|_| {
                    Err(ConnectError::Handshake { peer: "a peer".into(), why: "the listener stopped".into() })
                })?);
                Ok(all)
            })?
        }
    };
    let mut halves: BTreeMap<Endpoint, (Option<Connection>, Option<Connection>)> = BTreeMap::new();
    for connection in connections {
        let half = halves.entry(connection.peer).or_default();
        // What a dialler sends, the accepter receives.
        let outgoing = (connection.direction == Direction::Send) != connection.accepted;
        if outgoing { half.0 = Some(connection) } else { half.1 = Some(connection) }
    }
    let mut links: Vec<(Endpoint, Box<dyn Link>)> = vec![];
    for (peer, half) in halves {
        let (Some(out), Some(incoming)) = half else {
            return Err(ConnectError::Unexpected { peer: peer.to_string() });
        };
        links.push((
            peer,
            Box::new(TlsLink {
                wire: out.wire,
                sockets: [out.socket, incoming.socket],
                out: StreamSender::new(peer, out.stream, link),
                incoming: StreamReceiver::new(peer, incoming.stream, deadline),
            }),
        ));
    }
    Ok(Net::new(me, links))
}

fn accept_all(
    ends: &Ends,
    listener: &TcpListener,
    mut expected: Vec<(Endpoint, Direction)>,
    deadline: Duration,
    stop: &AtomicBool,
) -> Result<Vec<Connection>, ConnectError> {
    let mut accepted = vec![];
    let end = Instant::now() + deadline;
    while !expected.is_empty() {
        match ends.accept(listener, &expected, stop) {
            Ok(connection) => {
                expected.retain(|e| *e != (connection.peer, connection.direction));
                accepted.push(connection);
            }
            // A stranger on the port must not end the session.
            Err(error) if Instant::now() < end && !stop.load(Ordering::Relaxed) => {
                tracing::warn!("refused a connection: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(accepted)
}

/// What a child process is told, as one line of JSON on its standard input.
#[derive(Serialize, Deserialize)]
pub struct Assignment {
    /// Which server it is.
    pub server: u8,
    /// Its certificate and key.
    pub identity: Identity,
    /// The session.
    pub session: [u8; 16],
    /// How often the program runs.
    pub runs: usize,
    /// Whether it keeps a record of when it did what.
    pub trace: bool,
    /// Where it keeps its shares of the states.
    pub checkpoints: Option<Checkpoints>,
    /// How many states are opened at the end.
    pub opened: usize,
    /// How long it waits for another party, in seconds.
    pub deadline: f64,
    /// Shape of its links: latency in seconds, bytes per second.
    pub link: (f64, Option<f64>),
    /// Worker threads.
    pub threads: usize,
    /// The compiled program.
    pub program: Program,
}

/// Longest that a server which runs says nothing.
pub const BEAT: Duration = Duration::from_secs(1);

/// What a child process says, one line of JSON each on its standard output.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It listens there.
    Listening(SocketAddr),
    /// So many layers are done; said every [`BEAT`] at least, also while nothing happens: who says nothing is stopped.
    Progress(u64),
    /// It is done.
    Done(Box<EndReport>),
    /// It failed.
    Failed {
        /// One sentence.
        why: String,
        /// True when a peer was silent rather than gone: the likelier cause.
        silence: bool,
    },
}

fn say(said: &Said) {
    // A parent that is gone is noticed by the reader of standard input.
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, said);
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// The body of a child process. Returns its exit code.
#[must_use]
pub fn run() -> u8 {
    match body() {
        Ok(report) => {
            say(&Said::Done(Box::new(report)));
            0
        }
        Err((why, silence)) => {
            say(&Said::Failed { why, silence });
            1
        }
    }
}

/// Ends the progress thread however the server's work ends.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn body() -> Result<EndReport, (String, bool)> {
    let plain = |e: &dyn std::fmt::Display| (e.to_string(), false);
    let mut lines = std::io::stdin().lock().lines();
    // The first line holds a private key.
    let mut line = || match lines.next() {
        Some(Ok(line)) => Ok(zeroize::Zeroizing::new(line)),
        _ => Err(("the parent process is gone".to_string(), false)),
    };
    let task: Assignment = serde_json::from_str(&line()?).map_err(|e| plain(&e))?;
    let me = Endpoint(task.server);
    let deadline = Duration::from_secs_f64(task.deadline);
    let link = LinkModel { latency: Duration::from_secs_f64(task.link.0), bandwidth: task.link.1 };
    let ends = Ends::new(me, &task.identity, task.session, deadline).map_err(|e| plain(&e))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| plain(&e))?;
    say(&Said::Listening(listener.local_addr().map_err(|e| plain(&e))?));
    let addresses: BTreeMap<u8, SocketAddr> = serde_json::from_str(&line()?).map_err(|e| plain(&e))?;
    drop(lines);
    // The parent holds our standard input open for as long as it lives.
    std::thread::spawn(|| {
        let mut rest = String::new();
        while std::io::stdin().lock().read_line(&mut rest).is_ok_and(|n| n > 0) {}
        std::process::exit(1);
    });
    let progress = AtomicU64::new(0);
    let shared = Shared {
        session: task.session,
        program: &task.program,
        runs: task.runs,
        trace: task.trace,
        checkpoints: task.checkpoints.as_ref(),
        opened: task.opened,
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _finish = Finish(&finished);
        scope.spawn(|| {
            let (mut last, mut said) = (0, Instant::now());
            while !finished.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                let now = progress.load(Ordering::Relaxed);
                if (me == Endpoint(0) && now != last) || said.elapsed() > BEAT {
                    say(&Said::Progress(now));
                    (last, said) = (now, Instant::now());
                }
            }
        });
        let net = connect(me, &ends, Some(&listener), &addresses, task.program.owners(), link, deadline);
        serve(shared, net.map_err(|e| plain(&e))?, task.threads, &progress).map_err(|e| {
            use sordino_mpc::Error::Net;
            let silence = matches!(&e, sordino_nn::Error::Protocol(Net(sordino_net::NetError::Timeout { .. })));
            (format!("server {}: {e}", me.0), silence)
        })
    })
}
