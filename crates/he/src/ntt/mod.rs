//! The negacyclic transform: from polynomials modulo X^N + 1 to their values at the odd powers of a root of order 2N, in
//! bit-reversed order. All instruction sets give the same numbers.
//!
//! Levels of butterflies after Harvey ("Faster arithmetic for number-theoretic transforms", 2014) in the order of Longa and Naehrig
//! (ePrint 2016/504): level by level X^2m + 1 splits into X^m - z and X^m + z. A polynomial in X^run is a constant modulo each
//! factor of degree `run`, so that its transform is one of N / run points, each of its values `run` times.

#[cfg(target_arch = "x86_64")]
mod avx2;
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
    simd: Option<Simd>,
}

/// The best kernels that the processor has.
#[cfg(target_arch = "x86_64")]
enum Simd {
    Ifma(ifma::Tables),
    Avx2(avx2::Tables),
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
            simd: ifma::Tables::new(modulus, &forward, &backward, last)
                .map(Simd::Ifma)
                .or_else(|| avx2::Tables::new(modulus, &forward, &backward, last).map(Simd::Avx2)),
            forward,
            backward,
            last,
        }
    }

    /// In place, for coefficients below p; values below p.
    pub fn forward(&self, x: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        match &self.simd {
            Some(Simd::Ifma(tables)) => return tables.forward(x),
            Some(Simd::Avx2(tables)) => return tables.forward(x),
            None => (),
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
        match &self.simd {
            Some(Simd::Ifma(tables)) => return tables.backward(x),
            Some(Simd::Avx2(tables)) => return tables.backward(x),
            None => (),
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
        match &self.simd {
            Some(Simd::Ifma(tables)) => return tables.dot(x, first, w, part, out),
            Some(Simd::Avx2(tables)) => return tables.dot(x, first, w, part, out),
            None => (),
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

/// That a part of a sum lies within its operands: what kernels that load and store without a look rely on.
///
/// # Panics
/// Otherwise.
#[cfg(target_arch = "x86_64")]
fn assert_summable(x: &Inputs, first: usize, w: &Weights, part: &Range<usize>, out: &[[Vec<u64>; 2]]) {
    assert!(first + part.end <= x.count && part.end <= w.count && part.len() <= MOST);
    assert!(x.words.len() == 2 * N * x.count && w.words.len() == N / w.run * w.count * w.outputs);
    assert!(w.run == 1 || w.run >= 8);
    assert!(out.len() == w.outputs && out.iter().flatten().all(|o| o.len() == N));
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

    /// The same prime with the kernels of every instruction set that this processor has, and of any machine's.
    fn all_kernels(modulus: Modulus) -> Vec<Ntt> {
        let any = Ntt::new(modulus);
        let plain = |simd| Ntt {
            modulus,
            forward: any.forward.clone(),
            backward: any.backward.clone(),
            last: any.last,
            #[cfg(target_arch = "x86_64")]
            simd,
        };
        #[cfg(target_arch = "x86_64")]
        {
            let ifma = ifma::Tables::new(modulus, &any.forward, &any.backward, any.last).map(Simd::Ifma);
            let avx2 = avx2::Tables::new(modulus, &any.forward, &any.backward, any.last).map(Simd::Avx2);
            [None, ifma, avx2]
                .into_iter()
                .enumerate()
                .filter(|(i, s)| *i == 0 || s.is_some())
                .map(|(_, s)| plain(s))
                .collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![plain()]
    }

    #[test]
    fn every_instruction_set_gives_the_same_numbers() {
        for (bits, skip) in [(26, 0), (30, 0), (32, 1), (46, 0), (49, 0), (50, 0), (50, 1)] {
            let kernels = all_kernels(Modulus::below(bits, skip));
            let (p, first) = (kernels[0].modulus.p, &kernels[0]);
            let extremes = [vec![p - 1; N], vec![0; N], (0..N as u64).map(|i| (i % 2) * (p - 1)).collect()];
            for (seed, x) in extremes.into_iter().chain((0..5).map(|s| random(first.modulus, N, s))).enumerate() {
                let (run, outputs) = (if seed % 2 == 0 { 1 } else { 8 }, 1 + seed % OUTPUTS);
                // As many products as may be added up before a reduction, of values that may be the largest.
                let count = if seed == 0 && bits == 50 { MOST } else { 3 };
                let mut want = None;
                for ntt in &kernels {
                    let mut a = x.clone();
                    ntt.forward(&mut a);
                    assert!(a.iter().all(|v| *v < p));
                    let (mut inputs, mut weights) = (Inputs::new(count + 1), Weights::new(count, outputs, run));
                    (0..=count).for_each(|i| inputs.put(i, if i % 2 == 0 { [&a, &x] } else { [&x, &x] }));
                    for (i, o) in (0..count).flat_map(|i| (0..outputs).map(move |o| (i, o))) {
                        let from = if run == 1 { 0 } else { i };
                        weights.put(i, o, if seed < 3 { &x[..N / run] } else { &a[from..from + N / run] });
                    }
                    let sums = ntt.dot(&inputs, 1, &weights);
                    let mut back = a.clone();
                    ntt.backward(&mut back);
                    assert!(back == x, "{bits} bits, input {seed}");
                    let got = (a, sums);
                    assert!(*want.get_or_insert_with(|| got.clone()) == got, "{bits} bits, input {seed}");
                }
            }
        }
    }

    /// Not a test: what each instruction set takes. `cargo test --release -p sordino-he -- --ignored --nocapture`
    #[test]
    #[ignore = "prints times"]
    fn times() {
        const COUNT: usize = 64;
        for bits in [32, 50] {
            for ntt in all_kernels(Modulus::below(bits, 0)) {
                #[cfg(target_arch = "x86_64")]
                let name = match ntt.simd {
                    None => "portable",
                    Some(Simd::Ifma(_)) => "AVX-512 IFMA",
                    Some(Simd::Avx2(_)) => "AVX2",
                };
                #[cfg(not(target_arch = "x86_64"))]
                let name = "portable";
                let mut x = random(ntt.modulus, N, 1);
                let mut inputs = Inputs::new(COUNT);
                let (mut whole, mut short) = (Weights::new(COUNT, OUTPUTS, 1), Weights::new(COUNT, OUTPUTS, 64));
                for i in 0..COUNT {
                    inputs.put(i, [&x, &x]);
                    (0..OUTPUTS).for_each(|o| whole.put(i, o, &x));
                    (0..OUTPUTS).for_each(|o| short.put(i, o, &x[..N / 64]));
                }
                let microseconds = |times: u32, work: &mut dyn FnMut()| {
                    work();
                    let start = std::time::Instant::now();
                    (0..times).for_each(|_| work());
                    1e6 * start.elapsed().as_secs_f64() / f64::from(times)
                };
                let forward = microseconds(2000, &mut || ntt.forward(&mut x));
                let backward = microseconds(2000, &mut || ntt.backward(&mut x));
                let each = (COUNT * OUTPUTS) as f64;
                let [whole, short] = [&whole, &short]
                    .map(|w| microseconds(20, &mut || drop(std::hint::black_box(ntt.dot(&inputs, 0, w)))) / each);
                println!(
                    "{bits} bits, {name}: transform {forward:.2} us, back {backward:.2} us, product of a ciphertext {whole:.2} us, by a polynomial in X^64 {short:.2} us"
                );
            }
        }
    }

    /// What `scripts/vectors.py` computes from the definition, by every kernel that this processor has.
    #[test]
    fn transforms_give_what_their_definition_says() {
        let numbers = |text: &str| -> Vec<u64> { text.split_whitespace().filter_map(|n| n.parse().ok()).collect() };
        let lines: Vec<&str> =
            include_str!("../../tests/vectors/transforms.txt").lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(lines.len(), 3);
        for (line, bits) in lines.into_iter().zip([26, 32, 50]) {
            let parts: Vec<Vec<u64>> = line.split('|').map(numbers).collect();
            for ntt in all_kernels(Modulus::below(bits, 0)) {
                assert_eq!([ntt.modulus.p, ntt.modulus.root()], parts[0][..]);
                let mut x = vec![0; N];
                parts[1].chunks(2).for_each(|pair| x[pair[0] as usize] = pair[1]);
                ntt.forward(&mut x);
                for pair in parts[2].chunks(2) {
                    assert_eq!(x[pair[0] as usize], pair[1], "place {} of {line}", pair[0]);
                }
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
