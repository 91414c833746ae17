//! Every operation gives the bytes that the processor's gives: over random sizes, geometries, plans and slices.
//!
//! On OpenCL, where it is installed (`SORDINO_REQUIRE_OPENCL=1` makes its absence an error); on CUDA with `--ignored`.
//! `SORDINO_SMALL=1` takes few and small cases, for checkers that run a kernel's threads one by one.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sordino_gpu::{Cuda, Driver, Gpu, OpenCl};
use sordino_ring::{
    Comparison, Conv2d, Cpu, Device, IndexMap, PAD, PrgKey, Shape, WindowSum, Word, ZipOp, packed_words,
};
use std::sync::{Arc, LazyLock};

fn small() -> bool {
    std::env::var_os("SORDINO_SMALL").is_some()
}

/// Runs a property over random cases.
fn hold<S: Strategy>(cases: u32, cases_of: S, property: impl Fn(S::Value)) {
    let config = Config { cases: if small() { 3 } else { cases }, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&cases_of, |case| {
        property(case);
        Ok(())
    });
    assert!(ran.is_ok(), "{}", ran.unwrap_err());
}

fn words<W: Word>(seed: u8, n: usize) -> Vec<W> {
    PrgKey::new([seed; 16]).words(n)
}

/// Lengths around those of groups and words, and some beyond.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..4usize, 60..70usize, 250..260usize, 1..if small() { 300 } else { 3000usize }]
}

/// A buffer of both devices: a slice of a longer one, so that it starts anywhere.
fn both<D: Driver, W: Word>(gpu: &Gpu<D>, seed: u8, n: usize) -> (Vec<W>, <Gpu<D> as Device>::Buf<W>) {
    let skip = usize::from(seed % 5);
    let host: Vec<W> = words(seed, skip + n);
    (host[skip..].to_vec(), gpu.slice(&gpu.upload(host.clone()), skip, n))
}

fn cpu() -> Cpu {
    Cpu::new(1)
}

macro_rules! same {
    ($gpu:expr, $got:expr, $want:expr, $($what:tt)*) => {
        assert!($gpu.download($got).unwrap() == $want, $($what)*)
    };
}

fn elements<D: Driver, W: Word>(gpu: &Gpu<D>) {
    let cpu = cpu();
    hold(60, length(), |n| {
        let ((a, ga), (b, gb)) = (both::<D, W>(gpu, 1, n), both::<D, W>(gpu, 2, n));
        let ((c, gc), (d, gd)) = (both::<D, W>(gpu, 3, n), both::<D, W>(gpu, 4, n));
        for op in [ZipOp::Add, ZipOp::Sub, ZipOp::Xor] {
            same!(gpu, gpu.zip(op, &ga, &gb), cpu.zip(op, &a, &b), "{op:?} of {n}");
        }
        same!(gpu, gpu.hadamard(&ga, &gb), cpu.hadamard(&a, &b), "hadamard of {n}");
        same!(gpu, gpu.product([&ga, &gb], [&gc, &gd]), cpu.product([&a, &b], [&c, &d]), "product of {n}");
        let [mul, add] = [W::from_i64(-7), W::from_i64(1 << 20)];
        same!(gpu, gpu.affine(&ga, mul, add), cpu.affine(&a, mul, add), "affine of {n}");
        if n > 0 {
            let ((x, gx), rows) = (both::<D, W>(gpu, 5, 3 * n), "rows");
            same!(gpu, gpu.add_rows(&gx, &ga), cpu.add_rows(&x, &a), "{rows} of {n}");
        }
        same!(gpu, gpu.copy(&ga), a, "copy of {n}");
        let (half, rest) = (n / 2, n - n / 2);
        same!(gpu, gpu.slice(&ga, half, rest), a[half..].to_vec(), "slice of {n}");
        same!(
            gpu,
            gpu.join(vec![gpu.copy(&ga), gpu.slice(&gb, 0, half)]),
            [&a[..], &b[..half]].concat(),
            "join of {n}"
        );
        let (e, ge) = both::<D, u64>(gpu, 6, n.div_ceil(64));
        same!(gpu, gpu.expand::<W>(&ge, n), cpu.expand::<W>(&e, n), "expand of {n}");
        same!(gpu, gpu.select(&ge, &ga, &gb, &gc, &gd), cpu.select(&e, &a, &b, &c, &d), "select of {n}");
        for (from, to) in [(0, W::BITS), (3, 17), (W::BITS - 3, W::BITS)] {
            // Beyond the last element, words of the processor's planes hold what they hold: both hold zeros.
            same!(gpu, gpu.planes(&ga, from, to), cpu.planes(&a, from, to), "planes {from} to {to} of {n}");
        }
        let key = PrgKey::new([9; 16]);
        same!(gpu, gpu.random::<W>(&key, n), cpu.random::<W>(&key, n), "stream of {n}");
        for start in [1, 2, 3, 7, 1000] {
            same!(gpu, gpu.random_from::<W>(&key, start, n), cpu.random_from::<W>(&key, start, n), "{n} from {start}");
        }
    });
}

