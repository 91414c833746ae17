//! Functions of each element by itself, most of them made of a few that have a meaning in shares: ReLU, sums, products, public
//! factors and addends, the smooth functions, and the step.

use super::{Attributes, Importer, Known, fault};
use crate::Result;
use crate::graph::Node;
use crate::network::{Layer, Smooth, ValueId};
use crate::tensor::Constant;
use std::sync::Arc;

impl Importer<'_> {
    /// Imports a function of each element; false when the operator is none.
    pub(super) fn pointwise(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<bool> {
        if matches!(node.op.as_str(), "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor") {
            return self.truth(node).map(|()| true);
        }
        if node.op == "Pow" {
            return self.power(node).map(|()| true);
        }
        let Some(Known::Value(x)) = self.known(node, 0)? else { return Ok(false) };
        let (alpha, beta) = (|default| attrs.float("alpha", default), |default| attrs.float("beta", default));
        let y = match node.op.as_str() {
            "Relu" => self.like(node, Layer::Relu, x)?,
            "LeakyRelu" => self.like(node, Layer::LeakyRelu(alpha(0.01)), x)?,
            "PRelu" => return self.sloped(node, x).map(|()| true),
            "Sigmoid" => self.smooth(node, Smooth::Sigmoid, x)?,
            "Tanh" => self.smooth(node, Smooth::Tanh, x)?,
            "Erf" => self.smooth(node, Smooth::Erf, x)?,
            "Exp" => self.smooth(node, Smooth::Exp, x)?,
            "Log" => self.smooth(node, Smooth::Log, x)?,
            "Sqrt" => self.smooth(node, Smooth::Sqrt, x)?,
            "Reciprocal" => self.inverse(node, x)?,
            "Gelu" if attrs.text("approximate") == "tanh" => self.gelu_by_tanh(node, x)?,
            "Gelu" => self.smooth(node, Smooth::Gelu, x)?,
            "Neg" => self.scaled(node, x, -1.0, 0.0)?,
            "Abs" => self.absolute(node, x)?,
            "Sign" => {
                let minus = self.scaled(node, x, -1.0, 0.0)?;
                let [above, below] = [self.like(node, Layer::Step, x)?, self.like(node, Layer::Step, minus)?];
                self.both(node, Layer::Sub, above, below)?
            }
            "Not" => self.scaled(node, x, -1.0, 1.0)?,
            "HardSigmoid" => self.hard_sigmoid(node, x, alpha(0.2), beta(0.5))?,
            "HardSwish" => {
                let share = self.hard_sigmoid(node, x, 1.0 / 6.0, 0.5)?;
                self.both(node, Layer::Mul, x, share)?
            }
            "Swish" => {
                let steep = if alpha(1.0) == 1.0 { x } else { self.scaled(node, x, alpha(1.0), 0.0)? };
                let share = self.smooth(node, Smooth::Sigmoid, steep)?;
                self.both(node, Layer::Mul, x, share)?
            }
            "Elu" => self.exponential(node, x, [1.0, alpha(1.0), 1.0])?,
            "Selu" => {
                let (alpha, gamma) = (alpha(1.673_263_2), attrs.float("gamma", 1.050_701));
                self.exponential(node, x, [gamma, alpha * gamma, 1.0])?
            }
            "Celu" => {
                let alpha = alpha(1.0);
                if alpha.is_nan() || alpha == 0.0 {
                    return fault(node, "its alpha must not be zero");
                }
                self.exponential(node, x, [1.0, alpha, 1.0 / alpha])?
            }
            "Softplus" => self.softplus(node, x)?,
            "Mish" => {
                let soft = self.softplus(node, x)?;
                let share = self.smooth(node, Smooth::Tanh, soft)?;
                self.both(node, Layer::Mul, x, share)?
            }
            "Softsign" => {
                let size = self.absolute(node, x)?;
                let size = self.scaled(node, size, 1.0, 1.0)?;
                let inverse = self.smooth(node, Smooth::Reciprocal, size)?;
                self.both(node, Layer::Mul, x, inverse)?
            }
            "ThresholdedRelu" => {
                let above = self.above(node, x, alpha(1.0))?;
                self.both(node, Layer::Mul, x, above)?
            }
            "Shrink" => {
                let (bias, lambda) = (attrs.float("bias", 0.0), attrs.float("lambd", 0.5));
                let minus = self.scaled(node, x, -1.0, 0.0)?;
                let [high, low] = [self.above(node, x, lambda)?, self.above(node, minus, lambda)?];
                let [down, up] = [self.scaled(node, x, 1.0, -bias)?, self.scaled(node, x, 1.0, bias)?];
                let [high, low] = [self.both(node, Layer::Mul, down, high)?, self.both(node, Layer::Mul, up, low)?];
                self.both(node, Layer::Add, high, low)?
            }
            _ => return Ok(false),
        };
        self.alias(node, y);
        Ok(true)
    }

    /// 1 where x is above a public number.
    fn above(&mut self, node: &Node, x: ValueId, bound: f32) -> Result<ValueId> {
        let below = self.scaled(node, x, -1.0, bound)?;
        let below = self.like(node, Layer::Step, below)?;
        self.scaled(node, below, -1.0, 1.0)
    }

    pub(super) fn absolute(&mut self, node: &Node, x: ValueId) -> Result<ValueId> {
        let positive = self.like(node, Layer::Relu, x)?;
        let twice = self.scaled(node, positive, 2.0, 0.0)?;
        self.both(node, Layer::Sub, twice, x)
    }

    fn hard_sigmoid(&mut self, node: &Node, x: ValueId, alpha: f32, beta: f32) -> Result<ValueId> {
        let line = self.scaled(node, x, alpha, beta)?;
        self.like(node, Layer::Clip { lo: 0.0, hi: 1.0 }, line)
    }

    /// `above x` for x >= 0, `below (e^(steep x) - 1)` for x < 0.
    fn exponential(&mut self, node: &Node, x: ValueId, [above, below, steep]: [f32; 3]) -> Result<ValueId> {
        let positive = self.like(node, Layer::Relu, x)?;
        let negative = self.both(node, Layer::Sub, x, positive)?;
        let negative = if steep == 1.0 { negative } else { self.scaled(node, negative, steep, 0.0)? };
        let e = self.smooth(node, Smooth::Exp, negative)?;
        let e = self.scaled(node, e, below, -below)?;
        let positive = if above == 1.0 { positive } else { self.scaled(node, positive, above, 0.0)? };
        self.both(node, Layer::Add, positive, e)
    }

    fn softplus(&mut self, node: &Node, x: ValueId) -> Result<ValueId> {
        let positive = self.like(node, Layer::Relu, x)?;
        let rest = self.smooth(node, Smooth::SoftplusRest, x)?;
        self.both(node, Layer::Add, positive, rest)
    }

    /// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    fn gelu_by_tanh(&mut self, node: &Node, x: ValueId) -> Result<ValueId> {
        let square = self.both(node, Layer::Mul, x, x)?;
        let root = (2.0 / std::f32::consts::PI).sqrt();
        let factor = self.scaled(node, square, 0.044_715 * root, root)?;
        let inner = self.both(node, Layer::Mul, x, factor)?;
        let tanh = self.smooth(node, Smooth::Tanh, inner)?;
        let share = self.scaled(node, tanh, 0.5, 0.5)?;
        self.both(node, Layer::Mul, x, share)
    }

    /// 1 / x; of a square root at once, which spares one function.
    pub(super) fn inverse(&mut self, node: &Node, x: ValueId) -> Result<ValueId> {
        let root = self.net.nodes.iter().find(|n| n.output == x && n.layer == Layer::Smooth(Smooth::Sqrt));
        match root.map(|n| n.inputs[0]) {
            Some(of) => self.smooth(node, Smooth::InverseRoot, of),
            None => self.smooth(node, Smooth::Reciprocal, x),
        }
    }

    fn sloped(&mut self, node: &Node, x: ValueId) -> Result<()> {
        let (dims, slope) = (self.dims(x), self.weights(node, 1)?);
        if slope.dims.len() > dims.len() {
            return fault(node, format!("a slope of {:?} does not fit {dims:?}", slope.dims));
        }
        if let Some(slope) = self.per_channel(&slope, &dims) {
            return self.push_output(node, 0, Layer::PRelu(Arc::new(slope)), vec![x], &dims);
        }
        // relu(x) - slope relu(-x), with any slope that fits.
        if crate::fold::broadcast(&slope.dims, &dims).as_deref() != Some(&dims[..]) {
            return fault(node, format!("a slope of {:?} does not fit {dims:?}", slope.dims));
        }
        let positive = self.like(node, Layer::Relu, x)?;
        let negative = self.both(node, Layer::Sub, x, positive)?;
        let sloped = self.like(node, Layer::MulConst(slope), negative)?;
        self.push_output(node, 0, Layer::Add, vec![positive, sloped], &dims)
    }

    /// Comparisons and what is made of them: truths are zero and one.
    fn truth(&mut self, node: &Node) -> Result<()> {
        let (Some(a), Some(b)) = (self.known(node, 0)?, self.known(node, 1)?) else {
            return fault(node, "an operand is missing");
        };
        let (first, second, turned) = match node.op.as_str() {
            // a > b is not b >= a.
            "Greater" => (b, a, true),
            "Less" => (a, b, true),
            "GreaterOrEqual" => (a, b, false),
            "LessOrEqual" => (b, a, false),
            op => {
                // a + b - ab, ab, a + b - 2ab.
                let op = op.to_string();
                let product = self.computed(node, "Mul", a.clone(), b.clone())?;
                let y = match op.as_str() {
                    "And" => product,
                    _ => {
                        let sum = self.computed(node, "Add", a, b)?;
                        let by = if op == "Or" { 1.0 } else { 2.0 };
                        let product = self.scaled(node, product, by, 0.0)?;
                        self.both(node, Layer::Sub, sum, product)?
                    }
                };
                self.alias(node, y);
                return Ok(());
            }
        };
        let difference = self.computed(node, "Sub", first, second)?;
        let mut y = self.like(node, Layer::Step, difference)?;
        if turned {
            y = self.scaled(node, y, -1.0, 1.0)?;
        }
        self.alias(node, y);
        Ok(())
    }

    /// Powers by one public number: integers by products, halves by a root.
    fn power(&mut self, node: &Node) -> Result<()> {
        let (base, exponent) = (self.known(node, 0)?, self.known(node, 1)?);
        let one = |c: &Constant| {
            let t = crate::fold::as_float(c);
            t.data.first().copied().filter(|v| t.data.iter().all(|w| w == v)).map(|v| (v, t.dims))
        };
        match (base, exponent) {
            (Some(Known::Value(x)), Some(Known::Constant(c))) => {
                let Some((p, of)) = one(&c) else { return fault(node, "its exponents differ; one number is possible") };
                let dims = self.dims(x);
                let Some(out) = crate::fold::broadcast(&dims, &of) else {
                    return fault(node, "shapes do not broadcast");
                };
                let x = self.broadcast_to(node, x, &out)?;
                let y = self.raised(node, x, p)?;
                self.alias(node, y);
                Ok(())
            }
            (Some(Known::Constant(c)), Some(Known::Value(x))) => {
                let Some((base, of)) = one(&c).filter(|(b, _)| *b > 0.0 && b.is_finite()) else {
                    return fault(node, "its base must be one positive number");
                };
                let dims = self.dims(x);
                let Some(out) = crate::fold::broadcast(&dims, &of) else {
                    return fault(node, "shapes do not broadcast");
                };
                let x = self.broadcast_to(node, x, &out)?;
                let scaled = self.scaled(node, x, base.ln(), 0.0)?;
                let y = self.smooth(node, Smooth::Exp, scaled)?;
                self.alias(node, y);
                Ok(())
            }
            _ => fault(node, "powers of a computed value by a computed value are not supported"),
        }
    }

    fn raised(&mut self, node: &Node, x: ValueId, p: f32) -> Result<ValueId> {
        // Exporters compute halves in floats.
        let twice = (2.0 * p).round();
        let near = (2.0 * p - twice).abs() < 1e-5;
        let (given, p) = (p, twice / 2.0);
        if !near || p.abs() > 16.0 {
            return fault(node, format!("a power of {given} is not supported; whole numbers and halves up to 16 are"));
        }
        if p == 0.0 {
            return self.scaled(node, x, 0.0, 1.0);
        }
        if p < 0.0 {
            if p == -0.5 {
                return self.smooth(node, Smooth::InverseRoot, x);
            }
            let y = self.raised(node, x, -p)?;
            return self.inverse(node, y);
        }
        let root = (p.fract() != 0.0).then(|| self.smooth(node, Smooth::Sqrt, x)).transpose()?;
        let (mut rest, mut power, mut product) = (p as u32, x, root);
        while rest > 0 {
            if rest % 2 == 1 {
                product = Some(match product {
                    None => power,
                    Some(y) => self.both(node, Layer::Mul, y, power)?,
                });
            }
            rest /= 2;
            if rest > 0 {
                power = self.both(node, Layer::Mul, power, power)?;
            }
        }
        match product {
            Some(y) => Ok(y),
            None => fault(node, "it has no operand"),
        }
    }
}
