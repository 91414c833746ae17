//! Element-wise operators with one or two operands.

use super::{Attributes, Importer, Known, fault};
use crate::graph::Node;
use crate::network::{Layer, ValueId};
use crate::tensor::{Constant, Tensor};
use crate::{Result, fold};
use std::rc::Rc;

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
        if lo.is_nan() || hi.is_nan() || lo > hi {
            return fault(node, format!("bounds {lo} and {hi} make no sense"));
        }
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

    pub(super) fn arithmetic(&mut self, node: &Node) -> Result<()> {
        let mut sum = None;
        for i in 0..node.inputs.len() {
            let Some(next) = self.known(node, i)? else { return fault(node, format!("input {i} is missing")) };
            sum = Some(match sum {
                None => next,
                Some(previous) => {
                    let name = if i + 1 == node.inputs.len() {
                        node.outputs.first().cloned().unwrap_or_default()
                    } else {
                        format!("{}.{i}", node.name)
                    };
                    Known::Value(self.binary(node, previous, next, &name)?)
                }
            });
        }
        match sum {
            Some(Known::Value(id)) => self.alias(node, id),
            _ => return fault(node, "it has no inputs"),
        }
        Ok(())
    }

    pub(super) fn binary(&mut self, node: &Node, a: Known, b: Known, name: &str) -> Result<ValueId> {
        let shape = |k: &Known| match k {
            Known::Value(id) => self.dims(*id),
            Known::Constant(c) => c.dims().to_vec(),
        };
        let (da, db) = (shape(&a), shape(&b));
        let Some(out) = fold::broadcast(&da, &db) else {
            return fault(node, format!("shapes {da:?} and {db:?} do not broadcast"));
        };
        let float = |c: &Constant| match c {
            Constant::Float(t) if t.data.iter().all(|v| v.is_finite()) => {
                self.charge(node, t.data.len())?;
                Ok(t.clone())
            }
            _ => fault(node, "its constant must be finite floats"),
        };
        match (a, b) {
            (Known::Value(x), Known::Value(y)) => {
                let layer = match node.op.as_str() {
                    "Sub" => Layer::Sub,
                    "Mul" => Layer::Mul,
                    "Div" => return fault(node, "division by a computed value is not supported"),
                    _ => Layer::Add,
                };
                let x = self.broadcast_to(node, x, &out)?;
                let y = self.broadcast_to(node, y, &out)?;
                self.push(node, layer, vec![x, y], name, &out)
            }
            (x, y) => {
                let (x, c, reversed) = match (x, y) {
                    (Known::Value(x), Known::Constant(c)) => (x, c, false),
                    (Known::Constant(c), Known::Value(x)) => (x, c, true),
                    _ => return fault(node, "it has no computed input"),
                };
                let mut c = float(&c)?;
                let mut x = self.broadcast_to(node, x, &out)?;
                match (node.op.as_str(), reversed) {
                    ("Sub", false) => c.data.iter_mut().for_each(|v| *v = -*v),
                    ("Sub", true) => {
                        let minus = Rc::new(Tensor::new(&[1], vec![-1.0]));
                        x = self.push(node, Layer::MulConst(minus), vec![x], &format!("{name}.negated"), &out)?;
                    }
                    ("Div", false) if c.data.contains(&0.0) => return fault(node, "division by zero"),
                    ("Div", false) => c.data.iter_mut().for_each(|v| *v = 1.0 / *v),
                    ("Div", true) => return fault(node, "division by a computed value is not supported"),
                    _ => {}
                }
                let product = matches!(node.op.as_str(), "Mul" | "Div");
                let layer = match (self.per_channel(&c, &out), product) {
                    (Some(c), true) => {
                        let shift = Rc::new(Tensor::new(&c.dims, vec![0.0; c.data.len()]));
                        Layer::Affine { scale: Rc::new(c), shift }
                    }
                    (Some(c), false) => {
                        let scale = Rc::new(Tensor::new(&c.dims, vec![1.0; c.data.len()]));
                        Layer::Affine { scale, shift: Rc::new(c) }
                    }
                    (None, true) => Layer::MulConst(Rc::new(c)),
                    (None, false) => Layer::AddConst(Rc::new(c)),
                };
                self.push(node, layer, vec![x], name, &out)
            }
        }
    }

    pub(super) fn broadcast_to(&mut self, node: &Node, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        if self.net.shapes[x] == dims {
            return Ok(x);
        }
        let name = format!("{}.broadcast", node.name);
        self.push(node, Layer::Broadcast, vec![x], &name, dims)
    }
}
