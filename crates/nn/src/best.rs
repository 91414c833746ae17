//! Answers that are places of the best classes alone: what is opened tells less of the model than scores do.

use crate::graph::{Attribute, Graph, Node};
use crate::lower::{Range, Ranges};
use crate::network::Network;
use crate::tensor::{Constant, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of the scores that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Classes: elements of axis 1.
    pub classes: usize,
    /// The largest magnitude that a score may have: what is calibrated, times the margin.
    pub largest: f64,
}

/// Leaves the places, on axis 1, of the `most` largest elements of the first output: `[batch]` for one, `[batch, most]` for more, the best
/// first, and of equal ones the first.
///
/// Every further place costs as many comparisons again as the best one, twice: each class is asked whether it was taken, and what was is put
/// below everything.
pub fn answer_best(graph: &mut Graph, most: usize, scores: Scores) -> Added {
    let mut builder = Builder { graph, ranges: BTreeMap::new() };
    let name = builder.free("class");
    let mut x = builder.graph.outputs.first().cloned().unwrap_or_default();
    let places = Range::within(scores.classes as f64);
    let beyond = 2.0 * scores.largest;
    let mut all = vec![];
    for i in 1..=most {
        let one = if most == 1 { name.clone() } else { format!("{name}.{i}") };
        let keep = i64::from(most > 1);
        let axis = [("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(keep))];
        builder.node("ArgMax", &one, &[&x], axis.into(), places);
        all.push(one.clone());
        if i == most {
            break;
        }
        // The classes' thresholds lie between them: those at the ends are known.
        let at = |what: &str| format!("{one}.{what}");
        let edges: Vec<f32> = (1..scores.classes).map(|j| j as f32 - 0.5).collect();
        builder.constant(&at("edges"), &[1, edges.len()], edges);
        builder.node("Less", &at("below"), &[&one, &at("edges")], [].into(), places);
        builder.constant(&at("one"), &[], vec![1.0]);
        builder.int(&at("after"), vec![0, 0, 0, 1]);
        builder.int(&at("before"), vec![0, 1, 0, 0]);
        builder.node("Pad", &at("up to"), &[&at("below"), &at("after"), &at("one")], [].into(), Range::within(1.0));
        builder.node("Pad", &at("before it"), &[&at("below"), &at("before")], [].into(), Range::within(1.0));
        builder.node("Sub", &at("taken"), &[&at("up to"), &at("before it")], [].into(), Range::within(1.0));
        builder.constant(&at("beyond"), &[], vec![beyond as f32]);
        builder.node("Mul", &at("away"), &[&at("taken"), &at("beyond")], [].into(), Range::within(beyond));
        let rest = at("rest");
        builder.node("Sub", &rest, &[&x, &at("away")], [].into(), Range::within(scores.largest + beyond));
        x = rest;
    }
    if most > 1 {
        let parts: Vec<&str> = all.iter().map(String::as_str).collect();
        builder.node("Concat", &name, &parts, [("axis", Attribute::Int(1))].into(), places);
    }
    builder.graph.outputs = vec![name.clone()];
    Added(builder.ranges)
}

/// What a calibration of the model itself knows nothing of: the ranges of what was added to it.
pub struct Added(BTreeMap<String, Range>);

impl Added {
    /// Adds them to a calibration, for the graph as it was typed and passed.
    pub fn complete(&self, net: &Network, ranges: &mut Ranges) {
        for value in &net.names {
            // What a node is made of has its name, and more.
            let of = |(name, _): &(&String, &Range)| value == *name || value.starts_with(&format!("{name}:"));
            if let Some((_, range)) = self.0.iter().find(of) {
                ranges.values.insert(value.clone(), *range);
            }
        }
    }
}

struct Builder<'a> {
    graph: &'a mut Graph,
    ranges: BTreeMap<String, Range>,
}

impl Builder<'_> {
    /// A name that nothing begins with.
    fn free(&self, name: &str) -> String {
        let mut name = name.to_string();
        let taken = |name: &str| {
            let values = self.graph.nodes.iter().flat_map(|n| n.outputs.iter().chain([&n.name]));
            values.chain(self.graph.constants.keys()).any(|other| other.starts_with(name))
        };
        while taken(&name) {
            name.push('_');
        }
        name
    }

    fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<(&str, Attribute)>, range: Range) {
        self.ranges.insert(name.to_string(), range);
        self.graph.nodes.push(Node {
            name: name.to_string(),
            op: op.into(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![name.to_string()],
            attributes: attributes.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        });
    }

    fn constant(&mut self, name: &str, dims: &[usize], values: Vec<f32>) {
        self.graph.constants.insert(name.to_string(), Constant::Float(Arc::new(Tensor::new(dims, values))));
    }

    fn int(&mut self, name: &str, values: Vec<i64>) {
        self.graph.constants.insert(name.to_string(), Constant::Int(vec![values.len()], values));
    }
}
