//! `sordino plan`.

use super::{Compile, LinkArg, Open, human_bytes, of_model, parse_link, print};
use clap::Args;
use serde::Serialize;
use sordino::ahead::Ahead;
use sordino::compute::DeviceName;
use sordino::model::{self, Calibration};
use sordino::price::planned;
use sordino::{Error, Result};
use sordino_mpc::{Cost, Costs, Kind, Linear, Plan, Settings, Step, Transfers, Truncation, two};
use sordino_nn::program::Program;
use sordino_nn::{Ranges, Tensor};
use std::path::PathBuf;

/// Ring multiplications per second and core, and bytes handled per second and core, of a current x86-64 server.
const MACS_PER_SECOND: f64 = 2.0e10;
const BYTES_PER_SECOND: f64 = 5.0e8;
/// Of two parties, where what is done with them is counted by itself.
const TWO_PARTY_BYTES_PER_SECOND: f64 = 1.0e9;

/// Seconds of one server on a card of its own, computed from the figures of an H100 and nowhere measured: products mod 2^64, what is sent
/// through its memory, the bus, and TLS on the host, and some forty launches and reads a round.
fn card_seconds(cost: Cost) -> f64 {
    const PRODUCTS: f64 = 2.5e12;
    const BYTES: f64 = 2.5e9;
    const ROUND: f64 = 6e-5;
    let sent = cost.total() as f64 / 3.0;
    cost.macs as f64 / PRODUCTS + sent / BYTES + f64::from(cost.rounds) * ROUND
}

/// Seconds that a cost takes, about.
fn seconds(c: Cost, program: &Program, link: &LinkArg, device: DeviceName) -> f64 {
    let link = link.0;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    // A server sends to two others, each over a link of its own.
    let (compute, links) = match program.settings.kind {
        Kind::Two => {
            let bytes = 2.0 * c.total() as f64 / TWO_PARTY_BYTES_PER_SECOND;
            ((1e-9 * c.work as f64 + c.macs as f64 / MACS_PER_SECOND + bytes) / cores, 1.0)
        }
        Kind::Three if device != DeviceName::Cpu => (card_seconds(c), 2.0),
        Kind::Three => {
            let work = 3.0 * c.macs as f64 / MACS_PER_SECOND + 3.0 * c.total() as f64 / BYTES_PER_SECOND;
            (work / cores, 2.0)
        }
    };
    let largest = c.sent[..3].iter().copied().max().unwrap_or(0);
    let network = link.bandwidth.map_or(0.0, |b| largest as f64 / links / b);
    compute + network + f64::from(c.rounds) * link.latency.as_secs_f64()
}

/// Arguments of `plan`.
#[derive(Args)]
pub(crate) struct PlanArgs {
    /// The model, an ONNX file.
    model: PathBuf,
    #[command(flatten)]
    open: Open,
    #[command(flatten)]
    compile: Compile,
    /// Samples per run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// The link to estimate time for: none, lan, wan, or LATENCY,BANDWIDTH such as 5ms,200Mbps.
    #[arg(long, default_value = "lan", value_parser = parse_link)]
    link: LinkArg,
    /// What servers would compute on: cpu, or cuda or opencl for a graphics card of the class of an H100, whose seconds are computed from
    /// its figures and were not measured.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    name: String,
    op: String,
    bytes: u64,
    rounds: u32,
    macs: u64,
    /// Oblivious transfers, of two parties.
    #[serde(skip_serializing_if = "Option::is_none")]
    transfers: Option<u64>,
    seconds: f64,
}

/// What the same program costs with one setting changed.
#[derive(Serialize)]
struct Alternative {
    setting: &'static str,
    bytes: u64,
    rounds: u32,
    transfers: u64,
    peak_memory_mb: f64,
    seconds: f64,
}

