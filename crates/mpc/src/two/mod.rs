//! Two parties and nobody else: the model's owner and the client, either of whom may be curious (after CrypTFlow2, ePrint
//! 2020/1002).
//!
//! x = x_0 + x_1 in Z/2^k; the model's owner is end 0 and holds x_0, the client is end 1 and holds x_1. Weights stay in the clear at
//! their owner: a product with them is the owner's own product with x_0, plus one on the client's encrypted x_1 (`sordino-he`).
//! Everything else is made of oblivious transfers (`sordino-ot`): comparisons of digits by tables, a tree over them, and selections
//! by random bits.
//!
//! Functionality, argument, cost and error of every protocol are in docs/two-party.md; the declared cost is [`Declared`], and a test
//! holds it against measured traffic.

mod compare;
mod cost;
mod draw;
mod engine;
mod flip;
mod keys;
mod linear;
mod one_ring;
mod product;
mod relu;
mod share;
mod transfers;

pub use cost::Declared;
pub use draw::Draw;
pub use engine::Two;
pub use keys::{Keys, establish};
pub use one_ring::{Modulus, OneRing};
pub use share::{Bits, Shared};
