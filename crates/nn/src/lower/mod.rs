//! From the typed network to the compiled program: layouts, scales, widths, and each layer in protocol steps.

mod bounds;
mod builder;
mod finish;
mod layers;
mod maxima;
mod moved;
mod pool;
mod scales;
mod shaping;
mod softmax;
mod spline;
mod training;

use crate::columns::evened;
use crate::network::Network;
use crate::program::{Op, Program, SecretForm, Secrets};
use crate::tame::tamed;
use crate::tensor::Tensor;
use crate::training::TrainingStep;
use crate::{Error, Result, float, passes};
use layers::States;
use sordino_mpc::{Kind, Settings};
use std::collections::BTreeMap;

/// How to compile.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Fractional bits of activations, at most; as many as the ranges leave when `None`, which costs nothing.
    pub frac_bits: Option<u32>,
    /// Fractional bits of weights; as many as fit when `None`, which costs nothing.
    pub weight_bits: Option<u32>,
    /// Room above the calibrated range, as a factor.
    pub margin: f64,
    /// Whether the receiver is told that a value left its range, where the protocol can: of three servers.
    pub guard: bool,
    /// The most elements that one ReLU or maximum compares at once; more are done in slices, in less memory and more rounds.
    pub at_once: Option<usize>,
    /// What the protocol is to do with it.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frac_bits: None,
            weight_bits: None,
            margin: 2.0,
            guard: true,
            at_once: None,
            settings: Settings::default(),
        }
    }
}

impl Options {
    /// Whether programs are to be watched.
    pub(crate) fn guarded(&self) -> bool {
        self.guard && self.settings.kind == Kind::Three
    }
}

/// Least and largest element of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Range {
    /// Least.
    pub lo: f64,
    /// Largest.
    pub hi: f64,
}

impl Range {
    /// From minus a magnitude to the magnitude.
    #[must_use]
    pub fn within(magnitude: f64) -> Self {
        Self { lo: -magnitude, hi: magnitude }
    }
    /// Largest magnitude.
    #[must_use]
    pub fn largest(self) -> f64 {
        self.hi.abs().max(self.lo.abs())
    }
    /// The range of a tensor; nothing for none.
    #[must_use]
    pub fn of(x: &Tensor) -> Option<Self> {
        let ends = x.data.iter().map(|&v| f64::from(v));
        ends.map(|v| Self { lo: v, hi: v }).reduce(Self::or)
    }
    /// The range of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // Not a number stays what it is, so that it is refused.
        let pick = |a: f64, b: f64, a_first: bool| {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else if a_first {
                a
            } else {
                b
            }
        };
        Self { lo: pick(self.lo, other.lo, self.lo < other.lo), hi: pick(self.hi, other.hi, self.hi > other.hi) }
    }
}

impl From<[f64; 2]> for Range {
    fn from([lo, hi]: [f64; 2]) -> Self {
        Self { lo, hi }
    }
}

impl From<Range> for [f64; 2] {
    fn from(range: Range) -> Self {
        [range.lo, range.hi]
    }
}

/// Range of each value of a network, by name.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Of every value.
    pub values: BTreeMap<String, Range>,
    /// Largest magnitudes of each column, or channel (axis 1), of the inputs.
    pub columns: BTreeMap<String, Vec<f64>>,
}

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
                ranges.add_columns(&net.names[id], column_sizes(x));
            }
            float::evaluate(net, sample, |node, value| ranges.add(&net.names[node.output], value))?;
        }
        Ok(ranges)
    }

    /// The larger of two ranges for every value.
    pub fn merge(&mut self, other: &Self) {
        for (name, &range) in &other.values {
            self.values.entry(name.clone()).and_modify(|mine| *mine = mine.or(range)).or_insert(range);
        }
        for (name, columns) in &other.columns {
            self.add_columns(name, columns.clone());
        }
    }

    fn add_columns(&mut self, name: &str, columns: Vec<f64>) {
        let mine = self.columns.entry(name.to_string()).or_insert_with(|| vec![0.0; columns.len()]);
        mine.iter_mut().zip(columns).for_each(|(m, c)| *m = m.max(c));
    }

    /// Largest magnitude of a value, if it has a range.
    #[must_use]
    pub fn largest(&self, name: &str) -> Option<f64> {
        self.values.get(name).map(|r| r.largest())
    }

    fn add(&mut self, name: &str, x: &Tensor) {
        if let Some(range) = Range::of(x) {
            self.values.entry(name.to_string()).and_modify(|mine| *mine = mine.or(range)).or_insert(range);
        }
    }
}

