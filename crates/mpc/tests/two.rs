//! Two parties: every operation gives the oracle's integers exactly, and sends what it declares.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Clear, Kind, Local, Plan, Protocol, Result, Role, Settings, Step, Transfers, Width, two};
use sordino_ring::{Conv2d, Cpu, IndexMap, PAD, Shape};
use sordino_testkit::{Job, World, integers};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Input,
    Linear {
        shift: u32,
    },
    /// Two products, a bias, truncated.
    TwoTerms,
    /// A product that a ReLU truncates, after moves and an addition.
    Deferred {
        out: Width,
    },
    Truncate {
        shift: u32,
    },
    ReluTruncated {
        shift: u32,
        out: Width,
    },
    Msb,
    Relu(Width),
    Select(Width),
    Extend,
    Max,
}

struct One {
    op: Op,
    x: Vec<i64>,
    y: Vec<i64>,
    w: Vec<i64>,
    conv: Conv2d,
}

/// Bits of the tests' weights.
const WEIGHT_BITS: u32 = 10;

fn settings(narrow_bits: u32, wide_bits: u32) -> Settings {
    Settings { kind: Kind::Two, narrow_bits, wide_bits, weight_bits: WEIGHT_BITS, ..Settings::default() }
}

impl One {
    fn new(op: Op, n: usize, settings: Settings) -> Self {
        let conv = match op {
            Op::Linear { .. } | Op::Deferred { .. } if n.is_multiple_of(2) => Conv2d {
                h: 5,
                w: 4,
                cin: n / 2,
                cout: 3,
                kernel: [3, 2],
                stride: [2, 1],
                pad: [1, 0, 1, 1],
                ..Conv2d::matmul(1, 1, 1)
            },
            _ => Conv2d::matmul(1, n, 2 + n % 3),
        };
        let products = matches!(op, Op::Linear { .. } | Op::TwoTerms | Op::Deferred { .. });
        // Quotients fit the narrow ring, products the wide one.
        let bits = match op {
            _ if products => settings.wide_bits - WEIGHT_BITS - 8,
            Op::Truncate { shift } | Op::ReluTruncated { shift, .. } => settings.narrow_bits - 2 + shift,
            _ => settings.narrow_bits - 2,
        };
        let len = if products { conv.input().len() } else { n };
        let [x, y] = [1, 2].map(|seed| {
            let mut all = integers(seed, len, 1 << bits.min(40));
            // Small values and edges too.
            all.iter_mut().step_by(3).for_each(|v| *v %= 3);
            all
        });
        Self {
            op,
            x,
            y,
            w: integers(3, conv.weight().len(), 1 << (WEIGHT_BITS - 1))
                .iter()
                .map(|v| v.clamp(&-511, &511))
                .copied()
                .collect(),
            conv,
        }
    }
}

