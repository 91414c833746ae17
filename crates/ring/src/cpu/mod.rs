//! The CPU device.

mod batch;
mod compare;
mod elementwise;
mod gradient;
mod linear;
mod outliers;
mod planes;
mod polynomial;
mod products;
mod simd;
mod tile;
mod winograd;

pub use linear::Panel;
pub use simd::Isa;

use crate::{Comparison, Conv2d, Device, DeviceError, IndexMap, PAD, PrgKey, WindowSum, Word, ZipOp};
use std::ops::Range;
use std::sync::Arc;

/// The device every machine has. Cheap to clone; clones share one pool of worker threads.
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    threads: usize,
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Cpu {
    /// The best instruction set of this processor and `threads` workers (at least one).
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with(Isa::detect(), threads)
    }

    /// A chosen instruction set, for comparing them.
    #[must_use]
    pub fn with(isa: Isa, threads: usize) -> Self {
        // A pool that cannot be made (thread limits) is no reason to fail: one thread computes the same.
        let pool = (threads > 1).then(|| rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()).flatten();
        Self { isa, threads: if pool.is_some() { threads } else { 1 }, pool: pool.map(Arc::new) }
    }

    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Device for Cpu {
    type Buf<W: Word> = Vec<W>;
    type Panel = Panel;

    fn upload<W: Word>(&self, host: Vec<W>) -> Vec<W> {
        host
    }
    fn download<W: Word>(&self, buf: Vec<W>) -> Result<Vec<W>, DeviceError> {
        Ok(buf)
    }
    fn len<W: Word>(&self, buf: &Vec<W>) -> usize {
        buf.len()
    }
    fn copy<W: Word>(&self, buf: &Vec<W>) -> Vec<W> {
        buf.clone()
    }
    fn slice<W: Word>(&self, buf: &Vec<W>, start: usize, len: usize) -> Vec<W> {
        buf[start..start + len].to_vec()
    }
    fn join<W: Word>(&self, parts: Vec<Vec<W>>) -> Vec<W> {
        parts.concat()
    }
    fn random<W: Word>(&self, key: &PrgKey, n: usize) -> Vec<W> {
        key.words(n)
    }
    fn random_from<W: Word>(&self, key: &PrgKey, start: usize, n: usize) -> Vec<W> {
        key.words_from(start, n)
    }

    fn zip<W: Word>(&self, op: ZipOp, a: &Vec<W>, b: &Vec<W>) -> Vec<W> {
        assert_eq!(a.len(), b.len(), "operands of one element-wise operation have one length");
        match op {
            ZipOp::Add => a.iter().zip(b).map(|(&x, &y)| x.add(y)).collect(),
            ZipOp::Sub => a.iter().zip(b).map(|(&x, &y)| x.sub(y)).collect(),
            ZipOp::Xor => {
                let mut out = a.clone();
                let (to, from): (&mut [u8], &[u8]) = (bytemuck::cast_slice_mut(&mut out), bytemuck::cast_slice(b));
                to.iter_mut().zip(from).for_each(|(x, y)| *x ^= y);
                out
            }
        }
    }
    fn add_rows<W: Word>(&self, x: &Vec<W>, row: &Vec<W>) -> Vec<W> {
        assert!(!row.is_empty() && x.len().is_multiple_of(row.len()), "the operand is made of whole rows");
        elementwise::add_rows(self.isa, x, row)
    }
    fn affine<W: Word>(&self, x: &Vec<W>, mul: W, add: W) -> Vec<W> {
        elementwise::affine(self.isa, x, mul, add)
    }
    fn hadamard<W: Word>(&self, a: &Vec<W>, b: &Vec<W>) -> Vec<W> {
        assert_eq!(a.len(), b.len(), "operands of one element-wise operation have one length");
        elementwise::hadamard(self.isa, a, b)
    }
    fn product<W: Word>(&self, x: [&Vec<W>; 2], y: [&Vec<W>; 2]) -> Vec<W> {
        assert!(
            [x[1], y[0], y[1]].iter().all(|b| b.len() == x[0].len()),
            "operands of one element-wise operation have one length"
        );
        elementwise::product(self.isa, x[0], x[1], y[0], y[1])
    }
    fn gather<W: Word>(&self, x: &Vec<W>, map: &IndexMap, fill: W) -> Vec<W> {
        map.source.iter().map(|&s| if s == PAD { fill } else { x[s as usize] }).collect()
    }
    fn concat<W: Word>(&self, parts: &[&Vec<W>], outer: usize, widths: &[usize]) -> Vec<W> {
        let mut out = Vec::with_capacity(outer * widths.iter().sum::<usize>());
        for row in 0..outer {
            for (part, &width) in parts.iter().zip(widths) {
                out.extend_from_slice(&part[row * width..(row + 1) * width]);
            }
        }
        out
    }
    fn window_sum<W: Word>(&self, x: &Vec<W>, windows: &WindowSum) -> Vec<W> {
        let op = &windows.0;
        let c = op.cin;
        let mut out = vec![W::zeroed(); op.output().len()];
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let (n, oy, ox) = (i / (op.out_h() * op.out_w()), i / op.out_w() % op.out_h(), i % op.out_w());
            for ky in 0..op.kernel[0] {
                let y = (oy * op.stride[0] + ky * op.dilation[0]).wrapping_sub(op.pad[0]);
                for kx in 0..op.kernel[1] {
                    let xx = (ox * op.stride[1] + kx * op.dilation[1]).wrapping_sub(op.pad[1]);
                    if y < op.h && xx < op.w {
                        let at = ((n * op.h + y) * op.w + xx) * c;
                        out.iter_mut().zip(&x[at..at + c]).for_each(|(o, &v)| *o = o.add(v));
                    }
                }
            }
        }
        out
    }

    fn low(&self, x: &Vec<u64>) -> Vec<u32> {
        x.iter().map(|&v| v as u32).collect()
    }
    fn pack<W: Word>(&self, x: &Vec<W>, bits: u32) -> Result<Vec<u64>, DeviceError> {
        Ok(crate::pack(x, bits))
    }
    fn unpack<W: Word>(&self, words: &[u64], n: usize, bits: u32) -> Vec<W> {
        crate::unpack(words, n, bits)
    }
    fn truncate(&self, x: &Vec<u64>, add: u64, bits: u32, shift: u32, plus: &Vec<u32>, minus: &Vec<u32>) -> Vec<u32> {
        assert!(
            plus.len() == x.len() && minus.len() == x.len(),
            "operands of one element-wise operation have one length"
        );
        elementwise::truncate(self.isa, x, add, 64 - bits, shift, plus, minus)
    }

    fn prepare(&self, w0: &Vec<u64>, w1: &Vec<u64>, op: &Conv2d, gain: bool) -> Panel {
        linear::prepare(self.isa, w0, w1, op, gain)
    }
    fn linear(&self, x0: &Vec<u64>, x1: &Vec<u64>, panel: &Panel, op: &Conv2d) -> Vec<u64> {
        linear::linear(self, x0, x1, panel, op)
    }

    fn full(&self, x: [&Vec<u64>; 2], w: [&Vec<u64>; 2], depth: usize) -> Vec<u64> {
        linear::full(self, x.map(Vec::as_slice), w.map(Vec::as_slice), depth)
    }
    fn weight_gradient(&self, x: [&Vec<u64>; 2], dy: [&Vec<u64>; 2], op: &Conv2d) -> Vec<u64> {
        gradient::weight_gradient(self, x.map(Vec::as_slice), dy.map(Vec::as_slice), op)
    }

    fn planes<W: Word>(&self, x: &Vec<W>, from: u32, to: u32) -> Vec<u64> {
        planes::planes(self.isa, x, from, to)
    }
    fn expand<W: Word>(&self, plane: &Vec<u64>, n: usize) -> Vec<W> {
        elementwise::expand(self.isa, plane, n)
    }
    fn and(&self, a: &Vec<u64>, b: &Vec<u64>) -> Vec<u64> {
        assert_eq!(a.len(), b.len(), "operands of one element-wise operation have one length");
        a.iter().zip(b).map(|(x, y)| x & y).collect()
    }
    fn thermometer(&self, planes: &Vec<u64>, cmp: &Comparison) -> Vec<u64> {
        compare::thermometer(self.isa, planes, cmp)
    }
    fn leaves(&self, shares: &Vec<u64>, planes: &Vec<u64>, cmp: &Comparison, one: bool) -> Vec<u64> {
        compare::leaves(self.isa, shares, planes, cmp, one)
    }
    fn outliers(&self, table: &Vec<u64>, b: &Vec<u64>, first: bool) -> Vec<u64> {
        outliers::outliers(self.isa, table, b, first)
    }
    fn polynomial(&self, plane: &Vec<u64>, within: Range<usize>, point: u64) -> Result<u64, DeviceError> {
        Ok(polynomial::polynomial(self.isa, plane, within, point))
    }
    fn mask_products(&self, masks: &Vec<u64>, cmp: &Comparison, level: usize) -> Vec<u64> {
        compare::mask_products(self.isa, masks, cmp, level)
    }
    fn tree_inputs(&self, wires: &Vec<u64>, cmp: &Comparison, level: usize) -> Vec<u64> {
        compare::tree_inputs(self.isa, wires, cmp, level)
    }
    fn tree_level(
        &self,
        wires: &Vec<u64>,
        opened: &Vec<u64>,
        masks: &Vec<u64>,
        products: &Vec<u64>,
        cmp: &Comparison,
        level: usize,
        one: bool,
    ) -> Vec<u64> {
        compare::tree_level(self.isa, wires, opened, masks, products, cmp, level, one)
    }
    fn select<W: Word>(&self, e: &Vec<u64>, x: &Vec<W>, b: &Vec<W>, r: &Vec<W>, q: &Vec<W>) -> Vec<W> {
        elementwise::select(self.isa, e, x, b, r, q)
    }
    fn widen(
        &self,
        y: &Vec<u32>,
        bits: u32,
        first: bool,
        keep: &Vec<u64>,
        own: &Vec<u64>,
        opened: &Vec<u64>,
        product: &Vec<u32>,
    ) -> Vec<u64> {
        elementwise::widen(self.isa, y, bits, first, keep, own, opened, product)
    }
}
