//! Every operation, over every size class: the three servers compute what the oracle computes, and send exactly what
//! they declare.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Clear, Local, Plan, Protocol, Result, Role, Settings, Step, Width};
use sordino_ring::{Conv2d, Cpu, IndexMap, PAD, Shape, WindowSum};
use sordino_testkit::cards::mixtures;
use sordino_testkit::transcript::hashes;
use sordino_testkit::{Job, World, integers};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Input,
    Linear {
        shift: u32,
    },
    TwoTerms,
    /// A convolution with a gain, plus one without, plus a bias.
    Gain {
        shift: u32,
    },
    Mul {
        shift: u32,
    },
    Truncate {
        shift: u32,
    },
    Msb,
    /// Functions that are constant between thresholds.
    Piecewise {
        thresholds: usize,
        functions: usize,
    },
    Relu(Width),
    /// The kept bit of a ReLU selects from another tensor.
    Select(Width),
    /// A large fully connected layer for few rows, twice with the same weights.
    Full,
    /// A linear layer with computed weights.
    Packed,
    /// The gradient of the weights of a strided convolution.
    WeightGradient {
        shift: u32,
    },
    Extend,
    /// Extended, watched before; told at the end, for so many rows.
    Watched(usize),
    Max,
    Local(usize),
    Constant,
}

struct One {
    op: Op,
    n: usize,
    x: Vec<i64>,
    y: Vec<i64>,
    w: Vec<i64>,
    conv: Conv2d,
}

impl One {
    fn new(op: Op, n: usize) -> Self {
        let conv = match op {
            Op::Linear { .. } | Op::WeightGradient { .. } if n.is_multiple_of(2) => Conv2d {
                n: 1,
                h: 5,
                w: 4,
                cin: n / 2,
                cout: 3,
                kernel: [3, 2],
                stride: [2, 1],
                dilation: [1, 1],
                pad: [1, 0, 1, 1],
                groups: 1,
            },
            // Enough tiles for weights that are packed for one use, or for such as are packed once.
            Op::Gain { .. } => Conv2d {
                n: 1,
                h: if n == 2 { 32 } else { 14 },
                w: if n == 2 { 33 } else { 15 },
                cin: 16,
                cout: 18,
                kernel: [3, 3],
                stride: [1, 1],
                dilation: [1, 1],
                pad: [1; 4],
                groups: 1,
            },
            Op::Full => Conv2d::matmul(n, 1030, 1030),
            _ => Conv2d::matmul(1, n, 2 + n % 3),
        };
        // Products stay below 2^50 and, after the shift, within 30 bits.
        let narrow = matches!(
            op,
            Op::Msb
                | Op::Piecewise { .. }
                | Op::Relu(_)
                | Op::Select(_)
                | Op::Extend
                | Op::Watched(_)
                | Op::Max
                | Op::Local(_)
                | Op::Constant
                | Op::Input
        );
        let limit = if narrow { 1 << 30 } else { 1 << 22 };
        let whole = matches!(op, Op::Linear { .. } | Op::Gain { .. } | Op::Full | Op::WeightGradient { .. });
        let len = if whole { conv.input().len() } else { n };
        Self {
            op,
            n,
            x: integers(1, len, limit),
            y: integers(2, len, limit),
            w: integers(3, conv.weight().len(), 1 << 20),
            conv,
        }
    }
}

