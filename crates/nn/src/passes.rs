//! Passes from network to network. Each keeps the function and makes it cheaper to compute on shares.

use crate::network::{Layer, LayerNode, Network};
use crate::tensor::Tensor;
use std::sync::Arc;

/// The passes of training, in order: weights stay those of the model.
pub(crate) fn for_training(net: &mut Network) {
    bends_to_relus(net);
    relus_last(net);
    remove_unused(net);
}

/// The passes of inference, in order.
pub(crate) fn for_inference(net: &mut Network) {
    drop_dropouts(net);
    batch_norms_to_affine(net);
    fold_affine(net);
    fold_affine_forward(net);
    relus_last(net);
    pool_before_linear(net);
    remove_unused(net);
}

/// Clips and leaky ReLUs are made of ReLUs, whose gradient there is.
fn bends_to_relus(net: &mut Network) {
    let nodes = std::mem::take(&mut net.nodes);
    for node in nodes {
        let x = node.inputs[0];
        let dims = net.shapes[x].clone();
        // A layer in between; the last one makes the node's own result.
        let mut make = |what: &str, layer: Layer, inputs: Vec<usize>| {
            let output = net.value(&format!("{}.{what}", net.names[node.output]), &dims);
            net.nodes.push(LayerNode {
                name: format!("{}.{what}", node.name),
                layer,
                inputs,
                output,
                op: node.op.clone(),
            });
            output
        };
        let last = match &node.layer {
            // alpha x + (1 - alpha) max(x, 0)
            Layer::LeakyRelu(alpha) => {
                let positive = make("positive", Layer::Relu, vec![x]);
                let high = make("high", Layer::Scale { by: 1.0 - alpha, add: 0.0 }, vec![positive]);
                let low = make("low", Layer::Scale { by: *alpha, add: 0.0 }, vec![x]);
                Some((Layer::Add, vec![low, high]))
            }
            Layer::PRelu(slope) => {
                let zero = Arc::new(Tensor::new(&slope.dims, vec![0.0; slope.data.len()]));
                let rest = Tensor::new(&slope.dims, slope.data.iter().map(|v| 1.0 - v).collect());
                let positive = make("positive", Layer::Relu, vec![x]);
                let high = Layer::Affine { scale: Arc::new(rest), shift: Arc::clone(&zero) };
                let high = make("high", high, vec![positive]);
                let low = make("low", Layer::Affine { scale: Arc::clone(slope), shift: zero }, vec![x]);
                Some((Layer::Add, vec![low, high]))
            }
            // lo + max(x - lo, 0) - max(x - hi, 0), leaving out bounds that are none
            Layer::Clip { lo, hi } => {
                let (low, high) = (lo.abs() < UNBOUNDED, hi.abs() < UNBOUNDED);
                let mut y = x;
                if low {
                    let above = make("above", Layer::Scale { by: 1.0, add: -lo }, vec![x]);
                    let kept = make("kept", Layer::Relu, vec![above]);
                    y = make("raised", Layer::Scale { by: 1.0, add: *lo }, vec![kept]);
                }
                let excess = if high {
                    let over = make("over", Layer::Scale { by: 1.0, add: -hi }, vec![x]);
                    Some(make("excess", Layer::Relu, vec![over]))
                } else {
                    None
                };
                Some(match excess {
                    Some(excess) => (Layer::Sub, vec![y, excess]),
                    None => (Layer::Reshape, vec![y]),
                })
            }
            _ => None,
        };
        net.nodes.push(match last {
            Some((layer, inputs)) => LayerNode { layer, inputs, ..node },
            None => node,
        });
    }
}

/// Magnitude from which on a bound is none.
const UNBOUNDED: f32 = 1e30;

/// Drops layers whose result nobody reads.
pub(crate) fn remove_unused(net: &mut Network) {
    loop {
        let uses = net.uses();
        let before = net.nodes.len();
        net.nodes.retain(|n| uses[n.output] > 0);
        if net.nodes.len() == before {
            return;
        }
    }
}

