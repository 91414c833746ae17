//! Whole networks: tables I to III of the CryptGPU paper and networks beyond them.

use super::measure::{Job, Measured, note};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::{Common, published};
use crate::plot;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sordino::Result;
use sordino_net::LinkModel;
use sordino_nn::zoo::{NETWORKS, Pool};
use sordino_nn::{Graph, Options};

/// The batches of tables II and III.
const BATCHES: [(&str, usize); 5] =
    [("alexnet-cifar10", 64), ("vgg16-cifar10", 64), ("resnet50", 8), ("resnet101", 8), ("resnet152", 8)];

/// Pooling where the original network takes maxima.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pooling {
    /// Averages, as the papers do.
    Average,
    /// Maxima, as the original networks do.
    Max,
    /// One after the other.
    Both,
}

#[derive(Args)]
pub(crate) struct Inference {
    #[command(flatten)]
    common: Common,
    /// Only these networks [default: all of `sordino zoo list`, then the papers' batches].
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Which pooling to measure.
    #[arg(long, value_enum, default_value = "both")]
    pooling: Pooling,
    /// Images per run [default: 1, and without --only the papers' batches].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    pooling: &'static str,
    batch: usize,
    #[serde(flatten)]
    measured: Measured,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<Published>,
}

/// A published figure.
#[derive(Serialize)]
pub(super) struct Published {
    pub(super) system: &'static str,
    pub(super) seconds: f64,
    pub(super) megabytes: f64,
}

/// A network of the zoo with seeded weights.
pub(crate) fn network(name: &str, pool: Pool) -> Result<Graph> {
    crate::zoo_network(name, 0, pool)
}

impl Inference {
    pub(crate) fn run(self) -> Result<()> {
        let names: Vec<String> =
            if self.only.is_empty() { NETWORKS.iter().map(|n| n.name.into()).collect() } else { self.only.clone() };
        for name in &names {
            network(name, Pool::Average)?;
        }
        let batch = self.batch.unwrap_or(1) as usize;
        let mut jobs: Vec<(String, Pool, usize)> = vec![];
        for name in &names {
            if self.pooling != Pooling::Max {
                jobs.push((name.clone(), Pool::Average, batch));
            }
            // Networks without maxima have one column.
            let has_max = network(name, Pool::Max)?.nodes.iter().any(|n| n.op == "MaxPool");
            if self.pooling != Pooling::Average && has_max {
                jobs.push((name.clone(), Pool::Max, batch));
            }
        }
        if self.only.is_empty() && self.batch.is_none() {
            jobs.extend(BATCHES.iter().map(|&(name, batch)| (name.to_string(), Pool::Average, batch)));
        }
        let mut lines = vec![];
        for (name, pool, batch) in jobs {
            let job = Job::new(&network(&name, pool)?, batch, &Options::default())?;
            let measured = self.common.measure(&job, LinkModel::UNLIMITED)?;
            let pooling = if pool == Pool::Max { "max" } else { "average" };
            note(&format!("{name}, {pooling} pooling, batch {batch}: {} s", short(measured.seconds)));
            lines.push(Line { published: published(&name, pool, batch), name, pooling, batch, measured });
        }
        self.publish(&lines)
    }

    fn publish(&self, lines: &[Line]) -> Result<()> {
        let mut table = Table::new(&[
            "network",
            "batch",
            "s",
            "wall s",
            "MB sent",
            "MB on the wire",
            "rounds",
            "CPU s",
            "peak MB per party",
            "max pooling: s",
            "max pooling: MB",
            "CryptGPU s",
            "CryptGPU MB",
            "Falcon s",
            "Falcon MB",
            "CrypTFlow s",
            "CrypTFlow MB",
        ]);
        let with_max = |l: &Line| lines.iter().find(|m| m.pooling == "max" && m.name == l.name && m.batch == l.batch);
        let first = |l: &&Line| l.pooling == "average" || self.pooling == Pooling::Max;
        for l in lines.iter().filter(first) {
            let m = &l.measured;
            let mut row = vec![
                l.name.clone(),
                l.batch.to_string(),
                short(m.seconds),
                short(m.wall_seconds),
                megabytes(m.bytes.payload),
                megabytes(m.bytes.wire),
                m.rounds.to_string(),
                short(m.cpu_seconds),
                format!("{:.0}", m.peak_rss_mb),
            ];
            let max = with_max(l).map(|l| &l.measured);
            row.push(max.map(|m| short(m.seconds)).unwrap_or_default());
            row.push(max.map(|m| megabytes(m.bytes.payload)).unwrap_or_default());
            for system in ["CryptGPU", "Falcon", "CrypTFlow"] {
                let found = l.published.iter().find(|p| p.system == system);
                row.push(or_empty(found.map(|p| p.seconds)));
                row.push(or_empty(found.map(|p| p.megabytes)));
            }
            table.rows.push(row);
        }
        let shown: Vec<&Line> = lines.iter().filter(first).collect();
        let names: Vec<String> = shown
            .iter()
            .map(|l| if l.batch == 1 { l.name.clone() } else { format!("{} x{}", l.name, l.batch) })
            .collect();
        let of = |system: &str| {
            shown.iter().map(|l| l.published.iter().find(|p| p.system == system).map(|p| p.seconds)).collect()
        };
        let series = [
            ("sordino, this machine", shown.iter().map(|l| Some(l.measured.seconds)).collect()),
            ("CryptGPU, three V100", of("CryptGPU")),
            ("Falcon, 3 x 36 cores", of("Falcon")),
            ("CrypTFlow", of("CrypTFlow")),
        ];
        let heading = format!(
            "Private inference, three processes with TLS on this machine, median of {} runs; published figures are from other machines.",
            self.common.runs
        );
        Findings {
            name: "inference",
            heading: &heading,
            table: &table,
            data: lines,
            svg: Some(plot::bars("Private inference", "seconds", &names, &series)?),
        }
        .publish(&self.common.shown)
    }
}

fn published(name: &str, pool: Pool, batch: usize) -> Vec<Published> {
    if pool == Pool::Max {
        return vec![];
    }
    let figures = if batch == 1 {
        vec![
            ("CryptGPU", published::cryptgpu(name)),
            ("Falcon", published::falcon(name)),
            ("CrypTFlow", published::cryptflow(name)),
        ]
    } else {
        vec![("CryptGPU", published::cryptgpu_batch(name, batch))]
    };
    let with = |(system, figure): (&'static str, Option<published::Figure>)| {
        figure.map(|(seconds, megabytes)| Published { system, seconds, megabytes })
    };
    figures.into_iter().filter_map(with).collect()
}
