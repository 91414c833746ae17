//! From the exported graph to the typed network: a batch is chosen, shapes are inferred, constants and shape chains are
//! folded, identities disappear.

mod arithmetic;
mod attributes;
mod axes;
mod constants;
mod layout;
mod linear;
mod normalise;
mod places;
mod pointwise;
mod reduce;
mod resize;

use crate::batch;
use crate::graph::{Dim, Graph, Node};
use crate::network::{Layer, LayerNode, Network, Smooth, ValueId};
use crate::tensor::{Constant, Tensor};
use crate::{Error, Result, fold, limits};
use attributes::Attributes;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

pub use attributes::supported;
use axes::{Axes, axes};
pub use axes::{batch_dimension, open_dimensions};

/// A batch that nothing else in a model is likely to be as large as.
const PROBE: usize = 11;

/// A name in the graph: something computed, or a constant.
#[derive(Clone)]
enum Known {
    Value(ValueId),
    Constant(Arc<Constant>),
}

struct Importer<'a> {
    graph: &'a Graph,
    net: Network,
    known: HashMap<String, Known>,
    /// Elements that may still be folded, or copied into layers.
    left: Cell<usize>,
    /// Names of constants that are made on the spot.
    made: HashSet<&'a str>,
}

/// Types a graph for a batch. The network says which axes that is, if there is one.
///
/// # Errors
/// [`Error::Unsupported`] names the operators that are not supported; [`Error::Node`] a node that makes no sense;
/// [`Error::Batch`] when the model computes nothing sample by sample, and more than one is asked for.
pub fn import(graph: &Graph, batch: usize) -> Result<Network> {
    operators(graph)?;
    let axes = match axes(graph)? {
        Axes::None => return unbatched(graph, batch, "it has no axis for it; --batch-axis says which one is"),
        Axes::Exported(size, axes) => {
            let net = typed(graph, &axes, size)?;
            return match batch::follow(&net, &axes, size, size > 1) {
                Ok(followed) => {
                    let mut other = batch::rebatched(&net, &followed, batch);
                    other.batch = Some(followed.axes);
                    Ok(other)
                }
                Err(_) if batch == size => Ok(net),
                // Samples mix, or lose their axis: all the exported ones are one input.
                Err(why) => {
                    if batch == 1 {
                        Ok(net)
                    } else {
                        mixed(why.0)
                    }
                }
            };
        }
        Axes::Symbol(axes) => axes,
    };
    // For one sample the model may be right although it mixes several.
    let probed = typed(graph, &axes, PROBE)
        .map_err(|e| e.to_string())
        .and_then(|net| batch::follow(&net, &axes, PROBE, true).map(|f| (net, f)).map_err(|m| m.0));
    let (probe, followed) = match probed {
        Ok(both) => both,
        Err(_) if batch == 1 => return typed(graph, &axes, 1),
        Err(why) => return mixed(why),
    };
    let mut net = typed(graph, &axes, batch)?;
    if batch::alike(&batch::rebatched(&probe, &followed, batch), &net) {
        net.batch = Some(followed.axes);
    } else if batch > 1 {
        return mixed("its shapes do not follow it".into());
    }
    Ok(net)
}

fn mixed<T>(why: String) -> Result<T> {
    Err(Error::Batch(why))
}

/// A model whose inputs are what they are.
fn unbatched(graph: &Graph, batch: usize, why: &str) -> Result<Network> {
    if batch == 1 { typed(graph, &[], 1) } else { mixed(why.into()) }
}

/// Names all operators that are not supported at once.
fn operators(graph: &Graph) -> Result<()> {
    let mut missing: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| !attributes::known(&n.op)) {
        missing.entry(&node.op).or_insert((&node.name, 0)).1 += 1;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let named = missing.into_iter().map(|(op, (node, n))| (op.to_string(), node.to_string(), n)).collect();
    Err(Error::Unsupported { missing: named })
}

