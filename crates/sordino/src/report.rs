//! What a run tells: results, time, traffic, memory, checks.

use serde::{Deserialize, Serialize};
use sordino_net::{Meter, Span};
use std::collections::BTreeMap;

/// One end's share of a layer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LayerReport {
    /// Seconds from the layer's start to the next one's.
    pub seconds: f64,
    /// Of these, waiting for others and reading what they sent.
    pub waited: f64,
    /// Of these, handing frames to the network.
    pub sending: f64,
    /// Of these, expanding keys into masks.
    pub randomness: f64,
    /// Payload bytes sent.
    pub bytes: u64,
    /// Rounds.
    pub rounds: u32,
}

/// One end's totals.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EndReport {
    /// Payload bytes sent.
    pub payload: u64,
    /// Bytes handed to the network.
    pub wire: u64,
    /// Frames sent.
    pub messages: u64,
    /// Longest chain of messages.
    pub rounds: u32,
    /// Most resident memory of the process, MB.
    pub peak_rss_mb: f64,
    /// Every run.
    pub runs: Vec<RunReport>,
    /// When what happened, if that was asked for.
    pub trace: Option<Trace>,
    /// What two parties did before the first run, if that was asked for.
    #[serde(default)]
    pub prepared: Option<Prepared>,
}

/// Strings of transfers that were drawn before the first run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// For so many runs.
    pub queries: usize,
    /// How long it took.
    pub seconds: f64,
    /// Payload bytes sent for it, which no run counts.
    pub bytes: u64,
}

/// So many runs are told apart by layer.
pub const DETAILED: usize = 100;

/// One end's share of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunReport {
    /// By layer. From the [`DETAILED`]th run on, all runs are in that one's, so that long sessions do not fill the memory.
    pub layers: BTreeMap<usize, LayerReport>,
    /// When it began, in nanoseconds of the system's clock.
    pub began: u64,
    /// When it ended, likewise.
    pub ended: u64,
    /// Seconds from its first layer to its end.
    pub seconds: f64,
    /// Processor seconds of this end's process; of all ends when they are threads of one process.
    pub cpu_seconds: f64,
    /// Rounds of this run as this end sees them.
    pub rounds: u32,
}

/// When an end did what, in nanoseconds since it began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trace {
    /// When it began, in nanoseconds of the system's clock.
    pub origin: u64,
    /// Layer, start and length.
    pub layers: Vec<(usize, u64, u64)>,
    /// Activities besides computing.
    pub spans: Vec<Span>,
}

impl EndReport {
    /// From an end's meter.
    #[must_use]
    pub fn new(meter: &Meter, runs: Vec<RunReport>, trace: Option<Trace>) -> Self {
        Self {
            payload: meter.payload(),
            wire: meter.wire,
            messages: meter.messages(),
            rounds: meter.rounds,
            peak_rss_mb: peak_rss_mb(),
            runs,
            trace,
            prepared: None,
        }
    }

    /// A layer over all runs.
    #[must_use]
    pub fn layer(&self, layer: usize) -> LayerReport {
        let mut sum = LayerReport::default();
        self.runs.iter().filter_map(|r| r.layers.get(&layer)).for_each(|l| sum.add(l));
        sum
    }
}

impl LayerReport {
    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.waited += other.waited;
        self.sending += other.sending;
        self.randomness += other.randomness;
        self.bytes += other.bytes;
        self.rounds += other.rounds;
    }
}

/// Processor seconds this process has used, all threads.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Most resident memory of this process so far, MB; 0 where the system does not say.
#[must_use]
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).map_or(0.0, |kb| kb / 1024.0)
}

/// The object that `infer --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Outputs, runs joined along the batch.
    pub outputs: Vec<Output>,
    /// Best classes of each input.
    pub top: Vec<Vec<Class>>,
    /// Inputs answered.
    pub inputs: usize,
    /// Protocol runs.
    pub runs: usize,
    /// Seconds online, all runs.
    pub seconds: f64,
    /// Seconds from the start of the command to its answer, and its parts in order.
    #[serde(flatten)]
    pub wall: Wall,
    /// Seconds of each run.
    pub seconds_by_run: Vec<f64>,
    /// Traffic, all runs.
    pub bytes: Bytes,
    /// Longest chain of messages, all runs.
    pub rounds: u32,
    /// What two parties did before the first run; bytes of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    /// True when scales come from the inputs themselves, for want of a calibration.
    pub calibrated_on_inputs: bool,
    /// Iterations of training of the model that answered, if servers kept it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iteration: Option<usize>,
    /// Most resident memory of a party (of the one process when parties are threads), MB.
    pub peak_rss_mb: f64,
    /// Comparison with the float reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// By layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerLine>,
}

