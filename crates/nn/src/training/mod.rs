//! From a network to one step of its training: forward, backward and optimiser, as one network.
//!
//! The step's network has the inputs, the labels, and then the *states*: weights, what the optimiser remembers of them, and
//! running statistics. Its outputs are the loss, if that is to be told, and the states' next values. It is evaluated in
//! floats, compiled and run like any other network. Gradients are sums over the batch until they meet the optimiser.

mod backward;
mod norm;
mod optimiser;
mod settle;

use crate::network::{Layer, LayerNode, Mask, Network, Training, ValueId};
use crate::tensor::Tensor;
use crate::{Error, Result, passes};
use std::collections::BTreeMap;

pub use optimiser::{Optimiser, Rates};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Of the softmax of the network's answer, against one-hot labels.
    CrossEntropy,
    /// Half the squared distance from the labels.
    SquaredError,
}

/// How a network is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What is minimised.
    pub loss: Loss,
    /// What becomes of a gradient.
    pub optimiser: Optimiser,
    /// The learning rate of every iteration.
    pub rates: Rates,
    /// Weight decay, added to the gradient; of weights alone, not of biases or of batch norms.
    pub decay: f32,
    /// Whether labels come times a weight of their class, which the loss of their sample is then taken times.
    pub weighted: bool,
    /// Whether the loss of each step is an output.
    pub tell_loss: bool,
    /// Seed of the public masks of dropouts.
    pub seed: u64,
}

/// Which tensor of a layer a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Kernel or matrix; a batch norm's scale.
    Weight,
    /// Bias; a batch norm's shift.
    Bias,
    /// A batch norm's running mean.
    Mean,
    /// A batch norm's running variance.
    Variance,
}

/// A tensor of the model that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Layer it belongs to.
    pub layer: String,
    /// Which of its tensors.
    pub part: Part,
    /// The state that holds it.
    pub state: usize,
}

/// What a state is, which decides its precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A trained tensor.
    Value,
    /// Gradients averaged by momentum, which the value takes a step along.
    Velocity,
    /// Adam's averages of gradients and of their squares.
    Moment,
    /// A running statistic.
    Statistic,
}

/// A value that outlives the step.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// What it is.
    pub kind: Kind,
    /// Its first value.
    pub start: Tensor,
}

/// One step as a network.
#[derive(Clone)]
pub struct TrainingStep {
    /// The step, as of the first iteration.
    pub net: Network,
    /// The states, in order.
    pub states: Vec<State>,
    /// The model's tensors among them.
    pub parameters: Vec<Parameter>,
    /// Factor of the last tensor of the optimiser in each iteration; the last one holds on.
    pub rates: Vec<f64>,
    /// Rows that each data owner gives to a batch: the inputs are every owner's samples, every owner's labels, the states.
    pub rows: Vec<usize>,
}

impl TrainingStep {
    /// What the states start as.
    #[must_use]
    pub fn start(&self) -> Vec<Tensor> {
        self.states.iter().map(|s| s.start.clone()).collect()
    }

    /// The step of an iteration, which differs in its learning rate and in the masks of dropouts.
    #[must_use]
    pub fn at(&self, iteration: usize) -> Network {
        let mut net = self.net.clone();
        let rate = self.rates.get(iteration).or(self.rates.last()).copied().unwrap_or(0.0);
        for node in &mut net.nodes {
            match &mut node.layer {
                Layer::Training(Training::Descend(r)) => *r = rate as f32,
                Layer::Training(Training::Dropout(_, at)) => *at = iteration as u32,
                _ => {}
            }
        }
        net
    }

    /// The same step for several data owners, each of whom provides so many rows of every batch.
    #[must_use]
    pub fn shared_by(mut self, rows: &[usize]) -> Self {
        if rows.len() < 2 {
            return self;
        }
        let whole: Vec<ValueId> = self.net.inputs.drain(..2).collect();
        let mut inputs = vec![];
        for (i, whole) in whole.into_iter().enumerate() {
            let (name, dims) = (self.net.names[whole].clone(), self.net.shapes[whole].clone());
            let part = |(owner, &rows): (usize, &usize)| {
                let dims = [&[rows], &dims[1..]].concat();
                self.net.value(&format!("{name}.owner{}", owner + 1), &dims)
            };
            let parts: Vec<ValueId> = rows.iter().enumerate().map(part).collect();
            let node = LayerNode {
                name: format!("{name}.rows"),
                op: "Concat".into(),
                layer: Layer::Concat(0),
                inputs: parts.clone(),
                output: whole,
            };
            self.net.nodes.insert(i, node);
            inputs.extend(parts);
        }
        self.net.inputs.splice(..0, inputs);
        self.rows = rows.to_vec();
        self
    }

