//! What a server sees does not depend on the inputs: every message it receives, and every message combined with what it
//! sent in the same exchange, has uniform bytes, for two very different inputs alike. The same test fails on a
//! multiplication that is reshared without a zero share, as some published code does it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Local, Protocol, Result, Role, Settings, Step, Width};
use sordino_net::{Endpoint, Net, Part, Tag};
use sordino_ring::{Conv2d, PrgKey, Shape};
use sordino_testkit::transcript::{BOUND, worst};
use sordino_testkit::{Job, Tap, World, seed};

const N: usize = 3 * 512;

/// Runs on each of two values: enough for the control to lie sixty standard deviations out.
const RUNS: usize = 48;

/// Every interactive operation once.
struct All {
    value: i64,
}

impl Job for All {
    type Out = ();
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<()> {
        let shape = Shape::new(&[N]);
        let x = p.input(at.child("x"), Role::DataOwner(0), Some(&[self.value; N]), &shape)?;
        let op = Conv2d::matmul(N / 4, 4, 4);
        let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&[self.value; 16]), &op)?;
        let rows = p.local(&Local::Reshape(op.input()), &[&x])?;
        p.linear(at.child("linear"), &[(&rows, &w, op)], None, 20)?;
        // A convolution with a gain, and weights that are computed.
        let op = Conv2d { h: 32, w: 32, cin: 16, cout: 32, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
        assert_eq!(op.gain_once(), 4);
        let image =
            p.input(at.child("image"), Role::DataOwner(0), Some(&vec![self.value; op.input().len()]), &op.input())?;
        let w = p.input(at.child("w"), Role::ModelOwner, Some(&vec![self.value; op.weight().len()]), &op.weight())?;
        let w = p.pack(&w, &op)?;
        p.linear(at.child("gain"), &[(&image, &w, op)], None, 20)?;
        let dy =
            p.input(at.child("dy"), Role::DataOwner(0), Some(&vec![self.value; op.output().len()]), &op.output())?;
        p.weight_gradient(at.child("gradient"), &image, &dy, &op, None, 20)?;
        p.mul(at.child("mul"), &x, &x, None, 20)?;
        // Truncation takes off the bits that a missing mask shows in: products without it show them.
        p.mul(at.child("whole"), &x, &x, None, 0)?;
        let one = Conv2d::matmul(N, 1, 16);
        let w = p.prepare(at.child("one"), Role::ModelOwner, Some(&[self.value; 16]), &one)?;
        let column = p.local(&Local::Reshape(one.input()), &[&x])?;
        p.linear(at.child("whole linear"), &[(&column, &w, one)], None, 0)?;
        p.truncate(at.child("truncate"), &x, 13)?;
        let low = p.local(&Local::Low, &[&x])?;
        let bits = p.msb(at.child("msb"), &low)?;
        p.select(at.child("select by sign"), &bits, &low, Width::Narrow)?;
        p.piecewise_constant(at.child("few"), &low, &[-5, 70], &[vec![1, 2], vec![3, 4], vec![5, 6]])?;
        p.piecewise_constant(at.child("many"), &low, &[-900, 0, 1, 64], &[vec![1, -2, 3, 1 << 40]])?;
        p.watch(at.child("watch"), &low, 1)?;
        p.watch(at.child("watch rows"), &low, 3)?;
        p.relu(at.child("narrow"), &low, Width::Narrow)?;
        p.relu(at.child("wide"), &low, Width::Wide)?;
        let (_, bit) = p.relu_with_bit(at.child("kept"), &low, Width::Narrow)?;
        p.select(at.child("select"), &bit, &low, Width::Narrow)?;
        p.select(at.child("select wide"), &bit, &low, Width::Wide)?;
        p.extend(at.child("extend"), &low)?;
        p.max(at.child("max"), &low, &low)?;
        let y = p.verify(at.child("verify"), low)?;
        p.open(at.child("open"), y, Role::Receiver)?;
        Ok(())
    }
}

/// The three-server protocol suite on one value.
fn suite(settings: Settings) -> impl Fn(i64, Tap) {
    move |value, tap| {
        let _ = World { tap: Some(tap), settings, ..World::default() }.run(&All { value }).unwrap();
    }
}

/// A product of two shared values, each server's term sent as it is.
fn broken(value: i64, tap: Tap) {
    let links = World { tap: Some(tap), ..World::default() }.links();
    let share = || -> [Vec<u64>; 3] {
        let random = || {
            let mut key = [0; 16];
            key.copy_from_slice(&seed::fresh()[..16]);
            PrgKey::new(key).words::<u64>(N)
        };
        let (a, b) = (random(), random());
        let c = a.iter().zip(&b).map(|(a, b)| (value as u64).wrapping_sub(*a).wrapping_sub(*b)).collect();
        [a, b, c]
    };
    let (x, y) = (share(), share());
    let (x, y) = (&x, &y);
    std::thread::scope(|scope| {
        for (i, links) in links.into_iter().enumerate().take(3) {
            scope.spawn(move || {
                let (net, j, tag) = (Net::new(Endpoint(i as u8), links), (i + 1) % 3, Tag([1; 16]));
                let term = |e: usize| {
                    let cross = x[j][e].wrapping_mul(y[i][e]);
                    x[i][e].wrapping_mul(y[i][e].wrapping_add(y[j][e])).wrapping_add(cross)
                };
                // Padding in front stands for the key agreement that the reader skips.
                let prev = Endpoint(((i + 2) % 3) as u8);
                net.send(prev, tag, vec![]).unwrap();
                net.send(prev, tag, vec![Part::Wide((0..N).map(term).collect())]).unwrap();
                let next = Endpoint(j as u8);
                net.recv(next, tag, &[]).unwrap();
                net.recv(next, tag, &[sordino_net::Segment::Wide(N)]).unwrap();
            });
        }
    });
}

#[test]
fn every_message_is_uniform_and_independent_of_the_inputs() {
    let whole = Settings::default();
    let packed = |narrow_bits, wide_bits| Settings { narrow_bits, wide_bits, ..whole };
    // The sizes fill the packed words, whose padding would be zeros.
    for settings in [whole, Settings { faithful: true, ..whole }, packed(28, 52), packed(24, 48)] {
        let (worst, messages) = worst(RUNS, &suite(settings));
        assert!(messages > 300, "{messages} messages were looked at");
        assert!(worst < BOUND, "a message is {worst:.1} standard deviations from uniform");
    }
}

#[test]
fn the_test_fails_on_a_product_without_a_zero_share() {
    let (worst, _) = worst(RUNS, &broken);
    assert!(worst > BOUND, "a broken protocol passed with {worst:.1} standard deviations");
}
