//! Arithmetic, comparisons and choices on constants, and constants whose elements are moved.

use super::{LARGE, as_float, broadcast};
use crate::graph::{Attribute, Node};
use crate::limits::elements;
use crate::tensor::{Constant, Tensor};
use crate::{Error, Result};
use sordino_ring::{IndexMap, PAD};
use std::sync::Arc;

/// Where the elements of a result come from, its dimensions, and what takes the place of those that come from nowhere.
pub(crate) struct Moved {
    pub(crate) source: Vec<u32>,
    pub(crate) dims: Vec<usize>,
    pub(crate) fill: f32,
}

/// A constant with its elements moved; `None` if integers would be filled with a number that is none.
pub(crate) fn moved(c: &Constant, m: &Moved) -> Option<Constant> {
    let at = |s: u32| (s != PAD).then_some(s as usize);
    Some(match c {
        Constant::Float(t) => {
            let data = m.source.iter().map(|&s| at(s).map_or(m.fill, |s| t.data[s])).collect();
            Constant::Float(Arc::new(Tensor { dims: m.dims.clone(), data }))
        }
        Constant::Int(_, v) => {
            if m.fill.fract() != 0.0 && m.source.contains(&PAD) {
                return None;
            }
            Constant::Int(m.dims.clone(), m.source.iter().map(|&s| at(s).map_or(m.fill as i64, |s| v[s])).collect())
        }
    })
}

fn fault<T>(node: &Node, why: &str) -> Result<T> {
    Err(Error::Node { node: node.name.clone(), op: node.op.clone(), why: why.into() })
}

/// A function of one number.
fn unary(op: &str) -> Option<fn(f32) -> f32> {
    Some(match op {
        "Neg" => |v| -v,
        "Abs" => f32::abs,
        "Sign" => |v| {
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                0.0
            }
        },
        "Floor" => f32::floor,
        "Ceil" => f32::ceil,
        // Halves go to the even neighbour.
        "Round" => f32::round_ties_even,
        "Sqrt" => f32::sqrt,
        "Exp" => f32::exp,
        "Log" => f32::ln,
        "Sin" => f32::sin,
        "Cos" => f32::cos,
        "Reciprocal" => |v| 1.0 / v,
        _ => return None,
    })
}

/// A truth of one or two numbers.
fn truth(op: &str) -> Option<fn(f64, f64) -> bool> {
    Some(match op {
        "Equal" => |a, b| a == b,
        "Less" => |a, b| a < b,
        "Greater" => |a, b| a > b,
        "LessOrEqual" => |a, b| a <= b,
        "GreaterOrEqual" => |a, b| a >= b,
        "And" => |a, b| a != 0.0 && b != 0.0,
        "Or" => |a, b| a != 0.0 || b != 0.0,
        "Xor" => |a, b| (a != 0.0) != (b != 0.0),
        "Not" => |a, _| a == 0.0,
        "IsNaN" => |a, _| a.is_nan(),
        _ => return None,
    })
}

/// Integers, as ONNX computes them; `None` where they overflow or have no result.
fn whole(op: &str, x: i64, y: i64, fmod: bool) -> Option<i64> {
    match op {
        "Add" | "Sum" => x.checked_add(y),
        "Sub" => x.checked_sub(y),
        "Mul" => x.checked_mul(y),
        "Div" => x.checked_div(y),
        "Mod" if fmod => x.checked_rem(y),
        // The sign of the divisor.
        "Mod" => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        "Max" => Some(x.max(y)),
        "Min" => Some(x.min(y)),
        "Pow" => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        _ => None,
    }
}

fn real(op: &str, x: f32, y: f32) -> f32 {
    match op {
        "Add" | "Sum" | "Mean" => x + y,
        "Sub" => x - y,
        "Mul" => x * y,
        "Div" => x / y,
        "Mod" => x % y,
        "Max" => x.max(y),
        "Min" => x.min(y),
        _ => x.powf(y),
    }
}

const ARITHMETIC: &[&str] = &["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow", "Sum", "Mean"];

