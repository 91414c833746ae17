//! Whole networks by two parties, with the widths of the CrypTFlow2 paper and its figures and later ones beside them.

use super::inference::{Published, network};
use super::measure::{Job, Measured, note};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::service::link_name;
use super::{Common, published};
use crate::plot;
use crate::{LinkArg, parse_link};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sordino::Result;
use sordino::report::{EndReport, LayerReport};
use sordino_mpc::{Kind, Linear, Settings, Transfers, Truncation};
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

/// How two parties may run a network.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Silent transfers.
    Silent,
    /// Fewer bytes and rounds, more time.
    Compact,
    /// Silent transfers that were drawn before.
    Prepared,
    /// Silent transfers; truncations off by a unit.
    OneBit,
    /// Silent transfers, and products by transfers as well.
    Ot,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Compact => "compact",
            Self::Prepared => "silent, prepared",
            Self::OneBit => "silent, one-bit",
            Self::Ot => "silent, products by transfers",
        }
    }

    fn settings(self, narrow_bits: u32, wide_bits: u32) -> Settings {
        let transfers = if self == Self::Compact { Transfers::Compact } else { Transfers::Silent };
        let truncation = if self == Self::OneBit { Truncation::OneBit } else { Truncation::Exact };
        let linear = if self == Self::Ot { Linear::Ot } else { Linear::He };
        Settings { kind: Kind::Two, narrow_bits, wide_bits, transfers, truncation, linear, ..Settings::default() }
    }

    /// Whether it is measured where nothing else is said: what takes gigabytes of memory or hundreds of them sent is not.
    fn usual(self, name: &str) -> bool {
        match self {
            Self::Silent | Self::Compact | Self::OneBit => true,
            Self::Prepared | Self::Ot => !["resnet50", "densenet121"].contains(&name),
        }
    }
}

#[derive(Args)]
pub(crate) struct TwoParty {
    #[command(flatten)]
    common: Common,
    /// Only these networks [default: lenet, resnet20-cifar10, squeezenet1.1, resnet50, densenet121].
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Only these ways [default: all, and for the largest networks silent, compact, one-bit].
    #[arg(long, value_enum, num_args = 1..)]
    ways: Vec<Way>,
    /// Make the link slow: none, lan, wan, or LATENCY,BANDWIDTH such as 40ms,320Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    link: LinkArg,
}

#[derive(Serialize)]
struct Line {
    name: String,
    narrow_bits: u32,
    wide_bits: u32,
    way: &'static str,
    #[serde(flatten)]
    measured: Measured,
    /// Of a run, its ReLUs with the truncations in them: seconds of the slower party, bytes of both.
    relu_seconds: f64,
    relu_bytes: u64,
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
            let chosen = |way: &Way| if self.ways.is_empty() { way.usual(name) } else { self.ways.contains(way) };
            for way in Way::value_variants().iter().copied().filter(chosen) {
                let settings = way.settings(narrow_bits, wide_bits);
                let job = Job::new(&graph, 1, &Options { settings, ..Options::default() })?;
                let job = Job { prepared: way == Way::Prepared, ..job };
                let (measured, done) = self.common.measured(&job, self.link.0)?;
                let relus: Vec<usize> =
                    (0..job.program.layers.len()).filter(|l| job.program.layers[*l].op == "Relu").collect();
                let of = |end: &EndReport, f: &dyn Fn(&LayerReport) -> f64| -> f64 {
                    let last = end.runs.last();
                    relus.iter().filter_map(|l| last?.layers.get(l)).map(f).sum()
                };
                let relu_seconds = done.ends.iter().map(|end| of(end, &|l| l.seconds)).fold(0.0, f64::max);
                let relu_bytes = done.ends.iter().map(|end| of(end, &|l| l.bytes as f64)).sum::<f64>() as u64;
                let way = way.name();
                note(&format!("{name}, {way}: {} s", short(measured.seconds)));
                let published = published(name);
                lines.push(Line {
                    name: name.clone(),
                    narrow_bits,
                    wide_bits,
                    way,
                    measured,
                    relu_seconds,
                    relu_bytes,
                    published,
                });
            }
        }
        self.publish(&lines)
    }

    fn publish(&self, lines: &[Line]) -> Result<()> {
        let systems = ["Cheetah", "CrypTFlow2 HE", "CrypTFlow2 OT", "CrypTFlow2 ReLUs", "garbled ReLUs"];
        let mut columns = vec![
            "network".to_string(),
            "n, w".into(),
            "how".into(),
            "s".into(),
            "prepared s".into(),
            "wall s".into(),
            "MB sent".into(),
            "prepared MB".into(),
            "rounds".into(),
            "CPU s".into(),
            "peak MB per party".into(),
            "ReLUs: s".into(),
            "ReLUs: MB".into(),
        ];
        columns.extend(systems.iter().flat_map(|s| [format!("{s} s"), format!("{s} MB")]));
        let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
        for l in lines {
            let m = &l.measured;
            let mut row = vec![
                l.name.clone(),
                format!("{}, {}", l.narrow_bits, l.wide_bits),
                l.way.into(),
                short(m.seconds),
                m.prepared.map(|p| short(p.seconds)).unwrap_or_default(),
                short(m.wall_seconds),
                megabytes(m.bytes.payload),
                m.prepared.map(|p| megabytes(p.bytes)).unwrap_or_default(),
                m.rounds.to_string(),
                short(m.cpu_seconds),
                format!("{:.0}", m.peak_rss_mb),
                short(l.relu_seconds),
                megabytes(l.relu_bytes),
            ];
            for system in systems {
                let found = l.published.iter().find(|p| p.system == system);
                row.push(or_empty(found.map(|p| p.seconds)));
                row.push(or_empty(found.map(|p| p.megabytes)));
            }
            table.rows.push(row);
        }
        let fast: Vec<&Line> = lines.iter().filter(|l| l.way == Way::Silent.name()).collect();
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
            "Private inference by two parties, two processes with TLS on this machine, link {}, median of {} runs, exact where nothing else is said; published \
             figures are from other machines over a LAN, Cheetah's with errors of one unit.",
            link_name(self.link.0),
            self.common.runs
        );
        Findings {
            name: "two-party",
            heading: &heading,
            table: &table,
            data: lines,
            svg: Some(plot::bars("Private inference by two parties", "seconds", &names, &series)?),
        }
        .publish(&self.common.shown)
    }
}

fn published(name: &str) -> Vec<Published> {
    let with =
        |(system, (seconds, megabytes)): (&'static str, published::Figure)| Published { system, seconds, megabytes };
    published::two_party(name).into_iter().map(with).collect()
}
