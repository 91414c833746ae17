//! Batch norm by the batch's own statistics (Ioffe and Szegedy, 2015), and its gradient.

use super::{Kept as Layers, Maker, Part};
use crate::network::{Layer, LayerNode, Training, ValueId};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::sync::Arc;

/// Largest relative error of one over the deviation.
const ERROR: f32 = 1e-5;

/// What the gradient needs of the forward part.
pub(super) struct Kept {
    scale: ValueId,
    shift: ValueId,
    centred: ValueId,
    /// One over the deviation, and the scale times that.
    inverse: ValueId,
    factor: ValueId,
    /// Elements of a channel.
    count: usize,
}

impl Maker {
    /// y = (x - mean) a + shift with a = scale / sqrt(variance + epsilon).
    pub(super) fn norm(
        &mut self,
        i: usize,
        node: &LayerNode,
        [scale, shift, mean, variance]: &[Arc<Tensor>; 4],
        epsilon: f32,
        momentum: f32,
    ) -> Result<()> {
        let x = node.inputs[0];
        let dims = self.net.shapes[x].clone();
        if !matches!(dims.len(), 2 | 4) {
            return Err(Error::Training(format!(
                "{}: batch norm of rank {}; 2 and 4 are possible",
                node.name,
                dims.len()
            )));
        }
        let (channels, count) = (dims[1], dims.iter().product::<usize>() / dims[1]);
        let name = |what: &str| format!("{}.{what}", node.name);
        let scale = self.parameter(&node.name, Part::Weight, (**scale).clone());
        let shift = self.parameter(&node.name, Part::Bias, (**shift).clone());
        let running = [(Part::Mean, mean), (Part::Variance, variance)];
        let [running_mean, running_variance] = running.map(|(p, t)| self.parameter(&node.name, p, (**t).clone()));
        let channel = |m: &mut Self, what: &str, layer: Training, inputs: Vec<ValueId>| {
            m.push(&name(what), "BatchNormalization", Layer::Training(layer), inputs, &[channels])
        };
        let (mean, one) = if self.answering {
            (running_mean, None)
        } else {
            if count < 2 {
                return Err(Error::Training(format!("{}: batch norm needs a larger batch", node.name)));
            }
            let by = 1.0 / count as f32;
            (channel(self, "batch_mean", Training::ChannelSum(by), vec![x]), Some(by))
        };
        let centred = self.like(&name("centred"), Training::Centre, vec![x, mean], x);
        let variance = match one {
            None => running_variance,
            Some(by) => {
                let variance = channel(self, "batch_variance", Training::ChannelDot(by), vec![centred, centred]);
                // The running variance takes the unbiased one.
                let unbiased = momentum * count as f32 / (count - 1) as f32;
                let next = Training::Sum(vec![1.0 - momentum, momentum]);
                let next = channel(self, "mean.next", next, vec![running_mean, mean]);
                self.next.insert(running_mean, next);
                let next = Training::Sum(vec![1.0 - momentum, unbiased]);
                let next = channel(self, "variance.next", next, vec![running_variance, variance]);
                self.next.insert(running_variance, next);
                variance
            }
        };
        let root = Training::InverseRoot { epsilon, error: ERROR };
        let inverse = channel(self, "inverse_deviation", root, vec![variance]);
        let factor = channel(self, "factor", Training::Mul, vec![scale, inverse]);
        let layer = Layer::Training(Training::ChannelScale);
        self.net.nodes.push(LayerNode { layer, inputs: vec![centred, factor, shift], ..node.clone() });
        self.kept.insert(i, Layers::Norm(Kept { scale, shift, centred, inverse, factor, count }));
        Ok(())
    }

    /// With the sums s of dy and t of dy times x - mean, over m elements, and r one over the deviation:
    /// dx = a (dy - s / m - (x - mean) r^2 t / m); the scale's gradient is t r, the shift's is s. Returns these two, over -m,
    /// and dx.
    pub(super) fn norm_gradient(&mut self, name: &str, kept: &Kept, dy: ValueId) -> [ValueId; 3] {
        let Kept { centred, inverse, factor, scale, count, .. } = *kept;
        let by = -1.0 / count as f32;
        let shift = self.like(&format!("{name}.bias.gradient"), Training::ChannelSum(by), vec![dy], scale);
        let dot = self.like(&format!("{name}.dot"), Training::ChannelDot(by), vec![dy, centred], scale);
        let scaled = self.like(&format!("{name}.weight.gradient"), Training::Mul, vec![dot, inverse], scale);
        let product = self.like(&format!("{name}.product"), Training::Mul, vec![scaled, factor], scale);
        let slope = self.like(&format!("{name}.slope"), Training::Mul, vec![product, inverse], scale);
        let offset = self.like(&format!("{name}.offset"), Training::Mul, vec![shift, factor], scale);
        let inputs = vec![dy, factor, centred, slope, offset];
        let dx = self.like(&format!("{name}.gradient"), Training::ChannelScale, inputs, dy);
        [scaled, shift, dx]
    }

    pub(super) fn norm_parameters(kept: &Kept) -> ([ValueId; 2], f32) {
        ([kept.scale, kept.shift], -(kept.count as f32))
    }
}
