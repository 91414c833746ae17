//! The gradient of each layer.

use super::{Kept, Maker, Rule};
use crate::network::{Layer, LayerNode, Training, ValueId};
use crate::{Error, Result};

/// Refuses, by name, a layer that has no gradient here.
pub(super) fn supported(node: &LayerNode) -> Result<()> {
    let known = matches!(
        node.layer,
        Layer::Relu
            | Layer::Reshape
            | Layer::Add
            | Layer::Sub
            | Layer::Mul
            | Layer::AveragePool { .. }
            | Layer::MaxPool(_)
            | Layer::Concat(_)
            | Layer::Slice { .. }
            | Layer::Transpose(_)
            | Layer::Smooth(_)
            | Layer::AddConst(_)
            | Layer::MulConst(_)
            | Layer::Affine { .. }
            | Layer::Scale { .. }
            | Layer::Softmax { .. }
    );
    if known {
        return Ok(());
    }
    Err(Error::Training(format!("{}: training does not support {} here", node.name, node.op)))
}

impl Maker {
    /// The gradients of a layer's operands and weights, if its result reaches the loss.
    pub(super) fn backward(&mut self, i: usize, node: &LayerNode, input: ValueId, rule: &Rule) -> Result<()> {
        let Some(dy) = self.gradients.get(&node.output).copied() else { return Ok(()) };
        let x = node.inputs[0];
        let name = format!("{}.gradient", node.name);
        if let Some(kept) = self.kept.remove(&i) {
            let dx = match &kept {
                Kept::Linear(w, b) => self.linear(node, *w, *b, dy, x != input, rule),
                Kept::Norm(kept) => {
                    let [weight, bias, dx] = self.norm_gradient(&node.name, kept, dy);
                    let (values, over) = Self::norm_parameters(kept);
                    let by = over / self.net.shapes[x][0] as f32;
                    for (value, gradient) in values.into_iter().zip([weight, bias]) {
                        self.optimise(value, by, 0.0, rule, |m, name, blend, others| {
                            let factors = std::iter::once(blend.gradient).chain(blend.others).collect();
                            let inputs = std::iter::once(gradient).chain(others).collect();
                            m.like(name, Training::Sum(factors), inputs, value)
                        });
                    }
                    Some(dx)
                }
            };
            if let Some(dx) = dx {
                self.add(x, dx);
            }
            return Ok(());
        }
        if x == input {
            // Nobody asks for the gradient of the samples; other operands may still want theirs.
            if node.inputs.iter().all(|&v| v == input) {
                return Ok(());
            }
        }
        let dims = self.net.shapes[x].clone();
        let dx = match &node.layer {
            Layer::Relu => self.like(&name, Training::Relu, vec![x, dy], x),
            Layer::AveragePool { window, include_pad } => {
                self.like(&name, Training::AveragePool(*window, *include_pad), vec![dy], x)
            }
            Layer::MaxPool(window) => self.like(&name, Training::MaxPool(*window), vec![x, node.output, dy], x),
            Layer::Reshape => self.push(&name, "Gradient", Layer::Reshape, vec![dy], &dims),
            Layer::AddConst(_) => dy,
            // Constants of the model stay what they are.
            Layer::MulConst(_) | Layer::Affine { .. } => match self.factors.get(&i).copied() {
                Some(factor) => self.like(&name, Training::Mul, vec![dy, factor], x),
                None => dy,
            },
            Layer::Scale { by, .. } => {
                self.push(&name, "Gradient", Layer::Scale { by: *by, add: 0.0 }, vec![dy], &dims)
            }
            Layer::Dropout(_) => {
                let forward = self.net.nodes.iter().find(|n| n.output == node.output).map(|n| n.layer.clone());
                match forward {
                    Some(Layer::Training(layer)) => self.like(&name, layer, vec![dy], x),
                    _ => dy,
                }
            }
            Layer::Add | Layer::Sub => {
                let second = match node.layer {
                    Layer::Add => dy,
                    _ => self.like(&format!("{name}.second"), Training::Sum(vec![-1.0]), vec![dy], x),
                };
                self.add(node.inputs[1], second);
                dy
            }
            Layer::Mul => {
                let other = node.inputs[1];
                let second = self.like(&format!("{name}.second"), Training::Mul, vec![dy, x], other);
                self.add(other, second);
                self.like(&name, Training::Mul, vec![dy, other], x)
            }
            Layer::Concat(axis) => {
                let rank = dims.len();
                let mut from = 0;
                for (j, &part) in node.inputs.iter().enumerate() {
                    let dims = self.net.shapes[part].clone();
                    let mut start = vec![0; rank];
                    start[*axis] = from;
                    from += dims[*axis] as isize;
                    let layer = Layer::Slice { start, step: vec![1; rank], fill: 0.0 };
                    let cut = self.push(&format!("{name}.{j}"), "Gradient", layer, vec![dy], &dims);
                    self.add(part, cut);
                }
                return Ok(());
            }
            Layer::Slice { start, step, .. } => {
                self.like(&name, Training::Unslice { start: start.clone(), step: step.clone() }, vec![dy], x)
            }
            Layer::Transpose(perm) => {
                let back = (0..perm.len()).map(|a| perm.iter().position(|&p| p == a).unwrap_or(a)).collect();
                self.push(&name, "Gradient", Layer::Transpose(back), vec![dy], &dims)
            }
            Layer::Smooth(f) => {
                let slope = self.like(&format!("{name}.slope"), Training::Slope(*f), vec![x], x);
                self.like(&name, Training::Mul, vec![dy, slope], x)
            }
            _ => return Err(Error::Training(format!("{}: training does not support {} here", node.name, node.op))),
        };
        self.add(x, dx);
        Ok(())
    }

