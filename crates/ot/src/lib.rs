//! Oblivious transfer (OT): one end has two strings, the other a choice bit; the second learns the string of its choice and
//! nothing of the other, the first nothing of the choice.
//!
//! A [`Pool`] is one end's supply in both directions. It starts from 128 transfers by public keys a direction ([`base`])
//! and makes any number of *correlated* ones from them: the sender holds blocks r and a fixed secret delta, the receiver choices c
//! and r ^ c delta. A hash makes independent strings of them. What is made of those lives above.
//!
//! Functions make messages and take messages, as words; nothing here sends. Security is against ends that follow the protocol
//! (semi-honest).

mod aes128;
pub mod base;
mod error;
mod ferret;
mod hash;
pub mod kkot;
mod parallel;
mod pool;
mod setup;
mod softspoken;
mod supply;
mod transpose;
#[cfg(test)]
mod vectors;

pub use aes128::Stream;
pub use error::{Error, Result};
pub use hash::Cut;
pub use parallel::in_parallel;
pub use pool::Pool;
pub use setup::Setup;
pub use supply::{Method, Supply, Words};
