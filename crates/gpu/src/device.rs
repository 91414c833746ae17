//! The device: every operation by its kernels. Knows no vendor.

use crate::driver::{Driver, Error, Result};
use crate::kernels::Queue;
use crate::memory::{Buf, Pool};
use crate::plans::Hash;
use crate::table;
use sordino_ring::{Comparison, Conv2d, Device, DeviceError, IndexMap, PAD, PrgKey, WindowSum, Word, ZipOp};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A device behind a driver.
pub struct Gpu<D: Driver> {
    queue: Queue<D>,
    /// The table of AES's rounds.
    table: Buf<D, u32>,
    /// Copies of public maps that are still in use, by where the host has them.
    maps: Mutex<HashMap<usize, Kept<D>>>,
}

/// A map as the device has it.
struct Kept<D: Driver> {
    /// As the host has it: another map may come to lie where this one was.
    host: Weak<Vec<u32>>,
    /// Its places are below.
    bound: usize,
    places: Places<D>,
}

enum Places<D: Driver> {
    /// A run of elements in order, from this one on: a slice, which costs nothing.
    Run(usize),
    Any(Arc<Buf<D, u32>>),
}

impl<D: Driver> Clone for Places<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Run(start) => Self::Run(*start),
            Self::Any(copy) => Self::Any(Arc::clone(copy)),
        }
    }
}

/// Weights prepared for convolutions; empty on a device that failed.
pub struct Panel<D: Driver>(Buf<D, u64>);

fn told(e: &Error) -> DeviceError {
    DeviceError(e.to_string())
}

impl<D: Driver> Gpu<D> {
    /// A device that holds at most `cap` bytes of the card's memory.
    ///
    /// # Errors
    /// When the driver fails at once.
    pub fn new(driver: D, cap: Option<usize>) -> Result<Self> {
        let queue = Queue(Arc::new(Pool::new(driver, cap)));
        let table = queue.upload(&table::columns())?;
        Ok(Self { queue, table, maps: Mutex::default() })
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.queue.0.driver
    }

    /// The result of an operation, or what says that the device failed.
    fn run<W: Word>(&self, len: usize, work: impl FnOnce(&Queue<D>) -> Result<Buf<D, W>>) -> Buf<D, W> {
        self.attempt(work).unwrap_or_else(|_| Buf::new(None, 0, len))
    }

    /// Work on a device that has not failed; its failure is kept.
    fn attempt<T>(&self, work: impl FnOnce(&Queue<D>) -> Result<T>) -> std::result::Result<T, DeviceError> {
        let pool = &self.queue.0;
        if let Some(e) = pool.failure() {
            return Err(told(e));
        }
        work(&self.queue).map_err(|e| {
            pool.fail(e);
            pool.failure().map_or_else(|| DeviceError("the device failed".into()), told)
        })
    }

    /// The device's copy of a map of `n` elements.
    fn places(&self, map: &IndexMap, n: usize) -> Result<Places<D>> {
        let key = Arc::as_ptr(&map.source) as usize;
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |k: &&Kept<D>| k.host.upgrade().is_some_and(|host| Arc::ptr_eq(&host, &map.source));
        if let Some(kept) = maps.get(&key).filter(same) {
            assert!(kept.bound <= n, "a map's places are within its operand");
            return Ok(kept.places.clone());
        }
        let bound = map.source.iter().filter(|s| **s != PAD).max().map_or(0, |s| *s as usize + 1);
        assert!(bound <= n, "a map's places are within its operand");
        let start = map.source.first().map_or(0, |s| *s as usize);
        let run = bound > 0 && map.source.iter().enumerate().all(|(i, s)| *s as usize == start + i);
        let places = if run { Places::Run(start) } else { Places::Any(Arc::new(self.queue.upload(&map.source)?)) };
        maps.retain(|_, kept| kept.host.strong_count() > 0);
        maps.insert(key, Kept { host: Arc::downgrade(&map.source), bound, places: places.clone() });
        Ok(places)
    }
}

impl<D: Driver> Device for Gpu<D> {
    type Buf<W: Word> = Buf<D, W>;
    type Panel = Panel<D>;

