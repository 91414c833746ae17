//! `sordino bench`: measurements as programs, with the published figures beside them.

mod accuracy;
mod growth;
mod inference;
mod kernels;
mod learning;
mod link;
mod measure;
mod ops;
mod output;
pub(super) mod published;
#[cfg(feature = "baseline")]
mod relu;
mod service;
mod training;
mod two_party;

use super::devices::DeviceArgs;
use super::session::{Session, seconds};
use super::{LinkArg, Parties, positive, workers};
use clap::{Args, Subcommand};
use measure::note;
use sordino::Result;
use sordino_net::LinkModel;
use std::path::PathBuf;

/// Measure: seconds are medians, bytes and rounds are counted, networks run as three processes with TLS.
///
/// Every benchmark prints a Markdown table and writes the same figures as CSV, JSON and an SVG plot.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Single operations by size: ReLU, matrix product, convolution, pooling, softmax.
    Ops(ops::Ops),
    /// Whole networks: one image with average and with max pooling, then batches.
    Inference(inference::Inference),
    /// Error against the number of fractional bits; agreement with the float reference.
    Accuracy(accuracy::Accuracy),
    /// The same networks over slow links.
    Link(link::LinkBench),
    /// Seconds, bytes and memory against batch and depth.
    Growth(growth::Growth),
    /// Whole networks by two parties, and what systems of this kind have published.
    TwoParty(two_party::TwoParty),
    /// ReLU layers by two ends: garbled circuits, CrypTFlow2's protocols and ours.
    #[cfg(feature = "baseline")]
    Relu(relu::Relu),
    /// Queries over the service: latency, and jobs a second when many ask.
    Service(service::Service),
    /// One iteration of training.
    Training(training::Training),
    /// Whole trainings on MNIST and CIFAR-10 beside floats: losses and accuracies.
    Learning(learning::Learning),
    /// Ring kernels against floating-point matrix products on this processor.
    Kernels(kernels::Kernels),
}

/// What all benchmarks take.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// Runs measured; the median counts. One more run before them warms up.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    runs: usize,
    #[command(flatten)]
    shown: Shown,
    /// Worker threads per party [default: a third of the processors].
    #[arg(long, value_parser = workers)]
    threads: Option<usize>,
    /// Seconds a party waits for another before it gives up.
    #[arg(long, default_value_t = 120.0, value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Where findings go.
#[derive(Args, Clone)]
pub(crate) struct Shown {
    /// Print JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Folder for the CSV, JSON and SVG files; made if missing.
    #[arg(long, default_value = "bench-results", value_parser = folder)]
    out: PathBuf,
}

/// A folder that is there or can be made.
fn folder(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.exists() && !path.is_dir() { Err("it is there and is no folder".into()) } else { Ok(path) }
}

impl Common {
    /// The session that is measured.
    fn session(&self, parties: Parties, link: LinkModel) -> Session {
        Session {
            parties,
            link: LinkArg(link),
            timeout: self.timeout,
            threads: self.threads,
            device: self.device.clone(),
        }
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Ops(args) => args.run(),
            Command::Inference(args) => args.run(),
            Command::Accuracy(args) => args.run(),
            Command::Link(args) => args.run(),
            Command::Growth(args) => args.run(),
            Command::TwoParty(args) => args.run(),
            #[cfg(feature = "baseline")]
            Command::Relu(args) => args.run(),
            Command::Service(args) => args.run(),
            Command::Training(args) => args.run(),
            Command::Learning(args) => args.run(),
            Command::Kernels(args) => args.run(),
        }
    }
}
