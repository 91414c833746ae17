//! ONNX files to graphs and back.

use crate::graph::{Attribute, BatchAxis, Dim, Graph, Node};
use crate::limits::MAX_ELEMENTS;
use crate::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use crate::tensor::{Constant, Tensor, half};
use crate::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn fault<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Model(why.into()))
}

/// Where a tensor's bytes lie that are not in the model's own file (ONNX's external data).
pub struct External<'a> {
    /// A path relative to the model's folder, as written in the model: not to be trusted.
    pub location: &'a str,
    /// First byte.
    pub offset: u64,
    /// Bytes that the tensor's shape and type ask for.
    pub length: u64,
}

/// Reads a model that is one file.
///
/// # Errors
/// [`Error::Model`] for bytes that are no model, unsupported data types, sizes that do not agree, external data,
/// cycles.
pub fn read(bytes: &[u8]) -> Result<Graph> {
    read_with(Bytes::copy_from_slice(bytes), &mut |external| {
        Err(format!("it is in another file, {}", external.location))
    })
}

/// Reads a model whose larger tensors may lie in other files; `fetch` reads those, or says why not.
///
/// # Errors
/// As [`read`], and [`Error::Model`] naming the tensor that could not be fetched.
pub fn read_with(
    bytes: Bytes,
    fetch: &mut dyn FnMut(&External<'_>) -> std::result::Result<Vec<u8>, String>,
) -> Result<Graph> {
    let model =
        ModelProto::decode(bytes).map_err(|e| Error::Model(format!("{e}; is it an ONNX file, and complete?")))?;
    let Some(mut graph) = model.graph else { return fault("it holds no graph; is this an ONNX file?") };
    for tensor in &mut graph.initializer {
        inline(tensor, fetch)?;
    }
    let opset = model.opset_import.iter().filter(|o| o.domain.is_empty() || o.domain == "ai.onnx");
    let Some(opset) = opset.map(|o| o.version).max() else { return fault("it names no operator set") };
    if opset < 7 {
        return fault(format!("operator set {opset} is older than 7; export it again with a newer one"));
    }
    let mut constants = BTreeMap::new();
    for tensor in &graph.initializer {
        constants.insert(tensor.name.clone(), constant(tensor)?);
    }
    let mut inputs = vec![];
    for input in &graph.input {
        if !constants.contains_key(&input.name) {
            inputs.push((input.name.clone(), dims(input)?));
        }
    }
    // Large models are not held twice.
    graph.initializer.clear();
    let nodes = graph.node.iter().map(node).collect::<Result<Vec<_>>>()?;
    let outputs: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    if outputs.is_empty() {
        return fault("it has no output");
    }
    let nodes = sort(nodes, inputs.iter().map(|(n, _)| n).chain(constants.keys()).cloned().collect())?;
    Ok(Graph {
        name: graph.name,
        opset,
        inputs,
        outputs,
        nodes,
        constants,
        batch_axis: BatchAxis::Found,
        training: false,
    })
}

fn dims(input: &ValueInfoProto) -> Result<Vec<Dim>> {
    let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let Some(shape) = shape else { return fault(format!("input {} has no shape", input.name)) };
    // A dimension without a name, or with a size below one, as some exporters write it, may vary.
    let unnamed = |axis: usize| Dim::Symbol(if axis == 0 { "batch".into() } else { format!("{}.{axis}", input.name) });
    shape
        .dim
        .iter()
        .enumerate()
        .map(|(axis, d)| match &d.value {
            Some(DimensionValue::Value(v)) if *v > 0 && (*v as usize) < MAX_ELEMENTS => Ok(Dim::Fixed(*v as usize)),
            Some(DimensionValue::Value(v)) if *v < 1 => Ok(unnamed(axis)),
            Some(DimensionValue::Value(v)) => fault(format!("input {} has a dimension of {v}", input.name)),
            Some(DimensionValue::Param(name)) if name.is_empty() || name == "?" => Ok(unnamed(axis)),
            Some(DimensionValue::Param(name)) => Ok(Dim::Symbol(name.clone())),
            None => Ok(unnamed(axis)),
        })
        .collect()
}

/// Orders nodes so that each comes after what it reads; nodes that are in order stay so. Takes time in proportion to the
/// graph's size.
fn sort(nodes: Vec<Node>, known: BTreeSet<String>) -> Result<Vec<Node>> {
    let mut maker: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            if known.contains(output) || maker.insert(output, i).is_some() {
                return fault(format!("{output} is provided twice, the last time by node {}", node.name));
            }
        }
    }
    // How many results each node waits for, and who waits for each node.
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in node.inputs.iter().filter(|name| !name.is_empty() && !known.contains(*name)) {
            let Some(&from) = maker.get(input.as_str()) else {
                return fault(format!("node {} reads {input}, which nothing provides", node.name));
            };
            waits[i] += 1;
            readers[from].push(i);
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&i| waits[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for &reader in &readers[i] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if let Some(i) = waits.iter().position(|&w| w > 0) {
        return fault(format!("node {} is part of a cycle, or reads from one", nodes[i].name));
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| nodes[i].take()).collect())
}

