//! The same networks over shaped links.

use super::Common;
use super::inference::network;
use super::measure::{Job, Measured, note};
use super::output::{Findings, Table, megabytes, short};
use crate::plot;
use clap::Args;
use serde::Serialize;
use sordino::Result;
use sordino_net::LinkModel;
use sordino_nn::Options;
use sordino_nn::zoo::Pool;
use std::time::Duration;

/// Name, one-way latency in milliseconds, bits per second of each direction of each link.
const LINKS: [(&str, f64, f64); 3] =
    [("10 Gb/s, 0.1 ms", 0.1, 1e10), ("1 Gb/s, 0.2 ms", 0.2, 1e9), ("100 Mb/s, 40 ms", 40.0, 1e8)];

#[derive(Args)]
pub(crate) struct LinkBench {
    #[command(flatten)]
    common: Common,
    /// The networks.
    #[arg(long, num_args = 1.., default_values = ["lenet", "alexnet-cifar10", "vgg16-cifar10", "squeezenet1.1", "resnet50"])]
    only: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    link: &'static str,
    #[serde(flatten)]
    measured: Measured,
}

impl LinkBench {
    pub(crate) fn run(self) -> Result<()> {
        let mut lines = vec![];
        let mut columns = vec!["network".to_string(), "MB sent".into(), "rounds".into(), "s, loopback".into()];
        columns.extend(LINKS.iter().map(|l| format!("s, {}", l.0)));
        let mut table = Table { columns, rows: vec![] };
        for name in &self.only {
            let job = Job::new(&network(name, Pool::Average)?, 1, &Options::default())?;
            let mut row = vec![];
            for (link, ms, bits) in [("loopback", 0.0, f64::INFINITY)].into_iter().chain(LINKS) {
                let model = if bits.is_finite() {
                    LinkModel { latency: Duration::from_secs_f64(ms * 1e-3), bandwidth: Some(bits / 8.0) }
                } else {
                    LinkModel::UNLIMITED
                };
                let measured = self.common.measure(&job, model)?;
                note(&format!("{name}, {link}: {} s", short(measured.seconds)));
                if row.is_empty() {
                    row = vec![name.clone(), megabytes(measured.bytes.payload), measured.rounds.to_string()];
                }
                row.push(short(measured.seconds));
                lines.push(Line { name: name.clone(), link, measured });
            }
            table.rows.push(row);
        }
        let series: Vec<(&str, Vec<Option<f64>>)> = ["loopback"]
            .into_iter()
            .chain(LINKS.map(|l| l.0))
            .map(|link| (link, lines.iter().filter(|l| l.link == link).map(|l| Some(l.measured.seconds)).collect()))
            .collect();
        let heading = format!(
            "Private inference over shaped links (latency is one way), three processes with TLS, median of {} runs.",
            self.common.runs
        );
        Findings {
            name: "link",
            heading: &heading,
            table: &table,
            data: &lines,
            svg: Some(plot::bars("Private inference by link", "seconds", &self.only, &series)?),
        }
        .publish(&self.common.shown)
    }
}
