//! What a run took, by the kind of its layers.

use crate::agree::of_session;
use crate::engine::Engine;
use crate::fault::{Fault, Result};
use sordino_mpc::rep3::Rep3;
use sordino_mpc::{Party, Step};
use sordino_net::{Meter, Net};
use sordino_nn::exec::Loaded;
use sordino_nn::program::Program;
use sordino_ring::Device;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Kinds that are told apart in a program; a program is its owner's, and names its layers as it likes.
const MOST: usize = 64;
/// Longest name of a kind.
const LONGEST: usize = 32;
/// What all others are called.
const OTHER: &str = "other";

/// Seconds, bytes sent and rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Took {
    /// Seconds.
    pub seconds: f64,
    /// Bytes of shares that were sent.
    pub bytes: u64,
    /// Rounds.
    pub rounds: u64,
}

impl Took {
    pub(crate) fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.bytes += other.bytes;
        self.rounds += other.rounds;
    }
}

/// What layers took, by their operator in the model.
pub type Kinds = BTreeMap<String, Took>;

/// A run that is over.
pub struct Ran {
    /// How long it took.
    pub took: Duration,
    /// What this server sent in it.
    pub meter: Meter,
    /// The same by kind of layer.
    pub kinds: Kinds,
}

impl Ran {
    /// Runs a program once (`what` it is, in words), within the time that a run may take. That is looked at before every layer: what is waited for within one has deadlines of
    /// its own.
    pub(crate) fn of<D: Device>(
        engine: &Engine,
        party: &Rep3<D>,
        loaded: &Loaded<'_, Rep3<D>>,
        program: &Program,
        at: Step,
        what: &str,
    ) -> Result<Self> {
        let net = party.net();
        net.reset_meter();
        let started = Instant::now();
        let limit = Duration::from_secs_f64(engine.config.limits.run_seconds);
        let late = Cell::new(false);
        let mut follow = Follow::new(net, program);
        let watch = |layer| {
            follow.layer(layer);
            if started.elapsed() > limit && !late.replace(true) {
                net.abort();
            }
        };
        loaded.run(party, at, None, watch).map_err(|e| match late.get() {
            true => Fault::limit(format!("{what} took longer than the {} seconds it may", limit.as_secs_f64())),
            false => of_session(&e),
        })?;
        Ok(Self { took: started.elapsed(), meter: net.meter(), kinds: follow.finish() })
    }
}

/// Follows a run from layer to layer.
struct Follow<'a> {
    net: &'a Net,
    program: &'a Program,
    open: Option<(usize, Instant, Took)>,
    kinds: Kinds,
}

impl<'a> Follow<'a> {
    fn new(net: &'a Net, program: &'a Program) -> Self {
        Self { net, program, open: None, kinds: Kinds::new() }
    }

    /// What was sent so far.
    fn sent(&self) -> Took {
        let meter = self.net.meter();
        Took { seconds: 0.0, bytes: meter.payload(), rounds: u64::from(meter.rounds) }
    }

    /// A layer begins, and the one before is over.
    fn layer(&mut self, layer: usize) {
        self.close();
        self.open = Some((layer, Instant::now(), self.sent()));
    }

    fn close(&mut self) {
        let Some((layer, began, before)) = self.open.take() else { return };
        let now = self.sent();
        let took = Took {
            seconds: began.elapsed().as_secs_f64(),
            bytes: now.bytes.saturating_sub(before.bytes),
            rounds: now.rounds.saturating_sub(before.rounds),
        };
        let name = self.program.layers.get(layer).map_or(OTHER, |l| l.op.as_str());
        let plain = (1..=LONGEST).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let known = self.kinds.contains_key(name) || self.kinds.len() < MOST;
        let name = if plain && known { name } else { OTHER };
        self.kinds.entry(name.into()).or_default().add(took);
    }

    /// All of it; what follows the last layer belongs to that.
    fn finish(mut self) -> Kinds {
        self.close();
        self.kinds
    }
}
