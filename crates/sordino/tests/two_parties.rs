//! Whole networks by two parties: every integer that the oracle computes, and what the plan declares, to the byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::in_process::{InProcess, in_process};
use sordino::inputs::{Preprocess, read};
use sordino::owners::{Finished, Owners};
use sordino::session::{Job, Outputs};
use sordino::{Graph, Options, Tensor, exec, model};
use sordino_mpc::{Clear, Kind, Plan, Settings, Step, Transfers, two};
use sordino_nn::exec::Loaded;
use sordino_nn::program::{Program, Secrets};
use sordino_nn::zoo;
use sordino_ring::{Cpu, PrgKey};
use std::path::Path;
use std::sync::atomic::AtomicU64;

fn settings() -> Settings {
    Settings { kind: Kind::Two, narrow_bits: 25, wide_bits: 37, ..Settings::default() }
}

fn compiled(graph: &Graph, settings: Settings, samples: &[Tensor]) -> (Program, Secrets) {
    let typed = model::typed(graph, 1).unwrap();
    let ranges = model::calibrate(graph, &samples.iter().map(|s| vec![s.clone()]).collect::<Vec<_>>()).unwrap();
    model::compiled(&typed, &ranges, &Options { settings, ..Options::default() }).unwrap()
}

/// What the oracle answers.
fn oracle(program: &Program, secrets: &Secrets, inputs: &[Vec<i64>]) -> Vec<Vec<i64>> {
    let clear = Clear::new(Cpu::new(1)).with(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), program, Some(secrets)).unwrap();
    let outputs = loaded.run(&clear, at.child("run"), Some(inputs), |_| ()).unwrap();
    assert_eq!(clear.take_overflow(), None);
    outputs.into_iter().map(Option::unwrap).collect()
}

struct Heard(usize);

impl Outputs for Heard {
    fn opened(&mut self, _run: usize, outputs: &[Vec<i64>], _seconds: f64) {
        assert_eq!(outputs.len(), 1);
        self.0 += 1;
    }
}

fn run(program: &Program, secrets: &Secrets, runs: &[Vec<Vec<i64>>]) -> Finished {
    let (mut inputs, mut heard) = (runs, Heard(0));
    let owners = Owners { weights: secrets, data: vec![&mut inputs], receiver: &mut heard };
    let job = Job::new(program, runs.len()).unwrap();
    let done = in_process(job, &InProcess::default(), owners, None, &AtomicU64::new(0)).unwrap();
    assert_eq!(heard.0, runs.len());
    done
}

fn check(program: &Program, secrets: &Secrets, samples: &[Tensor]) {
    let inputs: Vec<Vec<Vec<i64>>> =
        samples.iter().map(|s| exec::encode_inputs(program, std::slice::from_ref(s)).unwrap()).collect();
    let done = run(program, secrets, &inputs);
    for (got, inputs) in done.outputs.iter().zip(&inputs) {
        assert!(*got == oracle(program, secrets, inputs), "an integer differs from the oracle's");
    }
    // What the first run sends, and later ones, which find transfers that are left over.
    let plan = Plan::<two::Declared>::of(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&plan, at.child("load"), program, None).unwrap();
    loaded.agree(&plan, at.child("agree")).unwrap();
    plan.restart();
    for _ in samples {
        loaded.run(&plan, at.child("run"), None, |_| ()).unwrap();
    }
    let sent: Vec<u64> = done.ends.iter().map(|e| e.payload).collect();
    assert_eq!(sent, plan.cost().sent[..2]);
}

fn digit() -> (Graph, Vec<Tensor>) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    let digit = read(&[assets.join("digit-7.png")], &[1, 1, 28, 28], &preprocess).unwrap();
    (model::read(&assets.join("mnist.onnx")).unwrap(), digit)
}

#[test]
fn a_real_model_answers_as_the_oracle_however_transfers_are_made() {
    let (graph, digit) = digit();
    for transfers in [Transfers::Silent, Transfers::Compact, Transfers::Softspoken] {
        let (program, secrets) = compiled(&graph, Settings { transfers, ..settings() }, &digit);
        check(&program, &secrets, &[digit[0].clone(), digit[0].clone()]);
    }
}

#[test]
fn networks_with_shortcuts_and_concatenations_answer_as_the_oracle() {
    for (name, pool) in
        [("lenet", zoo::Pool::Max), ("resnet20-cifar10", zoo::Pool::Average), ("alexnet-cifar10", zoo::Pool::Max)]
    {
        let graph = zoo::build(name, 1, pool).unwrap();
        let dims = model::typed(&graph, 1).unwrap().reference.shapes[0].clone();
        let words: Vec<u32> = PrgKey::new([5; 16]).words(dims.iter().product());
        let x = Tensor::new(&dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect());
        let (program, secrets) = compiled(&graph, settings(), std::slice::from_ref(&x));
        check(&program, &secrets, &[x]);
    }
}

/// Models whose licences keep them out of this project, where they are: each on drawn inputs of its size.
#[test]
fn real_models_answer_as_the_oracle() {
    let Some(assets) = std::env::var_os("SORDINO_ASSETS") else {
        eprintln!("skipped: SORDINO_ASSETS is not set");
        return;
    };
    for name in [
        "mnist_models/minionn_mnist.onnx",
        "cifar10_models/resnet20_cifar10.onnx",
        "imagenet/squeezenet1.1_imagenet.onnx",
    ] {
        let path = Path::new(&assets).join(name);
        if !path.exists() {
            eprintln!("skipped: {} is not there", path.display());
            continue;
        }
        let graph = model::read(&path).unwrap();
        let typed = model::typed(&graph, 1).unwrap();
        let dims = typed.reference.shapes[typed.reference.inputs[0]].clone();
        let drawn = |seed: u8| {
            let words: Vec<u32> = PrgKey::new([seed; 16]).words(dims.iter().product());
            Tensor::new(&dims, words.iter().map(|w| (w % 256) as f32 / 255.0).collect())
        };
        let samples = [drawn(1), drawn(2)];
        let (program, secrets) = compiled(&graph, settings(), &samples);
        check(&program, &secrets, &samples);
    }
}
