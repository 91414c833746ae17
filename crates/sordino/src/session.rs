//! A session: every end runs the same public program any number of times over its own protocol. One loop serves all of
//! them: servers, owners, and either of two parties.
//!
//! What an end needs is three things: the [`Job`], which is public; what this end [`Owned`]; and its protocol with the
//! links below it.

use crate::ahead::Ahead;
use crate::checkpoint::Checkpoints;
use crate::compute::{Compute, OnDevice, on_device};
use crate::error::sentence;
use crate::keep::Keep;
use crate::marks::Marks;
use crate::report::{EndReport, Prepared};
use crate::{Error, Result};
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Client, Entropy, Kind, Party, Role, Step, Topology, two};
use sordino_net::{Endpoint, Net, Tag};
use sordino_nn::exec::Loaded;
use sordino_nn::program::{Program, Secrets};
use sordino_ring::{Cpu, Device};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What all ends of a session know. All of it is public.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Fresh for every session.
    pub session: [u8; 16],
    /// The compiled program.
    pub program: &'a Program,
    /// Whether those who compute start from the shares of the states that they keep.
    pub kept: bool,
    /// The first run: those before it were done by an earlier session of the same training.
    pub first: usize,
    /// How many times it runs, earlier sessions included.
    pub runs: usize,
    /// Whether ends keep a record of when they did what.
    pub trace: bool,
    /// How many of the states, from the first on, are opened to the model's owner at the end.
    pub opened: usize,
    /// For how many runs two parties draw the strings of all transfers before the first one.
    pub prepared: usize,
}

impl<'a> Job<'a> {
    /// Runs of a program in a session of its own.
    ///
    /// # Errors
    /// When the operating system has no randomness for its id.
    pub fn new(program: &'a Program, runs: usize) -> Result<Self> {
        Ok(Self { session: fresh_id()?, program, kept: false, first: 0, runs, trace: false, opened: 0, prepared: 0 })
    }

    /// The ends that take part.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.program.topology()
    }

    /// True for an end that runs open nothing to.
    fn untold(&self, end: Endpoint) -> bool {
        self.program.outputs.is_empty() || self.topology().end(Role::Receiver) != end
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

/// A data owner's inputs.
pub trait Inputs: Send {
    /// The encoded inputs of a run; what others provide is left empty.
    ///
    /// # Errors
    /// When one of them does not fit.
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>>;
}

impl Inputs for &[Vec<Vec<i64>>] {
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>> {
        Ok(self.get(run).cloned().unwrap_or_default())
    }
}

/// Whoever receives outputs, while a session runs.
pub trait Outputs: Send {
    /// A run is over, and its outputs, if it has any, have been opened.
    fn opened(&mut self, _run: usize, _outputs: &[Vec<i64>], _seconds: f64) {}
}

impl Outputs for () {}

/// What one end brings to a session.
#[derive(Default)]
pub struct Owned<'a> {
    /// The model's weights.
    pub weights: Option<&'a Secrets>,
    /// Data.
    pub inputs: Option<&'a mut dyn Inputs>,
    /// Who looks at the outputs.
    pub outputs: Option<&'a mut dyn Outputs>,
    /// Where its shares of the states are kept.
    pub checkpoints: Option<&'a Checkpoints>,
}

/// What an end has when a session is over.
pub struct Ended {
    /// Integers of every output, for every run; empty but at the receiver.
    pub outputs: Vec<Vec<Vec<i64>>>,
    /// Integers of the opened states; empty but at the model's owner.
    pub states: Vec<Vec<i64>>,
    /// Its traffic and times.
    pub report: EndReport,
}

/// Tells owners that the computing ends hold their shares of the model.
const READY: Tag = Tag(*b"model is loaded.");

/// Tells owners whom a run opens nothing to that it is over, so that inputs do not pile up.
const DONE: Tag = Tag(*b"the run is over.");

/// Tells the model's owner that an end has its shares of the model, and by the owner that all have: on a slow link one gets more
/// of it than another, and is not silent for that.
const LOADED: Tag = Tag(*b"shares are here.");
const GATHERED: Tag = Tag(*b"all have theirs.");

