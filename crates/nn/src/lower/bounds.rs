//! What ranges follow from a layer's operands, whatever a calibration saw: inputs may be larger than those by the margin, and smaller
//! by any factor.

use super::{Range, Ranges};
use crate::network::{Layer, LayerNode, Network, Smooth};

/// What is known of a value.
#[derive(Clone, Copy)]
struct Known {
    /// It grows with this power of the inputs.
    degree: f64,
    /// It is never below this.
    floor: f64,
}

const ANY: Known = Known { degree: 1.0, floor: f64::NEG_INFINITY };

/// Most degrees that are followed: higher powers leave the rings anyway.
const MOST: f64 = 4.0;

/// Calibrated ranges made good for all inputs within `margin` times the calibrated ones: what grows with a power of the inputs has the
/// margin as often; what is never negative, and is the argument of a function that is steep at zero, may come near it.
pub(super) fn widened(net: &Network, ranges: &Ranges, margin: f64) -> Ranges {
    let mut ranges = ranges.clone();
    let mut known = vec![ANY; net.shapes.len()];
    // What depends on a condition, which a calibration may have seen on one side alone.
    let mut conditional = vec![false; net.shapes.len()];
    for node in &net.nodes {
        let own = follow(node, &known);
        known[node.output] = own;
        let name = &net.names[node.output];
        let Some(range) = ranges.values.get(name).copied() else { continue };
        let by = margin.powf(own.degree.max(1.0) - 1.0);
        // Outwards alone: an end on the other side of zero stays where it is.
        let (lo, hi) = (range.lo.min(range.lo * by), range.hi.max(range.hi * by));
        let mut range = Range { lo, hi };
        if node.layer == Layer::Step || node.inputs.iter().any(|&i| conditional[i]) {
            let operands: Option<Vec<Range>> =
                node.inputs.iter().map(|&i| ranges.values.get(&net.names[i]).copied()).collect();
            let possible = operands.and_then(|operands| possible(&node.layer, &operands));
            if let Some(possible) = possible.filter(|p| p.lo.is_finite() && p.hi.is_finite()) {
                conditional[node.output] = true;
                range = range.or(possible);
            }
        }
        ranges.values.insert(name.clone(), range);
    }
    for node in &net.nodes {
        let Layer::Smooth(f) = node.layer else { continue };
        let Some(widest) = steep(f) else { continue };
        let (name, floor) = (&net.names[node.inputs[0]], known[node.inputs[0]].floor);
        if let Some(range) = ranges.values.get_mut(name)
            && floor >= 0.0
            && range.lo > 0.0
        {
            range.lo = range.lo.min(floor.max(range.hi * margin / widest));
        }
    }
    ranges
}

/// All that a layer can make of operands with these ranges; `None` where that is not followed.
fn possible(layer: &Layer, of: &[Range]) -> Option<Range> {
    let hull = |ends: &[f64]| {
        let (lo, hi) = ends.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
        Range { lo, hi }
    };
    let times = |a: Range, b: Range| hull(&[a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi]);
    let plus = |a: Range, b: Range| Range { lo: a.lo + b.lo, hi: a.hi + b.hi };
    let x = *of.first()?;
    Some(match layer {
        Layer::Step => Range { lo: 0.0, hi: 1.0 },
        Layer::Add => plus(x, *of.get(1)?),
        Layer::Sub => plus(x, times(*of.get(1)?, Range { lo: -1.0, hi: -1.0 })),
        Layer::Mul => times(x, *of.get(1)?),
        Layer::Scale { by, add } => {
            let (by, add) = (f64::from(*by), f64::from(*add));
            plus(times(x, Range { lo: by, hi: by }), Range { lo: add, hi: add })
        }
        Layer::AddConst(c) => plus(x, Range::of(c)?),
        Layer::MulConst(c) => times(x, Range::of(c)?),
        Layer::Affine { scale, shift } => plus(times(x, Range::of(scale)?), Range::of(shift)?),
        Layer::Relu => Range { lo: x.lo.max(0.0), hi: x.hi.max(0.0) },
        Layer::Max => of.iter().copied().reduce(|a, b| Range { lo: a.lo.max(b.lo), hi: a.hi.max(b.hi) })?,
        Layer::Clip { lo, hi } => {
            let clip = |v: f64| v.max(f64::from(*lo)).min(f64::from(*hi));
            Range { lo: clip(x.lo), hi: clip(x.hi) }
        }
        Layer::Reshape | Layer::Transpose(_) | Layer::Broadcast | Layer::MaxPool(_) => x,
        Layer::AveragePool { .. } | Layer::Dropout(_) => x.or(Range::default()),
        Layer::Slice { fill, .. } | Layer::Gather { fill, .. } => {
            x.or(Range { lo: f64::from(*fill), hi: f64::from(*fill) })
        }
        Layer::Concat(_) => of.iter().copied().reduce(Range::or)?,
        Layer::MatMul { weight, bias } => {
            let n = *weight.dims.last()?;
            let mut ends = vec![[0.0; 2]; n];
            for (i, &w) in weight.data.iter().enumerate() {
                let made = times(x, Range { lo: w.into(), hi: w.into() });
                let end = &mut ends[i % n];
                (end[0], end[1]) = (end[0] + made.lo, end[1] + made.hi);
            }
            for (end, &b) in ends.iter_mut().zip(bias.iter().flat_map(|b| &b.data)) {
                end.iter_mut().for_each(|v| *v += f64::from(b));
            }
            hull(ends.as_flattened())
        }
        _ => return None,
    })
}

