//! The typed network: a graph with a batch chosen, every shape known and every attribute resolved.

use crate::tensor::Tensor;
use std::sync::Arc;

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
        weight: Arc<Tensor>,
        /// One per output channel.
        bias: Option<Arc<Tensor>>,
    },
    /// `x w + b`: x `[m, k]`, w `[k, n]`.
    MatMul {
        /// `[k, n]`.
        weight: Arc<Tensor>,
        /// `[n]`.
        bias: Option<Arc<Tensor>>,
    },
    /// Per-channel `(x - mean) / sqrt(var + eps) * scale + shift`, statistics kept apart.
    BatchNorm {
        /// Scale, shift, mean, variance, one per channel.
        stats: [Arc<Tensor>; 4],
        /// Added to the variance.
        epsilon: f32,
        /// Share of the batch's statistics that running ones take in training.
        momentum: f32,
    },
    /// Per-channel (axis 1) `x * scale + shift`; what passes turn batch norms and per-channel constants into.
    Affine {
        /// One per channel.
        scale: Arc<Tensor>,
        /// One per channel.
        shift: Arc<Tensor>,
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
    PRelu(Arc<Tensor>),
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
    AddConst(Arc<Tensor>),
    /// x * c with a constant broadcast to the shape of x.
    MulConst(Arc<Tensor>),
    /// The larger of two, element by element, shapes equal.
    Max,
    /// `by x + add` with public numbers.
    Scale {
        /// Factor.
        by: f32,
        /// Addend.
        add: f32,
    },
    /// 1 where x >= 0, else 0.
    Step,
    /// Copies to a larger shape by NumPy's rules.
    Broadcast,
    /// Elements of the operand by their row-major place; [`sordino_ring::PAD`] takes the value.
    Gather {
        /// Where each element of the result comes from.
        source: Arc<Vec<u32>>,
        /// What places without a source take.
        fill: f32,
    },
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
    /// The logarithm of a softmax.
    LogSoftmax {
        /// First normalised axis.
        axis: usize,
        /// One past the last.
        end: usize,
    },
    /// Where the largest element along an axis is, as a number; of several the first. The axis stays, with one element.
    ArgMax(usize),
    /// A smooth function of every element.
    Smooth(Smooth),
    /// The same values; in training, a public random mask drops this share of them and scales the rest up.
    Dropout(f32),
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

/// Smooth functions of one variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Smooth {
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// tanh(x).
    Tanh,
    /// x times the normal distribution function of x.
    Gelu,
    /// The error function.
    Erf,
    /// e^x.
    Exp,
    /// Natural logarithm of a positive argument.
    Log,
    /// Square root of an argument that is not negative.
    Sqrt,
    /// 1 / x for an argument that keeps its sign and its distance from zero.
    Reciprocal,
    /// 1 / sqrt(x) for a positive argument.
    InverseRoot,
    /// ln(1 + e^-|x|): softplus without its ReLU.
    SoftplusRest,
}

impl Smooth {
    /// The function.
    #[must_use]
    pub fn value(self, x: f64) -> f64 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
            Self::Gelu => x * normal_distribution(x),
            Self::Erf => erf(x),
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Reciprocal => 1.0 / x,
            Self::InverseRoot => 1.0 / x.sqrt(),
            Self::SoftplusRest => (-x.abs()).exp().ln_1p(),
        }
    }

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Sigmoid,
        Self::Tanh,
        Self::Gelu,
        Self::Erf,
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Reciprocal,
        Self::InverseRoot,
        Self::SoftplusRest,
    ];

    /// Arguments for which [`Smooth::error`] is stated. Any others may be calibrated; beyond those, sigmoid, tanh, erf, GELU
    /// and softplus stay close to their limits, the others hold the value at the end.
    #[must_use]
    pub fn domain(self) -> [f64; 2] {
        match self {
            Self::Sigmoid | Self::Tanh | Self::Gelu | Self::Erf | Self::SoftplusRest => [-16.0, 16.0],
            Self::Exp => [-12.0, 6.0],
            Self::Log | Self::Sqrt | Self::Reciprocal | Self::InverseRoot => [1.0 / 64.0, 64.0],
        }
    }

    /// Largest absolute error of the private function, rounding of its argument included, when ranges were calibrated on the
    /// whole domain. Tested over all of it.
    #[must_use]
    pub fn error(self) -> f64 {
        match self {
            Self::Sigmoid | Self::Tanh | Self::Erf => 8e-6,
            Self::Gelu => 2e-5,
            Self::Exp => 2e-3,
            Self::Log => 6e-5,
            Self::Sqrt => 1e-4,
            Self::Reciprocal => 3e-3,
            Self::InverseRoot => 2e-4,
            Self::SoftplusRest => 8e-6,
        }
    }

    /// Its derivative.
    #[must_use]
    pub fn slope(self, x: f64) -> f64 {
        match self {
            Self::Sigmoid => self.value(x) * (1.0 - self.value(x)),
            Self::Tanh => 1.0 - x.tanh().powi(2),
            Self::Gelu => normal_distribution(x) + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt(),
            Self::Erf => std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp(),
            Self::Exp => x.exp(),
            Self::Log => 1.0 / x,
            Self::Sqrt => 0.5 / x.sqrt(),
            Self::Reciprocal => -1.0 / (x * x),
            Self::InverseRoot => -0.5 / (x * x.sqrt()),
            Self::SoftplusRest => -x.signum() / (1.0 + x.abs().exp()),
        }
    }
}

