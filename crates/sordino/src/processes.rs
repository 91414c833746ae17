//! Computing parties as child processes over loopback TCP with mutual TLS and throw-away certificates.

use crate::checkpoint::Checkpoints;
use crate::compute::Compute;
use crate::in_process::PATIENT;
use crate::links::{Connecting, connect};
use crate::owners::{self, Finished, Owners, Running};
use crate::party::{Assignment, BEAT, Done, Said};
use crate::session::{Ended, Job};
use crate::threads::{join, spawn};
use crate::tls::{Authority, Ends};
use crate::{Error, Result};
use sordino_mpc::{Role, System, Topology};
use sordino_net::{Endpoint, LinkModel, Net};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How a session over processes is set up.
pub struct Processes {
    /// Shape of every link.
    pub link: LinkModel,
    /// How long a party waits for another.
    pub deadline: Duration,
    /// What each computes on.
    pub compute: Compute,
    /// Set when the user interrupts.
    pub interrupted: Arc<AtomicBool>,
    /// What each child runs, with the argument `party`: a program that then calls [`crate::party::run`].
    pub program: PathBuf,
}

/// Child processes that do not outlive this value.
#[derive(Clone, Default)]
struct Children(Arc<Mutex<Vec<Child>>>);

impl Children {
    fn kill(&self) {
        if let Ok(mut children) = self.0.lock() {
            for child in children.iter_mut() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Kills the children when the session ends, however it ends.
struct Reaper(Children);

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn start(
    children: &Children,
    program: &PathBuf,
    end: Endpoint,
    name: &str,
    said: &mpsc::Sender<(u8, Option<Said>)>,
) -> Result<ChildStdin> {
    let failed = |e: std::io::Error| Error::Session(format!("cannot start {name}: {e}"));
    let mut command = Command::new(program);
    // Large buffers come and go with every layer: giving them back to the system each time costs up to a quarter of a
    // training step in page faults.
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        command.env("MIMALLOC_PURGE_DELAY", "-1");
    }
    let mut child = command
        .arg("party")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    if let Ok(mut list) = children.0.lock() {
        list.push(child);
    }
    let Some((stdin, stdout)) = pipes else {
        return Err(Error::Session(format!("{name} has no pipes")));
    };
    let said = said.clone();
    let listen = move || {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            if let Ok(message) = serde_json::from_str(&line)
                && said.send((end.0, Some(message))).is_err()
            {
                return;
            }
        }
        let _ = said.send((end.0, None));
    };
    std::thread::Builder::new().name(format!("hears {name}")).spawn(listen).map_err(failed)?;
    Ok(stdin)
}

/// What the children said, and how they ended.
#[derive(Default)]
struct Heard {
    done: BTreeMap<u8, Done>,
    /// Failures in the order they came, with their ranks.
    failures: Vec<(u8, String, u8)>,
    gone: BTreeMap<u8, bool>,
}

impl Heard {
    /// The likeliest cause: what an end found out by itself, a party that vanished without a word, a silent one, then whoever
    /// failed first.
    fn cause(&self, topology: &Topology, owners: Option<(u8, Error)>) -> Option<Error> {
        let vanished =
            self.gone.keys().find(|s| !self.failures.iter().any(|f| f.0 == **s) && !self.done.contains_key(s));
        let vanished = vanished.map(|s| {
            let name = topology.name(Endpoint(*s));
            (0, Error::Session(format!("{name} stopped without finishing")))
        });
        let failed = self.failures.iter().map(|(_, why, rank)| (*rank, Error::Session(why.clone())));
        // What somebody found out comes before somebody's end, which may be our own doing; an owner's loss of a server comes last.
        let (found, lost): (Vec<_>, Vec<_>) = failed.partition(|f| f.0 == 0);
        let (own, theirs): (Vec<_>, Vec<_>) = owners.into_iter().partition(|f| f.0 == 0);
        let all = own.into_iter().chain(found).chain(vanished).chain(lost).chain(theirs);
        all.min_by_key(|f| f.0).map(|f| f.1)
    }
}

/// Runs a whole session whose computing parties are child processes; every owner is an end of this process, with a
/// certificate of its own.
///
/// # Errors
/// [`Error::Session`] with one sentence on the likeliest cause; no child survives.
pub fn run(
    job: Job<'_>,
    setup: &Processes,
    owners: Owners<'_>,
    checkpoints: Option<&Checkpoints>,
    progress: &AtomicU64,
) -> Result<Finished> {
    let certificate = |e: rcgen::Error| Error::Session(format!("cannot make certificates: {e}"));
    let topology = job.topology();
    let authority = Authority::new().map_err(certificate)?;
    let children = Children::default();
    let _reaper = Reaper(children.clone());
    let (said, hears) = mpsc::channel();
    let mut tasks = vec![];
    // Of two parties the model's owner stays here, and the client gets its inputs along.
    let here = if topology.owning().is_empty() { vec![topology.end(Role::ModelOwner)] } else { topology.owning() };
    let away: Vec<Endpoint> = topology.ends().into_iter().filter(|end| !here.contains(end)).collect();
    let mut owners = owners;
    let given = away.iter().any(|end| *end == topology.end(Role::DataOwner(0)));
    let inputs = if given { Some(all_inputs(job, &mut owners)?) } else { None };
    for &end in &away {
        let stdin = start(&children, &setup.program, end, &topology.name(end), &said)?;
        let task = Assignment {
            end: end.0,
            identity: authority.identity(&topology, end).map_err(certificate)?,
            session: job.session,
            kept: job.kept,
            first: job.first,
            runs: job.runs,
            trace: job.trace,
            checkpoints: checkpoints.cloned(),
            opened: job.opened,
            prepared: job.prepared,
            deadline: setup.deadline.as_secs_f64(),
            link: (setup.link.latency.as_secs_f64(), setup.link.bandwidth),
            compute: setup.compute,
            program: job.program.clone(),
            inputs: inputs.clone(),
        };
        tasks.push((stdin, task));
    }
    drop(said);
    // A child that reads nothing would block the writer; it is ended by the listener's deadline.
    let (addresses, mut pipes) = std::thread::scope(|scope| {
        let writer = spawn(scope, "the servers' assignments", move || {
            let write = |(mut stdin, task): (ChildStdin, Assignment)| {
                write_line(&mut stdin, &task, &topology.name(Endpoint(task.end)))?;
                Ok(stdin)
            };
            tasks.into_iter().map(write).collect::<Result<Vec<_>>>()
        })?;
        let addresses = listening(&hears, setup, &topology, away.len()).inspect_err(|_| children.kill());
        let pipes = join(writer).and_then(|pipes| pipes);
        Ok::<_, Error>((addresses?, pipes?))
    })?;
    for (end, stdin) in away.iter().zip(&mut pipes) {
        write_line(stdin, &addresses, &topology.name(*end))?;
    }

    let watch = Watch::default();
    let driven = std::thread::scope(|scope| {
        let (watch, killed, away) = (&watch, children.clone(), &away[..]);
        let supervisor = move || {
            supervise(&hears, watch, &killed, &Supervised { setup, topology, away }, progress);
            watch.failed.store(true, Ordering::Relaxed);
        };
        spawn(scope, "the supervisor", supervisor).inspect_err(|_| children.kill()).map_err(|e| (0, e))?;
        let net = |me: Endpoint| -> Result<Net> {
            let identity = authority.identity(&topology, me).map_err(certificate)?;
            let ends = Ends::new(me, topology, &identity, job.session, setup.deadline)
                .map_err(|e| Error::Session(format!("cannot set up TLS: {e}")))?;
            // Owners wait for whole runs; the supervisor ends their wait when a server fails.
            let Processes { link, deadline, .. } = *setup;
            let how = Connecting {
                addresses: &addresses,
                link,
                connect: deadline,
                deadline,
                patience: PATIENT,
                stop: &watch.failed,
            };
            connect(me, &ends, None, &how).map_err(|e| Error::Session(e.to_string()))
        };
        let running = Running {
            ends: here.clone(),
            entropy: &|_| Box::new(System),
            net: &net,
            abandon: &|| children.kill(),
            compute: setup.compute,
            progress,
        };
        let driven = owners::run(job, owners, &running);
        // The supervisor goes on until the children's last words are heard.
        watch.done.store(true, Ordering::Relaxed);
        driven
    });
    if setup.interrupted.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let heard = watch.heard.into_inner().map_err(|_| Error::Session("the supervisor stopped".into()))?;
    match driven {
        Ok(ended) if heard.done.len() == away.len() => Ok(finished(topology, ended, heard.done)),
        other => {
            let none = || Error::Session("a party gave no report".into());
            Err(heard.cause(&topology, other.err()).unwrap_or_else(none))
        }
    }
}

/// What the ends here and the children ended with.
fn finished(topology: Topology, here: Vec<Ended>, children: BTreeMap<u8, Done>) -> Finished {
    if topology.owning().is_empty() {
        let child = |done: Done| Ended { outputs: done.outputs, states: vec![], report: done.report };
        return Finished::new(topology, vec![], here.into_iter().chain(children.into_values().map(child)).collect());
    }
    Finished::new(topology, children.into_values().map(|done| done.report).collect(), here)
}

/// The inputs of all runs, of an owner who is not here.
fn all_inputs(job: Job<'_>, owners: &mut Owners<'_>) -> Result<Vec<Vec<Vec<i64>>>> {
    let mut data = std::mem::take(&mut owners.data).into_iter();
    let owner = data.next().ok_or_else(|| Error::Usage("there is no data owner".into()))?;
    (job.first..job.runs).map(|run| Ok(owner.inputs(run)?)).collect()
}

/// Waits until all children listen.
fn listening(
    hears: &mpsc::Receiver<(u8, Option<Said>)>,
    setup: &Processes,
    topology: &Topology,
    children: usize,
) -> Result<BTreeMap<u8, SocketAddr>> {
    let end = Instant::now() + setup.deadline + Duration::from_secs(10);
    let mut addresses = BTreeMap::new();
    let name = |end: u8| topology.name(Endpoint(end));
    while addresses.len() < children {
        if setup.interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        match hears.recv_timeout(Duration::from_millis(100)) {
            Ok((server, Some(Said::Listening(address)))) => {
                addresses.insert(server, address);
            }
            Ok((server, Some(Said::Failed { why, .. }))) => {
                return Err(Error::Session(format!("{}: {why}", name(server))));
            }
            Ok((server, None)) => return Err(Error::Session(format!("{} did not start", name(server)))),
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > end => {
                let missing = topology.computing().into_iter().map(|e| e.0).find(|e| !addresses.contains_key(e));
                return Err(Error::Session(format!("{} did not start in time", name(missing.unwrap_or(0)))));
            }
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::Session("no party started".into())),
        }
    }
    Ok(addresses)
}

