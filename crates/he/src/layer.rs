//! One linear layer: the client's ciphertexts, the model owner's answers, the client's share.
//!
//! The client encrypts its share x_1 of the input. The model's owner multiplies by its weights, adds a fresh encryption of zero
//! (u pk plus an error in the second part), rescales to `bits` = w + g bits, and sends of the first part only the wanted
//! coefficients, each less a uniform mask r: z is uniform whatever the first part is, and the second part is a sample of RLWE with
//! secret u under the uniform pk. So an answer says nothing of the weights; no noise is flooded. The owner's share of the product is r.

use crate::cipher::{PublicKey, Residues, SEED, Scheme, SecretKey, Seeds, halves};
use crate::layout::Layout;
use crate::ntt::{Inputs, OUTPUTS, Weights};
use crate::params::{EXTRA, Params};
use crate::{Error, N, Result, sample};
use sordino_ot::{Stream, in_parallel};
use sordino_ring::{pack, packed_words, unpack};
use std::ops::Range;
use zeroize::{Zeroize, Zeroizing};

/// Where a layer's messages are made and read.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The modulus.
    pub scheme: &'a Scheme,
    /// How the layer is cut.
    pub layout: &'a Layout,
    /// Bits of the product, w + g.
    pub bits: u32,
    /// Threads to use.
    pub threads: usize,
}

/// Words of the client's message.
#[must_use]
pub fn question_words(params: Params, layout: &Layout) -> usize {
    SEED + layout.input_words(params)
}

/// The client's message: its share of the input, elements below 2^w, encrypted.
#[must_use]
pub fn question(at: &Place<'_>, key: &SecretKey, x: &[u64], w: u32, random: &mut Stream) -> Vec<u64> {
    let Place { scheme, layout, threads, .. } = at;
    let seeds = (0..layout.tiles() * layout.input_blocks()).map(|_| random.block().to_le_bytes());
    let fresh: Zeroizing<Vec<[u8; 16]>> = Zeroizing::new(seeds.collect());
    let public = random.block();
    let seed = Seeds::new(public);
    let parts = in_parallel(*threads, fresh.len(), |i| {
        let (tile, inputs) = (i / layout.input_blocks(), i % layout.input_blocks());
        let a = scheme.uniform(&mut seed.stream(i));
        let mut v = layout.input(x, tile, inputs);
        let c = key.encrypted(scheme, &v, w, &a, &mut Stream::new(fresh[i]));
        v.zeroize();
        let mut words = Vec::with_capacity(scheme.params.words());
        scheme.packed(&c, &mut words);
        words
    });
    let mut message = Vec::with_capacity(question_words(scheme.params, layout));
    message.extend(halves(public));
    parts.into_iter().for_each(|part| message.extend(part));
    message
}

/// The model owner's message for a question, and its share of the product: NHWC, `bits` bits.
///
/// # Errors
/// A question of the wrong length.
pub fn answer(
    at: &Place<'_>,
    key: &PublicKey,
    weights: &[i64],
    question: &[u64],
    random: &mut Stream,
) -> Result<(Vec<u64>, Vec<u64>)> {
    let Place { scheme, layout, bits, threads } = *at;
    if question.len() != question_words(scheme.params, layout) {
        return Err(Error::Length);
    }
    let (seed, ciphertexts) = question.split_at(SEED);
    let seed = Seeds::read(seed)?;
    let per_tile = layout.input_blocks();
    let words = scheme.params.words();
    // By tile and prime.
    let inputs = in_parallel(threads, layout.tiles(), |tile| -> Result<[Inputs; 2]> {
        let mut inputs = [Inputs::new(per_tile), Inputs::new(per_tile)];
        for i in 0..per_tile {
            let number = tile * per_tile + i;
            let c = scheme.unpacked(&ciphertexts[number * words..(number + 1) * words])?;
            let a = scheme.uniform(&mut seed.stream(number));
            (0..2).for_each(|p| inputs[p].put(i, [&c[p], &a[p]]));
        }
        Ok(inputs)
    });
    let inputs = inputs.into_iter().collect::<Result<Vec<_>>>()?;
    let mut share = random.words(layout.op.output().len());
    share.iter_mut().for_each(|r| *r >>= 64 - bits);
    let blocks: Vec<(usize, Range<usize>)> = layout.blocks().collect();
    let groups: Vec<&[(usize, Range<usize>)]> =
        blocks.chunk_by(|a, b| a.1 == b.1).flat_map(|same| same.chunks(OUTPUTS)).collect();
    // One answer's randomness each, whoever computes it.
    let seeds = (0..blocks.len() * layout.tiles()).map(|_| random.block().to_le_bytes());
    let fresh: Zeroizing<Vec<[u8; 16]>> = Zeroizing::new(seeds.collect());
    // Work is cut by outputs, or by tiles where those are few.
    let cuts = if groups.len() >= 2 * threads { 1 } else { threads.min(layout.tiles()).max(1) };
    let tiles_of = |cut: usize| layout.tiles() * cut / cuts..layout.tiles() * (cut + 1) / cuts;
    let done = in_parallel(threads, groups.len() * cuts, |i| {
        let (group, tiles) = (groups[i / cuts], tiles_of(i % cuts));
        let weights = transformed(scheme, layout, weights, group);
        let answer = |(tile, o): (usize, usize), sums: [Residues; 2]| {
            let (block, number) = (group[o].0, group[o].0 * layout.tiles() + tile);
            one_answer(at, key, sums, &share, (tile, block), &mut Stream::new(fresh[number]))
        };
        let mut all = vec![];
        for tile in tiles {
            let [first, second] = [0, 1].map(|p| scheme.ntts[p].dot(&inputs[tile][p], group[0].1.start, &weights[p]));
            for (o, ([a0, a1], [b0, b1])) in first.into_iter().zip(second).enumerate() {
                all.push((group[o].0 * layout.tiles() + tile, answer((tile, o), [[a0, b0], [a1, b1]])));
            }
        }
        all
    });
    let mut answers: Vec<_> = done.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|a| a.0);
    let (mut message, mut first) = (Vec::with_capacity(layout.answer_words(bits)), vec![]);
    for (_, (second, z)) in answers {
        message.extend(second);
        first.extend(z);
    }
    message.extend(pack(&first, bits));
    Ok((message, share))
}

