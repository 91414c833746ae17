//! ReLU layers of whole networks by several protocols in one process: CrypTFlow2's tables 4 to 6 and its figure 1.

use super::inference::network;
use super::measure::{median, note, sorted};
use super::output::{Findings, Table, megabytes, or_empty, short};
use super::service::link_name;
use super::{Shown, published};
use crate::plot::{self, Axes, Series};
use crate::{LinkArg, parse_link, positive};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sordino::{Error, Result, model};
use sordino_baseline::paper::Paper;
use sordino_baseline::{Ran, both, garble, parties};
use sordino_mpc::two::{Declared, Modulus, OneRing, Two};
use sordino_mpc::{Costs, Kind, Party, Plan, Protocol, Role, Settings, Step, Transfers, Width};
use sordino_nn::zoo::Pool;
use sordino_ot::{Method, Stream};
use sordino_ring::{Cpu, Shape};

/// A network, the bits of its values and the fractional ones, as the paper has them.
const NETWORKS: [(&str, u32, u32); 5] = [
    ("squeezenet1.1", 32, 9),
    ("resnet50", 37, 12),
    ("densenet121", 32, 11),
    ("minionn-cifar10", 41, 11),
    ("resnet32-cifar100", 41, 11),
];

/// Elements of the ReLU layers of two networks that the zoo does not have: MiniONN's for CIFAR-10 (Liu and others, CCS 2017, figure 13), and
/// ResNet-32 (He and others, 2015).
fn small(name: &str) -> Option<Vec<usize>> {
    match name {
        "minionn-cifar10" => Some(vec![65536, 65536, 16384, 16384, 4096, 4096, 1024]),
        "resnet32-cifar100" => Some([vec![16384; 11], vec![8192; 10], vec![4096; 10]].concat()),
        _ => None,
    }
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Garbled circuits with half gates.
    Garbled,
    /// CrypTFlow2's protocols with its transfers.
    Paper,
    /// Silent transfers, one ring.
    Ring,
    /// The same with compact transfers.
    RingCompact,
    /// Silent transfers, two rings, with the truncation of the product before it.
    Truncating,
    /// The same with transfers that were drawn before.
    Prepared,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Garbled => "garbled circuits",
            Self::Paper => "the paper's protocols",
            Self::Ring => "one ring",
            Self::RingCompact => "one ring, compact",
            Self::Truncating => "with truncation",
            Self::Prepared => "with truncation, prepared",
        }
    }

    /// What the paper's protocols do over a prime is not here, and networks have rings of powers of two.
    fn is_binary(self) -> bool {
        matches!(self, Self::Paper | Self::Truncating | Self::Prepared)
    }
}

/// Which ring values are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ring {
    /// Integers modulo a power of two.
    Binary,
    /// Integers modulo the largest prime of as many bits.
    Prime,
}

impl Ring {
    fn modulus(self, bits: u32) -> sordino_mpc::Result<Modulus> {
        // What is lacking of a power of two to the prime below.
        let below = match (self, bits) {
            (Self::Binary, _) => 0,
            (Self::Prime, 32) => 5,
            (Self::Prime, 37) => 25,
            (Self::Prime, 41) => 21,
            (Self::Prime, _) => 1,
        };
        Modulus::new((1 << bits) - below)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Binary => "2^l",
            Self::Prime => "prime",
        }
    }
}

#[derive(Args)]
pub(crate) struct Relu {
    #[command(flatten)]
    shown: Shown,
    /// Runs measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = positive)]
    runs: usize,
    /// Only these networks' layers [default: squeezenet1.1, resnet50, densenet121, minionn-cifar10, resnet32-cifar100].
    #[arg(long, num_args = 1.., conflicts_with = "sizes")]
    only: Vec<String>,
    /// Layers of 2^N elements of 32 bits, for these N, in place of networks.
    #[arg(long, num_args = 1.., value_parser = clap::value_parser!(u32).range(0..=24))]
    sizes: Vec<u32>,
    /// Only these protocols; the paper's own, truncating and prepared are there for rings of 2^l alone.
    #[arg(long, value_enum, num_args = 1..)]
    ways: Vec<Way>,
    /// Only rings of this kind [default: both].
    #[arg(long, value_enum)]
    ring: Option<Ring>,
    /// Make the link slow: none, lan, wan, or LATENCY,BANDWIDTH such as 40ms,320Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    link: LinkArg,
}

/// Layers to run: their sizes, bits and fractional bits.
struct Layers {
    name: String,
    sizes: Vec<usize>,
    bits: u32,
    fraction: u32,
}

#[derive(Serialize)]
struct Line {
    name: String,
    relus: usize,
    bits: u32,
    ring: &'static str,
    way: &'static str,
    /// Of the slower end, without keys and what was prepared.
    seconds: f64,
    bytes: u64,
    rounds: u32,
    bits_per_relu: f64,
    /// What the paper, or another one, says of the same layers: seconds and megabytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<published::Figure>,
}

