//! One step of training: gradients against numerical ones, the compiled step against floats.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod graphs;

use graphs::{BATCH, Build, bent, modern, normal, plain, smooth};
use sordino_mpc::{Clear, Plan, Settings, Step};
use sordino_nn::exec::{Loaded, decode_outputs, decode_states, encode_inputs};
use sordino_nn::graph::Graph;
use sordino_nn::network::Network;
use sordino_nn::program::Op;
use sordino_nn::training::{Kind, Loss, Optimiser, Rates, Rule, TrainingStep, step};
use sordino_nn::{Options, Ranges, Tensor, compile_answer, compile_step, float, import};
use sordino_ring::Cpu;

fn rule(optimiser: Optimiser, rate: f32) -> Rule {
    Rule {
        loss: Loss::CrossEntropy,
        optimiser,
        rates: Rates(vec![rate]),
        decay: 0.0,
        weighted: false,
        tell_loss: true,
        seed: 5,
    }
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
fn check_gradients(graph: &Graph, loss: Loss, weights: Option<[f32; 3]>) {
    let rate = 2f32.powi(-10);
    let step = step(
        &network(graph),
        &Rule { loss, weighted: weights.is_some(), ..rule(Optimiser::Sgd { momentum: 0.0 }, rate) },
    )
    .unwrap();
    let mut data = data(&network(graph), 1);
    if let Some(weights) = weights {
        data[1].data.iter_mut().enumerate().for_each(|(i, y)| *y *= weights[i % 3]);
    }
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
    check_gradients(&plain(), Loss::CrossEntropy, None);
    check_gradients(&plain(), Loss::CrossEntropy, Some([0.5, 2.0, 1.25]));
    check_gradients(&bent(), Loss::CrossEntropy, None);
    check_gradients(&modern(), Loss::CrossEntropy, None);
    check_gradients(&smooth(), Loss::SquaredError, None);
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
    asked.resume(&clear, at.child("resume"), Some(loaded.states()), 0).unwrap();
    let outputs = asked.run(&clear, at.child("run"), Some(&encoded), |_| ()).unwrap();
    let got = decode_outputs(&query, &[outputs[0].clone().unwrap()]);
    let error = got[0].data.iter().zip(&want[0].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 10.0 * close, "answers differ by {error}");
}

#[test]
fn compiled_steps_follow_floats() {
    let decay = 0.001;
    check_compiled(&plain(), &Rule { weighted: true, ..rule(SGD, 0.05) }, 20, 0.003);
    check_compiled(&plain(), &Rule { decay, ..rule(SGD, 0.05) }, 20, 0.003);
    let rates = Rates((0..20).map(|i| 0.05 * 0.9f32.powi(i)).collect());
    check_compiled(&modern(), &Rule { rates, ..rule(SGD, 0.05) }, 20, 0.002);
    check_compiled(&smooth(), &Rule { loss: Loss::SquaredError, ..rule(SGD, 0.02) }, 20, 0.002);
    check_compiled(&bent(), &rule(SGD, 0.02), 20, 0.003);
    let adam = Optimiser::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 };
    check_compiled(&plain(), &rule(adam, 0.005), 20, 0.003);
}

/// Two convolutions with batch norms, a mean over all pixels, a layer without bias.
fn pooled(size: usize) -> Graph {
    let weight = normal(&[6, 3], 77, 0.4);
    Build::new(&[2, size, size])
        .weights("Conv", "conv1", "x", &[6, 2, 3, 3], &[("pads", sordino_nn::graph::Attribute::Ints(vec![1; 4]))])
        .norm("norm1", "conv1", 6)
        .node("Relu", "relu1", &["norm1"], &[])
        .weights("Conv", "conv2", "relu1", &[6, 6, 3, 3], &[("pads", sordino_nn::graph::Attribute::Ints(vec![1; 4]))])
        .norm("norm2", "conv2", 6)
        .node("Relu", "relu2", &["norm2"], &[])
        .node("GlobalAveragePool", "mean", &["relu2"], &[])
        .node("Flatten", "flat", &["mean"], &[])
        .constant("w", weight)
        .node("MatMul", "full", &["flat", "w"], &[])
        .done("full")
}

#[test]
fn large_batches_of_large_pictures_keep_their_precision() {
    const LARGE: usize = 96;
    let net = import(&pooled(28), LARGE).unwrap();
    let labels = (0..LARGE * 3).map(|i| f32::from(u8::from(i % 3 == i / 3 % 3))).collect();
    let data = [normal(&net.shapes[net.inputs[0]], 5, 1.0), Tensor::new(&[LARGE, 3], labels)];
    let adam = Optimiser::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-4 };
    for (optimiser, rate) in [(SGD, 0.01), (SGD, 0.1), (adam, 0.001)] {
        let step = step(&net, &rule(optimiser, rate)).unwrap();
        let sample: Vec<Tensor> = data.iter().cloned().chain(step.start()).collect();
        let ranges = Ranges::calibrate(&step.net, &[sample]).unwrap();
        let (program, _) = compile_step(&step, &ranges, &Options { margin: 8.0, ..Options::default() }).unwrap();
        for (name, slot) in program.layers.iter().filter_map(|l| l.result.as_ref()) {
            let made =
                [".gradient", ".velocity.next", ".moment.next", ".mean_gradient"].iter().any(|e| name.ends_with(e));
            let range = ranges.values[name].largest();
            // Biases before a batch norm have no gradient but noise.
            if made && range > 1e-6 {
                let levels = range * program.slots[*slot].scale;
                // A velocity's unit is at least 48 of a weight's over the rate.
                let least = if name.ends_with(".velocity.next") { 64.0 } else { 1000.0 };
                assert!(levels > least, "{optimiser:?} {rate}: {name} has {levels:.0} levels up to {range:.1e}");
            }
        }
    }
}

