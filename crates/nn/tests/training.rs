//! One step of training: gradients against numerical ones, the compiled step against floats.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Clear, Plan, Settings, Step};
use sordino_nn::exec::{Loaded, decode_outputs, decode_states, encode_inputs};
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::network::Network;
use sordino_nn::training::{Kind, Loss, Optimiser, Rates, Rule, TrainingStep, step};
use sordino_nn::{Constant, Options, Ranges, Tensor, compile_answer, compile_step, float, import};
use sordino_ring::{Cpu, PrgKey};

fn normal(dims: &[usize], stream: u8, deviation: f32) -> Tensor {
    let words: Vec<u32> = PrgKey::new([stream; 16]).words(4 * dims.iter().product::<usize>());
    let sum = |w: &[u32]| w.iter().map(|&w| w as f32 / 2f32.powi(32)).sum::<f32>() - 2.0;
    Tensor::new(dims, words.chunks_exact(4).map(|w| sum(w) * 3f32.sqrt() * deviation).collect())
}

const BATCH: usize = 4;

struct Build(Graph);

impl Build {
    fn new(dims: &[usize]) -> Self {
        let mut g = Graph { name: "small".into(), opset: 13, ..Graph::default() };
        let fixed = dims.iter().map(|&d| Dim::Fixed(d));
        g.inputs.push(("x".into(), std::iter::once(Dim::Symbol("N".into())).chain(fixed).collect()));
        Self(g)
    }
    fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> &mut Self {
        self.0.nodes.push(Node {
            name: name.into(),
            op: op.into(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![name.into()],
            attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
        });
        self
    }
    fn constant(&mut self, name: &str, value: Tensor) -> &mut Self {
        self.0.constants.insert(name.into(), Constant::Float(value));
        self
    }
    /// A layer with weights of the variance that keeps activations.
    fn weights(
        &mut self,
        op: &str,
        name: &str,
        x: &str,
        dims: &[usize],
        attributes: &[(&str, Attribute)],
    ) -> &mut Self {
        let stream = 10 + self.0.nodes.len() as u8;
        let fan: usize = dims[1..].iter().product();
        let (w, b) = (format!("{name}.w"), format!("{name}.b"));
        self.constant(&w, normal(dims, stream, (1.5 / fan as f32).sqrt().min(0.4)));
        self.constant(&b, normal(&dims[..1], stream + 60, 0.1));
        self.node(op, name, &[x, &w, &b], attributes)
    }
    fn full(&mut self, name: &str, x: &str, from: usize, to: usize) -> &mut Self {
        self.weights("Gemm", name, x, &[to, from], &[("transB", Attribute::Int(1))])
    }
    fn norm(&mut self, name: &str, x: &str, channels: usize) -> &mut Self {
        let near_one: Vec<f32> = normal(&[channels], 90, 0.2).data.iter().map(|v| 1.0 + v).collect();
        let names = ["s", "t", "m", "v"].map(|n| format!("{name}.{n}"));
        self.constant(&names[0], Tensor::new(&[channels], near_one.clone()));
        self.constant(&names[1], normal(&[channels], 91, 0.2));
        self.constant(&names[2], normal(&[channels], 92, 0.1));
        self.constant(&names[3], Tensor::new(&[channels], near_one));
        let [s, t, m, v] = &names;
        self.node("BatchNormalization", name, &[x, s, t, m, v], &[])
    }
    fn done(&mut self, output: &str) -> Graph {
        self.0.outputs = vec![output.into()];
        self.0.clone()
    }
}

fn ints(v: &[i64]) -> Attribute {
    Attribute::Ints(v.to_vec())
}

fn window(k: i64, s: i64, p: i64) -> Vec<(&'static str, Attribute)> {
    vec![("kernel_shape", ints(&[k, k])), ("strides", ints(&[s, s])), ("pads", ints(&[p; 4]))]
}

/// Convolutions with stride and padding, average pooling, a residual sum, two full layers.
fn plain() -> Graph {
    Build::new(&[2, 10, 10])
        .weights("Conv", "conv1", "x", &[4, 2, 3, 3], &window(3, 1, 0))
        .node("Relu", "relu1", &["conv1"], &[])
        .node("AveragePool", "pool", &["relu1"], &window(2, 2, 0))
        .weights("Conv", "conv2", "pool", &[4, 4, 3, 3], &window(3, 1, 1))
        .node("Relu", "relu2", &["conv2"], &[])
        .node("Add", "sum", &["relu2", "pool"], &[])
        .weights("Conv", "conv3", "sum", &[6, 4, 3, 3], &window(3, 2, 1))
        .node("Relu", "relu3", &["conv3"], &[])
        .node("Flatten", "flat", &["relu3"], &[])
        .full("full1", "flat", 24, 8)
        .node("Relu", "relu4", &["full1"], &[])
        .full("full2", "relu4", 8, 3)
        .done("full2")
}

/// Batch norms of both ranks, overlapping maximum pooling, dropout, concatenation, groups and dilation.
fn modern() -> Graph {
    let groups = [window(3, 1, 1), vec![("group", Attribute::Int(2))]].concat();
    let dilated = [window(3, 1, 2), vec![("dilations", ints(&[2, 2]))]].concat();
    Build::new(&[2, 9, 9])
        .weights("Conv", "conv1", "x", &[4, 2, 3, 3], &window(3, 1, 1))
        .norm("norm1", "conv1", 4)
        .node("Relu", "relu1", &["norm1"], &[])
        .node("MaxPool", "pool1", &["relu1"], &window(3, 2, 1))
        .weights("Conv", "left", "pool1", &[4, 2, 3, 3], &groups)
        .node("Relu", "relu2", &["left"], &[])
        .weights("Conv", "right", "pool1", &[3, 4, 3, 3], &dilated)
        .node("Relu", "relu3", &["right"], &[])
        .node("MaxPool", "pool2", &["pool1"], &window(3, 1, 1))
        .node("Concat", "joined", &["relu2", "relu3", "pool2"], &[("axis", Attribute::Int(1))])
        .norm("norm2", "joined", 11)
        .node("Dropout", "dropout", &["norm2"], &[("ratio", Attribute::Float(0.25))])
        .node("GlobalAveragePool", "mean", &["dropout"], &[])
        .node("Flatten", "flat", &["mean"], &[])
        .full("full1", "flat", 11, 8)
        .norm("norm3", "full1", 8)
        .node("Relu", "relu4", &["norm3"], &[])
        .full("full2", "relu4", 8, 3)
        .done("full2")
}

/// Smooth functions, products, differences, slices, transposes, borders of average pooling.
fn smooth() -> Graph {
    let border = [window(3, 2, 1), vec![("count_include_pad", Attribute::Int(0))]].concat();
    let cut = [("starts", ints(&[1, 0])), ("ends", ints(&[5, 5])), ("axes", ints(&[2, 3]))];
    let mut b = Build::new(&[2, 9, 9]);
    b.0.opset = 9;
    b.weights("Conv", "conv1", "x", &[3, 2, 3, 3], &window(3, 1, 1))
        .node("Tanh", "tanh", &["conv1"], &[])
        .node("AveragePool", "pool", &["tanh"], &border)
        .weights("Conv", "conv2", "pool", &[3, 3, 1, 1], &window(1, 1, 0))
        .node("Sigmoid", "gate", &["conv2"], &[])
        .node("Mul", "gated", &["gate", "pool"], &[])
        .node("Sub", "rest", &["pool", "gated"], &[])
        .node("Slice", "cut", &["rest"], &cut)
        .node("Transpose", "turned", &["cut"], &[("perm", ints(&[0, 2, 3, 1]))])
        .node("Flatten", "flat", &["turned"], &[])
        .full("full1", "flat", 60, 6)
        .node("Gelu", "gelu", &["full1"], &[])
        .full("full2", "gelu", 6, 4)
        .node("Exp", "exp", &["full2"], &[])
        .node("Sqrt", "root", &["exp"], &[])
        .node("Reciprocal", "inverse", &["root"], &[])
        .node("Log", "log", &["inverse"], &[])
        .node("Erf", "erf", &["log"], &[])
        .full("full3", "erf", 4, 3)
        .done("full3")
}

fn rule(optimiser: Optimiser, rate: f32) -> Rule {
    Rule { loss: Loss::CrossEntropy, optimiser, rates: Rates(vec![rate]), decay: 0.0, tell_loss: true, seed: 5 }
}

const SGD: Optimiser = Optimiser::Sgd { momentum: 0.9 };

fn network(graph: &Graph) -> Network {
    import(graph, BATCH).unwrap()
}

fn data(net: &Network, stream: usize) -> [Tensor; 2] {
    let labels = (0..BATCH * 3).map(|i| f32::from(u8::from(i % 3 == (i / 3 + stream) % 3))).collect();
    [normal(&net.shapes[net.inputs[0]], stream as u8, 1.0), Tensor::new(&[BATCH, 3], labels)]
}

/// Loss and states after one iteration in floats.
fn in_floats(step: &TrainingStep, at: usize, data: &[Tensor; 2], states: &[Tensor]) -> (f32, Vec<Tensor>) {
    let inputs: Vec<Tensor> = data.iter().chain(states).cloned().collect();
    let mut out = float::evaluate(&step.at(at), &inputs, |_, _| ()).unwrap();
    let loss = out.remove(0).data[0];
    (loss, out)
}

/// Every parameter's gradient, at some of its elements, against differences of the loss.
fn check_gradients(graph: &Graph, loss: Loss) {
    let rate = 2f32.powi(-10);
    let step = step(&network(graph), &Rule { loss, ..rule(Optimiser::Sgd { momentum: 0.0 }, rate) }).unwrap();
    let data = data(&network(graph), 1);
    let start = step.start();
    let (_, after) = in_floats(&step, 0, &data, &start);
    let mut checked = 0;
    for (state, kind) in step.states.iter().map(|s| s.kind).enumerate().filter(|(_, k)| *k == Kind::Value) {
        let n = start[state].data.len();
        for i in (0..n).step_by(n.div_ceil(5)) {
            let loss = |by: f32| {
                let mut states = start.clone();
                states[state].data[i] += by;
                f64::from(in_floats(&step, 0, &data, &states).0)
            };
            let h = 2f32.powi(-11);
            let numerical = (loss(h) - loss(-h)) / f64::from(2.0 * h);
            let exact = f64::from(start[state].data[i] - after[state].data[i]) / f64::from(rate);
            let name = &step.net.names[step.net.inputs[2 + state]];
            let close = (numerical - exact).abs() < 3e-3 + 0.03 * exact.abs();
            assert!(close, "{name} {kind:?} {i}: {numerical} for {exact}");
            checked += usize::from(exact.abs() > 1e-3);
        }
    }
    assert!(checked > 20, "{checked} gradients that are not zero");
}

#[test]
fn gradients_are_the_numerical_ones() {
    check_gradients(&plain(), Loss::CrossEntropy);
    check_gradients(&modern(), Loss::CrossEntropy);
    check_gradients(&smooth(), Loss::SquaredError);
}

/// Iterations of the compiled step in the clear against floats: states may differ by so much.
fn check_compiled(graph: &Graph, rule: &Rule, iterations: usize, close: f32) {
    let net = network(graph);
    let step = step(&net, rule).unwrap();
    // Ranges of a few steps in floats, as an owner calibrates.
    let (mut states, mut ranges, mut losses) = (step.start(), Ranges::default(), vec![]);
    for i in 0..iterations {
        let sample: Vec<Tensor> = data(&net, i % 4).into_iter().chain(states.clone()).collect();
        ranges.merge(&Ranges::calibrate(&step.at(i), &[sample]).unwrap());
        let (loss, next) = in_floats(&step, i, &data(&net, i % 4), &states);
        losses.push(loss);
        states = next;
    }
    assert!(losses[iterations - 1] < 0.9 * losses[0], "{losses:?}");
    let options = Options { margin: 4.0, ..Options::default() };
    let (program, secrets) = compile_step(&step, &ranges, &options).unwrap();
    let clear = Clear::new(Cpu::new(1)).with(Settings::default());
    let mut at = Step::root([1; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), &program, Some(&secrets)).unwrap();
    let (mut floats, mut worst) = (step.start(), 0f32);
    for i in 0..iterations {
        let encoded = encode_inputs(&program, &data(&net, i % 4)).unwrap();
        let outputs = loaded
            .run(&clear, at.child("run"), Some(&encoded), |layer| {
                assert_eq!(clear.take_overflow(), None, "iteration {i}, before {}", program.layers[layer].name);
            })
            .unwrap();
        let outputs: Vec<Vec<i64>> = outputs.into_iter().map(Option::unwrap).collect();
        let got = decode_outputs(&program, &outputs)[0].data[0];
        let (want, next) = in_floats(&step, i, &data(&net, i % 4), &floats);
        floats = next;
        worst = worst.max((got - want).abs());
    }
    assert!(worst < close, "loss differs by {worst}");
    let integers: Vec<Vec<i64>> =
        (0..program.states.len()).map(|i| loaded.open_state(&clear, at.child("open"), i).unwrap().unwrap()).collect();
    let got = decode_states(&program, &step, &integers);
    for (i, (got, want)) in got.iter().zip(&floats).enumerate() {
        let error = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // A ReLU that falls to the other side of zero moves a velocity of so small a batch.
        let limit = if step.states[i].kind == Kind::Value { 2.0 * close } else { 15.0 * close };
        assert!(error < limit, "{}: {error}", step.net.names[step.net.inputs[2 + i]]);
    }
    // The plan runs it too.
    let plan = Plan::new(program.settings);
    let mut at = Step::root([2; 16]);
    let planned = Loaded::load(&plan, at.child("load"), &program, None).unwrap();
    plan.restart();
    planned.run(&plan, at.child("run"), None, |_| ()).unwrap();
    assert!(plan.cost().total() > 0);
    // What it has left answers like the floats.
    let answer = step.answer(&net).unwrap();
    let inputs: Vec<Tensor> = data(&net, 2).into_iter().take(1).chain(floats).collect();
    let want = float::evaluate(&answer, &inputs, |_, _| ()).unwrap();
    ranges.merge(&Ranges::calibrate(&answer, &[inputs]).unwrap());
    let query = compile_answer(&answer, &program, &ranges, &options).unwrap();
    let encoded = encode_inputs(&query, &data(&net, 2)[..1]).unwrap();
    let asked = Loaded::load(&clear, at.child("load"), &query, None).unwrap();
    asked.resume(loaded.states(), 0);
    let outputs = asked.run(&clear, at.child("run"), Some(&encoded), |_| ()).unwrap();
    let got = decode_outputs(&query, &[outputs[0].clone().unwrap()]);
    let error = got[0].data.iter().zip(&want[0].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 10.0 * close, "answers differ by {error}");
}

#[test]
fn compiled_steps_follow_floats() {
    let decay = 0.001;
    check_compiled(&plain(), &Rule { decay, ..rule(SGD, 0.05) }, 20, 0.003);
    let rates = Rates((0..20).map(|i| 0.05 * 0.9f32.powi(i)).collect());
    check_compiled(&modern(), &Rule { rates, ..rule(SGD, 0.05) }, 20, 0.004);
    check_compiled(&smooth(), &Rule { loss: Loss::SquaredError, ..rule(SGD, 0.02) }, 20, 0.002);
    let adam = Optimiser::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 };
    check_compiled(&plain(), &rule(adam, 0.005), 20, 0.02);
}

#[test]
fn what_has_no_gradient_is_named() {
    let graph = Build::new(&[4])
        .full("full", "x", 4, 3)
        .node("PRelu", "strange", &["full", "a"], &[])
        .constant("a", Tensor::new(&[3], vec![0.5; 3]))
        .done("strange");
    let error = step(&network(&graph), &rule(SGD, 0.1)).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("strange") && error.contains("PRelu"), "{error}");
}
