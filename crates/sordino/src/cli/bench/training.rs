//! One iteration of training: table IV of the CryptGPU paper.

use super::inference::network;
use super::measure::{PerRun, interrupted, median, normal, note, sorted};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::{Common, plot, published};
use crate::cli::train::{Prepared, Trainer};
use clap::Args;
use serde::Serialize;
use sordino::processes::{self, Processes};
use sordino::report::run_seconds;
use sordino::session::{Shared, fresh_id};
use sordino::training::{Set, order};
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::training::{Loss, Rule};
use sordino_nn::zoo::{NETWORKS, Pool};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Networks, batches and classes.
const JOBS: [(&str, usize, usize); 5] = [
    ("lenet", 128, 10),
    ("alexnet-cifar10", 128, 10),
    ("vgg16-cifar10", 32, 10),
    ("alexnet-tinyimagenet", 128, 200),
    ("vgg16-tinyimagenet", 8, 200),
];

#[derive(Args)]
pub(crate) struct Training {
    #[command(flatten)]
    common: Common,
    /// Only these networks.
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Iterations measured; the median counts. One more before them warms up.
    #[arg(long, default_value_t = 3, value_parser = super::positive)]
    iterations: usize,
    /// Samples of an iteration [default: the paper's].
    #[arg(long, value_parser = super::positive)]
    batch: Option<usize>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    batch: usize,
    /// Of an iteration, the median.
    seconds: f64,
    /// Of an iteration.
    bytes: PerRun,
    rounds: u32,
    peak_rss_mb: f64,
    /// Processor seconds of an iteration, the three servers together.
    cpu_seconds: f64,
}

impl Training {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(name) = self.only.iter().find(|n| JOBS.iter().all(|j| j.0 != n.as_str())) {
            let names: Vec<&str> = JOBS.iter().map(|j| j.0).collect();
            return Err(Error::Usage(format!("{name} is not among the trained networks, {}", names.join(", "))));
        }
        let mut lines = vec![];
        for (name, batch, classes) in JOBS {
            if self.only.is_empty() || self.only.iter().any(|n| n == name) {
                let line = self.line(name, self.batch.unwrap_or(batch), classes)?;
                note(&format!("{name}, batch {}: {} s", line.batch, short(line.seconds)));
                lines.push(line);
            }
        }
        let mut table = Table::new(&[
            "network",
            "batch",
            "s per iteration",
            "MB sent",
            "rounds",
            "CPU s",
            "peak MB per party",
            "CryptGPU s",
            "CryptGPU MB",
            "Falcon s",
            "Falcon MB",
            "Piranha s",
            "Piranha MB",
        ]);
        for l in &lines {
            let mut row = vec![
                l.name.clone(),
                l.batch.to_string(),
                short(l.seconds),
                megabytes(l.bytes.payload),
                l.rounds.to_string(),
                short(l.cpu_seconds),
                format!("{:.0}", l.peak_rss_mb),
            ];
            let figures = published::training(&l.name);
            row.extend(figures.iter().flat_map(|f| [or_empty(f.map(|f| f.0)), or_empty(f.map(|f| f.1))]));
            table.rows.push(row);
        }
        let names: Vec<String> = lines.iter().map(|l| format!("{} x{}", l.name, l.batch)).collect();
        let of = |i: usize| lines.iter().map(|l| published::training(&l.name)[i].map(|f| f.0)).collect();
        let series = [
            ("sordino, this machine", lines.iter().map(|l| Some(l.seconds)).collect()),
            ("CryptGPU, three V100", of(0)),
            ("Falcon, 3 x 36 cores", of(1)),
            ("Piranha, three V100", of(2)),
        ];
        Findings {
            name: "training",
            heading: "One iteration of private training with momentum, three processes with TLS; published figures are from other machines.",
            table: &table,
            data: &lines,
            svg: Some(plot::bars("One training iteration", "seconds", &names, &series)?),
        }
        .publish(&self.common)
    }

    fn line(&self, name: &str, batch: usize, classes: usize) -> Result<Line> {
        let graph = network(name, Pool::Average)?;
        let [c, h, w] = NETWORKS.iter().find(|n| n.name == name).map_or([1, 1, 1], |n| n.input);
        let samples = (0..batch).map(|i| normal(&[1, c, h, w], (i % 251) as u8)).collect();
        let set = Set::new(samples, (0..batch).map(|i| (i % classes) as u8).collect(), classes)?;
        let runs = self.iterations + 1;
        let batches = order(batch, batch, runs, 0)?;
        let rule = Rule { loss: Loss::CrossEntropy, rate: 0.01, momentum: 0.9, decay: 0.0, tell_loss: false };
        let prepared = Prepared::new(&graph, set, batches, classes, &rule, 16.0, 2)?;
        let shared = Shared { session: fresh_id()?, program: &prepared.program, runs, trace: false, checkpoints: None };
        let setup = Processes {
            link: LinkModel::UNLIMITED,
            deadline: Duration::from_secs_f64(self.common.timeout),
            threads: self.common.threads(),
            interrupted: interrupted(),
        };
        let mut owner = Trainer::new(&prepared, true);
        let (driven, servers) = processes::run(shared, &setup, &prepared.secrets, &mut owner, &AtomicU64::new(0))?;
        let ends = || servers.iter().chain([&driven.report]);
        let cpu = (1..runs).map(|i| servers.iter().filter_map(|s| s.runs.get(i)).map(|r| r.cpu_seconds).sum());
        Ok(Line {
            name: name.into(),
            batch,
            seconds: median(&sorted(run_seconds(&servers, runs)[1..].to_vec())),
            bytes: PerRun {
                payload: ends().map(|e| e.payload).sum::<u64>() / runs as u64,
                wire: ends().map(|e| e.wire).sum::<u64>() / runs as u64,
            },
            rounds: ends().filter_map(|e| e.runs.last()).map(|r| r.rounds).max().unwrap_or(0),
            peak_rss_mb: servers.iter().map(|e| e.peak_rss_mb).fold(0.0, f64::max),
            cpu_seconds: median(&sorted(cpu.collect())),
        })
    }
}
