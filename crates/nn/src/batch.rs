//! Which axis of a network is its batch: along which every sample is computed by itself.
//!
//! A network is typed for the batch it was exported with, or for one that nothing else in it is likely to be as large as. The axis
//! is then followed from the inputs through every layer to the outputs. Where it can be followed, the same network serves any
//! batch; where samples mix, or the axis is lost among others, it serves none but the exported one.

use crate::network::{Layer, LayerNode, Network, ValueId};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Axes of the batch, one for each input and each output.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Batch {
    /// Of the inputs.
    pub inputs: Vec<usize>,
    /// Of the outputs.
    pub outputs: Vec<usize>,
}

/// Where the batch is in a value: its axis has `outer * batch * inner` elements, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    axis: usize,
    outer: usize,
    inner: usize,
}

/// What the network of one batch tells about others.
pub(crate) struct Followed {
    batch: usize,
    places: Vec<Option<Place>>,
    /// The axes.
    pub(crate) axes: Batch,
}

/// Why a network has no batch: the layer where samples meet, or lose their axis.
pub(crate) struct Mixed(pub(crate) String);

/// Follows the axes of the inputs through a network that is typed for `batch` samples. Outputs whose axis holds several elements of
/// each sample, one sample after the other, are taken if `merged`.
pub(crate) fn follow(net: &Network, inputs: &[usize], batch: usize, merged: bool) -> Result<Followed, Mixed> {
    let mut places: Vec<Option<Place>> = vec![None; net.shapes.len()];
    for (&id, &axis) in net.inputs.iter().zip(inputs) {
        if net.shapes[id].get(axis) != Some(&batch) {
            return Err(Mixed(format!("input {} has no axis {axis} of {batch}", net.names[id])));
        }
        places[id] = Some(Place { axis, outer: 1, inner: 1 });
    }
    for node in &net.nodes {
        let at: Option<Vec<Place>> = node.inputs.iter().map(|&i| places[i]).collect();
        let Some(place) = at.and_then(|at| layer(net, node, &at, batch)) else {
            return Err(Mixed(format!("node {} ({}) reads several samples at once", node.name, node.op)));
        };
        places[node.output] = Some(place);
    }
    let mut outputs = vec![];
    for (name, id) in &net.outputs {
        match places[*id] {
            Some(Place { axis, outer: 1, inner }) if merged || inner == 1 => outputs.push(axis),
            _ => return Err(Mixed(format!("output {name} has no axis for it"))),
        }
    }
    Ok(Followed { batch, places, axes: Batch { inputs: inputs.to_vec(), outputs } })
}

/// Where the batch is in a layer's result.
fn layer(net: &Network, node: &LayerNode, at: &[Place], batch: usize) -> Option<Place> {
    let x = at[0];
    let (dims, out) = (&net.shapes[node.inputs[0]], &net.shapes[node.output]);
    let same = || at.iter().all(|&y| y == x).then_some(x);
    let unless = |mixed: bool| (!mixed).then_some(x);
    match &node.layer {
        Layer::Conv { .. } | Layer::MatMul { .. } | Layer::MaxPool(_) | Layer::AveragePool { .. } => {
            unless(x.axis != 0)
        }
        Layer::BatchNorm { .. } | Layer::Lrn { .. } => unless(x.axis == 1),
        Layer::Affine { scale, shift } => unless(x.axis == 1 && !(uniform(scale) && uniform(shift))),
        Layer::PRelu(slope) => unless(x.axis == 1 && !uniform(slope)),
        Layer::Relu
        | Layer::Clip { .. }
        | Layer::LeakyRelu(_)
        | Layer::Scale { .. }
        | Layer::Step
        | Layer::Smooth(_)
        | Layer::Dropout(_) => Some(x),
        Layer::Add | Layer::Sub | Layer::Mul | Layer::Max => same(),
        Layer::AddConst(c) | Layer::MulConst(c) => {
            // Aligned from the right; the constant must not tell samples apart.
            let extent = (x.axis + c.dims.len()).checked_sub(dims.len()).map_or(1, |a| c.dims[a]);
            unless(extent != 1)
        }
        Layer::Broadcast => {
            let axis = x.axis + out.len() - dims.len();
            (out[axis] == dims[x.axis]).then_some(Place { axis, ..x })
        }
        Layer::Concat(axis) => same().filter(|x| x.axis != *axis),
        Layer::Slice { start, step, .. } => {
            unless(start[x.axis] != 0 || step[x.axis] != 1 || out[x.axis] != dims[x.axis])
        }
        Layer::Gather { source, .. } => {
            // Samples lie one after the other, and each is made from its own in the same way.
            let first = x.axis == 0 && x.outer == 1 && out.first().is_some_and(|d| d % batch == 0);
            let (from, to) = (dims.iter().product::<usize>() / batch, source.len() / batch);
            let same = |i: usize| match (source[i], source[i % to]) {
                (sordino_ring::PAD, s) => s == sordino_ring::PAD,
                (s, own) => {
                    own != sordino_ring::PAD && s as usize == own as usize + i / to * from && (own as usize) < from
                }
            };
            (first && (0..source.len()).all(same)).then(|| Place { axis: 0, outer: 1, inner: out[0] / batch })
        }
        Layer::Reshape => reshaped(x, dims, out, batch),
        Layer::Transpose(perm) => Some(Place { axis: perm.iter().position(|&p| p == x.axis)?, ..x }),
        Layer::Softmax { axis, end } | Layer::LogSoftmax { axis, end } => unless((*axis..*end).contains(&x.axis)),
        Layer::ArgMax(axis) => unless(*axis == x.axis),
        Layer::Training(_) => None,
    }
}

