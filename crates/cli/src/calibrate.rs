//! `sordino calibrate`.

use super::{Inputs, Open, Protocol, of_model, print, takes};
use clap::Args;
use sordino::model::Calibration;
use sordino::widths::{self, Budget, Chosen, Widths};
use sordino::{Error, Result};
use sordino_mpc::Settings;
use sordino_nn::{Options, Ranges};
use std::path::{Path, PathBuf};

/// Samples that widths are tried on.
const BUDGET_SAMPLES: usize = 8;

/// Arguments of `calibrate`.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("budget").multiple(true))]
pub(crate) struct CalibrateArgs {
    /// The model, an ONNX file.
    model: PathBuf,
    #[command(flatten)]
    open: Open,
    #[command(flatten)]
    inputs: Inputs,
    /// Where to write [default: beside the model, as MODEL.calibration.json].
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Also choose the narrowest rings whose mean relative error on these samples is within so many percent, such as
    /// 0.02; later runs take them from the calibration. Narrower rings send less.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, group = "budget")]
    error_budget: Option<f64>,
    /// Also choose the narrowest rings with which at most so many percent of these samples get another best class than in floats (0: none);
    /// of both budgets, those that keep both.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, group = "budget")]
    top1_budget: Option<f64>,
    /// Who is to compute with rings chosen under a budget: three servers, or two parties. Ranges are for both.
    #[arg(long, value_enum, default_value = "3pc")]
    protocol: Protocol,
    /// Room above the ranges that the widths are chosen with, as a factor.
    #[arg(long, default_value_t = 2.0, requires = "budget", value_parser = super::margin)]
    margin: f64,
}

/// Where a model's calibration is looked for.
pub(super) fn beside(model: &Path) -> PathBuf {
    model.with_extension("calibration.json")
}

impl CalibrateArgs {
    pub(crate) fn run(self) -> Result<()> {
        let mut graph = self.open.read(&self.model)?;
        let typed = self.inputs.typed(&mut graph).map_err(|e| of_model(&self.model, e))?;
        let preprocess = self.inputs.preprocess.clone().or_beside(&self.model)?;
        let samples = self.inputs.read(&takes(&typed.reference), &preprocess)?;
        let ranges = Ranges::calibrate(&typed.passed, &samples)?;
        let wild = ranges.values.iter().find(|(_, r)| !r.lo.is_finite() || !r.hi.is_finite());
        if let Some((name, _)) = wild {
            let why = format!("on these samples {name} is infinite, or no number, in floats; calibrate with others");
            return Err(Error::File { path: self.model, why });
        }
        let output = self.output.unwrap_or_else(|| beside(&self.model));
        let values = ranges.values.len();
        let mut text = format!("{}: ranges of {values} values from {} samples\n", output.display(), samples.len());
        let mut chosen = None;
        if let Some(budget) = self.error_budget
            && !(budget > 0.0 && budget.is_finite())
        {
            return Err(Error::Usage(format!("--error-budget {budget} must be a positive number of percent")));
        }
        if let Some(budget) = self.top1_budget
            && !(0.0..=100.0).contains(&budget)
        {
            return Err(Error::Usage(format!("--top1-budget {budget} must be 0 to 100 percent")));
        }
        let budget = Budget { error: self.error_budget.map(|e| e / 100.0), top1: self.top1_budget.map(|t| t / 100.0) };
        if budget.error.is_some() || budget.top1.is_some() {
            let kind = self.protocol.kind();
            let settings = Settings { kind, ..Settings::default() };
            let options = Options { margin: self.margin, settings, ..Options::default() };
            // A few tell the error; a share of classes takes all.
            let most = if budget.top1.is_some() { samples.len() } else { samples.len().min(BUDGET_SAMPLES) };
            for trial in widths::choose(&typed, &ranges, &options, &samples[..most], budget)? {
                let Widths { narrow, wide } = trial.widths;
                text += &format!("rings of {narrow} and {wide} bits: expected error {:.6} %", 100.0 * trial.error);
                text += &format!(", the best class of {:.1} % of the samples\n", 100.0 * trial.top1);
                // The last one that is tried is chosen.
                chosen = Some(Chosen { widths: trial.widths, margin: self.margin, kind });
            }
        }
        if let Some(Chosen { widths, .. }) = &chosen {
            text += &format!("chosen: rings of {} and {} bits\n", widths.narrow, widths.wide);
        }
        Calibration { widths: chosen, ..Calibration::new(&self.model, &graph, samples.len(), ranges) }
            .write(&output)?;
        print(&text)
    }
}