/// From the sums of products of an answer: its second part, and the wanted coefficients of the first one, masked.
fn one_answer(
    at: &Place<'_>,
    key: &PublicKey,
    mut c: [Residues; 2],
    share: &[u64],
    (tile, block): (usize, usize),
    random: &mut Stream,
) -> (Vec<u64>, Vec<u64>) {
    let Place { scheme, layout, bits, .. } = *at;
    let mut u = sample::ternary(random);
    let mut fresh = scheme.transformed(&u);
    u.zeroize();
    for (half, key) in c.iter_mut().zip(&key.0) {
        for (p, ntt) in scheme.ntts.iter().enumerate() {
            let products = key[p].iter().zip(&fresh[p]);
            let modulus = &ntt.modulus;
            half[p].iter_mut().zip(products).for_each(|(x, (k, u))| *x = modulus.add(*x, modulus.mul(*k, *u)));
            ntt.backward(&mut half[p]);
        }
    }
    fresh.zeroize();
    let mut e = sample::errors(random);
    for (x, ntt) in c[1].iter_mut().zip(&scheme.ntts) {
        x.iter_mut().zip(&e).for_each(|(x, e)| *x = ntt.modulus.add(*x, ntt.modulus.signed(*e)));
    }
    e.zeroize();
    let z = scheme.rescaled(&c[0], bits);
    let mask = u64::MAX >> (64 - bits);
    let wanted = layout.wanted(tile, block).into_iter().map(|(at, to)| z[at].wrapping_sub(share[to]) & mask);
    (pack(&scheme.rescaled(&c[1], bits + EXTRA), bits + EXTRA), wanted.collect())
}

/// The polynomials of weights of some blocks of outputs, modulo both primes.
fn transformed(scheme: &Scheme, layout: &Layout, weights: &[i64], group: &[(usize, Range<usize>)]) -> [Weights; 2] {
    let (run, needed) = (layout.run(), &group[0].1);
    let mut out = [0, 1].map(|_| Weights::new(needed.len(), group.len(), run));
    for (o, (block, _)) in group.iter().enumerate() {
        for (at, inputs) in needed.clone().enumerate() {
            let w = layout.weights(weights, *block, inputs);
            debug_assert_eq!(w.len() * run, N);
            for (out, ntt) in out.iter_mut().zip(&scheme.ntts) {
                let mut x: Vec<u64> = w.iter().map(|v| ntt.modulus.signed(*v)).collect();
                ntt.forward_short(&mut x);
                out.put(at, o, &x);
            }
        }
    }
    out
}

/// The client's share of the product from the answer: NHWC, `bits` bits.
///
/// # Errors
/// An answer of the wrong length.
pub fn read(at: &Place<'_>, key: &SecretKey, answer: &[u64]) -> Result<Vec<u64>> {
    let Place { scheme, layout, bits, threads } = *at;
    if answer.len() != layout.answer_words(bits) {
        return Err(Error::Length);
    }
    let n = layout.op.output().len();
    let (second, first) = answer.split_at(answer.len() - packed_words(n, bits));
    let first: Vec<u64> = unpack(first, n, bits);
    let words = packed_words(N, bits + EXTRA);
    let tiles = layout.tiles();
    let decrypted = in_parallel(threads, layout.output_blocks() * tiles, |i| {
        let c: Vec<u64> = unpack(&second[i * words..(i + 1) * words], N, bits + EXTRA);
        let y = key.decrypted(scheme, &c, bits);
        layout.wanted(i % tiles, i / tiles).into_iter().map(|(at, to)| (to, y[at])).collect::<Vec<_>>()
    });
    let mut share = vec![0; n];
    for ((to, y), z) in decrypted.into_iter().flatten().zip(first) {
        share[to] = z.wrapping_add(y) & (u64::MAX >> (64 - bits));
    }
    Ok(share)
}