/// What a run of a program costs.
#[derive(Serialize)]
pub(super) struct Planned {
    bytes: u64,
    bytes_by_party: [u64; 4],
    rounds: u32,
    macs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfers: Option<u64>,
    peak_memory_mb: f64,
    seconds: f64,
    /// What seconds are of: `cpu`, or a card for which they were computed and not measured.
    device: DeviceName,
    layers: Vec<Line>,
    /// Memory that the transfers of a run take at a party when they are drawn before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared_memory_mb: Option<f64>,
    /// Of two parties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<Alternative>,
}

impl PlanArgs {
    pub(crate) fn run(self) -> Result<()> {
        let graph = self.open.read(&self.model)?;
        let named = |e| of_model(&self.model, e);
        let single = model::typed(&graph, 1).map_err(named)?;
        let (ranges, widths) = match self.compile.calibration_file(&self.model) {
            Some(path) => Calibration::of(&path, &self.model, &graph).map(|c| (c.ranges, c.widths))?,
            None => {
                // Most costs do not depend on ranges; how many pieces a smooth function has does.
                tracing::warn!("without a calibration ranges are guessed; smooth functions may cost more or less");
                let sample = |&id: &usize| {
                    let dims = &single.reference.shapes[id];
                    Tensor::new(dims, (0..dims.iter().product()).map(|i: usize| (i % 17) as f32 / 17.0).collect())
                };
                let sample = single.reference.inputs.iter().map(sample).collect();
                (Ranges::calibrate(&single.passed, &[sample])?, None)
            }
        };
        let typed = if self.batch == 1 { single } else { model::typed(&graph, self.batch as usize).map_err(named)? };
        let options = self.compile.options(widths)?;
        let (program, _) = model::compiled(&typed, &ranges, &options).map_err(named)?;
        if self.device != DeviceName::Cpu && program.settings.kind == Kind::Two {
            return Err(Error::Usage("--device: two parties compute on the processor".into()));
        }
        let planned = Planned::of(&program, &self.link, self.device)?;
        if self.json { planned.print_json() } else { print(&planned.shown()) }
    }
}

impl Planned {
    /// One run of a program over a link.
    pub(super) fn of(program: &Program, link: &LinkArg, device: DeviceName) -> Result<Self> {
        match program.settings.kind {
            Kind::Three => Self::with(&Plan::new(program.settings), program, link, device),
            Kind::Two => {
                let with = |settings| Self::with(&Plan::<two::Declared>::of(settings), program, link, device);
                let planned = with(program.settings)?;
                // A setting with which the program cannot run is no alternative.
                let other = |(setting, settings): (&'static str, Settings)| {
                    let Self { bytes, rounds, transfers, seconds, peak_memory_mb, .. } = with(settings).ok()?;
                    let transfers = transfers.unwrap_or(0);
                    Some(Alternative { setting, bytes, rounds, transfers, peak_memory_mb, seconds })
                };
                let mut alternatives: Vec<_> = alternatives(program.settings).into_iter().filter_map(other).collect();
                let ahead = Ahead::of(program)?;
                let [before, online] = ahead.costs(program)?;
                let prepared_memory_mb = ahead.bytes().into_iter().max().unwrap_or(0) as f64 / 1048576.0;
                alternatives.push(Alternative {
                    setting: "--prepare 1: a run",
                    bytes: online.total(),
                    rounds: online.rounds,
                    transfers: 0,
                    peak_memory_mb: planned.peak_memory_mb + prepared_memory_mb,
                    seconds: seconds(online, program, link, device),
                });
                alternatives.push(Alternative {
                    setting: "--prepare 1: before it",
                    bytes: before.total(),
                    rounds: before.rounds,
                    transfers: online.transfers,
                    peak_memory_mb: prepared_memory_mb,
                    seconds: seconds(before, program, link, device),
                });
                Ok(Self { alternatives, prepared_memory_mb: Some(prepared_memory_mb), ..planned })
            }
        }
    }