/// ReLU of elements that are all the same: cost does not depend on them.
fn elements(n: usize, modulus: Modulus, first: bool) -> Vec<u64> {
    // Shares of 5 that look like shares.
    let mut stream = Stream::new([7; 16]);
    let words = stream.words(2 * n);
    let share = words.as_chunks::<2>().0.iter().map(|[low, high]| modulus.uniform(*low, *high));
    share.map(|a| if first { a } else { modulus.sub(5 % modulus.get(), a) }).collect()
}

/// Layers that truncate and take the ReLU of values of w bits, as they stand in a network of two rings.
fn truncating<P: Protocol>(party: &P, mut at: Step, layers: &Layers) -> sordino_mpc::Result<()> {
    for &n in &layers.sizes {
        let shape = Shape::new(&[n]);
        let x = party.input(at.child("x"), Role::DataOwner(0), Some(&vec![5; n]), &shape)?;
        party.relu_truncated(at.child("relu"), &x, layers.fraction, Width::Wide)?;
    }
    Ok(())
}

fn settings(layers: &Layers, transfers: Transfers) -> Settings {
    let narrow_bits = (layers.bits - layers.fraction).min(32);
    Settings { kind: Kind::Two, narrow_bits, wide_bits: layers.bits, transfers, ..Settings::default() }
}

/// Seconds, bytes and rounds of both ends.
fn sum<T>(ends: [Ran<T>; 2]) -> (f64, u64, u32) {
    let [a, b] = ends;
    (a.seconds.max(b.seconds), a.meter.payload() + b.meter.payload(), a.meter.rounds.max(b.meter.rounds))
}

impl Relu {
    pub(crate) fn run(self) -> Result<()> {
        if let (Some(Ring::Prime), Some(way)) = (self.ring, self.ways.iter().find(|way| way.is_binary())) {
            return Err(Error::Usage(format!("--ring prime: \"{}\" is there for rings of 2^l alone", way.name())));
        }
        let mut lines = vec![];
        for layers in self.layers()? {
            for ring in [Ring::Binary, Ring::Prime] {
                for way in Way::value_variants().iter().copied() {
                    let other =
                        self.ring.is_some_and(|r| r != ring) || !(self.ways.is_empty() || self.ways.contains(&way));
                    if other || way.is_binary() && ring == Ring::Prime {
                        continue;
                    }
                    let line = self.line(&layers, ring, way)?;
                    note(&format!("{}, {}, {}: {} s", line.name, line.ring, line.way, short(line.seconds)));
                    lines.push(line);
                }
            }
        }
        self.publish(&lines)
    }

    fn layers(&self) -> Result<Vec<Layers>> {
        if !self.sizes.is_empty() {
            let of = |log: &u32| Layers { name: format!("2^{log}"), sizes: vec![1 << log], bits: 32, fraction: 9 };
            return Ok(self.sizes.iter().map(of).collect());
        }
        let names: Vec<String> =
            if self.only.is_empty() { NETWORKS.iter().map(|n| n.0.into()).collect() } else { self.only.clone() };
        let of = |name: &String| {
            let (bits, fraction) = NETWORKS.into_iter().find(|n| n.0 == name).map_or((32, 9), |n| (n.1, n.2));
            let sizes = match small(name) {
                Some(sizes) => sizes,
                None => {
                    let others = |e| Error::Usage(format!("{e}; and here {} and {}", NETWORKS[3].0, NETWORKS[4].0));
                    let net = model::typed(&network(name, Pool::Max).map_err(others)?, 1)?.reference;
                    let relus = net.nodes.iter().filter(|node| node.op == "Relu");
                    relus.map(|node| net.shapes[node.output].iter().product()).collect()
                }
            };
            Ok(Layers { name: name.clone(), sizes, bits, fraction })
        };
        names.iter().map(of).collect()
    }

    fn line(&self, layers: &Layers, ring: Ring, way: Way) -> Result<Line> {
        let fault = |e: sordino_mpc::Error| Error::Session(e.to_string());
        let modulus = ring.modulus(layers.bits).map_err(fault)?;
        let runs = (0..self.runs).map(|_| self.once(layers, modulus, way));
        let runs: Vec<(f64, u64, u32)> = runs.collect::<sordino_mpc::Result<_>>().map_err(fault)?;
        let relus = layers.sizes.iter().sum();
        let (_, bytes, rounds) = runs[0];
        let published = if ring == Ring::Binary { published::relus(&layers.name, way == Way::Garbled) } else { None };
        Ok(Line {
            name: layers.name.clone(),
            relus,
            bits: layers.bits,
            ring: ring.name(),
            way: way.name(),
            seconds: median(&sorted(runs.iter().map(|r| r.0).collect())),
            bytes,
            rounds,
            bits_per_relu: bytes as f64 * 8.0 / relus as f64,
            published: published.filter(|_| matches!(way, Way::Garbled | Way::Paper)),
        })
    }

