//! Secure computation protocols over ring tensors.
//!
//! [`Protocol`] is the seam: one executor runs a model over any implementation. Here are [`rep3::Rep3`] (three servers,
//! one of which may be curious), [`Clear`] (fixed point in the clear, the oracle), [`Plan`] (shapes and declared cost
//! only) and [`Client`] (whoever provides inputs and receives outputs).
//!
//! Every interactive operation happens at a [`Step`], a named place in the computation that can be used once: names
//! key the correlated randomness and tag the messages. A value is opened only after [`Protocol::verify`] made it
//! [`Checked`].
//!
//! Protocol code never touches a socket, a clock, a file or ambient randomness; fresh randomness enters once, when a
//! session's keys are agreed, and in the client's sharing.
//!
//! ```compile_fail,E0382
//! use sordino_mpc::{Clear, Protocol, Step, Width};
//! use sordino_ring::{Cpu, Shape};
//! let p = Clear::new(Cpu::new(1));
//! let x = p.constant(&[1], &Shape::new(&[1]), Width::Narrow);
//! let at = Step::root([0; 16]);
//! let y = p.msb(at, &x);
//! let z = p.msb(at, &x); // the same place twice
//! ```
//!
//! ```compile_fail,E0308
//! use sordino_mpc::{Clear, Protocol, Role, Step, Width};
//! use sordino_ring::{Cpu, Shape};
//! let p = Clear::new(Cpu::new(1));
//! let x = p.constant(&[1], &Shape::new(&[1]), Width::Narrow);
//! let _ = p.open(Step::root([0; 16]), x, Role::DataOwner); // never verified
//! ```
//!
//! Secrets cannot be printed:
//!
//! ```compile_fail,E0277
//! fn printable<T: std::fmt::Debug>() {}
//! printable::<sordino_mpc::rep3::Shared<sordino_ring::Cpu>>();
//! ```
//! ```compile_fail,E0277
//! fn printable<T: std::fmt::Debug>() {}
//! printable::<sordino_ring::PrgKey>();
//! ```

mod clear;
mod client;
mod error;
mod plan;
mod protocol;
pub mod rep3;
mod step;

pub use clear::{Clear, ClearTensor, Overflow};
pub use client::Client;
pub use error::{Error, Result};
pub use plan::{Cost, Plan, Symbol};
pub use protocol::{Checked, Local, Protocol, Role, Settings, Width};
pub use step::Step;