impl Job for One {
    type Out = (Width, Option<Vec<i64>>);
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let shape = Shape::new(&[self.x.len()]);
        let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&self.w), &self.conv)?;
        p.agree(at.child("agree"), &[])?;
        let wide = p.input(at.child("x"), Role::DataOwner(0), Some(&self.x), &shape)?;
        let other = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
        let low = |x: &P::Arith| p.local(&Local::Low, &[x]);
        let bias = p.input(
            at.child("b"),
            Role::ModelOwner,
            Some(&vec![-123; self.conv.cout]),
            &Shape::new(&[self.conv.cout]),
        )?;
        let step = at.child("op");
        let y = match self.op {
            Op::Input => wide,
            Op::Linear { shift } => p.linear(step, &[(&wide, &w, self.conv)], Some(&bias), shift)?,
            Op::TwoTerms => p.linear(step, &[(&wide, &w, self.conv), (&other, &w, self.conv)], None, 9)?,
            Op::Deferred { out } => {
                let z = p.linear_wide(step, &[(&wide, &w, self.conv)], Some(&bias))?;
                let n = self.conv.output().len();
                let flat = p.local(&Local::Reshape(Shape::new(&[n])), &[&z])?;
                let map = IndexMap { source: (0..n as u32).rev().chain([PAD]).collect(), shape: Shape::new(&[n + 1]) };
                let moved = p.local(&Local::Gather(&map, 77), &[&flat])?;
                // At the product's scale, but exact.
                let more =
                    p.input(at.child("more"), Role::DataOwner(0), Some(&vec![5 << 9; n + 1]), &Shape::new(&[n + 1]))?;
                let sum = p.local(&Local::Add, &[&moved, &more])?;
                p.relu_truncated(at.child("relu"), &sum, 9, out)?.0
            }
            Op::Truncate { shift } => p.truncate(step, &wide, shift)?,
            Op::ReluTruncated { shift, out } => p.relu_truncated(step, &wide, shift, out)?.0,
            Op::Msb => {
                let bits = p.msb(step, &low(&wide)?)?;
                p.select(at.child("select"), &bits, &low(&other)?, Width::Narrow)?
            }
            Op::Relu(out) => p.relu(step, &low(&wide)?, out)?,
            Op::Select(out) => {
                let (_, bit) = p.relu_with_bit(step, &low(&wide)?, Width::Narrow)?;
                let first = p.select(at.child("select"), &bit, &low(&other)?, out)?;
                let second = p.select(at.child("again"), &bit, &low(&other)?, out)?;
                p.local(&Local::Sub, &[&p.local(&Local::Scale(2), &[&first])?, &second])?
            }
            Op::Extend => p.extend(step, &low(&wide)?)?,
            Op::Max => {
                let [a, b] = [&wide, &other].map(low);
                p.max(step, &a?, &b?)?
            }
        };
        let width = p.width(&y);
        let y = p.verify(at.child("verify"), y)?;
        Ok((width, p.open(at.child("open"), y, Role::Receiver)?))
    }
}

fn check(op: Op, n: usize, settings: Settings) {
    let mut job = One::new(op, n, settings);
    if op == Op::Max {
        // Differences fit as well.
        [&mut job.x, &mut job.y].into_iter().flatten().for_each(|v| *v /= 2);
    }
    let clear = Clear::new(Cpu::new(1)).with(settings);
    let (width, want) = job.run(&clear, Step::root([1; 16])).unwrap();
    let plan = Plan::<two::Declared>::of(settings);
    job.run(&plan, Step::root([1; 16])).unwrap();
    let world = World { settings, ..World::default() };
    let (got, sent, rounds) = world.run(&job).unwrap();
    let spare = 64 - settings.bits(width);
    for (g, w) in got.1.unwrap().iter().zip(&want.unwrap()) {
        assert_eq!(g << spare, w << spare, "{op:?} n {n} {settings:?}");
    }
    assert_eq!(sent, plan.cost().sent, "bytes of {op:?} at {n}");
    assert_eq!(rounds, plan.cost().rounds, "rounds of {op:?} at {n}");
}

fn all_ops() -> Vec<Op> {
    let (narrow, wide) = (Width::Narrow, Width::Wide);
    let mut ops = vec![
        Op::Input,
        Op::Linear { shift: 9 },
        Op::Linear { shift: 0 },
        Op::TwoTerms,
        Op::Truncate { shift: 0 },
        Op::Truncate { shift: 1 },
        Op::Truncate { shift: 11 },
        Op::Msb,
        Op::Extend,
        Op::Max,
    ];
    for out in [narrow, wide] {
        ops.extend([Op::Deferred { out }, Op::Relu(out), Op::Select(out)]);
        ops.extend([1, 6, 12].map(|shift| Op::ReluTruncated { shift, out }));
    }
    ops
}

#[test]
fn every_operation_equals_the_oracle_at_its_declared_cost() {
    for op in all_ops() {
        for n in [1, 2, 63, 64, 130, 1000] {
            check(op, n, Settings { transfers: Transfers::Softspoken, ..settings(25, 37) });
        }
        check(op, 300, settings(25, 37));
    }
}
