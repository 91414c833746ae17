//! Numbers that stand for infinity: masks added before a softmax, and what padding puts where a maximum is taken. What they do does
//! not depend on how large they are, so they are brought near the values beside them and leave those their precision.

use crate::lower::{Range, Ranges};
use crate::network::{Layer, LayerNode, Network, ValueId};
use crate::tensor::Tensor;
use std::sync::Arc;

/// How far below all others a masked logit has no weight left: e^-20 is 2e-9.
const BELOW: f64 = 20.0;

/// How many times a value's range a number must be to stand for infinity.
const MANY: f64 = 4.0;

/// What reads a value in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Softmax,
    Maximum,
}

/// The network and ranges with such numbers replaced; ranges with room of `margin` above them.
#[must_use]
pub fn tamed(net: &Network, ranges: &Ranges, margin: f64) -> (Network, Ranges) {
    let (mut net, mut ranges) = (net.clone(), ranges.clone());
    for at in 0..net.nodes.len() {
        let node = net.nodes[at].clone();
        let Some(own) = node.inputs.first().and_then(|&x| ranges.values.get(&net.names[x]).copied()) else { continue };
        let reach = own.largest().max(1e-9) * margin;
        let Some(change) = change(&net, &node, own, reach, margin) else { continue };
        let (layer, range) = change;
        net.nodes[at].layer = layer;
        // What only moves the value's elements has the same range.
        let mut same = vec![node.output];
        for next in &net.nodes[at + 1..] {
            let moved =
                matches!(next.layer, Layer::Reshape | Layer::Transpose(_) | Layer::Slice { .. } | Layer::Broadcast);
            if moved && next.inputs.iter().all(|x| same.contains(x)) {
                same.push(next.output);
            }
        }
        for id in same {
            ranges.values.insert(net.names[id].clone(), range);
        }
    }
    (net, ranges)
}

/// The layer with its numbers brought near, and the range of its result; nothing if there are none.
fn change(net: &Network, node: &LayerNode, own: Range, reach: f64, margin: f64) -> Option<(Layer, Range)> {
    let far = |v: f32| f64::from(v) < -MANY * reach;
    match &node.layer {
        Layer::Slice { fill, .. } | Layer::Gather { fill, .. } if far(*fill) => {
            let near = match reader(net, node.output)? {
                // Never above a value of the window.
                Reader::Maximum => -reach,
                Reader::Softmax => -(2.0 * reach + BELOW),
            } as f32;
            let layer = match &node.layer {
                Layer::Slice { start, step, .. } => {
                    Layer::Slice { start: start.clone(), step: step.clone(), fill: near }
                }
                Layer::Gather { source, .. } => Layer::Gather { source: Arc::clone(source), fill: near },
                _ => return None,
            };
            Some((layer, own.or(Range { lo: f64::from(near) / margin, hi: own.hi })))
        }
        Layer::AddConst(c) | Layer::Affine { shift: c, .. } if c.data.iter().any(|&v| far(v)) => {
            if reader(net, node.output)? != Reader::Softmax {
                return None;
            }
            // What is above it is itself an addend.
            let largest = c.data.iter().filter(|v| !far(**v)).fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
            let near = -(2.0 * (reach + largest) + BELOW);
            let tame = |c: &Tensor| {
                Arc::new(Tensor::new(&c.dims, c.data.iter().map(|&v| if far(v) { near as f32 } else { v }).collect()))
            };
            let (layer, factor) = match &node.layer {
                Layer::AddConst(c) => (Layer::AddConst(tame(c)), 1.0),
                Layer::Affine { scale, shift } => {
                    let factor = f64::from(scale.max_abs());
                    (Layer::Affine { scale: Arc::clone(scale), shift: tame(shift) }, factor.max(1.0))
                }
                _ => return None,
            };
            let top = own.largest() * factor + largest;
            Some((layer, Range { lo: near - own.largest() * factor, hi: top }))
        }
        _ => None,
    }
}

/// What all readers of a value are, whatever moves its elements in between; nothing if they differ, or an output is among them.
fn reader(net: &Network, value: ValueId) -> Option<Reader> {
    if net.outputs.iter().any(|(_, id)| *id == value) {
        return None;
    }
    let mut found = None;
    for node in net.nodes.iter().filter(|n| n.inputs.contains(&value)) {
        let this = match &node.layer {
            Layer::Softmax { .. } => Reader::Softmax,
            Layer::MaxPool(_) | Layer::Max => Reader::Maximum,
            Layer::Reshape | Layer::Transpose(_) | Layer::Slice { fill: 0.0, .. } | Layer::Broadcast => {
                reader(net, node.output)?
            }
            _ => return None,
        };
        if found.is_some_and(|f| f != this) {
            return None;
        }
        found = Some(this);
    }
    found
}
