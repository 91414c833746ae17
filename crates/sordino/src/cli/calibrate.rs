//! `sordino calibrate`.

use super::{Inputs, input_dims, print};
use clap::Args;
use sordino::Result;
use sordino::model::{self, Calibration};
use sordino_nn::{Ranges, Tensor};
use std::path::{Path, PathBuf};

/// Arguments of `calibrate`.
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// The model, an ONNX file.
    model: PathBuf,
    #[command(flatten)]
    inputs: Inputs,
    /// Where to write [default: beside the model, as MODEL.calibration.json].
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Where a model's calibration is looked for.
pub(super) fn beside(model: &Path) -> PathBuf {
    model.with_extension("calibration.json")
}

impl CalibrateArgs {
    pub(crate) fn run(self) -> Result<()> {
        let typed = model::typed(&model::read(&self.model)?, 1)?;
        let samples = self.inputs.read(&self.model, &input_dims(&typed.reference)?)?;
        let samples: Vec<Vec<Tensor>> = samples.into_iter().map(|s| vec![s]).collect();
        let ranges = Ranges::calibrate(&typed.passed, &samples)?;
        let output = self.output.unwrap_or_else(|| beside(&self.model));
        let values = ranges.0.len();
        Calibration { samples: samples.len(), ranges }.write(&output)?;
        print(&format!("{}: ranges of {values} values from {} samples\n", output.display(), samples.len()))
    }
}
