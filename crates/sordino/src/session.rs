//! A session: three servers and a client run one program any number of times.

use crate::checkpoint::{Checkpoints, Mark};
use crate::report::{Bytes, DETAILED, EndReport, RunReport, Trace, cpu_seconds};
use crate::{Error, Result};
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Client, Role, Step};
use sordino_net::{Endpoint, Link, LinkModel, Meter, Net, Tag, memory_links};
use sordino_nn::exec::Loaded;
use sordino_nn::program::{Program, Secrets};
use sordino_ring::Cpu;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

/// What all ends of a session know.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// Fresh for every session.
    pub session: [u8; 16],
    /// The compiled program.
    pub program: &'a Program,
    /// How many times it runs, earlier sessions included.
    pub runs: usize,
    /// Whether ends keep a record of when they did what.
    pub trace: bool,
    /// Where servers keep their shares of the states.
    pub checkpoints: Option<&'a Checkpoints>,
    /// How many of the states, from the first on, are opened to the model's owner at the end.
    pub opened: usize,
}

impl Shared<'_> {
    /// The first run: those before it were done by an earlier session of the same training.
    fn first(&self) -> usize {
        self.checkpoints.filter(|c| c.every.is_some()).map_or(0, Checkpoints::first)
    }

    /// True for an owner whom a run opens nothing to.
    fn untold(&self, owner: Endpoint) -> bool {
        owner != Endpoint::CLIENT || self.program.outputs.is_empty()
    }

    /// The data owners; the client is the first.
    fn owners(&self) -> Vec<Endpoint> {
        (0..self.program.owners()).map(|k| Role::owner(k).endpoint()).collect()
    }
}

/// Fresh randomness for a session's id.
///
/// # Errors
/// When the operating system has none.
pub fn fresh_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| Error::Session("the operating system's random generator failed".into()))?;
    Ok(id)
}

/// Tells the client that a server holds its shares of the model.
const READY: Tag = Tag(*b"model is loaded.");

/// Tells the client that a run without outputs is over.
const DONE: Tag = Tag(*b"the run is over.");

fn net_error(e: sordino_net::NetError) -> sordino_nn::Error {
    sordino_nn::Error::Protocol(e.into())
}

/// Runs one server to the end of the session.
///
/// # Errors
/// Those of the protocol.
pub fn serve(shared: Shared<'_>, net: Net, threads: usize, progress: &AtomicU64) -> sordino_nn::Result<EndReport> {
    let hash = shared.program.hash();
    let info = SessionInfo { session: shared.session, program: hash };
    let prss = establish(&net, &info).map_err(sordino_nn::Error::Protocol)?;
    let server =
        Rep3::new(Cpu::new(threads), net, prss, shared.program.settings).map_err(sordino_nn::Error::Protocol)?;
    let mut at = Step::root(shared.session);
    // What is kept is authenticated, and with it the program, before anything of the program runs.
    let kept = kept(&shared, server.net().me().0, hash)?;
    let loaded = Loaded::load(&server, at.child("load"), shared.program, None)?;
    let keep = Keep { shared: &shared, server: &server, loaded: &loaded };
    if let Some(shares) = kept {
        keep.resume(&shares)?;
    }
    let tell = |end: &Endpoint, what: Tag| server.net().send(*end, what, vec![]).map_err(net_error);
    let owners = shared.owners();
    owners.iter().try_for_each(|o| tell(o, READY))?;
    server.net().reset_meter();
    let mut marks = Marks::new(server.net(), shared.trace);
    for run in shared.first()..shared.runs {
        marks.run();
        loaded.run(&server, at.child("run"), None, |layer| {
            marks.layer(layer);
            progress.fetch_add(1, Ordering::Relaxed);
        })?;
        marks.end_run();
        // Owners who get nothing are told, so that inputs do not pile up.
        owners.iter().filter(|o| shared.untold(**o)).try_for_each(|o| tell(o, DONE))?;
        keep.checkpoint(run + 1)?;
    }
    let report = marks.report();
    for state in 0..shared.opened {
        loaded.open_state(&server, at.child("state"), state)?;
    }
    Ok(report)
}