fn node(proto: &NodeProto) -> Result<Node> {
    let name =
        if proto.name.is_empty() { proto.output.first().cloned().unwrap_or_default() } else { proto.name.clone() };
    let mut attributes = BTreeMap::new();
    for a in &proto.attribute {
        attributes.insert(a.name.clone(), attribute(a, &name)?);
    }
    let op = if proto.domain.is_empty() || proto.domain == "ai.onnx" {
        proto.op_type.clone()
    } else {
        format!("{}.{}", proto.domain, proto.op_type)
    };
    Ok(Node { name, op, inputs: proto.input.clone(), outputs: proto.output.clone(), attributes })
}

fn attribute(a: &AttributeProto, node: &str) -> Result<Attribute> {
    Ok(match AttributeType::try_from(a.r#type) {
        Ok(AttributeType::Float) => Attribute::Float(a.f),
        Ok(AttributeType::Int) => Attribute::Int(a.i),
        Ok(AttributeType::String) => Attribute::Text(String::from_utf8_lossy(&a.s).into_owned()),
        Ok(AttributeType::Floats) => Attribute::Floats(a.floats.clone()),
        Ok(AttributeType::Ints) => Attribute::Ints(a.ints.clone()),
        Ok(AttributeType::Tensor) => match &a.t {
            Some(t) => Attribute::Tensor(constant(t)?),
            None => return fault(format!("attribute {} of node {node} is empty", a.name)),
        },
        _ => return fault(format!("attribute {} of node {node} has a type that is not supported", a.name)),
    })
}

