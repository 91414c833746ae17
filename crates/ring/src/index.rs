//! Public re-indexing: permutations, slices, padding, broadcasting and window extraction in one form.

use crate::Shape;
use std::sync::Arc;

/// Marks an output position that takes the fill value instead of an input element.
pub const PAD: u32 = u32::MAX;

/// A public map from output positions to input positions: `out[i] = x[map[i]]`, or the fill value at [`PAD`].
///
/// Local on shares (each component is re-indexed alike) because positions are public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMap {
    /// Input position for each output position, or [`PAD`]. Shared, so that a device may keep a copy of its own for as long as the map lives.
    pub source: Arc<Vec<u32>>,
    /// Shape of the output.
    pub shape: Shape,
}

fn strides(dims: &[usize]) -> Vec<usize> {
    let mut s = vec![1; dims.len()];
    for i in (0..dims.len().saturating_sub(1)).rev() {
        s[i] = s[i + 1] * dims[i + 1];
    }
    s
}

impl IndexMap {
    /// Builds a map by asking `source` for the input position of each output coordinate.
    pub fn build(out: &[usize], mut source: impl FnMut(&[usize]) -> Option<usize>) -> Self {
        let mut coordinate = vec![0; out.len()];
        let n: usize = out.iter().product();
        let mut map = Vec::with_capacity(n);
        for _ in 0..n {
            map.push(source(&coordinate).map_or(PAD, |p| p as u32));
            for axis in (0..out.len()).rev() {
                coordinate[axis] += 1;
                if coordinate[axis] < out[axis] {
                    break;
                }
                coordinate[axis] = 0;
            }
        }
        Self { source: Arc::new(map), shape: Shape::new(out) }
    }

    /// Axis `i` of the output is axis `perm[i]` of the input.
    #[must_use]
    pub fn permute(dims: &[usize], perm: &[usize]) -> Self {
        let s = strides(dims);
        let out: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
        let by: Vec<usize> = perm.iter().map(|&p| s[p]).collect();
        Self::build(&out, |c| Some(c.iter().zip(&by).map(|(a, b)| a * b).sum()))
    }

    /// Elements `start[i] + step[i] * j` of every axis, `len[i]` of them; out-of-range positions are filled,
    /// so the same form serves slicing (possibly backwards) and padding.
    #[must_use]
    pub fn window(dims: &[usize], start: &[isize], step: &[isize], len: &[usize]) -> Self {
        let s = strides(dims);
        Self::build(len, |c| {
            let mut position = 0;
            for axis in 0..dims.len() {
                let at = start[axis] + step[axis] * c[axis] as isize;
                if at < 0 || at as usize >= dims[axis] {
                    return None;
                }
                position += at as usize * s[axis];
            }
            Some(position)
        })
    }

    /// NumPy broadcasting of `dims` to `out`. The caller has checked that it is possible.
    #[must_use]
    pub fn broadcast(dims: &[usize], out: &[usize]) -> Self {
        let lead = out.len() - dims.len();
        let s = strides(dims);
        Self::build(out, |c| Some((0..dims.len()).map(|a| if dims[a] == 1 { 0 } else { c[lead + a] * s[a] }).sum()))
    }

    /// True when the map copies its input unchanged.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.source.iter().enumerate().all(|(i, &s)| i == s as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(IndexMap::permute(&[2, 3], &[1, 0]).source[..], [0, 3, 1, 4, 2, 5]);
        assert_eq!(IndexMap::window(&[4], &[-1], &[2], &[3]).source[..], [PAD, 1, 3]);
        assert_eq!(IndexMap::window(&[3], &[2], &[-1], &[3]).source[..], [2, 1, 0]);
        assert_eq!(IndexMap::broadcast(&[2, 1], &[2, 2]).source[..], [0, 0, 1, 1]);
        assert!(IndexMap::permute(&[1, 5], &[1, 0]).is_identity());
    }
}