/// Outside training a dropout is the identity.
fn drop_dropouts(net: &mut Network) {
    while let Some(at) = net.nodes.iter().position(|n| matches!(n.layer, Layer::Dropout(_))) {
        let node = net.nodes.remove(at);
        let inputs = net.nodes.iter_mut().flat_map(|n| &mut n.inputs);
        let outputs = net.outputs.iter_mut().map(|(_, v)| v);
        inputs.chain(outputs).filter(|v| **v == node.output).for_each(|v| *v = node.inputs[0]);
    }
}

/// Batch norm with fixed statistics is a scale and a shift per channel.
fn batch_norms_to_affine(net: &mut Network) {
    for node in &mut net.nodes {
        if let Layer::BatchNorm { stats: [scale, shift, mean, var], epsilon, .. } = &node.layer {
            let c = scale.data.len();
            let s: Vec<f32> = (0..c).map(|i| scale.data[i] / (var.data[i] + epsilon).sqrt()).collect();
            let t = (0..c).map(|i| shift.data[i] - mean.data[i] * s[i]).collect();
            node.layer = Layer::Affine { scale: Arc::new(Tensor::new(&[c], s)), shift: Arc::new(Tensor::new(&[c], t)) };
        }
    }
}

/// Magnitude from which on what is added may be a mask.
const MASK: f32 = 1000.0;

/// Folds a scale and shift into the linear layer or the scale and shift before it, where nobody else reads that.
fn fold_affine(net: &mut Network) {
    let mut i = 0;
    while i < net.nodes.len() {
        let Layer::Affine { scale, shift } = net.nodes[i].layer.clone() else {
            i += 1;
            continue;
        };
        let input = net.nodes[i].inputs[0];
        // A mask is no bias: what it does to a softmax is seen where it is added.
        let mask = shift.max_abs() > MASK;
        let producer = net.nodes.iter().position(|n| n.output == input).filter(|_| !mask);
        let folded = producer.filter(|_| net.uses()[input] == 1).and_then(|p| {
            let layer = match &net.nodes[p].layer {
                Layer::Conv { window, groups, weight, bias } => Layer::Conv {
                    window: *window,
                    groups: *groups,
                    weight: Arc::new(scale_rows(weight, &scale.data)),
                    bias: Some(Arc::new(scale_bias(bias.as_deref(), &scale, &shift))),
                },
                Layer::MatMul { weight, bias } => {
                    let n = scale.data.len();
                    let data = weight.data.iter().enumerate().map(|(j, v)| v * scale.data[j % n]).collect();
                    Layer::MatMul {
                        weight: Arc::new(Tensor::new(&weight.dims, data)),
                        bias: Some(Arc::new(scale_bias(bias.as_deref(), &scale, &shift))),
                    }
                }
                Layer::Affine { scale: s, shift: t } => Layer::Affine {
                    scale: Arc::new(scale_rows(s, &scale.data)),
                    shift: Arc::new(scale_bias(Some(t), &scale, &shift)),
                },
                _ => return None,
            };
            Some((p, layer))
        });
        match folded {
            Some((p, layer)) => {
                // The merged layer takes the later one's place in the graph and keeps its own name.
                let output = net.nodes[i].output;
                net.nodes[p].layer = layer;
                net.nodes[p].output = output;
                net.nodes.remove(i);
            }
            None => i += 1,
        }
    }
}