/// Waits until all ends that compute have loaded the model. They wait for its owner, as patiently as for the model itself.
fn gathered(topology: &Topology, net: &Net) -> sordino_net::Result<()> {
    let (me, owner) = (net.me(), topology.end(Role::ModelOwner));
    if topology.computes(owner) {
        return Ok(());
    }
    if topology.computes(me) {
        net.send(owner, LOADED, vec![])?;
        return net.recv(owner, GATHERED, &[]).map(drop);
    }
    if me == owner {
        topology.computing().into_iter().try_for_each(|end| net.recv(end, LOADED, &[]).map(drop))?;
        topology.computing().into_iter().try_for_each(|end| net.send(end, GATHERED, vec![]))?;
    }
    Ok(())
}

/// Ends that compute tell those that do not; the others wait for it.
fn announce(topology: &Topology, net: &Net, what: Tag, heard: impl Fn(Endpoint) -> bool) -> sordino_net::Result<()> {
    let me = net.me();
    if topology.computes(me) {
        topology.owning().into_iter().filter(|e| heard(*e)).try_for_each(|end| net.send(end, what, vec![]))
    } else if heard(me) {
        topology.computing().into_iter().try_for_each(|end| net.recv(end, what, &[]).map(drop))
    } else {
        Ok(())
    }
}

/// Runs one end to the end of the session. `progress` counts layers.
///
/// # Errors
/// Those of the protocol, and of what the end owns.
pub fn end<P: Party>(job: Job<'_>, party: &P, mut owned: Owned<'_>, progress: &AtomicU64) -> sordino_nn::Result<Ended> {
    let (net, topology, me) = (party.net(), job.topology(), party.net().me());
    let announce = |what, heard: &dyn Fn(Endpoint) -> bool| {
        announce(&topology, net, what, heard).map_err(|e| sordino_nn::Error::Protocol(e.into()))
    };
    let keep = Keep::new(job, party, owned.checkpoints.filter(|_| topology.computes(me)));
    let mut at = Step::root(job.session);
    // What is kept is authenticated, and with it the program, before anything of the program runs.
    let kept = keep.read()?;
    let loaded = Loaded::load(party, at.child("load"), job.program, owned.weights)?;
    gathered(&topology, net).map_err(|e| sordino_nn::Error::Protocol(e.into()))?;
    if job.kept {
        loaded.resume(party, at.child("resume"), kept, job.first)?;
    } else {
        loaded.agree(party, at.child("agree"))?;
    }
    announce(READY, &|_| true)?;
    net.reset_meter();
    let (mut outputs, mut marks, mut refused) = (vec![], Marks::new(net, job.trace), vec![]);
    for run in job.first..job.runs {
        let inputs = owned.inputs.as_mut().map(|i| i.inputs(run)).transpose()?;
        marks.run();
        let opened = loaded.run(party, at.child("run"), inputs.as_deref(), |layer| {
            marks.layer(layer);
            progress.fetch_add(1, Ordering::Relaxed);
        });
        let opened = match opened {
            // The receiver alone knows, and goes on as if it did not: the others would see it leave.
            Err(sordino_nn::Error::Protocol(sordino_mpc::Error::OutOfRange)) => {
                refused.push(run + 1);
                vec![]
            }
            opened => opened?,
        };
        announce(DONE, &|end| job.untold(end))?;
        let seconds = marks.end_run();
        if let Some(receiver) = owned.outputs.as_mut().filter(|_| refused.is_empty()) {
            let opened: Vec<Vec<i64>> = opened.into_iter().map(Option::unwrap_or_default).collect();
            receiver.opened(run, &opened, seconds);
            outputs.push(opened);
        }
        keep.write(&loaded, run + 1)?;
    }
    let report = marks.report();
    let mut states = vec![];
    for state in 0..job.opened {
        states.extend(loaded.open_state(party, at.child("state"), state)?);
    }
    out_of_range(&refused, job.runs)?;
    Ok(Ended { outputs, states, report })
}

