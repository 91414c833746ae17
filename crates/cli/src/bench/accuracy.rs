//! Error against fractional bits (figure 3 of the CryptGPU paper) and agreement of the best classes (table VI).

use super::inference::network;
use super::measure::{Job, normal, note};
use super::output::{Findings, Table};
use super::{Common, Parties};
use crate::plot;
use crate::plot::{Axes, Series};
use clap::Args;
use serde::Serialize;
use sordino::owners::Owners;
use sordino::report::{Check, check};
use sordino::session;
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::zoo::Pool;
use sordino_nn::{Options, Tensor, float};
use std::sync::atomic::AtomicU64;

#[derive(Args)]
pub(crate) struct Accuracy {
    #[command(flatten)]
    common: Common,
    /// The networks.
    #[arg(long, num_args = 1.., default_values = ["alexnet-cifar10", "resnet50"])]
    only: Vec<String>,
    /// Fractional bits of activations and weights: from, to.
    #[arg(long, num_args = 2, default_values = ["10", "24"], value_parser = clap::value_parser!(u32).range(4..=26))]
    bits: Vec<u32>,
    /// Drawn images per measurement.
    #[arg(long, default_value_t = 4, value_parser = super::positive)]
    images: usize,
    /// Images of the comparison of best classes, at 20 fractional bits; 0 leaves it out.
    #[arg(long, default_value_t = 20)]
    top_images: usize,
    /// Networks of the comparison of best classes.
    #[arg(long, num_args = 1.., default_values = ["resnet50", "resnet101", "resnet152"])]
    top: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// Fractional bits of activations.
    frac_bits: u32,
    /// Those of weights; absent where the compiler takes as many as cost nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_bits: Option<u32>,
    images: usize,
    mean_rel_err: f64,
    max_abs_err: f64,
    top1_match: f64,
    top5_match: f64,
}

impl Accuracy {
    pub(crate) fn run(self) -> Result<()> {
        let mut lines = vec![];
        for name in &self.only {
            for t in self.bits[0]..=self.bits[1] {
                for weight_bits in [None, Some(t)] {
                    lines.push(self.line(name, t, weight_bits, self.images)?);
                }
            }
        }
        if self.top_images > 0 {
            for name in &self.top {
                lines.push(self.line(name, 20, None, self.top_images)?);
            }
        }
        let mut table = Table::new(&[
            "network",
            "fractional bits",
            "of weights",
            "images",
            "mean relative error",
            "largest error",
            "top-1 equal",
            "top-5 equal",
        ]);
        for l in &lines {
            table.rows.push(vec![
                l.name.clone(),
                l.frac_bits.to_string(),
                l.weight_bits.map_or("as many as fit".into(), |b| b.to_string()),
                l.images.to_string(),
                format!("{:.6} %", 100.0 * l.mean_rel_err),
                format!("{:.2e}", l.max_abs_err),
                format!("{:.1} %", 100.0 * l.top1_match),
                format!("{:.1} %", 100.0 * l.top5_match),
            ]);
        }
        let mut series = vec![];
        for name in &self.only {
            for fixed in [false, true] {
                let points = lines
                    .iter()
                    .filter(|l| l.name == *name && l.images == self.images && l.weight_bits.is_some() == fixed)
                    .map(|l| (f64::from(l.frac_bits), 100.0 * l.mean_rel_err))
                    .collect();
                let weights = if fixed { "weights with as many bits" } else { "weights with all bits that fit" };
                series.push(Series { name: format!("{name}, {weights}"), points });
            }
        }
        let axes = Axes {
            title: "Error against fractional bits",
            x: "fractional bits of activations",
            y: "mean relative error, %",
            log_x: false,
            log_y: true,
        };
        Findings {
            name: "accuracy",
            heading: "Private answers against float answers. CryptGPU: AlexNet-CIFAR about 1 % at 12 to 14 bits; ResNet-50 almost 5 % there, under 1 % from 15, 0.015 % at 20, ResNet-101 0.020 %, ResNet-152 0.021 %.",
            table: &table,
            data: &lines,
            svg: Some(plot::lines(&axes, &series)?),
        }
        .publish(&self.common.shown)
    }

    fn line(&self, name: &str, frac_bits: u32, weight_bits: Option<u32>, images: usize) -> Result<Line> {
        let options = Options { frac_bits: Some(frac_bits), weight_bits, ..Options::default() };
        let check = self.checked(name, &options, images)?;
        note(&format!("{name}, {frac_bits} bits: {:.6} %", 100.0 * check.mean_rel_err));
        Ok(Line {
            name: name.into(),
            frac_bits,
            weight_bits,
            images,
            mean_rel_err: check.mean_rel_err,
            max_abs_err: check.max_abs_err,
            top1_match: check.top1_match,
            top5_match: check.top5_match,
        })
    }

    /// Runs a network privately and in floats on drawn images.
    fn checked(&self, name: &str, options: &Options, images: usize) -> Result<Check> {
        let job = Job::new(&network(name, Pool::Average)?, 1, options)?;
        let dims = job.input.dims.clone();
        let drawn: Vec<Tensor> = (0..images).map(|i| normal(&dims, 1 + (i % 250) as u8)).collect();
        let inputs = drawn
            .iter()
            .map(|x| Ok(encode_inputs(&job.program, std::slice::from_ref(x))?))
            .collect::<Result<Vec<_>>>()?;
        let runs = inputs.len();
        let mut inputs = inputs.as_slice();
        let owners = Owners { weights: &job.secrets, data: vec![&mut inputs], receiver: &mut () };
        let session = self.common.session(Parties::InProcess, LinkModel::UNLIMITED);
        let done = session.run(session::Job::new(&job.program, runs)?, owners, None, &AtomicU64::new(0))?;
        let (mut got, mut want) = (vec![], vec![]);
        for (x, outputs) in drawn.iter().zip(&done.outputs) {
            let reference = float::evaluate(&job.typed.reference, std::slice::from_ref(x), |_, _| ())?;
            let answer = decode_outputs(&job.program, outputs).pop();
            got.push(answer.ok_or_else(|| Error::Session("the model has no output".into()))?.data);
            want.push(reference[0].data.clone());
        }
        Ok(check(&got, &want))
    }
}
