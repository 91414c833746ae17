//! Pictures brought to another size, and running sums: nearest neighbours are places, the rest is a public matrix along an axis.

use super::{Attributes, Importer, axis, fault};
use crate::Result;
use crate::graph::Node;
use crate::limits::elements;
use crate::network::{Layer, ValueId};
use crate::tensor::{Constant, Tensor};
use sordino_ring::IndexMap;
use std::sync::Arc;

/// How an axis is brought to another length.
struct Along {
    from: usize,
    to: usize,
    /// What was asked for; lengths are rounded down.
    scale: f64,
}

impl Importer<'_> {
    pub(super) fn resize(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let along = self.lengths(node, attrs, &dims)?;
        let out: Vec<usize> = along.iter().map(|a| a.to).collect();
        if elements(&out).is_none_or(|n| n > self.left.get()) {
            return fault(node, format!("a result of {out:?} is impossible"));
        }
        let old = node.op == "Upsample" || self.graph.opset < 11;
        let given = attrs.text("coordinate_transformation_mode");
        let mode = match given {
            _ if old => "asymmetric",
            "" => "half_pixel",
            "half_pixel" | "asymmetric" | "align_corners" | "pytorch_half_pixel" | "half_pixel_symmetric" => given,
            other => return fault(node, format!("coordinates by {other} are not supported")),
        };
        let whole = |a: &Along| (a.scale * a.from as f64 - a.to as f64).abs() < 1e-6 * a.to as f64;
        if mode == "align_corners" && !along.iter().all(whole) {
            return fault(node, "its corners are aligned to a length that is no whole number; give sizes");
        }
        // Where element j of the result lies among those of the operand.
        let place = |a: &Along, j: usize| -> f64 {
            let (j, from, to) = (j as f64, a.from as f64, a.to as f64);
            match mode {
                "asymmetric" => j / a.scale,
                "align_corners" if a.to == 1 => 0.0,
                "align_corners" => j * (from - 1.0) / (to - 1.0),
                "pytorch_half_pixel" if a.to == 1 => 0.0,
                "half_pixel_symmetric" => {
                    // The rounded length may be off the asked one; the picture stays in the middle.
                    let adjusted = to / (a.scale * from);
                    from / 2.0 * (1.0 - adjusted) + (j + 0.5) / a.scale - 0.5
                }
                _ => (j + 0.5) / a.scale - 0.5,
            }
        };
        let kind = attrs.text("mode");
        if matches!(kind, "" | "nearest") {
            let rounding = attrs.text("nearest_mode");
            let round = |v: f64| match rounding {
                _ if old => v.floor(),
                "" | "round_prefer_floor" => (v - 0.5).ceil(),
                "round_prefer_ceil" => (v + 0.5).floor(),
                "floor" => v.floor(),
                _ => v.ceil(),
            };
            let from: Vec<Vec<usize>> = along
                .iter()
                .map(|a| (0..a.to).map(|j| round(place(a, j)).clamp(0.0, a.from as f64 - 1.0) as usize).collect())
                .collect();
            let map = IndexMap::build(&out, |c| Some((0..dims.len()).fold(0, |p, a| p * dims[a] + from[a][c[a]])));
            self.charge(node, map.source.len())?;
            return self.push_output(node, 0, Layer::Gather { source: map.source, fill: 0.0 }, vec![x], &out);
        }
        let (cubic, outside) = (attrs.float("cubic_coeff_a", -0.75), attrs.int("exclude_outside", 0) != 0);
        let mut y = x;
        for (a, along) in along.iter().enumerate() {
            let identity = along.from == along.to && (0..along.to).all(|j| (place(along, j) - j as f64).abs() < 1e-9);
            if identity {
                continue;
            }
            let mut matrix = vec![0.0f32; along.from * along.to];
            for j in 0..along.to {
                let at = place(along, j);
                let weights = if kind == "cubic" { cubic_weights(at, f64::from(cubic)) } else { linear_weights(at) };
                let inside = |i: f64| i >= 0.0 && i < along.from as f64;
                let sum: f64 = match outside {
                    true => weights.iter().filter(|w| inside(w.0)).map(|w| w.1).sum(),
                    false => 1.0,
                };
                for (i, w) in weights {
                    if outside && !inside(i) {
                        continue;
                    }
                    let i = i.clamp(0.0, along.from as f64 - 1.0) as usize;
                    matrix[i * along.to + j] += (w / sum) as f32;
                }
            }
            y = self.times_along(node, y, a, Tensor::new(&[along.from, along.to], matrix))?;
        }
        self.alias(node, y);
        Ok(())
    }

    /// Old and new lengths of all axes, from scales or sizes, which may be for some axes only.
    fn lengths(&self, node: &Node, attrs: &Attributes<'_>, dims: &[usize]) -> Result<Vec<Along>> {
        let rank = dims.len();
        let axes = match attrs.ints("axes") {
            Some(a) => a.into_iter().map(|a| axis(node, a, rank)).collect::<Result<Vec<_>>>()?,
            None => (0..rank).collect(),
        };
        let mut all: Vec<Along> = dims.iter().map(|&d| Along { from: d, to: d, scale: 1.0 }).collect();
        // Operator set 10 and Upsample have scales first, later ones a region of interest before them.
        let at = if node.op == "Upsample" || self.graph.opset < 11 { 1 } else { 2 };
        let scales = match (attrs.floats("scales"), self.constant(node, at)?.as_deref()) {
            (Some(s), _) => s,
            (None, Some(Constant::Float(t))) => t.data.clone(),
            _ => vec![],
        };
        let sizes = self.ints(node, 3)?.unwrap_or_default();
        let wrong = |what: &str| fault(node, format!("its {what} do not fit {dims:?}"));
        if !scales.is_empty() {
            if scales.len() != axes.len() || scales.iter().any(|s| !(*s > 0.0 && *s < 1e6)) {
                return wrong("scales");
            }
            for (&a, &s) in axes.iter().zip(&scales) {
                let to = (dims[a] as f64 * f64::from(s)).floor() as usize;
                all[a] = Along { from: dims[a], to, scale: f64::from(s) };
            }
        } else {
            if sizes.len() != axes.len() || sizes.iter().any(|s| *s < 1 || *s > 1 << 28) {
                return wrong("sizes");
            }
            for (&a, &s) in axes.iter().zip(&sizes) {
                all[a] = Along { from: dims[a], to: s as usize, scale: s as f64 / dims[a] as f64 };
            }
        }
        Ok(all)
    }

    /// A value times a matrix along one axis.
    fn times_along(&mut self, node: &Node, x: ValueId, at: usize, weight: Tensor) -> Result<ValueId> {
        if self.graph.training {
            return fault(node, "training does not support it");
        }
        let dims = self.dims(x);
        let rank = dims.len();
        self.charge(node, weight.data.len())?;
        let mut perm: Vec<usize> = (0..rank).filter(|&a| a != at).collect();
        perm.push(at);
        let back: Vec<usize> = (0..rank).map(|a| perm.iter().position(|&p| p == a).unwrap_or(a)).collect();
        let moved = self.transposed(node, x, &perm)?;
        let mut shape = self.dims(moved);
        let (rows, to) = (dims.iter().product::<usize>() / dims[at], weight.dims[1]);
        let flat = self.reshaped(node, moved, &[rows, dims[at]])?;
        let layer = Layer::MatMul { weight: Arc::new(weight), bias: None };
        let flat = self.inner(node, layer, vec![flat], &[rows, to])?;
        shape[rank - 1] = to;
        let moved = self.reshaped(node, flat, &shape)?;
        self.transposed(node, moved, &back)
    }

    /// Running sums along an axis.
    pub(super) fn cumulative(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let at = match self.ints(node, 1)?.as_deref() {
            Some(&[a]) => axis(node, a, dims.len())?,
            _ => return fault(node, "its axis is not one integer"),
        };
        let (n, exclusive, reverse) = (dims[at], attrs.int("exclusive", 0) != 0, attrs.int("reverse", 0) != 0);
        if elements(&[n, n]).is_none() {
            return fault(node, "its axis is too long");
        }
        let counts = |i: usize, j: usize| {
            let (i, j) = if reverse { (j, i) } else { (i, j) };
            if exclusive { i < j } else { i <= j }
        };
        let data = (0..n * n).map(|k| f32::from(u8::from(counts(k / n, k % n)))).collect();
        let y = self.times_along(node, x, at, Tensor::new(&[n, n], data))?;
        self.alias(node, y);
        Ok(())
    }
}

fn linear_weights(at: f64) -> Vec<(f64, f64)> {
    let (low, share) = (at.floor(), at - at.floor());
    vec![(low, 1.0 - share), (low + 1.0, share)]
}

/// Keys' cubic convolution.
fn cubic_weights(at: f64, a: f64) -> Vec<(f64, f64)> {
    let (low, t) = (at.floor(), at - at.floor());
    let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    vec![(low - 1.0, far(1.0 + t)), (low, near(t)), (low + 1.0, near(1.0 - t)), (low + 2.0, far(2.0 - t))]
}