    /// The network that answers with the step's states as they are: its inputs are the model's and the states, in order.
    /// Statistics of batch norms are the running ones.
    ///
    /// # Errors
    /// As for [`step`].
    pub fn answer(&self, model: &Network) -> Result<Network> {
        let mut model = model.clone();
        passes::for_training(&mut model);
        let mut m = Maker::new(&model);
        m.answering = true;
        for (i, node) in model.nodes.iter().enumerate() {
            m.forward(i, node, 0)?;
        }
        // The optimiser's states are there, and nobody reads them.
        let mut own = m.states.into_iter();
        let mut inputs = model.inputs.clone();
        for (state, (name, dims)) in self.states.iter().zip(self.names()) {
            let value = match state.kind {
                Kind::Value | Kind::Statistic => own.next().map(|s| s.0),
                Kind::Velocity | Kind::Moment => None,
            };
            inputs.push(value.unwrap_or_else(|| m.net.value(&name, &dims)));
        }
        m.net.inputs = inputs;
        m.net.outputs = model.outputs.clone();
        m.net.batch = model.batch;
        Ok(m.net)
    }

    /// Names and dimensions of the states.
    fn names(&self) -> Vec<(String, Vec<usize>)> {
        let states = &self.net.inputs[self.net.inputs.len() - self.states.len()..];
        states.iter().map(|&id| (self.net.names[id].clone(), self.net.shapes[id].clone())).collect()
    }
}

/// What a trained layer keeps from its forward part for its backward one.
enum Kept {
    /// Values of the weight and, if there is one, of the bias.
    Linear(ValueId, Option<ValueId>),
    Norm(norm::Kept),
}

struct Maker {
    net: Network,
    states: Vec<(ValueId, State)>,
    parameters: Vec<Parameter>,
    /// Of each trained layer, by its place in the model.
    kept: BTreeMap<usize, Kept>,
    /// What each state becomes.
    next: BTreeMap<ValueId, ValueId>,
    gradients: BTreeMap<ValueId, ValueId>,
    /// Factors that stay, by the layer's place in the model: as large as its operand.
    factors: BTreeMap<usize, ValueId>,
    dropouts: u32,
    /// True when the model only answers: statistics are the running ones, nothing is dropped.
    answering: bool,
}

