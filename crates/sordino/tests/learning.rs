//! Private trainings follow the same trainings in floats closely. Shares, and with them every rounding, follow from a fixed
//! seed: what these tests find, they find every time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::in_process::{InProcess, in_process_with};
use sordino::inputs::Preprocess;
use sordino::nn::training::{Loss, Optimiser, Rates, Rule};
use sordino::owners::Owners;
use sordino::prepared::{Material, Prepared, Trainer, owners};
use sordino::program::Program;
use sordino::session::{Job, Outputs};
use sordino::training::{Floats, Length, model_states, order};
use sordino::{Graph, data, exec, model, zoo};
use sordino_testkit::seed::Seeded;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

struct Losses<'a>(&'a Program, Vec<f64>);

impl Outputs for Losses<'_> {
    fn opened(&mut self, _run: usize, outputs: &[Vec<i64>], _seconds: f64) {
        self.1.push(f64::from(exec::decode_outputs(self.0, outputs)[0].data[0]));
    }
}

/// Largest difference of the losses' averages over twenty iterations, relative to those in floats while these are above a
/// twentieth of the first, and largest difference of a weight.
fn deviation(graph: &Graph, rule: &Rule, batch: usize, iterations: usize, seed: u8) -> (f64, f32) {
    let preprocess = Preprocess::default();
    let labels = asset("digits-labels-idx1-ubyte.gz");
    let set = data::read(&[asset("digits-idx3-ubyte.gz")], Some(&labels), &[1, 1, 28, 28], 10, &preprocess).unwrap();
    let length = Length { iterations: Some(iterations), ..Length::default() };
    let order = order(&[set.train.samples.len()], batch, length, 0).unwrap();
    let material = Material { sets: vec![set.train], order, answers: 10, seed: 0, key: [0; 32].into(), preprocess };
    let prepared = Prepared::new(graph, material, rule, 8.0, 20).unwrap();
    let job = Job { opened: model_states(&prepared.step), ..Job::new(&prepared.program, iterations).unwrap() };
    let (mut trainers, mut losses) = (Trainer::all(&prepared), Losses(&prepared.program, vec![]));
    let all = Owners { weights: &prepared.secrets, data: owners(&mut trainers), receiver: &mut losses };
    let entropy =
        |end: sordino_net::Endpoint| -> Box<dyn sordino::mpc::Entropy> { Box::new(Seeded::of([seed; 32], end.0)) };
    let done = in_process_with(job, &InProcess::default(), all, None, &AtomicU64::new(0), &entropy).unwrap();
    let states = exec::decode_states(&prepared.program, &prepared.step, &done.states);
    let mut floats = Floats::new(&prepared.step);
    let mut own = vec![];
    for i in 0..iterations {
        own.push(f64::from(floats.run(prepared.material.inputs(i), None).unwrap().unwrap()));
    }
    let mean = |l: &[f64], i: usize| {
        let from = (i + 1).saturating_sub(20);
        l[from..=i].iter().sum::<f64>() / (i + 1 - from) as f64
    };
    let pairs = (0..iterations).map(|i| (mean(&losses.1, i), mean(&own, i))).filter(|p| p.1 > own[0] / 20.0);
    let loss = pairs.map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
    let weights = states.iter().zip(&floats.states).flat_map(|(a, b)| a.data.iter().zip(&b.data));
    (loss, weights.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

fn rule(optimiser: Optimiser, rates: Vec<f32>, decay: f32) -> Rule {
    Rule { loss: Loss::CrossEntropy, optimiser, rates: Rates(rates), decay, weighted: false, tell_loss: true, seed: 0 }
}

#[test]
fn lenet_follows_floats() {
    let graph = zoo::build("lenet", 0, zoo::Pool::Average).unwrap();
    for seed in [1, 2] {
        let got = deviation(&graph, &rule(Optimiser::Sgd { momentum: 0.9 }, vec![0.003], 0.0), 4, 100, seed);
        assert!(got.0 < 2e-4 && got.1 < 1e-3, "{got:?}");
    }
}

#[test]
fn declining_rates_follow_floats() {
    let graph = zoo::build("lenet", 0, zoo::Pool::Average).unwrap();
    let rates = (0..40).map(|i| 0.002 * (1.0 + (std::f32::consts::PI * (i as f32 + 0.5) / 40.0).cos())).collect();
    let got = deviation(&graph, &rule(Optimiser::Sgd { momentum: 0.9 }, rates, 0.0), 4, 40, 1);
    assert!(got.0 < 5e-3 && got.1 < 5e-3, "{got:?}");
}

#[test]
fn exports_in_training_mode_follow_floats() {
    let adam = Optimiser::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-3 };
    let cases = [
        ("pytorch_training.onnx", Optimiser::Sgd { momentum: 0.9 }, 0.01, 2e-3),
        ("pytorch_export.onnx", adam, 0.001, 2e-3),
    ];
    for (name, optimiser, rate, bound) in cases {
        let graph = Graph { training: true, ..model::read(&asset(name)).unwrap() };
        let got = deviation(&graph, &rule(optimiser, vec![rate], 0.001), 10, 16, 1);
        assert!(got.0 < bound && got.1 < 1e-2, "{name}: {got:?}");
    }
}
