//! From the exported graph to the typed network: a batch is chosen, shapes are inferred, constants and shape chains are
//! folded, identities disappear.

mod arithmetic;
mod layout;
mod linear;

use crate::graph::{Attribute, Dim, Graph, Node};
use crate::network::{Layer, LayerNode, Network, Smooth, ValueId};
use crate::tensor::{Constant, Tensor};
use crate::{Error, Result, fold, limits};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Operators that import.
pub const SUPPORTED: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Div",
    "Dropout",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "LRN",
    "LeakyRelu",
    "Log",
    "MatMul",
    "MaxPool",
    "Mul",
    "PRelu",
    "Pad",
    "Reciprocal",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// A name in the graph: something computed, or a constant.
#[derive(Clone)]
enum Known {
    Value(ValueId),
    Constant(Rc<Constant>),
}

struct Importer<'a> {
    graph: &'a Graph,
    net: Network,
    known: HashMap<String, Known>,
    /// The batch of the exported shapes, if it was fixed, and the one wanted.
    batch: (Option<usize>, usize),
    /// Elements that may still be folded, or copied into layers.
    left: Cell<usize>,
    /// Names of constants that are made on the spot.
    made: HashSet<&'a str>,
}

/// Types a graph for a batch.
///
/// # Errors
/// [`Error::Unsupported`] names an operator that is not supported; [`Error::Node`] a node that makes no sense.
pub fn import(graph: &Graph, batch: usize) -> Result<Network> {
    let mut exported = None;
    let made = graph.nodes.iter().filter(|n| matches!(n.op.as_str(), "Expand" | "ConstantOfShape"));
    let mut importer = Importer {
        graph,
        net: Network::default(),
        known: HashMap::new(),
        batch: (None, batch),
        left: Cell::new(fold::budget(graph.constants.values().map(|c| c.dims().iter().product()))),
        made: made.flat_map(|n| n.outputs.iter().map(String::as_str)).collect(),
    };
    for (name, dims) in &graph.inputs {
        let sizes: Vec<usize> = dims
            .iter()
            .enumerate()
            .map(|(axis, d)| match d {
                Dim::Fixed(n) if axis > 0 => Ok(*n),
                Dim::Fixed(n) => {
                    exported = Some(*n);
                    Ok(batch)
                }
                Dim::Symbol(_) if axis == 0 => Ok(batch),
                Dim::Symbol(s) => Err(Error::Model(format!(
                    "input {name} has a symbolic dimension {s}; only the first one, the batch, may vary"
                ))),
            })
            .collect::<Result<_>>()?;
        if limits::elements(&sizes).is_none() {
            return Err(Error::Model(format!("input {name} is too large, or has too many axes")));
        }
        let id = importer.net.value(name, &sizes);
        importer.net.inputs.push(id);
        importer.known.insert(name.clone(), Known::Value(id));
    }
    if importer.net.inputs.is_empty() {
        return Err(Error::Model("it has no input".into()));
    }
    importer.batch.0 = exported;
    for (name, constant) in &graph.constants {
        importer.known.insert(name.clone(), Known::Constant(Rc::new(constant.clone())));
    }
    for node in &graph.nodes {
        importer.node(node)?;
    }
    for name in &graph.outputs {
        match importer.known.get(name) {
            Some(Known::Value(id)) => importer.net.outputs.push((name.clone(), *id)),
            Some(Known::Constant(_)) => {
                return Err(Error::Model(format!("output {name} does not depend on any input")));
            }
            None => return Err(Error::Model(format!("nothing provides output {name}"))),
        }
    }
    let mut net = importer.net;
    crate::passes::remove_unused(&mut net);
    Ok(net)
}

/// Reads a node's attributes.
struct Attributes<'a>(&'a Node);

impl Attributes<'_> {
    fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attributes.get(name) {
            Some(Attribute::Int(v)) => *v,
            _ => default,
        }
    }
    fn float(&self, name: &str, default: f32) -> f32 {
        match self.0.attributes.get(name) {
            Some(Attribute::Float(v)) => *v,
            _ => default,
        }
    }
    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.0.attributes.get(name) {
            Some(Attribute::Ints(v)) => Some(v.clone()),
            _ => None,
        }
    }
    fn text(&self, name: &str) -> &str {
        match self.0.attributes.get(name) {
            Some(Attribute::Text(v)) => v,
            _ => "",
        }
    }
}

fn fault<T>(node: &Node, why: impl Into<String>) -> Result<T> {
    Err(Error::Node { node: node.name.clone(), op: node.op.clone(), why: why.into() })
}

