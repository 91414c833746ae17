//! A training made ready: ranges from its first iterations in floats, the compiled step, and its owners.

use super::report::average;
use sordino::answer::Answer;
use sordino::data::Set;
use sordino::session::Owner;
use sordino::training::{Floats, Order, fingerprint};
use sordino::{Error, Result};
use sordino_nn::exec::{decode_outputs, encode_input};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::training::{Rule, TrainingStep, step};
use sordino_nn::{Graph, Options, Ranges, Tensor, compile_answer, compile_step, import};

/// Growth of a weight within the first iterations that no training means.
const WILD: f32 = 30.0;

/// What is trained on: every owner's set, the public order, and the width of an answer.
pub(crate) struct Material {
    pub(crate) sets: Vec<Set>,
    pub(crate) order: Order,
    pub(crate) answers: usize,
    pub(crate) seed: u64,
}

/// A training that is ready to run.
pub(crate) struct Prepared {
    pub(crate) step: TrainingStep,
    pub(crate) program: Program,
    pub(crate) secrets: Secrets,
    pub(crate) material: Material,
    /// What answers with the trained model while it stays shared.
    pub(crate) answer: Answer,
}

impl Material {
    /// The inputs of an iteration: samples of every owner, then labels.
    pub(crate) fn inputs(&self, iteration: usize) -> Vec<Tensor> {
        let batches = self.sets.iter().zip(&self.order[iteration]).map(|(s, rows)| s.batch(rows, self.answers));
        let (samples, labels): (Vec<Tensor>, Vec<Tensor>) = batches.map(|[x, y]| (x, y)).unzip();
        samples.into_iter().chain(labels).collect()
    }
}

impl Prepared {
    /// Takes ranges from the first iterations in floats and compiles the step.
    pub(crate) fn new(graph: &Graph, material: Material, rule: &Rule, margin: f64, calibration: usize) -> Result<Self> {
        let rows: Vec<usize> = material.order.first().map(|b| b.iter().map(Vec::len).collect()).unwrap_or_default();
        let step = step(&import(graph, rows.iter().sum())?, rule)?.shared_by(&rows);
        let mut ranges = Ranges::default();
        let mut floats = Floats::new(&step);
        for i in 0..calibration.min(material.order.len()) {
            floats.run(material.inputs(i), Some(&mut ranges)).map_err(|e| {
                Error::Usage(format!("training leaves the floats within the first iterations ({e}); lower the rate"))
            })?;
        }
        // A step that is far too large shows in floats, where it can be seen.
        let models = sordino::training::model_states(&step);
        let wild = floats.states.iter().zip(&step.states).take(models).find(|(now, state)| {
            let (now, start) = (now.max_abs(), state.start.max_abs());
            !now.is_finite() || now > WILD * start.max(1.0)
        });
        if let Some((now, _)) = wild {
            let rate = rule.rates.0.first().copied().unwrap_or(0.0);
            let reached = now.max_abs();
            return Err(Error::Usage(format!(
                "a rate of {rate} is too large: weights reach {reached:.1e} within the first iterations"
            )));
        }
        let options = Options { margin, ..Options::default() };
        let (program, secrets) = compile_step(&step, &ranges, &options)?;
        let single = step.answer(&import(graph, 1)?)?;
        for set in &material.sets {
            for sample in set.samples.iter().take(8) {
                let inputs = std::iter::once(sample).chain(&floats.states).cloned().collect();
                ranges.merge(&Ranges::calibrate(&single, &[inputs])?);
            }
        }
        let answer = Answer {
            program: compile_answer(&single, &program, &ranges, &options)?,
            training: program.hash(),
            data: fingerprint(&material.sets, material.seed),
        };
        Ok(Self { step, program, secrets, material, answer })
    }
}

/// A data owner while a training runs; the first one hears of losses.
pub(crate) struct Trainer<'a> {
    program: &'a Program,
    material: &'a Material,
    owner: usize,
    pub(crate) losses: Vec<f32>,
    quiet: bool,
}

impl<'a> Trainer<'a> {
    /// All owners.
    pub(crate) fn all(prepared: &'a Prepared, quiet: bool) -> Vec<Self> {
        let Prepared { program, material, .. } = prepared;
        let one = |owner| Self { program, material, owner, losses: vec![], quiet };
        (0..prepared.material.sets.len()).map(one).collect()
    }
}

/// As sessions take owners.
pub(crate) fn owners<'o>(trainers: &'o mut [Trainer<'_>]) -> Vec<&'o mut dyn Owner> {
    trainers.iter_mut().map(|t| t as &mut dyn Owner).collect()
}

impl Owner for Trainer<'_> {
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>> {
        let (program, material) = (self.program, self.material);
        let own = material.sets[self.owner].batch(&material.order[run][self.owner], material.answers);
        let mut own = own.iter();
        let encode = |port: &sordino_nn::program::Port| match (usize::from(port.owner) == self.owner)
            .then(|| own.next())
            .flatten()
        {
            Some(x) => encode_input(program, port, x),
            None => Ok(vec![]),
        };
        program.inputs.iter().map(encode).collect()
    }

    fn opened(&mut self, run: usize, outputs: &[Vec<i64>], seconds: f64) {
        if self.owner > 0 {
            return;
        }
        if let Some(loss) = decode_outputs(self.program, outputs).first() {
            self.losses.push(loss.data[0]);
        }
        if !self.quiet && (run + 1).is_multiple_of(10) {
            let loss = average(&self.losses).last().map(|l| format!(", loss {l:.4}")).unwrap_or_default();
            let all = self.material.order.len();
            eprintln!("iteration {} of {all}: {seconds:.2} s{loss}", run + 1);
        }
    }
}