/// Says which runs are refused.
fn out_of_range(refused: &[usize], runs: usize) -> sordino_nn::Result<()> {
    let e = sordino_mpc::Error::OutOfRange;
    match refused {
        [] => Ok(()),
        _ if runs == 1 => Err(e.into()),
        some => {
            let numbers: Vec<String> = some.iter().take(20).map(usize::to_string).collect();
            let more = if some.len() > 20 { ", ..." } else { "" };
            Err(sordino_nn::Error::State(format!("run {}{more} of {runs}: {e}", numbers.join(", "))))
        }
    }
}

/// Runs whatever end the links belong to, over the protocol of its kind of session.
///
/// # Errors
/// As [`end`].
pub fn run(
    job: Job<'_>,
    net: Net,
    owned: Owned<'_>,
    compute: &Compute,
    entropy: &dyn Entropy,
    progress: &AtomicU64,
) -> sordino_nn::Result<Ended> {
    let settings = job.program.settings;
    if settings.kind == Kind::Two {
        let info = SessionInfo { session: job.session, program: job.program.hash() };
        let keys = two::establish(&net, &info, &settings, entropy).map_err(sordino_nn::Error::Protocol)?;
        let party = two::Two::new(Cpu::new(compute.threads), net, keys, settings, compute.threads)
            .map_err(sordino_nn::Error::Protocol)?;
        let ahead = Ahead::of(job.program)?;
        party.foresee(ahead.draws());
        let prepared = if job.prepared > 0 { Some(prepare(&job, &party, &ahead)?) } else { None };
        let ended = end(job, &party, owned, progress)?;
        return Ok(Ended { report: EndReport { prepared, ..ended.report }, ..ended });
    }
    if !job.topology().computes(net.me()) {
        return end(job, &Client::new(net, settings, entropy), owned, progress);
    }
    let me = net.me();
    // The device comes first: nobody is kept waiting for one that is not there.
    on_device(compute, me, Serve { job, net, owned, entropy, progress })
        .map_err(|e| sordino_nn::Error::Protocol(e.into()))?
}

/// Draws what runs to come will draw.
fn prepare(job: &Job<'_>, party: &two::Two<Cpu>, ahead: &Ahead) -> sordino_nn::Result<Prepared> {
    let start = Instant::now();
    let mut at = Step::root(job.session);
    for _ in 0..job.prepared {
        party.prepare(&at.child("prepare"), ahead.draws()).map_err(sordino_nn::Error::Protocol)?;
    }
    let bytes = party.net().meter().payload();
    Ok(Prepared { queries: job.prepared, seconds: start.elapsed().as_secs_f64(), bytes })
}

/// One of three servers, on any device.
struct Serve<'a, 'o> {
    job: Job<'a>,
    net: Net,
    owned: Owned<'o>,
    entropy: &'a dyn Entropy,
    progress: &'a AtomicU64,
}

impl OnDevice for Serve<'_, '_> {
    type Out = sordino_nn::Result<Ended>;

    fn run<D: Device>(self, device: D) -> sordino_nn::Result<Ended> {
        let Self { job, net, owned, entropy, progress } = self;
        let info = SessionInfo { session: job.session, program: job.program.hash() };
        let prss = establish(&net, &info, entropy).map_err(sordino_nn::Error::Protocol)?;
        let server = Rep3::new(device, net, prss, job.program.settings).map_err(sordino_nn::Error::Protocol)?;
        end(job, &server, owned, progress)
    }
}

/// Of an end that could not connect: whoever was silent is likelier the cause.
pub(crate) const UNCONNECTED: u8 = 2;

/// How likely an end's failure is the consequence of another's: 0 for what an end found out by itself, 1 for a peer that was
/// silent, 2 for one that was lost.
#[must_use]
pub fn rank(e: &sordino_nn::Error) -> u8 {
    match e {
        sordino_nn::Error::Protocol(sordino_mpc::Error::Net(e)) => 1 + u8::from(!e.is_silence()),
        _ => 0,
    }
}

/// The likeliest cause of a session's end among its ends' errors, with its rank.
pub(crate) fn cause(topology: &Topology, errors: Vec<sordino_nn::Error>) -> Option<(u8, Error)> {
    errors.into_iter().min_by_key(rank).map(|e| match e {
        sordino_nn::Error::Protocol(_) => (rank(&e), Error::Session(sentence(topology, &e))),
        e => (0, Error::Model(e)),
    })
}
