//! What users touch: compiling models, loading inputs, sessions of three servers and a client, transports between
//! processes, and reports. The binary `sordino` is a thin layer over this library.

pub mod answer;
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod in_process;
pub mod inputs;
mod keep;
pub mod links;
mod marks;
pub mod model;
pub mod owners;
pub mod party;
mod private;
pub mod processes;
pub mod report;
pub mod session;
mod threads;
pub mod tls;
pub mod trace;
pub mod training;
pub mod widths;

pub use error::{Error, Result};