    /// Weight and bias take their steps; returns the gradient of the operand if it is wanted.
    fn linear(
        &mut self,
        node: &LayerNode,
        w: ValueId,
        b: Option<ValueId>,
        dy: ValueId,
        wanted: bool,
        rule: &Rule,
    ) -> Option<ValueId> {
        let x = node.inputs[0];
        let mean = 1.0 / self.net.shapes[x][0] as f32;
        self.optimise(w, mean, rule.decay, rule, |m, name, blend, others| {
            let layer = match &node.layer {
                Layer::Conv { window, groups, .. } => Training::ConvWeight(*window, *groups, blend),
                _ => Training::FullWeight(blend),
            };
            m.like(name, layer, [vec![x, dy], others].concat(), w)
        });
        if let Some(b) = b {
            self.optimise(b, mean, 0.0, rule, |m, name, blend, others| {
                let sum = m.like(&format!("{}.bias.gradient", node.name), Training::ChannelSum(1.0), vec![dy], b);
                let factors = std::iter::once(blend.gradient).chain(blend.others).collect();
                m.like(name, Training::Sum(factors), std::iter::once(sum).chain(others).collect(), b)
            });
        }
        let layer = match &node.layer {
            Layer::Conv { window, groups, .. } => Training::ConvInput(*window, *groups),
            _ => Training::FullInput,
        };
        // It goes back through the weights of this step, not through the moved ones.
        wanted.then(|| self.like(&format!("{}.gradient", node.name), layer, vec![dy, w], x))
    }

    /// A value that several layers read has the sum of their gradients.
    fn add(&mut self, x: ValueId, dx: ValueId) {
        let sum = match self.gradients.get(&x) {
            None => dx,
            Some(&other) => {
                let (name, dims) = (format!("{}.gradients", self.net.names[x]), self.net.shapes[x].clone());
                self.push(&name, "Add", Layer::Add, vec![other, dx], &dims)
            }
        };
        self.gradients.insert(x, sum);
    }
}
