//! Operators that move elements without changing them.

use super::{Attributes, Importer, axis, fault};
use crate::graph::Node;
use crate::network::Layer;
use crate::{Result, fold};

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

    pub(super) fn pad(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        if !matches!(attrs.text("mode"), "" | "constant") {
            return fault(node, format!("mode {} is not supported, only constant", attrs.text("mode")));
        }
        let pads = match attrs.ints("pads") {
            Some(p) => p,
            None => self.ints(node, 1)?.unwrap_or_default(),
        };
        let fill = match self.floats(node, 2)? {
            Some(t) if t.data.len() == 1 => t.data[0],
            _ => attrs.float("value", 0.0),
        };
        // From opset 18 on the pads may be given for some axes only.
        let axes = match self.ints(node, 3)? {
            Some(a) => a.into_iter().map(|a| axis(node, a, dims.len())).collect::<Result<Vec<_>>>()?,
            None => (0..dims.len()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return fault(node, format!("pads {pads:?} do not fit axes {axes:?} of {dims:?}"));
        }
        let mut all = vec![0; 2 * dims.len()];
        for (i, &a) in axes.iter().enumerate() {
            all[a] = pads[i];
            all[a + dims.len()] = pads[i + axes.len()];
        }
        let pads = all;
        if !fill.is_finite() || pads.iter().any(|p| p.unsigned_abs() > 1 << 20) {
            return fault(node, format!("pads {pads:?} do not fit {dims:?}"));
        }
        let mut out = vec![];
        for (a, &d) in dims.iter().enumerate() {
            let size = d as i64 + pads[a] + pads[a + dims.len()];
            out.push(usize::try_from(size).unwrap_or(0));
        }
        let start = pads[..dims.len()].iter().map(|&p| -(p as isize)).collect();
        self.push_output(node, 0, Layer::Slice { start, step: vec![1; dims.len()], fill }, vec![x], &out)
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
                match fold::reshape(&dims, &target, allow_zero).or_else(|| {
                    // A batch written into the shape when the model was exported gives way to the one wanted.
                    let (exported, wanted) = self.batch;
                    let mut target = target.clone();
                    let first = target.first_mut()?;
                    (Some(*first) == exported.or(Some(1)).map(|b| b as i64)).then(|| *first = wanted as i64);
                    fold::reshape(&dims, &target, allow_zero)
                }) {
                    Some(out) => out,
                    None => return fault(node, format!("{dims:?} cannot be reshaped to {target:?}")),
                }
            }
        };
        self.push_output(node, 0, Layer::Reshape, vec![x], &out)
    }
}
