//! What a server sees of an iteration of training does not depend on the data or the model, and nothing is opened but what
//! was named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod graphs;

use graphs::{BATCH, modern, normal};
use sordino_mpc::{Error, Plan, Protocol, Result, Step};
use sordino_nn::exec::{Loaded, encode_inputs};
use sordino_nn::program::{Program, Secret, Secrets};
use sordino_nn::training::{Loss, Optimiser, Rates, Rule, step};
use sordino_nn::{Options, Ranges, Tensor, compile_step, import};
use sordino_testkit::transcript::{BOUND, worst};
use sordino_testkit::{Job, Tap, World};

struct Iteration<'a> {
    program: &'a Program,
    secrets: Secrets,
    inputs: Vec<Vec<i64>>,
}

impl Job for Iteration<'_> {
    type Out = usize;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<usize> {
        let usage = |e: sordino_nn::Error| Error::Usage(e.to_string());
        let loaded = Loaded::load(p, at.child("load"), self.program, Some(&self.secrets)).map_err(usage)?;
        loaded.run(p, at.child("run"), Some(&self.inputs), |_| ()).map(|outputs| outputs.len()).map_err(usage)
    }
}

/// A step with its data, compiled.
fn compiled(optimiser: Optimiser, tell_loss: bool) -> (Program, Secrets, Vec<Vec<i64>>) {
    let net = import(&modern(), BATCH).unwrap();
    let rates = Rates(vec![0.01]);
    let rule = Rule { loss: Loss::CrossEntropy, optimiser, rates, decay: 0.001, weighted: false, tell_loss, seed: 1 };
    let step = step(&net, &rule).unwrap();
    let x = normal(&net.shapes[net.inputs[0]], 1, 1.0);
    let labels = Tensor::new(&[BATCH, 3], (0..BATCH * 3).map(|i| f32::from(u8::from(i % 3 == 0))).collect());
    let data = [x, labels];
    let sample: Vec<Tensor> = data.iter().cloned().chain(step.start()).collect();
    let ranges = Ranges::calibrate(&step.net, &[sample]).unwrap();
    let (program, secrets) = compile_step(&step, &ranges, &Options::default()).unwrap();
    let inputs = encode_inputs(&program, &data).unwrap();
    (program, secrets, inputs)
}

#[test]
fn every_message_of_an_iteration_is_uniform_and_independent_of_data_and_model() {
    let adam = Optimiser::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 };
    for optimiser in [Optimiser::Sgd { momentum: 0.9 }, adam] {
        let (program, secrets, inputs) = compiled(optimiser, true);
        let iteration = |value: i64, tap: Tap| {
            // The same program on nothing but zeros.
            let blank = |v: &Vec<i64>| if value == 0 { vec![0; v.len()] } else { v.clone() };
            let empty = |s: &Secret| Secret {
                values: Tensor::new(&s.values.dims, vec![0.0; s.values.data.len()]).into(),
                scale: s.scale,
            };
            let secrets = Secrets(secrets.0.iter().map(|s| if value == 0 { empty(s) } else { s.clone() }).collect());
            let job = Iteration { program: &program, secrets, inputs: inputs.iter().map(blank).collect() };
            let _ = World { tap: Some(tap), ..World::default() }.run(&job).unwrap();
        };
        let (worst, messages) = worst(48, &iteration);
        assert!(messages > 1000, "{messages} messages were looked at");
        assert!(worst < BOUND, "a message is {worst:.1} standard deviations from uniform");
    }
}

#[test]
fn an_iteration_costs_what_is_declared_and_tells_the_client_the_loss_or_nothing() {
    for tell in [true, false] {
        let (program, secrets, inputs) = compiled(Optimiser::Sgd { momentum: 0.9 }, tell);
        let heard = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
        let log = std::sync::Arc::clone(&heard);
        let tap: Tap = std::sync::Arc::new(move |from, to, frame| {
            if from.0 < 3 && to.0 >= 3 {
                log.lock().unwrap().push(frame.message.iter().map(|p| p.bytes().len()).sum::<usize>());
            }
            vec![frame]
        });
        let job = Iteration { program: &program, secrets, inputs };
        let plan = Plan::new(program.settings);
        job.run(&plan, Step::root([1; 16])).unwrap();
        let (outputs, sent, rounds) = World { tap: Some(tap), ..World::default() }.run(&job).unwrap();
        // What is declared beforehand is what is sent.
        assert_eq!((sent, rounds), (plan.cost().sent, plan.cost().rounds));
        // One element of the narrow ring and a hash from each server.
        let want = if tell { vec![4 + 32; 3] } else { vec![] };
        assert_eq!((outputs, heard.lock().unwrap().clone()), (usize::from(tell), want));
    }
}

#[test]
fn the_executor_alone_opens_values() {
    // Outputs of a run and, at the end of a training, states: the only two places where a program's values are opened.
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![];
    let mut folders: Vec<_> = ["ring", "net", "mpc", "nn", "sordino"].map(|c| crates.join(c).join("src")).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(std::result::Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            found.extend(
                code.filter(|l| {
                    l.contains(".open(")
                        && !l.contains("File::options()")
                        && !l.contains("costs.open(")
                        && !l.contains("options.open(")
                })
                .map(|l| (path.clone(), l.trim().to_string())),
            );
        }
    }
    found.sort();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(path, _)| path.ends_with("nn/src/exec.rs")), "{found:?}");
}
