//! One function for each kernel: it checks the lengths that keep the kernel within its buffers, and queues it.
//!
//! Every launch is `unsafe`, and sound for the same reason: the arguments are those of the kernel in `kernels/`, in order, and the checks
//! above it say that no thread reads or writes beyond them.

use crate::driver::{Arg, Driver, Error, Grid, Result};
use crate::memory::{Buf, Pool};
use crate::plans::{Chunks, Geometry, Hash, Level, pixels};
use bytemuck::{Pod, bytes_of};
use sordino_ring::{Comparison, Conv2d, LANES, PrgKey, Word, ZipOp, packed_words};
use std::ops::Range;
use std::sync::Arc;

/// The queue of one device.
pub(crate) struct Queue<D: Driver>(pub(crate) Arc<Pool<D>>);

/// Enough groups to fill any processor; each thread then works on several elements.
const MOST: usize = 2048;
/// Rows and columns of `linear`'s tile, and how deep it is.
const TILE: usize = 64;
const DEPTH: usize = 16;

fn each(items: usize) -> Grid {
    Grid { threads: 256, groups: [items.div_ceil(256).min(MOST) as u32, 1, 1] }
}

/// A word of 256 in x, a part of a plan in y.
fn words_by(words: usize, parts: usize) -> Grid {
    Grid { threads: 256, groups: [words.div_ceil(256) as u32, parts as u32, 1] }
}

fn named<W: Word>(narrow: &'static str, wide: &'static str) -> &'static str {
    if W::BITS == 32 { narrow } else { wide }
}

fn flag(yes: bool) -> u64 {
    if yes { u64::MAX } else { 0 }
}

/// Into how many parts an inner dimension is cut so that so many tiles keep a card busy, and how deep a part is.
fn cut(tiles: usize, inner: usize, least: usize) -> Result<(usize, usize)> {
    let parts = 256usize.div_ceil(tiles.max(1)).min(inner / least).max(1);
    let depth = inner.div_ceil(parts).next_multiple_of(DEPTH);
    // Kernels count in 32 bits.
    if depth >= 1 << 31 || inner >= 1 << 32 {
        return Err(Error::Call(format!("a product of depth {inner} is more than a card takes")));
    }
    Ok((inner.div_ceil(depth), depth))
}

/// The arguments of a launch.
struct Args<'a, M>(Vec<Arg<'a, M>>);

impl<'a, M> Args<'a, M> {
    fn out<D: Driver<Memory = M>, W: Word>(buf: &'a Buf<D, W>) -> Result<Self> {
        Ok(Self(vec![Arg::Buffer(buf.memory()?)]))
    }
    fn buf<D: Driver<Memory = M>, W: Word>(mut self, buf: &'a Buf<D, W>) -> Result<Self> {
        self.0.push(Arg::Buffer(buf.memory()?));
        self.0.push(Arg::Value(bytes_of(&buf.start)));
        Ok(self)
    }
    /// A value that the driver is to forget once it is launched.
    fn secret<T: Pod>(mut self, value: &'a T) -> Self {
        self.0.push(Arg::Secret(bytes_of(value)));
        self
    }
    fn value<T: Pod>(mut self, value: &'a T) -> Self {
        self.0.push(Arg::Value(bytes_of(value)));
        self
    }
}

impl<D: Driver> Queue<D> {
    fn room<W: Word>(&self, len: usize) -> Result<Buf<D, W>> {
        Ok(Buf::new(Some(Arc::new(self.0.take(len * size_of::<W>())?)), 0, len))
    }

    fn launch(&self, kernel: &'static str, grid: Grid, args: &Args<'_, D::Memory>) -> Result<()> {
        if grid.groups.contains(&0) {
            return Ok(());
        }
        // CUDA's limit, here for all.
        if grid.groups[1..].iter().any(|g| *g > 65_535) {
            return Err(Error::Call(format!(
                "{kernel}: a geometry of more groups than a card takes ({:?})",
                grid.groups
            )));
        }
        // SAFETY: as this file's head says.
        unsafe { self.0.driver.launch(kernel, grid, &args.0) }
    }

