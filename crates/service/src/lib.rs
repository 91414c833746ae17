//! A server among three, and the calls of its clients.
//!
//! docs/service.md says how it works. tokio is in this crate alone, at the port for clients.

mod adds;
mod agree;
pub mod briefs;
mod calls;
pub mod certificates;
mod charges;
pub mod client;
pub mod clock;
pub mod config;
pub mod course;
pub mod demo;
mod edge;
mod engine;
pub mod fault;
pub mod files;
pub mod fleet;
mod jobs;
pub mod kinds;
mod learning;
mod learnt;
mod lesson;
mod metrics;
pub mod names;
mod peers;
pub mod push;
mod queue;
pub mod records;
mod seal;
mod server;
mod session;
pub mod shares;
mod status;
pub mod store;
mod talk;
pub mod trainings;
pub mod upkeep;
pub mod wire;

pub use engine::Engine;
pub use fault::{Blame, Fault, Result};
pub use server::{Ports, Running};
