//! In-process worlds of parties for tests: real protocols over memory links, with a place to listen or tamper.

pub mod transcript;

use sordino_mpc::rep3::{Rep3, SessionInfo, establish};
use sordino_mpc::{Client, Protocol, Result, Settings, Step};
use sordino_net::{Endpoint, Frame, Link, LinkModel, Meter, Net, Segment, memory_links};
use sordino_ring::{Cpu, PrgKey};
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
    /// Sees every frame of the session.
    pub tap: Option<Tap>,
    /// Each server's session, to make them disagree.
    pub sessions: [SessionInfo; 3],
}

impl Default for World {
    fn default() -> Self {
        let info = SessionInfo { session: [1; 16], program: [2; 32] };
        Self { deadline: Duration::from_secs(20), settings: Settings::default(), tap: None, sessions: [info; 3] }
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
}

/// What came of a run: at the three servers and the client.
pub struct Outcome<T> {
    /// By endpoint: 0, 1, 2 are the servers, 3 is the client.
    pub ends: Vec<Result<(T, Meter)>>,
}

impl<T> Outcome<T> {
    /// The client's result and the payload bytes and rounds of everybody.
    ///
    /// # Panics
    /// When an endpoint failed.
    #[must_use]
    pub fn unwrap(mut self) -> (T, [u64; 4], u32) {
        let mut sent = [0; 4];
        let mut rounds = 0;
        for (i, end) in self.ends.iter().enumerate() {
            match end {
                Ok((_, meter)) => {
                    sent[i] = meter.payload();
                    rounds = rounds.max(meter.rounds);
                }
                Err(error) => panic!("endpoint {i}: {error}"),
            }
        }
        match self.ends.pop() {
            Some(Ok((out, _))) => (out, sent, rounds),
            _ => panic!("a world has four endpoints"),
        }
    }
}

impl World {
    /// Links of every endpoint to every other.
    #[must_use]
    pub fn links(&self) -> Vec<BTreeMap<Endpoint, Box<dyn Link>>> {
        let mut ends: Vec<BTreeMap<Endpoint, Box<dyn Link>>> = (0..4).map(|_| BTreeMap::new()).collect();
        for a in 0..4u8 {
            for b in a + 1..4 {
                let (ab, ba) = memory_links(Endpoint(a), Endpoint(b), LinkModel::UNLIMITED, self.deadline);
                for (from, to, inner) in [(a, b, ab), (b, a, ba)] {
                    let (from, to) = (Endpoint(from), Endpoint(to));
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

    /// Runs a job at three servers and a client.
    pub fn run<J: Job>(&self, job: &J) -> Outcome<J::Out> {
        let links = self.links();
        let ends = std::thread::scope(|scope| {
            let threads: Vec<_> = links
                .into_iter()
                .enumerate()
                .map(|(i, links)| {
                    scope.spawn(move || {
                        let net = Net::new(Endpoint(i as u8), links);
                        if i == 3 {
                            let client = Client::new(net, self.settings);
                            let out = job.run(&client, Step::root(self.sessions[0].session))?;
                            return Ok((out, client.net().meter()));
                        }
                        let prss = establish(&net, &self.sessions[i])?;
                        let server = Rep3::new(Cpu::new(1), net, prss, self.settings)?;
                        let out = job.run(&server, Step::root(self.sessions[i].session))?;
                        Ok((out, server.net().meter()))
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Outcome { ends }
    }
}

/// Reproducible test values: `n` integers in `[-limit, limit)`.
#[must_use]
pub fn integers(seed: u8, n: usize, limit: i64) -> Vec<i64> {
    let words: Vec<u64> = PrgKey::new([seed; 16]).words(n);
    words.into_iter().map(|w| (w % (2 * limit as u64)) as i64 - limit).collect()
}