/// Types a graph whose batch, on these axes, is so large.
fn typed(graph: &Graph, axes: &[usize], batch: usize) -> Result<Network> {
    let made = graph.nodes.iter().filter(|n| matches!(n.op.as_str(), "Expand" | "ConstantOfShape"));
    let mut importer = Importer {
        graph,
        net: Network::default(),
        known: HashMap::new(),
        left: Cell::new(fold::budget(graph.constants.values().map(|c| c.dims().iter().product()))),
        made: made.flat_map(|n| n.outputs.iter().map(String::as_str)).collect(),
    };
    for (i, (name, dims)) in graph.inputs.iter().enumerate() {
        let size = |(axis, d): (usize, &Dim)| match d {
            _ if axes.get(i) == Some(&axis) => batch,
            Dim::Fixed(n) => *n,
            Dim::Symbol(_) => 1,
        };
        let sizes: Vec<usize> = dims.iter().enumerate().map(size).collect();
        if limits::elements(&sizes).is_none() {
            return Err(Error::Model(format!("input {name} is too large, or has too many axes")));
        }
        let id = importer.net.value(name, &sizes);
        importer.net.inputs.push(id);
        importer.known.insert(name.clone(), Known::Value(id));
    }
    for (name, constant) in &graph.constants {
        importer.known.insert(name.clone(), Known::Constant(Arc::new(constant.clone())));
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

    fn constant(&self, node: &Node, i: usize) -> Result<Option<Arc<Constant>>> {
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

    fn floats(&self, node: &Node, i: usize) -> Result<Option<Arc<Tensor>>> {
        match self.constant(node, i)?.as_deref() {
            None => Ok(None),
            Some(Constant::Float(t)) => Ok(Some(Arc::clone(t))),
            Some(Constant::Int(..)) => fault(node, format!("input {i} must be floats")),
        }
    }

    fn weights(&self, node: &Node, i: usize) -> Result<Arc<Tensor>> {
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
            // What was made for it is called so.
            if self.net.names[id].strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(':')) {
                self.net.names[id].clone_from(name);
            }
            self.known.insert(name.clone(), Known::Value(id));
        }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        attributes::check(node, self.graph.training)?;
        // What depends on constants and shapes alone is computed now.
        if self.folded(node)? {
            return Ok(());
        }
        let attrs = Attributes(node);
        match node.op.as_str() {
            "Identity" | "Cast" | "CastLike" => self.cast(node, &attrs),
            "Dropout" => {
                let x = self.value(node, 0)?;
                let share = match self.floats(node, 1)? {
                    Some(t) => t.data.first().copied().unwrap_or(0.5),
                    None => attrs.float("ratio", 0.5),
                };
                if !(0.0..1.0).contains(&share) {
                    return fault(node, format!("it drops a share of {share}; at least 0 and below 1 is possible"));
                }
                let drops = self.ints(node, 2)?.is_some_and(|v| v.first().is_some_and(|v| *v != 0));
                if drops && !self.graph.training {
                    return fault(
                        node,
                        "it is in training mode and drops at random; export the model for inference, or train it",
                    );
                }
                let dims = self.dims(x);
                self.push_output(node, 0, Layer::Dropout(share), vec![x], &dims)
            }
            "LRN" => {
                let x = self.value(node, 0)?;
                let size = usize::try_from(attrs.int("size", 0)).unwrap_or(0);
                let [alpha, beta, bias] =
                    [("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)].map(|(name, default)| attrs.float(name, default));
                let dims = self.dims(x);
                if size == 0 || bias.is_nan() || bias <= 0.0 || alpha.is_nan() || alpha < 0.0 || dims.len() != 4 {
                    return fault(node, "size and bias must be positive, on a tensor of rank 4");
                }
                self.push_output(node, 0, Layer::Lrn { size, alpha, beta, bias }, vec![x], &dims)
            }
            "Clip" => self.clip(node, &attrs),
            "Conv" => self.conv(node, &attrs),
            "Gemm" => self.gemm(node, &attrs),
            "MatMul" => self.matmul(node),
            "MaxPool" | "AveragePool" | "LpPool" => self.pool(node, &attrs),
            "BatchNormalization"
            | "InstanceNormalization"
            | "LayerNormalization"
            | "RMSNormalization"
            | "GroupNormalization"
            | "MeanVarianceNormalization"
            | "LpNormalization" => self.normalise(node, &attrs),
            "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Mean" | "Max" | "Min" => self.arithmetic(node),
            "Concat" => self.concat(node, &attrs),
            "Split" => self.split(node, &attrs),
            "Pad" if matches!(attrs.text("mode"), "" | "constant") => self.pad(node, &attrs),
            "Slice" => self.slice(node, &attrs),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(node, &attrs),
            "Transpose" => self.transpose(node, &attrs),
            "Softmax" | "LogSoftmax" => {
                let x = self.value(node, 0)?;
                let dims = self.dims(x);
                // Before opset 13 the axes from `axis` on are normalised together.
                let old = self.graph.opset < 13;
                let at = axis(node, attrs.int("axis", if old { 1 } else { -1 }), dims.len())?;
                let end = if old { dims.len() } else { at + 1 };
                let layer = match node.op.as_str() {
                    "Softmax" => Layer::Softmax { axis: at, end },
                    _ => Layer::LogSoftmax { axis: at, end },
                };
                self.push_output(node, 0, layer, vec![x], &dims)
            }
            "Where" => self.pick(node),
            "Resize" | "Upsample" => self.resize(node, &attrs),
            "CumSum" => self.cumulative(node, &attrs),
            op if op.starts_with("Reduce") || op.starts_with("Global") || op.starts_with("Arg") => {
                self.reduce(node, &attrs)
            }
            _ => self.pointwise_or_places(node, &attrs),
        }
    }

    fn pointwise_or_places(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        if self.pointwise(node, attrs)? || self.moved(node, attrs)? {
            return Ok(());
        }
        fault(node, "it is supported on constants and shapes only")
    }

    fn cast(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        // Floats of any width stay what they are; casts to integers would round.
        let to_ints = match node.op.as_str() {
            "Cast" => !matches!(attrs.int("to", 1), 1 | 10 | 11 | 16),
            "CastLike" => matches!(self.known(node, 1)?, Some(Known::Constant(c)) if matches!(*c, Constant::Int(..))),
            _ => false,
        };
        if to_ints {
            return fault(node, "a computed value can be cast to floats only");
        }
        self.alias(node, x);
        Ok(())
    }

    fn transpose(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
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

    /// Adds a layer within a node whose last result is another.
    fn inner(&mut self, node: &Node, layer: Layer, inputs: Vec<ValueId>, dims: &[usize]) -> Result<ValueId> {
        let out = node.outputs.first().map_or(&*node.name, |o| o);
        let name = format!("{out}:{}", self.net.nodes.len());
        self.push(node, layer, inputs, &name, dims)
    }

    /// Adds a layer that keeps the shape.
    fn like(&mut self, node: &Node, layer: Layer, x: ValueId) -> Result<ValueId> {
        let dims = self.dims(x);
        self.inner(node, layer, vec![x], &dims)
    }

    fn reshaped(&mut self, node: &Node, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        if self.net.shapes[x] == dims {
            return Ok(x);
        }
        self.inner(node, Layer::Reshape, vec![x], dims)
    }

    fn transposed(&mut self, node: &Node, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        let dims: Vec<usize> = perm.iter().map(|&p| self.net.shapes[x][p]).collect();
        self.inner(node, Layer::Transpose(perm.to_vec()), vec![x], &dims)
    }

    fn scaled(&mut self, node: &Node, x: ValueId, by: f32, add: f32) -> Result<ValueId> {
        self.like(node, Layer::Scale { by, add }, x)
    }

    fn smooth(&mut self, node: &Node, f: Smooth, x: ValueId) -> Result<ValueId> {
        self.like(node, Layer::Smooth(f), x)
    }

    fn both(&mut self, node: &Node, layer: Layer, x: ValueId, y: ValueId) -> Result<ValueId> {
        let dims = self.dims(x);
        self.inner(node, layer, vec![x, y], &dims)
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
