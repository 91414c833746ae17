//! No catastrophic truncation: ten million products over the full range, each within one unit in the last place, where
//! the local truncation of ABY3 (ePrint 2018/403, section 5.1) fails on the same inputs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Protocol, Result, Role, Step};
use sordino_ring::{PrgKey, Shape};
use sordino_testkit::{Job, World, integers};

const SHIFT: u32 = 32;
const BLOCK: usize = 1_000_000;

struct Products {
    x: Vec<i64>,
    y: Vec<i64>,
}

impl Job for Products {
    type Out = Option<Vec<i64>>;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let shape = Shape::new(&[self.x.len()]);
        let x = p.input(at.child("x"), Role::DataOwner(0), Some(&self.x), &shape)?;
        let y = p.input(at.child("y"), Role::DataOwner(0), Some(&self.y), &shape)?;
        let z = p.mul(at.child("mul"), &x, &y, None, SHIFT)?;
        let z = p.verify(at.child("verify"), z)?;
        p.open(at.child("open"), z, Role::Receiver)
    }
}

/// ABY3's local truncation, two shares: shift one, negate-shift-negate the other.
fn aby3(value: i64, mask: u64) -> i64 {
    let a = (value as u64).wrapping_sub(mask);
    let (a, b) = ((a as i64 >> SHIFT) as u64, ((mask.wrapping_neg() as i64) >> SHIFT) as u64);
    a.wrapping_sub(b) as i64
}

#[test]
fn ten_million_products_are_within_one_unit() {
    let mut failures = 0;
    for block in 0..10 {
        let job = Products { x: integers(block, BLOCK, 1 << 30), y: integers(100 + block, BLOCK, 1 << 31) };
        let (got, ..) = World::default().run(&job).unwrap();
        let masks: Vec<u64> = PrgKey::new([200 + block; 16]).words(BLOCK);
        for (((&x, &y), got), mask) in job.x.iter().zip(&job.y).zip(got.unwrap()).zip(masks) {
            let rounded = (x * y + (1 << (SHIFT - 1))) >> SHIFT;
            assert!((got - rounded).abs() <= 1, "{x} * {y}: {got} for {rounded}");
            failures += usize::from((aby3(x * y, mask) - rounded).abs() > 1);
        }
    }
    // 2^61 in 2^64: about one in eight on average.
    assert!(failures > 100_000, "the local truncation failed only {failures} times");
}