/// Puts a tensor's external bytes into it.
fn inline(
    t: &mut TensorProto,
    fetch: &mut dyn FnMut(&External<'_>) -> std::result::Result<Vec<u8>, String>,
) -> Result<()> {
    if t.data_location == 0 && t.external_data.is_empty() {
        return Ok(());
    }
    let width: u64 = match DataType::try_from(t.data_type) {
        Ok(DataType::Double | DataType::Int64 | DataType::Uint64) => 8,
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 2,
        Ok(DataType::Uint8 | DataType::Int8 | DataType::Bool) => 1,
        _ => return unsupported(t),
    };
    let length = elements(t)? as u64 * width;
    let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str, default: u64| match entry(key).map(str::parse) {
        None => Ok(default),
        Some(Ok(v)) => Ok(v),
        Some(Err(_)) => fault(format!("tensor {} is in another file, at a {key} that is no number", t.name)),
    };
    let Some(location) = entry("location") else {
        return fault(format!("tensor {} is in another file, which it does not name", t.name));
    };
    let stated = number("length", length)?;
    if stated != length {
        return fault(format!("tensor {} has {stated} bytes in {location} where {length} are needed", t.name));
    }
    let external = External { location, offset: number("offset", 0)?, length };
    let raw = fetch(&external).map_err(|why| Error::Model(format!("tensor {}: {why}", t.name)))?;
    (t.raw_data, t.data_location) = (raw.into(), 0);
    t.external_data.clear();
    Ok(())
}

fn unsupported<T>(t: &TensorProto) -> Result<T> {
    fault(format!("tensor {} has data type {}, which is not supported", t.name, t.data_type))
}

/// How many elements a tensor's dimensions ask for.
fn elements(t: &TensorProto) -> Result<usize> {
    let dims: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let n = dims.and_then(|dims| crate::limits::elements(&dims));
    n.map_or_else(|| fault(format!("tensor {} has an impossible size {}", t.name, brief(&t.dims))), Ok)
}

/// The first of many dimensions.
fn brief(dims: &[i64]) -> String {
    if dims.len() > 8 { format!("{:?} and {} more", &dims[..8], dims.len() - 8) } else { format!("{dims:?}") }
}

fn constant(t: &TensorProto) -> Result<Constant> {
    if t.data_location != 0 || !t.external_data.is_empty() {
        return fault(format!("tensor {} of an attribute is in another file; save the model as one file", t.name));
    }
    let n = elements(t)?;
    let dims: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
    // The elements' bytes, if they are not in fields of their own.
    let raw = |size: usize| -> Result<Option<std::slice::ChunksExact<'_, u8>>> {
        if t.raw_data.is_empty() && n > 0 {
            return Ok(None);
        }
        if t.raw_data.len() != n * size {
            return fault(format!("tensor {} has {} bytes where {} are needed", t.name, t.raw_data.len(), n * size));
        }
        Ok(Some(t.raw_data.chunks_exact(size)))
    };
    let le = |b: &[u8]| b.iter().rev().fold(0u64, |v, &x| v << 8 | u64::from(x));
    let single = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let floats = |v: Vec<f32>| -> Result<Constant> {
        if v.len() != n {
            return fault(format!("tensor {} has {} elements where {n} are needed", t.name, v.len()));
        }
        Ok(Constant::Float(Arc::new(Tensor { dims: dims.clone(), data: v })))
    };
    let ints = |v: Vec<i64>| -> Result<Constant> {
        if v.len() != n {
            return fault(format!("tensor {} has {} elements where {n} are needed", t.name, v.len()));
        }
        Ok(Constant::Int(dims.clone(), v))
    };
    match DataType::try_from(t.data_type) {
        Ok(DataType::Float) => floats(match raw(4)? {
            Some(raw) => raw.map(single).collect(),
            None => t.float_data.clone(),
        }),
        Ok(DataType::Double) => floats(match raw(8)? {
            Some(raw) => raw.map(|b| f64::from_bits(le(b)) as f32).collect(),
            None => t.double_data.iter().map(|&v| v as f32).collect(),
        }),
        Ok(DataType::Float16) => floats(match raw(2)? {
            Some(raw) => raw.map(|b| half(le(b) as u16)).collect(),
            None => t.int32_data.iter().map(|&v| half(v as u16)).collect(),
        }),
        // The upper half of a float.
        Ok(DataType::Bfloat16) => floats(match raw(2)? {
            Some(raw) => raw.map(|b| f32::from_bits((le(b) as u32) << 16)).collect(),
            None => t.int32_data.iter().map(|&v| f32::from_bits((v as u32) << 16)).collect(),
        }),
        Ok(DataType::Uint64) => ints(match raw(8)? {
            Some(raw) => raw.map(|b| le(b) as i64).collect(),
            None => t.uint64_data.iter().map(|&v| v as i64).collect(),
        }),
        Ok(DataType::Uint32) => ints(match raw(4)? {
            Some(raw) => raw.map(|b| le(b) as i64).collect(),
            None => t.uint64_data.iter().map(|&v| v as i64).collect(),
        }),
        Ok(DataType::Int16 | DataType::Uint16) => ints(match raw(2)? {
            Some(raw) if t.data_type == DataType::Int16 as i32 => raw.map(|b| i64::from(le(b) as i16)).collect(),
            Some(raw) => raw.map(|b| le(b) as i64).collect(),
            None => t.int32_data.iter().map(|&v| i64::from(v)).collect(),
        }),
        Ok(DataType::Int64) => ints(match raw(8)? {
            Some(raw) => raw.map(|b| le(b) as i64).collect(),
            None => t.int64_data.clone(),
        }),
        Ok(DataType::Int32) => ints(match raw(4)? {
            Some(raw) => raw.map(|b| i64::from(le(b) as i32)).collect(),
            None => t.int32_data.iter().map(|&v| i64::from(v)).collect(),
        }),
        Ok(DataType::Uint8 | DataType::Int8 | DataType::Bool) => ints(match raw(1)? {
            Some(raw) => raw
                .map(|b| if t.data_type == DataType::Int8 as i32 { i64::from(b[0] as i8) } else { i64::from(b[0]) })
                .collect(),
            None => t.int32_data.iter().map(|&v| i64::from(v)).collect(),
        }),
        _ => unsupported(t),
    }
}

