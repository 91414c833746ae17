//! What either of two parties sees depends neither on the other's inputs nor on its weights: every message, and every message combined
//! with what was sent in the same exchange, has uniform bytes, for two very different values alike. The same statistics fail on
//! protocols that reuse a pad, leave an answer unmasked, or open a bit twice under one mask.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_he::layer::{Place, answer, question, read};
use sordino_he::params::{guard, noise};
use sordino_he::{Layout, Params, PublicKey, Scheme, SecretKey};
use sordino_mpc::two::{Modulus, OneRing};
use sordino_mpc::{Kind, Linear, Local, Party, Protocol, Result, Role, Settings, Step, Transfers, Truncation, Width};
use sordino_net::{Endpoint, Frame, Header, Part, Tag};
use sordino_ot::Stream;
use sordino_ring::{Conv2d, Shape};
use sordino_testkit::transcript::{BOUND, Looked, worst_of};
use sordino_testkit::{Job, Tap, World, seed};

/// Fills whole words of planes, and of elements of the widths below.
const N: usize = 1024;

const RUNS: usize = 40;

/// Hello, choices, and seeds: keys, points of the curve, and what only hides seeds from whoever lacks strings.
const KEYS: usize = 2;

/// Two very different values that all operations promise something for.
const VALUES: [i64; 2] = [0, -(1 << 21) + 12345];

/// Every interactive operation once; the model owner's weights and the client's input are the value.
struct All {
    value: i64,
}

impl Job for All {
    type Out = ();
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<()> {
        let shape = Shape::new(&[N]);
        let op = Conv2d::matmul(N / 16, 16, 16);
        let weight = self.value >> 13;
        let w = p.prepare(at.child("w"), Role::ModelOwner, Some(&[weight; 256]), &op)?;
        p.agree(at.child("agree"), &[])?;
        let x = p.input(at.child("x"), Role::DataOwner(0), Some(&[self.value; N]), &shape)?;
        let y = p.input(at.child("y"), Role::ModelOwner, Some(&[self.value; N]), &shape)?;
        let rows = p.local(&Local::Reshape(op.input()), &[&x])?;
        let z = p.linear_wide(at.child("linear"), &[(&rows, &w, op)], None)?;
        p.relu_truncated(at.child("deferred"), &z, 12, Width::Wide)?;
        p.linear(at.child("truncated"), &[(&rows, &w, op)], None, 9)?;
        p.truncate(at.child("truncate"), &x, 7)?;
        p.relu_truncated(at.child("relu truncated"), &y, 5, Width::Narrow)?;
        let low = p.local(&Local::Low, &[&p.local(&Local::Add, &[&x, &y])?])?;
        let bits = p.msb(at.child("msb"), &low)?;
        p.select(at.child("select"), &bits, &low, Width::Narrow)?;
        p.select(at.child("select wide"), &bits, &low, Width::Wide)?;
        p.relu(at.child("narrow"), &low, Width::Narrow)?;
        p.relu(at.child("wide"), &low, Width::Wide)?;
        p.mul(at.child("mul"), &x, &y, None, 7)?;
        p.piecewise_constant(at.child("functions"), &low, &[-5, 70], &[vec![1, 2], vec![3, 4]])?;
        p.extend(at.child("extend"), &low)?;
        p.max(at.child("max"), &low, &low)?;
        // A transfer a channel; signs by the value.
        let channels = p.local(&Local::Reshape(Shape::new(&[N / 64, 64])), &[&low])?;
        let sign = 1 - 2 * i64::from(self.value < 0);
        let signs = p.input(at.child("signs"), Role::ModelOwner, Some(&[sign; 64]), &Shape::new(&[64]))?;
        p.flip(at.child("flip"), &channels, &signs)?;
        Ok(())
    }
}

fn settings(transfers: Transfers) -> Settings {
    // Widths whose elements fill whole words with those of the sizes above: no padding.
    Settings { kind: Kind::Two, narrow_bits: 24, wide_bits: 36, weight_bits: 10, transfers, ..Settings::default() }
}

