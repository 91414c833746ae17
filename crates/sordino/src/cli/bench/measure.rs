//! Running a compiled program again and again over three processes, and what that took.

use super::Common;
use serde::Serialize;
use sordino::model::{self, Typed};
use sordino::processes::{self, Processes};
use sordino::report::EndReport;
use sordino::session::{Driven, Shared, fresh_id};
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::exec::encode_inputs;
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Graph, Options, Ranges, Tensor};
use sordino_ring::PrgKey;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
    pub(crate) bytes: PerRun,
    pub(crate) rounds: u32,
    /// Most resident memory of a party's process.
    pub(crate) peak_rss_mb: f64,
    /// Processor seconds of a run, the three servers together.
    pub(crate) cpu_seconds: f64,
}

/// A compiled job.
pub(crate) struct Job {
    pub(crate) typed: Typed,
    pub(crate) program: Program,
    pub(crate) secrets: Secrets,
    pub(crate) input: Tensor,
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
        let single = model::typed(graph, 1)?;
        let dims = single.reference.shapes[single.reference.inputs[0]].clone();
        let ranges = Ranges::calibrate(&single.passed, &[vec![normal(&dims, 1)]])?;
        let typed = if batch == 1 { single } else { model::typed(graph, batch)? };
        let (program, secrets) = model::compiled(&typed, &ranges, options)?;
        // The calibrated sample, over and over: its values fit, and cost does not depend on them.
        let sample = normal(&dims, 1);
        let mut whole = dims;
        if batch > 1 {
            whole[0] = batch;
        }
        let data = sample.data.iter().copied().cycle().take(whole.iter().product()).collect();
        Ok(Self { typed, program, secrets, input: Tensor::new(&whole, data) })
    }
}

pub(super) fn interrupted() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let _ = ctrlc::set_handler(move || seen.store(true, std::sync::atomic::Ordering::Relaxed));
        flag
    });
    Arc::clone(flag)
}

impl Common {
    pub(crate) fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or(cores / 3).max(1)
    }

    /// Runs a job once to warm up and then as often as asked; reports are of all runs, the first one included.
    pub(crate) fn session(&self, job: &Job, link: LinkModel, runs: usize) -> Result<(Driven, Vec<EndReport>)> {
        let encoded = encode_inputs(&job.program, std::slice::from_ref(&job.input))?;
        let inputs = vec![encoded; runs];
        let shared = Shared { session: fresh_id()?, program: &job.program, runs, trace: false, checkpoints: None };
        let setup = Processes {
            link,
            deadline: Duration::from_secs_f64(self.timeout),
            threads: self.threads(),
            interrupted: interrupted(),
        };
        processes::run(shared, &setup, &job.secrets, &mut inputs.as_slice(), &AtomicU64::new(0))
    }

    pub(crate) fn measure(&self, job: &Job, link: LinkModel) -> Result<Measured> {
        let (driven, servers) = self.session(job, link, self.runs + 1)?;
        let all = driven.outputs.len() as u64;
        let ends = || servers.iter().chain([&driven.report]);
        let seconds = sorted(driven.seconds[1..].to_vec());
        let cpu = (1..driven.outputs.len())
            .map(|i| servers.iter().filter_map(|s| s.runs.get(i)).map(|r| r.cpu_seconds).sum())
            .collect();
        let last = driven.report.runs.last().ok_or_else(|| Error::Session("no run was measured".into()))?;
        Ok(Measured {
            seconds: median(&seconds),
            seconds_range: [seconds[0], seconds[seconds.len() - 1]],
            bytes: PerRun {
                payload: ends().map(|e| e.payload).sum::<u64>() / all,
                wire: ends().map(|e| e.wire).sum::<u64>() / all,
            },
            rounds: last.rounds,
            peak_rss_mb: servers.iter().map(|e| e.peak_rss_mb).fold(0.0, f64::max),
            cpu_seconds: median(&sorted(cpu)),
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
