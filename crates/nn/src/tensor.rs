//! Clear tensors, as models hold them.

use std::sync::Arc;

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
        if let Some([outer, rows, columns]) = self.swapped(perm) {
            let dims: Vec<usize> = perm.iter().map(|&p| self.dims[p]).collect();
            return Self::new(&dims, transposed(&self.data, outer, rows, columns));
        }
        let map = sordino_ring::IndexMap::permute(&self.dims, perm);
        Self::new(map.shape.dims(), map.source.iter().map(|&s| self.data[s as usize]).collect())
    }

    /// The matrices that a permutation transposes, if it is one that swaps two groups of neighbouring axes behind some that stay:
    /// their number, rows and columns.
    fn swapped(&self, perm: &[usize]) -> Option<[usize; 3]> {
        let stay = perm.iter().enumerate().take_while(|(i, p)| i == *p).count();
        let first = *perm.get(stay)?;
        let second = perm.len() - first;
        let rotated =
            (stay..perm.len()).all(|i| perm[i] == if i < stay + second { first + i - stay } else { i - second });
        let size = |axes: std::ops::Range<usize>| self.dims[axes].iter().product();
        rotated.then(|| [size(0..stay), size(stay..first), size(first..perm.len())])
    }
}

/// Row-major matrices one after the other, each transposed, in blocks that stay in the cache.
fn transposed(data: &[f32], outer: usize, rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let mut out = vec![0.0; data.len()];
    let size = rows * columns;
    for (from, to) in data.chunks_exact(size.max(1)).zip(out.chunks_exact_mut(size.max(1))).take(outer) {
        for r in (0..rows).step_by(BLOCK) {
            for c in (0..columns).step_by(BLOCK) {
                for c in c..(c + BLOCK).min(columns) {
                    for r in r..(r + BLOCK).min(rows) {
                        to[c * rows + r] = from[r * columns + c];
                    }
                }
            }
        }
    }
    out
}

/// A constant of a model: weights are floats, shapes and indices are integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// Floats.
    Float(Arc<Tensor>),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_of_every_kind() {
        let dims = [2, 3, 4, 17];
        let x = Tensor::new(&dims, (0..408).map(|v| v as f32).collect());
        for perm in [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [3, 0, 1, 2], [1, 0, 2, 3], [0, 3, 2, 1], [2, 3, 0, 1]] {
            let y = x.permute(&perm);
            let map = sordino_ring::IndexMap::permute(&dims, &perm);
            assert_eq!(y.dims, map.shape.dims());
            assert!(map.source.iter().zip(&y.data).all(|(&s, &v)| s as f32 == v), "{perm:?}");
        }
    }
}
