//! Two parties: every operation gives the oracle's integers exactly, and sends what it declares.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{
    Clear, Costs, Kind, Linear, Local, Plan, Protocol, Result, Role, Settings, Step, Transfers, Truncation, Width, two,
};
use sordino_ring::{Conv2d, Cpu, IndexMap, PAD, Shape};
use sordino_testkit::{Job, World, integers};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Input,
    Linear {
        shift: u32,
    },
    /// A product of one of the odd geometries.
    Geometry(usize),
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
    Mul {
        shift: u32,
    },
    /// Functions that are constant between thresholds.
    Piecewise,
    /// A sign for each of so many channels.
    Flip {
        channels: usize,
    },
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

/// Groups, dilation, strides beyond the kernel, places of a kernel that meet only padding, batches.
fn odd_geometries() -> [Conv2d; 6] {
    let plain = Conv2d { h: 6, w: 5, cin: 4, cout: 6, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
    [
        Conv2d { groups: 2, n: 2, ..plain },
        Conv2d { groups: 4, cout: 4, ..plain },
        Conv2d { dilation: [2, 1], pad: [0, 2, 3, 0], ..plain },
        Conv2d { kernel: [1, 1], stride: [3, 2], pad: [0; 4], ..plain },
        Conv2d { h: 1, w: 2, pad: [2; 4], ..plain },
        Conv2d { n: 3, kernel: [2, 4], stride: [3, 1], pad: [3, 0, 0, 5], ..plain },
    ]
}

fn settings(narrow_bits: u32, wide_bits: u32) -> Settings {
    Settings { kind: Kind::Two, narrow_bits, wide_bits, weight_bits: WEIGHT_BITS, ..Settings::default() }
}

impl One {
    fn new(op: Op, n: usize, settings: Settings) -> Self {
        let conv = match op {
            Op::Geometry(i) => odd_geometries()[i],
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
        let products = matches!(op, Op::Linear { .. } | Op::Geometry(_) | Op::TwoTerms | Op::Deferred { .. });
        // Quotients fit the narrow ring, products the wide one.
        let bits = match op {
            _ if products => (settings.narrow_bits + 9).saturating_sub(WEIGHT_BITS + 10).max(2),
            Op::Truncate { shift } | Op::ReluTruncated { shift, .. } => settings.narrow_bits - 2 + shift,
            Op::Mul { shift } => (settings.narrow_bits - 2 + shift) / 2,
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
            Op::Geometry(_) => p.linear(step, &[(&wide, &w, self.conv)], Some(&bias), 9)?,
            Op::TwoTerms => p.linear(step, &[(&wide, &w, self.conv), (&other, &w, self.conv)], None, 9)?,
            Op::Deferred { out } => {
                let z = p.linear_wide(step, &[(&wide, &w, self.conv)], Some(&bias))?;
                let n = self.conv.output().len();
                let flat = p.local(&Local::Reshape(Shape::new(&[n])), &[&z])?;
                let map = IndexMap {
                    source: Arc::new((0..n as u32).rev().chain([PAD]).collect()),
                    shape: Shape::new(&[n + 1]),
                };
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
            Op::Mul { shift } => {
                let bias = p.input(at.child("bias"), Role::ModelOwner, Some(&vec![77; self.x.len()]), &shape)?;
                p.mul(step, &wide, &other, Some(&bias), shift)?
            }
            Op::Piecewise => {
                let thresholds = [self.x[0], -3, 0, self.x[self.x.len() / 2]];
                let functions = [vec![1, -2, 3, 1 << 30], vec![0, 0, -7, 5]];
                p.piecewise_constant(step, &low(&wide)?, &thresholds, &functions)?
            }
            Op::Flip { channels } => {
                let shape = Shape::new(&[self.x.len() / channels, channels]);
                let x = p.local(&Local::Reshape(shape), &[&low(&wide)?])?;
                let signs: Vec<i64> = (0..channels as i64).map(|c| 1 - 2 * ((c * 7 + 1) / 3 % 2)).collect();
                let signs = p.input(at.child("s"), Role::ModelOwner, Some(&signs), &Shape::new(&[channels]))?;
                p.flip(step, &x, &signs)?
            }
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
    check_at(op, n, settings, false);
}

/// With the strings of all transfers drawn before, if that is said.
fn check_at(op: Op, n: usize, settings: Settings, prepared: bool) {
    let mut job = One::new(op, n, settings);
    if matches!(op, Op::Max | Op::Piecewise) {
        // Differences fit as well.
        [&mut job.x, &mut job.y].into_iter().flatten().for_each(|v| *v /= 2);
    }
    let clear = Clear::new(Cpu::new(1)).with(settings);
    let (width, want) = job.run(&clear, Step::root([1; 16])).unwrap();
    let mut plan = Plan::<two::Declared>::of(settings);
    job.run(&plan, Step::root([1; 16])).unwrap();
    plan.costs().rehearsed();
    let draws = plan.costs().run().to_vec();
    if prepared {
        plan = Plan::of(settings);
        assert!(plan.costs().prepare(&draws).total() > 0 || draws.is_empty());
        plan.restart();
        job.run(&plan, Step::root([1; 16])).unwrap();
    }
    let world = World { settings, prepared: if prepared { draws } else { vec![] }, ..World::default() };
    let (got, sent, rounds) = world.run(&job).unwrap();
    let spare = 64 - settings.bits(width);
    // A truncation without its carry.
    let most = match settings.truncation {
        Truncation::Exact => 0,
        Truncation::OneBit => 1,
    };
    for (g, w) in got.1.unwrap().iter().zip(&want.unwrap()) {
        let off = g.wrapping_sub(*w) << spare >> spare;
        assert!(off.abs() <= most, "{op:?} n {n} {settings:?}: {g} for {w}");
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
        Op::Mul { shift: 10 },
        Op::Mul { shift: 0 },
        Op::Piecewise,
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
    // Drawn ahead, by the operation or before everything.
    for linear in [Linear::He, Linear::Ot] {
        let settings = Settings { linear, transfers: Transfers::Softspoken, ..settings(25, 37) };
        for op in all_ops() {
            [1, 130].into_iter().for_each(|n| check_at(op, n, settings, true));
        }
        check_at(Op::Flip { channels: 5 }, 35, settings, true);
    }
    check_at(Op::ReluTruncated { shift: 12, out: Width::Wide }, (1 << 17) + 77, settings(25, 37), true);
    for op in [Op::ReluTruncated { shift: 12, out: Width::Wide }, Op::Max] {
        check(op, 300, Settings { transfers: Transfers::Compact, ..settings(25, 37) });
    }
    for (n, channels) in [(1, 1), (3, 3), (64, 4), (130, 65), (1000, 200), (4096, 2)] {
        check(Op::Flip { channels }, n, Settings { transfers: Transfers::Softspoken, ..settings(25, 37) });
        check(Op::Flip { channels }, n, settings(16, 30));
    }
}

#[test]
fn products_by_transfers_equal_the_oracle_at_their_declared_cost() {
    for linear in [Linear::Ot, Linear::Auto, Linear::He] {
        for (n, w) in [(25, 37), (21, 32), (20, 53)] {
            let settings = Settings { linear, transfers: Transfers::Softspoken, ..settings(n, w) };
            (0..odd_geometries().len()).for_each(|i| check(Op::Geometry(i), 1, settings));
            for op in [Op::Linear { shift: 9 }, Op::TwoTerms, Op::Deferred { out: Width::Wide }] {
                [1, 2, 5, 64].into_iter().for_each(|n| check(op, n, settings));
            }
        }
    }
    // Several messages, and several batches of transfers.
    check(Op::Linear { shift: 9 }, 9001, Settings { linear: Linear::Ot, ..settings(25, 37) });
    check(Op::Linear { shift: 9 }, 9000, Settings { linear: Linear::Ot, ..settings(25, 37) });
}

#[test]
fn truncations_without_their_carry_are_off_by_a_unit_at_most() {
    for linear in [Linear::He, Linear::Ot] {
        let truncation = Truncation::OneBit;
        let settings = Settings { linear, truncation, transfers: Transfers::Softspoken, ..settings(25, 37) };
        for op in all_ops() {
            [1, 64, 130].into_iter().for_each(|n| check(op, n, settings));
        }
    }
}

/// Every pair of shares: x_0 + x_1 for all x_0 and x_1 of so many bits, and what an operation makes of each.
struct Pairs {
    bits: u32,
    op: Op,
}

impl Pairs {
    fn shares(&self) -> [Vec<i64>; 2] {
        let all = 1i64 << self.bits;
        let pair = |i: i64| (i / all, i % all);
        let (a, b) = (0..all * all).map(pair).unzip();
        [a, b]
    }
}

impl Job for Pairs {
    type Out = (Width, Option<Vec<i64>>);
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let [a, b] = self.shares();
        let shape = Shape::new(&[a.len()]);
        // The owner's share is a, the client's is b.
        let a = p.input(at.child("a"), Role::ModelOwner, Some(&a), &shape)?;
        let b = p.input(at.child("b"), Role::DataOwner(0), Some(&b), &shape)?;
        let x = p.local(&Local::Add, &[&a, &b])?;
        let low = || p.local(&Local::Low, &[&x]);
        let step = at.child("op");
        let y = match self.op {
            Op::Truncate { shift } => p.truncate(step, &x, shift)?,
            Op::ReluTruncated { shift, out } => p.relu_truncated(step, &x, shift, out)?.0,
            Op::Relu(out) => p.relu(step, &low()?, out)?,
            Op::Extend => p.extend(step, &low()?)?,
            Op::Flip { .. } => {
                // Every pair twice, once with either sign.
                let twice = p.local(
                    &Local::Concat { outer: shape.len(), widths: vec![1, 1], shape: Shape::new(&[shape.len(), 2]) },
                    &[&low()?, &low()?],
                )?;
                let signs = p.input(at.child("signs"), Role::ModelOwner, Some(&[1, -1]), &Shape::new(&[2]))?;
                p.flip(step, &twice, &signs)?
            }
            Op::Msb => {
                let bit = p.msb(step, &low()?)?;
                let one = p.constant(&vec![1; shape.len()], &shape, Width::Narrow);
                p.select(at.child("one"), &bit, &one, Width::Narrow)?
            }
            op => panic!("{op:?} is not among the operations on pairs"),
        };
        let width = p.width(&y);
        let y = p.verify(at.child("verify"), y)?;
        Ok((width, p.open(at.child("open"), y, Role::Receiver)?))
    }
}

/// What the operation means for the integer that the shares stand for, in its ring; nothing where it promises nothing.
/// A truncation is to the nearest integer, or to the one below plus so many.
fn meaning(op: Op, x: i64, settings: Settings, below: Option<i64>) -> Option<i64> {
    let within = |v: i64, bits: u32| v.unsigned_abs() < 1 << (bits - 1) || v == -(1 << (bits - 1));
    let rounded = |shift: u32| match below {
        _ if shift == 0 => x,
        Some(more) => (x >> shift) + more,
        None => (x + (1 << (shift - 1))) >> shift,
    };
    let n = settings.narrow_bits;
    match op {
        Op::Truncate { shift } => within(rounded(shift), n).then(|| rounded(shift)),
        Op::ReluTruncated { shift, .. } => within(rounded(shift), n).then(|| rounded(shift).max(0)),
        Op::Relu(_) => Some(x.max(0)),
        Op::Extend => within(x, n - 1).then_some(x),
        _ => Some(i64::from(x < 0)),
    }
}

#[test]
fn every_pair_of_shares_at_small_widths() {
    let (narrow, wide) = (Width::Narrow, Width::Wide);
    let rings = [(4, 4), (4, 6), (5, 8), (6, 9), (4, 9)];
    let all = rings.into_iter().flat_map(|rings| [Truncation::Exact, Truncation::OneBit].map(|t| (rings, t)));
    for ((n, w), truncation) in all {
        let settings = Settings { truncation, transfers: Transfers::Softspoken, ..settings(n, w) };
        let in_narrow = [Op::Relu(narrow), Op::Relu(wide), Op::Extend, Op::Msb].map(|op| (n, op));
        let shifts = 0..=w - n;
        let in_wide = shifts.flat_map(|shift| {
            let relus = [narrow, wide].map(|out| Op::ReluTruncated { shift, out });
            [Op::Truncate { shift }, relus[0], relus[1]].map(|op| (w, op))
        });
        for (bits, op) in in_narrow.into_iter().chain(in_wide) {
            let job = Pairs { bits, op };
            let [a, b] = job.shares();
            let ((width, got), ..) = World { settings, ..World::default() }.run(&job).unwrap();
            let spare = 64 - settings.bits(width);
            for ((a, b), got) in a.iter().zip(&b).zip(got.unwrap()) {
                let x = (a + b) << (64 - bits) >> (64 - bits);
                // Without its carry a truncation gives the integer below or one more, whichever way the shares fall.
                let rounded =
                    [0, 1].map(|up| meaning(op, x, settings, (truncation == Truncation::OneBit).then_some(up)));
                if let [Some(down), Some(up)] = rounded {
                    let right = [down, up].map(|want| want << spare).contains(&(got << spare));
                    assert!(right, "{op:?} of {a} + {b} in {n} and {w} bits: {got} for {down} or {up}");
                }
            }
        }
    }
}

#[test]
fn signs_of_every_pair_of_shares() {
    let bits = 5;
    let settings = Settings { transfers: Transfers::Softspoken, ..settings(bits, 8) };
    let job = Pairs { bits, op: Op::Flip { channels: 2 } };
    let [a, b] = job.shares();
    let ((width, got), ..) = World { settings, ..World::default() }.run(&job).unwrap();
    assert_eq!(width, Width::Narrow);
    for ((a, b), got) in a.iter().zip(&b).zip(got.unwrap().chunks(2)) {
        let ring = |v: i64| v << (64 - bits);
        assert_eq!([ring(got[0]), ring(got[1])], [ring(a + b), ring(-a - b)], "signs of {a} + {b}");
    }
}

#[test]
fn other_rings_and_sizes() {
    for (narrow, wide) in [(4, 20), (16, 30), (21, 32), (32, 53), (20, 53)] {
        let settings = Settings { transfers: Transfers::Softspoken, ..settings(narrow, wide) };
        let shift = settings.most_shift().min(9);
        let (all, wide) = ([Width::Narrow, Width::Wide], Width::Wide);
        let mut ops = vec![
            Op::Mul { shift },
            Op::Piecewise,
            Op::Msb,
            Op::Extend,
            Op::Max,
            Op::Truncate { shift },
            Op::Select(wide),
        ];
        ops.extend(all.map(Op::Relu));
        ops.extend(all.map(|out| Op::ReluTruncated { shift, out }));
        if narrow > 16 {
            ops.extend([Op::Linear { shift: 9 }, Op::TwoTerms, Op::Deferred { out: wide }]);
        }
        for op in ops {
            for n in [1, 130] {
                check(op, n, settings);
            }
        }
    }
}

#[test]
fn more_elements_than_a_piece_has() {
    let settings = settings(25, 37);
    for op in [Op::Relu(Width::Wide), Op::ReluTruncated { shift: 12, out: Width::Wide }] {
        check(op, (1 << 17) + 77, settings);
    }
    check(Op::Relu(Width::Narrow), (1 << 19) + 77, Settings { transfers: Transfers::Compact, ..settings });
}

/// A party that runs another program or session says so, and nobody waits for long.
#[test]
fn parties_that_run_something_else_are_refused() {
    struct Nothing;
    impl Job for Nothing {
        type Out = ();
        fn run<P: Protocol>(&self, _: &P, _: Step) -> Result<()> {
            Ok(())
        }
    }
    for what in ["program", "session"] {
        let mut world = World { settings: settings(25, 37), ..World::default() };
        match what {
            "program" => world.sessions[1].program[5] ^= 1,
            _ => world.sessions[0].session[0] ^= 1,
        }
        for end in world.run(&Nothing).ends {
            // Another session's messages have other names.
            let error = end.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(what) || error.contains("step"), "{what}: {error}");
        }
    }
}

/// What happens to one frame on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One word less, where there is one.
    Shorter,
    /// Sent twice.
    Twice,
    /// Of another step.
    Renamed,
    /// Every word complemented: the ends follow the protocol on nonsense.
    Garbled,
}

/// Nobody panics or hangs whatever arrives: what cannot be right is an error of a kind, what could be is computed with.
#[test]
fn whatever_a_peer_sends_is_an_error_or_a_wrong_result() {
    use sordino_net::{Frame, Part};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let settings = Settings { transfers: Transfers::Softspoken, ..settings(25, 37) };
    let job = One::new(Op::Deferred { out: Width::Wide }, 70, settings);
    let run = |fault: Option<(Fault, usize)>| {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let tap = Arc::new(move |_, _, mut frame: Frame| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let Some((fault, _)) = fault.filter(|(_, at)| *at == number) else { return vec![frame] };
            match fault {
                Fault::Twice => {
                    let again = Frame { header: frame.header, message: frame.message.clone() };
                    return vec![again, frame];
                }
                Fault::Renamed => frame.header.tag.0[3] ^= 1,
                Fault::Shorter => {
                    if let Some(Part::Wide(words)) = frame.message.last_mut() {
                        words.pop();
                    }
                }
                Fault::Garbled => {
                    for part in &mut frame.message {
                        if let Part::Wide(words) = part {
                            words.iter_mut().for_each(|w| *w = !*w);
                        }
                    }
                }
            }
            vec![frame]
        });
        let deadline = std::time::Duration::from_secs(20);
        let outcome = World { settings, tap: Some(tap), deadline, ..World::default() }.run(&job);
        (outcome.ends.into_iter().map(|e| e.map(|_| ())).collect::<Vec<_>>(), seen.load(Ordering::Relaxed))
    };
    let (ends, frames) = run(None);
    assert!(ends.iter().all(Result::is_ok) && frames > 20, "{frames} frames");
    for at in 0..frames {
        for fault in [Fault::Shorter, Fault::Twice, Fault::Renamed, Fault::Garbled] {
            let (ends, _) = run(Some((fault, at)));
            // A frame that is sent again after the last one expected is never looked at.
            let noticed = ends.iter().any(Result::is_err);
            assert!(noticed || matches!(fault, Fault::Garbled | Fault::Twice), "{fault:?} of frame {at}");
        }
    }
}
