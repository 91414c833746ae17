//! Where fresh randomness enters: keys between servers, and seeds of what owners share.

use crate::{Error, Result};

/// A source of fresh, secret randomness. Programs take [`System`]; tests that must be repeatable bring their own.
pub trait Entropy: Send + Sync {
    /// Fills a buffer.
    ///
    /// # Errors
    /// [`Error::Randomness`] when there is none.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Entropy for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes).map_err(|_| Error::Randomness)
    }
}
