//! A computing party as a process of its own: what it is told and says, and its body.

use crate::checkpoint::Checkpoints;
use crate::compute::Compute;
use crate::error::sentence;
use crate::links::{Connecting, connect};
use crate::report::EndReport;
use crate::session::{self, Job, Owned, UNCONNECTED, rank};
use crate::threads::spawn;
use crate::tls::{Ends, Identity};
use serde::{Deserialize, Serialize};
use sordino_mpc::System;
use sordino_net::{Endpoint, LinkModel};
use sordino_nn::program::Program;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a child process is told, as one line of JSON on its standard input.
#[derive(Serialize, Deserialize)]
pub struct Assignment {
    /// Which end it is.
    pub end: u8,
    /// Its certificate and key.
    pub identity: Identity,
    /// The session.
    pub session: [u8; 16],
    /// Whether it starts from the shares that it keeps.
    pub kept: bool,
    /// The first run.
    pub first: usize,
    /// How often the program runs.
    pub runs: usize,
    /// Whether it keeps a record of when it did what.
    pub trace: bool,
    /// Where it keeps its shares of the states.
    pub checkpoints: Option<Checkpoints>,
    /// How many states are opened at the end.
    pub opened: usize,
    /// For how many runs transfers are drawn before the first one.
    pub prepared: usize,
    /// How long it waits for another party, in seconds.
    pub deadline: f64,
    /// Shape of its links: latency in seconds, bytes per second.
    pub link: (f64, Option<f64>),
    /// What it computes on.
    pub compute: Compute,
    /// The compiled program.
    pub program: Program,
    /// Of a client of two: the encoded inputs of every run.
    pub inputs: Option<Vec<Vec<Vec<i64>>>>,
}

/// What a child process has when it is done.
#[derive(Serialize, Deserialize)]
pub struct Done {
    /// Traffic and times.
    pub report: EndReport,
    /// Integers of every output of every run, at a receiver.
    pub outputs: Vec<Vec<Vec<i64>>>,
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
    Done(Box<Done>),
    /// It failed.
    Failed {
        /// One sentence.
        why: String,
        /// How likely it is the consequence of another end's failure: see [`crate::session::rank`].
        rank: u8,
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
        Ok(done) => {
            say(&Said::Done(Box::new(done)));
            0
        }
        Err((why, rank)) => {
            say(&Said::Failed { why, rank });
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

fn body() -> Result<Done, (String, u8)> {
    let plain = |e: &dyn std::fmt::Display| (e.to_string(), 0);
    let mut lines = std::io::stdin().lock().lines();
    // The first line holds a private key.
    let mut line = || match lines.next() {
        Some(Ok(line)) => Ok(zeroize::Zeroizing::new(line)),
        _ => Err(("the parent process is gone".to_string(), 0)),
    };
    let task: Assignment = serde_json::from_str(&line()?).map_err(|e| plain(&e))?;
    let me = Endpoint(task.end);
    let topology = task.program.topology();
    let deadline = Duration::from_secs_f64(task.deadline);
    let link = LinkModel { latency: Duration::from_secs_f64(task.link.0), bandwidth: task.link.1 };
    let ends = Ends::new(me, topology, &task.identity, task.session, deadline).map_err(|e| plain(&e))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| plain(&e))?;
    say(&Said::Listening(listener.local_addr().map_err(|e| plain(&e))?));
    let addresses: BTreeMap<u8, SocketAddr> = serde_json::from_str(&line()?).map_err(|e| plain(&e))?;
    drop(lines);
    // The parent holds our standard input open for as long as it lives.
    let watch = || {
        let mut rest = String::new();
        while std::io::stdin().lock().read_line(&mut rest).is_ok_and(|n| n > 0) {}
        std::process::exit(1);
    };
    let watching = std::thread::Builder::new().name("the parent's watch".into()).spawn(watch);
    watching.map_err(|e| plain(&format!("no thread can be started: {e}")))?;
    let progress = AtomicU64::new(0);
    let job = Job {
        session: task.session,
        program: &task.program,
        kept: task.kept,
        first: task.first,
        runs: task.runs,
        trace: task.trace,
        opened: task.opened,
        prepared: task.prepared,
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _finish = Finish(&finished);
        let beat = spawn(scope, "the beat", || {
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
        beat.map_err(|e| plain(&e))?;
        let stop = AtomicBool::new(false);
        let how =
            Connecting { addresses: &addresses, link, connect: deadline, deadline, patience: deadline, stop: &stop };
        // Who cannot connect is likelier to be told of another's failure than to be the cause.
        let net = connect(me, &ends, Some(&listener), &how).map_err(|e| (e.to_string(), UNCONNECTED))?;
        let (mut inputs, mut unwatched) = (task.inputs.as_deref().unwrap_or_default(), ());
        let mut owned = Owned { checkpoints: task.checkpoints.as_ref(), ..Owned::default() };
        if task.inputs.is_some() {
            owned.inputs = Some(&mut inputs);
            owned.outputs = Some(&mut unwatched);
        }
        let ended = session::run(job, net, owned, &task.compute, &System, &progress);
        let named = |e| (format!("{}: {}", topology.name(me), sentence(&topology, &e)), rank(&e));
        ended.map(|e| Done { report: e.report, outputs: e.outputs }).map_err(named)
    })
}