    pub(crate) fn upload<W: Word>(&self, host: &[W]) -> Result<Buf<D, W>> {
        let buf = self.room(host.len())?;
        self.0.driver.write(buf.memory()?, bytemuck::cast_slice(host))?;
        Ok(buf)
    }
    pub(crate) fn download<W: Word>(&self, buf: &Buf<D, W>) -> Result<Vec<W>> {
        let mut host = vec![W::zeroed(); buf.len];
        let at = buf.start as usize * size_of::<W>();
        self.0.driver.read(buf.memory()?, at, bytemuck::cast_slice_mut(&mut host))?;
        Ok(host)
    }

    pub(crate) fn keystream<W: Word>(
        &self,
        table: &Buf<D, u32>,
        key: &PrgKey,
        start: usize,
        n: usize,
    ) -> Result<Buf<D, W>> {
        assert_eq!(table.len, 256, "the table has a word a byte");
        let out = self.room(n)?;
        let per = size_of::<W>() / 4;
        let (start, n) = ((start * per) as u64, (n * per) as u64);
        let keys = key.round_keys();
        let args = Args::out(&out)?.buf(table)?.secret(&*keys).value(&start).value(&n);
        self.launch("keystream", each((start as usize % 4 + n as usize).div_ceil(4)), &args)?;
        Ok(out)
    }

    pub(crate) fn zip<W: Word>(&self, op: ZipOp, a: &Buf<D, W>, b: &Buf<D, W>) -> Result<Buf<D, W>> {
        let kernel = match op {
            ZipOp::Add => named::<W>("add_u32", "add_u64"),
            ZipOp::Sub => named::<W>("sub_u32", "sub_u64"),
            ZipOp::Xor => named::<W>("exclusive_u32", "exclusive_u64"),
        };
        self.pairs(kernel, a, b)
    }
    pub(crate) fn hadamard<W: Word>(&self, a: &Buf<D, W>, b: &Buf<D, W>) -> Result<Buf<D, W>> {
        self.pairs(named::<W>("hadamard_u32", "hadamard_u64"), a, b)
    }
    pub(crate) fn conjunction(&self, a: &Buf<D, u64>, b: &Buf<D, u64>) -> Result<Buf<D, u64>> {
        self.pairs("conjunction", a, b)
    }
    /// A kernel of two operands and their length.
    fn pairs<W: Word>(&self, kernel: &'static str, a: &Buf<D, W>, b: &Buf<D, W>) -> Result<Buf<D, W>> {
        assert_eq!(a.len, b.len, "operands of one element-wise operation have one length");
        let (out, n) = (self.room(a.len)?, a.len as u64);
        self.launch(kernel, each(a.len), &Args::out(&out)?.buf(a)?.buf(b)?.value(&n))?;
        Ok(out)
    }
    pub(crate) fn add_rows<W: Word>(&self, x: &Buf<D, W>, row: &Buf<D, W>) -> Result<Buf<D, W>> {
        assert!(row.len > 0 && x.len.is_multiple_of(row.len), "the operand is made of whole rows");
        let (out, n, width) = (self.room(x.len)?, x.len as u64, row.len as u64);
        let args = Args::out(&out)?.buf(x)?.buf(row)?.value(&n).value(&width);
        self.launch(named::<W>("add_rows_u32", "add_rows_u64"), each(x.len), &args)?;
        Ok(out)
    }
    pub(crate) fn affine<W: Word>(&self, x: &Buf<D, W>, mul: W, add: W) -> Result<Buf<D, W>> {
        let (out, n) = (self.room(x.len)?, x.len as u64);
        let args = Args::out(&out)?.buf(x)?.value(&mul).value(&add).value(&n);
        self.launch(named::<W>("affine_u32", "affine_u64"), each(x.len), &args)?;
        Ok(out)
    }
    pub(crate) fn product<W: Word>(&self, x: [&Buf<D, W>; 2], y: [&Buf<D, W>; 2]) -> Result<Buf<D, W>> {
        assert!(
            [x[1], y[0], y[1]].iter().all(|b| b.len == x[0].len),
            "operands of one element-wise operation have one length"
        );
        let (out, n) = (self.room(x[0].len)?, x[0].len as u64);
        let args = Args::out(&out)?.buf(x[0])?.buf(x[1])?.buf(y[0])?.buf(y[1])?.value(&n);
        self.launch(named::<W>("product_u32", "product_u64"), each(x[0].len), &args)?;
        Ok(out)
    }

