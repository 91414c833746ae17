//! Every kind of layer, from ONNX node to shares: the three servers' answer is close to the float reference, the oracle
//! sees no overflow, and the plan says exactly what is sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shares;

use shares::Run;
use sordino_mpc::{Clear, Plan, Settings, Step};
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::{Constant, Options, Ranges, Tensor, compile, float, for_inference, import, zoo};
use sordino_ring::{Cpu, PrgKey};
use sordino_testkit::{Job, World};

fn tensor(dims: &[usize], seed: u8, scale: f32) -> Tensor {
    let words: Vec<u32> = PrgKey::new([seed; 16]).words(dims.iter().product());
    Tensor::new(dims, words.iter().map(|&w| scale * w as i32 as f32 / 2f32.powi(31)).collect())
}

fn ints(v: &[i64]) -> Constant {
    Constant::Int(vec![v.len()], v.to_vec())
}

/// Runs a graph at a batch on shares and compares; `tolerance` is relative to the largest output.
fn check_graph(graph: &Graph, batch: usize, scale: f32, tolerance: f32, options: &Options) {
    let name = graph.nodes.last().map(|n| n.op.clone()).unwrap_or_default();
    let net = import(graph, batch).unwrap();
    let passed = for_inference(&net);
    let x = tensor(&net.shapes[net.inputs[0]], 42, scale);
    let ranges = Ranges::calibrate(&passed, &[vec![x.clone()]]).unwrap();
    let (program, secrets) = compile(&passed, &ranges, options).unwrap();
    let want = float::evaluate(&net, std::slice::from_ref(&x), |_, _| ()).unwrap();
    let job = Run { program: &program, secrets: &secrets, inputs: encode_inputs(&program, &[x]).unwrap() };

    let clear = Clear::new(Cpu::new(1)).with(options.settings);
    let oracle = job.run(&clear, Step::root([1; 16])).unwrap();
    assert_eq!(clear.take_overflow(), None, "{name}");
    let plan = Plan::new(options.settings);
    job.run(&plan, Step::root([1; 16])).unwrap();
    let (shared, sent, rounds) = World { settings: options.settings, ..World::default() }.run(&job).unwrap();
    assert_eq!(sent, plan.cost().sent, "bytes of {name}");
    assert_eq!(rounds, plan.cost().rounds, "rounds of {name}");
    if options.settings.faithful {
        assert!(shared == oracle, "{name}: faithful shares differ from the oracle");
    }
    for values in [oracle, shared] {
        let values: Vec<Vec<i64>> = values.into_iter().map(Option::unwrap).collect();
        for (got, want) in decode_outputs(&program, &values).iter().zip(&want) {
            assert_eq!(got.dims, want.dims, "{name}");
            let largest = want.max_abs().max(1e-3);
            for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
                assert!((g - w).abs() <= tolerance * largest, "{name}: element {i} is {g} for {w}");
            }
        }
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> Node {
    Node {
        name: format!("the {op}"),
        op: op.into(),
        inputs: inputs.iter().map(|s| (*s).to_string()).collect(),
        outputs: vec![output.into()],
        attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
    }
}

/// A graph of some nodes from input `x` to output `y`.
fn graph(opset: i64, dims: &[usize], nodes: Vec<Node>, constants: Vec<(&str, Constant)>) -> Graph {
    let mut shape: Vec<Dim> = dims.iter().map(|&d| Dim::Fixed(d)).collect();
    shape[0] = Dim::Symbol("N".into());
    Graph {
        name: "test".into(),
        opset,
        inputs: vec![("x".into(), shape)],
        outputs: vec!["y".into()],
        nodes,
        constants: constants.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        ..Graph::default()
    }
}

fn check(opset: i64, dims: &[usize], nodes: Vec<Node>, constants: Vec<(&str, Constant)>) {
    check_graph(&graph(opset, dims, nodes, constants), dims[0], 3.0, 2e-4, &Options::default());
}

const IMAGE: [usize; 4] = [2, 4, 7, 6];

fn float_constant(dims: &[usize], seed: u8) -> Constant {
    Constant::Float(tensor(dims, seed, 1.0).into())
}

#[test]
fn convolutions() {
    use Attribute::{Int, Ints, Text};
    let pads = Ints(vec![1, 0, 2, 1]);
    type Case = (Vec<usize>, Vec<(&'static str, Attribute)>);
    let cases: Vec<Case> = vec![
        (vec![5, 4, 3, 3], vec![("pads", pads)]),
        (vec![6, 2, 3, 2], vec![("group", Int(2)), ("strides", Ints(vec![2, 1]))]),
        (
            vec![4, 1, 3, 3],
            vec![("group", Int(4)), ("auto_pad", Text("SAME_UPPER".into())), ("strides", Ints(vec![2, 2]))],
        ),
        (vec![3, 4, 2, 2], vec![("dilations", Ints(vec![2, 3])), ("auto_pad", Text("SAME_LOWER".into()))]),
        (vec![17, 4, 1, 1], vec![("auto_pad", Text("VALID".into()))]),
    ];
    for (w, attributes) in cases {
        let constants = vec![("w", float_constant(&w, 1)), ("b", float_constant(&[w[0]], 2))];
        check(13, &IMAGE, vec![node("Conv", &["x", "w", "b"], "y", &attributes)], constants);
    }
}

#[test]
fn fully_connected() {
    use Attribute::{Float, Int};
    let gemm = [("transB", Int(1)), ("alpha", Float(0.5)), ("beta", Float(2.0))];
    let constants = || vec![("w", float_constant(&[5, 9], 1)), ("b", float_constant(&[5], 2))];
    check(13, &[3, 9], vec![node("Gemm", &["x", "w", "b"], "y", &gemm)], constants());
    check(13, &[2, 3, 9], vec![node("MatMul", &["x", "v"], "y", &[])], vec![("v", float_constant(&[9, 4], 3))]);
    let flat = vec![node("Flatten", &["x"], "f", &[]), node("MatMul", &["f", "v"], "y", &[])];
    check(13, &IMAGE, flat, vec![("v", float_constant(&[168, 4], 3))]);
}

#[test]
fn element_wise() {
    use Attribute::Float;
    let relus = [
        node("Relu", &["x"], "y", &[]),
        node("LeakyRelu", &["x"], "y", &[("alpha", Float(0.2))]),
        node("PRelu", &["x", "slope"], "y", &[]),
        node("Clip", &["x", "lo", "hi"], "y", &[]),
        node("Clip", &["x", "", "hi"], "y", &[]),
        node("Sigmoid", &["x"], "y", &[]),
        node("Tanh", &["x"], "y", &[]),
        node("Add", &["x", "c"], "y", &[]),
        node("Sub", &["x", "c"], "y", &[]),
        node("Sub", &["c", "x"], "y", &[]),
        node("Mul", &["x", "c"], "y", &[]),
        node("Div", &["x", "slope"], "y", &[]),
        node("Mul", &["x", "full"], "y", &[]),
        node("Add", &["x", "full"], "y", &[]),
        node("Mul", &["x", "x"], "y", &[]),
        node("Sum", &["x", "x", "c"], "y", &[]),
        node("Identity", &["x"], "y", &[]),
    ];
    for one in relus {
        let scalar = |v: f32| Constant::Float(Tensor::new(&[], vec![v]).into());
        let slope = Constant::Float(Tensor::new(&[4, 1, 1], vec![0.3, 0.4, -0.5, 0.7]).into());
        let constants = vec![
            ("slope", slope),
            ("lo", scalar(-0.5)),
            ("hi", scalar(1.25)),
            ("c", float_constant(&[1, 4, 1, 1], 5)),
            ("full", float_constant(&[1, 4, 7, 6], 6)),
        ];
        // A negation after it keeps even an identity a program.
        let mut one = vec![one];
        one[0].outputs[0] = "z".into();
        one.push(node("Mul", &["z", "minus"], "y", &[]));
        let constants = constants.into_iter().chain([("minus", scalar(-1.0))]).collect();
        check(13, &IMAGE, one, constants);
    }
}

#[test]
fn pooling() {
    use Attribute::{Int, Ints};
    for op in ["MaxPool", "AveragePool"] {
        for (k, s, p, extra) in [
            (vec![2, 2], vec![2, 2], vec![0; 4], None),
            (vec![3, 3], vec![2, 2], vec![1, 1, 1, 1], None),
            (vec![3, 2], vec![1, 1], vec![1, 0, 1, 1], Some(("count_include_pad", Int(1)))),
            (vec![3, 3], vec![2, 2], vec![0; 4], Some(("ceil_mode", Int(1)))),
        ] {
            let mut attributes = vec![("kernel_shape", Ints(k)), ("strides", Ints(s)), ("pads", Ints(p))];
            attributes.extend(extra.filter(|e| op == "AveragePool" || e.0 == "ceil_mode"));
            check(13, &IMAGE, vec![node(op, &["x"], "y", &attributes)], vec![]);
            let relu = vec![node("Relu", &["x"], "r", &[]), node(op, &["r"], "y", &attributes)];
            check(13, &IMAGE, relu, vec![]);
        }
    }
    check(13, &IMAGE, vec![node("GlobalAveragePool", &["x"], "y", &[])], vec![]);
    for axes in [vec![2, 3], vec![1], vec![-1, 1]] {
        for keep in [0, 1] {
            let attributes = [("axes", Ints(axes.clone())), ("keepdims", Int(keep))];
            check(13, &IMAGE, vec![node("ReduceMean", &["x"], "y", &attributes)], vec![]);
        }
    }
}

#[test]
fn normalisation() {
    use Attribute::{Float, Int};
    let positive = Constant::Float(Tensor::new(&[4], vec![0.5, 1.5, 0.25, 2.0]).into());
    let stats = || {
        vec![
            ("s", float_constant(&[4], 1)),
            ("b", float_constant(&[4], 2)),
            ("m", float_constant(&[4], 3)),
            ("v", positive.clone()),
            ("w", float_constant(&[4, 4, 3, 3], 7)),
        ]
    };
    let norm = |x: &str, y: &str| node("BatchNormalization", &[x, "s", "b", "m", "v"], y, &[]);
    check(13, &IMAGE, vec![norm("x", "y")], stats());
    check(13, &IMAGE, vec![node("Conv", &["x", "w"], "c", &[]), norm("c", "y")], stats());
    check(
        13,
        &IMAGE,
        vec![norm("x", "c"), node("Relu", &["c"], "r", &[]), node("Conv", &["r", "w"], "y", &[])],
        stats(),
    );
    let lrn = [("size", Int(3)), ("alpha", Float(0.3)), ("beta", Float(0.75)), ("bias", Float(1.0))];
    check(13, &IMAGE, vec![node("LRN", &["x"], "y", &lrn)], vec![]);
    for (opset, axis) in [(13, 1), (13, -1), (9, 1), (9, 2)] {
        check(opset, &IMAGE, vec![node("Softmax", &["x"], "y", &[("axis", Int(axis))])], vec![]);
    }
    check(13, &[3, 100], vec![node("Softmax", &["x"], "y", &[])], vec![]);
}

#[test]
fn layout() {
    use Attribute::{Int, Ints};
    let relu = |x: &str| node("Relu", &[x], "y", &[]);
    let cases: Vec<(Node, Vec<(&str, Constant)>)> = vec![
        (node("Transpose", &["x"], "t", &[("perm", Ints(vec![0, 3, 1, 2]))]), vec![]),
        (node("Transpose", &["x"], "t", &[("perm", Ints(vec![0, 2, 3, 1]))]), vec![]),
        (node("Reshape", &["x", "to"], "t", &[]), vec![("to", ints(&[0, 3, -1]))]),
        (node("Reshape", &["x", "to"], "t", &[]), vec![("to", ints(&[-1, 7, 4, 6]))]),
        (node("Flatten", &["x"], "t", &[("axis", Int(2))]), vec![]),
        (node("Unsqueeze", &["x", "a"], "t", &[]), vec![("a", ints(&[1]))]),
        (
            node("Pad", &["x", "p", "v"], "t", &[]),
            vec![("p", ints(&[0, 1, 2, 0, 0, 0, -1, 1])), ("v", Constant::Float(Tensor::new(&[], vec![0.5]).into()))],
        ),
        (node("Pad", &["x", "p", "", "a"], "t", &[]), vec![("p", ints(&[1, 0, 2, 1])), ("a", ints(&[2, -1]))]),
        (
            node("Slice", &["x", "s", "e", "a", "d"], "t", &[]),
            vec![("s", ints(&[5, 0])), ("e", ints(&[0, 6])), ("a", ints(&[2, 3])), ("d", ints(&[-2, 2]))],
        ),
        (node("Concat", &["x", "x"], "t", &[("axis", Int(1))]), vec![]),
        (node("Concat", &["x", "x", "x"], "t", &[("axis", Int(-2))]), vec![]),
    ];
    for (one, constants) in cases {
        check(13, &IMAGE, vec![one, relu("t")], constants);
    }
    let mut split = node("Split", &["x"], "a", &[("axis", Int(1)), ("split", Ints(vec![1, 3]))]);
    split.outputs.push("b".into());
    let parts = vec![split, node("Relu", &["a"], "r", &[]), node("Concat", &["b", "r"], "y", &[("axis", Int(1))])];
    check(11, &IMAGE, parts, vec![]);
    // A shape chain: flatten by Shape, Gather, Unsqueeze, Concat, Reshape.
    let chain = vec![
        node("Shape", &["x"], "s", &[]),
        node("Gather", &["s", "zero"], "n", &[("axis", Int(0))]),
        node("Unsqueeze", &["n"], "u", &[("axes", Ints(vec![0]))]),
        node("Concat", &["u", "minus"], "to", &[("axis", Int(0))]),
        node("Reshape", &["x", "to"], "t", &[]),
        relu("t"),
    ];
    check(11, &IMAGE, chain, vec![("zero", Constant::Int(vec![], vec![0])), ("minus", ints(&[-1]))]);
}

#[test]
fn branches_with_different_scales() {
    use Attribute::Ints;
    // A mean and a sum of it with its operand: un-truncated divisors must meet.
    let pool =
        [("kernel_shape", Ints(vec![3, 3])), ("pads", Ints(vec![1; 4])), ("count_include_pad", Attribute::Int(1))];
    let nodes = vec![
        node("Relu", &["x"], "r", &[]),
        node("AveragePool", &["r"], "p", &pool),
        node("Add", &["r", "p"], "s", &[]),
        node("Mul", &["s", "r"], "m", &[]),
        node("Conv", &["m", "w"], "c", &[]),
        node("Conv", &["s", "w"], "d", &[]),
        node("Add", &["c", "d"], "y", &[]),
    ];
    check(13, &IMAGE, nodes, vec![("w", float_constant(&[4, 4, 3, 3], 7))]);
}

#[test]
fn whole_networks_and_options() {
    for (name, batch) in [("lenet", 3), ("alexnet-cifar10", 1)] {
        for pool in [zoo::Pool::Average, zoo::Pool::Max] {
            let graph = zoo::build(name, 5, pool).unwrap();
            check_graph(&graph, batch, 1.0, 2e-4, &Options::default());
        }
    }
    let graph = zoo::build("lenet", 5, zoo::Pool::Max).unwrap();
    let exact = Settings { faithful: true, ..Settings::default() };
    check_graph(&graph, 1, 1.0, 2e-4, &Options { settings: exact, ..Options::default() });
    let cheap = Settings { narrow_bits: 24, wide_bits: 48, ..Settings::default() };
    check_graph(&graph, 1, 1.0, 2e-3, &Options { settings: cheap, ..Options::default() });
    check_graph(&graph, 1, 1.0, 0.05, &Options { frac_bits: Some(10), weight_bits: Some(10), ..Options::default() });
}

#[test]
fn unsupported_operators_are_named() {
    let nodes =
        vec![node("GridSample", &["x"], "a", &[]), node("Det", &["a"], "b", &[]), node("Det", &["b"], "y", &[])];
    let message = import(&graph(13, &[1, 4], nodes, vec![]), 1).unwrap_err().to_string();
    assert!(message.contains("Det (node the Det and 1 more), GridSample (node the GridSample)"), "{message}");
    let one = graph(13, &[1, 4], vec![node("Sin", &["x"], "y", &[])], vec![]);
    let message = import(&one, 1).unwrap_err().to_string();
    assert!(message.contains("the Sin") && message.contains("constants"), "{message}");
}

/// Values at and just below the limit: taken, they are compared rightly; otherwise refused, however they are rounded.
#[test]
fn inputs_at_the_limit_are_refused_or_right() {
    let pool = node("MaxPool", &["x"], "y", &[("kernel_shape", Attribute::Ints(vec![1, 2]))]);
    let graph = graph(13, &[1, 1, 1, 2], vec![pool], vec![]);
    let net = import(&graph, 1).unwrap();
    let passed = for_inference(&net);
    let mut taken = 0;
    for narrow_bits in [16, 24, 28, 32] {
        for (range, margin) in [(512.0f32, 2.0), (512.0, 1.0), (511.0, 1.0), (1.0, 2.0), (3e5, 1.5)] {
            let settings = Settings { narrow_bits, wide_bits: narrow_bits + 28, ..Settings::default() };
            let options = Options { settings, margin, ..Options::default() };
            let sample = Tensor::new(&[1, 1, 1, 2], vec![range, -range]);
            let ranges = Ranges::calibrate(&passed, &[vec![sample]]).unwrap();
            let (program, secrets) = compile(&passed, &ranges, &options).unwrap();
            let limit = program.inputs[0].limit as f32;
            // What it was calibrated with is always taken.
            let near = [1.0, 0.9999, 0.99999, 0.999_999, 0.9].map(|part| part * limit);
            for (v, must) in near.into_iter().map(|v| (v, false)).chain([(range, true), (range * 0.999, true)]) {
                for x in [[v, -v], [-v, v], [v, v], [v, 0.0], [0.0, -v]] {
                    let encoded = encode_inputs(&program, &[Tensor::new(&[1, 1, 1, 2], x.to_vec())]);
                    let Ok(inputs) = encoded else {
                        assert!(!must, "{x:?} of {range} times {margin} is refused: {}", encoded.unwrap_err());
                        continue;
                    };
                    taken += 1;
                    let job = Run { program: &program, secrets: &secrets, inputs };
                    let (got, ..) = World { settings, ..World::default() }.run(&job).unwrap();
                    let got = decode_outputs(&program, &[got[0].clone().unwrap()])[0].data[0];
                    let unit = 1.0 / program.inputs[0].scale as f32;
                    assert!((got - x[0].max(x[1])).abs() <= unit, "{x:?} in {narrow_bits} bits: {got}");
                }
            }
        }
    }
    assert!(taken > 300, "{taken}");
}

/// A data owner whose shares do not fit together gets no answer: servers compare copies before anything is opened.
#[test]
fn inputs_that_do_not_fit_together_open_nothing() {
    let graph = graph(13, &[1, 4], vec![node("Relu", &["x"], "y", &[])], vec![]);
    let passed = for_inference(&import(&graph, 1).unwrap());
    let x = tensor(&[1, 4], 3, 1.0);
    let ranges = Ranges::calibrate(&passed, &[vec![x.clone()]]).unwrap();
    let (program, secrets) = compile(&passed, &ranges, &Options::default()).unwrap();
    let job = Run { program: &program, secrets: &secrets, inputs: encode_inputs(&program, &[x]).unwrap() };
    for (server, part) in (0..3u8).flat_map(|s| [(s, 0usize), (s, 1)]) {
        let tap: sordino_testkit::Tap = std::sync::Arc::new(move |from, to, mut frame| {
            if (from.0, to.0) == (5, server)
                && let sordino_net::Part::Wide(words) = &mut frame.message[part]
            {
                words[0] ^= 1;
            }
            vec![frame]
        });
        let ends = World { tap: Some(tap), ..World::default() }.run(&job).ends;
        assert!(ends[4].is_err(), "the receiver got an answer");
        assert!(ends.iter().any(|e| matches!(e, Err(sordino_mpc::Error::Inconsistent { .. }))), "{server} {part}");
    }
}