/// The distribution function of the normal distribution.
pub(crate) fn normal_distribution(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The error function: its Taylor series (Abramowitz and Stegun 7.1.6) within three, the continued fraction of its
/// complement (7.1.14) beyond. Exact to 1e-13.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let mut term = a;
        let mut sum = a;
        let mut n = 0.0;
        while term > 1e-17 * sum {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum
    } else {
        let fraction = (1..=40).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// How a gradient becomes a state: `gradient * g`, plus each further operand times its factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Blend {
    /// Factor of the gradient, summed over the batch.
    pub gradient: f32,
    /// Factors of the operands that follow.
    pub others: Vec<f32>,
}

/// Layers whose weights are values, their gradients, and the optimiser. A *channel value* has one element for each
/// channel (axis 1).
#[derive(Clone, Debug, PartialEq)]
pub enum Training {
    /// Operands x, w and a bias if there is one. Groups.
    Conv(Window, usize),
    /// Operands x `[m, k]`, w `[n, k]`, and a bias `[n]` if there is one: `x w^T + bias`.
    Full,
    /// Operands dy, w: the gradient of a convolution's input. Groups.
    ConvInput(Window, usize),
    /// Operands dy, w: the gradient of a fully connected layer's input.
    FullInput,
    /// Operands x, dy and others: what the gradient of a convolution's weights becomes. Groups.
    ConvWeight(Window, usize, Blend),
    /// Operands x, dy and others: what the gradient of a fully connected layer's weights becomes.
    FullWeight(Blend),
    /// Operands of one shape: the sum of each times its factor.
    Sum(Vec<f32>),
    /// Operands x, dy: dy where the ReLU's operand x is not negative.
    Relu,
    /// Operand dy: the gradient of an average pooling; whether padding counts in the divisor.
    AveragePool(Window, bool),
    /// Operands x, y, dy: the gradient of the maximum pooling that made y of x, at the first maximum of each window.
    MaxPool(Window),
    /// Operand x: a dropout in this iteration.
    Dropout(Mask, u32),
    /// Operand x: the channel value of sums over everything else, times a number.
    ChannelSum(f32),
    /// Operands x, y: the channel value of sums of products, times a number.
    ChannelDot(f32),
    /// Operands x and a channel value m: x - m.
    Centre,
    /// Operands x and channel values a, b, or x, a, y, c, b: x a + y c + b.
    ChannelScale,
    /// Element by element, with a gradient's precision.
    Mul,
    /// Operand v: 1 / sqrt(v + epsilon), to this relative error.
    InverseRoot {
        /// Added to the operand.
        epsilon: f32,
        /// Largest relative error.
        error: f32,
    },
    /// Operands g, v: `a g^2 + b v`.
    Square(f32, f32),
    /// Operand x: the derivative there.
    Slope(Smooth),
    /// Operand dy: the gradient of a slice's operand.
    Unslice {
        /// First position on each axis, as in the slice.
        start: Vec<isize>,
        /// Step on each axis.
        step: Vec<isize>,
    },
    /// Operands w, u: `w - rate * u`.
    Descend(f32),
    /// Operands -log p, y: cross-entropy, the mean over rows of `-sum_j y_j log p_j`, one element.
    CrossEntropy,
    /// Operand d: half the mean over rows of the sum of squares, one element.
    SquaredError,
}

/// A dropout's mask: public, another one in every iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mask {
    /// Share that is dropped, in 2^-32.
    pub drop: u32,
    /// Which of the network's dropouts.
    pub layer: u32,
    /// Of the training.
    pub seed: u64,
}

impl Mask {
    /// True for the elements that stay, in the model's own order.
    #[must_use]
    pub fn kept(&self, iteration: u32, n: usize) -> Vec<bool> {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..12].copy_from_slice(&self.layer.to_le_bytes());
        key[12..].copy_from_slice(&iteration.to_le_bytes());
        sordino_ring::PrgKey::new(key).words::<u32>(n).into_iter().map(|w| w >= self.drop).collect()
    }
    /// Share that stays.
    #[must_use]
    pub fn share(&self) -> f64 {
        1.0 - f64::from(self.drop) / 4_294_967_296.0
    }
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
    /// Which axes of inputs and outputs are the batch, if they are computed sample by sample.
    pub batch: Option<crate::batch::Batch>,
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