    /// Puts parts side by side: part j has `widths[j]` elements in each of `outer` rows.
    pub(crate) fn rows<W: Word>(&self, parts: &[&Buf<D, W>], outer: usize, widths: &[usize]) -> Result<Buf<D, W>> {
        assert_eq!(parts.len(), widths.len(), "every part has a width");
        let whole: usize = widths.iter().sum();
        let out = self.room(outer * whole)?;
        let mut place = 0;
        for (part, &width) in parts.iter().zip(widths) {
            assert!(part.len >= outer * width, "a part has all its rows");
            let sizes = [outer * width, width, whole, place].map(|v| v as u64);
            let [n, wide, whole, at] = &sizes;
            let args = Args::out(&out)?.buf(part)?.value(n).value(wide).value(whole).value(at);
            self.launch(named::<W>("rows_u32", "rows_u64"), each(outer * width), &args)?;
            place += width;
        }
        Ok(out)
    }
    /// `map` holds places below `x.len`, or all ones.
    pub(crate) fn gather<W: Word>(&self, x: &Buf<D, W>, map: &Buf<D, u32>, fill: W) -> Result<Buf<D, W>> {
        let (out, n) = (self.room(map.len)?, map.len as u64);
        let args = Args::out(&out)?.buf(x)?.buf(map)?.value(&fill).value(&n);
        self.launch(named::<W>("gather_u32", "gather_u64"), each(map.len), &args)?;
        Ok(out)
    }
    pub(crate) fn window_sum<W: Word>(&self, x: &Buf<D, W>, op: &Conv2d) -> Result<Buf<D, W>> {
        assert!(x.len == op.input().len() && op.cin == op.cout, "the tensor that the windows are of");
        let len = pixels(op) * op.cin;
        let (out, geometry, n) = (self.room(len)?, Geometry::new(op, 0), len as u64);
        let args = Args::out(&out)?.buf(x)?.value(&geometry).value(&n);
        self.launch(named::<W>("window_sum_u32", "window_sum_u64"), each(len), &args)?;
        Ok(out)
    }

    pub(crate) fn pack<W: Word>(&self, x: &Buf<D, W>, bits: u32) -> Result<Buf<D, u64>> {
        assert!((1..=64).contains(&bits), "a width of 1 to 64 bits");
        let words = packed_words(x.len, bits);
        let (out, n, count) = (self.room(words)?, x.len as u64, words as u64);
        let args = Args::out(&out)?.buf(x)?.value(&n).value(&bits).value(&count);
        self.launch(named::<W>("pack_u32", "pack_u64"), each(words), &args)?;
        Ok(out)
    }
    pub(crate) fn unpack<W: Word>(&self, words: &Buf<D, u64>, len: usize, bits: u32) -> Result<Buf<D, W>> {
        assert!((1..=64).contains(&bits), "a width of 1 to 64 bits");
        let (out, count, n) = (self.room(len)?, words.len as u64, len as u64);
        let args = Args::out(&out)?.buf(words)?.value(&count).value(&n).value(&bits);
        self.launch(named::<W>("unpack_u32", "unpack_u64"), each(len), &args)?;
        Ok(out)
    }
    pub(crate) fn low(&self, x: &Buf<D, u64>) -> Result<Buf<D, u32>> {
        let (out, n) = (self.room(x.len)?, x.len as u64);
        self.launch("low", each(x.len), &Args::out(&out)?.buf(x)?.value(&n))?;
        Ok(out)
    }
    pub(crate) fn truncate(
        &self,
        x: &Buf<D, u64>,
        add: u64,
        bits: u32,
        shift: u32,
        masks: [&Buf<D, u32>; 2],
    ) -> Result<Buf<D, u32>> {
        assert!(masks.iter().all(|m| m.len == x.len), "operands of one element-wise operation have one length");
        assert!((1..=64).contains(&bits) && shift < bits, "a shift below the width, which is 64 at most");
        let (out, n, unused) = (self.room(x.len)?, x.len as u64, 64 - bits);
        let args = Args::out(&out)?.buf(x)?.value(&add).value(&unused).value(&shift);
        self.launch("truncate", each(x.len), &args.buf(masks[0])?.buf(masks[1])?.value(&n))?;
        Ok(out)
    }
    pub(crate) fn widen(
        &self,
        y: &Buf<D, u32>,
        bits: u32,
        first: bool,
        planes: [&Buf<D, u64>; 3],
        product: &Buf<D, u32>,
    ) -> Result<Buf<D, u64>> {
        assert!(product.len == y.len && (1..=32).contains(&bits), "operands of one length, of 1 to 32 bits");
        assert!(planes.iter().all(|p| p.len >= y.len.div_ceil(64)), "planes with a bit an element");
        let (out, n, first) = (self.room(y.len)?, y.len as u64, u32::from(first));
        let args = Args::out(&out)?.buf(y)?.value(&bits).value(&first);
        let args = args.buf(planes[0])?.buf(planes[1])?.buf(planes[2])?.buf(product)?.value(&n);
        self.launch("widen", each(y.len), &args)?;
        Ok(out)
    }

