//! Smooth functions over the three servers: within their stated errors over the whole of their stated domains.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Error, Protocol, Result, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::network::{Layer, LayerNode, Network, Smooth, Training};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Options, Ranges, Tensor, compile};
use sordino_testkit::{Job, World};

const POINTS: usize = 3000;

struct Function {
    program: Program,
    inputs: Vec<Vec<i64>>,
}

impl Job for Function {
    type Out = Vec<Option<Vec<i64>>>;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let usage = |e: sordino_nn::Error| Error::Usage(e.to_string());
        let loaded = Loaded::load(p, at.child("load"), &self.program, Some(&Secrets(vec![]))).map_err(usage)?;
        loaded.run(p, at.child("run"), Some(&self.inputs), |_| ()).map_err(usage)
    }
}

/// Points over a domain: even, or evenly in their logarithm where that is possible.
fn points([low, high]: [f64; 2]) -> Vec<f32> {
    let at = |i: usize| {
        let t = i as f64 / (POINTS - 1) as f64;
        if low > 0.0 { low * (high / low).powf(t) } else { low + (high - low) * t }
    };
    (0..POINTS).map(|i| at(i) as f32).collect()
}

/// What the servers make of a layer.
fn privately(layer: Layer, x: &[f32], frac_bits: Option<u32>) -> Vec<f32> {
    let mut net = Network::default();
    let (input, output) = (net.value("x", &[1, x.len()]), net.value("y", &[1, x.len()]));
    net.inputs.push(input);
    net.outputs.push(("y".into(), output));
    net.nodes.push(LayerNode { name: "f".into(), op: "f".into(), layer, inputs: vec![input], output });
    let x = [Tensor::new(&[1, x.len()], x.to_vec())];
    let ranges = Ranges::calibrate(&net, std::slice::from_ref(&x.to_vec())).unwrap();
    let (program, _) = compile(&net, &ranges, &Options { frac_bits, ..Options::default() }).unwrap();
    let inputs = encode_inputs(&program, &x).unwrap();
    let (outputs, ..) = World::default().run(&Function { program: program.clone(), inputs }).unwrap();
    decode_outputs(&program, &[outputs[0].clone().unwrap()])[0].data.clone()
}

#[test]
fn functions_are_within_their_stated_errors() {
    let mut wrong = vec![];
    for f in Smooth::ALL {
        let x = points(f.domain());
        let got = privately(Layer::Smooth(f), &x, None);
        let errors = x.iter().zip(&got).map(|(&x, &y)| (f64::from(y) - f.value(f64::from(x))).abs());
        let worst = errors.fold(0.0, f64::max);
        eprintln!("{f:?}: {worst:.2e}");
        // The statement is not idle either.
        if worst > f.error() || worst < f.error() / 30.0 {
            wrong.push(f);
        }
    }
    assert_eq!(wrong, [], "beyond or far below their stated errors");
}

#[test]
fn inverse_roots_keep_their_relative_error() {
    for (epsilon, error, high) in [(1e-5f32, 1e-5f32, 4.0), (1e-6, 1e-3, 0.5)] {
        let x = points([1e-3, high]);
        let layer = Layer::Training(Training::InverseRoot { epsilon, error });
        let got = privately(layer, &x, Some(26));
        let worst =
            x.iter().zip(&got).map(|(&x, &y)| f64::from(y * (x + epsilon).sqrt() - 1.0).abs()).fold(0.0, f64::max);
        // The fit, and the rounding of so small an argument.
        assert!(worst < f64::from(error) + 3e-4, "{epsilon}: {worst:.2e}");
    }
}
