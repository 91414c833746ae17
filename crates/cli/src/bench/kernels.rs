//! Ring kernels, alone on one thread or on a card, beside a floating-point matrix product of the same run.

use super::Common;
use super::inference::network;
use super::measure::{Job, median, normal, note, sorted};
use super::output::{Findings, Table};
use clap::Args;
use serde::Serialize;
use sordino::compute::{DeviceName, OnDevice, on_device};
use sordino::{Error, Result};
use sordino_mpc::Kind;
use sordino_net::Endpoint;
use sordino_nn::Options;
use sordino_nn::program::Op;
use sordino_nn::zoo::Pool;
use sordino_ring::{Conv2d, Cpu, Device, Isa, PrgKey, Word};
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
        let compute = self.common.device.compute(Kind::Three, 1)?;
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
            let name = isa.to_string();
            note(&name);
            lines.extend(kernels(&Cpu::with(isa, 1), &name, n, runs, dgemm)?);
        }
        lines.push(keystream(&Cpu::new(1), "detected by the aes crate", runs));
        if compute.devices[0] != DeviceName::Cpu {
            let name = compute.devices[0].to_string();
            note(&name);
            let on_card = Card { name: &name, n, runs, dgemm };
            let measured = on_device(&compute, Endpoint(0), on_card).map_err(|e| Error::Session(e.to_string()))?;
            lines.extend(measured?);
        }
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
            heading: "Ring kernels, on the processor on one thread. A replicated product counts as two products, which is what a party computes.",
            table: &table,
            data: &lines,
            svg: None,
        }
        .publish(&self.common.shown)
    }
}

/// What is measured of a card.
struct Card<'a> {
    name: &'a str,
    n: usize,
    runs: usize,
    dgemm: f64,
}

impl OnDevice for Card<'_> {
    type Out = Result<Vec<Line>>;

    fn run<D: Device>(self, device: D) -> Result<Vec<Line>> {
        let mut lines = kernels(&device, self.name, self.n, self.runs, self.dgemm)?;
        lines.push(keystream(&device, self.name, self.runs));
        Ok(lines)
    }
}

/// Waits until a result is there: a card's queue is in order.
fn wait<D: Device, W: Word>(dev: &D, x: &D::Buf<W>) {
    let _ = std::hint::black_box(dev.download(dev.slice(x, 0, 1)));
}

/// A device's kernels.
fn kernels<D: Device>(dev: &D, name: &str, n: usize, runs: usize, dgemm: f64) -> Result<Vec<Line>> {
    let upload = |n: usize, stream| dev.upload(words(n, stream));
    let line = |kernel: String, seconds: f64, count: f64, unit, compared: bool| Line {
        kernel,
        instructions: name.to_owned(),
        seconds,
        rate: count / seconds / 1e9,
        unit,
        of_dgemm: compared.then_some(count / seconds / dgemm),
    };
    let op = Conv2d::matmul(n, n, n);
    let (x0, x1) = (upload(n * n, 1), upload(n * n, 2));
    let panel = dev.prepare(&upload(n * n, 3), &upload(n * n, 4), &op, true);
    let seconds = timed(runs, || wait(dev, &dev.linear(&x0, &x1, &panel, &op)));
    // Both products of a replicated multiplication.
    let products = 2.0 * (n * n * n) as f64;
    let square = line(format!("u64 replicated matrix product {n}"), seconds, products, "G products/s", true);
    let (seconds, count) = convolutions(dev, runs.min(3))?;
    let network = line("all convolutions of ResNet-50, replicated".into(), seconds, count, "G products/s", true);
    let x = dev.upload(PrgKey::new([5; 16]).words::<u32>(1 << 16));
    let seconds = timed(runs * 20, || wait(dev, &dev.planes(&x, 0, 31)));
    let planes = line("bit planes of 65536 u32".into(), seconds, 65536.0, "G elements/s", false);
    Ok(vec![square, network, planes])
}

/// Masks from a key.
fn keystream<D: Device>(dev: &D, name: &str, runs: usize) -> Line {
    let key = PrgKey::new([6; 16]);
    let seconds = timed(runs * 4, || wait(dev, &dev.random::<u64>(&key, 1 << 20)));
    Line {
        kernel: "masks from a key (AES-128-CTR)".into(),
        instructions: name.to_owned(),
        seconds,
        rate: (8 << 20) as f64 / seconds / 1e9,
        unit: "GB/s",
        of_dgemm: None,
    }
}

/// Seconds and products of one party's convolutions of ResNet-50, weights packed before.
fn convolutions<D: Device>(dev: &D, runs: usize) -> Result<(f64, f64)> {
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
        let upload = |n: usize, stream| dev.upload(words(n, stream));
        let (x0, x1) = (upload(op.input().len(), 1), upload(op.input().len(), 2));
        let panel = dev.prepare(&upload(op.weight().len(), 3), &upload(op.weight().len(), 4), op, true);
        total += timed(runs, || wait(dev, &dev.linear(&x0, &x1, &panel, op)));
    }
    Ok((total, ops.iter().map(|op| 2.0 * op.macs() as f64).sum()))
}