/// Folds a scale and shift into the matrix product behind it, where nobody else reads it.
fn fold_affine_forward(net: &mut Network) {
    let mut i = 0;
    while i < net.nodes.len() {
        let (Layer::Affine { scale, shift }, output) = (net.nodes[i].layer.clone(), net.nodes[i].output) else {
            i += 1;
            continue;
        };
        let reader =
            net.nodes.iter().position(|n| n.inputs.contains(&output) && matches!(n.layer, Layer::MatMul { .. }));
        let Some(at) = reader.filter(|_| net.uses()[output] == 1 && shift.max_abs() <= MASK * 1e6) else {
            i += 1;
            continue;
        };
        if let Layer::MatMul { weight, bias } = &net.nodes[at].layer {
            let n = weight.dims[1];
            let added = (0..n).map(|j| {
                let old = bias.as_ref().map_or(0.0, |b| f64::from(b.data[j]));
                let sum = |k: usize| f64::from(shift.data[k]) * f64::from(weight.data[k * n + j]);
                (old + (0..weight.dims[0]).map(sum).sum::<f64>()) as f32
            });
            let bias = Some(Arc::new(Tensor::new(&[n], added.collect())));
            let weight = Arc::new(scale_rows(weight, &scale.data));
            net.nodes[at].layer = Layer::MatMul { weight, bias };
            net.nodes[at].inputs = net.nodes[i].inputs.clone();
            net.nodes.remove(i);
        } else {
            i += 1;
        }
    }
}

fn scale_rows(weight: &Tensor, scale: &[f32]) -> Tensor {
    let inner = weight.data.len() / scale.len();
    Tensor::new(&weight.dims, weight.data.iter().enumerate().map(|(i, v)| v * scale[i / inner]).collect())
}

fn scale_bias(bias: Option<&Tensor>, scale: &Tensor, shift: &Tensor) -> Tensor {
    let old = |i: usize| bias.map_or(0.0, |b| b.data[i]);
    Tensor::new(&shift.dims, (0..shift.data.len()).map(|i| old(i) * scale.data[i] + shift.data[i]).collect())
}

/// Moves ReLUs behind maxima and concatenations, as far as that goes: where branches are joined and then pooled, behind both.
fn relus_last(net: &mut Network) {
    loop {
        let before: Vec<usize> = net.nodes.iter().map(|n| n.output).collect();
        pool_before_relu(net);
        concat_before_relu(net);
        // A pooling that comes before its ReLU moves no node; a concatenation does, and only behind one is there more to do.
        if net.nodes.iter().map(|n| n.output).eq(before) {
            return;
        }
    }
}

/// max-pool(relu(x)) = relu(max-pool(x)): fewer signs to compare.
fn pool_before_relu(net: &mut Network) {
    for i in 0..net.nodes.len() {
        let Layer::MaxPool(window) = net.nodes[i].layer else { continue };
        let input = net.nodes[i].inputs[0];
        let producer = net.nodes.iter().position(|n| n.output == input && n.layer == Layer::Relu);
        let Some(p) = producer.filter(|_| net.uses()[input] == 1) else { continue };
        // The pooled shape belongs to the value between the two from now on.
        let (relu, pool) = (net.nodes[p].clone(), net.nodes[i].clone());
        net.shapes[input] = net.shapes[pool.output].clone();
        net.nodes[p].layer = Layer::MaxPool(window);
        (net.nodes[p].name, net.nodes[p].op) = (pool.name, pool.op);
        net.nodes[i].layer = Layer::Relu;
        (net.nodes[i].name, net.nodes[i].op) = (relu.name, relu.op);
        net.names[input] = format!("{}.before_relu", net.names[pool.output]);
        // The rectified layer moves up to where its operand is made only by staying in order: both keep their places.
    }
}

/// Most places of a window that is moved: its divisor takes bits from the weights it is moved before.
const MOST_PLACES: usize = 4;

/// mean-pool(w x + b) = w mean-pool(x) + b for weights that meet single pixels: fewer products, and fewer of them to truncate.
fn pool_before_linear(net: &mut Network) {
    // A mean that has moved may move again.
    while (0..net.nodes.len()).any(|i| pooled_first(net, i)) {}
}