/// What a command waited for, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Wall {
    /// In all.
    pub wall_seconds: f64,
    /// Reading the model and the inputs.
    pub reading_seconds: f64,
    /// Taking ranges from the inputs, for want of a calibration.
    pub ranges_seconds: f64,
    /// Compiling.
    pub compiling_seconds: f64,
    /// Starting the parties, sharing the weights and packing them.
    pub sharing_seconds: f64,
    /// The runs themselves.
    pub online_seconds: f64,
    /// Comparing with floats.
    pub checking_seconds: f64,
}

/// One output.
#[derive(Clone, Debug, Serialize)]
pub struct Output {
    /// Name in the model.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Vec<f32>,
}

/// One of the best classes.
#[derive(Clone, Debug, Serialize)]
pub struct Class {
    /// Its number.
    pub class: usize,
    /// Its name, if the model has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its value.
    pub value: f32,
}

/// Traffic.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bytes {
    /// Bytes of shares, everybody's.
    pub payload: u64,
    /// Bytes handed to the network, everybody's.
    pub wire: u64,
    /// Payload of server 0, 1, 2 and of all owners.
    pub by_party: [u64; 4],
}

/// How close the answer is to the float reference.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// Largest absolute error of an element of any output; infinite where one is no number.
    pub max_abs_err: f64,
    /// Mean absolute error over mean magnitude, of the worst output.
    pub mean_rel_err: f64,
    /// Share of inputs whose best class agrees.
    pub top1_match: f64,
    /// Share of inputs whose five best classes agree as sets.
    pub top5_match: f64,
    /// Elements of outputs that are infinite, or no numbers, in floats.
    pub not_finite: usize,
    /// Layers whose values did not fit, by the fixed-point oracle.
    pub overflows: Vec<String>,
    /// Where the answer is off: by how much each layer is, over its own magnitude, from the first that is off on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerError>,
    /// How far floats are from floats in another order of the same computation, over the mean magnitude: what they are worth
    /// themselves.
    pub float_doubt: f64,
}

/// How far a layer is from floats.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LayerError {
    /// Its name in the model.
    pub name: String,
    /// Mean absolute error over mean magnitude.
    pub mean_rel_err: f64,
}

impl Check {
    /// The worse of two outputs' checks.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        Self {
            max_abs_err: self.max_abs_err.max(other.max_abs_err),
            mean_rel_err: self.mean_rel_err.max(other.mean_rel_err),
            not_finite: self.not_finite + other.not_finite,
            ..self
        }
    }
}

/// A layer of a profile.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LayerLine {
    /// Name in the model.
    pub name: String,
    /// Operator in the model.
    pub op: String,
    /// Times and rounds of server 0, payload of all parties.
    #[serde(flatten)]
    pub figures: LayerReport,
}

/// The `k` largest of a row.
#[must_use]
pub fn top(row: &[f32], k: usize) -> Vec<Class> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.into_iter().take(k).map(|class| Class { class, name: None, value: row[class] }).collect()
}

/// Compares rows of answers with rows of the reference.
#[must_use]
pub fn check(got: &[Vec<f32>], want: &[Vec<f32>]) -> Check {
    let pairs = || got.iter().flatten().zip(want.iter().flatten()).map(|(&g, &w)| (f64::from(g), f64::from(w)));
    let n = pairs().count().max(1) as f64;
    let classes = |row: &[f32], k: usize| {
        let mut c: Vec<usize> = top(row, k).iter().map(|c| c.class).collect();
        c.sort_unstable();
        c
    };
    let matching = |k: usize| {
        let same = got.iter().zip(want).filter(|(g, w)| classes(g, k) == classes(w, k)).count();
        same as f64 / got.len().max(1) as f64
    };
    let magnitude = pairs().map(|(_, w)| w.abs()).sum::<f64>() / n;
    // What is no number is as far away as can be.
    let distance = |(g, w): (f64, f64)| if (g - w).is_finite() { (g - w).abs() } else { f64::INFINITY };
    let mean = pairs().map(distance).sum::<f64>() / n / magnitude.max(f64::MIN_POSITIVE);
    Check {
        max_abs_err: pairs().map(distance).fold(0.0, f64::max),
        mean_rel_err: if mean.is_nan() { f64::INFINITY } else { mean },
        not_finite: pairs().filter(|(_, w)| !w.is_finite()).count(),
        top1_match: matching(1),
        top5_match: matching(5),
        overflows: vec![],
        layers: vec![],
        float_doubt: 0.0,
    }
}