/// Largest magnitude of each column, or channel; of none where there is no such axis.
fn column_sizes(x: &Tensor) -> Vec<f64> {
    let Some(&n) = x.dims.get(1) else { return vec![] };
    let inner: usize = x.dims[2..].iter().product();
    let mut sizes = vec![0.0f64; n];
    for (i, &v) in x.data.iter().enumerate() {
        let size = &mut sizes[i / inner % n];
        *size = size.max(f64::from(v.abs()));
    }
    sizes
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
    let (mut program, secrets) = unguarded(net, ranges, options)?;
    crate::guard::guard(&mut program, usize::from(options.guarded()));
    if let Some(most) = options.at_once {
        crate::slices::slice(&mut program, most);
    }
    Ok((program, secrets))
}

/// The same without what watches ranges.
pub(crate) fn unguarded(net: &Network, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    let (mut program, secrets) = truncated_at_once(net, ranges, options)?;
    if options.settings.kind == Kind::Two {
        crate::defer::defer(&mut program);
        program.settings.weight_bits = weight_bits(&program, &secrets);
        fine_enough(&program)?;
    }
    Ok((program, secrets))
}

/// Fractional bits that the numbers of an approximated function need: with fewer, answers are off by percents.
const FUNCTION_BITS: u32 = 15;

/// Refuses functions in rings that leave their numbers too few bits: of two parties, whose wide ring is narrow.
fn fine_enough(program: &Program) -> Result<()> {
    let shift = program.settings.most_shift();
    let function = program.instructions.iter().find(|i| matches!(i.op, Op::Piecewise { .. }));
    match function.filter(|_| shift < FUNCTION_BITS) {
        None => Ok(()),
        Some(instruction) => {
            let layer = program.layers[instruction.layer].name.clone();
            let (n, w) = (program.settings.narrow_bits, program.settings.wide_bits);
            let why = format!(
                "rings of {n} and {w} bits leave a smooth function {shift} fractional bits; it needs {FUNCTION_BITS}: a narrower ring of activations or a wider one of products"
            );
            Err(Error::Range { layer, why })
        }
    }
}

/// Bits of the largest weight of a linear layer, sign included.
fn weight_bits(program: &Program, secrets: &Secrets) -> u32 {
    let weights = program.secrets.iter().zip(&secrets.0).filter(|(form, _)| matches!(form, SecretForm::Weight(_)));
    let largest = weights.map(|(_, secret)| secret.largest()).max().unwrap_or(0);
    65 - largest.leading_zeros()
}

/// The program before truncations are put off.
pub(crate) fn truncated_at_once(net: &Network, ranges: &Ranges, options: &Options) -> Result<(Program, Secrets)> {
    for &id in &net.inputs {
        if !ranges.values.contains_key(&net.names[id]) {
            return Err(Error::Input {
                name: net.names[id].clone(),
                why: "the calibration has no range for it".into(),
            });
        }
    }
    let (net, ranges) = tamed(net, ranges, options.margin);
    let ranges = bounds::widened(&net, &ranges, options.margin);
    let (net, ranges, columns) = evened(&net, &ranges);
    let mut builder = builder::Builder::new(options.clone());
    builder.columns = columns;
    builder.batch.clone_from(&net.batch);
    layers::lower(&net, &ranges, &States::Own(&[]), &mut builder)?;
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
    crate::guard::guard(&mut program, 0);
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
    builder.batch.clone_from(&net.batch);
    let scales: Vec<f64> = training.states.iter().map(|s| training.slots[s.read].scale).collect();
    layers::lower(net, ranges, &States::Left(&scales), &mut builder)?;
    let (mut program, _) = finish::finish(builder)?;
    crate::guard::guard(&mut program, usize::from(options.guarded()));
    Ok(program)
}
