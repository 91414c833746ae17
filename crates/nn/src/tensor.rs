//! Clear tensors, as models hold them.

/// A row-major tensor of floats.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor; the caller makes sure that the sizes agree.
    #[must_use]
    pub fn new(dims: &[usize], data: Vec<f32>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), data.len());
        Self { dims: dims.to_vec(), data }
    }
    /// Largest magnitude.
    #[must_use]
    pub fn max_abs(&self) -> f32 {
        self.data.iter().fold(0.0, |m, v| m.max(v.abs()))
    }
    /// The same elements in another order: axis i of the result is axis `perm[i]`.
    #[must_use]
    pub fn permute(&self, perm: &[usize]) -> Self {
        let map = sordino_ring::IndexMap::permute(&self.dims, perm);
        Self::new(map.shape.dims(), map.source.iter().map(|&s| self.data[s as usize]).collect())
    }
}

/// A constant of a model: weights are floats, shapes and indices are integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// Floats.
    Float(Tensor),
    /// Integers, with their dimensions.
    Int(Vec<usize>, Vec<i64>),
}

impl Constant {
    /// Dimensions.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Float(t) => &t.dims,
            Self::Int(d, _) => d,
        }
    }
}