/// How far below the largest argument a function that is steep at zero is followed: further down its values would take the bits of
/// all others.
fn steep(f: Smooth) -> Option<f64> {
    match f {
        Smooth::InverseRoot => Some(f64::from(1 << 17)),
        Smooth::Log => Some(f64::from(1 << 16)),
        Smooth::Reciprocal => Some(f64::from(1 << 12)),
        _ => None,
    }
}

fn follow(node: &LayerNode, known: &[Known]) -> Known {
    let all = || node.inputs.iter().map(|&i| known[i]);
    let x = known[node.inputs[0]];
    let degree = all().map(|k| k.degree).fold(f64::NEG_INFINITY, f64::max);
    let least = all().map(|k| k.floor).fold(f64::INFINITY, f64::min);
    let any = Known { degree, floor: f64::NEG_INFINITY };
    match &node.layer {
        Layer::Mul => {
            let degree = all().map(|k| k.degree).sum::<f64>().clamp(-MOST, MOST);
            let square = node.inputs[0] == node.inputs[1];
            let floor = if square || least >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
            Known { degree, floor }
        }
        Layer::Add => Known { degree, floor: all().map(|k| k.floor).sum() },
        Layer::Relu => Known { floor: x.floor.max(0.0), ..x },
        Layer::Clip { lo, hi } => Known { floor: x.floor.max(f64::from(*lo)).min(f64::from(*hi)), ..x },
        Layer::Max => Known { degree, floor: all().map(|k| k.floor).fold(f64::NEG_INFINITY, f64::max) },
        Layer::Scale { by, add } => {
            let floor = if *by >= 0.0 { x.floor * f64::from(*by) + f64::from(*add) } else { f64::NEG_INFINITY };
            Known { floor: if floor.is_nan() { f64::NEG_INFINITY } else { floor }, ..x }
        }
        // Means and maxima of what is not below a bound are not below it; padding with zeros may be.
        Layer::MaxPool(_) | Layer::Reshape | Layer::Transpose(_) | Layer::Broadcast | Layer::Dropout(_) => x,
        Layer::AveragePool { window, include_pad } => {
            let padded = *include_pad && window.pad != [0; 4];
            Known { floor: if padded { x.floor.min(0.0) } else { x.floor }, ..x }
        }
        Layer::Slice { fill, .. } | Layer::Gather { fill, .. } => Known { floor: x.floor.min(f64::from(*fill)), ..x },
        Layer::Concat(_) => Known { degree, floor: least },
        Layer::Affine { scale, shift } if shift.data.iter().chain(&scale.data).all(|v| *v >= 0.0) && x.floor >= 0.0 => {
            Known { floor: shift.data.iter().fold(f32::INFINITY, |m, v| m.min(*v)).into(), ..x }
        }
        Layer::AddConst(c) if x.floor >= 0.0 => {
            Known { floor: x.floor + f64::from(c.data.iter().fold(f32::INFINITY, |m, v| m.min(*v))), ..x }
        }
        Layer::MulConst(c) if x.floor >= 0.0 && c.data.iter().all(|v| *v >= 0.0) => Known { floor: 0.0, ..x },
        Layer::Smooth(f) => match f {
            Smooth::Sqrt => Known { degree: x.degree / 2.0, floor: x.floor.max(0.0).sqrt() },
            Smooth::Reciprocal => {
                Known { degree: -x.degree, floor: if x.floor >= 0.0 { 0.0 } else { f64::NEG_INFINITY } }
            }
            Smooth::InverseRoot => Known { degree: -x.degree / 2.0, floor: 0.0 },
            Smooth::Sigmoid | Smooth::Exp | Smooth::SoftplusRest => Known { degree: 0.0, floor: 0.0 },
            Smooth::Tanh | Smooth::Erf | Smooth::Log => Known { degree: 0.0, floor: f64::NEG_INFINITY },
            Smooth::Gelu => any,
        },
        Layer::Softmax { .. } | Layer::Step | Layer::ArgMax(_) => Known { degree: 0.0, floor: 0.0 },
        _ => any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_have_the_margin_twice_and_variances_a_floor() {
        let mut net = Network::default();
        let names = ["x", "square", "kept", "root"];
        let ids: Vec<usize> = names.iter().map(|n| net.value(n, &[1, 4])).collect();
        net.inputs.push(ids[0]);
        let layers = [
            (Layer::Mul, vec![ids[0], ids[0]]),
            (Layer::Scale { by: 1.0, add: 1e-5 }, vec![ids[1]]),
            (Layer::Smooth(Smooth::InverseRoot), vec![ids[2]]),
        ];
        for (i, (layer, inputs)) in layers.into_iter().enumerate() {
            let node = LayerNode { name: names[i + 1].into(), op: String::new(), layer, inputs, output: ids[i + 1] };
            net.nodes.push(node);
        }
        let mut ranges = Ranges::default();
        for (name, lo, hi) in [("x", -1.0, 1.0), ("square", 0.2, 1.0), ("kept", 0.2, 1.0), ("root", 1.0, 2.0)] {
            ranges.values.insert(name.into(), Range { lo, hi });
        }
        let wide = widened(&net, &ranges, 2.0).values;
        assert_eq!((wide["x"].hi, wide["square"].hi, wide["root"].hi), (1.0, 2.0, 2.0));
        assert!(wide["kept"].lo < 4e-5 && wide["kept"].lo >= 1e-5, "{:?}", wide["kept"]);
    }
}
