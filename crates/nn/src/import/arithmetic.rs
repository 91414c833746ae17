//! Element-wise operators with one or two operands.

use super::{Attributes, Importer, Known, fault};
use crate::graph::Node;
use crate::network::{Layer, ValueId};
use crate::tensor::{Constant, Tensor};
use crate::{Result, fold};
use std::sync::Arc;

impl Importer<'_> {
    pub(super) fn clip(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let bound = |i: usize, name: &str, default: f32| -> Result<f32> {
            Ok(match self.floats(node, i)? {
                Some(t) if t.data.len() == 1 => t.data[0],
                Some(_) => return fault(node, "a bound is not one number"),
                None => attrs.float(name, default),
            })
        };
        let (lo, hi) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        if lo.is_nan() || hi.is_nan() {
            return fault(node, format!("bounds {lo} and {hi} make no sense"));
        }
        // Where they cross, the upper one holds.
        let lo = lo.min(hi);
        let dims = self.dims(x);
        self.push_output(node, 0, Layer::Clip { lo, hi }, vec![x], &dims)
    }

    /// One value per channel (axis 1) if a constant is just that.
    pub(super) fn per_channel(&self, c: &Tensor, dims: &[usize]) -> Option<Tensor> {
        let channels = *dims.get(1)?;
        if c.data.len() == 1 {
            return Some(Tensor::new(&[channels], vec![c.data[0]; channels]));
        }
        // Aligned from the right: the channel axis has dims.len() - 2 axes after it.
        let at = c.dims.len().checked_sub(dims.len() - 1)?;
        let others = c.dims.iter().enumerate().all(|(a, &d)| a == at || d == 1);
        (others && c.dims.get(at) == Some(&channels)).then(|| Tensor::new(&[channels], c.data.clone()))
    }

    /// Operators of one or more operands, taken from left to right.
    pub(super) fn arithmetic(&mut self, node: &Node) -> Result<()> {
        let op = match node.op.as_str() {
            "Sum" | "Mean" => "Add",
            op => op,
        };
        let mut result = None;
        for i in 0..node.inputs.len() {
            let Some(next) = self.known(node, i)? else { return fault(node, format!("input {i} is missing")) };
            result = Some(match result {
                None => next,
                Some(previous) => match (&previous, &next) {
                    // Two constants among several operands.
                    (Known::Constant(x), Known::Constant(y)) => {
                        let pair = [Some(Arc::clone(x)), Some(Arc::clone(y))];
                        let part = Node { op: op.into(), ..node.clone() };
                        match fold::elementwise(&part, &pair, self.left.get())? {
                            Some(c) => Known::Constant(Arc::new(c)),
                            None => return fault(node, "its constants do not fit"),
                        }
                    }
                    _ => Known::Value(self.computed(node, op, previous, next)?),
                },
            });
        }
        let Some(Known::Value(mut id)) = result else { return fault(node, "it has no inputs") };
        if node.op == "Mean" && node.inputs.len() > 1 {
            id = self.scaled(node, id, 1.0 / node.inputs.len() as f32, 0.0)?;
        }
        self.alias(node, id);
        Ok(())
    }

    /// An operator of two operands, at least one of which is computed.
    pub(super) fn computed(&mut self, node: &Node, op: &str, a: Known, b: Known) -> Result<ValueId> {
        let shape = |k: &Known| match k {
            Known::Value(id) => self.dims(*id),
            Known::Constant(c) => c.dims().to_vec(),
        };
        let (da, db) = (shape(&a), shape(&b));
        let Some(out) = fold::broadcast(&da, &db) else {
            return fault(node, format!("shapes {da:?} and {db:?} do not broadcast"));
        };
        match (a, b) {
            (Known::Value(x), Known::Value(y)) => self.two(node, op, x, y, &out),
            (Known::Value(x), Known::Constant(c)) => self.with_constant(node, op, x, &c, false, &out),
            (Known::Constant(c), Known::Value(x)) => self.with_constant(node, op, x, &c, true, &out),
            _ => fault(node, "it has no computed input"),
        }
    }

    /// Both operands are computed.
    fn two(&mut self, node: &Node, op: &str, x: ValueId, y: ValueId, out: &[usize]) -> Result<ValueId> {
        let y = if op == "Div" { self.inverse(node, y)? } else { y };
        let [mut x, mut y] = [self.broadcast_to(node, x, out)?, self.broadcast_to(node, y, out)?];
        let layer = match op {
            "Add" => Layer::Add,
            "Sub" => Layer::Sub,
            "Mul" | "Div" => Layer::Mul,
            "Max" => Layer::Max,
            "Min" => {
                (x, y) = (self.scaled(node, x, -1.0, 0.0)?, self.scaled(node, y, -1.0, 0.0)?);
                let largest = self.both(node, Layer::Max, x, y)?;
                return self.scaled(node, largest, -1.0, 0.0);
            }
            _ => return fault(node, "it is not supported on two computed operands"),
        };
        self.inner(node, layer, vec![x, y], out)
    }

    /// One operand is a constant, the first one if `reversed`.
    fn with_constant(
        &mut self,
        node: &Node,
        op: &str,
        x: ValueId,
        c: &Constant,
        reversed: bool,
        out: &[usize],
    ) -> Result<ValueId> {
        let mut c = match c {
            Constant::Float(t) => {
                self.charge(node, t.data.len())?;
                (**t).clone()
            }
            Constant::Int(..) => fold::as_float(c),
        };
        if c.data.iter().any(|v| v.is_nan()) {
            return fault(node, "its constant holds what is no number");
        }
        // Infinite bounds and masks are the largest float, as other exporters write them.
        if matches!(op, "Add" | "Sub" | "Max" | "Min") {
            c.data.iter_mut().for_each(|v| *v = v.clamp(f32::MIN, f32::MAX));
        } else if c.data.iter().any(|v| v.is_infinite()) {
            return fault(node, "its constant is not finite");
        }
        if matches!(op, "Max" | "Min") {
            return self.bounded(node, x, c, op == "Max", out);
        }
        let mut x = x;
        if (op, reversed) == ("Div", true) {
            x = self.inverse(node, x)?;
        }
        x = self.broadcast_to(node, x, out)?;
        match (op, reversed) {
            ("Sub", false) => c.data.iter_mut().for_each(|v| *v = -*v),
            ("Sub", true) => x = self.scaled(node, x, -1.0, 0.0)?,
            ("Div", false) => {
                if c.data.contains(&0.0) {
                    return fault(node, "division by zero");
                }
                c.data.iter_mut().for_each(|v| *v = 1.0 / *v);
            }
            _ => {}
        }
        let product = matches!(op, "Mul" | "Div");
        let layer = match (self.per_channel(&c, out), product) {
            (Some(c), true) => {
                let shift = Arc::new(Tensor::new(&c.dims, vec![0.0; c.data.len()]));
                Layer::Affine { scale: Arc::new(c), shift }
            }
            (Some(c), false) => {
                let scale = Arc::new(Tensor::new(&c.dims, vec![1.0; c.data.len()]));
                Layer::Affine { scale, shift: Arc::new(c) }
            }
            (None, true) => Layer::MulConst(Arc::new(c)),
            (None, false) => Layer::AddConst(Arc::new(c)),
        };
        self.inner(node, layer, vec![x], out)
    }

    /// The larger or the smaller of a value and a constant.
    fn bounded(&mut self, node: &Node, x: ValueId, c: Tensor, above: bool, out: &[usize]) -> Result<ValueId> {
        let x = self.broadcast_to(node, x, out)?;
        if c.data.windows(2).all(|v| v[0] == v[1]) {
            let bound = c.data.first().copied().unwrap_or(0.0);
            let (lo, hi) = if above { (bound, f32::INFINITY) } else { (f32::NEG_INFINITY, bound) };
            return self.like(node, Layer::Clip { lo, hi }, x);
        }
        // c + relu(x - c), or c - relu(c - x).
        let minus = Tensor::new(&c.dims, c.data.iter().map(|v| -v).collect());
        let mut excess = self.like(node, Layer::AddConst(Arc::new(minus)), x)?;
        if !above {
            excess = self.scaled(node, excess, -1.0, 0.0)?;
        }
        excess = self.like(node, Layer::Relu, excess)?;
        if !above {
            excess = self.scaled(node, excess, -1.0, 0.0)?;
        }
        self.like(node, Layer::AddConst(Arc::new(c)), excess)
    }

    pub(super) fn broadcast_to(&mut self, node: &Node, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        if self.net.shapes[x] == dims {
            return Ok(x);
        }
        self.inner(node, Layer::Broadcast, vec![x], dims)
    }
}