#[test]
fn every_message_is_uniform_and_independent_of_inputs_and_weights() {
    let (softspoken, silent) = (settings(Transfers::Softspoken), settings(Transfers::Silent));
    let by_transfers = Settings { linear: Linear::Ot, ..softspoken };
    let one_bit = Settings { truncation: Truncation::OneBit, ..softspoken };
    for settings in [softspoken, silent, by_transfers, one_bit] {
        let transfers = settings.transfers;
        let suite = |value, tap| {
            let world = World { tap: Some(tap), settings, ..World::default() };
            let _ = world.run(&All { value }).unwrap();
        };
        let runs = if transfers == Transfers::Silent { RUNS / 4 } else { RUNS };
        let (worst, messages) = worst_of(runs, Looked { ends: 2, skip: KEYS }, VALUES, &suite);
        assert!(messages > 120, "{messages} messages were looked at");
        assert!(worst < BOUND, "{settings:?}: a message is {worst:.1} standard deviations from uniform");
    }
}

/// The paper's forms, over rings whose elements fill whole words; of a value that the client has and one that the owner has. Elements below 2^36 - 5 differ
/// from uniform bits by 2^-33, which nobody sees.
#[test]
fn messages_in_one_ring_are_uniform_and_independent_of_values() {
    messages_in_one_ring(1 << 36);
    messages_in_one_ring((1 << 36) - 5);
}

fn messages_in_one_ring(n: u64) {
    let suite = |value: i64, tap| {
        let world = World { tap: Some(tap), settings: settings(Transfers::Softspoken), ..World::default() };
        let ends = world.parties(|party, mut at| {
            let modulus = Modulus::new(n)?;
            let ring = OneRing::new(party, modulus);
            let own = u8::from(party.net().me() == Endpoint(1));
            for from in [0, 1] {
                let x = [modulus.of(if from == own { value } else { 0 }); N];
                ring.relu(at.child("relu"), &x)?;
                ring.negative(at.child("negative"), &x)?;
                if modulus.is_binary() {
                    ring.truncate(at.child("truncate"), &x, 12)?;
                }
                ring.divide(at.child("divide"), &x, 49)?;
            }
            Ok(())
        });
        ends.into_iter().for_each(|end| drop(end.unwrap()));
    };
    let (worst, messages) = worst_of(RUNS, Looked { ends: 2, skip: KEYS }, VALUES, &suite);
    assert!(messages > 60, "{messages} messages were looked at");
    assert!(worst < BOUND, "a message is {worst:.1} standard deviations from uniform");
}

/// Hands one message to the statistics as if it had been received.
fn said(tap: &Tap, words: Vec<u64>) {
    let header = Header { tag: Tag([0; 16]), number: 0, depth: 1, payload: 8 * words.len() as u64 };
    // Padding stands for the messages that are passed over.
    let blank = Header { tag: Tag([1; 16]), number: 0, depth: 1, payload: 0 };
    (0..KEYS).for_each(|_| drop(tap(Endpoint(0), Endpoint(1), Frame { header: blank, message: vec![] })));
    let _ = tap(Endpoint(0), Endpoint(1), Frame { header, message: vec![Part::Wide(words)] });
}

fn fresh() -> Stream {
    let mut key = [0; 16];
    key.copy_from_slice(&seed::fresh()[..16]);
    Stream::new(key)
}

/// How far a single kind of message is from uniform.
fn alone(message: impl Fn(i64) -> Vec<u64>) -> f64 {
    worst_of(RUNS, Looked { ends: 2, skip: KEYS }, VALUES, &|value, tap| said(&tap, message(value))).0
}

#[test]
fn a_table_under_one_pad_is_noticed() {
    // Two entries of a table under the same pad, one after the other: their difference is the table's.
    let table = |value: i64, same: bool| {
        let mut random = fresh();
        let pads = random.words(2 * N);
        let entries = (0..N).flat_map(|i| {
            let second = if same { pads[2 * i] } else { pads[2 * i + 1] };
            [pads[2 * i] ^ value as u64, second ^ !(value as u64)]
        });
        // What a chooser can compute from what it received.
        let all: Vec<u64> = entries.collect();
        all.chunks(2).map(|pair| pair[0] ^ pair[1]).collect::<Vec<u64>>()
    };
    assert!(alone(|v| table(v, false)) < BOUND);
    assert!(alone(|v| table(v, true)) > BOUND);
}