impl Job for One {
    type Out = (Width, Option<Vec<i64>>);
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let shape = Shape::new(&[self.x.len()]);
        let wide = p.input(at.child("x"), Role::DataOwner(0), Some(&self.x), &shape)?;
        let narrow = p.local(&Local::Low, &[&wide])?;
        let step = at.child("op");
        let y = match self.op {
            Op::Input => wide,
            Op::Linear { shift } => {
                let x = p.local(&Local::Reshape(self.conv.input()), &[&wide])?;
                let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv)?;
                let bias = vec![12345; self.conv.output().len()];
                let bias = p.input(at.child("b"), Role::ModelOwner, Some(&bias), &self.conv.output())?;
                p.linear(step, &[(&x, &w, self.conv)], Some(&bias), shift)?
            }
            Op::Gain { shift } => {
                assert_eq!(self.conv.gain(), 4);
                let pointwise = Conv2d { kernel: [1, 1], pad: [0; 4], ..self.conv };
                let x = p.local(&Local::Reshape(self.conv.input()), &[&wide])?;
                let w = match self.conv.gain_once() {
                    1 => p.prepare(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv)?,
                    _ => {
                        let w = p.input(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv.weight())?;
                        p.pack(&w, &self.conv)?
                    }
                };
                let v = &self.w[..pointwise.weight().len()];
                let v = p.prepare(at.child("v"), Role::ModelOwner, Some(v), &pointwise)?;
                let bias = p.constant(&vec![-98765; self.conv.output().len()], &self.conv.output(), Width::Wide);
                p.linear(step, &[(&x, &v, pointwise), (&x, &w, self.conv)], Some(&bias), shift)?
            }
            Op::Full => {
                let x = p.local(&Local::Reshape(self.conv.input()), &[&wide])?;
                let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv)?;
                let first = p.linear(step, &[(&x, &w, self.conv)], None, 25)?;
                let second = p.linear(at.child("again"), &[(&x, &w, self.conv)], None, 25)?;
                p.local(&Local::Add, &[&first, &second])?
            }
            Op::TwoTerms => {
                let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv)?;
                let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
                p.linear(step, &[(&wide, &w, self.conv), (&y, &w, self.conv)], None, 20)?
            }
            Op::Mul { shift } => {
                let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
                p.mul(step, &wide, &y, None, shift)?
            }
            Op::Select(out) => {
                let (_, bit) = p.relu_with_bit(step, &narrow, Width::Narrow)?;
                let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
                let y = p.local(&Local::Low, &[&y])?;
                let first = p.select(at.child("select"), &bit, &y, out)?;
                // A bit can be used again.
                let second = p.select(at.child("again"), &bit, &y, out)?;
                p.local(&Local::Sub, &[&p.local(&Local::Scale(2), &[&first])?, &second])?
            }
            Op::Packed => {
                let w = p.input(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv.weight())?;
                let w = p.pack(&w, &self.conv)?;
                p.linear(step, &[(&wide, &w, self.conv)], None, 20)?
            }
            Op::WeightGradient { shift } => {
                let dy = integers(4, self.conv.output().len(), 1 << 18);
                let dy = p.input(at.child("dy"), Role::DataOwner(0), Some(&dy), &self.conv.output())?;
                let bias = p.constant(&vec![-98765; self.conv.weight().len()], &self.conv.weight(), Width::Wide);
                p.weight_gradient(step, &wide, &dy, &self.conv, Some(&bias), shift)?
            }
            Op::Truncate { shift } => p.truncate(step, &wide, shift)?,
            Op::Msb => {
                let bits = p.msb(step, &narrow)?;
                let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
                p.select(at.child("select"), &bits, &p.local(&Local::Low, &[&y])?, Width::Narrow)?
            }
            Op::Piecewise { thresholds, functions } => {
                // Values themselves, where the functions step, and others.
                let threshold = |j: usize| self.x[j % self.n] >> (j % 2);
                let thresholds: Vec<i64> = (0..thresholds).map(threshold).collect();
                let weights = |k: usize| integers(6 + k as u8, thresholds.len(), 1 << 50);
                let mut functions: Vec<Vec<i64>> = (0..functions).map(weights).collect();
                functions[0].fill(0);
                p.piecewise_constant(step, &narrow, &thresholds, &functions)?
            }
            Op::Relu(width) => p.relu(step, &narrow, width)?,
            Op::Extend => p.extend(step, &narrow)?,
            Op::Watched(rows) => {
                p.watch(step, &narrow, rows)?;
                p.extend(at.child("extend"), &narrow)?
            }
            Op::Max => {
                let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
                p.max(step, &narrow, &p.local(&Local::Low, &[&y])?)?
            }
            Op::Constant => {
                let c = p.constant(&self.y, &shape, Width::Narrow);
                p.local(&Local::Sub, &[&narrow, &c])?
            }
            Op::Local(which) => {
                let n = self.n;
                let map = IndexMap {
                    source: Arc::new((0..n as u32).rev().chain([PAD]).collect()),
                    shape: Shape::new(&[n + 1]),
                };
                let windows = WindowSum(Conv2d {
                    n: 1,
                    h: 1,
                    w: n,
                    cin: 1,
                    cout: 1,
                    kernel: [1, 2],
                    stride: [1, 1],
                    dilation: [1, 1],
                    pad: [0, 1, 0, 1],
                    groups: 1,
                });
                let concat = Local::Concat { outer: n, widths: vec![1, 1], shape: Shape::new(&[n, 2]) };
                match which {
                    0 => p.local(&Local::Add, &[&wide, &wide])?,
                    1 => p.local(&Local::Scale(-3), &[&wide])?,
                    2 => p.local(&Local::Offset(7), &[&narrow])?,
                    3 => p.local(&Local::Gather(&map, -9), &[&narrow])?,
                    // A row of one element is added to all rows.
                    6 => {
                        let rows = p.local(&Local::Reshape(Shape::new(&[n, 1])), &[&wide])?;
                        let one = IndexMap { source: Arc::new(vec![0]), shape: Shape::new(&[1]) };
                        let row = p.local(&Local::Gather(&one, 0), &[&wide])?;
                        let sum = p.local(&Local::Add, &[&rows, &row])?;
                        let row = p.local(&Local::Scale(5), &[&row])?;
                        p.local(&Local::Sub, &[&sum, &row])?
                    }
                    4 => p.local(&concat, &[&wide, &wide])?,
                    _ => p.local(&Local::WindowSum(windows), &[&wide])?,
                }
            }
        };
        let width = p.width(&y);
        let y = p.verify(at.child("verify"), y)?;
        let opened = p.open(at.child("open"), y, Role::Receiver)?;
        if let Op::Watched(rows) = self.op {
            for row in 0..rows {
                assert_ne!(p.sound(at.child("sound"), [row, rows], Role::Receiver)?, Some(false));
            }
        }
        Ok((width, opened))
    }
}

