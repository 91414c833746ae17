//! Small files that ask for much memory or time are refused, or read in little.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::inputs::{Preprocess, read};
use sordino::report::{cpu_seconds, peak_rss_mb};
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::{Constant, Options, Range, Ranges, Tensor, compile, for_inference, import, onnx};
use std::io::Write;

/// What all of these together may take; each of them asked for more.
const MOST_MB: f64 = 2000.0;

fn node(op: &str, name: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> Node {
    Node {
        name: name.into(),
        op: op.into(),
        inputs: inputs.iter().map(|i| (*i).into()).collect(),
        outputs: vec![name.into()],
        attributes: attributes.iter().map(|(n, a)| ((*n).to_string(), a.clone())).collect(),
    }
}

fn graph(constants: Vec<(&str, Constant)>, mut nodes: Vec<Node>) -> Graph {
    nodes.push(node("Relu", "y", &["x"], &[]));
    Graph {
        opset: 13,
        inputs: vec![("x".into(), vec![Dim::Fixed(1), Dim::Fixed(4)])],
        outputs: vec!["y".into()],
        nodes,
        constants: constants.into_iter().map(|(n, c)| (n.into(), c)).collect(),
        ..Graph::default()
    }
}

fn refused(graph: &Graph) {
    let bytes = onnx::write(graph);
    assert!(bytes.len() < 20_000);
    let why = import(&onnx::read(&bytes).unwrap(), 1).unwrap_err().to_string();
    assert!(why.contains("folds to more"), "{why}");
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}

#[test]
fn constants_out_of_nothing() {
    let names: Vec<String> = (0..60).map(|i| format!("big{i}")).collect();
    let many = names.iter().map(|n| node("ConstantOfShape", n, &["shape"], &[])).collect();
    refused(&graph(vec![("shape", Constant::Int(vec![2], vec![4096, 8192]))], many));
    // Each joins the one before to itself.
    let mut last = "start".to_string();
    let doubled = (0..40).map(|i| {
        let name = format!("twice{i}");
        let inputs: Vec<&str> = vec![&last; 8];
        let node = node("Concat", &name, &inputs, &[("axis", Attribute::Int(0))]);
        last = name;
        node
    });
    let doubled = doubled.collect();
    refused(&graph(vec![("start", Constant::Float(Tensor::new(&[1000], vec![1.0; 1000]).into()))], doubled));
    let dims = |n: i64| Constant::Int(vec![2], vec![n, n]);
    let one = Constant::Float(Tensor::new(&[1, 1], vec![1.0]).into());
    refused(&graph(vec![("one", one), ("shape", dims(16384))], vec![node("Expand", "wide", &["one", "shape"], &[])]));
    let (row, column) = (vec![1.0; 1], vec![1.0; 1]);
    let constants = vec![
        ("row", Constant::Float(Tensor::new(&[1, 1], row).into())),
        ("column", Constant::Float(Tensor::new(&[1, 1], column).into())),
        ("s", Constant::Int(vec![2], vec![1, 60_000])),
        ("t", Constant::Int(vec![2], vec![60_000, 1])),
    ];
    let product = vec![
        node("Expand", "long", &["row", "s"], &[]),
        node("Expand", "tall", &["column", "t"], &[]),
        node("Mul", "table", &["long", "tall"], &[]),
    ];
    refused(&graph(constants, product));
}

/// Shapes that ask for nothing, or for one element, and are huge all the same.
#[test]
fn shapes_that_are_huge_without_elements() {
    let empty = |dims: &[usize]| Constant::Float(Tensor::new(dims, vec![]).into());
    for dims in [&[0, 1 << 62][..], &[0, 1 << 22, 1, 1 << 21, 1 << 21], &[0, 1 << 27, 1 << 27, 1 << 27]] {
        let graph = graph(
            vec![("none", empty(dims))],
            vec![node("Concat", "both", &["none", "none"], &[("axis", Attribute::Int(0))])],
        );
        assert!(onnx::read(&onnx::write(&graph)).is_err());
    }
    // One element with a great many axes, made on the spot, and axes to take away from it.
    let ones = Constant::Int(vec![1], vec![1 << 24]);
    let one = Constant::Int(vec![], vec![1]);
    let many = vec![
        node("ConstantOfShape", "ones", &["length"], &[("value", Attribute::Tensor(Constant::Int(vec![1], vec![1])))]),
        node("Expand", "deep", &["one", "ones"], &[]),
        node("Squeeze", "flat", &["deep", "ones"], &[]),
    ];
    let deep = graph(vec![("length", ones), ("one", one)], many);
    assert!(import(&onnx::read(&onnx::write(&deep)).unwrap(), 1).is_err());
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}

/// One constant that many layers copy, and a window that moves one pixel to as many places as it has rows.
#[test]
fn layers_that_hold_much() {
    let mut nodes = vec![node("ConstantOfShape", "big", &["shape"], &[])];
    let mut last = "x".to_string();
    for i in 0..60 {
        nodes.push(node("Add", &format!("sum{i}"), &[&last, "big"], &[]));
        last = format!("sum{i}");
    }
    refused(&Graph { outputs: vec![last], ..graph(vec![("shape", Constant::Int(vec![2], vec![1 << 23, 4]))], nodes) });
    let k = 1i64 << 16;
    let attributes =
        [("kernel_shape", Attribute::Ints(vec![k, 1])), ("pads", Attribute::Ints(vec![k - 1, 0, k - 1, 0]))];
    let pool = Graph {
        inputs: vec![("x".into(), [1; 4].map(Dim::Fixed).to_vec())],
        ..graph(vec![], vec![node("MaxPool", "p", &["x"], &attributes)])
    };
    let pool = Graph { outputs: vec!["p".into()], ..pool };
    let net = import(&onnx::read(&onnx::write(&pool)).unwrap(), 1).unwrap();
    let values = ["x", "p"].map(|n| (n.to_string(), Range::within(1.0))).into();
    let ranges = Ranges { values, ..Ranges::default() };
    let why = compile(&for_inference(&net), &ranges, &Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("more elements than a party can map"), "{why}");
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}

#[test]
fn graphs_are_read_in_proportion_to_their_size() {
    // In the worst order: each node reads the one after it. Quadratic time would be minutes.
    let n = 50_000;
    let nodes = (0..n).rev().map(|i| {
        let from = if i == 0 { "x".to_string() } else { format!("v{}", i - 1) };
        node("Relu", &format!("v{i}"), &[&from], &[])
    });
    let graph = Graph { outputs: vec![format!("v{}", n - 1)], ..graph(vec![], nodes.collect()) };
    let bytes = onnx::write(&graph);
    let before = cpu_seconds();
    let net = import(&onnx::read(&bytes).unwrap(), 1).unwrap();
    assert_eq!(net.nodes.len(), n);
    assert!(cpu_seconds() - before < 20.0, "{} s", cpu_seconds() - before);
}

#[test]
fn archives_that_unpack_to_gigabytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zeros.npz");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let rows = 40_000;
    for member in 0..12 {
        archive.start_file(format!("x{member}.npy"), options).unwrap();
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, 784), }}\n");
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        for _ in 0..rows {
            archive.write_all(&[0; 784]).unwrap();
        }
    }
    archive.finish().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let why = read(&[path], &[1, 784], &Preprocess::default()).unwrap_err().to_string();
    assert!(why.contains("unpacks to more"), "{why}");
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}

/// Twenty million samples of four numbers each, and an array of a great many axes.
#[test]
fn arrays_of_very_many_samples() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, shape: &str, zeros: usize| {
        let path = dir.path().join(name);
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file("x.npy", options).unwrap();
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}\n");
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        for _ in 0..zeros / 4000 {
            archive.write_all(&[0; 4000]).unwrap();
        }
        archive.finish().unwrap();
        read(&[path], &[1, 4], &Preprocess::default()).unwrap_err().to_string()
    };
    let why = write("many.npz", "20000000, 4", 80_000_000);
    assert!(why.contains("more samples"), "{why}");
    let why = write("deep.npz", &"1,".repeat(20_000), 0);
    assert!(why.contains("20000 axes"), "{why}");
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}

#[test]
fn pictures_that_are_strips() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("strip.png");
    image::GrayImage::new(1, 4_000_000).save(&path).unwrap();
    let samples = read(&[path], &[1, 3, 224, 224], &Preprocess::default()).unwrap();
    assert_eq!(samples[0].dims, [1, 3, 224, 224]);
    assert!(peak_rss_mb() < MOST_MB, "{} MB", peak_rss_mb());
}
