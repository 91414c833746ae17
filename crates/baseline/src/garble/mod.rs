//! ReLU by garbled circuits (Yao, FOCS 1986), with half gates: end 0 garbles, end 1 evaluates and gets max(x, 0) + r for an r of end 0.
//!
//! Labels of the garbler's own inputs come from a seed that both have: the label that counts is public, the other one its sum with
//! delta, so nothing is sent for them. Those of the evaluator's come by transfers.

mod circuit;
mod gates;

use crate::bits::bit;
use crate::end::{End, blocks, words};
use circuit::relu as circuit;
use gates::{Evaluator, Garbler, Hash, Wire};
use sordino_mpc::two::Modulus;
use sordino_mpc::{Error, Result};
use sordino_ot::Stream;

/// Elements whose gates are garbled together, those in a message, and those whose labels' transfers are at hand together.
const BATCH: usize = 128;
const MESSAGE: usize = 32 * BATCH;
const PIECE: usize = 32 * MESSAGE;

/// Shares of max(x, 0) in Z/N.
///
/// # Errors
/// A lost peer.
pub fn relu(end: &End, modulus: Modulus, x: &[u64]) -> Result<Vec<u64>> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks(PIECE) {
        y.extend(piece(end, modulus, x)?);
    }
    Ok(y)
}

fn piece(end: &End, modulus: Modulus, x: &[u64]) -> Result<Vec<u64>> {
    let bits = modulus.bits() as usize;
    end.make([x.len() * bits, 0])?;
    let key = end.fresh_seed();
    // Labels of the garbler's inputs.
    let mut public = Stream::new((key ^ 1).to_le_bytes());
    let mut y = Vec::with_capacity(x.len());
    if end.is_first() {
        let mut garbler = Garbler { hash: Hash::new(key), delta: end.own_block() | 1, tables: vec![] };
        let flips = end.hear((x.len() * bits).div_ceil(64))?;
        for (i, x) in x.chunks(MESSAGE).enumerate() {
            let mut message = Message::default();
            for (j, x) in x.chunks(BATCH).enumerate() {
                let first = (i * MESSAGE + j * BATCH) * bits;
                y.extend(garbled(end, &mut garbler, modulus, x, (&flips, first), &mut public, &mut message)?);
            }
            message.blocks.append(&mut garbler.tables);
            end.say([words(&message.blocks), message.colors].concat())?;
        }
        return Ok(y);
    }
    let (mut choices, strings) = end.received(x.len() * bits)?;
    let own = |at: usize| {
        // Batch by batch, bit by bit, element by element.
        let (batch, within) = (at / (BATCH * bits), at % (BATCH * bits));
        let n = BATCH.min(x.len() - batch * BATCH);
        x[batch * BATCH + within % n] >> (within / n) & 1
    };
    let mut flips = vec![0; choices.len()];
    for at in 0..x.len() * bits {
        let flip = own(at) ^ bit(&choices, at);
        flips[at / 64] |= flip << (at % 64);
        choices[at / 64] ^= flip << (at % 64);
    }
    end.say(flips)?;
    let mut evaluated = 0;
    let ands = ands(modulus)?;
    let mut hash = Hash::new(key);
    for x in x.chunks(MESSAGE) {
        let n = x.len();
        let said = end.hear(2 * n * (bits + 2 * ands) + (n * bits).div_ceil(64))?;
        let (all, colors) = said.split_at(2 * n * (bits + 2 * ands));
        let all = blocks(all);
        let (offers, tables) = all.split_at(n * bits);
        let mut evaluator = Evaluator { hash, tables };
        let mut place = 0;
        for x in x.chunks(BATCH) {
            let labels = |at: usize| {
                let chosen = 0u128.wrapping_sub(u128::from(bit(&choices, evaluated + at)));
                strings[evaluated + at] ^ (offers[place + at] & chosen)
            };
            let own: Vec<Wire> =
                (0..bits).map(|bit| (0..x.len()).map(|i| labels(bit * x.len() + i)).collect()).collect();
            let mut theirs = || -> Vec<Wire> { (0..bits).map(|_| public.blocks(x.len())).collect() };
            let out = circuit(&mut evaluator, modulus, [&theirs(), &own, &theirs()])?;
            let value = |i: usize| {
                let of = |(which, wire): (usize, &Wire)| {
                    (wire[i] as u64 & 1 ^ bit(colors, place + which * x.len() + i)) << which
                };
                out.iter().enumerate().map(of).sum::<u64>()
            };
            y.extend((0..x.len()).map(value));
            evaluated += x.len() * bits;
            place += x.len() * bits;
        }
        hash = evaluator.hash;
    }
    Ok(y)
}

/// What goes to the evaluator with the tables: offers for its labels, and the lowest bits of the result's labels.
#[derive(Default)]
struct Message {
    blocks: Vec<u128>,
    colors: Vec<u64>,
    /// Bits in `colors`.
    said: usize,
}

fn garbled(
    end: &End,
    garbler: &mut Garbler,
    modulus: Modulus,
    x: &[u64],
    (flips, first): (&[u64], usize),
    public: &mut Stream,
    message: &mut Message,
) -> Result<Vec<u64>> {
    let (n, bits, delta) = (x.len(), modulus.bits() as usize, garbler.delta);
    let known = |values: &[u64], public: &mut Stream| -> Vec<Wire> {
        let label = |(v, l): (&u64, u128), bit: usize| l ^ (delta & 0u128.wrapping_sub(u128::from(v >> bit & 1)));
        (0..bits).map(|bit| values.iter().zip(public.blocks(n)).map(|v| label(v, bit)).collect()).collect()
    };
    let mine = known(x, public);
    let [zero, one] = end.sent(n * bits)?;
    let theirs: Vec<Wire> = (0..bits)
        .map(|wire| {
            let label = |i: usize| {
                let at = wire * n + i;
                let flip = 0u128.wrapping_sub(u128::from(bit(flips, first + at)));
                zero[at] ^ (flip & (zero[at] ^ one[at]))
            };
            (0..n).map(label).collect()
        })
        .collect();
    // Who chose one has the other string, and needs the label that differs by delta.
    message.blocks.extend(zero.iter().zip(&one).map(|(a, b)| a ^ b ^ delta));
    // A uniform r: of 128 bits, so that its distance from uniform is small.
    let r: Vec<u64> =
        end.own_words(2 * n).as_chunks::<2>().0.iter().map(|[low, high]| modulus.uniform(*low, *high)).collect();
    let mask = known(&r, public);
    let out = circuit(garbler, modulus, [&mine, &theirs, &mask])?;
    for label in out.iter().flatten() {
        if message.said.is_multiple_of(64) {
            message.colors.push(0);
        }
        if let Some(last) = message.colors.last_mut() {
            *last |= (*label as u64 & 1) << (message.said % 64);
        }
        message.said += 1;
    }
    Ok(r.into_iter().map(|r| modulus.negative(r)).collect())
}

/// AND gates of the circuit.
fn ands(modulus: Modulus) -> Result<usize> {
    let mut garbler = Garbler { hash: Hash::new(0), delta: 1, tables: vec![] };
    let number: Vec<Wire> = vec![vec![0]; modulus.bits() as usize];
    circuit(&mut garbler, modulus, [&number, &number, &number])?;
    if garbler.tables.is_empty() && modulus.bits() > 1 {
        return Err(Error::Usage("a circuit without gates".into()));
    }
    Ok(garbler.tables.len() / 2)
}
