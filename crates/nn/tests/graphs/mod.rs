//! Small networks that between them hold every layer that can be trained.

#![allow(unreachable_pub, dead_code, reason = "shared by tests, each of which takes what it needs")]

use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::{Constant, Tensor};
use sordino_ring::PrgKey;

pub fn normal(dims: &[usize], stream: u8, deviation: f32) -> Tensor {
    let words: Vec<u32> = PrgKey::new([stream; 16]).words(4 * dims.iter().product::<usize>());
    let sum = |w: &[u32]| w.iter().map(|&w| w as f32 / 2f32.powi(32)).sum::<f32>() - 2.0;
    Tensor::new(dims, words.chunks_exact(4).map(|w| sum(w) * 3f32.sqrt() * deviation).collect())
}

pub const BATCH: usize = 4;

pub struct Build(pub Graph);

impl Build {
    pub fn new(dims: &[usize]) -> Self {
        let mut g = Graph { name: "small".into(), opset: 13, ..Graph::default() };
        let fixed = dims.iter().map(|&d| Dim::Fixed(d));
        g.inputs.push(("x".into(), std::iter::once(Dim::Symbol("N".into())).chain(fixed).collect()));
        Self(g)
    }
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> &mut Self {
        self.0.nodes.push(Node {
            name: name.into(),
            op: op.into(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![name.into()],
            attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
        });
        self
    }
    pub fn constant(&mut self, name: &str, value: Tensor) -> &mut Self {
        self.0.constants.insert(name.into(), Constant::Float(value.into()));
        self
    }
    /// A layer with weights of the variance that keeps activations.
    pub fn weights(
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
    pub fn full(&mut self, name: &str, x: &str, from: usize, to: usize) -> &mut Self {
        self.weights("Gemm", name, x, &[to, from], &[("transB", Attribute::Int(1))])
    }
    pub fn norm(&mut self, name: &str, x: &str, channels: usize) -> &mut Self {
        let near_one: Vec<f32> = normal(&[channels], 90, 0.2).data.iter().map(|v| 1.0 + v).collect();
        let names = ["s", "t", "m", "v"].map(|n| format!("{name}.{n}"));
        self.constant(&names[0], Tensor::new(&[channels], near_one.clone()));
        self.constant(&names[1], normal(&[channels], 91, 0.2));
        self.constant(&names[2], normal(&[channels], 92, 0.1));
        self.constant(&names[3], Tensor::new(&[channels], near_one));
        let [s, t, m, v] = &names;
        self.node("BatchNormalization", name, &[x, s, t, m, v], &[])
    }
    pub fn done(&mut self, output: &str) -> Graph {
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
pub fn plain() -> Graph {
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
pub fn modern() -> Graph {
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

/// Bends besides ReLU, and constants of the model.
pub fn bent() -> Graph {
    let mut b = Build::new(&[2, 9, 9]);
    b.0.opset = 13;
    b.constant("low", Tensor::new(&[], vec![-0.4]))
        .constant("high", Tensor::new(&[], vec![0.9]))
        .constant("slope", Tensor::new(&[4, 1, 1], vec![0.3, -0.2, 0.1, 0.5]))
        .constant("by", Tensor::new(&[4, 1, 1], vec![1.5, 0.5, 2.0, -1.0]))
        .constant("over", Tensor::new(&[], vec![0.8]))
        .weights("Conv", "conv1", "x", &[4, 2, 3, 3], &window(3, 2, 1))
        .node("LeakyRelu", "leaky", &["conv1"], &[("alpha", Attribute::Float(0.2))])
        .weights("Conv", "conv2", "leaky", &[4, 4, 3, 3], &window(3, 1, 1))
        .node("PRelu", "sloped", &["conv2", "slope"], &[])
        .node("Mul", "times", &["sloped", "by"], &[])
        .weights("Conv", "conv3", "times", &[4, 4, 1, 1], &window(1, 1, 0))
        .node("Clip", "clipped", &["conv3", "low", "high"], &[])
        .node("Div", "less", &["clipped", "over"], &[])
        .node("HardSwish", "hard", &["less"], &[])
        .node("Flatten", "flat", &["hard"], &[])
        .full("full1", "flat", 100, 3)
        .done("full1")
}

/// Smooth functions, products, differences, slices, transposes, borders of average pooling.
pub fn smooth() -> Graph {
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