/// The value of an element-wise node; `None` when it is none of these operators.
pub(crate) fn elementwise(node: &Node, inputs: &[Option<Arc<Constant>>], left: usize) -> Result<Option<Constant>> {
    let fault = |why: &str| fault(node, why);
    let all: Vec<&Constant> = inputs.iter().flatten().map(|c| &**c).collect();
    let op = node.op.as_str();
    let int = |name: &str, default: i64| match node.attributes.get(name) {
        Some(Attribute::Int(v)) => *v,
        _ => default,
    };
    match op {
        "Range" => return range(node, &all, left).map(Some),
        "DequantizeLinear" => return dequantised(node, &all, int("axis", 1)).map(Some),
        "NonZero" => return Ok(all.first().map(|c| places(c))),
        "EyeLike" => {
            let &[rows, columns] = all.first().map_or(&[][..], |c| c.dims()) else {
                return fault("it needs a matrix");
            };
            let k = int("k", 0);
            let one = |i: usize| (i % columns) as i64 - (i / columns) as i64 == k;
            let data = (0..rows * columns).map(|i| f32::from(u8::from(one(i)))).collect();
            return Ok(Some(Constant::Float(Arc::new(Tensor { dims: vec![rows, columns], data }))));
        }
        _ => {}
    }
    let Some(&first) = all.first() else { return Ok(None) };
    let shape = all.iter().skip(1).try_fold(first.dims().to_vec(), |dims, c| broadcast(&dims, c.dims()));
    let fits = |shape: Option<Vec<usize>>| match shape {
        Some(dims) if elements(&dims).is_some_and(|n| n <= left) => Ok(dims),
        Some(_) => self::fault(node, LARGE),
        None => self::fault(node, "shapes do not broadcast"),
    };
    let spread = |c: &Constant, dims: &[usize]| IndexMap::broadcast(c.dims(), dims).source;
    if let Some(f) = unary(op) {
        return Ok(Some(match first {
            Constant::Int(dims, v) if matches!(op, "Neg" | "Abs" | "Sign") => {
                let f = |v: &i64| match op {
                    "Neg" => v.checked_neg(),
                    "Abs" => v.checked_abs(),
                    _ => Some(v.signum()),
                };
                match v.iter().map(f).collect() {
                    Some(v) => Constant::Int(dims.clone(), v),
                    None => return fault("an integer has no such value"),
                }
            }
            c => {
                let t = as_float(c);
                Constant::Float(Arc::new(Tensor { dims: t.dims, data: t.data.into_iter().map(f).collect() }))
            }
        }));
    }
    if op == "IsInf" {
        let (minus, plus) = (int("detect_negative", 1) != 0, int("detect_positive", 1) != 0);
        let of = |v: f32| v.is_infinite() && if v < 0.0 { minus } else { plus };
        let t = as_float(first);
        return Ok(Some(Constant::Int(t.dims, t.data.into_iter().map(|v| i64::from(of(v))).collect())));
    }
    if let Some(f) = truth(op) {
        let dims = fits(shape)?;
        let second = all.get(1).copied().unwrap_or(first);
        let number = |c: &Constant, at: u32| match c {
            Constant::Float(t) => f64::from(t.data[at as usize]),
            Constant::Int(_, v) => v[at as usize] as f64,
        };
        let (i, j) = (spread(first, &dims), spread(second, &dims));
        let data = i.iter().zip(j.iter()).map(|(&i, &j)| i64::from(f(number(first, i), number(second, j)))).collect();
        return Ok(Some(Constant::Int(dims, data)));
    }
    if op == "Where" {
        let [Constant::Int(_, which), x, y] = all[..] else { return fault("it needs a condition and two tensors") };
        let dims = fits(shape)?;
        let from = |c: &Constant| super::pick(c, &IndexMap::broadcast(c.dims(), &dims));
        let (places, x, y) = (spread(first, &dims), from(x), from(y));
        let which = places.iter().map(|&i| which[i as usize] != 0);
        return Ok(Some(match (&x, &y) {
            (Constant::Int(_, x), Constant::Int(_, y)) => {
                Constant::Int(dims, which.zip(x.iter().zip(y)).map(|(c, (x, y))| if c { *x } else { *y }).collect())
            }
            _ => {
                let (x, y) = (as_float(&x).data, as_float(&y).data);
                let data = which.zip(x.into_iter().zip(y)).map(|(c, (x, y))| if c { x } else { y }).collect();
                Constant::Float(Arc::new(Tensor { dims, data }))
            }
        }));
    }
    if !ARITHMETIC.contains(&op) {
        return Ok(None);
    }
    if all.len() < 2 && matches!(op, "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow") {
        return fault("an operand is missing");
    }
    let dims = fits(shape)?;
    let mut sum = super::pick(first, &IndexMap::broadcast(first.dims(), &dims));
    for c in &all[1..] {
        let places = spread(c, &dims);
        sum = match (&sum, c) {
            (Constant::Int(_, x), Constant::Int(_, y)) if op != "Mean" => {
                let f = |(&x, &j): (&i64, &u32)| whole(op, x, y[j as usize], int("fmod", 0) == 1);
                match x.iter().zip(places.iter()).map(f).collect() {
                    Some(v) => Constant::Int(dims.clone(), v),
                    None => return fault("the integers overflow or are divided by zero"),
                }
            }
            (x, y) => {
                let (x, y) = (as_float(x), as_float(y));
                let data = x.data.iter().zip(places.iter()).map(|(&x, &j)| real(op, x, y.data[j as usize])).collect();
                Constant::Float(Arc::new(Tensor { dims: dims.clone(), data }))
            }
        };
    }
    if op == "Mean" {
        let t = as_float(&sum);
        let n = all.len() as f32;
        sum = Constant::Float(Arc::new(Tensor { dims: t.dims, data: t.data.into_iter().map(|v| v / n).collect() }));
    }
    Ok(Some(sum))
}

