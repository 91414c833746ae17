//! From a network to one step of its training: forward, backward and optimiser, as one network.
//!
//! The step's network has the inputs, the one-hot labels, and then for each weight tensor its value and its velocity; its
//! outputs are the loss, if that is to be told, and the next values and velocities. It is evaluated in floats, compiled and
//! run like any other network. Gradients are those of the softmax's cross-entropy (or of half the squared error), summed
//! over the batch and divided by it where they meet the velocity.

use crate::network::{Layer, LayerNode, Network, Training, ValueId, Velocity};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Of the softmax of the network's answer, against one-hot labels.
    CrossEntropy,
    /// Half the squared distance from the labels.
    SquaredError,
}

/// Stochastic gradient descent: `v = momentum * v + gradient + decay * w; w = w - rate * v`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rule {
    /// What is minimised.
    pub loss: Loss,
    /// Learning rate.
    pub rate: f32,
    /// Momentum.
    pub momentum: f32,
    /// Weight decay; not of biases.
    pub decay: f32,
    /// Whether the loss of each step is an output.
    pub tell_loss: bool,
}

/// A trained tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Layer it belongs to.
    pub layer: String,
    /// Number of the layer in the network the step was made of.
    pub node: usize,
    /// True for a bias.
    pub bias: bool,
}

/// One step as a network.
pub struct TrainingStep {
    /// The step.
    pub net: Network,
    /// What its states start as: each parameter followed by its velocity.
    pub start: Vec<Tensor>,
    /// The parameters, in order.
    pub parameters: Vec<Parameter>,
}

struct Maker {
    net: Network,
    start: Vec<Tensor>,
    parameters: Vec<Parameter>,
    /// Weight and bias of each trained layer: value and velocity.
    trained: BTreeMap<usize, [[ValueId; 2]; 2]>,
    states: Vec<ValueId>,
    next: BTreeMap<ValueId, ValueId>,
}

impl Maker {
    fn push(&mut self, name: &str, op: &str, layer: Layer, inputs: Vec<ValueId>, dims: &[usize]) -> ValueId {
        let output = self.net.value(name, dims);
        self.net.nodes.push(LayerNode { name: name.into(), op: op.into(), layer, inputs, output });
        output
    }

    fn state(&mut self, layer: &str, node: usize, bias: bool, start: Tensor) -> [ValueId; 2] {
        let kind = if bias { "bias" } else { "weight" };
        let value = self.net.value(&format!("{layer}.{kind}"), &start.dims);
        let velocity = self.net.value(&format!("{layer}.{kind}.velocity"), &start.dims);
        self.states.extend([value, velocity]);
        self.start.push(start.clone());
        self.start.push(Tensor::new(&start.dims, vec![0.0; start.data.len()]));
        self.parameters.push(Parameter { layer: layer.into(), node, bias });
        [value, velocity]
    }

    /// The next velocity is made; the value takes a step along it.
    fn descend(&mut self, name: &str, [value, velocity]: [ValueId; 2], next: ValueId, rate: f32) {
        let dims = self.net.shapes[value].clone();
        let layer = Layer::Training(Training::Descend(rate));
        let moved = self.push(&format!("{name}.step"), "Descend", layer, vec![value, next], &dims);
        self.next.insert(value, moved);
        self.next.insert(velocity, next);
    }
}

/// The step of a network for its batch.
///
/// # Errors
/// [`Error::Training`] names a layer that cannot be trained.
pub fn step(model: &Network, rule: &Rule) -> Result<TrainingStep> {
    let ([input], [(_, answer)]) = (&model.inputs[..], &model.outputs[..]) else {
        return Err(Error::Training("training takes a model with one input and one output".into()));
    };
    let empty = Network { shapes: model.shapes.clone(), names: model.names.clone(), ..Network::default() };
    let mut m = Maker {
        net: empty,
        start: vec![],
        parameters: vec![],
        trained: BTreeMap::new(),
        states: vec![],
        next: BTreeMap::new(),
    };
    let dims = model.shapes[*answer].clone();
    if dims.len() != 2 {
        return Err(Error::Training(format!("training takes answers of shape [batch, classes], not {dims:?}")));
    }
    let labels = m.net.value("labels", &dims);
    let mut nodes = model.nodes.clone();
    // A softmax at the end is part of the loss.
    let mut logits = *answer;
    if rule.loss == Loss::CrossEntropy
        && let Some(at) = nodes.iter().position(|n| n.output == logits && matches!(n.layer, Layer::Softmax { .. }))
    {
        logits = nodes.remove(at).inputs[0];
    }
    for (i, node) in nodes.iter().enumerate() {
        forward(&mut m, i, node)?;
    }
    let (gradient, loss) = match rule.loss {
        Loss::CrossEntropy => {
            let p = m.push("softmax", "Softmax", Layer::Softmax { axis: 1, end: 2 }, vec![logits], &dims);
            let told = rule.tell_loss.then(|| {
                m.push("loss", "CrossEntropy", Layer::Training(Training::CrossEntropy), vec![p, labels], &[1])
            });
            (m.push("softmax.gradient", "Sub", Layer::Sub, vec![p, labels], &dims), told)
        }
        Loss::SquaredError => {
            if rule.tell_loss {
                return Err(Error::Training("the squared error is not told; leave the loss out".into()));
            }
            (m.push("error.gradient", "Sub", Layer::Sub, vec![logits, labels], &dims), None)
        }
    };
    let mut gradients: BTreeMap<ValueId, ValueId> = [(logits, gradient)].into();
    let batch = dims[0] as f32;
    for (i, node) in nodes.iter().enumerate().rev() {
        let Some(&dy) = gradients.get(&node.output) else { continue };
        backward(&mut m, i, node, dy, *input, batch, rule, &mut gradients)?;
    }
    m.net.inputs = [*input, labels].into_iter().chain(m.states.iter().copied()).collect();
    if let Some(loss) = loss {
        m.net.outputs.push(("loss".into(), loss));
    }
    for &state in &m.states {
        let next = m.next.get(&state).copied().ok_or_else(|| {
            Error::Training(format!("{} does not reach the answer: it cannot be trained", m.net.names[state]))
        })?;
        m.net.outputs.push((m.net.names[state].clone(), next));
    }
    Ok(TrainingStep { net: m.net, start: m.start, parameters: m.parameters })
}

