//! Normalisations: batch norms with the statistics of a training, and those that take statistics from the sample itself.

use super::reduce::Over;
use super::{Attributes, Importer, axis, fault};
use crate::Result;
use crate::graph::Node;
use crate::network::{Layer, Smooth, ValueId};
use crate::tensor::Tensor;
use std::sync::Arc;

impl Importer<'_> {
    pub(super) fn normalise(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let rank = dims.len();
        let epsilon = attrs.float("epsilon", 1e-5);
        if epsilon.is_nan() || epsilon < 0.0 {
            return fault(node, "its epsilon is negative");
        }
        if node.op == "BatchNormalization" {
            return self.batch_norm(node, attrs, x, epsilon);
        }
        if rank < 2 && node.op != "LpNormalization" && node.op != "LayerNormalization" && node.op != "RMSNormalization"
        {
            return fault(node, format!("{dims:?} has no channels"));
        }
        let y = match node.op.as_str() {
            "LayerNormalization" | "RMSNormalization" => {
                let at = axis(node, attrs.int("axis", -1), rank)?;
                let shape = [dims[..at].iter().product(), dims[at..].iter().product::<usize>()];
                let rows = self.reshaped(node, x, &shape)?;
                let rows = self.normalised(node, rows, epsilon, node.op == "LayerNormalization")?;
                let y = self.reshaped(node, rows, &dims)?;
                self.scale_and_shift(node, y)?
            }
            "InstanceNormalization" => {
                let y = self.grouped(node, x, dims[1], epsilon)?;
                self.channel_scale_and_shift(node, y, dims[1])?
            }
            "GroupNormalization" => {
                let groups = usize::try_from(attrs.int("num_groups", 0)).unwrap_or(0);
                if groups == 0 || !dims[1].is_multiple_of(groups) {
                    return fault(node, format!("{groups} groups do not fit {dims:?}"));
                }
                let y = self.grouped(node, x, groups, epsilon)?;
                // Until operator set 21 there is one scale for each group.
                self.channel_scale_and_shift(node, y, groups)?
            }
            "MeanVarianceNormalization" => {
                let axes = attrs.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
                let axes = axes.into_iter().map(|a| axis(node, a, rank)).collect::<Result<Vec<_>>>()?;
                let kept: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).collect();
                let perm: Vec<usize> = kept.iter().chain(&axes).copied().collect();
                let back: Vec<usize> = (0..rank).map(|a| perm.iter().position(|&p| p == a).unwrap_or(a)).collect();
                let moved = self.transposed(node, x, &perm)?;
                let shape = self.dims(moved);
                let rows = kept.iter().map(|&a| dims[a]).product();
                let n = axes.iter().map(|&a| dims[a]).product();
                let flat = self.reshaped(node, moved, &[rows, n])?;
                // The standard adds so much to the variance.
                let flat = self.normalised(node, flat, 1e-9, true)?;
                let moved = self.reshaped(node, flat, &shape)?;
                self.transposed(node, moved, &back)?
            }
            _ => {
                let at = axis(node, attrs.int("axis", -1), rank)?;
                let over = Over { axes: &[at], keep: true, n: dims[at] as f32 };
                let size = self.norm(node, x, &over, attrs.int("p", 2))?;
                let inverse = self.inverse(node, size)?;
                let inverse = self.broadcast_to(node, inverse, &dims)?;
                self.both(node, Layer::Mul, x, inverse)?
            }
        };
        self.alias(node, y);
        Ok(())
    }

    fn batch_norm(&mut self, node: &Node, attrs: &Attributes<'_>, x: ValueId, epsilon: f32) -> Result<()> {
        let dims = self.dims(x);
        let mut stats = vec![];
        for i in 1..5 {
            let s = self.weights(node, i)?;
            if dims.len() < 2 || s.data.len() != dims[1] {
                return fault(node, format!("input {i} has {} values for {dims:?}", s.data.len()));
            }
            stats.push(s);
        }
        let Ok(stats) = stats.try_into() else { return fault(node, "statistics are missing") };
        let stats: [Arc<Tensor>; 4] = stats;
        if let Some(v) = stats[3].data.iter().find(|v| **v + epsilon <= 0.0) {
            return fault(node, format!("a variance of {v} has no root"));
        }
        let momentum = 1.0 - attrs.float("momentum", 0.9);
        self.push_output(node, 0, Layer::BatchNorm { stats, epsilon, momentum }, vec![x], &dims)
    }

    /// Each row of `[rows, n]` over its deviation, and less its mean before that if it is centred.
    fn normalised(&mut self, node: &Node, x: ValueId, epsilon: f32, centred: bool) -> Result<ValueId> {
        let dims = self.dims(x);
        let over = Over { axes: &[1], keep: true, n: dims[1] as f32 };
        let x = if centred {
            let mean = self.mean(node, x, &over)?;
            let mean = self.broadcast_to(node, mean, &dims)?;
            self.both(node, Layer::Sub, x, mean)?
        } else {
            x
        };
        let square = self.both(node, Layer::Mul, x, x)?;
        let variance = self.mean(node, square, &over)?;
        let variance = self.scaled(node, variance, 1.0, epsilon)?;
        let inverse = self.smooth(node, Smooth::InverseRoot, variance)?;
        let inverse = self.broadcast_to(node, inverse, &dims)?;
        self.both(node, Layer::Mul, x, inverse)
    }

    /// Normalises so many groups of channels, each over its channels and all that follows.
    fn grouped(&mut self, node: &Node, x: ValueId, groups: usize, epsilon: f32) -> Result<ValueId> {
        let dims = self.dims(x);
        let n = dims[1..].iter().product::<usize>() / groups;
        let rows = self.reshaped(node, x, &[dims[0] * groups, n])?;
        let rows = self.normalised(node, rows, epsilon, true)?;
        self.reshaped(node, rows, &dims)
    }

    /// Scale and shift as they are broadcast.
    fn scale_and_shift(&mut self, node: &Node, y: ValueId) -> Result<ValueId> {
        let dims = self.dims(y);
        let mut y = y;
        for i in [1, 2] {
            if node.inputs.get(i).is_none_or(String::is_empty) {
                continue;
            }
            let c = self.weights(node, i)?;
            if crate::fold::broadcast(&c.dims, &dims).as_deref() != Some(&dims[..]) {
                return fault(node, format!("input {i} of {:?} does not fit {dims:?}", c.dims));
            }
            y = self.like(node, if i == 1 { Layer::MulConst(c) } else { Layer::AddConst(c) }, y)?;
        }
        Ok(y)
    }

    /// Scale and shift of each channel, or of each of so many groups of them.
    fn channel_scale_and_shift(&mut self, node: &Node, y: ValueId, groups: usize) -> Result<ValueId> {
        let dims = self.dims(y);
        let channels = dims[1];
        let mut both = vec![];
        for i in [1, 2] {
            let c = self.weights(node, i)?;
            let n = c.data.len();
            if n != channels && n != groups {
                return fault(node, format!("input {i} has {n} values for {channels} channels in {groups} groups"));
            }
            let data = (0..channels).map(|c_at| c.data[c_at * n / channels]).collect();
            both.push(Arc::new(Tensor::new(&[channels], data)));
        }
        let Some(shift) = both.pop() else { return Ok(y) };
        let Some(scale) = both.pop() else { return Ok(y) };
        self.like(node, Layer::Affine { scale, shift }, y)
    }
}
