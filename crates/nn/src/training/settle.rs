//! Ranges of what a training remembers: measured over its first iterations, made good for all of it.

use super::{Kind, TrainingStep};
use crate::network::{Layer, LayerNode, Training, ValueId};
use crate::{Range, Ranges};

impl TrainingStep {
    /// Raises ranges that were taken from the first `taken` iterations to what the states reach in a long training. An average
    /// of what is averaged never exceeds it; an average of squares stays within `margin` times its range as long as
    /// what is squared does within `margin` times its own; a velocity grows as it does under a constant gradient. Weights and biases live
    /// in the wide ring, which has room for them.
    pub fn settle(&self, ranges: &mut Ranges, taken: usize, margin: f64) {
        let first = |ids: &[ValueId]| ids.len() - self.states.len();
        let inputs = &self.net.inputs[first(&self.net.inputs)..];
        let outputs = &self.net.outputs[self.net.outputs.len() - self.states.len()..];
        let range = |ranges: &Ranges, id: ValueId| ranges.largest(&self.net.names[id]).unwrap_or_default();
        for ((state, &now), &(_, next)) in self.states.iter().zip(inputs).zip(outputs) {
            let makes = self.net.nodes.iter().find(|n| n.output == next);
            let measured = range(ranges, now).max(range(ranges, next));
            let settled = match state.kind {
                Kind::Value => measured,
                Kind::Velocity => {
                    let kept = makes.map_or(0.0, |n| kept(n, now));
                    measured / (1.0 - kept.powi(taken as i32))
                }
                Kind::Moment | Kind::Statistic => {
                    measured.max(makes.map_or(0.0, |n| average(n, now, margin, |id| range(ranges, id))))
                }
            };
            for id in [now, next] {
                ranges.values.insert(self.net.names[id].clone(), Range::within(settled));
            }
        }
    }
}

/// Share of a state that its next value keeps.
fn kept(node: &LayerNode, state: ValueId) -> f64 {
    let at = node.inputs.iter().position(|&i| i == state).unwrap_or_default();
    let factor = match &node.layer {
        Layer::Training(Training::Sum(factors)) => factors.get(at),
        // A blend's values come after a sample and a gradient.
        Layer::Training(Training::ConvWeight(.., rule) | Training::FullWeight(rule)) => {
            at.checked_sub(2).and_then(|at| rule.others.get(at))
        }
        Layer::Training(Training::Square(_, rest)) => Some(rest),
        _ => None,
    };
    f64::from(factor.copied().unwrap_or_default())
}

/// Bound of a state that averages the other operands of the node that makes its next value.
fn average(node: &LayerNode, state: ValueId, margin: f64, range: impl Fn(ValueId) -> f64) -> f64 {
    let added = match &node.layer {
        Layer::Training(Training::Sum(factors)) => {
            let others = node.inputs.iter().zip(factors).filter(|&(&i, _)| i != state);
            others.map(|(&i, &f)| f64::from(f.abs()) * range(i)).sum()
        }
        Layer::Training(Training::Square(of, _)) => f64::from(*of) * range(node.inputs[0]).powi(2) * margin,
        _ => 0.0,
    };
    added / (1.0 - kept(node, state)).max(f64::EPSILON)
}
