//! Norms moved through ReLUs, for two parties: ReLU(a x + b) = |a| ReLU(sgn(a) x + b / |a|), where |a| goes into the weights of the layer behind
//! (CrypTFlow2's networks fold norms into the layer before; where a concatenation lies between, as in DenseNet, that cannot be).
//!
//! What is left is a secret sign a channel and a secret constant: no product, no truncation, and x need not be extended. A constant that is
//! larger than x can be says that the ReLU lets everything through, or nothing: what is over goes behind the ReLU, too.

use super::builder::{Builder, Pending};
use super::layers::{add, by_channel, spread};
use crate::network::{Layer, LayerNode, Network, ValueId};
use crate::program::{Op, Slot};
use crate::tensor::Tensor;
use sordino_mpc::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the layer behind a ReLU makes good: factors of its input's channels, and what is added to them before.
#[derive(Clone)]
pub(super) struct Behind {
    factors: Vec<f32>,
    rest: Vec<f32>,
}

/// Norms that may be moved, by their results.
pub(super) fn movable(net: &Network, kind: Kind) -> BTreeMap<ValueId, ValueId> {
    if kind != Kind::Two {
        return BTreeMap::new();
    }
    let uses = net.uses();
    let reader = |id: ValueId| -> Option<&LayerNode> {
        (uses[id] == 1).then(|| net.nodes.iter().find(|n| n.inputs.contains(&id))).flatten()
    };
    let moved = |node: &LayerNode| -> Option<(ValueId, ValueId)> {
        let Layer::Affine { scale, .. } = &node.layer else { return None };
        let rank = net.shapes[node.output].len();
        if !matches!(rank, 2 | 4) || scale.data.iter().all(|v| *v == 1.0) || scale.data.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let relu = reader(node.output).filter(|n| n.layer == Layer::Relu)?;
        let mut behind = reader(relu.output)?;
        // A mean between the two changes neither factors nor what is added, if padding has no part in it.
        if let Layer::AveragePool { window, .. } = &behind.layer
            && window.pad == [0; 4]
        {
            behind = reader(behind.output)?;
        }
        // Padding stays zero, but what is added behind the ReLU would not be.
        let fits = match &behind.layer {
            Layer::Conv { window, groups: 1, .. } => window.pad == [0; 4],
            Layer::MatMul { .. } => rank == 2,
            _ => false,
        };
        fits.then_some((node.output, relu.output))
    };
    net.nodes.iter().filter_map(moved).collect()
}

/// The ReLU's operand without the norm's factors; what the layer behind makes good.
pub(super) fn move_norm(b: &mut Builder, x: Slot, scale: &Tensor, shift: &Tensor) -> (Slot, Behind) {
    let most = b.reach(x) as f32;
    let mut behind = Behind { factors: vec![], rest: vec![] };
    let (mut signs, mut constants) = (vec![], vec![]);
    for (a, shift) in scale.data.iter().zip(shift.data.iter().cycle()) {
        let size = a.abs();
        let constant = (shift / size).clamp(-most, most);
        // A channel that does not depend on x is a constant: all of it is behind.
        let constant = if constant.is_finite() { constant } else { 0.0 };
        signs.push(if *a < 0.0 { -1.0 } else { 1.0 });
        constants.push(constant);
        behind.factors.push(size);
        // Only where the ReLU lets everything through is there anything left.
        behind.rest.push(if shift - size * constant > 0.0 { shift - size * constant } else { 0.0 });
    }
    let dims = b.dims(x);
    let small = by_channel(&dims);
    let channels = signs.len();
    let secret = |values: Vec<f32>, dims: &[usize]| Pending::Secret(Arc::new(Tensor::new(dims, values)));
    let signs = b.fixed(secret(signs, &[channels]), &[channels], 1.0, 1.0);
    let range = b.range(x);
    let flipped = b.like(x, 1.0, Pending::Done(Op::Flip { x, signs }), &dims, range);
    let largest = f64::from(constants.iter().fold(0.0f32, |m, v| m.max(v.abs())));
    let constants = b.like(x, 1.0, secret(constants, &small), &small, largest);
    let constants = spread(b, constants, &small, &dims);
    let z = add(b, flipped, constants, range + largest);
    (z, behind)
}

impl Behind {
    /// Weights (OHWI) of the layer behind, and what is added to its results.
    pub(super) fn absorb(&self, weight: &Tensor) -> (Tensor, Vec<f32>) {
        let (rows, channels) = (weight.dims[0], self.factors.len());
        let mut weight = weight.clone();
        let mut added = vec![0.0f64; rows];
        let per_row = weight.data.len() / rows.max(1);
        for (i, w) in weight.data.iter_mut().enumerate() {
            added[i / per_row] += f64::from(*w) * f64::from(self.rest[i % channels]);
            *w *= self.factors[i % channels];
        }
        (weight, added.into_iter().map(|v| v as f32).collect())
    }
}
