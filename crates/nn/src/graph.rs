//! The model as it was exported: nodes by operator name, weights by name, a symbolic batch. The source of truth that
//! inference and training programs derive from.

use crate::tensor::Constant;
use sha2::{Digest, Sha256};
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

/// Which axis of the inputs is the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BatchAxis {
    /// What the graph tells: an axis that may vary, or the first one if samples do not mix along it.
    #[default]
    Found,
    /// None: the model takes one input, whole.
    None,
    /// This one.
    At(usize),
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
    /// Which of their axes is the batch.
    pub batch_axis: BatchAxis,
    /// True when it is to be trained: then batch norms and dropouts may be in training mode, and what is a public matrix elsewhere
    /// must not be taken for weights.
    pub training: bool,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Weights and other constants by name.
    pub constants: BTreeMap<String, Constant>,
}

impl Graph {
    /// Gives a symbolic dimension of the inputs a size. False when no input has it.
    pub fn set(&mut self, symbol: &str, size: usize) -> bool {
        let dims = self.inputs.iter_mut().flat_map(|(_, dims)| dims);
        let mut found = false;
        for d in dims.filter(|d| matches!(d, Dim::Symbol(s) if s == symbol)) {
            (*d, found) = (Dim::Fixed(size), true);
        }
        found
    }

    /// SHA-256 of all that it computes: nodes, attributes, constants, shapes of inputs.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Lengths keep what follows each other apart; maps are in the order of their names.
        let text = |hash: &mut Sha256, text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        text(&mut hash, &format!("{:?} {:?} {:?}", self.opset, self.inputs, self.outputs));
        for (name, constant) in &self.constants {
            text(&mut hash, name);
            hash_constant(&mut hash, constant);
        }
        for node in &self.nodes {
            text(&mut hash, &format!("{} {:?} {:?}", node.op, node.inputs, node.outputs));
            for (name, attribute) in &node.attributes {
                text(&mut hash, name);
                match attribute {
                    Attribute::Tensor(constant) => hash_constant(&mut hash, constant),
                    other => text(&mut hash, &format!("{other:?}")),
                }
            }
        }
        hash.finalize().into()
    }

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

fn hash_constant(hash: &mut Sha256, constant: &Constant) {
    hash.update(format!("{:?}", constant.dims()));
    match constant {
        Constant::Float(t) => t.data.chunks(4096).for_each(|part| {
            hash.update(part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }),
        Constant::Int(_, v) => v.iter().for_each(|v| hash.update(v.to_le_bytes())),
    }
}
