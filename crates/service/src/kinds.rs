//! What a run took, by the kind of its layers.

use sordino_net::Net;
use sordino_nn::program::Program;
use std::collections::BTreeMap;
use std::time::Instant;

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

/// Follows a run from layer to layer.
pub(crate) struct Follow<'a> {
    net: &'a Net,
    program: &'a Program,
    open: Option<(usize, Instant, Took)>,
    kinds: Kinds,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(net: &'a Net, program: &'a Program) -> Self {
        Self { net, program, open: None, kinds: Kinds::new() }
    }

    /// What was sent so far.
    fn sent(&self) -> Took {
        let meter = self.net.meter();
        Took { seconds: 0.0, bytes: meter.payload(), rounds: u64::from(meter.rounds) }
    }

    /// A layer begins, and the one before is over.
    pub(crate) fn layer(&mut self, layer: usize) {
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
    pub(crate) fn finish(mut self) -> Kinds {
        self.close();
        self.kinds
    }
}
