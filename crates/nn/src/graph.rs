//! The model as it was exported: nodes by operator name, weights by name, a symbolic batch. The source of truth that
//! inference and training programs derive from.

use crate::tensor::Constant;
use std::collections::BTreeMap;

/// A dimension of a model's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(usize),
    /// A name, usually the batch.
    Symbol(String),
}

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A string.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// A tensor.
    Tensor(Constant),
}

/// One operator application.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, or its first output's.
    pub name: String,
    /// ONNX's operator name.
    pub op: String,
    /// Names of its inputs; empty for an absent optional one.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Version of the operator set.
    pub opset: i64,
    /// Inputs with their dimensions.
    pub inputs: Vec<(String, Vec<Dim>)>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Weights and other constants by name.
    pub constants: BTreeMap<String, Constant>,
}

impl Graph {
    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.constants
            .values()
            .map(|c| match c {
                Constant::Float(t) => t.data.len(),
                Constant::Int(..) => 0,
            })
            .sum()
    }
}