fn packing<D: Driver, W: Word>(gpu: &Gpu<D>) {
    let cpu = cpu();
    hold(60, (length(), 1..=W::BITS), |(n, bits)| {
        let (a, ga) = both::<D, W>(gpu, 1, n);
        let packed = cpu.pack(&a, bits).unwrap();
        assert!(gpu.pack(&ga, bits).unwrap() == packed, "pack {n} of {bits} bits");
        assert_eq!(packed.len(), packed_words(n, bits));
        same!(gpu, gpu.unpack::<W>(&packed, n, bits), cpu.unpack::<W>(&packed, n, bits), "unpack {n} of {bits} bits");
        // Words that are missing are zero.
        let short = &packed[..packed.len() / 2];
        same!(gpu, gpu.unpack::<W>(short, n, bits), cpu.unpack::<W>(short, n, bits), "too few words for {n}");
    });
}

fn indices<D: Driver, W: Word>(gpu: &Gpu<D>) {
    let cpu = cpu();
    hold(40, (1..400usize, length()), |(n, out)| {
        let (a, ga) = both::<D, W>(gpu, 1, n);
        let places = words::<u32>(7, out).into_iter().map(|p| if p % 5 == 0 { PAD } else { p % n as u32 });
        let map = IndexMap { source: Arc::new(places.collect()), shape: Shape::new(&[out]) };
        for fill in [W::zeroed(), W::from_i64(-3)] {
            same!(gpu, gpu.gather(&ga, &map, fill), cpu.gather(&a, &map, fill), "gather {out} of {n}");
        }
        let (outer, widths) = (n % 7 + 1, [n % 3, n % 4 + 1, 2]);
        let parts: Vec<_> = widths.iter().zip(2..).map(|(w, s)| both::<D, W>(gpu, s, outer * w)).collect();
        let of = |i: usize| (&parts[i].0, &parts[i].1);
        let [(p, gp), (q, gq), (r, gr)] = [of(0), of(1), of(2)];
        same!(
            gpu,
            gpu.concat(&[gp, gq, gr], outer, &widths),
            cpu.concat(&[p, q, r], outer, &widths),
            "concat {widths:?}"
        );
    });
    hold(40, geometry(), |op| {
        let op = Conv2d { cout: op.cin, groups: op.cin, ..op };
        let (x, gx) = both::<D, W>(gpu, 1, op.input().len());
        same!(gpu, gpu.window_sum(&gx, &WindowSum(op)), cpu.window_sum(&x, &WindowSum(op)), "windows {op:?}");
    });
}

fn widths<D: Driver>(gpu: &Gpu<D>) {
    let cpu = cpu();
    hold(60, (length(), 1..=64u32, 0..64u32, 1..=32u32), |(n, bits, shift, narrow)| {
        let (x, gx) = both::<D, u64>(gpu, 1, n);
        same!(gpu, gpu.low(&gx), cpu.low(&x), "low of {n}");
        let shift = shift % bits;
        let ((p, gp), (m, gm)) = (both::<D, u32>(gpu, 2, n), both::<D, u32>(gpu, 3, n));
        same!(
            gpu,
            gpu.truncate(&gx, 12345, bits, shift, &gp, &gm),
            cpu.truncate(&x, 12345, bits, shift, &p, &m),
            "truncate {n} of {bits} bits by {shift}"
        );
        let [(k, gk), (o, go), (e, ge)] = [4, 5, 6].map(|s| both::<D, u64>(gpu, s, n.div_ceil(64)));
        for first in [false, true] {
            same!(
                gpu,
                gpu.widen(&gp, narrow, first, &gk, &go, &ge, &gm),
                cpu.widen(&p, narrow, first, &k, &o, &e, &m),
                "widen {n} of {narrow} bits"
            );
        }
        same!(gpu, gpu.and(&gk, &go), cpu.and(&k, &o), "and");
    });
}

