//! Clear tensors, as models hold them.

use std::rc::Rc;

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
    Float(Rc<Tensor>),
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

/// IEEE 754 binary16 to binary32.
#[must_use]
pub fn half(h: u16) -> f32 {
    let sign = if h >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(h >> 10 & 31), f32::from(h & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction / 1024.0) * 2f32.powi(e - 15),
    }
}
