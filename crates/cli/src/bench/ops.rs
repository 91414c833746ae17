//! Single operations: the program of a one-node model, with its input and output kept out of the figures.

use super::super::Protocol;
use super::Common;
use super::measure::{Job, median, note, sorted};
use super::output::{Findings, Table, megabytes, short};
use crate::plot;
use clap::Args;
use serde::Serialize;
use sordino::Result;
use sordino::report::{DETAILED, LayerReport};
use sordino_mpc::{Kind, Settings};
use sordino_net::LinkModel;
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::network::{Layer, LayerNode, Network, Smooth, Training};
use sordino_nn::program::{Instruction, LayerInfo, Op, Port, Program, SlotInfo, View};
use sordino_nn::{Constant, Options, Tensor};
use sordino_ring::Shape;

#[derive(Args)]
pub(crate) struct Ops {
    #[command(flatten)]
    common: Common,
    /// Only operations whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Who computes: three servers (3pc), or two parties (2pc), with rings of 32 and 41 bits.
    #[arg(long, value_enum, default_value = "3pc")]
    protocol: Protocol,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// Elements of the result.
    elements: usize,
    seconds: f64,
    bytes: Payload,
    rounds: u32,
    /// Payload bits for each element of the result, all parties.
    bits_per_element: f64,
    /// Figures that other systems reach, where known: seconds and megabytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<(&'static str, f64, f64)>,
}

#[derive(Serialize)]
struct Payload {
    payload: u64,
}