/// Integers as the reals they stand for: less the zero point, times the scale, each one number or one for every element of an axis.
fn dequantised(node: &Node, all: &[&Constant], axis: i64) -> Result<Constant> {
    let (x, scale) = match all {
        [x, scale, ..] => (as_float(x), as_float(scale)),
        _ => return fault(node, "it needs integers and a scale"),
    };
    let zero = all.get(2).map_or_else(|| Tensor::new(&[1], vec![0.0]), |c| as_float(c));
    let rank = x.dims.len() as i64;
    let at = if axis < 0 { axis + rank } else { axis };
    let each = scale.data.len() != 1;
    if each && !((0..rank).contains(&at) && scale.dims == [x.dims[at as usize]]) {
        return fault(node, "its scales do not fit the axis");
    }
    if zero.data.len() != 1 && zero.data.len() != scale.data.len() {
        return fault(node, "its zero points do not fit the scales");
    }
    let inner: usize = if each { x.dims[at as usize + 1..].iter().product() } else { 1 };
    let pick = |t: &Tensor, i: usize| t.data[if t.data.len() == 1 { 0 } else { i / inner.max(1) % t.data.len() }];
    let data = x.data.iter().enumerate().map(|(i, v)| (v - pick(&zero, i)) * pick(&scale, i)).collect();
    Ok(Constant::Float(Arc::new(Tensor { dims: x.dims, data })))
}

/// Where elements are not zero: a row for each axis.
fn places(c: &Constant) -> Constant {
    let (t, dims) = (as_float(c), c.dims());
    let found: Vec<usize> = (0..t.data.len()).filter(|&i| t.data[i] != 0.0).collect();
    let place = |axis: usize, i: usize| (i / dims[axis + 1..].iter().product::<usize>() % dims[axis]) as i64;
    let data = (0..dims.len()).flat_map(|a| found.iter().map(move |&i| place(a, i))).collect();
    Constant::Int(vec![dims.len(), found.len()], data)
}

/// From a start to before a limit.
fn range(node: &Node, all: &[&Constant], left: usize) -> Result<Constant> {
    let fault = |why: &str| fault(node, why);
    let [start, limit, by] = *all else { return fault("it needs a start, a limit and a step") };
    if all.iter().any(|c| c.dims().iter().product::<usize>() != 1) {
        return fault("start, limit and step must be one number each");
    }
    if let (Constant::Int(_, s), Constant::Int(_, l), Constant::Int(_, b)) = (start, limit, by) {
        let (s, l, b) = (i128::from(s[0]), i128::from(l[0]), i128::from(b[0]));
        if b == 0 {
            return fault("its step is zero");
        }
        let n = ((l - s + b - b.signum()) / b).max(0);
        if n > left as i128 {
            return fault(LARGE);
        }
        let v: Vec<i64> = (0..n).map(|i| (s + i * b) as i64).collect();
        return Ok(Constant::Int(vec![v.len()], v));
    }
    let [s, l, b] = [start, limit, by].map(|c| f64::from(as_float(c).data[0]));
    let n = ((l - s) / b).ceil().max(0.0);
    if b == 0.0 || !n.is_finite() {
        return fault("its step is zero, or it has no end");
    }
    if n > left as f64 {
        return fault(LARGE);
    }
    let data: Vec<f32> = (0..n as usize).map(|i| (s + i as f64 * b) as f32).collect();
    Ok(Constant::Float(Arc::new(Tensor { dims: vec![data.len()], data })))
}