/// Convolutions of every kind: groups, depthwise, one pixel, fully connected, more channels than a tile has.
fn geometry() -> impl Strategy<Value = Conv2d> {
    let pair = |r: std::ops::Range<usize>| [r.clone(), r].prop_map(|v| v);
    let (most, many): (usize, usize) = if small() { (6, 20) } else { (17, 90) };
    let pads = [0..3usize, 0..3, 0..3, 0..3];
    let channels = prop_oneof![4 => (1..6usize, 1..20usize), 1 => (1..many, 1..many)];
    (1..4usize, pair(1..most), channels, pair(1..4), pair(1..4), pair(1..3), 0..5usize, pads)
        .prop_map(|(n, [h, w], (ci, co), kernel, stride, dilation, g, pad)| {
            let (groups, ci, co) = match g {
                0 => (2, ci, co),
                1 => (co + 1, 1, 1),
                _ => (1, ci, co),
            };
            Conv2d { n, h, w, cin: ci * groups, cout: co * groups, kernel, stride, dilation, pad, groups }
        })
        .prop_filter("fits", |op| op.check().is_ok())
}

/// Products so deep, of so few outputs, that they are added up in parts.
fn deep() -> impl Strategy<Value = Conv2d> {
    (1..4usize, 300..1500usize, 1..80usize).prop_map(|(m, k, n)| Conv2d::matmul(m, k, n))
}

fn products<D: Driver>(gpu: &Gpu<D>) {
    let cpu = cpu();
    hold(if small() { 3 } else { 150 }, prop_oneof![5 => geometry(), 1 => deep()], |op| {
        let [(x0, gx0), (x1, gx1)] = [1, 2].map(|s| both::<D, u64>(gpu, s, op.input().len()));
        let [(w0, gw0), (w1, gw1)] = [3, 4].map(|s| both::<D, u64>(gpu, s, op.weight().len()));
        for gain in [false, true] {
            let (panel, on_card) = (cpu.prepare(&w0, &w1, &op, gain), gpu.prepare(&gw0, &gw1, &op, gain));
            same!(gpu, gpu.linear(&gx0, &gx1, &on_card, &op), cpu.linear(&x0, &x1, &panel, &op), "{op:?}");
        }
        let [(y0, gy0), (y1, gy1)] = [5, 6].map(|s| both::<D, u64>(gpu, s, op.output().len()));
        same!(
            gpu,
            gpu.weight_gradient([&gx0, &gx1], [&gy0, &gy1], &op),
            cpu.weight_gradient([&x0, &x1], [&y0, &y1], &op),
            "gradient {op:?}"
        );
        if op.kernel == [1, 1] && op.h == 1 && op.groups == 1 {
            same!(
                gpu,
                gpu.full([&gx0, &gx1], [&gw0, &gw1], op.cin),
                cpu.full([&x0, &x1], [&w0, &w1], op.cin),
                "full {op:?}"
            );
        }
    });
    // Winograd's gain, and the deepest of parts.
    let op = Conv2d {
        n: 2,
        h: if small() { 14 } else { 20 },
        w: 14,
        cin: 16,
        cout: 17,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [1; 4],
        groups: 1,
    };
    assert_eq!(op.gain(), 4);
    let [(x0, gx0), (x1, gx1)] = [1, 2].map(|s| both::<D, u64>(gpu, s, op.input().len()));
    let [(w0, gw0), (w1, gw1)] = [3, 4].map(|s| both::<D, u64>(gpu, s, op.weight().len()));
    let got = gpu.linear(&gx0, &gx1, &gpu.prepare(&gw0, &gw1, &op, true), &op);
    same!(gpu, got, cpu.linear(&x0, &x1, &cpu.prepare(&w0, &w1, &op, true), &op), "with a gain");
    // The largest of geometries, whose padding the processor would write out: one tap meets one element.
    let op = Conv2d {
        n: 1,
        h: 1000,
        w: 1,
        cin: 1,
        cout: 1,
        kernel: [2, 1],
        stride: [1 << 31, 1],
        dilation: [1 << 30, 1],
        pad: [1 << 30, 0, 0, 0],
        groups: 1,
    };
    assert!(op.check().is_ok() && op.output().len() == 1);
    let [(x0, gx0), (x1, gx1)] = [1, 2].map(|s| both::<D, u64>(gpu, s, 1000));
    let [(w0, gw0), (w1, gw1)] = [3, 4].map(|s| both::<D, u64>(gpu, s, 2));
    let want = x0[0].wrapping_mul(w0[1].wrapping_add(w1[1])).wrapping_add(x1[0].wrapping_mul(w0[1]));
    same!(gpu, gpu.linear(&gx0, &gx1, &gpu.prepare(&gw0, &gw1, &op, false), &op), [want], "far padding");
}