    fn upload<W: Word>(&self, host: Vec<W>) -> Buf<D, W> {
        self.run(host.len(), |q| q.upload(&host))
    }
    fn download<W: Word>(&self, buf: Buf<D, W>) -> std::result::Result<Vec<W>, DeviceError> {
        self.attempt(|q| q.download(&buf))
    }
    fn len<W: Word>(&self, buf: &Buf<D, W>) -> usize {
        buf.len
    }
    fn copy<W: Word>(&self, buf: &Buf<D, W>) -> Buf<D, W> {
        buf.part(0, buf.len)
    }
    fn slice<W: Word>(&self, buf: &Buf<D, W>, start: usize, len: usize) -> Buf<D, W> {
        buf.part(start, len)
    }
    fn join<W: Word>(&self, parts: Vec<Buf<D, W>>) -> Buf<D, W> {
        let widths: Vec<usize> = parts.iter().map(|p| p.len).collect();
        self.concat(&parts.iter().collect::<Vec<_>>(), 1, &widths)
    }
    fn random<W: Word>(&self, key: &PrgKey, n: usize) -> Buf<D, W> {
        self.random_from(key, 0, n)
    }
    fn random_from<W: Word>(&self, key: &PrgKey, start: usize, n: usize) -> Buf<D, W> {
        self.run(n, |q| q.keystream(&self.table, key, start, n))
    }

    fn zip<W: Word>(&self, op: ZipOp, a: &Buf<D, W>, b: &Buf<D, W>) -> Buf<D, W> {
        self.run(a.len, |q| q.zip(op, a, b))
    }
    fn add_rows<W: Word>(&self, x: &Buf<D, W>, row: &Buf<D, W>) -> Buf<D, W> {
        self.run(x.len, |q| q.add_rows(x, row))
    }
    fn affine<W: Word>(&self, x: &Buf<D, W>, mul: W, add: W) -> Buf<D, W> {
        self.run(x.len, |q| q.affine(x, mul, add))
    }
    fn hadamard<W: Word>(&self, a: &Buf<D, W>, b: &Buf<D, W>) -> Buf<D, W> {
        self.run(a.len, |q| q.hadamard(a, b))
    }
    fn product<W: Word>(&self, x: [&Buf<D, W>; 2], y: [&Buf<D, W>; 2]) -> Buf<D, W> {
        self.run(x[0].len, |q| q.product(x, y))
    }
    fn gather<W: Word>(&self, x: &Buf<D, W>, map: &IndexMap, fill: W) -> Buf<D, W> {
        self.run(map.source.len(), |q| match self.places(map, x.len)? {
            Places::Run(start) => Ok(x.part(start, map.source.len())),
            Places::Any(copy) => q.gather(x, &copy, fill),
        })
    }
    fn concat<W: Word>(&self, parts: &[&Buf<D, W>], outer: usize, widths: &[usize]) -> Buf<D, W> {
        self.run(outer * widths.iter().sum::<usize>(), |q| q.rows(parts, outer, widths))
    }
    fn window_sum<W: Word>(&self, x: &Buf<D, W>, windows: &WindowSum) -> Buf<D, W> {
        self.run(windows.0.output().len(), |q| q.window_sum(x, &windows.0))
    }

    fn low(&self, x: &Buf<D, u64>) -> Buf<D, u32> {
        self.run(x.len, |q| q.low(x))
    }
    fn pack<W: Word>(&self, x: &Buf<D, W>, bits: u32) -> std::result::Result<Vec<u64>, DeviceError> {
        self.attempt(|q| q.download(&q.pack(x, bits)?))
    }
    fn unpack<W: Word>(&self, words: &[u64], n: usize, bits: u32) -> Buf<D, W> {
        self.run(n, |q| q.unpack(&q.upload(words)?, n, bits))
    }
    fn truncate(
        &self,
        x: &Buf<D, u64>,
        add: u64,
        bits: u32,
        shift: u32,
        plus: &Buf<D, u32>,
        minus: &Buf<D, u32>,
    ) -> Buf<D, u32> {
        self.run(x.len, |q| q.truncate(x, add, bits, shift, [plus, minus]))
    }