/// A server's states and its disk.
struct Keep<'a> {
    shared: &'a Shared<'a>,
    server: &'a Rep3<Cpu>,
    loaded: &'a Loaded<'a, Rep3<Cpu>>,
}

/// A server's kept shares, if the session starts from them.
fn kept(shared: &Shared<'_>, server: u8, program: [u8; 32]) -> sordino_nn::Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(checkpoints) = shared.checkpoints.filter(|c| c.from.is_some() || c.every.is_none()) else {
        return Ok(None);
    };
    if checkpoints.every.is_none() && shared.opened > 0 {
        return Err(sordino_nn::Error::State("a model that is kept for answers is not opened".into()));
    }
    checkpoints.read(server, program).map(Some).map_err(|e| sordino_nn::Error::State(e.to_string()))
}

impl Keep<'_> {
    fn number(&self) -> u8 {
        self.server.net().me().0
    }

    fn resume(&self, shares: &[u8]) -> sordino_nn::Result<()> {
        let program = self.shared.program;
        let shapes: Vec<_> = program.states.iter().map(|s| program.slots[s.read].shape.clone()).collect();
        let states = self.server.import(shares, &shapes).map_err(sordino_nn::Error::Protocol)?;
        self.loaded.resume(states, self.shared.first());
        Ok(())
    }

    fn checkpoint(&self, done: usize) -> sordino_nn::Result<()> {
        let due =
            |c: &&Checkpoints| c.every.is_some_and(|every| done.is_multiple_of(every) || done == self.shared.runs);
        let Some(checkpoints) = self.shared.checkpoints.filter(due) else { return Ok(()) };
        let shares = self.server.export(&self.loaded.states()).map_err(sordino_nn::Error::Protocol)?;
        let mark = Mark { iteration: done, session: self.shared.session };
        let written = checkpoints.write(self.number(), mark, shares);
        written.map_err(|e| sordino_nn::Error::State(e.to_string()))
    }
}

/// What an owner does around each run.
pub trait Owner: Send {
    /// The encoded inputs of a run; what others provide is left empty.
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>>;
    /// A run's outputs have been opened.
    fn opened(&mut self, _run: usize, _outputs: &[Vec<i64>], _seconds: f64) {}
}

impl Owner for &[Vec<Vec<i64>>] {
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>> {
        Ok(self.get(run).cloned().unwrap_or_default())
    }
}

/// What the client ends with.
pub struct Driven {
    /// Integers of every output, for every run.
    pub outputs: Vec<Vec<Vec<i64>>>,
    /// Integers of the opened states at the end.
    pub states: Vec<Vec<i64>>,
    /// Traffic.
    pub report: EndReport,
    /// Traffic of further data owners.
    pub further: Vec<EndReport>,
}

impl Driven {
    /// Seconds of every run: from the first share sent to the last output opened.
    #[must_use]
    pub fn seconds(&self) -> Vec<f64> {
        self.report.runs.iter().map(|r| r.seconds).collect()
    }

    /// Reports of all ends: servers, the client, further data owners.
    pub fn ends<'a>(&'a self, servers: &'a [EndReport]) -> impl Iterator<Item = &'a EndReport> {
        servers.iter().chain([&self.report]).chain(&self.further)
    }

    /// Traffic of all ends.
    #[must_use]
    pub fn bytes(&self, servers: &[EndReport]) -> Bytes {
        let mut by_party = [0; 4];
        self.ends(servers).enumerate().for_each(|(i, e)| by_party[i.min(3)] += e.payload);
        let sum = |of: fn(&EndReport) -> u64| self.ends(servers).map(of).sum();
        Bytes { payload: sum(|e| e.payload), wire: sum(|e| e.wire), by_party }
    }
}

