//! What a server sees does not depend on the inputs: every message it receives, and every message combined with what it
//! sent in the same exchange, has uniform bytes, for two very different inputs alike. The same test fails on a
//! multiplication that is reshared without a zero share, as some published code does it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Local, Protocol, Result, Role, Settings, Step, Width};
use sordino_net::{Endpoint, Frame, Net, Part, Tag};
use sordino_ring::{Conv2d, PrgKey, Shape};
use sordino_testkit::{Job, Tap, World};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const N: usize = 3 * 512;
const RUNS: usize = 24;

/// Every interactive operation once.
struct All {
    value: i64,
}

impl Job for All {
    type Out = ();
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<()> {
        let shape = Shape::new(&[N]);
        let x = p.input(at.child("x"), Role::DataOwner, Some(&[self.value; N]), &shape)?;
        let op = Conv2d::matmul(N / 4, 4, 4);
        let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&[self.value; 16]), &op)?;
        let rows = p.local(&Local::Reshape(op.input()), &[&x])?;
        p.linear(at.child("linear"), &[(&rows, &w, op)], None, 20)?;
        // A convolution with a gain, and weights that are computed.
        let op = Conv2d { h: 14, w: 15, cin: 16, cout: 32, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
        assert_eq!(op.gain(), 4);
        let image =
            p.input(at.child("image"), Role::DataOwner, Some(&vec![self.value; op.input().len()]), &op.input())?;
        let w = p.input(at.child("w"), Role::ModelOwner, Some(&vec![self.value; op.weight().len()]), &op.weight())?;
        let w = p.pack(&w, &op)?;
        p.linear(at.child("gain"), &[(&image, &w, op)], None, 20)?;
        p.mul(at.child("mul"), &x, &x, None, 20)?;
        p.truncate(at.child("truncate"), &x, 13)?;
        let low = p.local(&Local::Low, &[&x])?;
        let bits = p.msb(at.child("msb"), &low)?;
        p.inject(at.child("inject"), &bits)?;
        p.relu(at.child("narrow"), &low, Width::Narrow)?;
        p.relu(at.child("wide"), &low, Width::Wide)?;
        let (_, bit) = p.relu_with_bit(at.child("kept"), &low, Width::Narrow)?;
        p.select(at.child("select"), &bit, &low, Width::Narrow)?;
        p.select(at.child("select wide"), &bit, &low, Width::Wide)?;
        p.extend(at.child("extend"), &low)?;
        p.max(at.child("max"), &low, &low)?;
        let y = p.verify(at.child("verify"), low)?;
        p.open(at.child("open"), y, Role::DataOwner)?;
        Ok(())
    }
}

/// Counts of byte values, by receiver, sender and place in their conversation; `combined` with what went back.
type Histograms = BTreeMap<(u8, u8, usize, &'static str), Vec<u64>>;

fn words(frame: &[Part]) -> Vec<u8> {
    frame.iter().flat_map(|p| p.bytes().to_vec()).collect()
}

fn sums(a: &[Part], b: &[Part]) -> Vec<u8> {
    let pairs = a.iter().zip(b);
    pairs
        .flat_map(|(a, b)| match (a, b) {
            (Part::Narrow(a), Part::Narrow(b)) => {
                a.iter().zip(b).flat_map(|(x, y)| x.wrapping_add(*y).to_le_bytes()).collect::<Vec<u8>>()
            }
            (Part::Wide(a), Part::Wide(b)) => {
                a.iter().zip(b).flat_map(|(x, y)| x.wrapping_add(*y).to_le_bytes()).collect()
            }
            _ => vec![],
        })
        .collect()
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
            getrandom::fill(&mut key).unwrap();
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

fn histograms(value: i64, protocol: &impl Fn(i64, Tap)) -> Histograms {
    let mut all = Histograms::new();
    for _ in 0..RUNS {
        type Heard = BTreeMap<(u8, u8), Vec<(Tag, Vec<Part>)>>;
        let log: Arc<Mutex<Heard>> = Arc::default();
        let heard = Arc::clone(&log);
        let tap: Tap = Arc::new(move |from: Endpoint, to: Endpoint, frame: Frame| {
            let mut log = heard.lock().unwrap();
            log.entry((to.0, from.0)).or_default().push((frame.header.tag, frame.message.clone()));
            vec![frame]
        });
        protocol(value, tap);
        let log = log.lock().unwrap();
        for (&(to, from), messages) in log.iter().filter(|((to, _), _)| *to < 3) {
            // The first message between servers agrees on keys and holds public ids.
            let skip = usize::from(from < 3);
            for (i, (tag, message)) in messages.iter().enumerate().skip(skip) {
                let mut count = |kind, bytes: Vec<u8>| {
                    let counts = all.entry((to, from, i, kind)).or_insert_with(|| vec![0; 256]);
                    bytes.iter().for_each(|&b| counts[usize::from(b)] += 1);
                };
                count("received", words(message));
                let back = log.get(&(from, to)).and_then(|m| m.iter().find(|(t, _)| t == tag));
                if let Some((_, back)) = back.filter(|(_, b)| words(b).len() == words(message).len()) {
                    let xored = words(message).iter().zip(words(back)).map(|(a, b)| a ^ b).collect();
                    count("xored", xored);
                    count("summed", sums(message, back));
                }
            }
        }
    }
    all
}

/// How many standard deviations the statistic of 255 degrees of freedom lies above its mean.
fn excess(chi_square: f64) -> f64 {
    (chi_square - 255.0) / 510f64.sqrt()
}

fn from_uniform(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / 256.0;
    excess(counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum())
}

fn from_each_other(a: &[u64], b: &[u64]) -> f64 {
    let (na, nb) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    let cells = a.iter().zip(b).filter(|(a, b)| **a + **b > 0);
    excess(
        cells
            .map(|(&a, &b)| (a as f64 * (nb / na).sqrt() - b as f64 * (na / nb).sqrt()).powi(2) / (a + b) as f64)
            .sum(),
    )
}

/// The worst excess over all messages, and how many messages there were.
fn worst(protocol: &impl Fn(i64, Tap)) -> (f64, usize) {
    let (a, b) = (histograms(0, protocol), histograms((1 << 29) + 12345, protocol));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "who sends when is public");
    let of = |(key, counts): (&(u8, u8, usize, &'static str), &Vec<u64>)| {
        // Too few bytes say nothing: two seeds of sixteen bytes from the client.
        if counts.iter().sum::<u64>() < 1000 {
            return 0.0;
        }
        from_uniform(counts).max(from_uniform(&b[key])).max(from_each_other(counts, &b[key]))
    };
    (a.iter().map(of).fold(0.0, f64::max), a.len())
}

#[test]
fn every_message_is_uniform_and_independent_of_the_inputs() {
    let whole = Settings::default();
    let packed = |narrow_bits, wide_bits| Settings { narrow_bits, wide_bits, ..whole };
    // The sizes fill the packed words, whose padding would be zeros.
    for settings in [whole, Settings { faithful: true, ..whole }, packed(28, 52), packed(24, 48)] {
        let (worst, messages) = worst(&suite(settings));
        assert!(messages > 300, "{messages} messages were looked at");
        assert!(worst < 7.0, "a message is {worst:.1} standard deviations from uniform");
    }
}

#[test]
fn the_test_fails_on_a_product_without_a_zero_share() {
    let (worst, _) = worst(&broken);
    assert!(worst > 10.0, "a broken protocol passed with {worst:.1} standard deviations");
}
