//! The negacyclic transform: from polynomials modulo X^N + 1 to their values at the odd powers of a root of order 2N, in
//! bit-reversed order. All instruction sets give the same numbers.
//!
//! Levels of butterflies after Harvey ("Faster arithmetic for number-theoretic transforms", 2014) in the order of Longa and Naehrig
//! (ePrint 2016/504): level by level X^2m + 1 splits into X^m - z and X^m + z. A polynomial in X^run is a constant modulo each
//! factor of degree `run`, so that its transform is one of N / run points, each of its values `run` times.

#[cfg(target_arch = "x86_64")]
mod ifma;
mod portable;

use crate::N;
use crate::modulus::{Factor, Modulus};
use std::ops::Range;

/// Transforms modulo one prime.
pub struct Ntt {
    /// The prime.
    pub modulus: Modulus,
    forward: Vec<Factor>,
    backward: Vec<Factor>,
    /// 1 / N.
    last: Factor,
    #[cfg(target_arch = "x86_64")]
    ifma: Option<ifma::Tables>,
}

/// Most products that are added up before a reduction.
const MOST: usize = 2048;

impl Ntt {
    /// The tables of a prime.
    #[must_use]
    pub fn new(modulus: Modulus) -> Self {
        let root = modulus.root();
        let inverse = modulus.inverse(root);
        let powers = |base: u64| -> Vec<Factor> {
            let mut table = vec![modulus.factor(1); N];
            let mut power = 1;
            for i in 0..N {
                let place = (i as u64).reverse_bits() >> (64 - N.trailing_zeros());
                table[place as usize] = modulus.factor(power);
                power = modulus.mul(power, base);
            }
            table
        };
        let (forward, backward) = (powers(root), powers(inverse));
        let last = modulus.factor(modulus.inverse(N as u64));
        Self {
            modulus,
            #[cfg(target_arch = "x86_64")]
            ifma: ifma::Tables::new(modulus, &forward, &backward, last),
            forward,
            backward,
            last,
        }
    }

    /// In place, for coefficients below p; values below p.
    pub fn forward(&self, x: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(tables) = &self.ifma {
            return tables.forward(x);
        }
        portable::forward(self.modulus.p, &self.forward, x);
    }

    /// The transform of a polynomial in X^run from its N / run coefficients: in place, each value once.
    pub fn forward_short(&self, x: &mut [u64]) {
        if x.len() == N {
            return self.forward(x);
        }
        portable::forward(self.modulus.p, &self.forward, x);
    }

    /// Back, in place.
    pub fn backward(&self, x: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(tables) = &self.ifma {
            return tables.backward(x);
        }
        portable::backward(self.modulus.p, &self.backward, self.last, x);
    }

    /// For every output the sum over inputs `first ..` of input times weight, both polynomials, modulo p.
    #[must_use]
    pub fn dot(&self, inputs: &Inputs, first: usize, weights: &Weights) -> Vec<[Vec<u64>; 2]> {
        let mut out: Vec<[Vec<u64>; 2]> = (0..weights.outputs).map(|_| [vec![0; N], vec![0; N]]).collect();
        for from in (0..weights.count).step_by(MOST) {
            self.some(inputs, first, weights, from..weights.count.min(from + MOST), &mut out);
        }
        out
    }

    /// Adds a part of the sums, of at most [`MOST`] products.
    fn some(&self, x: &Inputs, first: usize, w: &Weights, part: Range<usize>, out: &mut [[Vec<u64>; 2]]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(tables) = &self.ifma {
            return tables.dot(x, first, w, part, out);
        }
        portable::dot(&self.modulus, x, first, w, part, out);
    }
}

/// Polynomials in pairs as sums of products read them: for every eight values both polynomials of all pairs, side by side.
pub struct Inputs {
    count: usize,
    words: Vec<u64>,
}

impl Inputs {
    /// Room for so many.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { count, words: vec![0; 2 * N * count] }
    }

    /// Puts a pair in its place.
    pub fn put(&mut self, at: usize, pair: [&[u64]; 2]) {
        for (h, x) in pair.into_iter().enumerate() {
            for (block, x) in x.chunks_exact(8).enumerate() {
                self.words[((block * self.count + at) * 2 + h) * 8..][..8].copy_from_slice(x);
            }
        }
    }
}

/// Most outputs of a sum of products.
pub const OUTPUTS: usize = 4;

/// Weights of up to four outputs: for every eight values, or for each run of them, all inputs and for each all outputs.
pub struct Weights {
    count: usize,
    outputs: usize,
    /// Values that a weight stands for: one, or a run of at least eight.
    run: usize,
    words: Vec<u64>,
}

impl Weights {
    /// Room for so many inputs and outputs, of polynomials in X^run.
    #[must_use]
    pub fn new(count: usize, outputs: usize, run: usize) -> Self {
        Self { count, outputs, run, words: vec![0; N / run * count * outputs] }
    }

