//! Running a compiled program again and again over three processes, and what that took.

use super::{Common, Parties};
use serde::Serialize;
use sordino::model::{self, Typed};
use sordino::owners::{Finished, Owners};
use sordino::report::Prepared;
use sordino::session;
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::exec::encode_inputs;
use sordino_nn::network::Network;
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Graph, Options, Ranges, Tensor};
use sordino_ring::PrgKey;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Bytes of one run, all parties.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct PerRun {
    /// Of shares.
    pub(crate) payload: u64,
    /// Handed to the network.
    pub(crate) wire: u64,
}

/// One job's figures.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// Median over the runs: from the first share sent to the last output opened.
    pub(crate) seconds: f64,
    /// Fastest and slowest run.
    pub(crate) seconds_range: [f64; 2],
    /// What a user waits for whose command runs once: compiling with ranges, starting parties, sharing the weights, and that run.
    pub(crate) wall_seconds: f64,
    pub(crate) bytes: PerRun,
    pub(crate) rounds: u32,
    /// Most resident memory of a party's process.
    pub(crate) peak_rss_mb: f64,
    /// Processor seconds of a run, the three servers together.
    pub(crate) cpu_seconds: f64,
    /// What two parties did before the first run: for one of the runs, bytes of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prepared: Option<Prepared>,
}

/// A compiled job.
pub(crate) struct Job {
    pub(crate) typed: Typed,
    pub(crate) program: Program,
    pub(crate) secrets: Secrets,
    pub(crate) input: Tensor,
    /// Seconds that it took to take ranges and to compile.
    pub(crate) compiling: f64,
    /// Whether two parties draw transfers before the first run.
    pub(crate) prepared: bool,
}

/// Numbers with mean zero and variance one, the same at every call.
pub(crate) fn normal(dims: &[usize], stream: u8) -> Tensor {
    let n: usize = dims.iter().product();
    let words: Vec<u32> = PrgKey::new([stream; 16]).words(12 * n);
    // Twelve uniform numbers have a sum of variance one.
    let sum = |w: &[u32]| w.iter().map(|&w| f64::from(w) / 4_294_967_296.0).sum::<f64>() - 6.0;
    Tensor::new(dims, words.chunks_exact(12).map(|w| sum(w) as f32).collect())
}

impl Job {
    /// Compiles a graph for a batch, calibrated on one drawn sample.
    pub(crate) fn new(graph: &Graph, batch: usize, options: &Options) -> Result<Self> {
        let start = Instant::now();
        let single = model::typed(graph, 1)?;
        let dims = single.reference.shapes[single.reference.inputs[0]].clone();
        let ranges = Ranges::calibrate(&single.passed, &[vec![normal(&dims, 1)]])?;
        let typed = if batch == 1 { single } else { model::typed(graph, batch)? };
        let (program, secrets) = model::compiled(&typed, &ranges, options)?;
        let compiling = start.elapsed().as_secs_f64();
        // The calibrated sample, over and over: its values fit, and cost does not depend on them.
        let sample = normal(&dims, 1);
        let mut whole = dims;
        if batch > 1 {
            whole[0] = batch;
        }
        let data = sample.data.iter().copied().cycle().take(whole.iter().product()).collect();
        Ok(Self { typed, program, secrets, input: Tensor::new(&whole, data), compiling, prepared: false })
    }

    /// Compiles a network, calibrated on its one input.
    pub(crate) fn of(network: Network, input: Tensor, options: &Options) -> Result<Self> {
        let start = Instant::now();
        let ranges = Ranges::calibrate(&network, &[vec![input.clone()]])?;
        let typed = Typed { reference: network.clone(), passed: network };
        let (program, secrets) = model::compiled(&typed, &ranges, options)?;
        let compiling = start.elapsed().as_secs_f64();
        Ok(Self { typed, program, secrets, input, compiling, prepared: false })
    }
}

impl Common {
    /// Runs a job so often; reports are of all runs.
    pub(crate) fn run(&self, job: &Job, link: LinkModel, runs: usize) -> Result<Finished> {
        let encoded = encode_inputs(&job.program, std::slice::from_ref(&job.input))?;
        let inputs = vec![encoded; runs];
        let mut inputs = inputs.as_slice();
        let owners = Owners { weights: &job.secrets, data: vec![&mut inputs], receiver: &mut () };
        let session = self.session(Parties::Processes, link);
        let prepared = if job.prepared { runs } else { 0 };
        session.run(
            session::Job { prepared, ..session::Job::new(&job.program, runs)? },
            owners,
            None,
            &AtomicU64::new(0),
        )
    }

    /// Runs a job once to warm up and then as often as asked.
    pub(crate) fn measure(&self, job: &Job, link: LinkModel) -> Result<Measured> {
        Ok(self.measured(job, link)?.0)
    }

    /// The same, with all that the session told.
    pub(crate) fn measured(&self, job: &Job, link: LinkModel) -> Result<(Measured, Finished)> {
        // An end that runs in this process is to show its own memory, and not that of what was measured before.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let start = Instant::now();
        let done = self.run(job, link, self.runs + 1)?;
        let session = start.elapsed().as_secs_f64();
        // The first run is what a single one is; the others are more of the same.
        let others: f64 = done.seconds().iter().skip(1).sum();
        let measured = Measured { wall_seconds: job.compiling + session - others, ..Measured::new(&done)? };
        Ok((measured, done))
    }
}

impl Measured {
    /// Figures of a session whose first run warmed up.
    pub(crate) fn new(done: &Finished) -> Result<Self> {
        let (all, servers) = (done.seconds(), done.servers());
        let none = || Error::Session("no run was measured".into());
        let seconds = sorted(all.get(1..).unwrap_or_default().to_vec());
        let cpu = (1..all.len()).map(|i| servers.iter().filter_map(|s| s.runs.get(i)).map(|r| r.cpu_seconds).sum());
        let bytes = done.bytes();
        let each = |p: Prepared| {
            let runs = p.queries.max(1);
            Prepared { queries: 1, seconds: p.seconds / runs as f64, bytes: p.bytes / runs as u64 }
        };
        Ok(Self {
            prepared: done.prepared().map(each),
            seconds: median(&seconds),
            seconds_range: [*seconds.first().ok_or_else(none)?, *seconds.last().ok_or_else(none)?],
            wall_seconds: 0.0,
            bytes: PerRun { payload: bytes.payload / all.len() as u64, wire: bytes.wire / all.len() as u64 },
            rounds: done.rounds_of_last_run(),
            peak_rss_mb: servers.iter().map(|e| e.peak_rss_mb).fold(0.0, f64::max),
            cpu_seconds: median(&sorted(cpu.collect())),
        })
    }
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of sorted values; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// A line on standard error, so that long work shows where it is.
pub(crate) fn note(text: &str) {
    eprintln!("bench: {text}");
}