    fn prepare(&self, w0: &Buf<D, u64>, w1: &Buf<D, u64>, op: &Conv2d, gain: bool) -> Panel<D> {
        let gain = if gain { op.gain() } else { 1 };
        Panel(self.run(2 * op.weight().len(), |q| q.prepare([w0, w1], op, gain)))
    }
    fn linear(&self, x0: &Buf<D, u64>, x1: &Buf<D, u64>, panel: &Panel<D>, op: &Conv2d) -> Buf<D, u64> {
        self.run(op.output().len(), |q| {
            if op.is_depthwise() { q.depthwise([x0, x1], &panel.0, op) } else { q.linear([x0, x1], &panel.0, op) }
        })
    }
    fn full(&self, x: [&Buf<D, u64>; 2], w: [&Buf<D, u64>; 2], depth: usize) -> Buf<D, u64> {
        self.run(x[0].len / depth * (w[0].len / depth), |q| q.full(x, w, depth))
    }
    fn weight_gradient(&self, x: [&Buf<D, u64>; 2], dy: [&Buf<D, u64>; 2], op: &Conv2d) -> Buf<D, u64> {
        self.run(op.weight().len(), |q| q.gradient(x, dy, op))
    }

    fn planes<W: Word>(&self, x: &Buf<D, W>, from: u32, to: u32) -> Buf<D, u64> {
        self.run(x.len.div_ceil(64) * (to - from) as usize, |q| q.planes(x, from, to))
    }
    fn expand<W: Word>(&self, plane: &Buf<D, u64>, n: usize) -> Buf<D, W> {
        self.run(n, |q| q.expand(plane, n))
    }
    fn and(&self, a: &Buf<D, u64>, b: &Buf<D, u64>) -> Buf<D, u64> {
        self.run(a.len, |q| q.conjunction(a, b))
    }
    fn thermometer(&self, planes: &Buf<D, u64>, cmp: &Comparison) -> Buf<D, u64> {
        let words = planes.len / cmp.bits() as usize;
        self.run(words * cmp.leaf_planes(), |q| q.thermometer(planes, cmp))
    }
    fn leaves(&self, shares: &Buf<D, u64>, planes: &Buf<D, u64>, cmp: &Comparison, one: bool) -> Buf<D, u64> {
        let words = planes.len / cmp.bits() as usize;
        self.run(words * (2 * cmp.chunks().len() - 1), |q| q.leaves(shares, planes, cmp, one))
    }
    fn outliers(&self, table: &Buf<D, u64>, b: &Buf<D, u64>, first: bool) -> Buf<D, u64> {
        self.run(b.len / 3, |q| q.outliers(table, b, first))
    }
    fn polynomial(
        &self,
        plane: &Buf<D, u64>,
        within: Range<usize>,
        point: u64,
    ) -> std::result::Result<u64, DeviceError> {
        self.attempt(|q| {
            if within.is_empty() {
                return Ok(0);
            }
            let hash = Hash::new(within.end.div_ceil(64) - within.start / 64, point);
            Ok(hash.joined(&q.download(&q.polynomial(plane, &within, &hash)?)?))
        })
    }
    fn mask_products(&self, masks: &Buf<D, u64>, cmp: &Comparison, level: usize) -> Buf<D, u64> {
        let words = masks.len / cmp.opened(level).max(1);
        self.run(words * cmp.products(level), |q| q.mask_products(masks, cmp, level))
    }
    fn tree_inputs(&self, wires: &Buf<D, u64>, cmp: &Comparison, level: usize) -> Buf<D, u64> {
        let words = wires.len / (2 * cmp.nodes(level) - 1);
        self.run(words * cmp.opened(level), |q| q.tree_inputs(wires, cmp, level))
    }
    fn tree_level(
        &self,
        wires: &Buf<D, u64>,
        opened: &Buf<D, u64>,
        masks: &Buf<D, u64>,
        products: &Buf<D, u64>,
        cmp: &Comparison,
        level: usize,
        one: bool,
    ) -> Buf<D, u64> {
        let words = wires.len / (2 * cmp.nodes(level) - 1);
        self.run(words * (2 * cmp.nodes(level + 1) - 1), |q| {
            q.tree_level(wires, [opened, masks, products], cmp, level, one)
        })
    }
    fn select<W: Word>(
        &self,
        e: &Buf<D, u64>,
        x: &Buf<D, W>,
        b: &Buf<D, W>,
        r: &Buf<D, W>,
        q: &Buf<D, W>,
    ) -> Buf<D, W> {
        self.run(x.len, |queue| queue.select(e, [x, b, r, q]))
    }
    fn widen(
        &self,
        y: &Buf<D, u32>,
        bits: u32,
        first: bool,
        keep: &Buf<D, u64>,
        own: &Buf<D, u64>,
        opened: &Buf<D, u64>,
        product: &Buf<D, u32>,
    ) -> Buf<D, u64> {
        self.run(y.len, |q| q.widen(y, bits, first, [keep, own, opened], product))
    }
}
