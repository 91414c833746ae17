//! What a maximum pooling leaves for its gradient.

/// What one axis compared.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) axis: usize,
    /// Dimensions before it.
    pub(super) dims: Vec<usize>,
    /// Length after it.
    pub(super) out: usize,
    /// Where the window of output 0 starts for each position of the kernel, and the stride.
    pub(super) starts: Vec<isize>,
    pub(super) stride: isize,
    /// For each level of the tree, the bit that says whether the first of a pair won; none where one is left over.
    pub(super) levels: Vec<Vec<Option<usize>>>,
}
