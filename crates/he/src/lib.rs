//! Linear layers where one end has weights in the clear and the other encrypts its share of the input.
//!
//! A BFV-like scheme over Z_q\[X\] / (X^N + 1) whose answers are rescaled to Z/2^k and hidden by a uniform mask there: a one-time pad, so
//! that no noise is flooded. The error that is left lies in guard bits below the result. [`layer`] has the three steps of a layer,
//! [`layout`] how it is cut, [`params`] how large the modulus must be.
//!
//! Functions make messages and take messages, as words; nothing here sends. `unsafe` appears only in `ntt::ifma`.

mod cipher;
pub mod layer;
pub mod layout;
pub mod modulus;
pub mod ntt;
pub mod params;
mod sample;

pub use cipher::{PublicKey, Scheme, SecretKey};
pub use layout::Layout;
pub use params::Params;

/// Degree of the ring.
pub const N: usize = 4096;

/// A message that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not as long as it must be.
    #[error("a message of ciphertexts has the wrong length")]
    Length,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
