//! Models and data as strangers have them: the right answer, or one sentence that names the file and what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::{Constant, Tensor, onnx};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let at = self.0.path().join(name);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, bytes).unwrap();
        at.to_str().unwrap().into()
    }
    fn model(&self, name: &str, graph: &Graph) -> String {
        self.file(name, &onnx::write(graph))
    }
    fn array(&self, name: &str, dims: &[usize], values: &[f32]) -> String {
        self.file(name, &npy("<f4", dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn npy(kind: &str, dims: &[usize], body: &[u8]) -> Vec<u8> {
    let shape: String = dims.iter().map(|d| format!("{d},")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut raw = b"\x93NUMPY\x01\x00".to_vec();
    raw.extend((header.len() as u16).to_le_bytes());
    raw.extend(header.bytes());
    raw.extend(body);
    raw
}

fn sordino(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sordino")).args(args).output().unwrap()
}

fn answer(args: &[&str]) -> Value {
    let out = sordino(&[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The outputs' shapes and values.
fn outputs(args: &[&str]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let got = answer(args);
    let one = |o: &Value| {
        let values = o["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        (serde_json::from_value(o["shape"].clone()).unwrap(), values)
    };
    got["outputs"].as_array().unwrap().iter().map(one).collect()
}

fn close(got: &(Vec<usize>, Vec<f32>), shape: &[usize], want: &[f32]) {
    assert_eq!(got.0, shape);
    let largest = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    assert!(
        got.1.len() == want.len() && got.1.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-3 * largest),
        "{got:?}"
    );
}

fn refused(args: &[&str], words: &[&str]) {
    let out = sordino(args);
    let text = String::from_utf8_lossy(&out.stderr).to_string();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(words.iter().all(|w| text.contains(w)), "{args:?}: {text}, which lacks one of {words:?}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(!text.contains("panicked") && !text.contains('\u{1b}'), "{text}");
}

fn fixed(dims: &[usize]) -> Vec<Dim> {
    dims.iter().map(|&d| Dim::Fixed(d)).collect()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> Node {
    Node {
        name: format!("node_{output}"),
        op: op.into(),
        inputs: inputs.iter().map(ToString::to_string).collect(),
        outputs: vec![output.into()],
        attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
    }
}

fn graph(input: Vec<Dim>, nodes: Vec<Node>, constants: &[(&str, Tensor)]) -> Graph {
    Graph {
        opset: 17,
        inputs: vec![("x".into(), input)],
        outputs: vec!["y".into()],
        nodes,
        constants: constants.iter().map(|(n, t)| ((*n).to_string(), Constant::Float(t.clone().into()))).collect(),
        ..Graph::default()
    }
}

fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.into())
}

/// y = x W of four columns to two.
fn dense(batch: Dim) -> Graph {
    let w = Tensor::new(&[4, 2], vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    graph(vec![batch, Dim::Fixed(4)], vec![node("MatMul", &["x", "w"], "y", &[])], &[("w", w)])
}

#[test]
fn the_batch_is_found_wherever_it_is() {
    let place = Place::new();
    // Time first: [2, N, 3], a sum over time.
    let sum = node("ReduceSum", &["x", "axes"], "y", &[("keepdims", Attribute::Int(0))]);
    let mut first = graph(vec![Dim::Fixed(2), symbol("N"), Dim::Fixed(3)], vec![sum], &[]);
    first.constants.insert("axes".into(), Constant::Int(vec![1], vec![0]));
    let model = place.model("time.onnx", &first);
    let x = place.array("x.npy", &[2, 2, 3], &(0..12).map(|v| v as f32).collect::<Vec<_>>());
    for batch in ["1", "2"] {
        close(
            &outputs(&["infer", &model, "--input", &x, "--batch", batch])[0],
            &[2, 3],
            &[6.0, 8.0, 10.0, 12.0, 14.0, 16.0],
        );
    }
    // A model that takes its rows together has no batch.
    let mixed = graph(fixed(&[3, 2]), vec![node("Softmax", &["x"], "y", &[("axis", Attribute::Int(0))])], &[]);
    let model = place.model("mixed.onnx", &mixed);
    let rows = place.array("rows.npy", &[3, 2], &[0.0; 6]);
    close(&outputs(&["infer", &model, "--input", &rows])[0], &[3, 2], &[1.0 / 3.0; 6]);
    let many = place.array("many.npy", &[2, 3, 2], &[0.0; 12]);
    refused(&["infer", &model, "--input", &many, "--batch", "2"], &["mixed.onnx", "a batch of one", "node_y"]);
    assert_eq!(outputs(&["infer", &model, "--input", &many])[0].0, [2, 3, 2]);
    let told = |model: &str| String::from_utf8(sordino(&["inspect", model]).stdout).unwrap();
    assert!(told(&model).contains("batch   none"), "{}", told(&model));
    // So does one whose batch may vary: all rows are one input.
    let open = graph(
        vec![symbol("batch"), Dim::Fixed(2)],
        vec![node("Softmax", &["x"], "y", &[("axis", Attribute::Int(0))])],
        &[],
    );
    let model = place.model("open.onnx", &open);
    close(&outputs(&["infer", &model, "--input", &rows])[0], &[3, 2], &[1.0 / 3.0; 6]);
    // Which axis it is can be said.
    let either = graph(fixed(&[2, 2]), vec![node("Relu", &["x"], "y", &[])], &[]);
    let model = place.model("either.onnx", &either);
    let square = place.array("square.npy", &[2, 2], &[1.0, -1.0, 2.0, -2.0]);
    for axis in ["0", "1", "none"] {
        let args = ["infer", &model, "--input", &square, "--batch-axis", axis];
        close(&outputs(&args)[0], &[2, 2], &[1.0, 0.0, 2.0, 0.0]);
    }
}

#[test]
fn shapes_are_whole_and_sizes_can_be_given() {
    let place = Place::new();
    let pool = node("GlobalMaxPool", &["x"], "p", &[]);
    let squeeze = node("Squeeze", &["p"], "y", &[]);
    let open = graph(vec![Dim::Fixed(1), Dim::Fixed(2), symbol("H"), symbol("W")], vec![pool, squeeze], &[]);
    let model = place.model("open.onnx", &open);
    refused(&["inspect", &model], &["open.onnx", "--dim H=SIZE"]);
    assert!(sordino(&["inspect", &model, "--dim", "H=2", "--dim", "W=3"]).status.success());
    refused(&["inspect", &model, "--dim", "D=2"], &["open.onnx", "no input has a symbolic dimension D"]);
    let x = place.array("x.npy", &[1, 2, 1, 3], &[1.0, 5.0, 2.0, -1.0, -7.0, -2.0]);
    // An array says itself how large it is.
    close(&outputs(&["infer", &model, "--input", &x])[0], &[2], &[5.0, -1.0]);
}

#[test]
fn several_inputs_have_names() {
    let place = Place::new();
    let mut two = graph(vec![symbol("N"), Dim::Fixed(2)], vec![node("Sub", &["x", "z"], "y", &[])], &[]);
    two.inputs.push(("z".into(), vec![symbol("N"), Dim::Fixed(2)]));
    let model = place.model("two.onnx", &two);
    let (x, z) = (place.array("x.npy", &[2, 2], &[4.0; 4]), place.array("z.npy", &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let (named_x, named_z) = (format!("x={x}"), format!("z={z}"));
    close(&outputs(&["infer", &model, "--input", &named_x, &named_z])[0], &[2, 2], &[3.0, 2.0, 1.0, 0.0]);
    refused(&["infer", &model, "--input", &x], &["2 inputs (x, z)", "NAME=FILE"]);
    refused(&["infer", &model, "--input", &named_x], &["no file is given for input z"]);
    let short = format!("z={}", place.array("short.npy", &[1, 2], &[0.0; 2]));
    refused(&["infer", &model, "--input", &named_x, &short], &["2 samples for input x, but 1 for input z"]);
}

#[test]
fn what_is_not_supported_is_named() {
    let place = Place::new();
    let x = place.array("x.npy", &[1, 4], &[-1.0, 0.5, 1.0, 2.0]);
    let of = |name: &str, nodes: Vec<Node>| place.model(name, &graph(vec![symbol("N"), Dim::Fixed(4)], nodes, &[]));
    let missing = of("missing.onnx", vec![node("Det", &["x"], "a", &[]), node("GridSample", &["a"], "y", &[])]);
    for command in ["infer", "inspect"] {
        let args: &[&str] =
            if command == "infer" { &["infer", &missing, "--input", &x] } else { &["inspect", &missing] };
        refused(args, &["missing.onnx", "Det (node node_a)", "GridSample (node node_y)"]);
    }
    let odd = of("odd.onnx", vec![node("Relu", &["x"], "y", &[("slope", Attribute::Float(0.1))])]);
    refused(&["infer", &odd, "--input", &x], &["odd.onnx", "node_y", "attribute slope"]);
    // A function where it is not defined: the node and the range.
    for op in ["Reciprocal", "Log", "Sqrt"] {
        let model = of("pole.onnx", vec![node(op, &["x"], "y", &[])]);
        refused(&["infer", &model, "--input", &x], &["pole.onnx", "node_y", "-1.000e0 to 2.000e0"]);
    }
    let above = place.array("above.npy", &[1, 4], &[0.01, 0.5, 1.0, 2.0]);
    let model = of("pole.onnx", vec![node("Reciprocal", &["x"], "y", &[])]);
    close(&outputs(&["infer", &model, "--input", &above])[0], &[1, 4], &[100.0, 2.0, 1.0, 0.5]);
    let below = place.array("below.npy", &[1, 4], &[-0.25, -0.5, -1.0, -2.0]);
    close(&outputs(&["infer", &model, "--input", &below])[0], &[1, 4], &[-4.0, -2.0, -1.0, -0.5]);
}

#[test]
fn numbers_that_mean_infinity_cost_no_precision() {
    let place = Place::new();
    let mask = |low: f32| Tensor::new(&[1, 4], vec![0.0, low, 0.0, low]);
    let x = place.array("x.npy", &[1, 4], &[0.1, 3.0, 0.2, -2.0]);
    for low in [-1e4, -1e9, f32::MIN, f32::NEG_INFINITY] {
        let nodes = vec![node("Add", &["x", "mask"], "m", &[]), node("Softmax", &["m"], "y", &[])];
        let model = place.model("mask.onnx", &graph(fixed(&[1, 4]), nodes, &[("mask", mask(low))]));
        close(&outputs(&["infer", &model, "--input", &x])[0], &[1, 4], &[0.475, 0.0, 0.525, 0.0]);
    }
    let high = Tensor::new(&[], vec![f32::MAX]);
    let zero = Tensor::new(&[], vec![0.0]);
    let clip =
        graph(fixed(&[1, 4]), vec![node("Clip", &["x", "zero", "high"], "y", &[])], &[("zero", zero), ("high", high)]);
    let model = place.model("clip.onnx", &clip);
    close(&outputs(&["infer", &model, "--input", &x])[0], &[1, 4], &[0.1, 3.0, 0.2, 0.0]);
}

#[test]
fn preprocessing_applies_to_arrays_and_tables_alike() {
    let place = Place::new();
    let model = place.model("dense.onnx", &dense(symbol("N")));
    let values = [10.0, 20.0, 30.0, 40.0];
    let table = place.file("t.csv", b"a,b,c,d\n10,20,30,40\n");
    let half = |v: f32| {
        ((v.to_bits() >> 16 & 0x8000) | ((v.to_bits() >> 13) & 0x3ff | ((v.to_bits() >> 23) - 112) << 10)) as u16
    };
    let halves: Vec<u8> = values.iter().flat_map(|&v| half(v).to_le_bytes()).collect();
    let halves = place.file("h.npy", &npy("<f2", &[1, 4], &halves));
    for input in [&place.array("x.npy", &[1, 4], &values), &table, &halves] {
        close(&outputs(&["infer", &model, "--input", input])[0], &[1, 2], &[40.0, 60.0]);
        let args = ["infer", &model, "--input", input, "--scale", "0.1", "--mean", "1,1,2,2", "--std", "1,2,1,2"];
        close(&outputs(&args)[0], &[1, 2], &[1.0, 1.5]);
        refused(&["infer", &model, "--input", input, "--mean", "1,2,3"], &["3 values for 4 channels or columns"]);
        refused(&["infer", &model, "--input", input, "--std", "0"], &["--std holds a zero"]);
        refused(&["infer", &model, "--input", input, "--channels", "bgr"], &["bgr"]);
    }
    place.file("dense.toml", b"scale = 0.5\n");
    close(&outputs(&["infer", &model, "--input", &table])[0], &[1, 2], &[20.0, 30.0]);
    place.file("dense.toml", b"scalee = 0.5\n");
    refused(&["infer", &model, "--input", &table], &["dense.toml", "scalee"]);
    std::fs::remove_file(place.path("dense.toml")).unwrap();
    let gap = place.file("gap.csv", b"a,b,c,d\n1,2,3,4\n1,,3,4\n");
    refused(&["infer", &model, "--input", &gap], &["gap.csv", "line 3, column b", "missing"]);
    // One odd cell makes no line of names.
    let odd = place.file("odd.csv", b"1,2,red,4\n5,6,7,8\n");
    refused(&["infer", &model, "--input", &odd], &["odd.csv", "line 1, column 3", "red is no number"]);
    let pandas = place.file("pandas.csv", b"0,1,2,3\n10,20,30,40\n");
    close(&outputs(&["infer", &model, "--input", &pandas])[0], &[1, 2], &[40.0, 60.0]);
    let semicolons = place.file("semicolons.csv", b"1;2;3;4\n5;6;7;8\n");
    refused(&["infer", &model, "--input", &semicolons], &["semicolons.csv", "separated by commas"]);
    close(&outputs(&["infer", &model, "--input", &table, "--scale", "1/10"])[0], &[1, 2], &[4.0, 6.0]);
    // As told: words as categories, numbers for what is missing. The model takes four columns.
    let told = place.file("told.csv", b"a,colour,c\n1,red,\n5,blue,7\n");
    let args = ["infer", &model, "--input", &told, "--category", "colour=red,blue", "--missing", "0.5", "--check"];
    assert!(sordino(&args).status.success(), "{}", String::from_utf8_lossy(&sordino(&args).stderr));
    let other = ["infer", &model, "--input", &told, "--category", "colour=red,green", "--missing", "0.5"];
    refused(&other, &["told.csv", "line 3, column colour: blue is none of the category's red, green"]);
    refused(&["infer", &model, "--input", &told, "--category", "hue=a,b"], &["no such column", "a, colour, c"]);
    let columns = place.file("t.parquet", b"PAR1");
    refused(&["infer", &model, "--input", &columns], &["t.parquet", "Parquet is not read", ".csv"]);
    let word = place.file("word.csv", b"a,b,c,d\n1,2,red,4\n");
    refused(&["infer", &model, "--input", &word], &["word.csv", "column c", "red is no number"]);
}

#[test]
fn a_calibration_is_of_one_model() {
    let place = Place::new();
    let (model, other) = (place.model("one.onnx", &dense(symbol("N"))), place.model("other.onnx", &dense(symbol("M"))));
    let x = place.array("x.npy", &[2, 4], &[1.0; 8]);
    assert!(sordino(&["calibrate", &model, "--input", &x]).status.success());
    outputs(&["infer", &model, "--input", &x]);
    let calibration = place.path("one.calibration.json");
    let args = ["infer", &other, "--input", &x, "--calibration", calibration.to_str().unwrap()];
    refused(&args, &["one.calibration.json", "a calibration of one.onnx", "not of this other.onnx"]);
    std::fs::write(&model, onnx::write(&dense(symbol("changed")))).unwrap();
    refused(&["infer", &model, "--input", &x], &["one.calibration.json", "which has been changed since"]);
    std::fs::write(&calibration, "{}").unwrap();
    refused(&["infer", &model, "--input", &x], &["one.calibration.json", "sordino calibrate"]);
}

/// Inputs within the calibrated range, and far below it: a variance that no calibration saw is still normalised by its own root.
#[test]
fn normalisations_hold_for_smaller_and_larger_inputs() {
    let place = Place::new();
    let ones = |v: f32| Tensor::new(&[2], vec![v; 2]);
    let norm = node("InstanceNormalization", &["x", "s", "b"], "y", &[]);
    let net = graph(vec![symbol("N"), Dim::Fixed(2), Dim::Fixed(8)], vec![norm], &[("s", ones(1.0)), ("b", ones(0.0))]);
    let model = place.model("norm.onnx", &net);
    let wave = |by: f32| (0..16).map(|i| by * ((i * i * 7 % 13) as f32 / 4.0 - 1.5)).collect::<Vec<f32>>();
    let x = place.array("x.npy", &[1, 2, 8], &wave(1.0));
    assert!(sordino(&["calibrate", &model, "--input", &x]).status.success());
    let want = outputs(&["infer", &model, "--input", &x])[0].1.clone();
    for by in [1.9, 0.5, 0.2] {
        let other = place.array("other.npy", &[1, 2, 8], &wave(by));
        close(&outputs(&["infer", &model, "--input", &other])[0], &[1, 2, 8], &want);
    }
    std::fs::remove_file(place.path("norm.calibration.json")).unwrap();
    for by in [1e3, 1e5] {
        let other = place.array("other.npy", &[1, 2, 8], &wave(by));
        close(&outputs(&["infer", &model, "--input", &other])[0], &[1, 2, 8], &want);
    }
}

#[test]
fn trainings_say_what_they_do() {
    let place = Place::new();
    let rows: String =
        (0..40).map(|i| format!("{}.5,{},{},1,{}\n", i % 5, i % 3, i % 7, ["red", "blue"][i % 2])).collect();
    let table = place.file("t.csv", format!("a,b,c,d,colour\n{rows}").as_bytes());
    let mut soft = dense(symbol("N"));
    soft.nodes[0] = node("MatMul", &["x", "w"], "l", &[]);
    soft.nodes.push(node("Softmax", &["l"], "y", &[]));
    let model = place.model("soft.onnx", &soft);
    let train = |more: &[&str]| {
        let out = place.path("trained.onnx");
        let mut args = vec!["train", "--model", &model, "--data", &table, "--batch", "8", "--iterations", "4"];
        args.extend(["-o", out.to_str().unwrap()]);
        args.extend(more);
        sordino(&args)
    };
    refused(
        &["train", "--model", &model, "--data", &table, "--batch", "8"],
        &["t.csv", "--target", "a, b, c, d, colour"],
    );
    let out = train(&["--target", "colour", "--split", "0.2", "--scale", "0.5"]);
    let text = String::from_utf8_lossy(&out.stderr).to_string();
    assert!(out.status.success() && text.contains("softmax"), "{text}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("validation accuracy"));
    let beside = std::fs::read_to_string(place.path("trained.toml")).unwrap();
    assert!(beside.contains("scale = 0.5") && beside.contains("blue") && beside.contains("red"), "{beside}");
    // Names of the classes are printed.
    let trained = place.path("trained.onnx");
    let x = place.array("x.npy", &[1, 4], &[1.0, 2.0, 3.0, 1.0]);
    let got = answer(&["infer", trained.to_str().unwrap(), "--input", &x]);
    assert!(["blue", "red"].iter().any(|n| got["top"][0][0]["name"] == json!(n)), "{got}");
    // Columns are found by their names, in whatever order they are, and must all be there.
    let trained_at = trained.to_str().unwrap();
    let in_order = place.file("order.csv", b"a,b,c,d\n1.5,2,3,1\n");
    let elsewhere = place.file("elsewhere.csv", b"d,c,a,b\n1,3,1.5,2\n");
    let scores = |file: &str| answer(&["infer", trained_at, "--input", file])["outputs"][0]["values"].clone();
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4;
    let (one, other) = (scores(&in_order), scores(&elsewhere));
    assert!(near(&one[0], &other[0]) && near(&one[1], &other[1]), "{one} {other}");
    let foreign = place.file("foreign.csv", b"a,b,c,height\n1,2,3,1\n");
    refused(
        &["infer", trained_at, "--input", &foreign],
        &["foreign.csv", "column height is none of the model's", "a, b, c, d"],
    );
    refused(
        &["train", "--model", &model, "--data", &table, "--owner", &foreign, "--target", "colour", "--batch", "8"],
        &["foreign.csv", "no column colour"],
    );
    // Data whose classes are numbers do not go with data whose classes have names.
    let numbers = place.file("n.csv", b"a,b,c,d,colour\n1,2,3,4,0\n");
    refused(
        &["train", "--model", &model, "--data", &table, "--owner", &numbers, "--target", "colour", "--batch", "8"],
        &["some data name their classes and some number them"],
    );
    let folder = place.path("shop");
    for class in ["cat", "dog"] {
        place.file(&format!("shop/{class}/one.xyz"), b"?");
    }
    let args = ["train", "--model", &model, "--data", folder.to_str().unwrap(), "--batch", "8"];
    refused(&args, &["one.xyz", "no picture of its class can be read", ".webp"]);
    assert!(Path::new(&folder).exists());
}

#[test]
fn a_check_covers_every_output_and_says_where_it_is_off() {
    let place = Place::new();
    let mut two = graph(
        vec![symbol("N"), Dim::Fixed(4)],
        vec![node("Relu", &["x"], "y", &[]), node("Exp", &["x"], "e", &[])],
        &[],
    );
    two.outputs.push("e".into());
    let model = place.model("two.onnx", &two);
    let small = place.array("small.npy", &[1, 4], &[0.1, -0.1, 0.2, 0.3]);
    let calibration = place.path("c.json");
    let calibration = calibration.to_str().unwrap();
    assert!(sordino(&["calibrate", &model, "--input", &small, "-o", calibration]).status.success());
    // Within the inputs' margin, but e^x leaves its own.
    let large = place.array("large.npy", &[1, 4], &[0.1, -0.1, 0.2, 0.49]);
    let fine = answer(&["infer", &model, "--input", &large, "--check"]);
    assert!(fine["check"]["max_abs_err"].as_f64().unwrap() < 1e-4, "{fine}");
    assert!(fine["check"].get("layers").is_none() && fine["check"]["not_finite"] == json!(0));
    let off =
        answer(&["infer", &model, "--input", &large, "--check", "--calibration", calibration, "--frac-bits", "4"]);
    assert!(off["check"]["max_abs_err"].as_f64().unwrap() > 1e-3, "{off}");
    assert!(off["check"]["layers"].as_array().is_some_and(|l| !l.is_empty()), "{off}");
}