fn uniform(c: &Tensor) -> bool {
    c.data.windows(2).all(|v| v[0] == v[1])
}

/// The same elements before and after the batch, in other dimensions.
fn reshaped(x: Place, dims: &[usize], out: &[usize], batch: usize) -> Option<Place> {
    let outer = dims[..x.axis].iter().product::<usize>() * x.outer;
    let mut before = 1;
    for (axis, &d) in out.iter().enumerate() {
        let through = before * d;
        if through >= outer * batch && d > 0 {
            let fits = outer.is_multiple_of(before) && through.is_multiple_of(outer * batch);
            return fits.then(|| Place { axis, outer: outer / before, inner: through / (outer * batch) });
        }
        before = through;
    }
    None
}

/// Whether a network has the shapes of another one, as far as they are of any use.
pub(crate) fn alike(net: &Network, other: &Network) -> bool {
    let used = net.inputs.iter().copied().chain(net.nodes.iter().map(|n| n.output));
    net.nodes.len() == other.nodes.len() && used.into_iter().all(|id| net.shapes.get(id) == other.shapes.get(id))
}

/// The same network for another batch.
pub(crate) fn rebatched(net: &Network, followed: &Followed, batch: usize) -> Network {
    let mut net = net.clone();
    let old: Vec<Vec<usize>> = net.shapes.clone();
    for (dims, place) in net.shapes.iter_mut().zip(&followed.places) {
        if let Some(p) = place {
            dims[p.axis] = p.outer * batch * p.inner;
        }
    }
    let axis_of = |id: ValueId| followed.places[id].map(|p| p.axis);
    for node in &mut net.nodes {
        let channels = net.shapes[node.output].get(1).copied().unwrap_or(1);
        let resized = |c: &Arc<Tensor>| Arc::new(Tensor::new(&[channels], vec![c.data[0]; channels]));
        let across = axis_of(node.output) == Some(1);
        match &mut node.layer {
            Layer::Affine { scale, shift } if across => (*scale, *shift) = (resized(scale), resized(shift)),
            Layer::PRelu(slope) if across => *slope = resized(slope),
            Layer::Gather { source, .. } => {
                let to = source.len() / followed.batch;
                let from = old[node.inputs[0]].iter().product::<usize>() / followed.batch;
                let sample = |b: usize| {
                    let moved = move |&s: &u32| if s == sordino_ring::PAD { s } else { s + (b * from) as u32 };
                    source[..to].iter().map(moved).collect::<Vec<_>>()
                };
                *source = Arc::new((0..batch).flat_map(sample).collect());
            }
            _ => {}
        }
    }
    net
}