    /// Both weights of a convolution as [`Queue::linear`] and [`Queue::depthwise`] take them.
    pub(crate) fn prepare(&self, w: [&Buf<D, u64>; 2], op: &Conv2d, gain: u64) -> Result<Buf<D, u64>> {
        let len = op.weight().len();
        assert!(w.iter().all(|w| w.len == len), "weights of the convolution");
        let (out, geometry, n) = (self.room(2 * len)?, Geometry::new(op, 0), 2 * len as u64);
        let args = Args::out(&out)?.buf(w[0])?.buf(w[1])?.value(&geometry).value(&n).value(&gain);
        self.launch("prepare", each(2 * len), &args)?;
        Ok(out)
    }
    fn checked(x: [&Buf<D, u64>; 2], panel: &Buf<D, u64>, op: &Conv2d) {
        assert!(x.iter().all(|x| x.len == op.input().len()), "images of the convolution");
        assert_eq!(panel.len, 2 * op.weight().len(), "a panel of the convolution");
    }
    pub(crate) fn linear(&self, x: [&Buf<D, u64>; 2], panel: &Buf<D, u64>, op: &Conv2d) -> Result<Buf<D, u64>> {
        Self::checked(x, panel, op);
        let (rows, columns) = (pixels(op).div_ceil(TILE), (op.cout / op.groups).div_ceil(TILE));
        let inner = 2 * op.kernel[0] * op.kernel[1] * (op.cin / op.groups);
        let (parts, depth) = cut(rows * columns * op.groups, inner, 256)?;
        let len = op.output().len();
        let (out, geometry, count) = (self.room(parts * len)?, Geometry::new(op, depth), parts as u32);
        let args = Args::out(&out)?.buf(x[0])?.buf(x[1])?.buf(panel)?.value(&geometry).value(&count);
        let groups = [rows, columns, op.groups * parts].map(|v| v as u32);
        self.launch("linear", Grid { threads: 256, groups }, &args)?;
        self.add_parts(out, len, parts)
    }
    /// The sum of `parts` runs of `len` elements.
    fn add_parts(&self, x: Buf<D, u64>, len: usize, parts: usize) -> Result<Buf<D, u64>> {
        if parts == 1 {
            return Ok(x);
        }
        assert_eq!(x.len, parts * len, "parts of one length");
        let (out, n, parts) = (self.room(len)?, len as u64, parts as u32);
        self.launch("add_parts", each(len), &Args::out(&out)?.buf(&x)?.value(&n).value(&parts))?;
        Ok(out)
    }
    pub(crate) fn depthwise(&self, x: [&Buf<D, u64>; 2], panel: &Buf<D, u64>, op: &Conv2d) -> Result<Buf<D, u64>> {
        Self::checked(x, panel, op);
        assert!(op.is_depthwise(), "one channel a group");
        let len = op.output().len();
        let (out, geometry, n) = (self.room(len)?, Geometry::new(op, 0), len as u64);
        let args = Args::out(&out)?.buf(x[0])?.buf(x[1])?.buf(panel)?.value(&geometry).value(&n);
        self.launch("depthwise", each(len), &args)?;
        Ok(out)
    }
    pub(crate) fn full(&self, x: [&Buf<D, u64>; 2], w: [&Buf<D, u64>; 2], depth: usize) -> Result<Buf<D, u64>> {
        let whole = |a: usize, b: usize| depth > 0 && a == b && a.is_multiple_of(depth);
        assert!(whole(x[0].len, x[1].len) && whole(w[0].len, w[1].len), "whole rows of both components");
        let (rows, outputs) = (x[0].len / depth, w[0].len / depth);
        let (out, depth, across) = (self.room(rows * outputs)?, depth as u64, outputs as u32);
        let args = Args::out(&out)?.buf(x[0])?.buf(x[1])?.buf(w[0])?.buf(w[1])?.value(&depth).value(&across);
        self.launch("full", Grid { threads: 256, groups: [(rows * outputs) as u32, 1, 1] }, &args)?;
        Ok(out)
    }
    pub(crate) fn gradient(&self, x: [&Buf<D, u64>; 2], dy: [&Buf<D, u64>; 2], op: &Conv2d) -> Result<Buf<D, u64>> {
        assert!(x.iter().all(|x| x.len == op.input().len()), "images of the convolution");
        assert!(dy.iter().all(|dy| dy.len == op.output().len()), "gradients of its outputs");
        let (taps, len) = (op.kernel[0] * op.kernel[1], op.weight().len());
        let single = op.is_depthwise();
        let (rows, columns) = ((taps * (op.cin / op.groups)).div_ceil(TILE), (op.cout / op.groups).div_ceil(TILE));
        let (parts, depth) = if single {
            cut(op.cout.div_ceil(256) * taps, pixels(op), 64)?
        } else {
            cut(rows * columns * op.groups, 2 * pixels(op), 256)?
        };
        let (out, geometry, count) = (self.room(parts * len)?, Geometry::new(op, depth), parts as u32);
        let args = Args::out(&out)?.buf(x[0])?.buf(x[1])?.buf(dy[0])?.buf(dy[1])?.value(&geometry);
        if single {
            let groups = [op.cout.div_ceil(256), taps, parts].map(|v| v as u32);
            self.launch("depthwise_gradient", Grid { threads: 256, groups }, &args)?;
        } else {
            let groups = [rows, columns, op.groups * parts].map(|v| v as u32);
            self.launch("gradient", Grid { threads: 256, groups }, &args.value(&count))?;
        }
        self.add_parts(out, len, parts)
    }