fn check(op: Op, n: usize, settings: Settings) {
    check_in(op, n, World { settings, ..World::default() });
}

fn check_in(op: Op, n: usize, world: World) {
    let settings = world.settings;
    let mut job = One::new(op, n);
    for values in [&mut job.x, &mut job.y] {
        values.iter_mut().for_each(|v| *v >>= 32 - settings.narrow_bits);
    }
    let (width, want) = job.run(&Clear::new(Cpu::new(1)), Step::root([1; 16])).unwrap();
    let want = want.unwrap();
    let plan = Plan::new(settings);
    job.run(&plan, Step::root([1; 16])).unwrap();
    let (got, sent, rounds) = world.run(&job).unwrap();
    let got = got.1.unwrap();
    assert_eq!(got.len(), want.len(), "{op:?}");
    let rounding = matches!(
        op,
        Op::Linear { .. }
            | Op::TwoTerms
            | Op::Full
            | Op::Packed
            | Op::WeightGradient { .. }
            | Op::Gain { .. }
            | Op::Mul { .. }
            | Op::Truncate { .. }
    );
    let times = if matches!(op, Op::Full) { 2 } else { 1 };
    let tolerance = times * i64::from(rounding && !settings.faithful);
    for (g, w) in got.iter().zip(&want) {
        // Results are compared modulo the ring they may leave.
        let spare = 64 - settings.bits(width);
        let difference = g.wrapping_sub(*w) << spare >> spare;
        assert!(difference.abs() <= tolerance, "{op:?} n {n} {settings:?}: {g} for {w}");
    }
    assert_eq!(sent, plan.cost().sent, "bytes of {op:?} at {n}");
    assert_eq!(rounds, plan.cost().rounds, "rounds of {op:?} at {n}");
}

fn all_ops() -> Vec<Op> {
    let mut ops = vec![
        Op::Input,
        Op::Linear { shift: 20 },
        Op::Linear { shift: 32 },
        Op::TwoTerms,
        Op::Mul { shift: 20 },
        Op::Mul { shift: 32 },
        Op::Truncate { shift: 0 },
        Op::Truncate { shift: 1 },
        Op::Truncate { shift: 13 },
        Op::Msb,
        Op::Piecewise { thresholds: 1, functions: 1 },
        Op::Piecewise { thresholds: 3, functions: 4 },
        Op::Piecewise { thresholds: 9, functions: 2 },
        Op::Relu(Width::Narrow),
        Op::Relu(Width::Wide),
        Op::Select(Width::Narrow),
        Op::Select(Width::Wide),
        Op::Packed,
        Op::WeightGradient { shift: 20 },
        Op::WeightGradient { shift: 32 },
        Op::Extend,
        Op::Watched(1),
        Op::Max,
        Op::Constant,
    ];
    ops.extend((0..7).map(Op::Local));
    ops
}

#[test]
fn every_operation_equals_the_oracle_at_its_declared_cost() {
    for n in [1, 3] {
        check(Op::Full, n, Settings::default());
    }
    for n in [1, 2] {
        check(Op::Gain { shift: 20 }, n, Settings::default());
        check(Op::Gain { shift: 30 }, n, Settings::default());
    }
    for op in all_ops() {
        for n in [1, 2, 3, 10, 192, 193, 1000] {
            check(op, n, Settings::default());
        }
    }
}

/// Servers do not wait for each other to read: whatever sockets hold, short messages after long ones and long ones in both
/// directions pass.
#[test]
fn links_that_hold_four_kib_are_enough() {
    for settings in [Settings::default(), Settings { faithful: true, ..Settings::default() }] {
        for op in all_ops() {
            for n in [1000, 60_000] {
                check_in(op, n, World { settings, holds: Some(4096), ..World::default() });
            }
        }
    }
}

