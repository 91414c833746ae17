//! Columns of very different sizes: an input whose columns, or channels, differ by more than a few bits is encoded with a public
//! power of two for each, which the first layers take back. One scale for all would leave the small ones no bits.

use crate::lower::{Range, Ranges};
use crate::network::{Layer, Network, ValueId};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Columns that are less than two to this apart share a scale well.
const FEW_BITS: i32 = 4;

/// Most bits a column is raised by.
const MOST_BITS: i32 = 40;

/// For each input, the powers of two its columns are times; nothing where they are all one.
pub(crate) type Columns = Vec<Option<Vec<i32>>>;

/// The network with columns of its inputs brought to one size, where its first layers allow.
pub(crate) fn evened(net: &Network, ranges: &Ranges) -> (Network, Ranges, Columns) {
    let (mut net, mut ranges) = (net.clone(), ranges.clone());
    let inputs = net.inputs.clone();
    let columns = inputs.iter().map(|&id| even(&mut net, &mut ranges, id)).collect();
    (net, ranges, columns)
}

fn even(net: &mut Network, ranges: &mut Ranges, id: ValueId) -> Option<Vec<i32>> {
    let sizes = ranges.columns.get(&net.names[id])?;
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    if net.shapes[id].get(1) != Some(&sizes.len()) || !largest.is_finite() || largest <= 0.0 {
        return None;
    }
    let raised =
        |size: &f64| if *size > 0.0 { ((largest / size).log2().floor() as i32).clamp(0, MOST_BITS) } else { 0 };
    let bits: Vec<i32> = sizes.iter().map(raised).collect();
    if bits.iter().all(|&b| b < FEW_BITS) {
        return None;
    }
    let lowered: Vec<f32> = bits.iter().map(|&b| 2f32.powi(-b)).collect();
    let mut layers = vec![];
    for (at, node) in net.nodes.iter().enumerate().filter(|(_, n)| n.inputs.contains(&id)) {
        layers.push((at, taken_back(&node.layer, &lowered)?));
    }
    if net.outputs.iter().any(|(_, o)| *o == id) {
        return None;
    }
    for (at, layer) in layers {
        net.nodes[at].layer = layer;
    }
    ranges.values.insert(net.names[id].clone(), Range::within(largest));
    Some(bits)
}

/// The layer on an operand whose columns were raised.
fn taken_back(layer: &Layer, lowered: &[f32]) -> Option<Layer> {
    let times = |t: &Arc<Tensor>, column: &dyn Fn(usize) -> usize| {
        let data = t.data.iter().enumerate().map(|(i, v)| v * lowered[column(i)]).collect();
        Arc::new(Tensor::new(&t.dims, data))
    };
    Some(match layer {
        Layer::Affine { scale, shift } => Layer::Affine { scale: times(scale, &|i| i), shift: Arc::clone(shift) },
        Layer::MatMul { weight, bias } => {
            let n = weight.dims[1];
            Layer::MatMul { weight: times(weight, &|i| i / n), bias: bias.clone() }
        }
        Layer::Conv { window, groups, weight, bias } => {
            let [o, c, h, w] = weight.dims[..] else { return None };
            let column = move |i: usize| i / (c * h * w) / (o / groups) * c + i / (h * w) % c;
            Layer::Conv { window: *window, groups: *groups, weight: times(weight, &column), bias: bias.clone() }
        }
        _ => return None,
    })
}