/// Moves one mean, if that can be: it is earlier among the layers afterwards.
fn pooled_first(net: &mut Network, i: usize) -> bool {
    let Layer::AveragePool { window, .. } = net.nodes[i].layer else { return false };
    let input = net.nodes[i].inputs[0];
    let single = |layer: &Layer| match layer {
        Layer::Conv { window, .. } => (window.kernel, window.stride, window.pad) == ([1, 1], [1, 1], [0; 4]),
        _ => false,
    };
    let producer = net.nodes.iter().position(|n| n.output == input && single(&n.layer));
    let Some(p) = producer.filter(|_| net.uses()[input] == 1) else { return false };
    if window.pad != [0; 4] || window.kernel[0] * window.kernel[1] > MOST_PLACES {
        return false;
    }
    // The value between the two has the channels of the one and the pixels of the other.
    let (conv, pool) = (net.nodes[p].clone(), net.nodes[i].clone());
    let mut dims = net.shapes[pool.output].clone();
    dims[1] = net.shapes[conv.inputs[0]][1];
    net.shapes[input] = dims;
    net.names[input] = format!("{}.before_products", net.names[pool.output]);
    (net.nodes[p].layer, net.nodes[p].name, net.nodes[p].op) = (pool.layer, pool.name, pool.op);
    (net.nodes[i].layer, net.nodes[i].name, net.nodes[i].op) = (conv.layer, conv.name, conv.op);
    true
}