/// Runs an owner: the client shares the model, further ones only their data. Each shares its inputs of every run; the
/// client opens the outputs, and at the end the states that are to be opened, to the model's owner.
///
/// # Errors
/// Those of the protocol.
pub fn drive(
    shared: Shared<'_>,
    net: Net,
    secrets: Option<&Secrets>,
    owner: &mut dyn Owner,
) -> sordino_nn::Result<Driven> {
    let (me, client) = (net.me(), Client::new(net, shared.program.settings));
    let mut at = Step::root(shared.session);
    let loaded = Loaded::load(&client, at.child("load"), shared.program, secrets)?;
    let told = |what: Tag| {
        Endpoint::SERVERS.iter().try_for_each(|s| client.net().recv(*s, what, &[]).map(drop)).map_err(net_error)
    };
    told(READY)?;
    client.net().reset_meter();
    let (mut outputs, mut marks) = (vec![], Marks::new(client.net(), false));
    for run in shared.first()..shared.runs {
        let input = owner.inputs(run)?;
        marks.run();
        let opened = loaded.run(&client, at.child("run"), Some(&input), |layer| marks.layer(layer))?;
        if shared.untold(me) {
            told(DONE)?;
        }
        let seconds = marks.end_run();
        let opened: Vec<Vec<i64>> = opened.into_iter().map(Option::unwrap_or_default).collect();
        owner.opened(run, &opened, seconds);
        outputs.push(opened);
    }
    let report = marks.report();
    let mut states = vec![];
    for state in 0..shared.opened {
        states.push(loaded.open_state(&client, at.child("state"), state)?.unwrap_or_default());
    }
    Ok(Driven { outputs, states, report, further: vec![] })
}

/// Attributes time, bytes and rounds to runs and layers.
struct Marks<'n> {
    net: &'n Net,
    runs: Vec<RunReport>,
    trace: Option<Trace>,
    open: Option<(usize, u64, Meter)>,
    /// Processor seconds, rounds and time when the run began.
    began: (f64, u32, Instant),
}

impl<'n> Marks<'n> {
    fn new(net: &'n Net, trace: bool) -> Self {
        let timeline = net.timeline();
        let trace = trace.then(|| {
            timeline.record();
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Trace { origin: (since.as_nanos() as u64).saturating_sub(timeline.now()), ..Trace::default() }
        });
        Self { net, runs: vec![], trace, open: None, began: (0.0, 0, Instant::now()) }
    }
    fn run(&mut self) {
        self.runs.push(RunReport::default());
        self.began = (cpu_seconds(), self.net.meter().rounds, Instant::now());
    }
    fn layer(&mut self, layer: usize) {
        self.end();
        self.open = Some((layer, self.net.timeline().now(), self.net.meter()));
    }
    fn end(&mut self) {
        let detailed = self.runs.len().min(DETAILED);
        let run = self.runs[..detailed].last_mut();
        let Some(((layer, start, before), run)) = self.open.take().zip(run) else { return };
        let (length, meter) = (self.net.timeline().now() - start, self.net.meter());
        let entry = run.layers.entry(layer).or_default();
        let seconds = |ns: u64| ns as f64 * 1e-9;
        entry.seconds += seconds(length);
        entry.waited += seconds(meter.spent.receive - before.spent.receive);
        entry.sending += seconds(meter.spent.send - before.spent.send);
        entry.randomness += seconds(meter.spent.randomness - before.spent.randomness);
        entry.bytes += meter.payload() - before.payload();
        entry.rounds += meter.rounds.saturating_sub(before.rounds);
        if let Some(trace) = &mut self.trace {
            trace.layers.push((layer, start, length));
        }
    }
    /// Returns the run's seconds.
    fn end_run(&mut self) -> f64 {
        self.end();
        let seconds = self.began.2.elapsed().as_secs_f64();
        if let Some(run) = self.runs.last_mut() {
            run.seconds = seconds;
            run.cpu_seconds = cpu_seconds() - self.began.0;
            run.rounds = self.net.meter().rounds - self.began.1;
        }
        seconds
    }
    fn report(mut self) -> EndReport {
        if let Some(trace) = &mut self.trace {
            trace.spans = self.net.timeline().take();
        }
        EndReport::new(&self.net.meter(), self.runs, self.trace)
    }
}

/// How an in-process session is set up.
pub struct InProcess {
    /// Shape of every link.
    pub link: LinkModel,
    /// How long a party waits for another.
    pub deadline: Duration,
    /// Worker threads per party.
    pub threads: usize,
}

