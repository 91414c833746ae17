//! A training made ready: ranges from its first iterations in floats, the compiled step, and its data owners.

use crate::answer::Answer;
use crate::checkpoint::Training;
use crate::data::Set;
use crate::inputs::Preprocess;
use crate::session::Inputs;
use crate::training::{Floats, Order, fingerprint, untied};
use crate::{Error, Result};
use sordino_nn::exec::encode_input;
use sordino_nn::network::Layer;
use sordino_nn::program::{Port, Program, Secrets};
use sordino_nn::training::{Rule, TrainingStep, step};
use sordino_nn::{Graph, Options, Range, Ranges, Tensor, compile_answer, compile_step, import};
use zeroize::Zeroizing;

/// Growth of a weight within the first iterations that no training means.
const WILD: f32 = 30.0;

/// What is trained on: every owner's set, the public order, and the width of an answer.
pub struct Material {
    /// Every owner's samples.
    pub sets: Vec<Set>,
    /// Which rows every batch takes.
    pub order: Order,
    /// Numbers in an answer.
    pub answers: usize,
    /// What the order was drawn from.
    pub seed: u64,
    /// Of the owners, for tagging their data.
    pub key: Zeroizing<[u8; 32]>,
    /// How pictures reach the model.
    pub preprocess: Preprocess,
}

/// A training that is ready to run.
pub struct Prepared {
    /// An iteration as a network.
    pub step: TrainingStep,
    /// The same, compiled.
    pub program: Program,
    /// The model to start from.
    pub secrets: Secrets,
    /// What is trained on.
    pub material: Material,
    /// What answers with the trained model while it stays shared.
    pub answer: Answer,
}

impl Material {
    /// The inputs of an iteration: samples of every owner, then labels.
    #[must_use]
    pub fn inputs(&self, iteration: usize) -> Vec<Tensor> {
        let batches = self.sets.iter().zip(&self.order[iteration]).map(|(s, rows)| s.batch(rows, self.answers));
        let (samples, labels): (Vec<Tensor>, Vec<Tensor>) = batches.map(|[x, y]| (x, y)).unzip();
        samples.into_iter().chain(labels).collect()
    }
}

/// Magnitude from which on numbers had better be scaled before a training.
const LARGE: f32 = 20.0;

impl Prepared {
    /// Takes ranges from the first `calibration` iterations in floats, with room of `margin` above them, and compiles the step.
    ///
    /// # Errors
    /// When the model cannot be trained, a rate is too large, or a value cannot be represented.
    pub fn new(graph: &Graph, material: Material, rule: &Rule, margin: f64, calibration: usize) -> Result<Self> {
        let rows: Vec<usize> = material.order.first().map(|b| b.iter().map(Vec::len).collect()).unwrap_or_default();
        let step = step(&import(graph, rows.iter().sum())?, rule)?.shared_by(&rows);
        untied(graph, &step)?;
        let mut ranges = Ranges::default();
        let mut floats = Floats::new(&step);
        let calibration = calibration.min(material.order.len());
        for i in 0..calibration {
            floats.run(material.inputs(i), Some(&mut ranges)).map_err(|e| {
                Error::Usage(format!("training leaves the floats within the first iterations ({e}); lower the rate"))
            })?;
        }
        // A step that is far too large shows in floats, where it can be seen.
        let models = crate::training::model_states(&step);
        let wild = floats.states.iter().zip(&step.states).take(models).find(|(now, state)| {
            let (now, start) = (now.max_abs(), state.start.max_abs());
            !now.is_finite() || now > WILD * start.max(1.0)
        });
        if let Some((now, _)) = wild {
            let rate = rule.rates.0.first().copied().unwrap_or(0.0);
            let reached = now.max_abs();
            let inputs = material.inputs(0)[0].max_abs();
            let answers = material.sets.iter().map(|s| s.largest()[1]).fold(0.0, f32::max);
            let hint = match (inputs > LARGE, answers > LARGE) {
                (false, false) => String::new(),
                (true, false) => format!("; inputs reach {inputs}: --scale, or --mean and --std, bring them near one"),
                (false, true) => format!("; answers reach {answers}: divide them, so that they are near one"),
                (true, true) => format!(
                    "; inputs reach {inputs} and answers {answers}: standardise both (--mean and --std for inputs)"
                ),
            };
            return Err(Error::Usage(format!(
                "a rate of {rate} is too large: weights reach {reached:.1e} within the first iterations{hint}"
            )));
        }
        // Every row is known to its owner, and none may be found too large when its batch comes up.
        let owners = material.sets.len();
        for (owner, set) in material.sets.iter().enumerate() {
            for (port, most) in [owner, owners + owner].into_iter().zip(set.largest()) {
                let id = step.net.inputs[port];
                // With several owners, their rows are joined to a batch.
                let joined = step.net.nodes.iter().filter(|n| n.layer == Layer::Concat(0) && n.inputs.contains(&id));
                for id in joined.map(|n| n.output).chain([id]) {
                    let range = ranges.values.entry(step.net.names[id].clone()).or_default();
                    *range = range.or(Range::within(f64::from(most) / margin));
                }
            }
        }
        step.settle(&mut ranges, calibration, margin);
        let options = Options { margin, ..Options::default() };
        let (program, secrets) = compile_step(&step, &ranges, &options)?;
        let single = step.answer(&import(graph, 1)?)?;
        for set in &material.sets {
            for sample in set.samples.iter().take(8) {
                let inputs = std::iter::once(sample).chain(&floats.states).cloned().collect();
                ranges.merge(&Ranges::calibrate(&single, &[inputs])?);
            }
        }
        let answer = compile_answer(&single, &program, &ranges, &options)?;
        let training = Training {
            program: program.hash(),
            answer: answer.hash(),
            preprocess: material.preprocess.hash(),
            data: fingerprint(&material.sets, material.seed, &material.key),
        };
        let (preprocess, iterations) = (material.preprocess.clone(), material.order.len());
        let answer = Answer { program: answer, training, preprocess, iterations };
        Ok(Self { step, program, secrets, material, answer })
    }
}

/// A data owner while a training runs.
pub struct Trainer<'a> {
    program: &'a Program,
    material: &'a Material,
    owner: usize,
}

impl<'a> Trainer<'a> {
    /// All owners.
    #[must_use]
    pub fn all(prepared: &'a Prepared) -> Vec<Self> {
        let Prepared { program, material, .. } = prepared;
        (0..material.sets.len()).map(|owner| Self { program, material, owner }).collect()
    }
}

/// As sessions take owners.
#[must_use]
pub fn owners<'o>(trainers: &'o mut [Trainer<'_>]) -> Vec<&'o mut dyn Inputs> {
    trainers.iter_mut().map(|t| t as &mut dyn Inputs).collect()
}

impl Inputs for Trainer<'_> {
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>> {
        let (program, material) = (self.program, self.material);
        let own = material.sets[self.owner].batch(&material.order[run][self.owner], material.answers);
        encode_rows(program, self.owner, &own)
    }
}

/// The inputs of an iteration as one owner gives them, its samples and labels encoded; what others provide is left empty.
///
/// # Errors
/// When a value does not fit.
pub fn encode_rows(program: &Program, owner: usize, batch: &[Tensor; 2]) -> sordino_nn::Result<Vec<Vec<i64>>> {
    let mut own = batch.iter();
    let encode = |port: &Port| match (usize::from(port.owner) == owner).then(|| own.next()).flatten() {
        Some(x) => encode_input(program, port, x),
        None => Ok(vec![]),
    };
    program.inputs.iter().map(encode).collect()
}