/// Counts what is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_line(stdin: &mut ChildStdin, value: &impl serde::Serialize, name: &str) -> Result<()> {
    let failed = |e: String| Error::Session(format!("cannot talk to {name}: {e}"));
    // Keys are in it: a buffer that grows would leave copies behind.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(|e| failed(e.to_string()))?;
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(length.0 + 1));
    serde_json::to_writer(&mut *line, value).map_err(|e| failed(e.to_string()))?;
    line.push(b'\n');
    stdin.write_all(&line).and_then(|()| stdin.flush()).map_err(|e| failed(e.to_string()))
}

/// What the supervisor and the owners' threads tell each other.
#[derive(Default)]
struct Watch {
    heard: Mutex<Heard>,
    /// The owners are done, or gave up.
    done: AtomicBool,
    /// A server failed: whoever still dials it can stop.
    failed: AtomicBool,
}

/// Who is supervised, and how.
struct Supervised<'a> {
    setup: &'a Processes,
    topology: Topology,
    away: &'a [Endpoint],
}

/// Listens to the children until all are done. When one fails, gives the others a moment to say why, then ends all.
fn supervise(
    hears: &mpsc::Receiver<(u8, Option<Said>)>,
    watch: &Watch,
    children: &Children,
    Supervised { setup, topology, away }: &Supervised<'_>,
    progress: &AtomicU64,
) {
    let mut end: Option<Instant> = None;
    // A stopped server may be waited for by everybody, who in turn are not waited for with a deadline.
    let mut last: BTreeMap<u8, Instant> = away.iter().map(|end| (end.0, Instant::now())).collect();
    loop {
        let grace = Duration::from_millis(1500);
        let message = hears.recv_timeout(Duration::from_millis(50));
        let Ok(mut heard) = watch.heard.lock() else { return };
        if let Ok((server, _)) = &message {
            last.insert(*server, Instant::now());
        }
        for (server, last) in &last {
            let over = heard.gone.contains_key(server) || heard.done.contains_key(server);
            if !over && end.is_none() && last.elapsed() > setup.deadline + BEAT + grace {
                let (name, seconds) = (topology.name(Endpoint(*server)), setup.deadline.as_secs_f64());
                heard.failures.push((*server, format!("{name} sent nothing for {seconds:.0} seconds"), 1));
                end = Some(Instant::now());
            }
        }
        match message {
            Ok((0, Some(Said::Progress(n)))) => progress.store(n, Ordering::Relaxed),
            Ok((server, Some(Said::Done(done)))) => {
                heard.done.insert(server, *done);
            }
            Ok((server, Some(Said::Failed { why, rank }))) => {
                heard.failures.push((server, why, rank));
                end.get_or_insert_with(|| Instant::now() + grace);
            }
            Ok((server, None)) => {
                heard.gone.insert(server, true);
                if !heard.done.contains_key(&server) {
                    end.get_or_insert_with(|| Instant::now() + grace);
                }
            }
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if heard.gone.len() == away.len() {
            return;
        }
        watch.failed.store(end.is_some(), Ordering::Relaxed);
        if watch.done.load(Ordering::Relaxed) && end.is_none() {
            // The outputs are here or the client gave up: the servers have their deadline to finish.
            end = Some(Instant::now() + setup.deadline + grace);
        }
        if setup.interrupted.load(Ordering::Relaxed) || end.is_some_and(|e| Instant::now() > e) {
            // Whoever misses its beat was stopped, and others may have been told of what they lost by that.
            for (server, last) in last.iter().filter(|(_, last)| last.elapsed() > 3 * BEAT) {
                if !heard.gone.contains_key(server) && !heard.done.contains_key(server) {
                    let (name, silence) = (topology.name(Endpoint(*server)), last.elapsed().min(setup.deadline));
                    let seconds = silence.as_secs_f64();
                    heard.failures.push((*server, format!("{name} sent nothing for {seconds:.0} seconds"), 0));
                }
            }
            drop(heard);
            children.kill();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_end_found_out_is_the_cause() {
        let error = |why: &str| Error::Session(why.into());
        let mut heard = Heard::default();
        heard.failures.push((2, "lost the receiver".into(), 2));
        let said =
            |heard: &Heard, owners| heard.cause(&Topology::three(1), owners).map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(said(&heard, Some((0, error("copies differ")))), "copies differ");
        assert_eq!(said(&heard, Some((2, error("lost server 2")))), "lost the receiver");
        heard.failures.push((1, "server 0 sent nothing".into(), 1));
        assert_eq!(said(&heard, None), "server 0 sent nothing");
        heard.failures.push((0, "a key is missing".into(), 0));
        assert_eq!(said(&heard, None), "a key is missing");
        heard.failures.clear();
        heard.gone.insert(1, true);
        heard.failures.push((2, "lost server 1".into(), 2));
        assert_eq!(said(&heard, Some((2, error("lost server 1")))), "server 1 stopped without finishing");
    }
}
