//! Two parties in a single ring, as CrypTFlow2 has it: every pair of shares of small rings, and the paper's sizes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::two::{Modulus, OneRing};
use sordino_mpc::{Kind, Result, Settings, Step, Transfers};
use sordino_ring::Cpu;
use sordino_testkit::{World, integers};

fn settings() -> Settings {
    Settings {
        kind: Kind::Two,
        narrow_bits: 25,
        wide_bits: 37,
        transfers: Transfers::Softspoken,
        ..Settings::default()
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Relu,
    Negative,
    Divide(u64),
    Truncate(u32),
}

/// What an operation means for a signed integer.
fn meaning(op: Op, x: i64) -> i64 {
    match op {
        Op::Relu => x.max(0),
        Op::Negative => i64::from(x < 0),
        Op::Divide(d) => x.div_euclid(d as i64),
        Op::Truncate(shift) => x >> shift,
    }
}

/// One party's share of what an operation gives, and of its bits.
fn run(ring: &OneRing<'_, Cpu>, at: Step, op: Op, x: &[u64]) -> Result<(Vec<u64>, Vec<u64>)> {
    match op {
        Op::Relu => ring.relu(at, x),
        Op::Negative => Ok((vec![], ring.negative(at, x)?)),
        Op::Divide(d) => Ok((ring.divide(at, x, d)?, vec![])),
        Op::Truncate(shift) => Ok((ring.truncate(at, x, shift)?, vec![])),
    }
}

/// A ring, both parties' shares, and what is done with them.
type Case = (Modulus, [Vec<u64>; 2], Vec<Op>);

/// Runs all cases in one session and holds them against their meaning; the bytes that both sent.
fn check(world: &World, cases: &[Case]) -> u64 {
    let ends = world.parties(|party, mut at| {
        let end = usize::from(sordino_mpc::Party::net(party).me().0);
        let mut all = vec![];
        for (modulus, shares, ops) in cases {
            let ring = OneRing::new(party, *modulus);
            for op in ops {
                all.push(run(&ring, at.child("op"), *op, &shares[end])?);
            }
        }
        Ok(all)
    });
    let [a, b] = <[_; 2]>::try_from(ends).unwrap_or_else(|_| panic!("two ends")).map(Result::unwrap);
    let mut results = a.0.into_iter().zip(b.0);
    for (modulus, [x0, x1], ops) in cases {
        for op in ops {
            let ((y0, bits0), (y1, bits1)) = results.next().unwrap();
            for (i, (a, b)) in x0.iter().zip(x1).enumerate() {
                let x = modulus.signed(modulus.add(*a, *b));
                if let (Some(a), Some(b)) = (y0.get(i), y1.get(i)) {
                    let y = modulus.signed(modulus.add(*a, *b));
                    assert_eq!(y, meaning(*op, x), "{op:?} of {x} = {} + {} modulo {}", x0[i], x1[i], modulus.get());
                }
                if let (Some(a), Some(b)) = (bits0.get(i / 64), bits1.get(i / 64)) {
                    assert_eq!((a ^ b) >> (i % 64) & 1 == 1, x < 0, "{op:?}: the sign of {x} modulo {}", modulus.get());
                }
            }
        }
    }
    a.1.payload() + b.1.payload()
}

/// All pairs of shares, twice: once among the elements that the client offers tables for, and once among the owner's, which begin at the middle
/// word.
fn pairs(n: u64) -> [Vec<u64>; 2] {
    let half = (n * n).next_multiple_of(64);
    let all = || (0..2 * half).map(move |i| i % half % (n * n));
    [all().map(|p| p / n).collect(), all().map(|p| p % n).collect()]
}

#[test]
fn every_pair_of_shares_of_small_rings() {
    let world = World { settings: settings(), ..World::default() };
    let case = |n: u64| -> Case {
        let modulus = Modulus::new(n).unwrap();
        let divisors = (1..=n).filter(|d| *d <= 8 || d % 5 == 0 || *d >= n - 2).map(Op::Divide);
        let shifts = (0..modulus.bits()).filter(|_| modulus.is_binary()).map(Op::Truncate);
        (modulus, pairs(n), [Op::Relu, Op::Negative].into_iter().chain(divisors).chain(shifts).collect())
    };
    let small: Vec<Case> = (2..=24).chain([31, 32, 33, 47, 63, 64]).map(case).collect();
    check(&world, &small);
}

/// However transfers are made, and whether their strings are drawn when they are used or before.
#[test]
fn every_way_to_make_transfers() {
    for transfers in [Transfers::Silent, Transfers::Compact] {
        let world = World { settings: Settings { transfers, ..settings() }, ..World::default() };
        let case = |n: u64| -> Case {
            let modulus = Modulus::new(n).unwrap();
            let shifts = (1..modulus.bits()).filter(|_| modulus.is_binary()).map(Op::Truncate);
            let ops = [Op::Relu, Op::Divide(2), Op::Negative, Op::Divide(n)].into_iter().chain(shifts);
            (modulus, pairs(n), ops.collect())
        };
        check(&world, &[2, 3, 13, 16].map(case));
    }
}

#[test]
fn the_papers_sizes() {
    let world = World { settings: settings(), ..World::default() };
    let case = |n: u64, elements: usize| -> Case {
        let modulus = Modulus::new(n).unwrap();
        let limit = n as i64 / 2;
        let shares = [1, 2].map(|seed| integers(seed, elements, limit).into_iter().map(|v| modulus.of(v)).collect());
        let divisors = [49, 3072, 1 << 12].into_iter().filter(|d| *d <= n).map(Op::Divide);
        let mut ops: Vec<Op> = [Op::Relu].into_iter().chain(divisors).collect();
        if modulus.is_binary() {
            ops.push(Op::Truncate(12));
        }
        (modulus, shares, ops)
    };
    // Of 32 and 41 bits, and primes below; odd numbers of elements, and none.
    let sizes = [(1 << 32, 1000), (1 << 41, 65), ((1 << 32) - 5, 1000), ((1 << 41) - 21, 63), (1 << 62, 64), (97, 0)];
    let cases: Vec<Case> = sizes.into_iter().map(|(n, elements)| case(n, elements)).collect();
    check(&world, &cases);
    // The paper's bound for a ReLU, lambda l + 18 l bits, and with division lambda (l + 2 delta) and what that takes.
    let relu = |n: u64| {
        let (modulus, shares, _) = case(n, 6400);
        check(&world, &[(modulus, shares, vec![Op::Relu])]) * 8 / 6400
    };
    assert!(relu(1 << 32) < (128 + 18) * 32 && relu((1 << 32) - 5) < 3 * 128 * 32 / 2 + 27 * 32);
}

#[test]
fn more_elements_than_a_piece_has() {
    let modulus = Modulus::new((1 << 37) - 25).unwrap();
    let shares =
        [3, 4].map(|seed| integers(seed, (1 << 17) + 70, 1 << 35).into_iter().map(|v| modulus.of(v)).collect());
    check(&World { settings: settings(), ..World::default() }, &[(modulus, shares, vec![Op::Relu])]);
}

#[test]
fn what_cannot_be_is_refused() {
    let world = World { settings: settings(), ..World::default() };
    for (n, x, op, says) in [
        (10, 10, Op::Relu, "not below 10"),
        (10, 1, Op::Truncate(1), "a shift by 1 bits"),
        (16, 1, Op::Truncate(4), "a shift by 4 bits"),
        (16, 1, Op::Divide(0), "division by 0"),
        (16, 1, Op::Divide(17), "division by 17"),
    ] {
        let ends = world
            .parties(|party, mut at| run(&OneRing::new(party, Modulus::new(n)?), at.child("op"), op, &[x]).map(|_| ()));
        for end in ends {
            let error = end.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