/// Rounded, a rate would move all weights of a layer too far or not far enough together, in most iterations.
#[test]
fn rates_are_whole_units_where_that_is_possible() {
    let momentum = |momentum| Optimiser::Sgd { momentum };
    // Of rates that are multiples of the least, however many rows share a mean.
    for (optimiser, rates) in [(SGD, vec![0.003]), (momentum(0.0), vec![0.01]), (SGD, vec![0.05, 0.005, 0.0005])] {
        for batch in [4, 6, 25] {
            let net = import(&pooled(12), batch).unwrap();
            let labels = (0..batch * 3).map(|i| f32::from(u8::from(i % 3 == i / 3 % 3))).collect();
            let data = [normal(&net.shapes[net.inputs[0]], 5, 1.0), Tensor::new(&[batch, 3], labels)];
            let step = step(&net, &Rule { rates: Rates(rates.clone()), ..rule(optimiser, 0.0) }).unwrap();
            let sample: Vec<Tensor> = data.into_iter().chain(step.start()).collect();
            let ranges = Ranges::calibrate(&step.net, &[sample]).unwrap();
            let (program, _) = compile_step(&step, &ranges, &Options { margin: 8.0, ..Options::default() }).unwrap();
            let paces = program.instructions.iter().filter_map(|i| match i.op {
                Op::Descend { per_rate, .. } => Some(per_rate),
                _ => None,
            });
            for units in paces.flat_map(|pace| step.rates.iter().map(move |rate| rate * pace)) {
                let whole = units.round();
                assert!(whole >= 1.0 && (units / whole - 1.0).abs() < 1e-6, "{batch}, {rates:?}: {units}");
            }
        }
    }
}

/// Trains for long with ranges of the first iterations, in floats and in the clear.
fn check_long(optimiser: Optimiser, rate: f32, data: impl Fn(usize) -> [Tensor; 2], close: f32) {
    const MARGIN: f64 = 8.0;
    let graph = Build::new(&[4]).full("full", "x", 4, 3).done("full");
    let rule = Rule { loss: Loss::SquaredError, tell_loss: false, ..rule(optimiser, rate) };
    let step = step(&network(&graph), &rule).unwrap();
    let (mut floats, mut ranges) = (step.start(), Ranges::default());
    for i in 0..20 {
        let sample: Vec<Tensor> = data(i).into_iter().chain(floats).collect();
        ranges.merge(&Ranges::calibrate(&step.at(i), std::slice::from_ref(&sample)).unwrap());
        floats = float::evaluate(&step.at(i), &sample, |_, _| ()).unwrap();
    }
    step.settle(&mut ranges, 20, MARGIN);
    let options = Options { margin: MARGIN, ..Options::default() };
    let (program, secrets) = compile_step(&step, &ranges, &options).unwrap();
    let clear = Clear::new(Cpu::new(1)).with(Settings::default());
    let mut at = Step::root([1; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), &program, Some(&secrets)).unwrap();
    floats = step.start();
    for i in 0..3000 {
        let encoded = encode_inputs(&program, &data(i)).unwrap();
        loaded.run(&clear, at.child("run"), Some(&encoded), |_| ()).unwrap();
        assert_eq!(clear.take_overflow(), None, "{optimiser:?}: iteration {i}");
        let sample: Vec<Tensor> = data(i).into_iter().chain(floats).collect();
        floats = float::evaluate(&step.at(i), &sample, |_, _| ()).unwrap();
    }
    let integers: Vec<Vec<i64>> =
        (0..program.states.len()).map(|i| loaded.open_state(&clear, at.child("open"), i).unwrap().unwrap()).collect();
    for (i, (got, want)) in decode_states(&program, &step, &integers).iter().zip(&floats).enumerate() {
        let error = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let name = &step.net.names[step.net.inputs[2 + i]];
        // Velocities and moments are as coarse as the rate lets them be, and rounded without bias.
        let close = if step.states[i].kind == Kind::Value { close } else { 50.0 * close };
        assert!(error < close * want.max_abs().max(1.0), "{optimiser:?}, {name}: {error} of {}", want.max_abs());
    }
}

#[test]
fn long_trainings_stay_within_their_rings() {
    // Noise that no model explains: gradients keep their size, and moments take thousands of iterations to settle.
    let noise = |i: usize| {
        let k = (i * 7 + i / 256) % 251;
        [normal(&[BATCH, 4], k as u8, 1.0), normal(&[BATCH, 3], (k + 3) as u8, 1.0)]
    };
    for (beta2, epsilon) in [(0.999, 1e-4), (0.99, 1e-6)] {
        check_long(Optimiser::Adam { beta1: 0.9, beta2, epsilon }, 1e-3, noise, 1e-3);
    }
    check_long(Optimiser::Sgd { momentum: 0.99 }, 1e-4, noise, 1e-3);
    // Biases go where the labels are.
    let far = |i: usize| {
        let [x, y] = noise(i);
        [x, Tensor::new(&y.dims, y.data.iter().map(|v| v + 40.0).collect())]
    };
    // In the clear, unlike on shares, a step below half a unit is always rounded to none.
    check_long(Optimiser::Sgd { momentum: 0.9 }, 2e-4, far, 2e-2);
    check_long(Optimiser::Sgd { momentum: 0.0 }, 1e-3, far, 2e-2);
}

#[test]
fn what_has_no_gradient_is_named() {
    let graph = Build::new(&[4]).full("full", "x", 4, 3).node("LogSoftmax", "strange", &["full"], &[]).done("strange");
    let error = step(&network(&graph), &rule(SGD, 0.1)).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("strange") && error.contains("LogSoftmax"), "{error}");
}
