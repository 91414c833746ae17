//! How cost grows with the batch and with depth.

use super::Common;
use super::inference::network;
use super::measure::{Job, Measured, note};
use super::output::{Findings, Table, megabytes, short};
use crate::plot;
use crate::plot::{Axes, Series};
use clap::Args;
use serde::Serialize;
use sordino::Result;
use sordino_net::LinkModel;
use sordino_nn::Options;
use sordino_nn::zoo::Pool;

#[derive(Args)]
pub(crate) struct Growth {
    #[command(flatten)]
    common: Common,
    /// Networks whose batch grows.
    #[arg(long, num_args = 1.., default_values = ["lenet", "alexnet-cifar10", "vgg16-cifar10"])]
    networks: Vec<String>,
    /// Batches.
    #[arg(long, num_args = 1.., default_values = ["1", "8", "64"], value_parser = super::positive)]
    batches: Vec<usize>,
    /// Networks by depth, one image each.
    #[arg(long, num_args = 1.., default_values = ["resnet50", "resnet101", "resnet152"])]
    depths: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    batch: usize,
    /// Multiplications of the linear layers, millions.
    million_products: f64,
    #[serde(flatten)]
    measured: Measured,
}

impl Growth {
    pub(crate) fn run(self) -> Result<()> {
        let by_batch = self.networks.iter().flat_map(|n| self.batches.iter().map(move |&b| (n.clone(), b)));
        let by_depth = self.depths.iter().map(|n| (n.clone(), 1));
        let mut lines = vec![];
        for (name, batch) in by_batch.chain(by_depth) {
            let job = Job::new(&network(&name, Pool::Average)?, batch, &Options::default())?;
            let measured = self.common.measure(&job, LinkModel::UNLIMITED)?;
            note(&format!("{name}, batch {batch}: {} s", short(measured.seconds)));
            let million_products = sordino_nn::exec::macs(&job.program) as f64 / 1e6;
            lines.push(Line { name, batch, million_products, measured });
        }
        let mut table = Table::new(&[
            "network",
            "batch",
            "million products",
            "s",
            "s per image",
            "MB sent",
            "MB per image",
            "peak MB per party",
            "rounds",
        ]);
        for l in &lines {
            let m = &l.measured;
            table.rows.push(vec![
                l.name.clone(),
                l.batch.to_string(),
                format!("{:.0}", l.million_products),
                short(m.seconds),
                short(m.seconds / l.batch as f64),
                megabytes(m.bytes.payload),
                megabytes(m.bytes.payload / l.batch as u64),
                format!("{:.0}", m.peak_rss_mb),
                m.rounds.to_string(),
            ]);
        }
        let series = |f: &dyn Fn(&Line) -> f64| -> Vec<Series> {
            let points = |keep: &dyn Fn(&Line) -> bool| {
                lines.iter().filter(|l| keep(l)).map(|l| (l.million_products, f(l))).collect()
            };
            let batches = self.networks.iter().map(|n| Series {
                name: format!(
                    "{n}, batch {}",
                    self.batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
                points: points(&|l| l.name == *n),
            });
            let depth = Series { name: self.depths.join(", "), points: points(&|l| self.depths.contains(&l.name)) };
            batches.chain([depth]).collect()
        };
        type Figure<'a> = &'a dyn Fn(&Line) -> f64;
        let plots: [(&str, &str, Figure<'_>); 3] = [
            ("seconds", "seconds", &|l| l.measured.seconds),
            ("megabytes", "MB sent", &|l| l.measured.bytes.payload as f64 / 1e6),
            ("memory", "MB per party", &|l| l.measured.peak_rss_mb),
        ];
        for (i, (file, unit, f)) in plots.iter().enumerate() {
            let axes =
                Axes { title: "Growth with batch and depth", x: "million products", y: unit, log_x: true, log_y: true };
            let svg = plot::lines(&axes, &series(f))?;
            let name = if i == 0 { "growth".to_string() } else { format!("growth-{file}") };
            if i == 0 {
                Findings {
                    name: &name,
                    heading: "Cost against batch and depth, three processes with TLS.",
                    table: &table,
                    data: &lines,
                    svg: Some(svg),
                }
                .publish(&self.common.shown)?;
            } else {
                sordino::model::write_whole(&self.common.shown.out.join(format!("{name}.svg")), svg.as_bytes())?;
            }
        }
        Ok(())
    }
}