fn forward(m: &mut Maker, i: usize, node: &LayerNode) -> Result<()> {
    let (layer, weight, bias) = match &node.layer {
        Layer::Conv { window, groups: 1, weight, bias } => {
            let bias = bias.as_deref().cloned().unwrap_or_else(|| zeros(weight.dims[0]));
            (Training::Conv(*window), (**weight).clone(), bias)
        }
        Layer::MatMul { weight, bias } => {
            let bias = bias.as_deref().cloned().unwrap_or_else(|| zeros(weight.dims[1]));
            (Training::Full, weight.permute(&[1, 0]), bias)
        }
        Layer::Relu | Layer::Reshape | Layer::Add | Layer::AveragePool { include_pad: true, .. } => {
            m.net.nodes.push(node.clone());
            return Ok(());
        }
        Layer::AveragePool { window, .. } if window.pad == [0; 4] => {
            m.net.nodes.push(node.clone());
            return Ok(());
        }
        _ => return Err(Error::Training(format!("{}: training does not support {} here", node.name, node.op))),
    };
    let w = m.state(&node.name, i, false, weight);
    let b = m.state(&node.name, i, true, bias);
    m.trained.insert(i, [w, b]);
    let inputs = vec![node.inputs[0], w[0], b[0]];
    m.net.nodes.push(LayerNode { layer: Layer::Training(layer), inputs, ..node.clone() });
    Ok(())
}

fn zeros(n: usize) -> Tensor {
    Tensor::new(&[n], vec![0.0; n])
}

#[expect(clippy::too_many_arguments, reason = "one layer and what surrounds it")]
fn backward(
    m: &mut Maker,
    i: usize,
    node: &LayerNode,
    dy: ValueId,
    input: ValueId,
    batch: f32,
    rule: &Rule,
    gradients: &mut BTreeMap<ValueId, ValueId>,
) -> Result<()> {
    let x = node.inputs[0];
    let dims = m.net.shapes[x].clone();
    let name = format!("{}.gradient", node.name);
    let velocity = Velocity { mean: 1.0 / batch, momentum: rule.momentum, decay: rule.decay };
    let training = Layer::Training;
    let dx = match &node.layer {
        Layer::Conv { .. } | Layer::MatMul { .. } => {
            let [w, b] = m.trained[&i];
            let (to_weight, to_input) = match &node.layer {
                Layer::Conv { window, .. } => (Training::ConvWeight(*window, velocity), Training::ConvInput(*window)),
                _ => (Training::FullWeight(velocity), Training::FullInput),
            };
            let shape = m.net.shapes[w[0]].clone();
            let inputs = vec![x, dy, w[1], w[0]];
            let next = m.push(&format!("{}.weight.next", node.name), "Gradient", training(to_weight), inputs, &shape);
            // The gradient goes back through the weights of this step, so it is made before they move.
            let dx = (x != input).then(|| m.push(&name, "Gradient", training(to_input), vec![dy, w[0]], &dims));
            m.descend(&format!("{}.weight", node.name), w, next, rule.rate);
            let shape = m.net.shapes[b[0]].clone();
            let layer = training(Training::Bias(Velocity { decay: 0.0, ..velocity }));
            let next = m.push(&format!("{}.bias.next", node.name), "Gradient", layer, vec![dy, b[1]], &shape);
            m.descend(&format!("{}.bias", node.name), b, next, rule.rate);
            match dx {
                Some(dx) => dx,
                None => return Ok(()),
            }
        }
        Layer::Relu => m.push(&name, "Gradient", training(Training::Relu), vec![x, dy], &dims),
        Layer::AveragePool { window, .. } => {
            m.push(&name, "Gradient", training(Training::AveragePool(*window)), vec![dy], &dims)
        }
        Layer::Reshape => m.push(&name, "Gradient", Layer::Reshape, vec![dy], &dims),
        Layer::Add => {
            add(m, gradients, node.inputs[1], dy);
            dy
        }
        _ => return Err(Error::Training(format!("{}: training does not support {}", node.name, node.op))),
    };
    add(m, gradients, x, dx);
    Ok(())
}

/// A value that several layers read has the sum of their gradients.
fn add(m: &mut Maker, gradients: &mut BTreeMap<ValueId, ValueId>, x: ValueId, dx: ValueId) {
    let sum = match gradients.get(&x) {
        None => dx,
        Some(&other) => {
            let (name, dims) = (format!("{}.gradients", m.net.names[x]), m.net.shapes[x].clone());
            m.push(&name, "Add", Layer::Add, vec![other, dx], &dims)
        }
    };
    gradients.insert(x, sum);
}