    pub(crate) fn planes<W: Word>(&self, x: &Buf<D, W>, from: u32, to: u32) -> Result<Buf<D, u64>> {
        assert!(from <= to && to <= W::BITS, "bits of a word");
        let (words, count) = (x.len.div_ceil(64), to - from);
        let (out, n, wide) = (self.room(words * count as usize)?, x.len as u64, words as u64);
        let args = Args::out(&out)?.buf(x)?.value(&n).value(&wide).value(&from).value(&count);
        let grid = Grid { threads: 64, groups: [words as u32, u32::from(count > 0), 1] };
        self.launch(named::<W>("planes_u32", "planes_u64"), grid, &args)?;
        Ok(out)
    }
    pub(crate) fn expand<W: Word>(&self, plane: &Buf<D, u64>, len: usize) -> Result<Buf<D, W>> {
        assert!(plane.len >= len.div_ceil(64), "a plane with a bit an element");
        let (out, n) = (self.room(len)?, len as u64);
        self.launch(named::<W>("expand_u32", "expand_u64"), each(len), &Args::out(&out)?.buf(plane)?.value(&n))?;
        Ok(out)
    }
    pub(crate) fn select<W: Word>(&self, e: &Buf<D, u64>, of: [&Buf<D, W>; 4]) -> Result<Buf<D, W>> {
        let [x, b, r, q] = of;
        assert!(of.iter().all(|v| v.len == x.len), "operands of one element-wise operation have one length");
        assert!(e.len >= x.len.div_ceil(64), "a plane with a bit an element");
        let (out, n) = (self.room(x.len)?, x.len as u64);
        let args = Args::out(&out)?.buf(e)?.buf(x)?.buf(b)?.buf(r)?.buf(q)?.value(&n);
        self.launch(named::<W>("select_u32", "select_u64"), each(x.len), &args)?;
        Ok(out)
    }

