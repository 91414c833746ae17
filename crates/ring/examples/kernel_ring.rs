//! Runs one kernel a number of times on fixed operands, for counting instructions: `kernel_ring NAME TIMES`, or `kernel_ring` for
//! the names. scripts/instructions.py runs it under valgrind.

use sordino_ring::{Comparison, Conv2d, Cpu, Device, PrgKey, Word};
use std::hint::black_box;

fn words<W: Word>(stream: u8, n: usize) -> Vec<W> {
    PrgKey::new([stream; 16]).words(n)
}

fn convolution(kernel: usize, cin: usize, cout: usize, groups: usize) -> Conv2d {
    let pad = kernel / 2;
    let (n, h, w) = (1, 16, 16);
    Conv2d { n, h, w, cin, cout, kernel: [kernel; 2], stride: [1, 1], dilation: [1, 1], pad: [pad; 4], groups }
}

/// A kernel with its operands, ready to run.
fn kernel(cpu: Cpu, name: &str) -> Option<Box<dyn Fn()>> {
    const N: usize = 1 << 14;
    const PLANE: usize = N / 64;
    let linear = |cpu: Cpu, op: Conv2d, gain: bool| -> Box<dyn Fn()> {
        let (x0, x1) = (words(1, op.input().len()), words(2, op.input().len()));
        let panel = cpu.prepare(&words(3, op.weight().len()), &words(4, op.weight().len()), &op, gain);
        Box::new(move || drop(black_box(cpu.linear(&x0, &x1, &panel, &op))))
    };
    let cmp = Comparison::new(31);
    let (a, b, c, d): (Vec<u32>, Vec<u32>, Vec<u32>, Vec<u32>) = (words(1, N), words(2, N), words(3, N), words(4, N));
    let (p, q, r): (Vec<u64>, Vec<u64>, Vec<u64>) = (words(5, PLANE), words(6, PLANE), words(7, PLANE));
    let wide: Vec<u64> = words(8, N);
    Some(match name {
        "convolution" => linear(cpu, convolution(3, 32, 32, 1), false),
        "batch" => linear(cpu, Conv2d { n: 16, h: 4, w: 4, ..convolution(3, 32, 32, 1) }, false),
        "winograd" => linear(cpu, convolution(3, 32, 32, 1), true),
        "pointwise" => linear(cpu, convolution(1, 64, 64, 1), false),
        "depthwise" => linear(cpu, convolution(3, 64, 64, 64), false),
        "weight_gradient" | "batch_gradient" => {
            let one = convolution(3, 32, 32, 1);
            let op = if name == "batch_gradient" { Conv2d { n: 16, h: 4, w: 4, ..one } } else { one };
            let (x, dy) = (op.input().len(), op.output().len());
            let (x0, x1, dy0, dy1) = (words(1, x), words(2, x), words(3, dy), words(4, dy));
            Box::new(move || drop(black_box(cpu.weight_gradient([&x0, &x1], [&dy0, &dy1], &op))))
        }
        "product" => Box::new(move || drop(black_box(cpu.product([&wide, &wide], [&wide, &wide])))),
        "truncate" => Box::new(move || drop(black_box(cpu.truncate(&wide, 7, 64, 20, &a, &b)))),
        "select" => Box::new(move || drop(black_box(cpu.select(&p, &a, &b, &c, &d)))),
        "widen" => Box::new(move || drop(black_box(cpu.widen(&a, 32, true, &p, &q, &r, &b)))),
        "expand" => Box::new(move || drop(black_box::<Vec<u64>>(cpu.expand(&p, N)))),
        "planes" => Box::new(move || drop(black_box(cpu.planes(&a, 0, 31)))),
        "thermometer" => {
            let planes = cpu.planes(&a, 0, 31);
            Box::new(move || drop(black_box(cpu.thermometer(&planes, &cmp))))
        }
        "leaves" => {
            let (planes, shares) = (cpu.planes(&a, 0, 31), words(9, PLANE * cmp.leaf_planes()));
            Box::new(move || drop(black_box(cpu.leaves(&shares, &planes, &cmp, true))))
        }
        "outliers" => {
            let (tops, table) = (cpu.planes(&a, 29, 32), words(9, PLANE * 7));
            Box::new(move || {
                let _ = black_box(cpu.polynomial(&cpu.outliers(&table, &tops, true), 0..N, 0x1234_5678_9abc_def1));
            })
        }
        "tree" => {
            let (planes, shares) = (cpu.planes(&a, 0, 31), words(9, PLANE * cmp.leaf_planes()));
            let wires = cpu.leaves(&shares, &planes, &cmp, true);
            let masks = words(10, PLANE * cmp.opened(0));
            let products = cpu.mask_products(&masks, &cmp, 0);
            let opened = cpu.tree_inputs(&wires, &cmp, 0);
            Box::new(move || drop(black_box(cpu.tree_level(&wires, &opened, &masks, &products, &cmp, 0, true))))
        }
        "pack" => Box::new(move || drop(black_box(cpu.pack(&a, 28)))),
        "unpack" => {
            let packed = cpu.pack(&a, 28).ok()?;
            Box::new(move || drop(black_box::<Vec<u32>>(cpu.unpack(&packed, N, 28))))
        }
        "masks" => Box::new(|| drop(black_box(words::<u64>(1, N)))),
        _ => return None,
    })
}

fn main() {
    let names = "convolution batch winograd pointwise depthwise weight_gradient batch_gradient product truncate select widen expand planes thermometer leaves outliers tree pack unpack masks";
    let mut arguments = std::env::args().skip(1);
    let (name, times) = (arguments.next().unwrap_or_default(), arguments.next().and_then(|t| t.parse::<u32>().ok()));
    match (kernel(Cpu::new(1), &name), times) {
        (Some(run), Some(times)) => (0..times).for_each(|_| run()),
        _ => println!("{names}"),
    }
}
