//! Private inference and training with models and data that no single machine sees: the library to build on. The program
//! `sordino` is a thin layer over it.
//!
//! An owner of a model *compiles* it: the [`Graph`] of an ONNX file becomes a public [`program::Program`] and the weights that
//! are its secret. Ends then run a [`session::Job`] of that program: three servers, the model's owner, data owners, the
//! receiver, each over its own links, with what it has [`session::Owned`]. Here all of them are threads of this process
//! ([`in_process`]); [`processes`] makes the servers processes of their own, over TLS.
//!
//! # Compile and infer
//!
//! ```
//! use sordino::exec::{decode_outputs, encode_inputs};
//! use sordino::in_process::{InProcess, in_process};
//! use sordino::inputs::{self, Preprocess};
//! use sordino::{Options, model, owners::Owners, session::Job};
//!
//! # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))?;
//! // What the model's owner does: read, take ranges from samples that may be known, compile.
//! let graph = model::read("assets/mnist.onnx".as_ref())?;
//! let typed = model::typed(&graph, 1)?;
//! let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
//! let digit = inputs::read(&["assets/digit-7.png".into()], &[1, 1, 28, 28], &preprocess)?;
//! let ranges = model::calibrate(&graph, &[digit.clone()])?;
//! let (program, weights) = model::compiled(&typed, &ranges, &Options::default())?;
//!
//! // What everybody does: one run, the answer to the receiver.
//! let encoded = [encode_inputs(&program, &digit)?];
//! let mut inputs = &encoded[..];
//! let owners = Owners { weights: &weights, data: vec![&mut inputs], receiver: &mut () };
//! let done = in_process(Job::new(&program, 1)?, &InProcess::default(), owners, None, &Default::default())?;
//! let scores = &decode_outputs(&program, &done.outputs[0])[0].data;
//! assert_eq!((0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])), Some(7));
//! println!("{} bytes sent", done.bytes().payload);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Train
//!
//! ```
//! use sordino::exec::decode_states;
//! use sordino::in_process::{InProcess, in_process};
//! use sordino::nn::training::{Loss, Optimiser, Rates, Rule};
//! use sordino::prepared::{Material, Prepared, Trainer, owners};
//! use sordino::training::{Length, model_states, order, trained};
//! use sordino::{data, inputs::Preprocess, owners::Owners, session::Job, zoo};
//!
//! # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))?;
//! let graph = zoo::build("lenet", 0, zoo::Pool::Average).expect("a network of the zoo");
//! let preprocess = Preprocess::default();
//! let labels = "assets/digits-labels-idx1-ubyte.gz".as_ref();
//! let set = data::read(&["assets/digits-idx3-ubyte.gz".into()], Some(labels), &[1, 1, 28, 28], 10, &preprocess)?.train;
//! let order = order(&[set.samples.len()], 16, Length { iterations: Some(3), ..Length::default() }, 0)?;
//! let material = Material { sets: vec![set], order, answers: 10, seed: 0, key: Default::default(), preprocess };
//! let rule = Rule {
//!     loss: Loss::CrossEntropy,
//!     optimiser: Optimiser::Sgd { momentum: 0.9 },
//!     rates: Rates(vec![0.003]),
//!     decay: 0.0,
//!     weighted: false,
//!     tell_loss: true,
//!     seed: 0,
//! };
//! let prepared = Prepared::new(&graph, material, &rule, 8.0, 2)?;
//!
//! let job = Job { opened: model_states(&prepared.step), ..Job::new(&prepared.program, 3)? };
//! let mut trainers = Trainer::all(&prepared);
//! let everybody = Owners { weights: &prepared.secrets, data: owners(&mut trainers), receiver: &mut () };
//! let done = in_process(job, &InProcess::default(), everybody, None, &Default::default())?;
//! let states = decode_states(&prepared.program, &prepared.step, &done.states);
//! let model = trained(&graph, &prepared.step, &states)?;
//! assert_eq!(model.nodes.len(), graph.nodes.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod ahead;
pub mod answer;
mod arrays;
pub mod checkpoint;
pub mod class_weights;
pub mod compute;
pub mod data;
pub mod error;
mod idx;
pub mod in_process;
pub mod inputs;
mod keep;
pub mod links;
mod marks;
pub mod model;
pub mod owners;
pub mod party;
mod pictures;
pub mod prepared;
mod preprocess;
pub mod price;
pub mod private;
pub mod processes;
pub mod report;
pub mod samples;
pub mod session;
mod tables;
mod threads;
pub mod tls;
pub mod trace;
pub mod training;
pub mod two;
pub mod widths;

pub use error::{Error, Result};
pub use sordino_mpc as mpc;
pub use sordino_nn::{self as nn, Graph, Options, Ranges, Tensor, exec, program, zoo};
