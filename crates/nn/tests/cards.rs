//! Whole networks whose servers compute on cards: from one seed follow the answers and the bytes on every link that processors give.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shares;

use shares::Run;
use sordino_nn::exec::encode_inputs;
use sordino_nn::program::{Program, Secrets};
use sordino_nn::training::{Loss, Optimiser, Rates, Rule, step};
use sordino_nn::{Options, Ranges, Tensor, compile, compile_step, for_inference, import, zoo};
use sordino_ring::PrgKey;
use sordino_testkit::World;
use sordino_testkit::cards::mixtures;
use sordino_testkit::transcript::hashes;

fn noise(dims: &[usize], seed: u8) -> Tensor {
    let words: Vec<u32> = PrgKey::new([seed; 16]).words(dims.iter().product());
    Tensor::new(dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect())
}

/// Runs a program on every mixture of devices.
fn same_everywhere(program: &Program, secrets: &Secrets, inputs: &[Tensor]) {
    let mixtures = mixtures();
    if mixtures.is_empty() {
        return;
    }
    let job = Run { program, secrets, inputs: encode_inputs(program, inputs).unwrap() };
    let seed = sordino_testkit::seed::fresh();
    let world = |cards| World { cards, seed, settings: program.settings, ..World::default() };
    let (want, on_processors) = hashes(world([false; 3]), &job);
    // Three servers that talk to each other, to two owners and to the receiver.
    assert!(on_processors.len() > 10, "{} links", on_processors.len());
    for cards in mixtures {
        let (got, on_cards) = hashes(world(cards), &job);
        assert!(got == want, "answers, {cards:?}");
        assert!(on_cards == on_processors, "bytes, {cards:?}");
    }
}

fn answers(name: &str) {
    let net = for_inference(&import(&zoo::build(name, 1, zoo::Pool::Max).unwrap(), 1).unwrap());
    let x = vec![noise(&net.shapes[net.inputs[0]], 3)];
    let ranges = Ranges::calibrate(&net, std::slice::from_ref(&x)).unwrap();
    let (program, secrets) = compile(&net, &ranges, &Options::default()).unwrap();
    same_everywhere(&program, &secrets, &x);
}

#[test]
fn lenet() {
    answers("lenet");
}

#[test]
fn resnet_20() {
    answers("resnet20-cifar10");
}

#[test]
fn a_step_of_lenets_training() {
    const BATCH: usize = 4;
    let net = import(&zoo::build("lenet", 1, zoo::Pool::Max).unwrap(), BATCH).unwrap();
    for optimiser in [Optimiser::Sgd { momentum: 0.9 }, Optimiser::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 }] {
        let rule = Rule {
            loss: Loss::CrossEntropy,
            optimiser,
            rates: Rates(vec![0.01]),
            decay: 0.0,
            weighted: false,
            tell_loss: true,
            seed: 1,
        };
        let step = step(&net, &rule).unwrap();
        let labels = (0..BATCH * 10).map(|i| f32::from(u8::from(i % 10 == i / 10))).collect();
        let data = [noise(&net.shapes[net.inputs[0]], 4), Tensor::new(&[BATCH, 10], labels)];
        let sample: Vec<Tensor> = data.iter().cloned().chain(step.start()).collect();
        let ranges = Ranges::calibrate(&step.net, &[sample]).unwrap();
        let options = Options { margin: 8.0, ..Options::default() };
        let (program, secrets) = compile_step(&step, &ranges, &options).unwrap();
        same_everywhere(&program, &secrets, &data);
    }
}
