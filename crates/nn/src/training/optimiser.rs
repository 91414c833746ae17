//! What becomes of a gradient, and at which rate.

use super::{Kind, Maker, Rule};
use crate::network::{Blend, Training, ValueId};
use crate::tensor::Tensor;

/// Largest relative error of one over the root of Adam's second moment.
const ADAM_ERROR: f32 = 1e-3;

/// How a gradient moves a value. Gradients are means over the batch, with the weight decay added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// `v = momentum * v + gradient; w = w - rate * v` (as PyTorch's SGD).
    Sgd {
        /// Momentum.
        momentum: f32,
    },
    /// `m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w = w - rate * c * m / sqrt(v + epsilon^2)` with the correction
    /// `c = sqrt(1 - b2^t) / (1 - b1^t)` in iteration t (Kingma and Ba 2015, end of section 2).
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// What keeps the step finite.
        epsilon: f32,
    },
}

/// The learning rate of every iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates(pub Vec<f32>);

impl Optimiser {
    /// Factors of the last tensor: the rates, corrected for the moments' start at zero.
    pub(super) fn rates(&self, rates: &Rates) -> Vec<f64> {
        let Self::Adam { beta1, beta2, .. } = *self else { return rates.0.iter().map(|&r| f64::from(r)).collect() };
        // Beyond this the correction is one; a schedule of one entry must still be corrected at the start.
        let iterations = rates.0.len().max((20.0 / (1.0 - f64::from(beta1.max(beta2)))) as usize);
        let last = rates.0.last().copied().unwrap_or(0.0);
        let corrected = (0..iterations).map(|i| {
            let t = i as i32 + 1;
            let rest = |beta: f32| 1.0 - f64::from(beta).powi(t);
            f64::from(rates.0.get(i).copied().unwrap_or(last)) * rest(beta2).sqrt() / rest(beta1)
        });
        corrected.collect()
    }
}

impl Maker {
    /// Adds what follows the gradient of a value: its states, their next values, and the step. `gradient` makes what a
    /// blend of the raw gradient and other values becomes; the raw gradient times `by` is the mean over the batch.
    pub(super) fn optimise(
        &mut self,
        value: ValueId,
        by: f32,
        decay: f32,
        rule: &Rule,
        gradient: impl FnOnce(&mut Self, &str, Blend, Vec<ValueId>) -> ValueId,
    ) {
        let (name, dims) = (self.net.names[value].clone(), self.net.shapes[value].clone());
        let zeros = || Tensor::new(&dims, vec![0.0; dims.iter().product()]);
        let named = |what: &str| format!("{name}.{what}");
        let mut blend = Blend { gradient: by, others: vec![] };
        let mut others = vec![];
        if decay != 0.0 {
            blend.others.push(decay);
            others.push(value);
        }
        let step = match rule.optimiser {
            Optimiser::Sgd { momentum: 0.0 } => gradient(self, &named("mean_gradient"), blend, others),
            Optimiser::Sgd { momentum } => {
                let velocity = self.state(&named("velocity"), Kind::Velocity, zeros());
                blend.others.push(momentum);
                others.push(velocity);
                let next = gradient(self, &named("velocity.next"), blend, others);
                self.next.insert(velocity, next);
                next
            }
            Optimiser::Adam { beta1, beta2, epsilon } => {
                let first = self.state(&named("moment"), Kind::Moment, zeros());
                let second = self.state(&named("square"), Kind::Moment, zeros());
                let g = gradient(self, &named("mean_gradient"), blend, others);
                let sum = Training::Sum(vec![beta1, 1.0 - beta1]);
                let next = self.like(&named("moment.next"), sum, vec![first, g], value);
                self.next.insert(first, next);
                let square = Training::Square(1.0 - beta2, beta2);
                let squared = self.like(&named("square.next"), square, vec![g, second], value);
                self.next.insert(second, squared);
                let root = Training::InverseRoot { epsilon: epsilon * epsilon, error: ADAM_ERROR };
                let root = self.like(&named("inverse_root"), root, vec![squared], value);
                self.like(&named("direction"), Training::Mul, vec![next, root], value)
            }
        };
        let moved = self.like(&named("next"), Training::Descend(0.0), vec![value, step], value);
        self.next.insert(value, moved);
    }
}