/// A one-node model.
fn model(op: &str, input: &[usize], weight: Option<&[usize]>, attributes: &[(&str, Attribute)]) -> Graph {
    let mut inputs = vec!["x".to_string()];
    let mut graph = Graph { name: op.into(), opset: 13, outputs: vec!["y".into()], ..Graph::default() };
    // The first dimension is the batch, which compilation sets.
    let dims = [Dim::Symbol("N".into())].into_iter().chain(input[1..].iter().map(|&d| Dim::Fixed(d)));
    graph.inputs.push(("x".into(), dims.collect()));
    if let Some(dims) = weight {
        let mut w = super::measure::normal(dims, 2);
        // Sums over a row keep the size of their terms.
        let n = dims[1..].iter().product::<usize>() as f32;
        w.data.iter_mut().for_each(|v| *v /= n.sqrt());
        graph.constants.insert("w".into(), Constant::Float(w.into()));
        inputs.push("w".into());
    }
    graph.nodes.push(Node {
        name: "op".into(),
        op: op.into(),
        inputs,
        outputs: vec!["y".into()],
        attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
    });
    graph
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// An operation to measure.
struct Operation {
    name: String,
    source: Source,
    /// Other systems' seconds and megabytes for the same job over processes on two cores of the same kind.
    peers: Vec<(&'static str, f64, f64)>,
}

enum Source {
    /// A one-node model, for so many samples.
    Model(Graph, usize),
    /// A function at 2^14 points of its domain.
    Function(Layer, [f64; 2]),
}

impl Operation {
    fn job(&self, settings: Settings) -> Result<Job> {
        // An operation's own figures.
        let alone = Options { guard: false, settings, ..Options::default() };
        match &self.source {
            Source::Model(graph, batch) => Job::new(graph, *batch, &alone),
            Source::Function(layer, [low, high]) => {
                let dims = [1, 1 << 14];
                let mut net = Network::default();
                let (input, output) = (net.value("x", &dims), net.value("y", &dims));
                net.inputs.push(input);
                net.outputs.push(("y".into(), output));
                let (layer, inputs) = (layer.clone(), vec![input]);
                net.nodes.push(LayerNode { name: "op".into(), op: "op".into(), layer, inputs, output });
                // Cost depends on the domain's ends alone.
                let point = |i: usize| (low + (high - low) * i as f64 / (dims[1] - 1) as f64) as f32;
                Job::of(net, Tensor::new(&dims, (0..dims[1]).map(point).collect()), &alone)
            }
        }
    }
}

/// Of two parties: ReLU by size, and what networks are made of.
fn of_two() -> Vec<Operation> {
    let relu = |log: u32| {
        let peers = match log {
            17 => vec![("SCI-OT", 0.50, 69.7)],
            20 => vec![("SPU's Cheetah", 15.3, 106.0)],
            _ => vec![],
        };
        let graph = model("Relu", &[1, 1 << log], None, &[]);
        Operation { name: format!("ReLU 2^{log}"), source: Source::Model(graph, 1), peers }
    };
    let networks = ["matmul", "conv", "Pool"];
    let others = of_three().into_iter().filter(|o| networks.iter().any(|kind| o.name.contains(kind)));
    let others = others.map(|o| Operation { peers: vec![], ..o });
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 18, 20].map(relu).into_iter().chain(others).collect()
}

fn of_three() -> Vec<Operation> {
    let mut list = vec![];
    let peers =
        [vec![("MP-SPDZ", 0.13, 12.4)], vec![("MP-SPDZ", 1.0, 97.0), ("HPMPC Trio, no TLS", 0.14, 66.8)], vec![]];
    for (log, peers) in [17, 20, 23].into_iter().zip(peers) {
        let graph = model("Relu", &[1, 1 << log], None, &[]);
        list.push(Operation { name: format!("ReLU 2^{log}"), source: Source::Model(graph, 1), peers });
    }
    for n in [128, 512, 1024] {
        let transposed = [("transB", Attribute::Int(1))];
        let peers = if n == 1024 { vec![("HPMPC Trio, no TLS", 0.50, 25.2)] } else { vec![] };
        let graph = model("Gemm", &[n, n], Some(&[n, n]), &transposed);
        list.push(Operation { name: format!("matmul {n}x{n}x{n}"), source: Source::Model(graph, n), peers });
    }
    let mut conv = |c: usize, out: usize, size: usize, k: usize, stride: usize, groups: usize| {
        let (k1, s, p) = (k as i64, stride as i64, (k / 2) as i64);
        let attributes = [
            ("kernel_shape", ints(&[k1, k1])),
            ("strides", ints(&[s, s])),
            ("pads", ints(&[p, p, p, p])),
            ("group", Attribute::Int(groups as i64)),
        ];
        let kind = if groups > 1 { "depthwise " } else { "" };
        let name = format!("{kind}conv {k}x{k}/{stride} {size}x{size}x{c} to {out}");
        let graph = model("Conv", &[1, c, size, size], Some(&[out, c / groups, k, k]), &attributes);
        list.push(Operation { name, source: Source::Model(graph, 1), peers: vec![] });
    };
    conv(64, 64, 56, 3, 1, 1);
    conv(3, 64, 224, 7, 2, 1);
    conv(64, 256, 56, 1, 1, 1);
    conv(128, 128, 56, 3, 1, 128);
    for op in ["MaxPool", "AveragePool"] {
        let attributes = [("kernel_shape", ints(&[3, 3])), ("strides", ints(&[2, 2])), ("pads", ints(&[1, 1, 1, 1]))];
        let graph = model(op, &[1, 64, 112, 112], None, &attributes);
        list.push(Operation { name: format!("{op} 3x3/2 112x112x64"), source: Source::Model(graph, 1), peers: vec![] });
    }
    for f in Smooth::ALL {
        let source = Source::Function(Layer::Smooth(f), f.domain());
        list.push(Operation { name: format!("{f:?} 2^14"), source, peers: vec![] });
    }
    // As in batch norm.
    let root = Layer::Training(Training::InverseRoot { epsilon: 1e-5, error: 1e-5 });
    let source = Source::Function(root, [1e-3, 4.0]);
    list.push(Operation { name: "1/sqrt(x + 1e-5) 2^14".into(), source, peers: vec![] });
    for (rows, classes) in [(128, 10), (1, 1000)] {
        let peers = if rows == 128 { vec![("SPU ABY3", 0.11, 2.6)] } else { vec![] };
        let graph = model("Softmax", &[rows, classes], None, &[]);
        list.push(Operation { name: format!("softmax {rows}x{classes}"), source: Source::Model(graph, rows), peers });
    }
    list
}

/// Puts a small ReLU between the input and the operation, so that servers start it together, and opens one element
/// instead of all. Returns the layers to measure.
fn isolate(program: &mut Program) -> std::ops::Range<usize> {
    let after = program.instructions.iter().rposition(|i| matches!(i.op, Op::Input(_) | Op::Secret(_)));
    let after = after.map_or(0, |i| i + 1);
    let input = program.inputs[0].slot;
    let layers = program.layers.len();
    let first = |program: &mut Program, x: usize, wide: bool| {
        let n = program.slots[x].shape.len();
        let (scale, shape) = (program.slots[x].scale, Shape::new(&[1]));
        program.slots.push(SlotInfo { shape: shape.clone(), scale, wide });
        program.slots.push(SlotInfo { shape, scale, wide });
        let out = program.slots.len() - 1;
        let window = View::Window { dims: vec![n], start: vec![0], step: vec![1], out: vec![1] };
        (Op::Gather { x, view: window, fill: 0 }, out)
    };
    let (gather, one) = first(program, input, false);
    for name in ["barrier", "answer"] {
        program.layers.push(LayerInfo { name: name.into(), op: name.into(), result: None });
    }
    let barrier = [
        Instruction { layer: layers, op: gather, out: one },
        Instruction { layer: layers, op: Op::Relu { x: one, shift: None, wide: false, keep: None }, out: one - 1 },
    ];
    program.instructions.splice(after..after, barrier);
    let output = program.outputs[0].clone();
    let wide = program.slots[output.slot].wide;
    let (gather, one) = first(program, output.slot, wide);
    program.instructions.push(Instruction { layer: layers + 1, op: gather, out: one });
    program.outputs = vec![Port { slot: one, dims: vec![1], ..output }];
    0..layers
}

impl Ops {
    pub(crate) fn run(self) -> Result<()> {
        let mut lines = vec![];
        let (settings, operations) = match self.protocol {
            Protocol::Three => (Settings::default(), of_three()),
            Protocol::Two => {
                (Settings { kind: Kind::Two, narrow_bits: 32, wide_bits: 41, ..Settings::default() }, of_two())
            }
        };
        for operation in operations {
            if self.only.as_ref().is_some_and(|o| !operation.name.contains(o.as_str())) {
                continue;
            }
            let mut job = operation.job(settings)?;
            let Operation { name, peers, .. } = operation;
            let elements = job.program.slots[job.program.outputs[0].slot].shape.len();
            let inputs: Vec<usize> = job
                .program
                .instructions
                .iter()
                .filter(|i| matches!(i.op, Op::Input(_) | Op::Secret(_)))
                .map(|i| i.layer)
                .collect();
            let layers: Vec<usize> = isolate(&mut job.program).filter(|l| !inputs.contains(l)).collect();
            let done = self.common.run(&job, LinkModel::UNLIMITED, self.common.runs + 1)?;
            let servers = done.servers();
            let of = |server: usize, run: usize, f: &dyn Fn(&LayerReport) -> f64| -> f64 {
                layers.iter().filter_map(|l| servers[server].runs[run].layers.get(l)).map(f).sum()
            };
            // The slowest end's time, run by run.
            let ends = 0..servers.len();
            let seconds = (1..=self.common.runs.min(DETAILED - 2))
                .map(|run| ends.clone().map(|s| of(s, run, &|l| l.seconds)).fold(0.0, f64::max));
            // What is made for several runs is in one of them.
            let payload = ends.clone().map(|s| of(s, 1, &|l| l.bytes as f64)).sum::<f64>() as u64;
            let line = Line {
                name,
                elements,
                seconds: median(&sorted(seconds.collect())),
                bytes: Payload { payload },
                rounds: of(0, 1, &|l| f64::from(l.rounds)) as u32,
                bits_per_element: payload as f64 * 8.0 / elements as f64,
                peers,
            };
            note(&format!("{}: {} s", line.name, short(line.seconds)));
            lines.push(line);
        }
        let mut table = Table::new(&[
            "operation",
            "s",
            "MB sent",
            "bits per result",
            "rounds",
            "other systems on two such cores: s / MB",
        ]);
        for l in &lines {
            let peers: Vec<String> = l.peers.iter().map(|(name, s, mb)| format!("{name} {s} / {mb}")).collect();
            table.rows.push(vec![
                l.name.clone(),
                short(l.seconds),
                megabytes(l.bytes.payload),
                format!("{:.1}", l.bits_per_element),
                l.rounds.to_string(),
                peers.join("; "),
            ]);
        }
        let names: Vec<String> = lines.iter().map(|l| l.name.clone()).collect();
        let best = |l: &Line| l.peers.iter().map(|p| p.1).reduce(f64::min);
        let series = [
            ("sordino", lines.iter().map(|l| Some(l.seconds)).collect()),
            ("fastest of the other systems", lines.iter().map(best).collect()),
        ];
        let (name, heading) = match self.protocol {
            Protocol::Three => (
                "ops",
                "Single operations, three processes with TLS; the slowest server's time, without sharing the input and opening the result.",
            ),
            Protocol::Two => (
                "two-party-ops",
                "Single operations by two parties, exact, rings of 32 and 41 bits, two processes with TLS; the slower party's time, without opening the result.",
            ),
        };
        Findings {
            name,
            heading,
            table: &table,
            data: &lines,
            svg: Some(plot::bars("Single operations", "seconds", &names, &series)?),
        }
        .publish(&self.common.shown)
    }
}
