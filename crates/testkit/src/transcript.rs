//! What a server sees of a session, as statistics.

use crate::{Job, Tap, World};
use sha2::{Digest, Sha256};
use sordino_net::{Endpoint, Frame, Part, Tag};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of all runs that a place in a conversation needs to be looked at by itself: below, the counts are too small for the
/// bound on false alarms, and messages are pooled with others of their sender and receiver.
const ENOUGH: usize = 6144;

/// Standard deviations from which on a transcript fails. With as many bytes as are asked for, one of the statistics of uniform
/// bytes lies beyond with a probability below 2^-56 (Chernoff's bound on the multinomial, not its normal limit); a suite has
/// fewer than 2^13 of them, so it fails by chance with less than 2^-43.
pub const BOUND: f64 = 12.0;

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

/// Whose messages are looked at: those that an end below `ends` receives, but for so many at the beginning of the conversation between
/// two such ends, which hold public ids and agree on keys.
#[derive(Clone, Copy)]
pub struct Looked {
    /// Ends that compute.
    pub ends: u8,
    /// Messages that are passed over.
    pub skip: usize,
}

/// Of three servers: their first message agrees on keys.
const THREE: Looked = Looked { ends: 3, skip: 1 };

fn histograms(value: i64, runs: usize, looked: Looked, protocol: &impl Fn(i64, Tap)) -> Histograms {
    let mut all = Histograms::new();
    for _ in 0..runs {
        type Heard = BTreeMap<(u8, u8), Vec<(Tag, Vec<Part>)>>;
        let log: Arc<Mutex<Heard>> = Arc::default();
        let heard = Arc::clone(&log);
        let tap: Tap = Arc::new(move |from: Endpoint, to: Endpoint, frame: Frame| {
            let mut log = heard.lock().unwrap_or_else(PoisonError::into_inner);
            log.entry((to.0, from.0)).or_default().push((frame.header.tag, frame.message.clone()));
            vec![frame]
        });
        protocol(value, tap);
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        for (&(to, from), messages) in log.iter().filter(|((to, _), _)| *to < looked.ends) {
            let skip = if from < looked.ends { looked.skip } else { 0 };
            for (i, (tag, message)) in messages.iter().enumerate().skip(skip) {
                let mut count = |kind, bytes: Vec<u8>| {
                    // Short messages say too little by themselves.
                    let place = if bytes.len() * runs < ENOUGH { usize::MAX } else { i };
                    let counts = all.entry((to, from, place, kind)).or_insert_with(|| vec![0; 256]);
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

/// Runs a protocol so often on each of two values: the largest number of standard deviations by which the bytes of a
/// message a server receives, or of such a message combined with what it sent in the same exchange, differ from uniform ones
/// or between the two values; and how many messages there were.
///
/// # Panics
/// When the two values lead to different messages.
#[must_use]
pub fn worst(runs: usize, protocol: &impl Fn(i64, Tap)) -> (f64, usize) {
    worst_of(runs, THREE, [0, (1 << 29) + 12345], protocol)
}

/// The same for some ends, and two values.
///
/// # Panics
/// When the two values lead to different messages.
#[must_use]
pub fn worst_of(runs: usize, looked: Looked, values: [i64; 2], protocol: &impl Fn(i64, Tap)) -> (f64, usize) {
    let [a, b] = values.map(|value| histograms(value, runs, looked, protocol));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "who sends when is public");
    let of = |(key, counts): (&(u8, u8, usize, &'static str), &Vec<u64>)| {
        // Too few bytes say nothing: two seeds of sixteen bytes from an owner.
        if counts.iter().sum::<u64>() < ENOUGH as u64 {
            return 0.0;
        }
        from_uniform(counts).max(from_uniform(&b[key])).max(from_each_other(counts, &b[key]))
    };
    (a.iter().map(of).fold(0.0, f64::max), a.len())
}

/// A hash of what went from an end to another, by both.
pub type Hashes = BTreeMap<(u8, u8), [u8; 32]>;

/// Runs a job, and hashes what goes from each end to each other: tags and bytes, in order.
///
/// # Panics
/// When an end fails.
pub fn hashes<J: Job>(world: World, job: &J) -> (J::Out, Hashes) {
    let running: Arc<Mutex<BTreeMap<(u8, u8), Sha256>>> = Arc::default();
    let heard = Arc::clone(&running);
    let tap: Tap = Arc::new(move |from: Endpoint, to: Endpoint, frame: Frame| {
        let mut all = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = all.entry((from.0, to.0)).or_default();
        hash.update(frame.header.tag.0);
        frame.message.iter().for_each(|part| hash.update(part.bytes()));
        vec![frame]
    });
    let (out, ..) = World { tap: Some(tap), ..world }.run(job).unwrap();
    let all = std::mem::take(&mut *running.lock().unwrap_or_else(PoisonError::into_inner));
    (out, all.into_iter().map(|(ends, hash)| (ends, hash.finalize().into())).collect())
}