    pub(crate) fn thermometer(&self, planes: &Buf<D, u64>, cmp: &Comparison) -> Result<Buf<D, u64>> {
        let words = planes.len / cmp.bits() as usize;
        let (out, chunks, wide) = (self.room(words * cmp.leaf_planes())?, Chunks::new(cmp), words as u64);
        let args = Args::out(&out)?.buf(planes)?.value(&chunks).value(&wide);
        self.launch("thermometer", words_by(words, cmp.chunks().len()), &args)?;
        Ok(out)
    }
    pub(crate) fn leaves(
        &self,
        shares: &Buf<D, u64>,
        planes: &Buf<D, u64>,
        cmp: &Comparison,
        one: bool,
    ) -> Result<Buf<D, u64>> {
        let words = planes.len / cmp.bits() as usize;
        assert_eq!(shares.len, words * cmp.leaf_planes(), "shares of all thermometers");
        let out = self.room(words * (2 * cmp.chunks().len() - 1))?;
        let (chunks, one, wide) = (Chunks::new(cmp), flag(one), words as u64);
        let args = Args::out(&out)?.buf(shares)?.buf(planes)?.value(&chunks).value(&one).value(&wide);
        self.launch("leaves", words_by(words, cmp.chunks().len()), &args)?;
        Ok(out)
    }
    pub(crate) fn tree_inputs(&self, wires: &Buf<D, u64>, cmp: &Comparison, level: usize) -> Result<Buf<D, u64>> {
        let words = wires.len / (2 * cmp.nodes(level) - 1);
        let (out, plan, wide) = (self.room(words * cmp.opened(level))?, Level::new(cmp, level), words as u64);
        let args = Args::out(&out)?.buf(wires)?.value(&plan).value(&wide);
        self.launch("tree_inputs", words_by(words, cmp.groups(level).count()), &args)?;
        Ok(out)
    }
    pub(crate) fn mask_products(&self, masks: &Buf<D, u64>, cmp: &Comparison, level: usize) -> Result<Buf<D, u64>> {
        let words = masks.len / cmp.opened(level).max(1);
        let (out, plan, wide) = (self.room(words * cmp.products(level))?, Level::new(cmp, level), words as u64);
        let args = Args::out(&out)?.buf(masks)?.value(&plan).value(&wide);
        self.launch("mask_products", words_by(words, cmp.groups(level).count()), &args)?;
        Ok(out)
    }
    pub(crate) fn tree_level(
        &self,
        wires: &Buf<D, u64>,
        [opened, masks, products]: [&Buf<D, u64>; 3],
        cmp: &Comparison,
        level: usize,
        one: bool,
    ) -> Result<Buf<D, u64>> {
        let words = wires.len / (2 * cmp.nodes(level) - 1);
        let inputs = words * cmp.opened(level);
        assert!(opened.len == inputs && masks.len == inputs, "the inputs of the level and their masks");
        assert_eq!(products.len, words * cmp.products(level), "the products of the masks");
        let out = self.room(words * (2 * cmp.nodes(level + 1) - 1))?;
        let (plan, one, wide) = (Level::new(cmp, level), flag(one), words as u64);
        let args = Args::out(&out)?.buf(wires)?.buf(opened)?.buf(masks)?.buf(products)?;
        let grid = words_by(words, cmp.groups(level).count());
        self.launch("tree_level", grid, &args.value(&plan).value(&one).value(&wide))?;
        Ok(out)
    }
    pub(crate) fn outliers(&self, table: &Buf<D, u64>, b: &Buf<D, u64>, first: bool) -> Result<Buf<D, u64>> {
        let words = b.len / 3;
        assert!(table.len == 7 * words && b.len == 3 * words, "seven thermometer planes and three of bits");
        let (out, whole, wide) = (self.room(words)?, flag(first), words as u64);
        let args = Args::out(&out)?.buf(table)?.buf(b)?.value(&whole).value(&wide);
        self.launch("outliers", each(words), &args)?;
        Ok(out)
    }
    /// The lanes of all runs of a plane's hash.
    pub(crate) fn polynomial(&self, plane: &Buf<D, u64>, within: &Range<usize>, hash: &Hash) -> Result<Buf<D, u64>> {
        assert!(within.end.div_ceil(64) <= plane.len, "elements of the plane");
        let (out, multiples) = (self.room(LANES * hash.runs)?, hash.point.multiples());
        let [first, end, runs, run] = &[within.start, within.end, hash.runs, hash.run].map(|v| v as u64);
        let args = Args::out(&out)?.buf(plane)?.value(&multiples).value(first).value(end).value(runs).value(run);
        self.launch("polynomial", each(LANES * hash.runs), &args)?;
        Ok(out)
    }
}