/// Runs a whole session on threads of this process, over memory links. The first owner is the client.
///
/// # Errors
/// [`Error::Session`] or the client's error.
pub fn in_process(
    shared: Shared<'_>,
    setup: &InProcess,
    secrets: &Secrets,
    owners: &mut [&mut dyn Owner],
    progress: &AtomicU64,
) -> Result<(Driven, Vec<EndReport>)> {
    let all: Vec<Endpoint> = Endpoint::SERVERS.into_iter().chain(shared.owners()).collect();
    let mut ends: Vec<BTreeMap<Endpoint, Box<dyn Link>>> = all.iter().map(|_| BTreeMap::new()).collect();
    // Owners wait for whole runs; a failed server ends their wait by hanging up.
    let patient = Duration::from_secs(365 * 86400);
    for (i, &a) in Endpoint::SERVERS.iter().enumerate() {
        for (j, &b) in all.iter().enumerate().skip(i + 1) {
            let deadline = if b.is_server() { setup.deadline } else { patient };
            let (ab, ba) = memory_links(a, b, setup.link, deadline);
            ends[i].insert(b, ab);
            ends[j].insert(a, ba);
        }
    }
    let mut nets = all.iter().zip(ends).map(|(&end, links)| Net::new(end, links));
    std::thread::scope(|scope| {
        let servers: Vec<_> = nets
            .by_ref()
            .take(3)
            .enumerate()
            .map(|(i, net)| {
                let quiet = AtomicU64::new(0);
                scope.spawn(move || {
                    let progress = if i == 0 { progress } else { &quiet };
                    serve(shared, net, setup.threads, progress)
                })
            })
            .collect();
        let driven = drive_all(shared, secrets, owners, nets.map(Ok));
        let (mut reports, mut causes) = (vec![], vec![]);
        for server in servers {
            match server.join() {
                Ok(Ok(report)) => reports.push(report),
                Ok(Err(e)) => causes.push(e),
                Err(_) => return Err(Error::Session("a party stopped unexpectedly".into())),
            }
        }
        // A lost or silent peer is the consequence of another party's failure, if there is one.
        let net = |e: &sordino_nn::Error| matches!(e, sordino_nn::Error::Protocol(sordino_mpc::Error::Net(_)));
        causes.sort_by_key(net);
        match (driven, causes.into_iter().next()) {
            (Err(Error::Model(e)), Some(cause)) if net(&e) && !net(&cause) => Err(Error::Model(cause)),
            (Err(e), _) => Err(e),
            (Ok(_), Some(e)) => Err(Error::Model(e)),
            (Ok(driven), None) => Ok((driven, reports)),
        }
    })
}

/// Runs all owners, further ones on threads of their own; the client's result is the session's, with the first cause if
/// one of them fails.
pub(crate) fn drive_all(
    shared: Shared<'_>,
    secrets: &Secrets,
    owners: &mut [&mut dyn Owner],
    nets: impl Iterator<Item = Result<Net>>,
) -> Result<Driven> {
    let nets = nets.collect::<Result<Vec<Net>>>()?;
    if nets.len() != owners.len() {
        return Err(Error::Session(format!("{} data owners where the program takes {}", owners.len(), nets.len())));
    }
    std::thread::scope(|scope| {
        let mut ends = nets.into_iter().zip(owners.iter_mut());
        let client = ends.next();
        let further: Vec<_> =
            ends.map(|(net, owner)| scope.spawn(move || drive(shared, net, None, &mut **owner))).collect();
        let driven = match client {
            Some((net, owner)) => drive(shared, net, Some(secrets), &mut **owner).map_err(Error::Model),
            None => Err(Error::Session("a session without owners".into())),
        };
        let mut reports = vec![];
        for owner in further {
            match owner.join() {
                Ok(Ok(owner)) => reports.push(owner.report),
                // The client's failure comes first: it may be the cause.
                Ok(Err(e)) => return Err(driven.err().unwrap_or(Error::Model(e))),
                Err(_) => return Err(Error::Session("a data owner stopped unexpectedly".into())),
            }
        }
        Ok(Driven { further: reports, ..driven? })
    })
}
