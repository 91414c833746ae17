//! Errors of importing, compiling and running models. Each is one sentence that names the place.

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, and with which part of the model or input.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not an ONNX model, or one that is not taken as a whole.
    #[error("the model cannot be used: {0}")]
    Model(String),
    /// A node cannot be imported.
    #[error("node {node} ({op}): {why}")]
    Node {
        /// Its name, or its first output's.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong.
        why: String,
    },
    /// Operators are none of those that are supported.
    #[error("operators that are not supported: {}", named(missing))]
    Unsupported {
        /// Their names, the first node of each, and how many there are.
        missing: Vec<(String, String, usize)>,
    },
    /// What the inputs leave open is not said.
    #[error("{0}")]
    Open(String),
    /// Samples of a batch are not computed each by itself.
    #[error("a batch of one is possible only: {0}")]
    Batch(String),
    /// An input does not fit the model.
    #[error("input \"{name}\": {why}")]
    Input {
        /// The model's name for it.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A layer's values cannot be represented.
    #[error("layer {layer}: {why}")]
    Range {
        /// The layer.
        layer: String,
        /// What does not fit.
        why: String,
    },
    /// The model cannot be trained.
    #[error("training: {0}")]
    Training(String),
    /// A party cannot keep or find its states.
    #[error("{0}")]
    State(String),
    /// The protocol failed.
    #[error(transparent)]
    Protocol(#[from] sordino_mpc::Error),
}

fn named(missing: &[(String, String, usize)]) -> String {
    let one = |(op, node, n): &(String, String, usize)| match n {
        1 => format!("{op} (node {node})"),
        n => format!("{op} (node {node} and {} more)", n - 1),
    };
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}
