//! One iteration of training: table IV of the CryptGPU paper.

use super::inference::{Published, network};
use super::measure::{Measured, normal, note};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::{Common, Parties, published};
use crate::plot;
use clap::Args;
use serde::Serialize;
use sordino::data::{Labels, Set};
use sordino::inputs::Preprocess;
use sordino::owners::Owners;
use sordino::prepared::{Material, Prepared, Trainer, owners};
use sordino::session::Job;
use sordino::training::{Length, order};
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::training::{Loss, Optimiser, Rates, Rule};
use sordino_nn::zoo::{NETWORKS, Pool};
use std::sync::atomic::AtomicU64;
use zeroize::Zeroizing;

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
    /// Iterations measured [default: --runs].
    #[arg(long, value_parser = super::positive)]
    iterations: Option<usize>,
    /// Samples of an iteration [default: the paper's].
    #[arg(long, value_parser = super::positive)]
    batch: Option<usize>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    batch: usize,
    /// Of one iteration.
    #[serde(flatten)]
    measured: Measured,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<Published>,
}

/// Systems whose figures stand beside ours.
const SYSTEMS: [&str; 3] = ["CryptGPU", "Falcon", "Piranha"];

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
                note(&format!("{name}, batch {}: {} s", line.batch, short(line.measured.seconds)));
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
                short(l.measured.seconds),
                megabytes(l.measured.bytes.payload),
                l.measured.rounds.to_string(),
                short(l.measured.cpu_seconds),
                format!("{:.0}", l.measured.peak_rss_mb),
            ];
            let figures = published::training(&l.name);
            row.extend(figures.iter().flat_map(|f| [or_empty(f.map(|f| f.0)), or_empty(f.map(|f| f.1))]));
            table.rows.push(row);
        }
        let names: Vec<String> = lines.iter().map(|l| format!("{} x{}", l.name, l.batch)).collect();
        let of = |i: usize| lines.iter().map(|l| published::training(&l.name)[i].map(|f| f.0)).collect();
        let series = [
            ("sordino, this machine", lines.iter().map(|l| Some(l.measured.seconds)).collect()),
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
        .publish(&self.common.shown)
    }

    fn line(&self, name: &str, batch: usize, classes: usize) -> Result<Line> {
        let graph = network(name, Pool::Average)?;
        let [c, h, w] = NETWORKS.iter().find(|n| n.name == name).map_or([1, 1, 1], |n| n.input);
        let samples = (0..batch).map(|i| normal(&[1, c, h, w], (i % 251) as u8)).collect();
        let labels = Labels::Classes((0..batch).map(|i| i % classes).collect());
        let sets = vec![Set::new(samples, labels, classes)?];
        let runs = self.iterations.unwrap_or(self.common.runs) + 1;
        let material = Material {
            sets,
            order: order(&[batch], batch, Length { epochs: Some(runs), iterations: None }, 0)?,
            answers: classes,
            seed: 0,
            key: Zeroizing::new([0; 32]),
            preprocess: Preprocess::default(),
        };
        let rule = Rule {
            weighted: false,
            loss: Loss::CrossEntropy,
            optimiser: Optimiser::Sgd { momentum: 0.9 },
            rates: Rates(vec![0.01]),
            decay: 0.0,
            tell_loss: false,
            seed: 0,
        };
        let prepared = Prepared::new(&graph, material, &rule, 16.0, 2)?;
        let session = self.common.session(Parties::Processes, LinkModel::UNLIMITED);
        let mut trainers = Trainer::all(&prepared);
        let owners = Owners { weights: &prepared.secrets, data: owners(&mut trainers), receiver: &mut () };
        let done = session.run(Job::new(&prepared.program, runs)?, owners, None, &AtomicU64::new(0))?;
        let figures = SYSTEMS.iter().zip(published::training(name));
        let published = figures
            .filter_map(|(&system, f)| f.map(|(seconds, megabytes)| Published { system, seconds, megabytes }))
            .collect();
        Ok(Line { name: name.into(), batch, measured: Measured::new(&done)?, published })
    }
}
