//! From the typed network to the compiled program: layouts, scales, widths, and each layer in protocol steps.

mod builder;
mod finish;
mod layers;
mod maxima;
mod pool;
mod scales;
mod shaping;
mod spline;
mod training;

use crate::network::Network;
use crate::program::{Program, Secrets};
use crate::tensor::Tensor;
use crate::training::TrainingStep;
use crate::{Error, Result, float, passes};
use layers::States;
use sordino_mpc::{Kind, Settings};
use std::collections::BTreeMap;

/// How to compile.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Fractional bits of activations, at most; fewer where the range needs it.
    pub frac_bits: u32,
    /// Fractional bits of weights; as many as fit when `None`, which costs nothing.
    pub weight_bits: Option<u32>,
    /// Room above the calibrated range, as a factor.
    pub margin: f64,
    /// What the protocol is to do with it.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self { frac_bits: 20, weight_bits: None, margin: 2.0, settings: Settings::default() }
    }
}

/// Largest magnitude of each value of a network, by name.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ranges(pub BTreeMap<String, f64>);

impl Ranges {
    /// Runs the passed network on samples and records every value's range.
    ///
    /// # Errors
    /// When a sample does not fit the network.
    pub fn calibrate(net: &Network, samples: &[Vec<Tensor>]) -> Result<Self> {
        let mut ranges = Self::default();
        for sample in samples {
            for (&id, x) in net.inputs.iter().zip(sample) {
                ranges.add(&net.names[id], x);
            }
            float::evaluate(net, sample, |node, value| ranges.add(&net.names[node.output], value))?;
        }
        Ok(ranges)
    }

    /// The larger of two ranges for every value.
    pub fn merge(&mut self, other: &Self) {
        for (name, &range) in &other.0 {
            let mine = self.0.entry(name.clone()).or_default();
            *mine = mine.max(range);
        }
    }

    fn add(&mut self, name: &str, x: &Tensor) {
        let range = self.0.entry(name.to_string()).or_default();
        *range = range.max(f64::from(x.max_abs()));
    }
}

/// The network that inference compiles: passes applied.
#[must_use]
pub fn for_inference(net: &Network) -> Network {
    let mut net = net.clone();
    passes::for_inference(&mut net);
    net
}

/// Compiles a passed network ([`for_inference`]) with calibrated ranges.
///
/// # Errors
/// [`Error::Range`] names a layer whose values or weights cannot be represented.
pub fn compile(net: &Network, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    let (mut program, secrets) = truncated_at_once(net, ranges, options)?;
    if options.settings.kind == Kind::Two {
        crate::defer::defer(&mut program);
    }
    Ok((program, secrets))
}

/// The program before truncations are put off.
pub(crate) fn truncated_at_once(net: &Network, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    for &id in &net.inputs {
        if !ranges.0.contains_key(&net.names[id]) {
            return Err(Error::Input {
                name: net.names[id].clone(),
                why: "the calibration has no range for it".into(),
            });
        }
    }
    let mut builder = builder::Builder::new(options.clone());
    layers::lower(net, ranges, &States::Own(&[]), &mut builder)?;
    finish::finish(builder)
}

/// Compiles one step of training ([`crate::training::step`]) with calibrated ranges. The states it starts from are among
/// the secrets.
///
/// # Errors
/// As for [`compile`].
pub fn compile_step(step: &TrainingStep, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    let mut builder = builder::Builder::new(options.clone());
    builder.rates.clone_from(&step.rates);
    builder.training = true;
    layers::lower(&step.net, ranges, &States::Own(&step.states), &mut builder)?;
    let (mut program, secrets) = finish::finish(builder)?;
    for (i, port) in program.inputs.iter_mut().enumerate() {
        // Owners' samples come first, then their labels.
        port.owner = (i % step.rows.len()) as u8;
    }
    Ok((program, secrets))
}

/// Compiles what answers with the states that a training leaves ([`TrainingStep::answer`]): it has no secrets of its own.
///
/// # Errors
/// As for [`compile`].
pub fn compile_answer(net: &Network, training: &Program, ranges: &Ranges, options: &Options) -> Result<Program> {
    let mut builder = builder::Builder::new(options.clone());
    builder.training = true;
    let scales: Vec<f64> = training.states.iter().map(|s| training.slots[s.read].scale).collect();
    layers::lower(net, ranges, &States::Left(&scales), &mut builder)?;
    Ok(finish::finish(builder)?.0)
}