    fn with<C: Costs>(plan: &Plan<C>, program: &Program, link: &LinkArg, device: DeviceName) -> Result<Self> {
        let mut marks: Vec<(usize, Cost)> = vec![];
        planned(plan, program)?.run(plan, Step::root([0; 16]), None, |layer| marks.push((layer, plan.cost())))?;
        let total = plan.cost();
        let transfers = |c: Cost| (program.settings.kind == Kind::Two).then_some(c.transfers);
        let ends = marks.iter().skip(1).map(|m| m.1).chain([total]);
        let layers: Vec<Line> = marks
            .iter()
            .zip(ends)
            .map(|((layer, from), to)| {
                let cost = to - *from;
                let info = &program.layers[*layer];
                Line {
                    name: info.name.clone(),
                    op: info.op.clone(),
                    bytes: cost.total(),
                    rounds: cost.rounds,
                    macs: cost.macs,
                    transfers: transfers(cost),
                    seconds: seconds(cost, program, link, device),
                }
            })
            .collect();
        Ok(Self {
            bytes: total.total(),
            bytes_by_party: total.sent,
            // Owners who hear of no output are told that the run is over.
            rounds: total.rounds + u32::from(program.outputs.is_empty()),
            macs: total.macs,
            transfers: transfers(total),
            peak_memory_mb: plan.peak_bytes() as f64 / 1048576.0,
            seconds: seconds(total, program, link, device),
            device,
            layers,
            prepared_memory_mb: None,
            alternatives: vec![],
        })
    }

    pub(super) fn print_json(&self) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Error::Session(e.to_string()))?;
        print(&format!("{text}\n"))
    }

    pub(super) fn shown(&self) -> String {
        let drawn = |transfers: Option<u64>| transfers.map(|n| format!(" {n:>11}")).unwrap_or_default();
        let head = if self.transfers.is_some() { format!(" {:>11}", "transfers") } else { String::new() };
        let mut text = format!("{:>11} {:>6} {:>12}{head} {:>9}  layer\n", "bytes", "rounds", "products", "seconds");
        for l in &self.layers {
            text += &format!(
                "{:>11} {:>6} {:>12}{} {:>9.4}  {} ({})\n",
                human_bytes(l.bytes),
                l.rounds,
                l.macs,
                drawn(l.transfers),
                l.seconds,
                l.name,
                l.op
            );
        }
        let place = match self.device {
            DeviceName::Cpu => "this machine and link",
            _ => "a card of the class of an H100 each and this link, as computed from its figures and not measured",
        };
        text += &format!(
            "{} sent by all parties, {} rounds, at most about {:.0} MB of memory per party, about {:.3} s on {place}\n",
            human_bytes(self.bytes),
            self.rounds,
            self.peak_memory_mb,
            self.seconds
        );
        if !self.alternatives.is_empty() {
            text += "That is a first query; later ones of a session find transfers that were left over. The same with another setting:\n";
            text += &format!(
                "{:>11} {:>6} {:>12} {:>11} {:>9}  setting\n",
                "bytes", "rounds", "memory", "transfers", "seconds"
            );
        }
        for a in &self.alternatives {
            text += &format!(
                "{:>11} {:>6} {:>9.0} MB {:>11} {:>9.3}  {}\n",
                human_bytes(a.bytes),
                a.rounds,
                a.peak_memory_mb,
                a.transfers,
                a.seconds,
                a.setting
            );
        }
        text
    }
}

/// Every setting of two parties that says the same with one word changed.
fn alternatives(now: Settings) -> Vec<(&'static str, Settings)> {
    let linear = [("--linear he", Linear::He), ("--linear ot", Linear::Ot), ("--linear auto", Linear::Auto)];
    let transfers = [
        ("--ot silent", Transfers::Silent),
        ("--ot compact", Transfers::Compact),
        ("--ot softspoken", Transfers::Softspoken),
    ];
    let truncation = [("--truncation exact", Truncation::Exact), ("--truncation one-bit", Truncation::OneBit)];
    let linear = linear.map(|(name, linear)| (name, Settings { linear, ..now }));
    let transfers = transfers.map(|(name, transfers)| (name, Settings { transfers, ..now }));
    let truncation = truncation.map(|(name, truncation)| (name, Settings { truncation, ..now }));
    linear.into_iter().chain(transfers).chain(truncation).filter(|(_, settings)| *settings != now).collect()
}
