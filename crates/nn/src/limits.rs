//! Bounds on what a model may ask for.

/// Most elements of a tensor: twice the largest layer of the networks this is made for, and what a small hostile file can make
/// us allocate.
pub(crate) const MAX_ELEMENTS: usize = 1 << 28;

/// Most axes of a tensor: ONNX has no operator that needs more.
pub(crate) const MAX_RANK: usize = 32;

/// Most elements that the re-indexings of a program read, all together: each party holds their maps.
pub(crate) const MAX_MAPPED: usize = 1 << 28;

/// How many elements dimensions ask for; `None` for impossible ones: too many axes, or too many elements. Axes of length zero
/// do not make the others free: what loops over some of the axes alone must end too.
pub(crate) fn elements(dims: &[usize]) -> Option<usize> {
    if dims.len() > MAX_RANK {
        return None;
    }
    let all = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)).filter(|&n| n < MAX_ELEMENTS))?;
    Some(if dims.contains(&0) { 0 } else { all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_tensors_are_not_free() {
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[0, 5]), Some(0));
        assert_eq!(elements(&[0, 1 << 62]), None);
        assert_eq!(elements(&[0, 1 << 22, 1, 1 << 21, 1 << 21]), None);
        assert_eq!(elements(&[1; 33]), None);
    }
}
