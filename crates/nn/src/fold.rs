//! Computing on constants at import: shape chains, broadcast constants, and the rules of shapes.

mod elementwise;

pub(crate) use elementwise::{Moved, elementwise, moved};

use crate::graph::{Attribute, Node};
use crate::limits::{MAX_RANK, elements};
use crate::tensor::{Constant, Tensor};
use crate::{Error, Result};
use sordino_ring::IndexMap;
use std::sync::Arc;

/// The shape two operands broadcast to by NumPy's rules.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let get = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |i| d[i]);
    (0..rank)
        .map(|i| match (get(a, i), get(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// ONNX's reshape rules: 0 copies a dimension, -1 takes the rest.
pub(crate) fn reshape(dims: &[usize], target: &[i64], allow_zero: bool) -> Option<Vec<usize>> {
    let n: usize = dims.iter().product();
    let mut out = vec![];
    let mut rest = None;
    for (i, &t) in target.iter().enumerate() {
        out.push(match t {
            0 if !allow_zero => *dims.get(i)?,
            -1 if rest.is_none() => {
                rest = Some(i);
                1
            }
            t => usize::try_from(t).ok()?,
        });
    }
    let known = out.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    if let Some(i) = rest {
        out[i] = n.checked_div(known)?;
    }
    (out.iter().try_fold(1usize, |n, &d| n.checked_mul(d))? == n).then_some(out)
}

/// Inserts axes of one.
pub(crate) fn unsqueeze(dims: &[usize], axes: &[i64]) -> Option<Vec<usize>> {
    let rank = dims.len() + axes.len();
    if rank > MAX_RANK {
        return None;
    }
    let mut at: Vec<usize> = axes
        .iter()
        .map(|&a| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank))
        .collect::<Option<_>>()?;
    at.sort_unstable();
    at.dedup();
    if at.len() != axes.len() {
        return None;
    }
    let mut rest = dims.iter();
    (0..rank).map(|i| if at.contains(&i) { Some(1) } else { rest.next().copied() }).collect()
}

/// First position, step and length of a slice of an axis of `len`.
pub(crate) fn slice_range(start: i64, end: i64, step: i64, len: usize) -> (isize, isize, usize) {
    let n = len as i64;
    let wrap = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (lo, hi) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let from = wrap(start).clamp(if step > 0 { 0 } else { lo }, hi);
    let to = wrap(end).clamp(lo, if step > 0 { hi } else { n - 1 });
    let span = if step > 0 { to - from } else { from - to };
    let count = if span <= 0 { 0 } else { (span as u64).div_ceil(step.unsigned_abs()) };
    (from as isize, step as isize, count as usize)
}

pub(crate) fn as_float(c: &Constant) -> Tensor {
    match c {
        Constant::Float(t) => (**t).clone(),
        Constant::Int(d, v) => Tensor { dims: d.clone(), data: v.iter().map(|&v| v as f32).collect() },
    }
}

fn as_int(c: &Constant) -> Constant {
    match c {
        Constant::Int(..) => c.clone(),
        Constant::Float(t) => Constant::Int(t.dims.clone(), t.data.iter().map(|&v| v as i64).collect()),
    }
}

fn fold_bool(c: &Constant) -> Constant {
    let t = as_float(c);
    Constant::Int(t.dims, t.data.iter().map(|&v| i64::from(v != 0.0)).collect())
}

/// The dimensions from `start` to before `end`, both counted from the end when negative and clamped, as integers.
pub(crate) fn shape(dims: &[usize], start: i64, end: i64) -> Constant {
    let rank = dims.len() as i64;
    let at = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let taken = dims.get(at(start)..at(end)).unwrap_or_default();
    Constant::Int(vec![taken.len()], taken.iter().map(|&d| d as i64).collect())
}

/// Elements that a model may fold besides four times its own constants: shapes, positions, masks; and what a small hostile
/// file can make us allocate.
const BUDGET: usize = 1 << 26;

/// What a model that is over its budget is told.
pub(crate) const LARGE: &str = "the model folds to more constants than a model of its size may";

/// How many elements a graph's constants may be folded to, all results together.
pub(crate) fn budget(constants: impl Iterator<Item = usize>) -> usize {
    constants.fold(BUDGET, |sum, n| sum.saturating_add(n.saturating_mul(4)))
}

fn with_dims(c: &Constant, dims: &[usize]) -> Constant {
    match c {
        Constant::Float(t) => Constant::Float(Arc::new(Tensor { dims: dims.to_vec(), data: t.data.clone() })),
        Constant::Int(_, v) => Constant::Int(dims.to_vec(), v.clone()),
    }
}

pub(crate) fn pick(c: &Constant, map: &IndexMap) -> Constant {
    let dims = map.shape.dims().to_vec();
    match c {
        Constant::Float(t) => {
            Constant::Float(Arc::new(Tensor { dims, data: map.source.iter().map(|&s| t.data[s as usize]).collect() }))
        }
        Constant::Int(_, v) => Constant::Int(dims, map.source.iter().map(|&s| v[s as usize]).collect()),
    }
}

/// The value of a node all of whose inputs are constant; `None` when the operator is not one for constants. `left` is how many
/// elements it may have: looked at before any is made.
///
/// # Errors
/// When the constants do not fit the operator, or its result does not fit the budget.
pub(crate) fn evaluate(node: &Node, inputs: &[Option<Arc<Constant>>], left: usize) -> Result<Option<Constant>> {
    match folded(node, inputs, left)? {
        Some(c) if elements(c.dims()).is_none() => {
            let why = "its result has an impossible shape".into();
            Err(Error::Node { node: node.name.clone(), op: node.op.clone(), why })
        }
        other => Ok(other),
    }
}

fn folded(node: &Node, inputs: &[Option<Arc<Constant>>], left: usize) -> Result<Option<Constant>> {
    let fault = |why: &str| Err(Error::Node { node: node.name.clone(), op: node.op.clone(), why: why.into() });
    let int = |name: &str, default: i64| match node.attributes.get(name) {
        Some(Attribute::Int(v)) => *v,
        _ => default,
    };
    let attribute_ints = |name: &str| match node.attributes.get(name) {
        Some(Attribute::Ints(v)) => Some(v.clone()),
        _ => None,
    };
    let input_ints = |i: usize| match inputs.get(i).and_then(|c| c.as_deref()) {
        Some(Constant::Int(_, v)) => Some(v.clone()),
        _ => None,
    };
    let first = inputs.first().and_then(|c| c.as_deref());
    let too_large = |dims: &[usize]| elements(dims).is_none_or(|n| n > left);
    // Most operators give no more than their first operand has; the others look for themselves. Integers beside it are axes and
    // shapes, of which there are no more than axes.
    if first.is_some_and(|c| too_large(c.dims())) {
        return fault(LARGE);
    }
    let long = |c: &Option<Arc<Constant>>| matches!(c.as_deref(), Some(Constant::Int(_, v)) if v.len() > MAX_RANK);
    let shaped = matches!(node.op.as_str(), "Squeeze" | "Unsqueeze" | "Reshape" | "Expand" | "Slice");
    let listed = |a: &Attribute| matches!(a, Attribute::Ints(v) if v.len() > MAX_RANK);
    if shaped && inputs.iter().skip(1).any(long)
        || node.op == "ConstantOfShape" && inputs.iter().any(long)
        || node.op != "Constant" && node.attributes.values().any(listed)
    {
        return fault("it names more axes than a tensor has");
    }
    Ok(Some(match (node.op.as_str(), first) {
        ("Constant", _) => match node.attributes.iter().next() {
            Some((_, Attribute::Tensor(c))) => c.clone(),
            Some((_, Attribute::Float(v))) => Constant::Float(Arc::new(Tensor::new(&[], vec![*v]))),
            Some((_, Attribute::Int(v))) => Constant::Int(vec![], vec![*v]),
            Some((_, Attribute::Ints(v))) => Constant::Int(vec![v.len()], v.clone()),
            Some((_, Attribute::Floats(v))) => Constant::Float(Arc::new(Tensor::new(&[v.len()], v.clone()))),
            _ => return fault("it holds no value"),
        },
        ("ConstantOfShape", Some(Constant::Int(_, shape))) => {
            let dims: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok()).collect();
            let Some(dims) = dims else { return fault(&format!("shape {shape:?} is impossible")) };
            if too_large(&dims) {
                return fault(LARGE);
            }
            let n = elements(&dims).unwrap_or(0);
            match node.attributes.get("value") {
                Some(Attribute::Tensor(Constant::Float(t))) if t.data.len() == 1 => {
                    Constant::Float(Arc::new(Tensor { dims, data: vec![t.data[0]; n] }))
                }
                Some(Attribute::Tensor(Constant::Int(_, v))) if v.len() == 1 => Constant::Int(dims, vec![v[0]; n]),
                None => Constant::Float(Arc::new(Tensor { dims, data: vec![0.0; n] })),
                _ => return fault("its value is not one element"),
            }
        }
        ("Shape", Some(c)) => shape(c.dims(), int("start", 0), int("end", i64::MAX)),
        ("Size", Some(c)) => Constant::Int(vec![], vec![c.dims().iter().product::<usize>() as i64]),
        ("CastLike", Some(c)) => match inputs.get(1).and_then(|c| c.as_deref()) {
            Some(Constant::Float(_)) => Constant::Float(Arc::new(as_float(c))),
            Some(Constant::Int(..)) => as_int(c),
            None => return fault("an operand is missing"),
        },
        ("Identity" | "Dropout", Some(c)) => c.clone(),
        ("Cast", Some(c)) => match int("to", 1) {
            1 | 10 | 11 | 16 => Constant::Float(Arc::new(as_float(c))),
            // Booleans are zero and one.
            9 => fold_bool(c),
            2..=7 | 12 | 13 => as_int(c),
            to => return fault(&format!("data type {to} is not supported")),
        },
        ("Reshape", Some(c)) => match input_ints(1).and_then(|t| reshape(c.dims(), &t, int("allowzero", 0) == 1)) {
            Some(dims) => with_dims(c, &dims),
            None => return fault("the shape does not fit"),
        },
        ("Flatten", Some(c)) => {
            let at = usize::try_from(int("axis", 1)).unwrap_or(0).min(c.dims().len());
            with_dims(c, &[c.dims()[..at].iter().product(), c.dims()[at..].iter().product()])
        }
        ("Squeeze", Some(c)) => {
            let axes = attribute_ints("axes").or_else(|| input_ints(1));
            let rank = c.dims().len() as i64;
            let gone = |i: usize| match &axes {
                Some(a) => a.iter().any(|&a| (if a < 0 { a + rank } else { a }) == i as i64),
                None => c.dims()[i] == 1,
            };
            let dims: Vec<usize> = (0..c.dims().len()).filter(|&i| !gone(i)).map(|i| c.dims()[i]).collect();
            if (0..c.dims().len()).any(|i| gone(i) && c.dims()[i] != 1) {
                return fault("an axis to remove is not 1");
            }
            with_dims(c, &dims)
        }
        ("Unsqueeze", Some(c)) => {
            match attribute_ints("axes").or_else(|| input_ints(1)).and_then(|a| unsqueeze(c.dims(), &a)) {
                Some(dims) => with_dims(c, &dims),
                None => return fault("the axes do not fit"),
            }
        }
        ("Transpose", Some(c)) => {
            let rank = c.dims().len();
            let perm: Vec<usize> = match attribute_ints("perm") {
                Some(p) => p.iter().map(|&a| usize::try_from(a).unwrap_or(usize::MAX)).collect(),
                None => (0..rank).rev().collect(),
            };
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen != (0..rank).collect::<Vec<_>>() {
                return fault("perm is not a permutation of the axes");
            }
            pick(c, &IndexMap::permute(c.dims(), &perm))
        }
        ("Slice", Some(c)) => {
            let starts = attribute_ints("starts").or_else(|| input_ints(1));
            let ends = attribute_ints("ends").or_else(|| input_ints(2));
            let (Some(starts), Some(ends)) = (starts, ends) else { return fault("starts and ends are missing") };
            let rank = c.dims().len();
            let axes =
                attribute_ints("axes").or_else(|| input_ints(3)).unwrap_or_else(|| (0..starts.len() as i64).collect());
            let steps = input_ints(4).unwrap_or_else(|| vec![1; starts.len()]);
            let (mut start, mut step, mut len) = (vec![0; rank], vec![1; rank], c.dims().to_vec());
            for (i, &a) in axes.iter().enumerate() {
                let a = if a < 0 { a + rank as i64 } else { a } as usize;
                let (Some(&s), Some(&e), Some(&by)) = (starts.get(i), ends.get(i), steps.get(i)) else {
                    return fault("starts, ends, axes and steps do not fit together");
                };
                if a >= rank || by == 0 {
                    return fault("an axis does not exist or a step is zero");
                }
                (start[a], step[a], len[a]) = slice_range(s, e, by, c.dims()[a]);
            }
            if too_large(&len) {
                return fault(LARGE);
            }
            pick(c, &IndexMap::window(c.dims(), &start, &step, &len))
        }
        ("Concat", Some(c)) => {
            let rank = c.dims().len() as i64;
            let axis = int("axis", 0);
            let axis = if axis < 0 { axis + rank } else { axis };
            let parts: Vec<&Constant> = inputs.iter().flatten().map(|c| &**c).collect();
            if !(0..rank).contains(&axis) || parts.iter().any(|p| p.dims().len() as i64 != rank) {
                return fault("the operands do not fit");
            }
            let axis = axis as usize;
            let fits = |p: &&Constant| (0..c.dims().len()).all(|a| a == axis || p.dims()[a] == c.dims()[a]);
            if !parts.iter().all(fits) {
                return fault("the operands do not fit");
            }
            let outer: usize = c.dims()[..axis].iter().product();
            let mut dims = c.dims().to_vec();
            dims[axis] = parts.iter().map(|p| p.dims()[axis]).fold(0, usize::saturating_add);
            if too_large(&dims) {
                return fault(LARGE);
            }
            let ints = parts.iter().all(|p| matches!(p, Constant::Int(..)));
            let (mut f, mut v) = (vec![], vec![]);
            for o in 0..outer {
                for p in &parts {
                    let w: usize = p.dims()[axis..].iter().product();
                    match p {
                        Constant::Float(t) => f.extend_from_slice(&t.data[o * w..(o + 1) * w]),
                        Constant::Int(_, i) if ints => v.extend_from_slice(&i[o * w..(o + 1) * w]),
                        Constant::Int(_, i) => f.extend(i[o * w..(o + 1) * w].iter().map(|&i| i as f32)),
                    }
                }
            }
            if ints {
                Constant::Int(dims, v)
            } else if f.len() == dims.iter().product::<usize>() {
                Constant::Float(Arc::new(Tensor { dims, data: f }))
            } else {
                return fault("the operands do not fit");
            }
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_rules() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
        assert_eq!(broadcast(&[2], &[3]), None);
        assert_eq!(reshape(&[2, 3, 4], &[0, -1], false), Some(vec![2, 12]));
        assert_eq!(reshape(&[2, 3], &[4, -1], false), None);
        assert_eq!(reshape(&[6], &[-1, 0], false), None);
        assert_eq!(unsqueeze(&[3], &[0, -1]), Some(vec![1, 3, 1]));
        assert_eq!(slice_range(0, i64::MAX, 2, 5), (0, 2, 3));
        assert_eq!(slice_range(-2, -1, 1, 5), (3, 1, 1));
        assert_eq!(slice_range(-1, i64::MIN, -1, 3), (2, -1, 3));
        assert_eq!(slice_range(4, 2, 1, 5), (4, 1, 0));
        let taken = |start, end| match shape(&[2, 3, 4], start, end) {
            Constant::Int(dims, v) if dims == [v.len()] => v,
            _ => vec![-1],
        };
        assert_eq!(taken(0, i64::MAX), [2, 3, 4]);
        assert_eq!(taken(0, 1), [2]);
        assert_eq!(taken(-2, -1), [3]);
        assert_eq!(taken(2, 1), [0; 0]);
        assert_eq!(taken(i64::MIN, 9), [2, 3, 4]);
    }
}
