//! Secure computation protocols over ring tensors.
//!
//! [`Protocol`] is the seam: one executor runs a model over any implementation. Here are [`rep3::Rep3`] (three servers,
//! one of which may be curious), [`Clear`] (fixed point in the clear, the oracle), [`Plan`] (shapes and the declared [`Costs`]
//! of any protocol) and [`Client`] (an owner: provides inputs or receives outputs). [`Topology`] says which ends a session has.
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
//! let _ = p.open(Step::root([0; 16]), x, Role::Receiver); // never verified
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
mod costs;
mod entropy;
mod error;
mod fit;
mod party;
mod plan;
mod protocol;
pub mod rep3;
mod step;
mod topology;
pub mod two;

pub use clear::{Clear, ClearTensor, Overflow};
pub use client::Client;
pub use costs::{Cost, Costs};
pub use entropy::{Entropy, System};
pub use error::{Error, Result};
pub use party::Party;
pub use plan::{Plan, Symbol};
pub use protocol::{Checked, Ends, Linear, Local, Protocol, Role, Settings, Transfers, Truncation, Width};
pub use step::Step;
pub use topology::{Kind, MOST_OWNERS, Topology};

/// What a protocol answers when it is asked for something that it does not offer.
pub(crate) fn refused<T>(what: &str) -> Result<T> {
    Err(Error::Usage(format!("{what} is not offered by this protocol")))
}