fn axis(node: &Node, axis: i64, rank: usize) -> Result<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    if (0..rank as i64).contains(&at) {
        Ok(at as usize)
    } else {
        fault(node, format!("axis {axis} of a tensor of rank {rank}"))
    }
}

impl Importer<'_> {
    fn known(&self, node: &Node, i: usize) -> Result<Option<Known>> {
        match node.inputs.get(i) {
            None => Ok(None),
            Some(name) if name.is_empty() => Ok(None),
            Some(name) => match self.known.get(name) {
                Some(known) => Ok(Some(known.clone())),
                None => fault(node, format!("nothing provides {name}")),
            },
        }
    }

    fn value(&self, node: &Node, i: usize) -> Result<ValueId> {
        match self.known(node, i)? {
            Some(Known::Value(id)) => Ok(id),
            Some(Known::Constant(_)) => fault(node, format!("input {i} must be computed, not constant")),
            None => fault(node, format!("input {i} is missing")),
        }
    }

    fn constant(&self, node: &Node, i: usize) -> Result<Option<Rc<Constant>>> {
        match self.known(node, i)? {
            None => Ok(None),
            Some(Known::Constant(c)) => Ok(Some(c)),
            Some(Known::Value(_)) => fault(node, format!("input {i} must be a constant")),
        }
    }

    fn ints(&self, node: &Node, i: usize) -> Result<Option<Vec<i64>>> {
        match self.constant(node, i)?.as_deref() {
            None => Ok(None),
            Some(Constant::Int(_, v)) => Ok(Some(v.clone())),
            Some(Constant::Float(_)) => fault(node, format!("input {i} must be integers")),
        }
    }

    /// Takes so many elements from the budget: of a result, or of a layer's own copy of a constant.
    fn charge(&self, node: &Node, elements: usize) -> Result<()> {
        match self.left.get().checked_sub(elements) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => fault(node, fold::LARGE),
        }
    }

    fn floats(&self, node: &Node, i: usize) -> Result<Option<Rc<Tensor>>> {
        match self.constant(node, i)?.as_deref() {
            None => Ok(None),
            Some(Constant::Float(t)) => {
                self.charge(node, t.data.len())?;
                Ok(Some(Rc::new(t.clone())))
            }
            Some(Constant::Int(..)) => fault(node, format!("input {i} must be floats")),
        }
    }

    fn weights(&self, node: &Node, i: usize) -> Result<Rc<Tensor>> {
        match self.floats(node, i)? {
            Some(t) if t.data.iter().all(|v| v.is_finite()) => Ok(t),
            Some(_) => fault(node, format!("constant {} has values that are not finite", node.inputs[i])),
            None => fault(node, format!("input {i} is missing")),
        }
    }

    fn dims(&self, id: ValueId) -> Vec<usize> {
        self.net.shapes[id].clone()
    }

    /// Adds a layer whose result is the node's output `which`.
    fn push_output(
        &mut self,
        node: &Node,
        which: usize,
        layer: Layer,
        inputs: Vec<ValueId>,
        dims: &[usize],
    ) -> Result<()> {
        let Some(name) = node.outputs.get(which) else { return fault(node, "it has no output") };
        let name = name.clone();
        let output = self.push(node, layer, inputs, &name, dims)?;
        self.known.insert(name, Known::Value(output));
        Ok(())
    }

    fn push(&mut self, node: &Node, layer: Layer, inputs: Vec<ValueId>, name: &str, dims: &[usize]) -> Result<ValueId> {
        if limits::elements(dims).is_none_or(|n| n == 0) {
            let shown = &dims[..dims.len().min(8)];
            return fault(node, format!("its result has an impossible shape, of {} axes: {shown:?}", dims.len()));
        }
        let output = self.net.value(name, dims);
        self.net.nodes.push(LayerNode { name: node.name.clone(), op: node.op.clone(), layer, inputs, output });
        Ok(output)
    }

    fn alias(&mut self, node: &Node, id: ValueId) {
        if let Some(name) = node.outputs.first() {
            self.known.insert(name.clone(), Known::Value(id));
        }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if !SUPPORTED.contains(&node.op.as_str()) {
            return Err(Error::Unsupported { node: node.name.clone(), op: node.op.clone(), supported: SUPPORTED });
        }
        let attrs = Attributes(node);
        // What depends on constants and shapes alone is computed now.
        if let Some(folded) = self.fold(node)? {
            self.charge(node, folded.dims().iter().product())?;
            if let Some(name) = node.outputs.first() {
                self.known.insert(name.clone(), Known::Constant(Rc::new(folded)));
            }
            return Ok(());
        }
        match node.op.as_str() {
            "Dropout" => {
                let x = self.value(node, 0)?;
                let share = match self.floats(node, 1)? {
                    Some(t) => t.data.first().copied().unwrap_or(0.5),
                    None => attrs.float("ratio", 0.5),
                };
                if !(0.0..1.0).contains(&share) {
                    return fault(node, format!("it drops a share of {share}; at least 0 and below 1 is possible"));
                }
                let dims = self.dims(x);
                self.push_output(node, 0, Layer::Dropout(share), vec![x], &dims)
            }
            "Identity" | "Cast" | "CastLike" => {
                let x = self.value(node, 0)?;
                // Floats of any width stay what they are; casts to integers would round.
                let to_ints = match node.op.as_str() {
                    "Cast" => !matches!(attrs.int("to", 1), 1 | 10 | 11 | 16),
                    "CastLike" => {
                        matches!(self.known(node, 1)?, Some(Known::Constant(c)) if matches!(*c, Constant::Int(..)))
                    }
                    _ => false,
                };
                if to_ints {
                    return fault(node, "a computed value can be cast to floats only");
                }
                self.alias(node, x);
                Ok(())
            }
            "Relu" | "LeakyRelu" | "LRN" => {
                let x = self.value(node, 0)?;
                let layer = match node.op.as_str() {
                    "Relu" => Layer::Relu,
                    "LeakyRelu" => Layer::LeakyRelu(attrs.float("alpha", 0.01)),
                    _ => Layer::Lrn {
                        size: usize::try_from(attrs.int("size", 0)).unwrap_or(0),
                        alpha: attrs.float("alpha", 1e-4),
                        beta: attrs.float("beta", 0.75),
                        bias: attrs.float("bias", 1.0),
                    },
                };
                let dims = self.dims(x);
                if matches!(layer, Layer::Lrn { size, bias, alpha, .. } if size == 0 || bias <= 0.0 || alpha < 0.0 || dims.len() != 4)
                {
                    return fault(node, "size and bias must be positive, on a tensor of rank 4");
                }
                self.push_output(node, 0, layer, vec![x], &dims)
            }
            "Sigmoid" | "Tanh" | "Gelu" | "Erf" | "Exp" | "Log" | "Sqrt" | "Reciprocal" => {
                let x = self.value(node, 0)?;
                let f = match node.op.as_str() {
                    "Sigmoid" => Smooth::Sigmoid,
                    "Tanh" => Smooth::Tanh,
                    "Gelu" if matches!(attrs.text("approximate"), "" | "none") => Smooth::Gelu,
                    "Gelu" => return fault(node, "only the exact form is supported, without approximation"),
                    "Erf" => Smooth::Erf,
                    "Exp" => Smooth::Exp,
                    "Log" => Smooth::Log,
                    "Sqrt" => Smooth::Sqrt,
                    _ => Smooth::Reciprocal,
                };
                let dims = self.dims(x);
                self.push_output(node, 0, Layer::Smooth(f), vec![x], &dims)
            }
            "Clip" => self.clip(node, &attrs),
            "PRelu" => {
                let x = self.value(node, 0)?;
                let (dims, slope) = (self.dims(x), self.weights(node, 1)?);
                let slope = Rc::new(
                    self.per_channel(&slope, &dims)
                        .ok_or(())
                        .or_else(|()| fault(node, "the slope is not one per channel"))?,
                );
                self.push_output(node, 0, Layer::PRelu(slope), vec![x], &dims)
            }
            "Conv" => self.conv(node, &attrs),
            "Gemm" | "MatMul" => self.matmul(node, &attrs),
            "BatchNormalization" => {
                let x = self.value(node, 0)?;
                let dims = self.dims(x);
                let mut stats = vec![];
                for i in 1..5 {
                    let s = self.weights(node, i)?;
                    if dims.len() < 2 || s.data.len() != dims[1] {
                        return fault(node, format!("input {i} has {} values for {dims:?}", s.data.len()));
                    }
                    stats.push(s);
                }
                let Ok(stats) = stats.try_into() else { return fault(node, "statistics are missing") };
                let (epsilon, momentum) = (attrs.float("epsilon", 1e-5), 1.0 - attrs.float("momentum", 0.9));
                let layer = Layer::BatchNorm { stats, epsilon, momentum };
                self.push_output(node, 0, layer, vec![x], &dims)
            }
            "MaxPool" | "AveragePool" => self.pool(node, &attrs),
            "GlobalAveragePool" => {
                let x = self.value(node, 0)?;
                let axes: Vec<usize> = (2..self.dims(x).len()).collect();
                self.mean(node, x, &axes, true)
            }
            "ReduceMean" => {
                let x = self.value(node, 0)?;
                let rank = self.dims(x).len();
                let axes = match attrs.ints("axes") {
                    Some(axes) => axes,
                    None => self.ints(node, 1)?.unwrap_or_else(|| (0..rank as i64).collect()),
                };
                let axes = axes.into_iter().map(|a| axis(node, a, rank)).collect::<Result<Vec<_>>>()?;
                if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
                    return fault(node, format!("axes {axes:?} name one axis twice"));
                }
                self.mean(node, x, &axes, attrs.int("keepdims", 1) == 1)
            }
            "Add" | "Sub" | "Mul" | "Div" | "Sum" => self.arithmetic(node),
            "Concat" => {
                let inputs = (0..node.inputs.len()).map(|i| self.value(node, i)).collect::<Result<Vec<_>>>()?;
                let Some(&first) = inputs.first() else { return fault(node, "it joins nothing") };
                let mut dims = self.dims(first);
                let at = axis(node, attrs.int("axis", 1), dims.len())?;
                for &x in &inputs[1..] {
                    let other = self.dims(x);
                    let fits = other.len() == dims.len() && (0..dims.len()).all(|a| a == at || other[a] == dims[a]);
                    if !fits {
                        return fault(node, format!("{other:?} cannot be joined to {dims:?} along axis {at}"));
                    }
                    dims[at] += other[at];
                }
                self.push_output(node, 0, Layer::Concat(at), inputs, &dims)
            }
            "Split" => self.split(node, &attrs),
            "Pad" => self.pad(node, &attrs),
            "Slice" => self.slice(node, &attrs),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(node, &attrs),
            "Transpose" => {
                let x = self.value(node, 0)?;
                let dims = self.dims(x);
                let perm = match attrs.ints("perm") {
                    Some(p) => p.into_iter().map(|a| axis(node, a, dims.len())).collect::<Result<Vec<_>>>()?,
                    None => (0..dims.len()).rev().collect(),
                };
                let mut seen = perm.clone();
                seen.sort_unstable();
                if seen != (0..dims.len()).collect::<Vec<_>>() {
                    return fault(node, format!("{perm:?} is not a permutation of the axes of {dims:?}"));
                }
                let out: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
                self.push_output(node, 0, Layer::Transpose(perm), vec![x], &out)
            }
            "Softmax" => {
                let x = self.value(node, 0)?;
                let dims = self.dims(x);
                // Before opset 13 the axes from `axis` on are normalised together.
                let old = self.graph.opset < 13;
                let at = axis(node, attrs.int("axis", if old { 1 } else { -1 }), dims.len())?;
                let end = if old { dims.len() } else { at + 1 };
                self.push_output(node, 0, Layer::Softmax { axis: at, end }, vec![x], &dims)
            }
            _ => fault(node, "it is supported on constants and shapes only"),
        }
    }

    fn fold(&self, node: &Node) -> Result<Option<Constant>> {
        if node.op == "Shape"
            && let Some(Known::Value(x)) = self.known(node, 0)?
        {
            let attrs = Attributes(node);
            return Ok(Some(fold::shape(&self.dims(x), attrs.int("start", 0), attrs.int("end", i64::MAX))));
        }
        // Computed values are floats.
        if let ("CastLike", Some(Known::Constant(c)), Some(Known::Value(_))) =
            (node.op.as_str(), self.known(node, 0)?, self.known(node, 1)?)
        {
            return Ok(Some(Constant::Float(fold::as_float(&c))));
        }
        let mut inputs = vec![];
        for i in 0..node.inputs.len() {
            match self.known(node, i)? {
                Some(Known::Constant(c)) => inputs.push(Some(c)),
                Some(Known::Value(_)) => return Ok(None),
                None => inputs.push(None),
            }
        }
        fold::evaluate(node, &inputs, self.left.get())
    }
}

/// Checks inputs against the network.
///
/// # Errors
/// [`Error::Input`] when a tensor is missing, has another shape, or holds values that are not finite.
pub fn check_inputs(net: &Network, inputs: &[Tensor]) -> Result<()> {
    for (i, &id) in net.inputs.iter().enumerate() {
        let name = net.names[id].clone();
        let Some(x) = inputs.get(i) else { return Err(Error::Input { name, why: "it is missing".into() }) };
        if x.dims != net.shapes[id] {
            return Err(Error::Input {
                name,
                why: format!("its shape is {:?} where the model takes {:?}", x.dims, net.shapes[id]),
            });
        }
        if let Some(at) = x.data.iter().position(|v| !v.is_finite()) {
            return Err(Error::Input { name, why: format!("element {at} is {}, not a finite number", x.data[at]) });
        }
    }
    Ok(())
}