/// The step of a network for its batch.
///
/// # Errors
/// [`Error::Training`] names a layer that cannot be trained.
pub fn step(model: &Network, rule: &Rule) -> Result<TrainingStep> {
    let ([input], [(_, answer)]) = (&model.inputs[..], &model.outputs[..]) else {
        return Err(Error::Training("training takes a model with one input and one output".into()));
    };
    let (input, answer) = (*input, *answer);
    let dims = model.shapes[answer].clone();
    if dims.len() != 2 {
        return Err(Error::Training(format!("training takes answers of shape [batch, classes], not {dims:?}")));
    }
    let mut model = model.clone();
    passes::for_training(&mut model);
    let mut m = Maker::new(&model);
    let labels = m.net.value("labels", &dims);
    let mut nodes = std::mem::take(&mut model.nodes);
    // A softmax at the end is part of the loss.
    let mut logits = answer;
    if rule.loss == Loss::CrossEntropy
        && let Some(at) = nodes.iter().position(|n| n.output == logits && n.layer == Layer::Softmax { axis: 1, end: 2 })
    {
        logits = nodes.remove(at).inputs[0];
    }
    for (i, node) in nodes.iter().enumerate() {
        m.forward(i, node, rule.seed)?;
    }
    let training = Layer::Training;
    let (gradient, loss) = match rule.loss {
        Loss::CrossEntropy => {
            let p = m.push("softmax", "Softmax", Layer::Softmax { axis: 1, end: 2 }, vec![logits], &dims);
            // A label of weight w adds up to w: sum(w y) p - w y = w (p - y).
            let p = if rule.weighted {
                let ones = Tensor::new(&[dims[1]; 2], vec![1.0; dims[1] * dims[1]]);
                let sums = Layer::MatMul { weight: ones.into(), bias: None };
                let weights = m.push("labels.weight", "ReduceSum", sums, vec![labels], &dims);
                m.push("softmax.weighted", "Mul", Layer::Mul, vec![p, weights], &dims)
            } else {
                p
            };
            let gradient = m.push("softmax.gradient", "Sub", Layer::Sub, vec![p, labels], &dims);
            let told = rule.tell_loss.then(|| {
                let log = Layer::LogSoftmax { axis: 1, end: 2 };
                let log = m.push("log-softmax", "LogSoftmax", log, vec![logits], &dims);
                let minus = m.push("log-softmax.minus", "Neg", Layer::Scale { by: -1.0, add: 0.0 }, vec![log], &dims);
                m.push("loss", "CrossEntropy", training(Training::CrossEntropy), vec![minus, labels], &[1])
            });
            (gradient, told)
        }
        Loss::SquaredError => {
            let error = m.push("error", "Sub", Layer::Sub, vec![logits, labels], &dims);
            let told = rule
                .tell_loss
                .then(|| m.push("loss", "SquaredError", training(Training::SquaredError), vec![error], &[1]));
            (error, told)
        }
    };
    m.gradients.insert(logits, gradient);
    for (i, node) in nodes.iter().enumerate().rev() {
        m.backward(i, node, input, rule)?;
    }
    m.net.inputs = [input, labels].into_iter().chain(m.states.iter().map(|s| s.0)).collect();
    if let Some(loss) = loss {
        m.net.outputs.push(("loss".into(), loss));
    }
    for (state, _) in &m.states {
        let next = m.next.get(state).copied().ok_or_else(|| {
            Error::Training(format!("{} does not reach the answer: it cannot be trained", m.net.names[*state]))
        })?;
        m.net.outputs.push((m.net.names[*state].clone(), next));
    }
    // Gradients that nobody asked for.
    passes::remove_unused(&mut m.net);
    let states = m.states.into_iter().map(|s| s.1).collect();
    let rates = rule.optimiser.rates(&rule.rates);
    let step = TrainingStep { net: m.net, states, parameters: m.parameters, rates, rows: vec![dims[0]] };
    Ok(TrainingStep { net: step.at(0), ..step })
}

impl Maker {
    fn new(model: &Network) -> Self {
        Self {
            net: Network { shapes: model.shapes.clone(), names: model.names.clone(), ..Network::default() },
            states: vec![],
            parameters: vec![],
            kept: BTreeMap::new(),
            next: BTreeMap::new(),
            factors: BTreeMap::new(),
            gradients: BTreeMap::new(),
            dropouts: 0,
            answering: false,
        }
    }

    fn push(&mut self, name: &str, op: &str, layer: Layer, inputs: Vec<ValueId>, dims: &[usize]) -> ValueId {
        let output = self.net.value(name, dims);
        self.net.nodes.push(LayerNode { name: name.into(), op: op.into(), layer, inputs, output });
        output
    }

    /// A layer of training whose result has the dimensions of a value that is there.
    fn like(&mut self, name: &str, layer: Training, inputs: Vec<ValueId>, other: ValueId) -> ValueId {
        let dims = self.net.shapes[other].clone();
        self.push(name, "Gradient", Layer::Training(layer), inputs, &dims)
    }

    fn state(&mut self, name: &str, kind: Kind, start: Tensor) -> ValueId {
        let value = self.net.value(name, &start.dims);
        self.states.push((value, State { kind, start }));
        value
    }