fn comparisons<D: Driver>(gpu: &Gpu<D>) {
    let cpu = cpu();
    let sizes: &[usize] = if small() { &[70] } else { &[1, 64, 65, 700, 17_000] };
    for bits in 1..=64 {
        let cmp = Comparison::new(bits);
        if small() && ![1, 3, 20, 31, 64].contains(&bits) {
            continue;
        }
        for &n in sizes {
            let w = n.div_ceil(64);
            let ((a, ga), (b, gb)) =
                (both::<D, u64>(gpu, 1, w * bits as usize), both::<D, u64>(gpu, 2, w * bits as usize));
            same!(gpu, gpu.thermometer(&ga, &cmp), cpu.thermometer(&a, &cmp), "thermometer {bits}, {n}");
            let (t, gt) = both::<D, u64>(gpu, 3, w * cmp.leaf_planes());
            for one in [false, true] {
                let (mut wires, mut on_card) = (cpu.leaves(&t, &b, &cmp, one), gpu.leaves(&gt, &gb, &cmp, one));
                same!(gpu, gpu.copy(&on_card), wires, "leaves {bits}, {n}");
                for level in 0..cmp.levels() {
                    let inputs = cpu.tree_inputs(&wires, &cmp, level);
                    same!(gpu, gpu.tree_inputs(&on_card, &cmp, level), inputs, "inputs {bits}, {n}, {level}");
                    let ((o, go), (m, gm)) =
                        (both::<D, u64>(gpu, 4, inputs.len()), both::<D, u64>(gpu, 5, inputs.len()));
                    let (p, gp) = (cpu.mask_products(&m, &cmp, level), gpu.mask_products(&gm, &cmp, level));
                    same!(gpu, gpu.copy(&gp), p, "products {bits}, {n}, {level}");
                    wires = cpu.tree_level(&wires, &o, &m, &p, &cmp, level, one);
                    on_card = gpu.tree_level(&on_card, &go, &gm, &gp, &cmp, level, one);
                    same!(gpu, gpu.copy(&on_card), wires, "level {bits}, {n}, {level}");
                }
            }
        }
    }
}

fn watching<D: Driver>(gpu: &Gpu<D>) {
    let cpu = cpu();
    let most: usize = if small() { 700 } else { 300_000 };
    hold(30, (1..most, any::<u64>(), 0..most, 0..most), |(n, point, i, j)| {
        let w = n.div_ceil(64);
        let ((t, gt), (b, gb)) = (both::<D, u64>(gpu, 1, 7 * w), both::<D, u64>(gpu, 2, 3 * w));
        for first in [false, true] {
            let (flags, on_card) = (cpu.outliers(&t, &b, first), gpu.outliers(&gt, &gb, first));
            same!(gpu, gpu.copy(&on_card), flags, "outliers of {n}");
            let some = i.min(j).min(n)..i.max(j).min(n);
            for within in [0..n, some] {
                let (want, got) =
                    (cpu.polynomial(&flags, within.clone(), point), gpu.polynomial(&on_card, within.clone(), point));
                assert_eq!(got.unwrap(), want.unwrap(), "hash of {n} within {within:?}");
            }
        }
    });
}

