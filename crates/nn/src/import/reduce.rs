//! Sums, means, maxima and norms over axes, and where a maximum is.

use super::{Attributes, Importer, axis, fault};
use crate::Result;
use crate::graph::Node;
use crate::network::{Layer, Smooth, ValueId, Window};

impl Importer<'_> {
    /// Reductions over axes, global poolings, and the places of maxima.
    pub(super) fn reduce(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let rank = dims.len();
        if matches!(node.op.as_str(), "ArgMax" | "ArgMin") {
            return self.place_of_largest(node, attrs, x);
        }
        let (axes, keep) = if node.op.starts_with("Global") {
            if rank < 3 {
                return fault(node, format!("{dims:?} has no axes to pool over"));
            }
            ((2..rank).collect(), true)
        } else {
            let given = match attrs.ints("axes") {
                Some(axes) => Some(axes),
                None => self.ints(node, 1)?,
            };
            let axes: Vec<usize> = match given {
                Some(axes) if !axes.is_empty() => {
                    axes.into_iter().map(|a| axis(node, a, rank)).collect::<Result<Vec<_>>>()?
                }
                _ if attrs.int("noop_with_empty_axes", 0) != 0 => vec![],
                _ => (0..rank).collect(),
            };
            if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
                return fault(node, format!("axes {axes:?} name one axis twice"));
            }
            (axes, attrs.int("keepdims", 1) != 0)
        };
        let n: usize = axes.iter().map(|&a| dims[a]).product();
        let over = Over { axes: &axes, keep, n: n as f32 };
        let square = |this: &mut Self| this.both(node, Layer::Mul, x, x);
        let y = match node.op.as_str() {
            "ReduceMean" | "GlobalAveragePool" => self.mean(node, x, &over)?,
            "ReduceSum" => self.sum(node, x, &over)?,
            "ReduceSumSquare" => {
                let square = square(self)?;
                self.sum(node, square, &over)?
            }
            "ReduceL2" => self.norm(node, x, &over, 2)?,
            "ReduceL1" => self.norm(node, x, &over, 1)?,
            "GlobalLpPool" => self.norm(node, x, &over, attrs.int("p", 2))?,
            "ReduceLogSum" => {
                let sum = self.sum(node, x, &over)?;
                self.smooth(node, Smooth::Log, sum)?
            }
            "ReduceLogSumExp" => self.log_sum_exp(node, x, &over)?,
            "ReduceMax" | "GlobalMaxPool" => self.largest(node, x, &over)?,
            "ReduceMin" => {
                let minus = self.scaled(node, x, -1.0, 0.0)?;
                let largest = self.largest(node, minus, &over)?;
                self.scaled(node, largest, -1.0, 0.0)?
            }
            "ReduceProd" => self.all_times(node, x, &over)?,
            _ => return fault(node, "it is supported on constants and shapes only"),
        };
        self.alias(node, y);
        Ok(())
    }

    /// Norms over axes: of absolute values, or of squares.
    pub(super) fn norm(&mut self, node: &Node, x: ValueId, over: &Over<'_>, p: i64) -> Result<ValueId> {
        if p == 1 {
            let size = self.absolute(node, x)?;
            return self.sum(node, size, over);
        }
        let square = self.both(node, Layer::Mul, x, x)?;
        let sum = self.sum(node, square, over)?;
        self.smooth(node, Smooth::Sqrt, sum)
    }

    fn sum(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<ValueId> {
        let mean = self.mean(node, x, over)?;
        if over.n == 1.0 { Ok(mean) } else { self.scaled(node, mean, over.n, 0.0) }
    }

    /// The mean over axes: moved to a spatial axis, pooled, reshaped.
    pub(super) fn mean(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<ValueId> {
        let dims = self.dims(x);
        let pool = |h: usize, w: usize| Layer::AveragePool {
            window: Window { kernel: [h, w], stride: [1, 1], dilation: [1, 1], pad: [0; 4] },
            include_pad: false,
        };
        if dims.len() == 4 && over.axes == [2, 3] {
            let y = self.inner(node, pool(dims[2], dims[3]), vec![x], &[dims[0], dims[1], 1, 1])?;
            return self.reshaped(node, y, &over.out(&dims));
        }
        self.pooled(node, x, over, |n| pool(n, 1))
    }

    fn largest(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<ValueId> {
        let window = |n| Window { kernel: [n, 1], stride: [1, 1], dilation: [1, 1], pad: [0; 4] };
        self.pooled(node, x, over, |n| Layer::MaxPool(window(n)))
    }

    /// A pooling over axes, which are moved to one spatial axis.
    fn pooled(&mut self, node: &Node, x: ValueId, over: &Over<'_>, layer: impl Fn(usize) -> Layer) -> Result<ValueId> {
        let dims = self.dims(x);
        if over.axes.is_empty() {
            return Ok(x);
        }
        let (rows, n) = self.rows(node, x, over)?;
        let count = self.dims(rows)[0];
        let shaped = self.reshaped(node, rows, &[count, 1, n, 1])?;
        let y = self.inner(node, layer(n), vec![shaped], &[count, 1, 1, 1])?;
        self.reshaped(node, y, &over.out(&dims))
    }

    /// A value as `[kept, reduced]`, and how many are reduced.
    fn rows(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<(ValueId, usize)> {
        let dims = self.dims(x);
        let kept: Vec<usize> = (0..dims.len()).filter(|a| !over.axes.contains(a)).collect();
        let mut axes = over.axes.to_vec();
        axes.sort_unstable();
        let perm: Vec<usize> = kept.iter().chain(&axes).copied().collect();
        let (count, n) = (kept.iter().map(|&a| dims[a]).product(), axes.iter().map(|&a| dims[a]).product());
        let moved = self.transposed(node, x, &perm)?;
        Ok((self.reshaped(node, moved, &[count, n])?, n))
    }

    /// x_0 - (x - log sum exp x)_0.
    fn log_sum_exp(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<ValueId> {
        let dims = self.dims(x);
        if over.axes.is_empty() {
            return Ok(x);
        }
        let (rows, _) = self.rows(node, x, over)?;
        let below = self.like(node, Layer::LogSoftmax { axis: 1, end: 2 }, rows)?;
        let sum = self.both(node, Layer::Sub, rows, below)?;
        let count = self.dims(rows)[0];
        let first = Layer::Slice { start: vec![0, 0], step: vec![1, 1], fill: 0.0 };
        let y = self.inner(node, first, vec![sum], &[count, 1])?;
        self.reshaped(node, y, &over.out(&dims))
    }

    /// Products of pairs, and of pairs of those.
    fn all_times(&mut self, node: &Node, x: ValueId, over: &Over<'_>) -> Result<ValueId> {
        let dims = self.dims(x);
        if over.axes.is_empty() {
            return Ok(x);
        }
        let (mut rows, mut n) = self.rows(node, x, over)?;
        let count = self.dims(rows)[0];
        while n > 1 {
            let half = n / 2;
            let part = |from: usize| Layer::Slice { start: vec![0, from as isize], step: vec![1, 1], fill: 0.0 };
            let [low, high] = [0, half].map(|from| self.inner(node, part(from), vec![rows], &[count, half]));
            let mut product = self.both(node, Layer::Mul, low?, high?)?;
            if n % 2 == 1 {
                let last = self.inner(node, part(n - 1), vec![rows], &[count, 1])?;
                product = self.inner(node, Layer::Concat(1), vec![product, last], &[count, half + 1])?;
            }
            (rows, n) = (product, n.div_ceil(2));
        }
        self.reshaped(node, rows, &over.out(&dims))
    }

    fn place_of_largest(&mut self, node: &Node, attrs: &Attributes<'_>, x: ValueId) -> Result<()> {
        let dims = self.dims(x);
        let at = axis(node, attrs.int("axis", 0), dims.len())?;
        let mut y = x;
        if node.op == "ArgMin" {
            y = self.scaled(node, y, -1.0, 0.0)?;
        }
        // The last of several equal ones is the first from behind.
        let last = attrs.int("select_last_index", 0) != 0;
        if last {
            let (mut start, mut step) = (vec![0; dims.len()], vec![1; dims.len()]);
            (start[at], step[at]) = (dims[at] as isize - 1, -1);
            y = self.like(node, Layer::Slice { start, step, fill: 0.0 }, y)?;
        }
        let mut out = dims.clone();
        out[at] = 1;
        y = self.inner(node, Layer::ArgMax(at), vec![y], &out)?;
        if last {
            y = self.scaled(node, y, -1.0, dims[at] as f32 - 1.0)?;
        }
        if attrs.int("keepdims", 1) == 0 {
            out.remove(at);
            y = self.reshaped(node, y, &out)?;
        }
        self.alias(node, y);
        Ok(())
    }
}

/// What a reduction goes over.
pub(super) struct Over<'a> {
    pub(super) axes: &'a [usize],
    /// Whether they stay, with one element each.
    pub(super) keep: bool,
    /// How many elements become one.
    pub(super) n: f32,
}

impl Over<'_> {
    fn out(&self, dims: &[usize]) -> Vec<usize> {
        let all = 0..dims.len();
        if self.keep {
            return all.map(|a| if self.axes.contains(&a) { 1 } else { dims[a] }).collect();
        }
        all.filter(|a| !self.axes.contains(a)).map(|a| dims[a]).collect()
    }
}