/// What a client offers for signs of channels, with a pad of its own for every element, and with one for all elements of a channel.
#[test]
fn one_pad_for_a_channel_is_noticed() {
    let offer = |value: i64, own: bool| {
        let (mut random, once) = (fresh(), fresh().words(1)[0]);
        let pads = random.words(N);
        pads.iter().map(|pad| if own { *pad } else { once }.wrapping_sub((2 * value) as u64)).collect::<Vec<u64>>()
    };
    assert!(alone(|value| offer(value, true)) < BOUND);
    assert!(alone(|value| offer(value, false)) > BOUND);
}

/// What a client offers for two bits of a weight, from seeds of their own, and from one seed: what an owner can compute of the two.
#[test]
fn one_seed_for_two_bits_of_a_weight_is_noticed() {
    let rows = |value: i64, own: bool| {
        let seeds = [(); 4].map(|()| fresh().block().to_le_bytes());
        let pads = |seed: [u8; 16]| Stream::new(seed).words(N);
        let offer = |no, yes| -> Vec<u64> {
            pads(no).iter().zip(pads(yes)).map(|(no, yes)| no.wrapping_sub(yes).wrapping_add(value as u64)).collect()
        };
        let first = offer(seeds[0], seeds[1]);
        let second = if own { offer(seeds[2], seeds[3]) } else { offer(seeds[0], seeds[1]) };
        first.iter().zip(second).map(|(a, b)| a.wrapping_sub(b)).collect::<Vec<u64>>()
    };
    assert!(alone(|value| rows(value, true)) < BOUND);
    assert!(alone(|value| rows(value, false)) > BOUND);
}

#[test]
fn two_openings_under_one_mask_are_noticed() {
    let opened = |value: i64, same: bool| {
        let mut random = fresh();
        let (rho, other) = (random.words(N), random.words(N));
        let second = if same { &rho } else { &other };
        // d ^ rho and e ^ rho give d ^ e.
        rho.iter().zip(second).map(|(a, b)| (a ^ value as u64) ^ (b ^ 5)).collect::<Vec<u64>>()
    };
    assert!(alone(|v| opened(v, false)) < BOUND);
    assert!(alone(|v| opened(v, true)) > BOUND);
}

/// What a client sees of an answer.
#[derive(Clone, Copy, PartialEq)]
enum View {
    /// The message.
    Message,
    /// What two answers with one randomness differ by.
    Difference,
    /// What the message decrypts to.
    Share,
    /// What it would decrypt to without its mask.
    Unmasked,
}

fn answered(value: i64, view: View) -> Vec<u64> {
    let op = Conv2d::matmul(1, 64, 64);
    let bits = 36 + guard(1);
    let params = Params::new(bits, noise(10, 64 * 64)).unwrap();
    let scheme = Scheme::new(params);
    let mut client = fresh();
    let (key, public) = SecretKey::new(&scheme, &mut client);
    let public = PublicKey::read(&scheme, &public).unwrap();
    let layout = Layout::new(op, params, bits);
    let at = Place { scheme: &scheme, layout: &layout, bits, threads: 1 };
    let asked = question(&at, &key, &[1 << 20; 64], 36, &mut client);
    let weights = vec![value >> 13; op.weight().len()];
    let seed = fresh().block().to_le_bytes();
    let said = |weights: &[i64]| answer(&at, &public, weights, &asked, &mut Stream::new(seed)).unwrap();
    let (message, share) = said(&weights);
    let read = || read(&at, &key, &message).unwrap();
    match view {
        View::Message => message,
        View::Difference => message.iter().zip(said(&vec![0; weights.len()]).0).map(|(a, b)| a ^ b).collect(),
        View::Share => sordino_ring::pack(&read(), bits),
        View::Unmasked => {
            let sum: Vec<u64> = read().iter().zip(&share).map(|(a, b)| a.wrapping_add(*b)).collect();
            sordino_ring::pack(&sum, bits)
        }
    }
}

#[test]
fn an_answer_without_mask_or_with_randomness_used_twice_is_noticed() {
    for (view, fine) in [(View::Message, true), (View::Difference, false), (View::Share, true), (View::Unmasked, false)]
    {
        assert_eq!(alone(|v| answered(v, view)) < BOUND, fine);
    }
}