    /// Puts a transformed polynomial in its place.
    pub fn put(&mut self, input: usize, output: usize, values: &[u64]) {
        let (stride, at) = (self.count * self.outputs, input * self.outputs + output);
        if self.run > 1 {
            values.iter().enumerate().for_each(|(i, v)| self.words[i * stride + at] = *v);
            return;
        }
        for (block, values) in values.chunks_exact(8).enumerate() {
            self.words[(block * stride + at) * 8..][..8].copy_from_slice(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sordino_ot::Stream;

    fn random(m: Modulus, n: usize, seed: u8) -> Vec<u64> {
        Stream::new([seed; 16]).words(n).into_iter().map(|w| w % m.p).collect()
    }

    fn product(m: Modulus, a: &[u64], b: &[u64]) -> Vec<u64> {
        let mut out = vec![0; N];
        for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x != 0) {
            for (j, &y) in b.iter().enumerate() {
                let (at, v) = ((i + j) % N, m.mul(x, y));
                out[at] = if i + j < N { m.add(out[at], v) } else { m.sub(out[at], v) };
            }
        }
        out
    }

    fn one(ntt: &Ntt, inputs: &[[&[u64]; 2]], weights: &[&[u64]]) -> [Vec<u64>; 2] {
        let mut x = Inputs::new(inputs.len());
        let mut w = Weights::new(weights.len(), 1, N / weights[0].len());
        inputs.iter().enumerate().for_each(|(i, pair)| x.put(i, *pair));
        weights.iter().enumerate().for_each(|(i, values)| w.put(i, 0, values));
        ntt.dot(&x, 0, &w).remove(0)
    }

    #[test]
    fn products_of_values_are_those_of_polynomials() {
        for (bits, skip) in [(28, 0), (32, 0), (47, 1), (50, 2)] {
            let ntt = Ntt::new(Modulus::below(bits, skip));
            let m = ntt.modulus;
            let (a, b) = (random(m, N, 1), random(m, N, 2));
            let want = product(m, &a, &b);
            let transformed = |x: &[u64]| {
                let mut x = x.to_vec();
                ntt.forward(&mut x);
                x
            };
            let (fa, fb) = (transformed(&a), transformed(&b));
            let [mut got, same] = one(&ntt, &[[&fa, &fa]], &[&fb]);
            assert!(got == same);
            ntt.backward(&mut got);
            assert!(got == want, "{bits} bits");
            // As many of the largest values as there may be, and one more.
            let large = vec![m.p - 1; N];
            let [sum, _] = one(&ntt, &vec![[&large[..], &large]; MOST + 1], &vec![&large[..]; MOST + 1]);
            assert!(sum.iter().all(|v| *v == MOST as u64 + 1));
            // A polynomial in X^64.
            let mut short = random(m, N / 64, 3);
            let mut long = vec![0; N];
            short.iter().enumerate().for_each(|(i, v)| long[64 * i] = *v);
            ntt.forward(&mut long);
            ntt.forward_short(&mut short);
            assert!(long.iter().enumerate().all(|(i, v)| *v == short[i / 64]));
            assert!(one(&ntt, &[[&fa, &fb]], &[&short]) == one(&ntt, &[[&fa, &fb]], &[&long]));
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_numbers() {
        for bits in [30, 46, 49, 50] {
            let ntt = Ntt::new(Modulus::below(bits, 0));
            let p = ntt.modulus.p;
            for seed in 0..8 {
                let x = random(ntt.modulus, N, seed);
                let (mut a, mut b) = (x.clone(), x.clone());
                ntt.forward(&mut a);
                portable::forward(p, &ntt.forward, &mut b);
                assert!(a == b && a.iter().all(|v| *v < p));
                // Some inputs, and every number of outputs.
                let (run, outputs) = (if seed % 2 == 0 { 1 } else { 8 }, 1 + seed as usize % OUTPUTS);
                let (mut inputs, mut weights) = (Inputs::new(4), Weights::new(2, outputs, run));
                [[&a, &x], [&x, &a], [&a, &a], [&x, &x]]
                    .iter()
                    .enumerate()
                    .for_each(|(i, [a, b])| inputs.put(i, [a, b]));
                for o in 0..outputs {
                    (0..2).for_each(|i| weights.put(i, o, &random(ntt.modulus, N / run, (10 * o + i) as u8)));
                }
                let got = ntt.dot(&inputs, 1, &weights);
                let mut other = vec![[vec![0; N], vec![0; N]]; outputs];
                portable::dot(&ntt.modulus, &inputs, 1, &weights, 0..2, &mut other);
                assert!(got == other);
                ntt.backward(&mut a);
                portable::backward(p, &ntt.backward, ntt.last, &mut b);
                assert!(a == x && b == x);
            }
        }
    }

    #[test]
    fn a_known_answer() {
        // Of X: the odd powers of the root, in bit-reversed order.
        let ntt = Ntt::new(Modulus::below(32, 0));
        let m = ntt.modulus;
        assert_eq!(m.p, 4_294_828_033);
        let mut x = vec![0; N];
        x[1] = 1;
        ntt.forward(&mut x);
        for (i, v) in x.iter().enumerate() {
            let place = (i as u64).reverse_bits() >> (64 - N.trailing_zeros());
            assert_eq!(*v, m.pow(m.root(), 2 * place + 1));
        }
    }
}
