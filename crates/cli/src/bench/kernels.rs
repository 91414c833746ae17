//! Ring kernels, alone on one thread, beside a floating-point matrix product of the same run.

use super::Common;
use super::inference::network;
use super::measure::{Job, median, normal, note, sorted};
use super::output::{Findings, Table};
use clap::Args;
use serde::Serialize;
use sordino::Result;
use sordino_nn::Options;
use sordino_nn::program::Op;
use sordino_nn::zoo::Pool;
use sordino_ring::{Conv2d, Cpu, Device, Isa, PrgKey};
use std::time::Instant;

#[derive(Args)]
pub(crate) struct Kernels {
    #[command(flatten)]
    common: Common,
    /// Side of the square matrices.
    #[arg(long, default_value_t = 1024, value_parser = super::positive)]
    size: usize,
}

#[derive(Serialize)]
struct Line {
    kernel: String,
    instructions: String,
    /// Processor seconds of one call, one thread.
    seconds: f64,
    /// What is counted, per second.
    rate: f64,
    unit: &'static str,
    /// Against the floating-point matrix product.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_dgemm: Option<f64>,
}

/// The median time of a call, after one that warms up.
fn timed(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let times = (0..runs).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    median(&sorted(times.collect()))
}

fn words(n: usize, stream: u8) -> Vec<u64> {
    PrgKey::new([stream; 16]).words(n)
}

impl Kernels {
    pub(crate) fn run(self) -> Result<()> {
        let runs = self.common.runs;
        let n = self.size;
        let products = (n * n * n) as f64;
        let mut lines = vec![];
        let doubles = |stream| {
            let t = normal(&[n, n], stream);
            let data: Vec<f64> = t.data.iter().map(|&v| f64::from(v)).collect();
            ndarray::Array2::from_shape_vec((n, n), data).unwrap_or_default()
        };
        let (a, b) = (doubles(1), doubles(2));
        let seconds = timed(runs, || {
            std::hint::black_box(a.dot(&b));
        });
        let dgemm = products / seconds;
        lines.push(Line {
            kernel: format!("f64 matrix product {n}"),
            instructions: "matrixmultiply".into(),
            seconds,
            rate: dgemm / 1e9,
            unit: "G products/s",
            of_dgemm: Some(1.0),
        });
        for isa in Isa::available() {
            let cpu = Cpu::with(isa, 1);
            let name = isa.to_string();
            note(&name);
            let op = Conv2d::matmul(n, n, n);
            let (x0, x1) = (words(n * n, 1), words(n * n, 2));
            let panel = cpu.prepare(&words(n * n, 3), &words(n * n, 4), &op, true);
            let seconds = timed(runs, || {
                std::hint::black_box(cpu.linear(&x0, &x1, &panel, &op));
            });
            // Both products of a replicated multiplication.
            let rate = 2.0 * products / seconds;
            lines.push(Line {
                kernel: format!("u64 replicated matrix product {n}"),
                instructions: name.clone(),
                seconds,
                rate: rate / 1e9,
                unit: "G products/s",
                of_dgemm: Some(rate / dgemm),
            });
            let (seconds, count) = convolutions(&cpu, runs.min(3))?;
            lines.push(Line {
                kernel: "all convolutions of ResNet-50, replicated".into(),
                instructions: name.clone(),
                seconds,
                rate: count / seconds / 1e9,
                unit: "G products/s",
                of_dgemm: Some(count / seconds / dgemm),
            });
            let x: Vec<u32> = PrgKey::new([5; 16]).words(1 << 16);
            let seconds = timed(runs * 20, || {
                std::hint::black_box(cpu.planes(&x, 0, 31));
            });
            lines.push(Line {
                kernel: "bit planes of 65536 u32".into(),
                instructions: name,
                seconds,
                rate: 65536.0 / seconds / 1e9,
                unit: "G elements/s",
                of_dgemm: None,
            });
        }
        let key = PrgKey::new([6; 16]);
        let seconds = timed(runs * 4, || {
            std::hint::black_box(key.words::<u64>(1 << 20));
        });
        lines.push(Line {
            kernel: "masks from a key (AES-128-CTR)".into(),
            instructions: "detected by the aes crate".into(),
            seconds,
            rate: (8 << 20) as f64 / seconds / 1e9,
            unit: "GB/s",
            of_dgemm: None,
        });
        let mut table = Table::new(&["kernel", "instructions", "s", "rate", "unit", "of the f64 product's rate"]);
        for l in &lines {
            table.rows.push(vec![
                l.kernel.clone(),
                l.instructions.clone(),
                format!("{:.6}", l.seconds),
                format!("{:.2}", l.rate),
                l.unit.into(),
                l.of_dgemm.map(|r| format!("{:.0} %", 100.0 * r)).unwrap_or_default(),
            ]);
        }
        Findings {
            name: "kernels",
            heading: "Ring kernels on one thread. A replicated product counts as two products, which is what a party computes.",
            table: &table,
            data: &lines,
            svg: None,
        }
        .publish(&self.common)
    }
}

/// Seconds and products of one party's convolutions of ResNet-50, weights packed before.
fn convolutions(cpu: &Cpu, runs: usize) -> Result<(f64, f64)> {
    let job = Job::new(&network("resnet50", Pool::Average)?, 1, &Options::default())?;
    let ops: Vec<Conv2d> = job
        .program
        .instructions
        .iter()
        .filter_map(|i| match &i.op {
            Op::Linear { terms, .. } => Some(terms.iter().map(|t| t.2)),
            _ => None,
        })
        .flatten()
        .collect();
    let mut total = 0.0;
    for op in &ops {
        let (x0, x1) = (words(op.input().len(), 1), words(op.input().len(), 2));
        let panel = cpu.prepare(&words(op.weight().len(), 3), &words(op.weight().len(), 4), op, true);
        total += timed(runs, || {
            std::hint::black_box(cpu.linear(&x0, &x1, &panel, op));
        });
    }
    Ok((total, ops.iter().map(|op| 2.0 * op.macs() as f64).sum()))
}
