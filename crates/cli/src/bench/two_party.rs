//! Whole networks by two parties, with the widths of the CrypTFlow2 paper and its figures and later ones beside them.

use super::inference::{Published, network};
use super::measure::{Job, Measured, note};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::{Common, published};
use crate::plot;
use clap::Args;
use serde::Serialize;
use sordino::Result;
use sordino_mpc::{Kind, Settings, Transfers};
use sordino_net::LinkModel;
use sordino_nn::Options;
use sordino_nn::zoo::Pool;

/// A network, its narrow and its wide bits.
const NETWORKS: [(&str, u32, u32); 5] = [
    ("lenet", 25, 37),
    ("resnet20-cifar10", 25, 37),
    ("squeezenet1.1", 23, 32),
    ("resnet50", 25, 37),
    ("densenet121", 21, 32),
];

#[derive(Args)]
pub(crate) struct TwoParty {
    #[command(flatten)]
    common: Common,
    /// Only these networks [default: lenet, resnet20-cifar10, squeezenet1.1, resnet50, densenet121].
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    narrow_bits: u32,
    wide_bits: u32,
    transfers: Transfers,
    #[serde(flatten)]
    measured: Measured,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<Published>,
}

impl TwoParty {
    pub(crate) fn run(self) -> Result<()> {
        let known =
            |name: &String| NETWORKS.into_iter().find(|n| n.0 == name.as_str()).map_or((25, 37), |n| (n.1, n.2));
        let names: Vec<String> =
            if self.only.is_empty() { NETWORKS.iter().map(|n| n.0.into()).collect() } else { self.only.clone() };
        let mut lines = vec![];
        for name in &names {
            let graph = network(name, Pool::Max)?;
            let (narrow_bits, wide_bits) = known(name);
            for transfers in [Transfers::Silent, Transfers::Compact] {
                let settings = Settings { kind: Kind::Two, narrow_bits, wide_bits, transfers, ..Settings::default() };
                let job = Job::new(&graph, 1, &Options { settings, ..Options::default() })?;
                let measured = self.common.measure(&job, LinkModel::UNLIMITED)?;
                note(&format!("{name}, {transfers:?}: {} s", short(measured.seconds)));
                let published = published(name);
                lines.push(Line { name: name.clone(), narrow_bits, wide_bits, transfers, measured, published });
            }
        }
        self.publish(&lines)
    }

    fn publish(&self, lines: &[Line]) -> Result<()> {
        let systems = ["Cheetah", "CrypTFlow2 HE", "CrypTFlow2 OT"];
        let mut columns = vec![
            "network".to_string(),
            "n, w".into(),
            "transfers".into(),
            "s".into(),
            "wall s".into(),
            "MB sent".into(),
            "rounds".into(),
            "CPU s".into(),
            "peak MB per party".into(),
        ];
        columns.extend(systems.iter().flat_map(|s| [format!("{s} s"), format!("{s} MB")]));
        let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
        for l in lines {
            let m = &l.measured;
            let mut row = vec![
                l.name.clone(),
                format!("{}, {}", l.narrow_bits, l.wide_bits),
                format!("{:?}", l.transfers).to_lowercase(),
                short(m.seconds),
                short(m.wall_seconds),
                megabytes(m.bytes.payload),
                m.rounds.to_string(),
                short(m.cpu_seconds),
                format!("{:.0}", m.peak_rss_mb),
            ];
            for system in systems {
                let found = l.published.iter().find(|p| p.system == system);
                row.push(or_empty(found.map(|p| p.seconds)));
                row.push(or_empty(found.map(|p| p.megabytes)));
            }
            table.rows.push(row);
        }
        let fast: Vec<&Line> = lines.iter().filter(|l| l.transfers == Transfers::Silent).collect();
        let names: Vec<String> = fast.iter().map(|l| l.name.clone()).collect();
        let of = |system: &str| {
            fast.iter().map(|l| l.published.iter().find(|p| p.system == system).map(|p| p.seconds)).collect()
        };
        let series = [
            ("sordino, this machine", fast.iter().map(|l| Some(l.measured.seconds)).collect()),
            ("Cheetah, LAN", of("Cheetah")),
            ("CrypTFlow2 HE, LAN", of("CrypTFlow2 HE")),
        ];
        let heading = format!(
            "Private inference by two parties, two processes with TLS on this machine, median of {} runs, exact; published figures are from other machines, \
             Cheetah's with errors of one unit.",
            self.common.runs
        );
        Findings {
            name: "two-party",
            heading: &heading,
            table: &table,
            data: lines,
            svg: Some(plot::bars("Private inference by two parties", "seconds", &names, &series)?),
        }
        .publish(&self.common)
    }
}

fn published(name: &str) -> Vec<Published> {
    let with =
        |(system, (seconds, megabytes)): (&'static str, published::Figure)| Published { system, seconds, megabytes };
    published::two_party(name).into_iter().map(with).collect()
}