/// concat(relu(x), relu(y)) = relu(concat(x, y)): branches compare in the same rounds.
fn concat_before_relu(net: &mut Network) {
    let mut i = 0;
    while i < net.nodes.len() {
        let inputs = net.nodes[i].inputs.clone();
        let uses = net.uses();
        let branches: Vec<usize> = inputs
            .iter()
            .filter(|&&x| uses[x] == 1)
            .filter_map(|&x| net.nodes.iter().position(|n| n.output == x && n.layer == Layer::Relu))
            .collect();
        let concat = matches!(net.nodes[i].layer, Layer::Concat { .. });
        if !concat || branches.len() < 2 || branches.len() != inputs.len() {
            i += 1;
            continue;
        }
        let output = net.nodes[i].output;
        let (name, dims) = (format!("{}.before_relu", net.names[output]), net.shapes[output].clone());
        let joined = net.value(&name, &dims);
        let mut relu = net.nodes[branches[0]].clone();
        net.nodes[i].inputs = branches.iter().map(|&b| net.nodes[b].inputs[0]).collect();
        net.nodes[i].output = joined;
        (relu.inputs, relu.output) = (vec![joined], output);
        net.nodes.insert(i + 1, relu);
        let mut dead = branches;
        dead.sort_unstable();
        dead.into_iter().rev().for_each(|b| drop(net.nodes.remove(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::evaluate;
    use crate::network::Window;

    fn tensor(dims: &[usize], seed: u8) -> Arc<Tensor> {
        let words: Vec<u32> = sordino_ring::PrgKey::new([seed; 16]).words(dims.iter().product());
        Arc::new(Tensor::new(dims, words.iter().map(|&w| w as i32 as f32 / 2f32.powi(31)).collect()))
    }

    /// conv, batch norm, relu, max pool, batch norm on a small image.
    fn net() -> Network {
        let mut net = Network::default();
        let window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad: [1; 4] };
        let positive = Arc::new(Tensor::new(&[4], vec![0.5, 1.0, 2.0, 0.1]));
        let norm = |i: u8| Layer::BatchNorm {
            stats: [tensor(&[4], i), tensor(&[4], i + 1), tensor(&[4], i + 2), Arc::clone(&positive)],
            epsilon: 1e-5,
            momentum: 0.1,
        };
        let layers = [
            (Layer::Conv { window, groups: 1, weight: tensor(&[4, 2, 3, 3], 1), bias: None }, 6),
            (norm(2), 6),
            (Layer::Relu, 6),
            (Layer::MaxPool(Window { kernel: [2, 2], stride: [2, 2], pad: [0; 4], ..window }), 3),
            (norm(6), 3),
        ];
        let mut last = net.value("x", &[1, 2, 6, 6]);
        net.inputs.push(last);
        for (i, (layer, size)) in layers.into_iter().enumerate() {
            let output = net.value(&format!("v{i}"), &[1, 4, size, size]);
            let name = format!("n{i}");
            net.nodes.push(crate::network::LayerNode { name, op: String::new(), layer, inputs: vec![last], output });
            last = output;
        }
        net.outputs.push(("y".into(), last));
        net
    }

    #[test]
    fn passes_keep_the_function() -> crate::Result<()> {
        let (plain, mut passed) = (net(), net());
        for_inference(&mut passed);
        let layers: Vec<_> = passed.nodes.iter().map(|n| std::mem::discriminant(&n.layer)).collect();
        assert_eq!(layers.len(), 4, "the first batch norm is folded into the convolution");
        assert!(matches!(passed.nodes[1].layer, Layer::MaxPool(_)) && passed.nodes[2].layer == Layer::Relu);
        let x = [(*tensor(&[1, 2, 6, 6], 9)).clone()];
        let (a, b) = (evaluate(&plain, &x, |_, _| ())?, evaluate(&passed, &x, |_, _| ())?);
        assert!(a[0].data.iter().zip(&b[0].data).all(|(a, b)| (a - b).abs() < 1e-5));
        Ok(())
    }

    /// Two branches with ReLUs, joined, their maxima, products of single pixels, a mean: ReLUs come behind the maxima, the mean comes
    /// before the products.
    #[test]
    fn poolings_go_first() -> crate::Result<()> {
        let mut plain = Network::default();
        let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [0; 4] };
        let half = Window { kernel: [2, 2], stride: [2, 2], ..window };
        let products = |cout: usize, cin: usize, seed: u8| Layer::Conv {
            window,
            groups: 1,
            weight: tensor(&[cout, cin, 1, 1], seed),
            bias: Some(tensor(&[cout], seed + 1)),
        };
        let x = plain.value("x", &[2, 3, 8, 8]);
        plain.inputs.push(x);
        let mut push = |name: &str, layer: Layer, inputs: &[usize], dims: [usize; 4]| {
            let output = plain.value(name, &dims);
            let (name, inputs) = (name.to_string(), inputs.to_vec());
            plain.nodes.push(LayerNode { name, op: String::new(), layer, inputs, output });
            output
        };
        let branches: Vec<usize> = [1, 3]
            .into_iter()
            .map(|seed| {
                let y = push(&format!("c{seed}"), products(4, 3, seed), &[x], [2, 4, 8, 8]);
                push(&format!("r{seed}"), Layer::Relu, &[y], [2, 4, 8, 8])
            })
            .collect();
        let joined = push("joined", Layer::Concat(1), &branches, [2, 8, 8, 8]);
        let pooled = push("pooled", Layer::MaxPool(half), &[joined], [2, 8, 4, 4]);
        let product = push("product", products(5, 8, 5), &[pooled], [2, 5, 4, 4]);
        let product = push("another", products(5, 5, 7), &[product], [2, 5, 4, 4]);
        let mean = push("mean", Layer::AveragePool { window: half, include_pad: false }, &[product], [2, 5, 2, 2]);
        plain.outputs.push(("y".into(), mean));
        let mut passed = plain.clone();
        for_inference(&mut passed);
        let names: Vec<&str> = passed.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["c1", "c3", "joined", "pooled", "r1", "mean", "product", "another"]);
        let x = [(*tensor(&[2, 3, 8, 8], 9)).clone()];
        let (a, b) = (evaluate(&plain, &x, |_, _| ())?, evaluate(&passed, &x, |_, _| ())?);
        assert!(a[0].dims == b[0].dims && a[0].data.iter().zip(&b[0].data).all(|(a, b)| (a - b).abs() < 1e-5));
        Ok(())
    }
}
