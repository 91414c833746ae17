//! The typed network: a graph with a batch chosen, every shape known and every attribute resolved.

use crate::tensor::Tensor;
use std::rc::Rc;

/// Index of a value of a [`Network`].
pub type ValueId = usize;

/// A sliding window over the two spatial axes of an NCHW tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pad: [usize; 4],
}

/// What a layer computes. Rank-4 tensors are NCHW, as in ONNX.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// Convolution: `[n, c, h, w]` with weights `[o, c / groups, kh, kw]` and an optional bias `[o]`.
    Conv {
        /// The window.
        window: Window,
        /// Groups.
        groups: usize,
        /// OIHW.
        weight: Rc<Tensor>,
        /// One per output channel.
        bias: Option<Rc<Tensor>>,
    },
    /// `x w + b`: x `[m, k]`, w `[k, n]`.
    MatMul {
        /// `[k, n]`.
        weight: Rc<Tensor>,
        /// `[n]`.
        bias: Option<Rc<Tensor>>,
    },
    /// Per-channel `(x - mean) / sqrt(var + eps) * scale + shift`, statistics kept apart.
    BatchNorm {
        /// Scale, shift, mean, variance, one per channel.
        stats: [Rc<Tensor>; 4],
        /// Added to the variance.
        epsilon: f32,
    },
    /// Per-channel (axis 1) `x * scale + shift`; what passes turn batch norms and per-channel constants into.
    Affine {
        /// One per channel.
        scale: Rc<Tensor>,
        /// One per channel.
        shift: Rc<Tensor>,
    },
    /// max(x, 0).
    Relu,
    /// min(max(x, lo), hi).
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// x if x >= 0, else alpha x, for a public alpha.
    LeakyRelu(f32),
    /// The same with a slope per channel.
    PRelu(Rc<Tensor>),
    /// Maximum over windows; positions outside do not count.
    MaxPool(Window),
    /// Mean over windows.
    AveragePool {
        /// The window.
        window: Window,
        /// Whether padding counts in the divisor.
        include_pad: bool,
    },
    /// Element by element, shapes equal.
    Add,
    /// Element by element, shapes equal.
    Sub,
    /// Element by element, shapes equal.
    Mul,
    /// x + c with a constant broadcast to the shape of x.
    AddConst(Rc<Tensor>),
    /// x * c with a constant broadcast to the shape of x.
    MulConst(Rc<Tensor>),
    /// Copies to a larger shape by NumPy's rules.
    Broadcast,
    /// Joins along an axis.
    Concat(usize),
    /// Elements `start + step * j` of every axis; positions outside take the value.
    Slice {
        /// First position on each axis, may lie outside.
        start: Vec<isize>,
        /// Step on each axis, may be negative.
        step: Vec<isize>,
        /// What positions outside take.
        fill: f32,
    },
    /// The same elements in row-major order.
    Reshape,
    /// Axis i of the result is axis `perm[i]`.
    Transpose(Vec<usize>),
    /// Over the last `span` of `axes` consecutive axes starting at `axis`, taken as one.
    Softmax {
        /// First normalised axis.
        axis: usize,
        /// One past the last.
        end: usize,
    },
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// tanh(x).
    Tanh,
    /// A layer of a training step.
    Training(Training),
    /// Across channels: `x / (bias + alpha / size * sum x^2)^beta`.
    Lrn {
        /// Channels in the sum.
        size: usize,
        /// Factor.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Constant.
        bias: f32,
    },
}

/// How a gradient becomes a velocity: `mean * gradient + momentum * velocity + decay * weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Velocity {
    /// One over the batch.
    pub mean: f32,
    /// Momentum.
    pub momentum: f32,
    /// Weight decay.
    pub decay: f32,
}

/// Layers whose weights are values, their gradients, and the optimiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Training {
    /// Operands x, w `[o, c, kh, kw]`, bias `[o]`: convolution.
    Conv(Window),
    /// Operands x `[m, k]`, w `[n, k]`, bias `[n]`: `x w^T + bias`.
    Full,
    /// Operands dy, w: the gradient of a convolution's input.
    ConvInput(Window),
    /// Operands dy, w: the gradient of a fully connected layer's input.
    FullInput,
    /// Operands x, dy, velocity, w: the next velocity of a convolution's weights.
    ConvWeight(Window, Velocity),
    /// Operands x, dy, velocity, w: the next velocity of a fully connected layer's weights.
    FullWeight(Velocity),
    /// Operands dy, velocity: the next velocity of a bias; sums over everything but axis 1.
    Bias(Velocity),
    /// Operands x, dy: dy where the ReLU's operand x is not negative.
    Relu,
    /// Operand dy: the gradient of an average pooling whose divisor counts padding.
    AveragePool(Window),
    /// Operands w, velocity: `w - rate * velocity`.
    Descend(f32),
    /// Operands p, y: cross-entropy `-mean over rows of log(sum_j y_j p_j)`, one element; probabilities below 2^-12 count as that.
    CrossEntropy,
}

/// A layer with its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNode {
    /// The node's name in the model.
    pub name: String,
    /// The operator's name in the model.
    pub op: String,
    /// What it computes.
    pub layer: Layer,
    /// Values it reads.
    pub inputs: Vec<ValueId>,
    /// The value it makes.
    pub output: ValueId,
}

/// A typed network, in topological order.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Network {
    /// Shape of every value.
    pub shapes: Vec<Vec<usize>>,
    /// Name of every value.
    pub names: Vec<String>,
    /// Inputs.
    pub inputs: Vec<ValueId>,
    /// Outputs with their names.
    pub outputs: Vec<(String, ValueId)>,
    /// Layers.
    pub nodes: Vec<LayerNode>,
}

impl Network {
    /// A new value.
    pub fn value(&mut self, name: &str, dims: &[usize]) -> ValueId {
        self.shapes.push(dims.to_vec());
        self.names.push(name.to_string());
        self.shapes.len() - 1
    }

    /// How many layers and outputs read each value.
    #[must_use]
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.shapes.len()];
        for &v in self.nodes.iter().flat_map(|n| &n.inputs).chain(self.outputs.iter().map(|(_, v)| v)) {
            uses[v] += 1;
        }
        uses
    }

    /// Multiplications of the linear layers.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.nodes
            .iter()
            .map(|n| {
                let out = self.shapes[n.output].iter().product::<usize>() as u64;
                match &n.layer {
                    Layer::Conv { weight, .. } => out * weight.dims[1..].iter().product::<usize>() as u64,
                    Layer::MatMul { weight, .. } => out * weight.dims[0] as u64,
                    _ => 0,
                }
            })
            .sum()
    }
}

impl Window {
    /// Size of the result on an input of `h` by `w`, rounding up if `ceil`.
    #[must_use]
    pub fn output(&self, h: usize, w: usize, ceil: bool) -> Option<[usize; 2]> {
        let size = |axis: usize, len: usize| {
            let span = (len + self.pad[axis] + self.pad[axis + 2])
                .checked_sub(self.dilation[axis] * (self.kernel[axis] - 1) + 1)?;
            let mut out = if ceil { span.div_ceil(self.stride[axis]) } else { span / self.stride[axis] } + 1;
            // A window that would start beyond the input and its leading padding does not count.
            if ceil && (out - 1) * self.stride[axis] >= len + self.pad[axis] {
                out -= 1;
            }
            Some(out)
        };
        Some([size(0, h)?, size(1, w)?])
    }
}
