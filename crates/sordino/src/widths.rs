//! Choosing the rings' widths under an error budget, by running the fixed-point oracle on samples.

use crate::model::{Typed, compiled};
use crate::report::check;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sordino_mpc::{Clear, Kind, Settings, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::{Options, Ranges, Tensor, float};
use sordino_ring::Cpu;

/// Widths of the two rings, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widths {
    /// Of activations.
    pub narrow: u32,
    /// Of products.
    pub wide: u32,
}

/// From the cheapest on; the last are whole machine words.
const CANDIDATES: [Widths; 8] = [
    Widths { narrow: 18, wide: 42 },
    Widths { narrow: 20, wide: 44 },
    Widths { narrow: 22, wide: 46 },
    Widths { narrow: 24, wide: 48 },
    Widths { narrow: 26, wide: 50 },
    Widths { narrow: 28, wide: 52 },
    Widths { narrow: 30, wide: 58 },
    Widths { narrow: 32, wide: 64 },
];

/// Bits that the rings of two parties differ by: as many fractional bits have weights and activations.
const TWO_PARTY_SHIFTS: [u32; 5] = [17, 15, 13, 11, 9];

/// What is tried, from the cheapest on. Of two parties every bit of the wide ring costs, however it is shared out.
fn candidates(kind: Kind) -> Vec<Widths> {
    if kind == Kind::Three {
        return CANDIDATES.to_vec();
    }
    let split = |wide: u32| {
        let fitting = move |shift: &u32| (13..=32).contains(&(wide - shift));
        TWO_PARTY_SHIFTS.into_iter().filter(fitting).map(move |shift| Widths { narrow: wide - shift, wide })
    };
    (26..=46).step_by(2).flat_map(split).collect()
}

/// The oracle rounds exactly, as two parties do; three servers' truncation may be off by up to one unit instead of half of one.
fn rounding(kind: Kind) -> f64 {
    match kind {
        Kind::Three => 2.0,
        Kind::Two => 1.0,
    }
}

/// Widths chosen under a budget, and the margin they were chosen with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The rings.
    pub widths: Widths,
    /// Room above the calibrated ranges, as a factor.
    pub margin: f64,
    /// Who was to compute with them.
    #[serde(default)]
    pub kind: Kind,
}

/// Widths and the error they lead to.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The rings.
    pub widths: Widths,
    /// Mean relative error expected of private answers; infinite when values do not fit.
    pub error: f64,
    /// Share of the samples whose best class is that of floats.
    pub top1: f64,
}

/// What narrower rings may cost, as shares: 0.0002 is 0.02 %. What is not said is not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Mean relative error.
    pub error: Option<f64>,
    /// Samples whose best class is another than that of floats.
    pub top1: Option<f64>,
}

impl Budget {
    fn keeps(&self, trial: &Trial) -> bool {
        // Values that do not fit are no answers, whatever class comes out.
        trial.error.is_finite()
            && self.error.is_none_or(|most| trial.error <= most)
            && self.top1.is_none_or(|most| 1.0 - trial.top1 <= most + 1e-9)
    }
}

/// Tries widths from the cheapest on until answers to the samples keep the budget. The last trial is the one chosen.
///
/// # Errors
/// When no widths keep the budget; those of compilation.
pub fn choose(
    typed: &Typed,
    ranges: &Ranges,
    options: &Options,
    samples: &[Vec<Tensor>],
    budget: Budget,
) -> Result<Vec<Trial>> {
    let want = samples
        .iter()
        .map(|s| Ok(float::evaluate(&typed.reference, s, |_, _| ())?.into_iter().map(|t| t.data).collect()))
        .collect::<Result<Vec<_>>>()?;
    let mut trials = vec![];
    for widths in candidates(options.settings.kind) {
        let settings = Settings { narrow_bits: widths.narrow, wide_bits: widths.wide, ..options.settings };
        let options = Options { settings, ..options.clone() };
        let (error, top1) = error_of(typed, ranges, &options, samples, &want)?;
        let error = rounding(settings.kind) * error;
        tracing::info!(widths.narrow, widths.wide, error, top1, "tried");
        let trial = Trial { widths, error, top1 };
        trials.push(trial);
        if budget.keeps(&trial) {
            return Ok(trials);
        }
    }
    let best = 100.0 * trials.iter().map(|t| t.error).fold(f64::INFINITY, f64::min);
    let other = 100.0 * trials.iter().filter(|t| t.error.is_finite()).map(|t| 1.0 - t.top1).fold(1.0, f64::min);
    let mut said = vec![];
    if let Some(budget) = budget.error {
        said.push(format!("the error within {} %; the best reach {best:.6} %", 100.0 * budget));
    }
    if let Some(budget) = budget.top1 {
        said.push(format!("other classes within {} %; the best reach {other:.2} %", 100.0 * budget));
    }
    Err(Error::Usage(format!("no widths keep {}", said.join(", and "))))
}

fn error_of(
    typed: &Typed,
    ranges: &Ranges,
    options: &Options,
    samples: &[Vec<Tensor>],
    want: &[Vec<Vec<f32>>],
) -> Result<(f64, f64)> {
    let (program, secrets) = match compiled(typed, ranges, options) {
        Ok(compiled) => compiled,
        // Too narrow for this model's constants.
        Err(Error::Model(sordino_nn::Error::Range { .. })) => return Ok((f64::INFINITY, 0.0)),
        Err(e) => return Err(e),
    };
    let clear = Clear::new(Cpu::new(1)).with(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), &program, Some(&secrets))?;
    clear.take_overflow();
    let mut got = vec![];
    for sample in samples {
        let encoded = encode_inputs(&program, sample)?;
        let opened = loaded.run(&clear, at.child("run"), Some(&encoded), |_| ())?;
        if clear.take_overflow().is_some() {
            return Ok((f64::INFINITY, 0.0));
        }
        let outputs: Vec<Vec<i64>> = opened.into_iter().map(Option::unwrap_or_default).collect();
        got.push(decode_outputs(&program, &outputs));
    }
    // The worst of the outputs counts.
    let of = |i: usize| {
        let rows = |i: usize| got.iter().map(|g| g[i].data.clone()).collect::<Vec<_>>();
        check(&rows(i), &want.iter().map(|w| w[i].clone()).collect::<Vec<_>>())
    };
    let checks = (0..program.outputs.len()).map(of);
    Ok(checks.fold((0.0, 1.0), |(error, top1), c| (c.mean_rel_err.max(error), c.top1_match.min(top1))))
}
