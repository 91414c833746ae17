//! Convolutions, matrix products, pooling and means.

use super::{Attributes, Importer, Known, fault};
use crate::Result;
use crate::graph::Node;
use crate::network::{Layer, Smooth, ValueId, Window};
use crate::tensor::Tensor;
use std::sync::Arc;

impl Importer<'_> {
    /// A value with two spatial axes; one axis becomes the second of two.
    fn spatial(&mut self, node: &Node, x: ValueId) -> Result<(ValueId, Vec<usize>)> {
        let dims = self.dims(x);
        match *dims {
            [_, _, _, _] => Ok((x, dims)),
            [n, c, l] => {
                let dims = vec![n, c, 1, l];
                Ok((self.reshaped(node, x, &dims)?, dims))
            }
            _ => fault(node, format!("only one and two spatial axes are supported, not {dims:?}")),
        }
    }

    /// Numbers for two spatial axes, from as many as there are.
    fn two_of(node: &Node, name: &str, given: &[i64], spatial: usize, least: i64) -> Result<[usize; 2]> {
        let fits = given.len() == spatial && given.iter().all(|v| (least..1 << 20).contains(v));
        match (fits, given) {
            (true, &[a, b]) => Ok([a as usize, b as usize]),
            (true, &[b]) => Ok([least as usize, b as usize]),
            _ => fault(node, format!("{name} {given:?} must be {spatial} numbers of at least {least}")),
        }
    }

    fn window(
        &self,
        node: &Node,
        attrs: &Attributes<'_>,
        kernel: [usize; 2],
        dims: &[usize],
        spatial: usize,
    ) -> Result<Window> {
        let pair = |name: &str| match attrs.ints(name) {
            None => Ok([1, 1]),
            Some(v) => Self::two_of(node, name, &v, spatial, 1),
        };
        let (stride, dilation) = (pair("strides")?, pair("dilations")?);
        let pad = match attrs.text("auto_pad") {
            "" | "NOTSET" => match attrs.ints("pads") {
                None => [0; 4],
                Some(p) if p.len() == 2 * spatial => {
                    let before = Self::two_of(node, "pads", &p[..spatial], spatial, 0)?;
                    let after = Self::two_of(node, "pads", &p[spatial..], spatial, 0)?;
                    [before[0], before[1], after[0], after[1]]
                }
                Some(p) => return fault(node, format!("pads {p:?} must be {} numbers", 2 * spatial)),
            },
            "VALID" => [0; 4],
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let mut pad = [0; 4];
                for a in 0..2 {
                    let len = dims[2 + a];
                    let need = (len.div_ceil(stride[a]) - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1;
                    let total = need.saturating_sub(len);
                    let (small, large) = (total / 2, total - total / 2);
                    (pad[a], pad[a + 2]) = if same == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
                pad
            }
            other => return fault(node, format!("auto_pad {other} is unknown")),
        };
        Ok(Window { kernel, stride, dilation, pad })
    }

    pub(super) fn conv(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let (own, mut weight) = (self.dims(x), self.weights(node, 1)?);
        if !matches!(own.len(), 3 | 4) || weight.dims.len() != own.len() {
            let why = "only convolutions over one or two axes are supported, not";
            return fault(node, format!("{why} {own:?} with {:?}", weight.dims));
        }
        let spatial = own.len() - 2;
        if let [o, c, k] = weight.dims[..] {
            weight = Arc::new(Tensor::new(&[o, c, 1, k], weight.data.clone()));
        }
        let (x, dims) = self.spatial(node, x)?;
        let groups = usize::try_from(attrs.int("group", 1)).unwrap_or(0);
        let kernel = [weight.dims[2], weight.dims[3]];
        if let Some(k) = attrs.ints("kernel_shape")
            && k != [kernel[0] as i64, kernel[1] as i64][2 - spatial..]
        {
            return fault(node, format!("kernel_shape {k:?} is not the weights' {kernel:?}"));
        }
        if groups == 0 || weight.dims[1] * groups != dims[1] || weight.dims[0] % groups != 0 {
            return fault(node, format!("weights {:?} in {groups} groups do not fit the input {dims:?}", weight.dims));
        }
        let bias = match node.inputs.get(2) {
            None => None,
            Some(name) if name.is_empty() => None,
            Some(name) => {
                let bias = self.weights(node, 2)?;
                // PyTorch writes zeros made on the spot where a convolution has no bias: nothing to be trained.
                let absent = self.made.contains(name.as_str()) && bias.data.iter().all(|&b| b == 0.0);
                (!absent).then_some(bias)
            }
        };
        if bias.as_ref().is_some_and(|b| b.data.len() != weight.dims[0]) {
            return fault(node, "the bias does not have one value for each output channel");
        }
        if kernel.contains(&0) {
            return fault(node, "the kernel is empty");
        }
        let window = self.window(node, attrs, kernel, &dims, spatial)?;
        let Some([h, w]) = window.output(dims[2], dims[3], false) else {
            return fault(node, format!("the kernel {kernel:?} is larger than the padded input {dims:?}"));
        };
        let out = [dims[0], weight.dims[0], h, w];
        let layer = Layer::Conv { window, groups, weight, bias };
        if spatial == 2 {
            return self.push_output(node, 0, layer, vec![x], &out);
        }
        let y = self.inner(node, layer, vec![x], &out)?;
        self.push_output(node, 0, Layer::Reshape, vec![y], &[out[0], out[1], w])
    }

    pub(super) fn gemm(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let mut x = self.value(node, 0)?;
        let mut weight = self.factor(node, 1)?;
        if self.dims(x).len() != 2 || weight.dims.len() != 2 {
            return fault(node, format!("{:?} times {:?} is not a matrix product", self.dims(x), weight.dims));
        }
        if attrs.int("transB", 0) != 0 {
            weight = Arc::new(weight.permute(&[1, 0]));
        }
        if attrs.int("transA", 0) != 0 {
            x = self.transposed(node, x, &[1, 0])?;
        }
        let (alpha, beta) = (attrs.float("alpha", 1.0), attrs.float("beta", 1.0));
        if alpha != 1.0 {
            weight = Arc::new(Tensor::new(&weight.dims, weight.data.iter().map(|v| v * alpha).collect()));
        }
        let dims = self.dims(x);
        let ([m, k], n) = ([dims[0], dims[1]], weight.dims[1]);
        if k != weight.dims[0] {
            return fault(node, format!("{dims:?} times {:?} is not a matrix product", weight.dims));
        }
        let bias = match self.known(node, 2)? {
            None => return self.push_output(node, 0, Layer::MatMul { weight, bias: None }, vec![x], &[m, n]),
            Some(bias) => bias,
        };
        if let Known::Constant(_) = bias {
            let b = self.weights(node, 2)?;
            if crate::fold::broadcast(&b.dims, &[m, n]).as_deref() != Some(&[m, n]) {
                return fault(node, format!("a bias of {:?} does not fit [{m}, {n}]", b.dims));
            }
            if b.data.len() == 1 || b.dims.last() == Some(&n) && b.data.len() == n {
                // Of one column, a bias may also be a column that is no row.
                let data = (0..n).map(|i| beta * b.data[if b.data.len() == 1 { 0 } else { i }]).collect();
                let bias = Some(Arc::new(Tensor::new(&[n], data)));
                return self.push_output(node, 0, Layer::MatMul { weight, bias }, vec![x], &[m, n]);
            }
            let y = self.inner(node, Layer::MatMul { weight, bias: None }, vec![x], &[m, n])?;
            self.charge(node, b.data.len())?;
            let b = Tensor::new(&b.dims, b.data.iter().map(|v| beta * v).collect());
            return self.push_output(node, 0, Layer::AddConst(Arc::new(b)), vec![y], &[m, n]);
        }
        let y = self.inner(node, Layer::MatMul { weight, bias: None }, vec![x], &[m, n])?;
        let Known::Value(mut b) = bias else { return fault(node, "its bias is missing") };
        if beta != 1.0 {
            b = self.scaled(node, b, beta, 0.0)?;
        }
        let sum = self.computed(node, "Add", Known::Value(y), Known::Value(b))?;
        self.alias(node, sum);
        Ok(())
    }

    /// A constant factor of a matrix product.
    fn factor(&self, node: &Node, i: usize) -> Result<Arc<Tensor>> {
        match self.known(node, i)? {
            Some(Known::Constant(_)) => self.weights(node, i),
            _ => fault(node, "one factor must be a constant; products of two computed matrices are not supported"),
        }
    }

    pub(super) fn matmul(&mut self, node: &Node) -> Result<()> {
        let first = matches!(self.known(node, 0)?, Some(Known::Constant(_)));
        let (x, mut weight) = if first {
            (self.value(node, 1)?, self.factor(node, 0)?)
        } else {
            (self.value(node, 0)?, self.factor(node, 1)?)
        };
        if self.graph.training && first {
            return fault(node, "training takes weights as the second factor");
        }
        let dims = self.dims(x);
        let wrong = || fault(node, format!("{dims:?} and {:?} have no matrix product here", weight.dims));
        // A constant of several equal leading axes of one is a matrix; a vector is one column, or one row.
        let vector = weight.dims.len() == 1;
        let matrix = match weight.dims[..] {
            [k] => vec![k, 1],
            [.., a, b] if weight.dims[..weight.dims.len() - 2].iter().all(|&d| d == 1) => vec![a, b],
            _ => return wrong(),
        };
        let lead = weight.dims.len().saturating_sub(2);
        if dims.is_empty() || (lead > 0 && lead + 2 > dims.len()) {
            return wrong();
        }
        let rank = dims.len();
        let mut y = x;
        let (mut shape, mut k) = (dims.clone(), dims[rank - 1]);
        // w x is the transpose of x^T w^T.
        let swap: Vec<usize> = match rank {
            1 => vec![0],
            _ => (0..rank - 2).chain([rank - 1, rank - 2]).collect(),
        };
        if first && rank > 1 {
            y = self.transposed(node, y, &swap)?;
            shape = self.dims(y);
            k = shape[rank - 1];
        }
        weight = match (first, vector) {
            (true, false) => Arc::new(Tensor::new(&matrix, weight.data.clone()).permute(&[1, 0])),
            _ if weight.dims == matrix => weight,
            _ => Arc::new(Tensor::new(&matrix, weight.data.clone())),
        };
        if weight.dims[0] != k {
            return fault(node, format!("{dims:?} times {:?} is not a matrix product", weight.dims));
        }
        let n = weight.dims[1];
        let rows = shape[..rank - 1].iter().product();
        let flat = self.reshaped(node, y, &[rows, k])?;
        let layer = Layer::MatMul { weight, bias: None };
        shape[rank - 1] = n;
        if rank == 2 && !first && !vector {
            return self.push_output(node, 0, layer, vec![flat], &[rows, n]);
        }
        let mut y = self.inner(node, layer, vec![flat], &[rows, n])?;
        y = self.reshaped(node, y, &shape)?;
        if first && rank > 1 {
            y = self.transposed(node, y, &swap)?;
            shape = self.dims(y);
        }
        if vector {
            // The vector's own axis is gone: the last but one of w x, else the last.
            shape.remove(if first && rank > 1 { rank - 2 } else { rank - 1 });
            y = self.reshaped(node, y, &shape)?;
        }
        self.alias(node, y);
        Ok(())
    }

    pub(super) fn pool(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let spatial = self.dims(x).len().saturating_sub(2);
        let (x, dims) = self.spatial(node, x)?;
        let Some(kernel) = attrs.ints("kernel_shape") else { return fault(node, "kernel_shape is missing") };
        let mut kernel = Self::two_of(node, "kernel_shape", &kernel, spatial, 1)?;
        if spatial == 1 {
            kernel[0] = 1;
        }
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(|o| !o.is_empty()) {
            return fault(node, "the indices of the maxima are not supported");
        }
        let mut window = self.window(node, attrs, kernel, &dims, spatial)?;
        if window.pad[0].max(window.pad[2]) >= kernel[0] * window.dilation[0]
            || window.pad[1].max(window.pad[3]) >= kernel[1] * window.dilation[1]
        {
            return fault(node, "the padding is larger than the kernel");
        }
        let ceil = attrs.int("ceil_mode", 0) != 0;
        let Some([h, w]) = window.output(dims[2], dims[3], ceil) else {
            return fault(node, format!("the kernel {kernel:?} is larger than the padded input {dims:?}"));
        };
        let declared = window.pad;
        if ceil {
            // Rounding up is rounding down with more padding at the end.
            for (a, out) in [h, w].into_iter().enumerate() {
                let reach = (out - 1) * window.stride[a] + window.dilation[a] * (kernel[a] - 1) + 1;
                window.pad[a + 2] = window.pad[a + 2].max(reach.saturating_sub(dims[2 + a] + window.pad[a]));
            }
        }
        let out = [dims[0], dims[1], h, w];
        let include_pad = node.op == "LpPool" || attrs.int("count_include_pad", 0) != 0;
        let average = Layer::AveragePool { window, include_pad };
        let y = match node.op.as_str() {
            "MaxPool" => self.inner(node, Layer::MaxPool(window), vec![x], &out)?,
            _ if window.dilation != [1, 1] => return fault(node, "dilated average pooling is not supported"),
            "LpPool" => {
                let p = attrs.int("p", 2);
                let members = (kernel[0] * kernel[1]) as f32;
                let power = if p == 1 { self.absolute(node, x)? } else { self.both(node, Layer::Mul, x, x)? };
                let mean = self.inner(node, average, vec![power], &out)?;
                let sum = self.scaled(node, mean, members, 0.0)?;
                if p == 1 { sum } else { self.smooth(node, Smooth::Sqrt, sum)? }
            }
            _ if include_pad && declared != window.pad => self.counted(node, x, window, declared, &out)?,
            _ => self.inner(node, average, vec![x], &out)?,
        };
        let shape = if spatial == 1 { &[out[0], out[1], w][..] } else { &out };
        let y = self.reshaped(node, y, shape)?;
        self.alias(node, y);
        Ok(())
    }

    /// An average that counts the padding that was asked for, and not what rounding up added: the mean over all, times a public
    /// factor by place.
    fn counted(
        &mut self,
        node: &Node,
        x: ValueId,
        window: Window,
        declared: [usize; 4],
        out: &[usize],
    ) -> Result<ValueId> {
        let dims = self.dims(x);
        let mean = self.inner(node, Layer::AveragePool { window, include_pad: true }, vec![x], out)?;
        let inside = |a: usize, j: usize| {
            let end = dims[2 + a] + declared[a] + declared[a + 2];
            (0..window.kernel[a]).filter(|k| j * window.stride[a] + k < end).count()
        };
        let all = (window.kernel[0] * window.kernel[1]) as f32;
        let factor = |y: usize, x: usize| all / (inside(0, y) * inside(1, x)) as f32;
        let data = (0..out[2]).flat_map(|y| (0..out[3]).map(move |x| (y, x))).map(|(y, x)| factor(y, x)).collect();
        let factors = Tensor::new(&[1, 1, out[2], out[3]], data);
        self.charge(node, factors.data.len())?;
        self.inner(node, Layer::MulConst(Arc::new(factors)), vec![mean], out)
    }
}
