//! Whole networks by two parties: every integer that the oracle computes, and what the plan declares, to the byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::ahead::Ahead;
use sordino::in_process::{InProcess, in_process};
use sordino::inputs::{Preprocess, read};
use sordino::owners::{Finished, Owners};
use sordino::price::{Price, planned};
use sordino::session::{Job, Outputs};
use sordino::{Graph, Options, Tensor, exec, model};
use sordino_mpc::{Clear, Kind, Linear, Plan, Settings, Step, Transfers, Truncation, two};
use sordino_nn::Constant;
use sordino_nn::exec::Loaded;
use sordino_nn::graph::{Attribute, Dim, Node};
use sordino_nn::program::{Op, Program, Secrets};
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

fn run(program: &Program, secrets: &Secrets, runs: &[Vec<Vec<i64>>], prepared: usize) -> Finished {
    let (mut inputs, mut heard) = (runs, Heard(0));
    let owners = Owners { weights: secrets, data: vec![&mut inputs], receiver: &mut heard };
    let job = Job { prepared, ..Job::new(program, runs.len()).unwrap() };
    let done = in_process(job, &InProcess::default(), owners, None, &AtomicU64::new(0)).unwrap();
    assert_eq!(heard.0, runs.len());
    done
}

fn check(program: &Program, secrets: &Secrets, samples: &[Tensor]) {
    check_prepared(program, secrets, samples, 0);
}

