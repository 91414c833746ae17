//! A whole session on threads of this process, over memory links.

use crate::checkpoint::Checkpoints;
use crate::compute::Compute;
use crate::owners::{self, Finished, Owners, Running};
use crate::session::{self, Job, Owned, cause};
use crate::threads::{join, spawn};
use crate::{Error, Result};
use sordino_mpc::{Entropy, System, Topology};
use sordino_net::{Endpoint, Link, LinkModel, Net, memory_links};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How long an owner is waited for, or waits: for a person, or for whole runs. One that is gone is noticed at once.
pub(crate) const PATIENT: Duration = Duration::from_secs(365 * 86400);

/// How an in-process session is set up.
#[derive(Clone, Copy)]
pub struct InProcess {
    /// Shape of every link.
    pub link: LinkModel,
    /// How long a party waits for another.
    pub deadline: Duration,
    /// What each computes on.
    pub compute: Compute,
}

impl Default for InProcess {
    /// Links without limits, a minute of patience, one thread a party.
    fn default() -> Self {
        Self { link: LinkModel::UNLIMITED, deadline: Duration::from_secs(60), compute: Compute::cpu(1) }
    }
}

/// Every end's links, by peer.
type Links = BTreeMap<Endpoint, Vec<(Endpoint, Box<dyn Link>)>>;

fn links(topology: &Topology, setup: &InProcess) -> Links {
    let all = topology.ends();
    let mut links: Links = all.iter().map(|e| (*e, vec![])).collect();
    for (i, &a) in all.iter().enumerate() {
        for &b in all[i + 1..].iter().filter(|b| topology.linked(a, **b)) {
            let both = topology.computes(a) && topology.computes(b);
            let (ab, ba) = memory_links(a, b, setup.link, if both { setup.deadline } else { PATIENT });
            links.entry(a).or_default().push((b, ab));
            links.entry(b).or_default().push((a, ba));
        }
    }
    links
}

/// Runs a session. Servers keep their shares as the checkpoints say, if there are any.
///
/// # Errors
/// The likeliest cause, if an end fails.
pub fn in_process(
    job: Job<'_>,
    setup: &InProcess,
    owners: Owners<'_>,
    checkpoints: Option<&Checkpoints>,
    progress: &AtomicU64,
) -> Result<Finished> {
    in_process_with(job, setup, owners, checkpoints, progress, &|_| Box::new(System))
}

/// The same with a source of randomness for each end: for tests that must be repeatable.
///
/// # Errors
/// As [`in_process`].
#[doc(hidden)]
pub fn in_process_with(
    job: Job<'_>,
    setup: &InProcess,
    owners: Owners<'_>,
    checkpoints: Option<&Checkpoints>,
    progress: &AtomicU64,
    entropy: &(dyn Fn(Endpoint) -> Box<dyn Entropy> + Sync),
) -> Result<Finished> {
    let topology = job.topology();
    let links = Mutex::new(links(&topology, setup));
    let net = |end: Endpoint| -> Result<Net> {
        let taken = links.lock().ok().and_then(|mut l| l.remove(&end));
        let taken = taken.ok_or_else(|| Error::Session(format!("{} has no links", topology.name(end))))?;
        Ok(Net::new(end, taken))
    };
    // Whoever waits for an end without links, or whose links are gone, stops waiting.
    let abandon = || {
        if let Ok(mut links) = links.lock() {
            links.clear();
        }
    };
    std::thread::scope(|scope| {
        let mut servers = vec![];
        // Two parties own everything between them.
        let owning = if topology.owning().is_empty() { topology.ends() } else { topology.owning() };
        for end in topology.computing().into_iter().filter(|end| !owning.contains(end)) {
            let net = net(end)?;
            let server = spawn(scope, &topology.name(end), move || {
                let quiet = AtomicU64::new(0);
                let progress = if end.0 == 0 { progress } else { &quiet };
                let owned = Owned { checkpoints, ..Owned::default() };
                session::run(job, net, owned, &setup.compute, &*entropy(end), progress)
            });
            servers.push(server.inspect_err(|_| abandon())?);
        }
        let running = Running { ends: owning, entropy, net: &net, abandon: &abandon, compute: setup.compute, progress };
        let owned = owners::run(job, owners, &running);
        abandon();
        let (mut reports, mut errors) = (vec![], vec![]);
        for server in servers {
            match join(server)? {
                Ok(end) => reports.push(end.report),
                Err(e) => errors.push(e),
            }
        }
        match (owned, cause(&topology, errors)) {
            // Of two equally likely causes the servers' is nearer to it.
            (Err(theirs), Some(cause)) => Err(if theirs.0 < cause.0 { theirs.1 } else { cause.1 }),
            (Err(e), None) | (Ok(_), Some(e)) => Err(e.1),
            (Ok(owned), None) => Ok(Finished::new(topology, reports, owned)),
        }
    })
}
