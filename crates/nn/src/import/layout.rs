//! Operators that move elements without changing them.

use super::{Attributes, Importer, Known, axis, fault};
use crate::graph::Node;
use crate::limits::elements;
use crate::network::{Layer, ValueId};
use crate::tensor::Tensor;
use crate::{Result, fold};
use std::sync::Arc;

impl Importer<'_> {
    pub(super) fn split(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let at = axis(node, attrs.int("axis", 0), dims.len())?;
        let n = node.outputs.len().max(1);
        let sizes = match attrs.ints("split") {
            Some(s) => s,
            None => self.ints(node, 1)?.unwrap_or_else(|| {
                let each = dims[at].div_ceil(n);
                (0..n).map(|i| each.min(dims[at].saturating_sub(i * each)) as i64).collect()
            }),
        };
        if sizes.len() != n || sizes.iter().any(|&s| s <= 0) || sizes.iter().sum::<i64>() != dims[at] as i64 {
            return fault(node, format!("parts {sizes:?} do not make up axis {at} of {dims:?}"));
        }
        let mut from = 0;
        for (i, size) in sizes.into_iter().enumerate() {
            let mut out = dims.clone();
            out[at] = size as usize;
            let mut start = vec![0; dims.len()];
            start[at] = from;
            from += size as isize;
            let layer = Layer::Slice { start, step: vec![1; dims.len()], fill: 0.0 };
            self.push_output(node, i, layer, vec![x], &out)?;
        }
        Ok(())
    }

    /// Padding before and after each axis.
    pub(super) fn pads(&self, node: &Node, attrs: &Attributes<'_>, rank: usize) -> Result<Vec<i64>> {
        let pads = match attrs.ints("pads") {
            Some(p) => p,
            None => self.ints(node, 1)?.unwrap_or_default(),
        };
        // From opset 18 on the pads may be given for some axes only.
        let axes = match self.ints(node, 3)? {
            Some(a) => a.into_iter().map(|a| axis(node, a, rank)).collect::<Result<Vec<_>>>()?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.unsigned_abs() > 1 << 20) {
            return fault(node, format!("pads {pads:?} do not fit {} axes", axes.len()));
        }
        let mut all = vec![0; 2 * rank];
        for (i, &a) in axes.iter().enumerate() {
            all[a] = pads[i];
            all[a + rank] = pads[i + axes.len()];
        }
        Ok(all)
    }

    /// What padding fills with.
    pub(super) fn pad_fill(&self, node: &Node, attrs: &Attributes<'_>) -> Result<f32> {
        let fill = match self.constant(node, 2)? {
            Some(c) if c.dims().iter().product::<usize>() == 1 => fold::as_float(&c).data[0],
            Some(_) => return fault(node, "what it fills with must be one number"),
            None => attrs.float("value", 0.0),
        };
        if fill.is_nan() {
            return fault(node, "it fills with what is no number");
        }
        // An infinite fill is the largest float, as other exporters write it.
        Ok(fill.clamp(f32::MIN, f32::MAX))
    }

    pub(super) fn pad(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let pads = self.pads(node, attrs, dims.len())?;
        let fill = self.pad_fill(node, attrs)?;
        let mut out = vec![];
        for (a, &d) in dims.iter().enumerate() {
            let size = d as i64 + pads[a] + pads[a + dims.len()];
            out.push(usize::try_from(size).unwrap_or(0));
        }
        let start = pads[..dims.len()].iter().map(|&p| -(p as isize)).collect();
        self.push_output(node, 0, Layer::Slice { start, step: vec![1; dims.len()], fill }, vec![x], &out)
    }

    /// Joins values; constant parts are added where zeros were left for them.
    pub(super) fn concat(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let mut parts = vec![];
        for i in 0..node.inputs.len() {
            match self.known(node, i)? {
                Some(known) => parts.push(known),
                None => return fault(node, format!("input {i} is missing")),
            }
        }
        let shapes: Vec<Vec<usize>> = parts
            .iter()
            .map(|p| match p {
                Known::Value(x) => self.dims(*x),
                Known::Constant(c) => c.dims().to_vec(),
            })
            .collect();
        let Some(mut dims) = shapes.first().cloned() else { return fault(node, "it joins nothing") };
        let at = axis(node, attrs.int("axis", 1), dims.len())?;
        for other in &shapes[1..] {
            let fits = other.len() == dims.len() && (0..dims.len()).all(|a| a == at || other[a] == dims[a]);
            if !fits {
                return fault(node, format!("{other:?} cannot be joined to {dims:?} along axis {at}"));
            }
            dims[at] += other[at];
        }
        let values: Vec<ValueId> =
            parts.iter().filter_map(|p| if let Known::Value(x) = p { Some(*x) } else { None }).collect();
        if values.len() == parts.len() {
            return self.push_output(node, 0, Layer::Concat(at), values, &dims);
        }
        // Constants may be empty; values are not.
        let outer: usize = dims[..at].iter().product();
        let inner: usize = dims[at + 1..].iter().product();
        if elements(&dims).is_none_or(|n| n > self.left.get()) {
            return fault(node, fold::LARGE);
        }
        let mut whole = vec![0.0; outer * dims[at] * inner];
        self.charge(node, whole.len())?;
        let mut joined: Option<ValueId> = None;
        let mut from = 0;
        for (part, shape) in parts.iter().zip(&shapes) {
            let width = shape[at] * inner;
            match part {
                Known::Constant(c) => {
                    let t = fold::as_float(c);
                    if t.data.iter().any(|v| !v.is_finite()) {
                        return fault(node, "its constant must be finite floats");
                    }
                    for o in 0..outer {
                        let to = (o * dims[at] + from) * inner;
                        whole[to..to + width].copy_from_slice(&t.data[o * width..(o + 1) * width]);
                    }
                }
                Known::Value(x) => {
                    let mut start = vec![0; dims.len()];
                    start[at] = -(from as isize);
                    let layer = Layer::Slice { start, step: vec![1; dims.len()], fill: 0.0 };
                    let placed = self.inner(node, layer, vec![*x], &dims)?;
                    joined = Some(match joined {
                        None => placed,
                        Some(other) => self.both(node, Layer::Add, other, placed)?,
                    });
                }
            }
            from += shape[at];
        }
        let Some(joined) = joined else { return fault(node, "it has no computed operand") };
        self.push_output(node, 0, Layer::AddConst(Arc::new(Tensor::new(&dims, whole))), vec![joined], &dims)
    }

    pub(super) fn slice(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let part = |name: &str, i: usize| -> Result<Option<Vec<i64>>> {
            match attrs.ints(name) {
                Some(v) => Ok(Some(v)),
                None => self.ints(node, i),
            }
        };
        let (Some(starts), Some(ends)) = (part("starts", 1)?, part("ends", 2)?) else {
            return fault(node, "starts and ends are missing");
        };
        let axes = part("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if starts.len() != ends.len() || axes.len() != starts.len() || steps.len() != starts.len() || steps.contains(&0)
        {
            return fault(node, "starts, ends, axes and steps do not fit together");
        }
        let (mut start, mut step, mut out) = (vec![0isize; dims.len()], vec![1isize; dims.len()], dims.clone());
        for i in 0..axes.len() {
            let a = axis(node, axes[i], dims.len())?;
            let (from, by, len) = fold::slice_range(starts[i], ends[i], steps[i], dims[a]);
            (start[a], step[a], out[a]) = (from, by, len);
        }
        self.push_output(node, 0, Layer::Slice { start, step, fill: 0.0 }, vec![x], &out)
    }

    pub(super) fn reshape(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let axes = |node: &Node| -> Result<Option<Vec<i64>>> {
            match attrs.ints("axes") {
                Some(a) => Ok(Some(a)),
                None => self.ints(node, 1),
            }
        };
        let out = match node.op.as_str() {
            "Flatten" => {
                let at = attrs.int("axis", 1);
                let at = if at == dims.len() as i64 { dims.len() } else { axis(node, at, dims.len())? };
                vec![dims[..at].iter().product(), dims[at..].iter().product()]
            }
            "Squeeze" => match axes(node)? {
                None => dims.iter().copied().filter(|&d| d != 1).collect(),
                Some(a) => {
                    let a = a.into_iter().map(|a| axis(node, a, dims.len())).collect::<Result<Vec<_>>>()?;
                    if a.iter().any(|&a| dims[a] != 1) {
                        return fault(node, format!("axes {a:?} of {dims:?} are not all 1"));
                    }
                    (0..dims.len()).filter(|i| !a.contains(i)).map(|i| dims[i]).collect()
                }
            },
            "Unsqueeze" => {
                let Some(a) = axes(node)? else { return fault(node, "axes are missing") };
                match fold::unsqueeze(&dims, &a) {
                    Some(out) => out,
                    None => return fault(node, format!("axes {a:?} cannot be added to {dims:?}")),
                }
            }
            _ => {
                let Some(target) = self.ints(node, 1)? else { return fault(node, "the shape is missing") };
                let allow_zero = attrs.int("allowzero", 0) == 1;
                match fold::reshape(&dims, &target, allow_zero) {
                    Some(out) => out,
                    None => return fault(node, format!("{dims:?} cannot be reshaped to {target:?}")),
                }
            }
        };
        self.push_output(node, 0, Layer::Reshape, vec![x], &out)
    }
}