/// Writes a model as ONNX (IR version 8).
#[must_use]
pub fn write(graph: &Graph) -> Vec<u8> {
    let value = |name: &String, dims: Option<&Vec<Dim>>| {
        let dim = |d: &Dim| Dimension {
            value: Some(match d {
                Dim::Fixed(n) => DimensionValue::Value(*n as i64),
                Dim::Symbol(s) => DimensionValue::Param(s.clone()),
            }),
        };
        let shape = dims.map(|d| TensorShapeProto { dim: d.iter().map(dim).collect() });
        let tensor_type = Some(TensorType { elem_type: DataType::Float as i32, shape });
        ValueInfoProto { name: name.clone(), r#type: Some(TypeProto { tensor_type }) }
    };
    // Shapes of the outputs, where the graph imports; the batch is a symbol if that of the input is one.
    let symbol = graph.inputs.iter().flat_map(|(_, d)| d).find(|d| matches!(d, Dim::Symbol(_))).cloned();
    let typed = crate::import(graph, 1).ok();
    let shapes: BTreeMap<String, Vec<Dim>> = typed
        .iter()
        .flat_map(|net| {
            let batch = |i: usize| net.batch.as_ref().map(|b| b.outputs[i]);
            net.outputs.iter().enumerate().map(move |(i, (name, id))| (name.clone(), &net.shapes[*id], batch(i)))
        })
        .map(|(name, dims, batch)| {
            let mut dims: Vec<Dim> = dims.iter().map(|&d| Dim::Fixed(d)).collect();
            if let (Some(axis), Some(symbol)) = (batch, &symbol) {
                dims[axis] = symbol.clone();
            }
            (name, dims)
        })
        .collect();
    let tensor = |name: &str, c: &Constant| {
        let mut proto = TensorProto { name: name.into(), ..TensorProto::default() };
        proto.dims = c.dims().iter().map(|&d| d as i64).collect();
        match c {
            Constant::Float(t) => {
                proto.data_type = DataType::Float as i32;
                proto.raw_data = t.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into();
            }
            Constant::Int(_, v) => {
                proto.data_type = DataType::Int64 as i32;
                proto.raw_data = v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into();
            }
        }
        proto
    };
    let attribute = |(name, a): (&String, &Attribute)| {
        let mut proto = AttributeProto { name: name.clone(), ..AttributeProto::default() };
        proto.r#type = match a {
            Attribute::Float(v) => {
                proto.f = *v;
                AttributeType::Float
            }
            Attribute::Int(v) => {
                proto.i = *v;
                AttributeType::Int
            }
            Attribute::Text(s) => {
                proto.s = s.clone().into_bytes();
                AttributeType::String
            }
            Attribute::Ints(v) => {
                proto.ints = v.clone();
                AttributeType::Ints
            }
            Attribute::Floats(v) => {
                proto.floats = v.clone();
                AttributeType::Floats
            }
            Attribute::Tensor(c) => {
                proto.t = Some(tensor("", c));
                AttributeType::Tensor
            }
        } as i32;
        proto
    };
    let node = |n: &Node| NodeProto {
        name: n.name.clone(),
        op_type: n.op.clone(),
        input: n.inputs.clone(),
        output: n.outputs.clone(),
        attribute: n.attributes.iter().map(attribute).collect(),
        domain: String::new(),
    };
    let model = ModelProto {
        ir_version: 8,
        producer_name: "sordino".into(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: graph.opset }],
        graph: Some(GraphProto {
            name: graph.name.clone(),
            node: graph.nodes.iter().map(node).collect(),
            initializer: graph.constants.iter().map(|(n, c)| tensor(n, c)).collect(),
            input: graph.inputs.iter().map(|(n, d)| value(n, Some(d))).collect(),
            output: graph.outputs.iter().map(|n| value(n, shapes.get(n))).collect(),
        }),
    };
    model.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StringStringEntryProto;

    #[test]
    fn halves() {
        assert_eq!((half(0x3c00), half(0xc000), half(0x0001), half(0x7bff)), (1.0, -2.0, 2f32.powi(-24), 65504.0));
    }

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        let weight = Constant::Float(Tensor::new(&[2, 1], vec![1.5, -2.0]).into());
        let graph = Graph {
            name: "g".into(),
            opset: 13,
            inputs: vec![("x".into(), vec![Dim::Symbol("N".into()), Dim::Fixed(2)])],
            outputs: vec!["y".into()],
            nodes: vec![Node {
                name: "mm".into(),
                op: "MatMul".into(),
                inputs: vec!["x".into(), "w".into()],
                outputs: vec!["y".into()],
                attributes: [("k".to_string(), Attribute::Ints(vec![1, 2]))].into(),
            }],
            constants: [("w".to_string(), weight)].into(),
            ..Graph::default()
        };
        assert_eq!(read(&write(&graph))?, graph);
        Ok(())
    }

    #[test]
    fn refuses_cycles_and_dangling_names() {
        let node = |input: &str, output: &str| Node {
            name: output.into(),
            op: "Relu".into(),
            inputs: vec![input.into()],
            outputs: vec![output.into()],
            attributes: BTreeMap::new(),
        };
        let graph = |nodes| Graph {
            opset: 13,
            inputs: vec![("x".into(), vec![Dim::Fixed(1)])],
            outputs: vec!["b".into()],
            nodes,
            ..Graph::default()
        };
        let cycle = read(&write(&graph(vec![node("b", "a"), node("a", "b")])));
        assert!(matches!(cycle, Err(Error::Model(w)) if w.contains("cycle")));
        let dangling = read(&write(&graph(vec![node("nothing", "b")])));
        assert!(matches!(dangling, Err(Error::Model(w)) if w.contains("nothing provides")));
        // Order in the file does not matter.
        assert!(read(&write(&graph(vec![node("a", "b"), node("x", "a")]))).is_ok());
    }

    #[test]
    fn refuses_broken_files() {
        for bytes in [&b""[..], &[0xff; 40], b"\x08\x08"] {
            assert!(matches!(read(bytes), Err(Error::Model(_))));
        }
        let huge = TensorProto { dims: vec![1 << 40, 1 << 40], data_type: 1, ..TensorProto::default() };
        assert!(matches!(constant(&huge), Err(Error::Model(w)) if w.contains("impossible size")));
        let negative = TensorProto { dims: vec![-1], data_type: 1, ..TensorProto::default() };
        assert!(constant(&negative).is_err());
        let short = TensorProto { dims: vec![2], data_type: 1, raw_data: vec![0; 7].into(), ..TensorProto::default() };
        assert!(constant(&short).is_err());
        let external = TensorProto { dims: vec![2], data_type: 1, data_location: 1, ..TensorProto::default() };
        assert!(matches!(constant(&external), Err(Error::Model(w)) if w.contains("another file")));
    }

    #[test]
    fn external_tensors_are_fetched_at_their_exact_size() {
        let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
        let model = |entries: Vec<StringStringEntryProto>| {
            let w = TensorProto {
                name: "w".into(),
                dims: vec![2],
                data_type: 1,
                data_location: 1,
                external_data: entries,
                ..TensorProto::default()
            };
            let output = ValueInfoProto { name: "w".into(), ..ValueInfoProto::default() };
            let graph = GraphProto { initializer: vec![w], output: vec![output], ..GraphProto::default() };
            let opset_import = vec![OperatorSetIdProto { version: 13, ..OperatorSetIdProto::default() }];
            ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
        };
        let whole = model(vec![entry("location", "w.bin"), entry("offset", "4"), entry("length", "8")]);
        let graph = read_with(whole.clone().into(), &mut |e| {
            assert_eq!((e.location, e.offset, e.length), ("w.bin", 4, 8));
            Ok([1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .unwrap();
        assert!(matches!(&graph.constants["w"], Constant::Float(t) if t.data == [1.0, 2.0]));
        let refused = |bytes: &[u8], words: &str| {
            let got = read_with(Bytes::copy_from_slice(bytes), &mut |_| Ok(vec![0; 7]));
            assert!(matches!(&got, Err(Error::Model(w)) if w.contains(words)), "{words}");
        };
        refused(&whole, "7 bytes where 8");
        refused(&model(vec![entry("location", "w.bin"), entry("length", "9")]), "9 bytes in w.bin");
        refused(&model(vec![entry("location", "w.bin"), entry("offset", "-1")]), "offset");
        refused(&model(vec![entry("offset", "0")]), "does not name");
        assert!(matches!(read(&whole), Err(Error::Model(w)) if w.contains("w.bin")));
    }
}
