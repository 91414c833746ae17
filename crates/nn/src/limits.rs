//! Bounds on what a model may ask for.

/// Most elements of a tensor: twice the largest layer of the networks this is made for, and what a small hostile file can make
/// us allocate.
pub(crate) const MAX_ELEMENTS: usize = 1 << 28;
