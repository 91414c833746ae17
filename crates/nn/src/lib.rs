//! Neural networks for secure computation: from an ONNX file to a program of protocol steps, and the executor that runs
//! it over any protocol.
//!
//! A model moves through typed stages: [`onnx::read`] gives a [`Graph`], as exported; [`import`] a [`Network`] with a
//! batch, every shape and every attribute resolved; [`for_inference`] folds and reorders; [`compile`] decides layouts,
//! scales and widths and gives a [`program::Program`] and the model owner's [`program::Secrets`]; [`exec::Loaded`] runs
//! it. [`float::evaluate`] runs a network in ordinary arithmetic, for calibration and as the reference.

mod batch;
mod beside;
pub mod best;
mod columns;
mod defer;
mod error;
pub mod exec;
pub mod float;
mod fold;
pub mod graph;
mod guard;
mod import;
mod limits;
mod lower;
pub mod network;
pub mod onnx;
mod passes;
pub mod program;
pub mod proto;
mod slices;
mod sound;
mod tame;
mod tensor;
pub mod training;
pub mod zoo;

pub use batch::Batch;
pub use beside::compile_beside;
pub use error::{Error, Result};
pub use graph::{BatchAxis, Graph};
pub use import::{batch_dimension, check_inputs, import, open_dimensions, supported};
pub use lower::{Options, Range, Ranges, compile, compile_answer, compile_step, for_inference};
pub use network::Network;
pub use tame::tamed;
pub use tensor::{Constant, Tensor, half};
