//! One step of training: gradients against numerical ones, the compiled step against floats.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Clear, Plan, Settings, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::network::{Layer, Network, Training};
use sordino_nn::training::{Loss, Rule, TrainingStep, step};
use sordino_nn::{Constant, Options, Ranges, Tensor, compile_step, float, import};
use sordino_ring::{Cpu, PrgKey};

fn normal(dims: &[usize], stream: u8, deviation: f32) -> Tensor {
    let words: Vec<u32> = PrgKey::new([stream; 16]).words(4 * dims.iter().product::<usize>());
    let sum = |w: &[u32]| w.iter().map(|&w| w as f32 / 2f32.powi(32)).sum::<f32>() - 2.0;
    Tensor::new(dims, words.chunks_exact(4).map(|w| sum(w) * 3f32.sqrt() * deviation).collect())
}

/// conv 5x5, ReLU, average pool, strided conv with padding, ReLU, a residual sum, flatten, two full layers.
fn model() -> Graph {
    let mut g = Graph { name: "small".into(), opset: 13, outputs: vec!["full2".into()], ..Graph::default() };
    g.inputs.push(("x".into(), vec![Dim::Symbol("N".into()), Dim::Fixed(2), Dim::Fixed(10), Dim::Fixed(10)]));
    let ints = |v: &[i64]| Attribute::Ints(v.to_vec());
    let mut node = |op: &str, name: &str, inputs: &[&str], attributes: &[(&str, Attribute)]| {
        g.nodes.push(Node {
            name: name.into(),
            op: op.into(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![name.into()],
            attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
        });
    };
    let window =
        |k: i64, s: i64, p: i64| [("kernel_shape", ints(&[k, k])), ("strides", ints(&[s, s])), ("pads", ints(&[p; 4]))];
    node("Conv", "conv1", &["x", "w1", "b1"], &window(3, 1, 0));
    node("Relu", "relu1", &["conv1"], &[]);
    node("AveragePool", "pool", &["relu1"], &window(2, 2, 0));
    node("Conv", "conv2", &["pool", "w2", "b2"], &window(3, 1, 1));
    node("Relu", "relu2", &["conv2"], &[]);
    node("Add", "sum", &["relu2", "pool"], &[]);
    node("Conv", "conv3", &["sum", "w3"], &window(3, 2, 1));
    node("Relu", "relu3", &["conv3"], &[]);
    node("Flatten", "flat", &["relu3"], &[]);
    node("Gemm", "full1", &["flat", "w4", "b4"], &[("transB", Attribute::Int(1))]);
    node("Relu", "relu4", &["full1"], &[]);
    node("Gemm", "full2", &["relu4", "w5", "b5"], &[("transB", Attribute::Int(1))]);
    let weights: [(&str, &[usize]); 9] = [
        ("w1", &[4, 2, 3, 3]),
        ("b1", &[4]),
        ("w2", &[4, 4, 3, 3]),
        ("b2", &[4]),
        ("w3", &[6, 4, 3, 3]),
        ("w4", &[8, 24]),
        ("b4", &[8]),
        ("w5", &[3, 8]),
        ("b5", &[3]),
    ];
    for (i, (name, dims)) in weights.into_iter().enumerate() {
        let fan: usize = dims[1..].iter().product();
        g.constants
            .insert(name.into(), Constant::Float(normal(dims, 10 + i as u8, (1.5 / fan as f32).sqrt().min(0.3))));
    }
    g
}

const BATCH: usize = 4;
const RULE: Rule = Rule { loss: Loss::CrossEntropy, rate: 0.05, momentum: 0.9, decay: 0.001, tell_loss: true };

fn network() -> Network {
    import(&model(), BATCH).unwrap()
}

fn data(stream: u8) -> [Tensor; 2] {
    let labels = (0..BATCH * 3).map(|i| f32::from(u8::from(i % 3 == (i / 3 + usize::from(stream)) % 3))).collect();
    [normal(&[BATCH, 2, 10, 10], stream, 1.0), Tensor::new(&[BATCH, 3], labels)]
}

/// Loss and states after one step in floats.
fn in_floats(step: &TrainingStep, data: &[Tensor; 2], states: &[Tensor]) -> (f32, Vec<Tensor>) {
    let inputs: Vec<Tensor> = data.iter().chain(states).cloned().collect();
    let mut out = float::evaluate(&step.net, &inputs, |_, _| ()).unwrap();
    let loss = out.remove(0).data[0];
    (loss, out)
}

#[test]
fn gradients_are_the_numerical_ones() {
    let rule = Rule { momentum: 0.0, decay: 0.0, ..RULE };
    let step = step(&network(), &rule).unwrap();
    let data = data(1);
    let (_, after) = in_floats(&step, &data, &step.start);
    let mut checked = 0;
    for state in (0..step.start.len()).step_by(2) {
        let n = step.start[state].data.len();
        for i in (0..n).step_by(n.div_ceil(5)) {
            let loss = |by: f32| {
                let mut states = step.start.clone();
                states[state].data[i] += by;
                f64::from(in_floats(&step, &data, &states).0)
            };
            let h = 2f32.powi(-8);
            let numerical = (loss(h) - loss(-h)) / f64::from(2.0 * h);
            // Without momentum the next velocity is the gradient.
            let exact = f64::from(after[state + 1].data[i]);
            assert!((numerical - exact).abs() < 2e-3 + 0.02 * exact.abs(), "{state} {i}: {numerical} {exact}");
            checked += usize::from(exact.abs() > 1e-3);
        }
    }
    assert!(checked > 20, "{checked} gradients that are not zero");
}

#[test]
fn the_compiled_step_follows_floats() {
    let step = step(&network(), &RULE).unwrap();
    assert!(step.net.nodes.iter().any(|n| matches!(n.layer, Layer::Training(Training::ConvInput(_)))));
    // Ranges of a few steps in floats, as an owner calibrates.
    let (mut states, mut ranges, mut losses) = (step.start.clone(), Ranges::default(), vec![]);
    for i in 0..20 {
        let sample: Vec<Tensor> = data(i % 4).into_iter().chain(states.clone()).collect();
        ranges.merge(&Ranges::calibrate(&step.net, &[sample]).unwrap());
        let (loss, next) = in_floats(&step, &data(i % 4), &states);
        losses.push(loss);
        states = next;
    }
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
    let options = Options { margin: 4.0, ..Options::default() };
    let (program, secrets) = compile_step(&step, &ranges, &options).unwrap();
    let clear = Clear::new(Cpu::new(1)).with(Settings::default());
    let mut at = Step::root([1; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), &program, Some(&secrets)).unwrap();
    let (mut floats, mut worst) = (step.start.clone(), 0f32);
    for i in 0..20 {
        let encoded = encode_inputs(&program, &data(i % 4)).unwrap();
        let outputs = loaded.run(&clear, at.child("run"), Some(&encoded), |_| ()).unwrap();
        assert_eq!(clear.take_overflow(), None, "step {i}");
        let outputs: Vec<Vec<i64>> = outputs.into_iter().map(Option::unwrap).collect();
        let got = decode_outputs(&program, &outputs)[0].data[0];
        let (want, next) = in_floats(&step, &data(i % 4), &floats);
        floats = next;
        worst = worst.max((got - want).abs());
    }
    assert!(worst < 0.002, "loss differs by {worst}");
    for (i, want) in floats.iter().enumerate() {
        let integers = loaded.open_state(&clear, at.child("open"), i).unwrap().unwrap();
        let got: Vec<f32> =
            integers.iter().map(|&v| (v as f64 / program.slots[program.states[i].read].scale) as f32).collect();
        let want = if want.dims.len() == 4 { want.permute(&[0, 2, 3, 1]) } else { want.clone() };
        let error = got.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // A ReLU that falls to the other side of zero moves a velocity of so small a batch.
        let limit = if i % 2 == 0 { 0.005 } else { 0.03 };
        assert!(error < limit, "state {i}: {error}");
    }
    // The plan runs it too.
    let plan = Plan::new(program.settings);
    let mut at = Step::root([2; 16]);
    let loaded = Loaded::load(&plan, at.child("load"), &program, None).unwrap();
    plan.restart();
    loaded.run(&plan, at.child("run"), None, |_| ()).unwrap();
    assert!(plan.cost().total() > 0);
}
