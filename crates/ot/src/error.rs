//! What goes wrong with transfers.

/// A message or a request that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A message is not as long as it must be.
    #[error("a message of transfers has the wrong length")]
    Length,
    /// A point of the curve does not decode.
    #[error("a public key is not a point of the curve")]
    Point,
    /// More transfers are drawn than both ends have made.
    #[error("more transfers are drawn than were made")]
    Short,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
