//! One linear layer: the client's ciphertexts, the model owner's answers, the client's share.
//!
//! The client encrypts its share x_1 of the input. The model's owner multiplies by its weights, adds a fresh encryption of zero
//! (u pk plus an error in the second part), rescales to `bits` = w + g bits, and sends of the first part only the wanted
//! coefficients, each less a uniform mask r: z is uniform whatever the first part is, and the second part is a sample of RLWE with
//! secret u under the uniform pk. So an answer says nothing of the weights; no noise is flooded. The owner's share of the product is r.

use crate::cipher::{PublicKey, Residues, SEED, Scheme, SecretKey, seeded};
use crate::layout::Layout;
use crate::params::{EXTRA, Params};
use crate::{Error, N, Result, sample};
use sordino_ot::Stream;
use sordino_ring::{pack, packed_words, unpack};
use zeroize::Zeroize;

/// Words of the client's message.
#[must_use]
pub fn question_words(params: Params, layout: &Layout) -> usize {
    SEED + layout.input_words(params)
}

/// The client's message: its share of the input, elements below 2^w, encrypted.
#[must_use]
pub fn question(scheme: &Scheme, key: &SecretKey, layout: &Layout, x: &[u64], w: u32, random: &mut Stream) -> Vec<u64> {
    let mut message = Vec::with_capacity(question_words(scheme.params, layout));
    message.extend(random.words(SEED));
    let Ok(mut public) = seeded(&message) else { return message };
    for tile in 0..layout.tiles() {
        for inputs in 0..layout.input_blocks() {
            let a = scheme.uniform(&mut public);
            let mut v = layout.input(x, tile, inputs);
            let c = key.encrypted(scheme, &v, w, &a, random);
            v.zeroize();
            scheme.packed(&c, &mut message);
        }
    }
    message
}

/// The model owner's message for a question, and its share of the product: NHWC, `bits` bits.
///
/// # Errors
/// A question of the wrong length.
pub fn answer(
    scheme: &Scheme,
    key: &PublicKey,
    layout: &Layout,
    weights: &[i64],
    question: &[u64],
    bits: u32,
    random: &mut Stream,
) -> Result<(Vec<u64>, Vec<u64>)> {
    if question.len() != question_words(scheme.params, layout) {
        return Err(Error::Length);
    }
    let (seed, ciphertexts) = question.split_at(SEED);
    let mut public = seeded(seed)?;
    // By ciphertext: both polynomials modulo both primes.
    let mut inputs: Vec<[Residues; 2]> = vec![];
    for words in ciphertexts.chunks(scheme.params.words()) {
        inputs.push([scheme.unpacked(words)?, scheme.uniform(&mut public)]);
    }
    let per_tile = layout.input_blocks();
    let (mut second, mut first) = (vec![], vec![]);
    let mut share = random.words(layout.op.output().len());
    share.iter_mut().for_each(|r| *r >>= 64 - bits);
    let run = layout.run();
    for (block, needed) in layout.blocks() {
        let polynomials: Vec<Residues> =
            needed.clone().map(|i| transformed(scheme, &layout.weights(weights, block, i), run)).collect();
        for tile in 0..layout.tiles() {
            let mut u = sample::ternary(random);
            let fresh = scheme.transformed(&u);
            u.zeroize();
            let sums = [0, 1].map(|p| {
                let mut terms: Vec<[&[u64]; 2]> = needed
                    .clone()
                    .map(|i| &inputs[tile * per_tile + i])
                    .map(|x| [&x[0][p][..], &x[1][p][..]])
                    .collect();
                terms.push([&key.0[0][p], &key.0[1][p]]);
                let factors: Vec<&[u64]> = polynomials.iter().map(|w| &w[p][..]).chain([&fresh[p][..]]).collect();
                scheme.ntts[p].dot(&terms, &factors)
            });
            let [[a0, a1], [b0, b1]] = sums;
            let mut c: [Residues; 2] = [[a0, b0], [a1, b1]];
            for half in &mut c {
                half.iter_mut().zip(&scheme.ntts).for_each(|(x, ntt)| ntt.backward(x));
            }
            let mut e = sample::errors(random);
            for (x, ntt) in c[1].iter_mut().zip(&scheme.ntts) {
                x.iter_mut().zip(&e).for_each(|(x, e)| *x = ntt.modulus.add(*x, ntt.modulus.signed(*e)));
            }
            e.zeroize();
            let z = scheme.rescaled(&c[0], bits);
            let mask = u64::MAX >> (64 - bits);
            first.extend(layout.wanted(tile, block).into_iter().map(|(at, to)| z[at].wrapping_sub(share[to]) & mask));
            second.extend(pack(&scheme.rescaled(&c[1], bits + EXTRA), bits + EXTRA));
        }
    }
    second.extend(pack(&first, bits));
    Ok((second, share))
}

/// A polynomial of weights, given by runs, modulo both primes.
fn transformed(scheme: &Scheme, w: &[i64], run: usize) -> Residues {
    debug_assert_eq!(w.len() * run, N);
    [0, 1].map(|i| {
        let ntt = &scheme.ntts[i];
        let mut x: Vec<u64> = w.iter().map(|v| ntt.modulus.signed(*v)).collect();
        ntt.forward_short(&mut x);
        x
    })
}

/// The client's share of the product from the answer: NHWC, `bits` bits.
///
/// # Errors
/// An answer of the wrong length.
pub fn read(scheme: &Scheme, key: &SecretKey, layout: &Layout, answer: &[u64], bits: u32) -> Result<Vec<u64>> {
    if answer.len() != layout.answer_words(bits) {
        return Err(Error::Length);
    }
    let n = layout.op.output().len();
    let (second, first) = answer.split_at(answer.len() - packed_words(n, bits));
    let first: Vec<u64> = unpack(first, n, bits);
    let (mut share, mut next) = (vec![0; n], first.into_iter());
    let mut polynomials = second.chunks(packed_words(N, bits + EXTRA));
    for (block, _) in layout.blocks() {
        for tile in 0..layout.tiles() {
            let c: Vec<u64> = unpack(polynomials.next().unwrap_or_default(), N, bits + EXTRA);
            let y = key.decrypted(scheme, &c, bits);
            let mask = u64::MAX >> (64 - bits);
            for ((at, to), z) in layout.wanted(tile, block).into_iter().zip(&mut next) {
                share[to] = z.wrapping_add(y[at]) & mask;
            }
        }
    }
    Ok(share)
}
