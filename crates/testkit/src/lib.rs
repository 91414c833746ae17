//! In-process worlds of parties for tests: real protocols over memory links, with a place to listen or tamper.

pub mod cards;
pub mod fuzz;
pub mod seed;
pub mod sockets;
pub mod transcript;

use seed::Seeded;
use sordino_gpu::{Cuda, OpenCl};
use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Client, Kind, Party, Protocol, Result, Settings, Step, Topology, two};
use sordino_net::{Endpoint, Frame, Link, LinkModel, Meter, Net, Segment, memory_links};
use sordino_ring::{Cpu, Device, PrgKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Something to run at every endpoint over its protocol.
pub trait Job: Sync {
    /// What an endpoint ends with.
    type Out: Send;
    /// Runs at one endpoint; inputs may be passed everywhere, only their owner's count.
    ///
    /// # Errors
    /// Those of the protocol.
    fn run<P: Protocol>(&self, p: &P, at: Step) -> Result<Self::Out>;
}

/// Sees each frame between two endpoints and says what arrives in its place.
pub type Tap = Arc<dyn Fn(Endpoint, Endpoint, Frame) -> Vec<Frame> + Send + Sync>;

/// Settings of a world.
#[derive(Clone)]
pub struct World {
    /// How long a receiver waits.
    pub deadline: Duration,
    /// What the program would fix.
    pub settings: Settings,
    /// Data owners.
    pub data_owners: u8,
    /// Sees every frame of the session.
    pub tap: Option<Tap>,
    /// How fast links in memory are.
    pub link: LinkModel,
    /// Links over sockets that hold so many bytes, instead of in memory without a limit.
    pub holds: Option<usize>,
    /// Which of three servers compute on a card ([`cards::mixtures`]) and not on the processor.
    pub cards: [bool; 3],
    /// What all randomness follows from.
    pub seed: [u8; 32],
    /// The session of each end that computes, to make them disagree.
    pub sessions: [SessionInfo; 3],
    /// What two parties draw before they run anything.
    pub prepared: Vec<two::Draw>,
}

impl Default for World {
    fn default() -> Self {
        let info = SessionInfo { session: [1; 16], program: [2; 32] };
        Self {
            deadline: Duration::from_secs(60),
            settings: Settings::default(),
            data_owners: 1,
            tap: None,
            link: LinkModel::UNLIMITED,
            holds: None,
            cards: [false; 3],
            seed: seed::fresh(),
            sessions: [info; 3],
            prepared: vec![],
        }
    }
}

struct Tapped {
    from: Endpoint,
    to: Endpoint,
    inner: Box<dyn Link>,
    tap: Tap,
}

impl Link for Tapped {
    fn send(&self, frame: Frame) -> sordino_net::Result<()> {
        (self.tap)(self.from, self.to, frame).into_iter().try_for_each(|f| self.inner.send(f))
    }
    fn recv(&self, expect: &[Segment]) -> sordino_net::Result<Frame> {
        self.inner.recv(expect)
    }
    fn wire(&self) -> u64 {
        self.inner.wire()
    }
    fn abort(&self) {
        self.inner.abort();
    }
}

/// What came of a run, at every end.
pub struct Outcome<T> {
    /// By endpoint.
    pub ends: Vec<Result<(T, Meter)>>,
    receiver: usize,
}

impl<T> Outcome<T> {
    /// The receiver's result, the payload bytes of each server and of all owners, and the rounds of everybody.
    ///
    /// # Panics
    /// When an end failed.
    #[must_use]
    pub fn unwrap(mut self) -> (T, [u64; 4], u32) {
        let mut sent = [0; 4];
        let mut rounds = 0;
        for (i, end) in self.ends.iter().enumerate() {
            match end {
                Ok((_, meter)) => {
                    sent[i.min(3)] += meter.payload();
                    rounds = rounds.max(meter.rounds);
                }
                Err(error) => panic!("end {i}: {error}"),
            }
        }
        match self.ends.swap_remove(self.receiver) {
            Ok((out, _)) => (out, sent, rounds),
            Err(error) => panic!("the receiver: {error}"),
        }
    }
}

impl World {
    /// The ends of the world.
    #[must_use]
    pub fn topology(&self) -> Topology {
        Topology::of(self.settings.kind, self.data_owners)
    }

    /// Links of every end to those it talks to.
    #[must_use]
    pub fn links(&self) -> Vec<BTreeMap<Endpoint, Box<dyn Link>>> {
        let topology = self.topology();
        let all = topology.ends();
        let mut ends: Vec<BTreeMap<Endpoint, Box<dyn Link>>> = all.iter().map(|_| BTreeMap::new()).collect();
        for (i, &a) in all.iter().enumerate() {
            for &b in all[i + 1..].iter().filter(|b| topology.linked(a, **b)) {
                let (ab, ba) = match self.holds {
                    Some(holds) => sockets::links(a, b, holds, self.deadline),
                    None => memory_links(a, b, self.link, self.deadline),
                };
                for (from, to, inner) in [(a, b, ab), (b, a, ba)] {
                    let link = match &self.tap {
                        Some(tap) => Box::new(Tapped { from, to, inner, tap: Arc::clone(tap) }),
                        None => inner,
                    };
                    ends[usize::from(from.0)].insert(to, link);
                }
            }
        }
        ends
    }

    /// Runs something at every end of a net of its own.
    fn at_ends<T: Send>(&self, body: impl Fn(usize, Net) -> Result<T> + Sync) -> Vec<Result<T>> {
        let body = &body;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .links()
                .into_iter()
                .enumerate()
                .map(|(i, links)| scope.spawn(move || body(i, Net::new(Endpoint(i as u8), links))))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Runs something at both of two parties, once they have their keys.
    pub fn parties<T: Send>(&self, body: impl Fn(&two::Two<Cpu>, Step) -> Result<T> + Sync) -> Vec<Result<(T, Meter)>> {
        self.at_ends(|i, net| self.party(i, net, &body))
    }

    fn party<T>(&self, end: usize, net: Net, body: impl Fn(&two::Two<Cpu>, Step) -> Result<T>) -> Result<(T, Meter)> {
        let (session, entropy) = (&self.sessions[end], Seeded::of(self.seed, end as u8));
        let keys = two::establish(&net, session, &self.settings, &entropy)?;
        let party = two::Two::new(Cpu::new(1), net, keys, self.settings, 1)?;
        if !self.prepared.is_empty() {
            party.prepare(&Step::root(session.session).child("prepare"), &self.prepared)?;
            party.net().reset_meter();
        }
        let out = body(&party, Step::root(session.session))?;
        Ok((out, party.net().meter()))
    }

    /// Runs a job at all ends.
    pub fn run<J: Job>(&self, job: &J) -> Outcome<J::Out> {
        let ends = self.at_ends(|i, net| {
            if self.settings.kind == Kind::Two {
                return self.party(i, net, |party, at| job.run(party, at));
            }
            let entropy = Seeded::of(self.seed, i as u8);
            let Some(session) = self.sessions.get(i) else {
                let owner = Client::new(net, self.settings, &entropy);
                let out = job.run(&owner, Step::root(self.sessions[0].session))?;
                return Ok((out, owner.net().meter()));
            };
            let served = Served { world: self, net, session, entropy: &entropy, job };
            match (self.cards[i], cards::cuda()) {
                (false, _) => served.on(Cpu::new(1)),
                (true, false) => served.on(cards::card(OpenCl::new(0))?),
                (true, true) => served.on(cards::card(Cuda::new(0))?),
            }
        });
        let receiver = self.topology().end(sordino_mpc::Role::Receiver);
        Outcome { ends, receiver: usize::from(receiver.0) }
    }
}

/// A server that is about to run.
struct Served<'a, J> {
    world: &'a World,
    net: Net,
    session: &'a SessionInfo,
    entropy: &'a Seeded,
    job: &'a J,
}

impl<J: Job> Served<'_, J> {
    fn on<D: Device>(self, device: D) -> Result<(J::Out, Meter)> {
        let prss = establish(&self.net, self.session, self.entropy)?;
        let server = Rep3::new(device, self.net, prss, self.world.settings)?;
        let out = self.job.run(&server, Step::root(self.session.session))?;
        Ok((out, server.net().meter()))
    }
}

/// Reproducible test values: `n` integers in `[-limit, limit)`.
#[must_use]
pub fn integers(seed: u8, n: usize, limit: i64) -> Vec<i64> {
    let words: Vec<u64> = PrgKey::new([seed; 16]).words(n);
    words.into_iter().map(|w| (w % (2 * limit as u64)) as i64 - limit).collect()
}
