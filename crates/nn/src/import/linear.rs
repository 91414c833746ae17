//! Convolutions, matrix products, pooling and means.

use super::{Attributes, Importer, Known, fault};
use crate::Result;
use crate::graph::Node;
use crate::network::{Layer, ValueId, Window};
use crate::tensor::Tensor;
use std::rc::Rc;

impl Importer<'_> {
    pub(super) fn window(
        &self,
        node: &Node,
        attrs: &Attributes<'_>,
        kernel: [usize; 2],
        dims: &[usize],
    ) -> Result<Window> {
        let pair = |name: &str| -> Result<[usize; 2]> {
            match attrs.ints(name).as_deref() {
                None => Ok([1, 1]),
                Some(&[a, b]) if a > 0 && b > 0 && a < 1 << 20 && b < 1 << 20 => Ok([a as usize, b as usize]),
                Some(v) => fault(node, format!("{name} {v:?} must be two positive numbers")),
            }
        };
        let (stride, dilation) = (pair("strides")?, pair("dilations")?);
        let pad = match attrs.text("auto_pad") {
            "" | "NOTSET" => match attrs.ints("pads").as_deref() {
                None => [0; 4],
                Some(p) if p.len() == 4 && p.iter().all(|v| (0..1 << 20).contains(v)) => {
                    [0, 1, 2, 3].map(|i| p[i] as usize)
                }
                Some(p) => return fault(node, format!("pads {p:?} must be four numbers that are not negative")),
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
        let (dims, weight) = (self.dims(x), self.weights(node, 1)?);
        if dims.len() != 4 || weight.dims.len() != 4 {
            return fault(
                node,
                format!("only two-dimensional convolutions are supported, not {dims:?} with {:?}", weight.dims),
            );
        }
        let groups = usize::try_from(attrs.int("group", 1)).unwrap_or(0);
        let kernel = [weight.dims[2], weight.dims[3]];
        if let Some(k) = attrs.ints("kernel_shape")
            && k != [kernel[0] as i64, kernel[1] as i64]
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
        let window = self.window(node, attrs, kernel, &dims)?;
        let Some([h, w]) = window.output(dims[2], dims[3], false) else {
            return fault(node, format!("the kernel {kernel:?} is larger than the padded input {dims:?}"));
        };
        let out = [dims[0], weight.dims[0], h, w];
        self.push_output(node, 0, Layer::Conv { window, groups, weight, bias }, vec![x], &out)
    }

    pub(super) fn matmul(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let mut dims = self.dims(x);
        let mut weight = match self.known(node, 1)? {
            Some(Known::Constant(_)) => self.weights(node, 1)?,
            _ => {
                return fault(
                    node,
                    "the second factor must be a constant; products of two computed matrices are not supported",
                );
            }
        };
        let mut bias = None;
        let mut input = x;
        if node.op == "Gemm" {
            if attrs.int("transB", 0) == 1 && weight.dims.len() == 2 {
                weight = Rc::new(weight.permute(&[1, 0]));
            }
            if attrs.int("transA", 0) == 1 {
                return fault(node, "transA is not supported");
            }
            let (alpha, beta) = (attrs.float("alpha", 1.0), attrs.float("beta", 1.0));
            if alpha != 1.0 {
                weight = Rc::new(Tensor::new(&weight.dims, weight.data.iter().map(|v| v * alpha).collect()));
            }
            if node.inputs.len() > 2 && !node.inputs[2].is_empty() {
                let b = self.weights(node, 2)?;
                let n = weight.dims.last().copied().unwrap_or(0);
                if b.data.len() != n && b.data.len() != 1 {
                    return fault(node, format!("a bias of {:?} does not fit {n} columns", b.dims));
                }
                let data = (0..n).map(|i| beta * b.data[if b.data.len() == 1 { 0 } else { i }]).collect();
                bias = Some(Rc::new(Tensor::new(&[n], data)));
            }
        }
        let rank = dims.len();
        if weight.dims.len() != 2 || rank < 2 || dims[rank - 1] != weight.dims[0] {
            return fault(node, format!("{dims:?} times {:?} is not a matrix product", weight.dims));
        }
        let (k, n) = (weight.dims[0], weight.dims[1]);
        let rows: usize = dims[..rank - 1].iter().product();
        if rank > 2 {
            input = self.push(node, Layer::Reshape, vec![x], &format!("{}.rows", node.name), &[rows, k])?;
        }
        let layer = Layer::MatMul { weight, bias };
        if rank == 2 {
            return self.push_output(node, 0, layer, vec![input], &[rows, n]);
        }
        let y = self.push(node, layer, vec![input], &format!("{}.product", node.name), &[rows, n])?;
        dims[rank - 1] = n;
        self.push_output(node, 0, Layer::Reshape, vec![y], &dims)
    }

    pub(super) fn pool(&mut self, node: &Node, attrs: &Attributes<'_>) -> Result<()> {
        let x = self.value(node, 0)?;
        let dims = self.dims(x);
        let kernel = match attrs.ints("kernel_shape").as_deref() {
            Some(&[a, b]) if a > 0 && b > 0 && a < 1 << 20 && b < 1 << 20 => [a as usize, b as usize],
            _ => return fault(node, "kernel_shape must be two positive numbers"),
        };
        if dims.len() != 4 {
            return fault(node, format!("only two-dimensional pooling is supported, not {dims:?}"));
        }
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(|o| !o.is_empty()) {
            return fault(node, "the indices of the maxima are not supported");
        }
        let mut window = self.window(node, attrs, kernel, &dims)?;
        if window.pad[0].max(window.pad[2]) >= kernel[0] * window.dilation[0]
            || window.pad[1].max(window.pad[3]) >= kernel[1] * window.dilation[1]
        {
            return fault(node, "the padding is larger than the kernel");
        }
        let ceil = attrs.int("ceil_mode", 0) == 1;
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
        if node.op == "MaxPool" {
            return self.push_output(node, 0, Layer::MaxPool(window), vec![x], &out);
        }
        if window.dilation != [1, 1] {
            return fault(node, "dilated average pooling is not supported");
        }
        let include_pad = attrs.int("count_include_pad", 0) == 1;
        if include_pad && declared != window.pad {
            return fault(node, "ceil_mode together with count_include_pad is not supported");
        }
        self.push_output(node, 0, Layer::AveragePool { window, include_pad }, vec![x], &out)
    }

    /// The mean over axes: moved to a spatial axis, pooled, reshaped.
    pub(super) fn mean(&mut self, node: &Node, x: ValueId, axes: &[usize], keep: bool) -> Result<()> {
        let dims = self.dims(x);
        let kept: Vec<usize> = (0..dims.len()).filter(|a| !axes.contains(a)).collect();
        let out: Vec<usize> = if keep {
            (0..dims.len()).map(|a| if axes.contains(&a) { 1 } else { dims[a] }).collect()
        } else {
            kept.iter().map(|&a| dims[a]).collect()
        };
        let pool = |h: usize, w: usize| Layer::AveragePool {
            window: Window { kernel: [h, w], stride: [1, 1], dilation: [1, 1], pad: [0; 4] },
            include_pad: false,
        };
        if dims.len() == 4 && axes == [2, 3] {
            let layer = pool(dims[2], dims[3]);
            if keep {
                return self.push_output(node, 0, layer, vec![x], &out);
            }
            let y = self.push(node, layer, vec![x], &format!("{}.mean", node.name), &[dims[0], dims[1], 1, 1])?;
            return self.push_output(node, 0, Layer::Reshape, vec![y], &out);
        }
        let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
        let (rows, n) = (kept.iter().map(|&a| dims[a]).product(), axes.iter().map(|&a| dims[a]).product());
        let moved: Vec<usize> = perm.iter().map(|&a| dims[a]).collect();
        let mut y = self.push(node, Layer::Transpose(perm), vec![x], &format!("{}.moved", node.name), &moved)?;
        y = self.push(node, Layer::Reshape, vec![y], &format!("{}.rows", node.name), &[rows, 1, n, 1])?;
        y = self.push(node, pool(n, 1), vec![y], &format!("{}.mean", node.name), &[rows, 1, 1, 1])?;
        self.push_output(node, 0, Layer::Reshape, vec![y], &out)
    }
}