/// A device that fails says so once and for all, and gives nothing away.
fn failing<D: Driver>(gpu: &Gpu<D>) {
    let some = gpu.upload(words::<u64>(1, 1000));
    let much = gpu.random::<u64>(&PrgKey::new([1; 16]), 1 << 17);
    let e = gpu.download(much).unwrap_err();
    assert!(e.to_string().contains("65536 are allowed"), "{e}");
    // What worked before fails from now on.
    let sum = gpu.zip(ZipOp::Add, &some, &some);
    assert_eq!(gpu.len(&sum), 1000);
    assert_eq!(gpu.download(sum), Err(e.clone()));
    assert_eq!(gpu.pack(&some, 5), Err(e.clone()));
    assert_eq!(gpu.polynomial(&some, 0..10, 7), Err(e));
}

/// Blocks that are let go are used again: a thousand buffers fit where three do.
fn memory<D: Driver>(gpu: &Gpu<D>) {
    let mut x = gpu.upload(words::<u64>(1, 1000));
    let one = gpu.upload(vec![1u64; 1000]);
    for _ in 0..1000 {
        x = gpu.zip(ZipOp::Add, &x, &one);
    }
    let want: Vec<u64> = words::<u64>(1, 1000).iter().map(|v| v.wrapping_add(1000)).collect();
    assert!(gpu.download(x).unwrap() == want);
    // Another size needs room that only what is not in use gives.
    let y = gpu.upload(words::<u64>(2, 6000));
    assert!(gpu.download(y).unwrap() == words::<u64>(2, 6000));
}

/// The OpenCL device, where there is one.
static OPENCL: LazyLock<Option<Gpu<OpenCl>>> = LazyLock::new(|| opencl(None));

fn opencl(cap: Option<usize>) -> Option<Gpu<OpenCl>> {
    match OpenCl::new(0).and_then(|d| Gpu::new(d, cap)) {
        Ok(gpu) => Some(gpu),
        Err(e) if std::env::var_os("SORDINO_REQUIRE_OPENCL").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

static CUDA: LazyLock<Option<Gpu<Cuda>>> = LazyLock::new(|| cuda(None));

fn cuda(cap: Option<usize>) -> Option<Gpu<Cuda>> {
    Some(Gpu::new(Cuda::new(0).unwrap(), cap).unwrap())
}

macro_rules! suite {
    ($name:ident, $device:ident, $open:ident $(, $ignore:meta)?) => {
        mod $name {
            use super::*;
            suite!(@ $device $(, $ignore)?;
                elements_narrow: elements::<_, u32>, elements_wide: elements::<_, u64>,
                packing_narrow: packing::<_, u32>, packing_wide: packing::<_, u64>,
                indices_narrow: indices::<_, u32>, indices_wide: indices::<_, u64>,
                between_widths: widths::<_>, linear_layers: products::<_>,
                every_plan_of_comparison: comparisons::<_>, outliers_and_their_hash: watching::<_>
            );
            #[test]
            $(#[$ignore])?
            fn failure_is_kept() {
                if let Some(gpu) = $open(Some(65536)) { failing(&gpu) }
            }
            #[test]
            $(#[$ignore])?
            fn memory_is_used_again() {
                if let Some(gpu) = $open(Some(65536)) { memory(&gpu) }
            }
        }
    };
    (@ $device:ident; $($test:ident: $what:expr),*) => {
        $(#[test]
        fn $test() {
            if let Some(gpu) = &*$device { $what(gpu) }
        })*
    };
    (@ $device:ident, $ignore:meta; $($test:ident: $what:expr),*) => {
        $(#[test]
        #[$ignore]
        fn $test() {
            if let Some(gpu) = &*$device { $what(gpu) }
        })*
    };
}

suite!(on_opencl, OPENCL, opencl);
suite!(on_cuda, CUDA, cuda, ignore = "needs a card of NVIDIA's");

#[test]
fn what_is_not_there_is_said() {
    if let Ok(all) = OpenCl::list() {
        let e = OpenCl::new(all.len()).err().unwrap().to_string();
        assert!(
            e.contains(&format!("there is no OpenCL device {}: of this kind there are {}", all.len(), all.len())),
            "{e}"
        );
    }
    match Cuda::list() {
        Ok(all) => assert!(Cuda::new(all.len()).is_err()),
        // Says what is missing, and does not panic.
        Err(e) => {
            let e = e.to_string();
            assert!(e.contains("NVIDIA's driver") || e.contains("CUDA"), "{e}");
            assert!(Cuda::new(0).is_err());
        }
    }
}