/// With the transfers of so many runs drawn before the first.
fn check_prepared(program: &Program, secrets: &Secrets, samples: &[Tensor], prepared: usize) {
    let inputs: Vec<Vec<Vec<i64>>> =
        samples.iter().map(|s| exec::encode_inputs(program, std::slice::from_ref(s)).unwrap()).collect();
    let done = run(program, secrets, &inputs, prepared);
    for (got, inputs) in done.outputs.iter().zip(&inputs) {
        let want = oracle(program, secrets, inputs);
        match program.settings.truncation {
            Truncation::Exact => assert!(*got == want, "an integer differs from the oracle's"),
            Truncation::OneBit => {
                // Units of layer after layer add up to little of what logits are.
                let off = got[0].iter().zip(&want[0]).map(|(g, w)| (g - w).abs()).max().unwrap();
                let largest = want[0].iter().map(|w| w.abs()).max().unwrap();
                assert!(off > 0 && 100 * off < largest, "{off} off where the largest is {largest}");
            }
        }
    }
    // What the first run sends, and later ones, which find transfers that are left over.
    let plan = Plan::<two::Declared>::of(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = planned(&plan, program).unwrap();
    for _ in 0..prepared {
        let _sent = plan.costs().prepare(Ahead::of(program).unwrap().draws());
    }
    plan.restart();
    for _ in samples {
        loaded.run(&plan, at.child("run"), None, |_| ()).unwrap();
    }
    let sent: Vec<u64> = done.ends.iter().map(|e| e.payload).collect();
    assert_eq!(sent, plan.cost().sent[..2]);
    assert_eq!(done.ends.iter().map(|e| e.rounds).max(), Some(plan.cost().rounds));
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
fn a_real_model_answers_as_the_oracle_however_products_and_truncations_are_made() {
    let (graph, digit) = digit();
    for (linear, truncation) in [
        (Linear::Ot, Truncation::Exact),
        (Linear::Auto, Truncation::Exact),
        (Linear::He, Truncation::OneBit),
        (Linear::Ot, Truncation::OneBit),
    ] {
        let settings = Settings { linear, truncation, ..settings() };
        let (program, secrets) = compiled(&graph, settings, &digit);
        check(&program, &secrets, &[digit[0].clone(), digit[0].clone()]);
    }
}

#[test]
fn a_real_model_answers_from_transfers_that_were_drawn_before() {
    let (graph, digit) = digit();
    for (transfers, linear, prepared) in [
        (Transfers::Silent, Linear::He, 2),
        (Transfers::Compact, Linear::He, 1),
        (Transfers::Softspoken, Linear::He, 3),
        (Transfers::Silent, Linear::Ot, 1),
    ] {
        let (program, secrets) = compiled(&graph, Settings { transfers, linear, ..settings() }, &digit);
        let ahead = Ahead::of(&program).unwrap();
        let [before, online] = ahead.costs(&program).unwrap();
        let all = Price::of::<two::Declared>(&program).unwrap();
        assert!(before.total() > 0 && online.total() < all.bytes && online.rounds < all.rounds);
        // Queries that were not prepared follow those that were.
        let samples: Vec<Tensor> = digit.iter().cycle().take(3).cloned().collect();
        check_prepared(&program, &secrets, &samples, prepared);
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

/// A convolution beside its input, a norm over both, a ReLU, a layer behind it, and a mean behind that if it is asked for: what DenseNet is made of.
fn dense(pad: i64, pooled: bool) -> Graph {
    let node = |name: &str, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]| Node {
        name: name.into(),
        op: op.into(),
        inputs: inputs.iter().map(|i| (*i).to_string()).collect(),
        outputs: vec![name.into()],
        attributes: attributes.iter().map(|(n, a)| ((*n).to_string(), a.clone())).collect(),
    };
    let drawn = |seed: u8, dims: &[usize]| {
        let words: Vec<u32> = PrgKey::new([seed; 16]).words(dims.iter().product());
        Tensor::new(dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect())
    };
    // Signs of both kinds; channels that let everything through, or nothing, or depend on nothing.
    let scale = vec![1.5, -0.5, 0.75, -2.0, 0.01, 0.01, 0.0, 0.0];
    let shift = vec![0.1, 0.2, -0.3, 0.4, 3.0, -3.0, 0.6, -0.6];
    let list = |values: Vec<f32>| Tensor::new(&[values.len()], values);
    let constants = [
        ("w", drawn(1, &[5, 3, 3, 3])),
        ("scale", list(scale)),
        ("shift", list(shift)),
        ("mean", list(vec![0.05; 8])),
        ("variance", list(vec![1.0; 8])),
        ("v", drawn(2, &[4, 8, 1 + 2 * pad as usize, 1 + 2 * pad as usize])),
    ];
    let around = |pad: i64| ("pads", Attribute::Ints(vec![pad; 4]));
    let windows = ["kernel_shape", "strides"].map(|name| (name, Attribute::Ints(vec![2, 2])));
    let mean = pooled.then(|| node("y", "AveragePool", &["z"], &windows));
    let last = if pooled { "z" } else { "y" };
    Graph {
        opset: 13,
        inputs: vec![("x".into(), [1, 3, 6, 5].map(Dim::Fixed).to_vec())],
        outputs: vec!["y".into()],
        constants: constants.into_iter().map(|(n, t)| (n.to_string(), Constant::Float(t.into()))).collect(),
        nodes: [
            node("c", "Conv", &["x", "w"], &[around(1)]),
            node("d", "Concat", &["x", "c"], &[("axis", Attribute::Int(1))]),
            node("n", "BatchNormalization", &["d", "scale", "shift", "mean", "variance"], &[]),
            node("r", "Relu", &["n"], &[]),
            node(last, "Conv", &["r", "v"], &[around(pad)]),
        ]
        .into_iter()
        .chain(mean)
        .collect(),
        ..Graph::default()
    }
}

#[test]
fn norms_that_do_not_fold_move_through_their_relus() {
    let words: Vec<u32> = PrgKey::new([7; 16]).words(90);
    let x = Tensor::new(&[1, 3, 6, 5], words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect());
    let has_flips = |program: &Program| program.instructions.iter().any(|i| matches!(i.op, Op::Flip { .. }));
    for (pad, pooled, moves) in [(0, false, true), (0, true, true), (1, false, false)] {
        let graph = dense(pad, pooled);
        let (program, secrets) = compiled(&graph, settings(), std::slice::from_ref(&x));
        // Behind zeros that pad, what a ReLU lets through cannot be added.
        assert_eq!(has_flips(&program), moves);
        check(&program, &secrets, std::slice::from_ref(&x));
        let inputs = exec::encode_inputs(&program, std::slice::from_ref(&x)).unwrap();
        let got = exec::decode_outputs(&program, &oracle(&program, &secrets, &inputs));
        let net = sordino_nn::import(&graph, 1).unwrap();
        let want = sordino_nn::float::evaluate(&net, std::slice::from_ref(&x), |_, _| ()).unwrap();
        for (got, want) in got[0].data.iter().zip(&want[0].data) {
            assert!((got - want).abs() < 0.01, "{got} where {want} is right, pad {pad}");
        }
        // Servers fold the same norm into nothing, and multiply.
        let (three, _) = compiled(&graph, Settings::default(), std::slice::from_ref(&x));
        assert!(!has_flips(&three));
    }
}

/// Networks of the ImageNet's size, in the rings of the CrypTFlow2 paper.
#[test]
#[ignore = "takes minutes"]
fn large_networks_answer_as_the_oracle() {
    for (name, narrow_bits, wide_bits) in [("squeezenet1.1", 23, 32), ("resnet50", 25, 37), ("densenet121", 21, 32)] {
        let graph = zoo::build(name, 1, zoo::Pool::Max).unwrap();
        let dims = model::typed(&graph, 1).unwrap().reference.shapes[0].clone();
        let words: Vec<u32> = PrgKey::new([6; 16]).words(dims.iter().product());
        let x = Tensor::new(&dims, words.iter().map(|w| (w % 2001) as f32 / 1000.0 - 1.0).collect());
        let settings = Settings { narrow_bits, wide_bits, ..settings() };
        let (program, secrets) = compiled(&graph, settings, std::slice::from_ref(&x));
        check(&program, &secrets, &[x]);
        eprintln!("{name}: every integer is the oracle's");
    }
}

#[test]
fn real_models_answer_as_the_oracle() {
    real_models(|_| 2);
}

#[test]
#[ignore = "takes minutes"]
fn real_models_answer_as_the_oracle_again_and_again() {
    real_models(|name| match name {
        "mnist_models/minionn_mnist.onnx" => 200,
        "cifar10_models/resnet20_cifar10.onnx" => 20,
        _ => 5,
    });
}

/// Models whose licences keep them out of this project, where they are: each on so many drawn inputs of its size.
fn real_models(often: impl Fn(&str) -> u8) {
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
        let samples: Vec<Tensor> = (1..=often(name)).map(drawn).collect();
        // By transfers where that is some seconds.
        let small = typed.passed.macs() < 1 << 26;
        for linear in if small { &[Linear::He, Linear::Ot][..] } else { &[Linear::He] } {
            let (program, secrets) = compiled(&graph, Settings { linear: *linear, ..settings() }, &samples);
            check(&program, &secrets, &samples);
        }
        eprintln!("{name}: every integer is the oracle's, {} times", samples.len());
    }
}