#[test]
fn faithful_truncation_is_exact() {
    let settings = Settings { faithful: true, ..Settings::default() };
    for n in [1, 5, 192, 1000] {
        for shift in [0, 1, 7, 20, 32] {
            check(Op::Mul { shift }, n, settings);
            check(Op::Truncate { shift }, n, settings);
        }
        check(Op::Linear { shift: 20 }, n, settings);
    }
    check(Op::Gain { shift: 24 }, 1, settings);
}

#[test]
fn other_rings() {
    for (narrow_bits, wide_bits) in [(4, 36), (20, 52), (24, 48), (28, 52), (28, 60), (31, 63), (31, 40)] {
        for faithful in [false, true] {
            let settings = Settings { narrow_bits, wide_bits, faithful, ..Settings::default() };
            let shift = settings.most_shift().min(8);
            let exact = [Op::Msb, Op::Relu(Width::Narrow), Op::Relu(Width::Wide), Op::Max, Op::Extend, Op::Input];
            check(Op::Select(Width::Wide), 194, settings);
            check(Op::Watched(1), 194, settings);
            check(Op::Watched(97), 194, settings);
            check(Op::Piecewise { thresholds: 2, functions: 3 }, 194, settings);
            check(Op::Piecewise { thresholds: 5, functions: 2 }, 194, settings);
            let rounded = [Op::Mul { shift }, Op::Truncate { shift }, Op::Linear { shift }];
            for op in exact.into_iter().chain(rounded) {
                for n in [1, 3, 193, 500] {
                    check(op, n, settings);
                }
            }
            if shift > 2 {
                check(Op::Gain { shift: shift - 2 }, 1, settings);
            }
        }
    }
}

#[test]
fn boundaries_of_the_narrow_ring() {
    struct Edges([i64; 9]);
    impl Job for Edges {
        type Out = Vec<Option<Vec<i64>>>;
        fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
            let x = p.input(at.child("x"), Role::DataOwner(0), Some(&self.0), &Shape::new(&[9]))?;
            let x = p.local(&Local::Low, &[&x])?;
            let (relu, bit) = p.relu_with_bit(at.child("relu"), &x, Width::Wide)?;
            let wide = p.extend(at.child("extend"), &x)?;
            let kept = p.select(at.child("select"), &bit, &x, Width::Wide)?;
            [relu, wide, kept]
                .into_iter()
                .map(|y| {
                    let y = p.verify(at.child("verify"), y)?;
                    p.open(at.child("open"), y, Role::Receiver)
                })
                .collect()
        }
    }
    for (narrow_bits, wide_bits) in [(32, 64), (28, 52), (24, 48), (20, 36)] {
        let settings = Settings { narrow_bits, wide_bits, ..Settings::default() };
        let top = 1i64 << (narrow_bits - 2);
        let edges = [0, 1, -1, top - 1, -top, top / 2, 5, -5, top - 2];
        for _ in 0..30 {
            let (out, ..) = World { settings, ..World::default() }.run(&Edges(edges)).unwrap();
            assert_eq!(out[0].as_deref(), Some(&edges.map(|v| v.max(0))[..]));
            assert_eq!(out[1].as_deref(), Some(&edges[..]));
            assert_eq!(out[2].as_deref(), Some(&edges.map(|v| v.max(0))[..]));
        }
    }
}

/// Three servers on cards are servers: every operation.
#[test]
fn on_cards_as_on_processors() {
    for cards in mixtures().into_iter().filter(|cards| *cards == [true; 3]) {
        check_in(Op::Full, 3, World { cards, ..World::default() });
        check_in(Op::Gain { shift: 20 }, 1, World { cards, ..World::default() });
        let faithful = Settings { faithful: true, narrow_bits: 28, wide_bits: 60, ..Settings::default() };
        for op in all_ops() {
            for n in [1, 3, 193, 1000] {
                check_in(op, n, World { cards, ..World::default() });
            }
            if !matches!(op, Op::Linear { shift: 32 } | Op::Mul { shift: 32 } | Op::WeightGradient { shift: 32 }) {
                check_in(op, 193, World { cards, settings: faithful, ..World::default() });
            }
        }
    }
}

/// From one seed follow the same bytes on every link, whatever the servers compute on.
#[test]
fn every_byte_on_the_links_is_the_same_on_cards() {
    for op in all_ops() {
        let job = One::new(op, 300);
        let seed = sordino_testkit::seed::fresh();
        let world = |cards| World { cards, seed, ..World::default() };
        let mixtures = mixtures();
        if mixtures.is_empty() {
            return;
        }
        let (want, on_processors) = hashes(world([false; 3]), &job);
        for cards in mixtures {
            let (got, on_cards) = hashes(world(cards), &job);
            assert!(got == want && on_cards == on_processors, "{op:?}, {cards:?}");
        }
    }
}
