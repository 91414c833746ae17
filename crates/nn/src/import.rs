//! From the exported graph to the typed network: a batch is chosen, shapes are inferred, constants and shape chains are
//! folded, identities disappear.

use crate::graph::{Attribute, Dim, Graph, Node};
use crate::network::{Layer, LayerNode, Network, ValueId, Window};
use crate::tensor::{Constant, Tensor};
use crate::{Error, Result, fold};
use std::collections::HashMap;
use std::rc::Rc;

/// Operators that import.
pub const SUPPORTED: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Div",
    "Dropout",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "LRN",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "PRelu",
    "Pad",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
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
}

/// Types a graph for a batch.
///
/// # Errors
/// [`Error::Unsupported`] names an operator that is not supported; [`Error::Node`] a node that makes no sense.
pub fn import(graph: &Graph, batch: usize) -> Result<Network> {
    let mut exported = None;
    let mut importer = Importer { graph, net: Network::default(), known: HashMap::new(), batch: (None, batch) };
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
        let elements = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements.is_none_or(|n| n >= crate::onnx::MAX_ELEMENTS) {
            return Err(Error::Model(format!("input {name} is too large: {sizes:?}")));
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
    fn floats(&self, node: &Node, i: usize) -> Result<Option<Rc<Tensor>>> {
        match self.constant(node, i)?.as_deref() {
            None => Ok(None),
            Some(Constant::Float(t)) => Ok(Some(Rc::new(t.clone()))),
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
        let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if n.is_none_or(|n| n == 0 || n >= crate::onnx::MAX_ELEMENTS) {
            return fault(node, format!("its result has an impossible shape {dims:?}"));
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
            if let Some(name) = node.outputs.first() {
                self.known.insert(name.clone(), Known::Constant(Rc::new(folded)));
            }
            return Ok(());
        }
        match node.op.as_str() {
            "Identity" | "Dropout" | "Cast" => {
                let x = self.value(node, 0)?;
                // Floats of any width stay what they are; casts to integers would round.
                if node.op == "Cast" && !matches!(attrs.int("to", 1), 1 | 10 | 11 | 16) {
                    return fault(node, "a computed value can be cast to floats only");
                }
                self.alias(node, x);
                Ok(())
            }
            "Relu" | "Sigmoid" | "Tanh" | "LeakyRelu" | "LRN" => {
                let x = self.value(node, 0)?;
                let layer = match node.op.as_str() {
                    "Relu" => Layer::Relu,
                    "Sigmoid" => Layer::Sigmoid,
                    "Tanh" => Layer::Tanh,
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
                let layer = Layer::BatchNorm { stats, epsilon: attrs.float("epsilon", 1e-5) };
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
                self.mean(node, x, &axes, attrs.int("keepdims", 1) == 1)
            }
            "Add" | "Sub" | "Mul" | "Div" | "Sum" => self.arithmetic(node),
            "Concat" => {
                let inputs = (0..node.inputs.len()).map(|i| self.value(node, i)).collect::<Result<Vec<_>>>()?;
                let mut dims = self.dims(inputs[0]);
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
            let dims = self.dims(x);
            return Ok(Some(Constant::Int(vec![dims.len()], dims.iter().map(|&d| d as i64).collect())));
        }
        let mut inputs = vec![];
        for i in 0..node.inputs.len() {
            match self.known(node, i)? {
                Some(Known::Constant(c)) => inputs.push(Some(c)),
                Some(Known::Value(_)) => return Ok(None),
                None => inputs.push(None),
            }
        }
        fold::evaluate(node, &inputs)
    }

    fn clip(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let bound = |i: usize, name: &str, default: f32| -> Result<f32> {
            Ok(match self.floats(node, i)? {
                Some(t) if t.data.len() == 1 => t.data[0],
                Some(_) => return fault(node, "a bound is not one number"),
                None => attrs.float(name, default),
            })
        };
        let (lo, hi) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        if lo.is_nan() || hi.is_nan() || lo > hi {
            return fault(node, format!("bounds {lo} and {hi} make no sense"));
        }
        let dims = self.dims(x);
        self.push_output(node, 0, Layer::Clip { lo, hi }, vec![x], &dims)
    }

    fn window(&self, node: &Node, attrs: &Attributes<'_>, kernel: [usize; 2], dims: &[usize]) -> Result<Window> {
        let pair = |name: &str| -> Result<[usize; 2]> {
            match attrs.ints(name).as_deref() {
                None => Ok([1, 1]),
                Some(&[a, b]) if a > 0 && b > 0 && a < 1 << 20 && b < 1 << 20 => Ok([a as usize, b as usize]),
                Some(v) => fault(node, format!("{name} {v:?} must be two positive numbers")),
            }
        };
        let (stride, dilation) = (pair("strides")?, pair("dilations")?);
        let pad = match attrs.text("auto_pad") {
            "" | "NOTSET" => match attrs.ints("pads").as_deref() {
                None => [0; 4],
                Some(p) if p.len() == 4 && p.iter().all(|v| (0..1 << 20).contains(v)) => {
                    [0, 1, 2, 3].map(|i| p[i] as usize)
                }
                Some(p) => return fault(node, format!("pads {p:?} must be four numbers that are not negative")),
            },
            "VALID" => [0; 4],
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let mut pad = [0; 4];
                for a in 0..2 {
                    let len = dims[2 + a];
                    let need = (len.div_ceil(stride[a]) - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1;
                    let total = need.saturating_sub(len);
                    let (small, large) = (total / 2, total - total / 2);
                    (pad[a], pad[a + 2]) = if same == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
                pad
            }
            other => return fault(node, format!("auto_pad {other} is unknown")),
        };
        Ok(Window { kernel, stride, dilation, pad })
    }

    fn conv(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let (dims, weight) = (self.dims(x), self.weights(node, 1)?);
        if dims.len() != 4 || weight.dims.len() != 4 {
            return fault(
                node,
                format!("only two-dimensional convolutions are supported, not {dims:?} with {:?}", weight.dims),
            );
        }
        let groups = usize::try_from(attrs.int("group", 1)).unwrap_or(0);
        let kernel = [weight.dims[2], weight.dims[3]];
        if let Some(k) = attrs.ints("kernel_shape")
            && k != [kernel[0] as i64, kernel[1] as i64]
        {
            return fault(node, format!("kernel_shape {k:?} is not the weights' {kernel:?}"));
        }
        if groups == 0 || weight.dims[1] * groups != dims[1] || weight.dims[0] % groups != 0 {
            return fault(node, format!("weights {:?} in {groups} groups do not fit the input {dims:?}", weight.dims));
        }
        let bias =
            if node.inputs.len() > 2 && !node.inputs[2].is_empty() { Some(self.weights(node, 2)?) } else { None };
        if bias.as_ref().is_some_and(|b| b.data.len() != weight.dims[0]) {
            return fault(node, "the bias does not have one value for each output channel");
        }
        if kernel.contains(&0) {
            return fault(node, "the kernel is empty");
        }
        let window = self.window(node, attrs, kernel, &dims)?;
        let Some([h, w]) = window.output(dims[2], dims[3], false) else {
            return fault(node, format!("the kernel {kernel:?} is larger than the padded input {dims:?}"));
        };
        let out = [dims[0], weight.dims[0], h, w];
        self.push_output(node, 0, Layer::Conv { window, groups, weight, bias }, vec![x], &out)
    }

    fn matmul(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let mut dims = self.dims(x);
        let mut weight = match self.known(node, 1)? {
            Some(Known::Constant(_)) => self.weights(node, 1)?,
            _ => {
                return fault(
                    node,
                    "the second factor must be a constant; products of two computed matrices are not supported",
                );
            }
        };
        let mut bias = None;
        let mut input = x;
        if node.op == "Gemm" {
            if attrs.int("transB", 0) == 1 && weight.dims.len() == 2 {
                weight = Rc::new(weight.permute(&[1, 0]));
            }
            if attrs.int("transA", 0) == 1 {
                return fault(node, "transA is not supported");
            }
            let (alpha, beta) = (attrs.float("alpha", 1.0), attrs.float("beta", 1.0));
            if alpha != 1.0 {
                weight = Rc::new(Tensor::new(&weight.dims, weight.data.iter().map(|v| v * alpha).collect()));
            }
            if node.inputs.len() > 2 && !node.inputs[2].is_empty() {
                let b = self.weights(node, 2)?;
                let n = weight.dims.last().copied().unwrap_or(0);
                if b.data.len() != n && b.data.len() != 1 {
                    return fault(node, format!("a bias of {:?} does not fit {n} columns", b.dims));
                }
                let data = (0..n).map(|i| beta * b.data[if b.data.len() == 1 { 0 } else { i }]).collect();
                bias = Some(Rc::new(Tensor::new(&[n], data)));
            }
        }
        let rank = dims.len();
        if weight.dims.len() != 2 || rank < 2 || dims[rank - 1] != weight.dims[0] {
            return fault(node, format!("{dims:?} times {:?} is not a matrix product", weight.dims));
        }
        let (k, n) = (weight.dims[0], weight.dims[1]);
        let rows: usize = dims[..rank - 1].iter().product();
        if rank > 2 {
            input = self.push(node, Layer::Reshape, vec![x], &format!("{}.rows", node.name), &[rows, k])?;
        }
        let layer = Layer::MatMul { weight, bias };
        if rank == 2 {
            return self.push_output(node, 0, layer, vec![input], &[rows, n]);
        }
        let y = self.push(node, layer, vec![input], &format!("{}.product", node.name), &[rows, n])?;
        dims[rank - 1] = n;
        self.push_output(node, 0, Layer::Reshape, vec![y], &dims)
    }

    fn pool(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let kernel = match attrs.ints("kernel_shape").as_deref() {
            Some(&[a, b]) if a > 0 && b > 0 && a < 1 << 20 && b < 1 << 20 => [a as usize, b as usize],
            _ => return fault(node, "kernel_shape must be two positive numbers"),
        };
        if dims.len() != 4 {
            return fault(node, format!("only two-dimensional pooling is supported, not {dims:?}"));
        }
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(|o| !o.is_empty()) {
            return fault(node, "the indices of the maxima are not supported");
        }
        let mut window = self.window(node, attrs, kernel, &dims)?;
        if window.pad[0].max(window.pad[2]) >= kernel[0] * window.dilation[0]
            || window.pad[1].max(window.pad[3]) >= kernel[1] * window.dilation[1]
        {
            return fault(node, "the padding is larger than the kernel");
        }
        let ceil = attrs.int("ceil_mode", 0) == 1;
        let Some([h, w]) = window.output(dims[2], dims[3], ceil) else {
            return fault(node, format!("the kernel {kernel:?} is larger than the padded input {dims:?}"));
        };
        let declared = window.pad;
        if ceil {
            // Rounding up is rounding down with more padding at the end.
            for (a, out) in [h, w].into_iter().enumerate() {
                let reach = (out - 1) * window.stride[a] + window.dilation[a] * (kernel[a] - 1) + 1;
                window.pad[a + 2] = window.pad[a + 2].max(reach.saturating_sub(dims[2 + a] + window.pad[a]));
            }
        }
        let out = [dims[0], dims[1], h, w];
        if node.op == "MaxPool" {
            return self.push_output(node, 0, Layer::MaxPool(window), vec![x], &out);
        }
        if window.dilation != [1, 1] {
            return fault(node, "dilated average pooling is not supported");
        }
        let include_pad = attrs.int("count_include_pad", 0) == 1;
        if include_pad && declared != window.pad {
            return fault(node, "ceil_mode together with count_include_pad is not supported");
        }
        self.push_output(node, 0, Layer::AveragePool { window, include_pad }, vec![x], &out)
    }

    /// The mean over axes: moved to a spatial axis, pooled, reshaped.
    fn mean(&mut self, node: &Node, x: ValueId, axes: &[usize], keep: bool) -> Result<()> {
        let dims = self.dims(x);
        let kept: Vec<usize> = (0..dims.len()).filter(|a| !axes.contains(a)).collect();
        let out: Vec<usize> = if keep {
            (0..dims.len()).map(|a| if axes.contains(&a) { 1 } else { dims[a] }).collect()
        } else {
            kept.iter().map(|&a| dims[a]).collect()
        };
        let pool = |h: usize, w: usize| Layer::AveragePool {
            window: Window { kernel: [h, w], stride: [1, 1], dilation: [1, 1], pad: [0; 4] },
            include_pad: false,
        };
        if dims.len() == 4 && axes == [2, 3] {
            let layer = pool(dims[2], dims[3]);
            if keep {
                return self.push_output(node, 0, layer, vec![x], &out);
            }
            let y = self.push(node, layer, vec![x], &format!("{}.mean", node.name), &[dims[0], dims[1], 1, 1])?;
            return self.push_output(node, 0, Layer::Reshape, vec![y], &out);
        }
        let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
        let (rows, n) = (kept.iter().map(|&a| dims[a]).product(), axes.iter().map(|&a| dims[a]).product());
        let moved: Vec<usize> = perm.iter().map(|&a| dims[a]).collect();
        let mut y = self.push(node, Layer::Transpose(perm), vec![x], &format!("{}.moved", node.name), &moved)?;
        y = self.push(node, Layer::Reshape, vec![y], &format!("{}.rows", node.name), &[rows, 1, n, 1])?;
        y = self.push(node, pool(n, 1), vec![y], &format!("{}.mean", node.name), &[rows, 1, 1, 1])?;
        self.push_output(node, 0, Layer::Reshape, vec![y], &out)
    }

    /// One value per channel (axis 1) if a constant is just that.
    fn per_channel(&self, c: &Tensor, dims: &[usize]) -> Option<Tensor> {
        let channels = *dims.get(1)?;
        if c.data.len() == 1 {
            return Some(Tensor::new(&[channels], vec![c.data[0]; channels]));
        }
        // Aligned from the right: the channel axis has dims.len() - 2 axes after it.
        let at = c.dims.len().checked_sub(dims.len() - 1)?;
        let others = c.dims.iter().enumerate().all(|(a, &d)| a == at || d == 1);
        (others && c.dims.get(at) == Some(&channels)).then(|| Tensor::new(&[channels], c.data.clone()))
    }

    fn arithmetic(&mut self, node: &Node) -> Result<()> {
        let mut sum = None;
        for i in 0..node.inputs.len() {
            let Some(next) = self.known(node, i)? else { return fault(node, format!("input {i} is missing")) };
            sum = Some(match sum {
                None => next,
                Some(previous) => {
                    let name = if i + 1 == node.inputs.len() {
                        node.outputs.first().cloned().unwrap_or_default()
                    } else {
                        format!("{}.{i}", node.name)
                    };
                    Known::Value(self.binary(node, previous, next, &name)?)
                }
            });
        }
        match sum {
            Some(Known::Value(id)) => self.alias(node, id),
            _ => return fault(node, "it has no inputs"),
        }
        Ok(())
    }

    fn binary(&mut self, node: &Node, a: Known, b: Known, name: &str) -> Result<ValueId> {
        let shape = |k: &Known| match k {
            Known::Value(id) => self.dims(*id),
            Known::Constant(c) => c.dims().to_vec(),
        };
        let (da, db) = (shape(&a), shape(&b));
        let Some(out) = fold::broadcast(&da, &db) else {
            return fault(node, format!("shapes {da:?} and {db:?} do not broadcast"));
        };
        let float = |c: &Constant| match c {
            Constant::Float(t) if t.data.iter().all(|v| v.is_finite()) => Ok(t.clone()),
            _ => fault(node, "its constant must be finite floats"),
        };
        match (a, b) {
            (Known::Value(x), Known::Value(y)) => {
                let layer = match node.op.as_str() {
                    "Sub" => Layer::Sub,
                    "Mul" => Layer::Mul,
                    "Div" => return fault(node, "division by a computed value is not supported"),
                    _ => Layer::Add,
                };
                let x = self.broadcast_to(node, x, &out)?;
                let y = self.broadcast_to(node, y, &out)?;
                self.push(node, layer, vec![x, y], name, &out)
            }
            (x, y) => {
                let (x, c, reversed) = match (x, y) {
                    (Known::Value(x), Known::Constant(c)) => (x, c, false),
                    (Known::Constant(c), Known::Value(x)) => (x, c, true),
                    _ => return fault(node, "it has no computed input"),
                };
                let mut c = float(&c)?;
                let mut x = self.broadcast_to(node, x, &out)?;
                match (node.op.as_str(), reversed) {
                    ("Sub", false) => c.data.iter_mut().for_each(|v| *v = -*v),
                    ("Sub", true) => {
                        let minus = Rc::new(Tensor::new(&[1], vec![-1.0]));
                        x = self.push(node, Layer::MulConst(minus), vec![x], &format!("{name}.negated"), &out)?;
                    }
                    ("Div", false) if c.data.contains(&0.0) => return fault(node, "division by zero"),
                    ("Div", false) => c.data.iter_mut().for_each(|v| *v = 1.0 / *v),
                    ("Div", true) => return fault(node, "division by a computed value is not supported"),
                    _ => {}
                }
                let product = matches!(node.op.as_str(), "Mul" | "Div");
                let layer = match (self.per_channel(&c, &out), product) {
                    (Some(c), true) => {
                        let shift = Rc::new(Tensor::new(&c.dims, vec![0.0; c.data.len()]));
                        Layer::Affine { scale: Rc::new(c), shift }
                    }
                    (Some(c), false) => {
                        let scale = Rc::new(Tensor::new(&c.dims, vec![1.0; c.data.len()]));
                        Layer::Affine { scale, shift: Rc::new(c) }
                    }
                    (None, true) => Layer::MulConst(Rc::new(c)),
                    (None, false) => Layer::AddConst(Rc::new(c)),
                };
                self.push(node, layer, vec![x], name, &out)
            }
        }
    }

    fn broadcast_to(&mut self, node: &Node, x: ValueId, dims: &[usize]) -> Result<ValueId> {
        if self.net.shapes[x] == dims {
            return Ok(x);
        }
        let name = format!("{}.broadcast", node.name);
        self.push(node, Layer::Broadcast, vec![x], &name, dims)
    }

    fn split(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let at = axis(node, attrs.int("axis", 0), dims.len())?;
        let n = node.outputs.len().max(1);
        let sizes = match attrs.ints("split") {
            Some(s) => s,
            None => self.ints(node, 1)?.unwrap_or_else(|| {
                let each = dims[at].div_ceil(n);
                (0..n).map(|i| each.min(dims[at].saturating_sub(i * each)) as i64).collect()
            }),
        };
        if sizes.len() != n || sizes.iter().any(|&s| s <= 0) || sizes.iter().sum::<i64>() != dims[at] as i64 {
            return fault(node, format!("parts {sizes:?} do not make up axis {at} of {dims:?}"));
        }
        let mut from = 0;
        for (i, size) in sizes.into_iter().enumerate() {
            let mut out = dims.clone();
            out[at] = size as usize;
            let mut start = vec![0; dims.len()];
            start[at] = from;
            from += size as isize;
            let layer = Layer::Slice { start, step: vec![1; dims.len()], fill: 0.0 };
            self.push_output(node, i, layer, vec![x], &out)?;
        }
        Ok(())
    }

    fn pad(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        if !matches!(attrs.text("mode"), "" | "constant") {
            return fault(node, format!("mode {} is not supported, only constant", attrs.text("mode")));
        }
        let pads = match attrs.ints("pads") {
            Some(p) => p,
            None => self.ints(node, 1)?.unwrap_or_default(),
        };
        let fill = match self.floats(node, 2)? {
            Some(t) if t.data.len() == 1 => t.data[0],
            _ => attrs.float("value", 0.0),
        };
        // From opset 18 on the pads may be given for some axes only.
        let axes = match self.ints(node, 3)? {
            Some(a) => a.into_iter().map(|a| axis(node, a, dims.len())).collect::<Result<Vec<_>>>()?,
            None => (0..dims.len()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return fault(node, format!("pads {pads:?} do not fit axes {axes:?} of {dims:?}"));
        }
        let mut all = vec![0; 2 * dims.len()];
        for (i, &a) in axes.iter().enumerate() {
            all[a] = pads[i];
            all[a + dims.len()] = pads[i + axes.len()];
        }
        let pads = all;
        if !fill.is_finite() || pads.iter().any(|p| p.abs() > 1 << 20) {
            return fault(node, format!("pads {pads:?} do not fit {dims:?}"));
        }
        let mut out = vec![];
        for (a, &d) in dims.iter().enumerate() {
            let size = d as i64 + pads[a] + pads[a + dims.len()];
            out.push(usize::try_from(size).unwrap_or(0));
        }
        let start = pads[..dims.len()].iter().map(|&p| -(p as isize)).collect();
        self.push_output(node, 0, Layer::Slice { start, step: vec![1; dims.len()], fill }, vec![x], &out)
    }

    fn slice(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let part = |name: &str, i: usize| -> Result<Option<Vec<i64>>> {
            match attrs.ints(name) {
                Some(v) => Ok(Some(v)),
                None => self.ints(node, i),
            }
        };
        let (Some(starts), Some(ends)) = (part("starts", 1)?, part("ends", 2)?) else {
            return fault(node, "starts and ends are missing");
        };
        let axes = part("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if starts.len() != ends.len() || axes.len() != starts.len() || steps.len() != starts.len() || steps.contains(&0)
        {
            return fault(node, "starts, ends, axes and steps do not fit together");
        }
        let (mut start, mut step, mut out) = (vec![0isize; dims.len()], vec![1isize; dims.len()], dims.clone());
        for i in 0..axes.len() {
            let a = axis(node, axes[i], dims.len())?;
            let (from, by, len) = fold::slice_range(starts[i], ends[i], steps[i], dims[a]);
            (start[a], step[a], out[a]) = (from, by, len);
        }
        self.push_output(node, 0, Layer::Slice { start, step, fill: 0.0 }, vec![x], &out)
    }

    fn reshape(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let axes = |node: &Node| -> Result<Option<Vec<i64>>> {
            match attrs.ints("axes") {
                Some(a) => Ok(Some(a)),
                None => self.ints(node, 1),
            }
        };
        let out = match node.op.as_str() {
            "Flatten" => {
                let at = attrs.int("axis", 1);
                let at = if at == dims.len() as i64 { dims.len() } else { axis(node, at, dims.len())? };
                vec![dims[..at].iter().product(), dims[at..].iter().product()]
            }
            "Squeeze" => match axes(node)? {
                None => dims.iter().copied().filter(|&d| d != 1).collect(),
                Some(a) => {
                    let a = a.into_iter().map(|a| axis(node, a, dims.len())).collect::<Result<Vec<_>>>()?;
                    if a.iter().any(|&a| dims[a] != 1) {
                        return fault(node, format!("axes {a:?} of {dims:?} are not all 1"));
                    }
                    (0..dims.len()).filter(|i| !a.contains(i)).map(|i| dims[i]).collect()
                }
            },
            "Unsqueeze" => {
                let Some(a) = axes(node)? else { return fault(node, "axes are missing") };
                match fold::unsqueeze(&dims, &a) {
                    Some(out) => out,
                    None => return fault(node, format!("axes {a:?} cannot be added to {dims:?}")),
                }
            }
            _ => {
                let Some(target) = self.ints(node, 1)? else { return fault(node, "the shape is missing") };
                let allow_zero = attrs.int("allowzero", 0) == 1;
                match fold::reshape(&dims, &target, allow_zero).or_else(|| {
                    // A batch written into the shape when the model was exported gives way to the one wanted.
                    let (exported, wanted) = self.batch;
                    let mut target = target.clone();
                    let first = target.first_mut()?;
                    (Some(*first) == exported.or(Some(1)).map(|b| b as i64)).then(|| *first = wanted as i64);
                    fold::reshape(&dims, &target, allow_zero)
                }) {
                    Some(out) => out,
                    None => return fault(node, format!("{dims:?} cannot be reshaped to {target:?}")),
                }
            }
        };
        self.push_output(node, 0, Layer::Reshape, vec![x], &out)
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