    /// A tensor of the model, as a state.
    fn parameter(&mut self, layer: &str, part: Part, start: Tensor) -> ValueId {
        let (name, kind) = match part {
            Part::Weight => ("weight", Kind::Value),
            Part::Bias => ("bias", Kind::Value),
            Part::Mean => ("mean", Kind::Statistic),
            Part::Variance => ("variance", Kind::Statistic),
        };
        self.parameters.push(Parameter { layer: layer.into(), part, state: self.states.len() });
        self.state(&format!("{layer}.{name}"), kind, start)
    }

    /// A layer with constants of the model that are not trained. They are states that stay what they are, so that a trained model that
    /// the servers keep is whole.
    fn constant(&mut self, i: usize, node: &LayerNode) {
        let x = node.inputs[0];
        let dims = self.net.shapes[x].clone();
        let stays = |m: &mut Self, what: &str, c: &Tensor| {
            let name = format!("{}.{what}", node.name);
            let state = m.state(&name, Kind::Statistic, c.clone());
            m.next.insert(state, state);
            m.push(&format!("{name}.spread"), "Constant", Layer::Broadcast, vec![state], &dims)
        };
        let by_channel = |c: &Tensor| {
            let shape: Vec<usize> = (0..dims.len()).map(|a| if a == 1 { dims[1] } else { 1 }).collect();
            Tensor::new(&shape, c.data.clone())
        };
        let (factor, addend) = match &node.layer {
            Layer::AddConst(c) => (None, Some(stays(self, "addend", c))),
            Layer::MulConst(c) => (Some(stays(self, "factor", c)), None),
            Layer::Affine { scale, shift } => {
                let one = scale.data.iter().all(|&v| v == 1.0);
                let factor = (!one).then(|| stays(self, "factor", &by_channel(scale)));
                let addend = (one || shift.max_abs() > 0.0).then(|| stays(self, "addend", &by_channel(shift)));
                (factor, addend)
            }
            _ => (None, None),
        };
        let mut y = x;
        if let Some(factor) = factor {
            self.factors.insert(i, factor);
            match addend {
                Some(_) => y = self.push(&format!("{}.times", node.name), &node.op, Layer::Mul, vec![y, factor], &dims),
                None => {
                    let inputs = vec![y, factor];
                    self.net.nodes.push(LayerNode { layer: Layer::Mul, inputs, ..node.clone() });
                }
            }
        }
        if let Some(addend) = addend {
            self.net.nodes.push(LayerNode { layer: Layer::Add, inputs: vec![y, addend], ..node.clone() });
        }
    }

    fn forward(&mut self, i: usize, node: &LayerNode, seed: u64) -> Result<()> {
        let (layer, weight, bias) = match &node.layer {
            Layer::Conv { window, groups, weight, bias } => {
                (Training::Conv(*window, *groups), (**weight).clone(), bias.as_deref().cloned())
            }
            Layer::MatMul { weight, bias } => (Training::Full, weight.permute(&[1, 0]), bias.as_deref().cloned()),
            Layer::BatchNorm { stats, epsilon, momentum } => {
                return self.norm(i, node, stats, *epsilon, *momentum);
            }
            Layer::Dropout(drop) => {
                if self.answering {
                    let inputs = node.inputs.clone();
                    self.net.nodes.push(LayerNode { layer: Layer::Reshape, inputs, ..node.clone() });
                    return Ok(());
                }
                let drop = (f64::from(*drop) * 4_294_967_296.0) as u32;
                let layer = Training::Dropout(Mask { drop, layer: self.dropouts, seed }, 0);
                self.dropouts += 1;
                self.net.nodes.push(LayerNode { layer: Layer::Training(layer), ..node.clone() });
                return Ok(());
            }
            Layer::AddConst(_) | Layer::MulConst(_) | Layer::Affine { .. } => {
                self.constant(i, node);
                return Ok(());
            }
            _ => {
                backward::supported(node)?;
                self.net.nodes.push(node.clone());
                return Ok(());
            }
        };
        let w = self.parameter(&node.name, Part::Weight, weight);
        let b = bias.map(|bias| self.parameter(&node.name, Part::Bias, bias));
        self.kept.insert(i, Kept::Linear(w, b));
        let inputs = [node.inputs[0], w].into_iter().chain(b).collect();
        self.net.nodes.push(LayerNode { layer: Layer::Training(layer), inputs, ..node.clone() });
        Ok(())
    }
}
