//! The owners of a session that run in this process, each an end of its own, and what they end with.

use crate::compute::Compute;
use crate::report::{Bytes, EndReport, Prepared};
use crate::session::{self, Ended, Inputs, Job, Outputs, Owned, UNCONNECTED, cause};
use crate::threads::{join, spawn};
use crate::{Error, Result};
use sordino_mpc::{Entropy, Role, Topology};
use sordino_net::{Endpoint, Net};
use sordino_nn::program::Secrets;
use std::sync::atomic::AtomicU64;

/// Everybody who owns something.
pub struct Owners<'a> {
    /// The model's owner's weights.
    pub weights: &'a Secrets,
    /// Data owners.
    pub data: Vec<&'a mut dyn Inputs>,
    /// The receiver.
    pub receiver: &'a mut dyn Outputs,
}

/// A session that is over.
pub struct Finished {
    /// Integers of every output, for every run.
    pub outputs: Vec<Vec<Vec<i64>>>,
    /// Integers of the opened states at the end.
    pub states: Vec<Vec<i64>>,
    /// Traffic and times of every end, in the topology's order.
    pub ends: Vec<EndReport>,
    topology: Topology,
}

impl Finished {
    pub(crate) fn new(topology: Topology, computing: Vec<EndReport>, owners: Vec<Ended>) -> Self {
        let (mut outputs, mut states, mut ends) = (vec![], vec![], computing);
        for owner in owners {
            if !owner.outputs.is_empty() {
                outputs = owner.outputs;
            }
            if !owner.states.is_empty() {
                states = owner.states;
            }
            ends.push(owner.report);
        }
        Self { outputs, states, ends, topology }
    }

    fn of(&self, role: Role) -> Option<&EndReport> {
        self.ends.get(usize::from(self.topology.end(role).0))
    }

    /// Ends that computed.
    #[must_use]
    pub fn servers(&self) -> &[EndReport] {
        &self.ends[..self.topology.computing().len().min(self.ends.len())]
    }

    /// Seconds of every run: from the first share of an input sent to the last output opened, or to the word that it is
    /// over where nothing is opened.
    #[must_use]
    pub fn seconds(&self) -> Vec<f64> {
        let data: Vec<&EndReport> =
            (0..self.topology.data_owners()).filter_map(|k| self.of(Role::DataOwner(k))).collect();
        let Some(receiver) = self.of(Role::Receiver) else { return vec![] };
        let seconds = |(i, run): (usize, &crate::report::RunReport)| {
            let began = data.iter().filter_map(|d| d.runs.get(i)).map(|r| r.began).min().unwrap_or(run.began);
            run.ended.saturating_sub(began) as f64 * 1e-9
        };
        receiver.runs.iter().enumerate().map(seconds).collect()
    }

    /// Rounds of the last run, as the end with the longest chain sees it.
    #[must_use]
    pub fn rounds_of_last_run(&self) -> u32 {
        self.ends.iter().filter_map(|e| e.runs.last()).map(|r| r.rounds).max().unwrap_or(0)
    }

    /// Traffic of all ends.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let mut by_party = [0; 4];
        self.ends.iter().enumerate().for_each(|(i, e)| by_party[i.min(3)] += e.payload);
        let sum = |of: fn(&EndReport) -> u64| self.ends.iter().map(of).sum();
        Bytes { payload: sum(|e| e.payload), wire: sum(|e| e.wire), by_party }
    }

    /// What two parties did before the first run; bytes of both.
    #[must_use]
    pub fn prepared(&self) -> Option<Prepared> {
        let ends = self.ends.iter().filter_map(|e| e.prepared);
        ends.reduce(|a, b| Prepared { bytes: a.bytes + b.bytes, ..a })
    }
}

/// How owners are run.
pub(crate) struct Running<'a> {
    /// The ends that run here.
    pub(crate) ends: Vec<Endpoint>,
    /// Randomness of each.
    pub(crate) entropy: &'a (dyn Fn(Endpoint) -> Box<dyn Entropy> + Sync),
    /// Links of each.
    pub(crate) net: &'a (dyn Fn(Endpoint) -> Result<Net> + Sync),
    /// Ends the waiting of all others if one cannot even start.
    pub(crate) abandon: &'a dyn Fn(),
    /// What an owner who computes does it on.
    pub(crate) compute: Compute,
    /// Counts layers of an owner who computes.
    pub(crate) progress: &'a AtomicU64,
}

/// Runs owners on threads of their own.
///
/// # Errors
/// The likeliest cause, if one of them fails, with its rank.
pub(crate) fn run(
    job: Job<'_>,
    owners: Owners<'_>,
    running: &Running<'_>,
) -> std::result::Result<Vec<Ended>, (u8, Error)> {
    let topology = job.topology();
    let provides = |end: &Endpoint| (0..topology.data_owners()).any(|k| *end == topology.end(Role::DataOwner(k)));
    let takes = running.ends.iter().filter(|end| provides(end)).count();
    if owners.data.len() != takes {
        let given = owners.data.len();
        return Err((0, Error::Usage(format!("{given} data owners where the program takes {takes}"))));
    }
    let mut data = owners.data.into_iter();
    let (mut weights, mut receiver) = (Some(owners.weights), Some(owners.receiver));
    let quiet = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads = vec![];
        for &end in &running.ends {
            let mut owned = Owned::default();
            if end == topology.end(Role::ModelOwner) {
                owned.weights = weights.take();
            }
            if end == topology.end(Role::Receiver) {
                owned.outputs = receiver.take().map(|r| r as &mut dyn Outputs);
            }
            if provides(&end) {
                owned.inputs = data.next().map(|d| d as &mut dyn Inputs);
            }
            let (entropy, net) = (running.entropy, running.net);
            let compute = running.compute;
            let progress = if topology.computes(end) && end.0 != 1 { running.progress } else { &quiet };
            let thread = spawn(scope, &topology.name(end), move || {
                let entropy = entropy(end);
                Ok(session::run(job, net(end)?, owned, &compute, &*entropy, progress))
            });
            threads.push(thread.inspect_err(|_| (running.abandon)()).map_err(|e| (0, e))?);
        }
        let (mut ended, mut errors) = (vec![], vec![]);
        let mut unconnected = None;
        for thread in threads {
            match join(thread).map_err(|e| (0, e))? {
                Ok(Ok(end)) => ended.push(end),
                Ok(Err(e)) => errors.push(e),
                Err(e) => unconnected = Some((UNCONNECTED, e)),
            }
        }
        let failed = cause(&topology, errors).into_iter().chain(unconnected).min_by_key(|e| e.0);
        failed.map_or(Ok(ended), Err)
    })
}