    fn once(&self, layers: &Layers, modulus: Modulus, way: Way) -> sordino_mpc::Result<(f64, u64, u32)> {
        let link = self.link.0;
        let each = |first: bool| layers.sizes.iter().map(move |n| elements(*n, modulus, first));
        let ring = |transfers: Transfers| {
            parties(link, settings(layers, transfers), |party: &Two<Cpu>, mut at| {
                let ring = OneRing::new(party, modulus);
                let first = party.net().me().0 == 0;
                each(first).try_for_each(|x| ring.relu(at.child("layer"), &x).map(|_| ()))
            })
        };
        Ok(match way {
            Way::Garbled => sum(both(link, Method::Iknp, |end| {
                each(end.is_first()).try_for_each(|x| garble::relu(end, modulus, &x).map(|_| ()))
            })?),
            Way::Paper => sum(both(link, Method::Iknp, |end| {
                let mut paper = Paper::new(end)?;
                each(end.is_first()).try_for_each(|x| paper.relu(layers.bits, &x).map(|_| ()))
            })?),
            Way::Ring => sum(ring(Transfers::Silent)?),
            Way::RingCompact => sum(ring(Transfers::Compact)?),
            Way::Truncating => {
                sum(parties(link, settings(layers, Transfers::Silent), |party, at| truncating(party, at, layers))?)
            }
            Way::Prepared => self.prepared(layers)?,
        })
    }

    /// What is left once the transfers are drawn.
    fn prepared(&self, layers: &Layers) -> sordino_mpc::Result<(f64, u64, u32)> {
        let settings = settings(layers, Transfers::Silent);
        let plan = Plan::<Declared>::of(settings);
        truncating(&plan, Step::root([0; 16]), layers)?;
        plan.costs().rehearsed();
        let draws = plan.costs().run();
        let ends = parties(self.link.0, settings, |party, mut at| {
            party.prepare(&at.child("prepare"), draws)?;
            party.net().reset_meter();
            let start = std::time::Instant::now();
            truncating(party, at, layers)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let seconds = ends[0].out.max(ends[1].out);
        let (_, bytes, rounds) = sum(ends);
        Ok((seconds, bytes, rounds))
    }

    fn publish(&self, lines: &[Line]) -> Result<()> {
        let mut table = Table::new(&[
            "layers",
            "ReLUs",
            "l",
            "ring",
            "protocol",
            "s",
            "MB sent",
            "rounds",
            "bits per ReLU",
            "published s",
            "published MB",
        ]);
        for l in lines {
            table.rows.push(vec![
                l.name.clone(),
                l.relus.to_string(),
                l.bits.to_string(),
                l.ring.into(),
                l.way.into(),
                short(l.seconds),
                megabytes(l.bytes),
                l.rounds.to_string(),
                format!("{:.0}", l.bits_per_relu),
                or_empty(l.published.map(|p| p.0)),
                or_empty(l.published.map(|p| p.1)),
            ]);
        }
        let published = "Published figures are of other machines over a LAN: for garbled circuits and for the paper's protocols, CrypTFlow2's (ePrint 2020/1002); of MiniONN and \
                         ResNet-32 from memory, of all that is not linear, circuits Delphi's over a prime.";
        let heading = format!(
            "ReLU layers by two ends, threads of this process, one each, {}, {}, without keys and without what is prepared. Silent transfers come by the \
             million: small layers pay for a whole round of them. {}",
            match self.link.0.bandwidth {
                None => "no limit on the link".into(),
                Some(_) => format!("link {}", link_name(self.link.0)),
            },
            if self.runs == 1 { "one run".into() } else { format!("median of {} runs", self.runs) },
            if self.sizes.is_empty() { published } else { "" }
        );
        // One kind of ring in a plot.
        let ring = self.ring.unwrap_or(Ring::Binary).name();
        let of_ring = |way: Way| lines.iter().filter(move |l| l.way == way.name() && l.ring == ring);
        let ways = Way::value_variants().iter().filter(|way| of_ring(**way).next().is_some());
        let svg = if self.sizes.is_empty() {
            let names: Vec<String> = lines.iter().map(|l| l.name.clone()).fold(vec![], |mut all, name| {
                if !all.contains(&name) {
                    all.push(name);
                }
                all
            });
            let of = |way: Way| {
                let seconds = |name: &String| of_ring(way).find(|l| l.name == *name).map(|l| l.seconds);
                names.iter().map(seconds).collect()
            };
            let series: Vec<(&str, Vec<Option<f64>>)> = ways.map(|way| (way.name(), of(*way))).collect();
            plot::bars(&format!("ReLU layers by two parties, {ring}"), "seconds", &names, &series)?
        } else {
            let title = format!("ReLU by two parties, 32 bits, {ring}");
            let axes = Axes { title: &title, x: "elements", y: "seconds", log_x: true, log_y: true };
            let points = |way: Way| of_ring(way).map(|l| (l.relus as f64, l.seconds)).collect();
            let series: Vec<Series> =
                ways.map(|way| Series { name: way.name().into(), points: points(*way) }).collect();
            plot::lines(&axes, &series)?
        };
        let name = if self.sizes.is_empty() { "relu-layers" } else { "relu-sizes" };
        Findings { name, heading: &heading, table: &table, data: lines, svg: Some(svg) }.publish(&self.shown)
    }
}
