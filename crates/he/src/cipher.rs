//! Keys, encryption of polynomials over Z/2^w, and decryption of answers.

use crate::modulus::{Modulus, WIDEST};
use crate::ntt::Ntt;
use crate::params::{EXTRA, Params};
use crate::{Error, N, Result, sample};
use sordino_ot::Stream;
use sordino_ring::{pack, unpack};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bits of a fraction of q beyond those of a prime: what is lost below is far less than any rounding.
const FINE: u32 = 76;

/// A polynomial modulo both primes.
pub(crate) type Residues = [Vec<u64>; 2];

/// Everything public of a modulus.
pub struct Scheme {
    /// Its size.
    pub params: Params,
    pub(crate) ntts: [Ntt; 2],
    /// 1 / (q / p_i) mod p_i, and floor(2^(bits + FINE) / p_i): fractions of q.
    fractions: [(u64, u128); 2],
    /// For the client's product with its secret.
    plain: Ntt,
}

impl Scheme {
    /// Of a modulus.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let bits = params.prime_bits;
        let moduli = [0, 1].map(|skip| Modulus::below(bits, skip));
        let fraction = |i: usize| {
            let (own, other) = (moduli[i], moduli[1 - i]);
            // bits + FINE is at most 126.
            (own.inverse(other.p % own.p), (1u128 << (bits + FINE)) / u128::from(own.p))
        };
        Self {
            params,
            fractions: [fraction(0), fraction(1)],
            ntts: moduli.map(Ntt::new),
            plain: Ntt::new(Modulus::below(WIDEST, 0)),
        }
    }

    /// round(2^bits x / q) mod 2^bits of every coefficient.
    pub(crate) fn rescaled(&self, x: &Residues, bits: u32) -> Vec<u64> {
        let whole = self.params.prime_bits + FINE;
        let term = |i: usize, v: u64| {
            let (inverse, ratio) = self.fractions[i];
            u128::from(self.ntts[i].modulus.mul(v, inverse)) * ratio
        };
        // Sums stay below 2^128, and what lies above q is whole: it goes with the highest bits.
        let half = 1u128 << (whole - bits - 1);
        let both = x[0].iter().zip(&x[1]);
        both.map(|(a, b)| ((term(0, *a) + term(1, *b) + half) >> (whole - bits)) as u64 & (u64::MAX >> (64 - bits)))
            .collect()
    }

    /// Small integers modulo both primes, transformed.
    pub(crate) fn transformed(&self, x: &[i64]) -> Residues {
        [0, 1].map(|i| {
            let ntt = &self.ntts[i];
            let mut x: Vec<u64> = x.iter().map(|v| ntt.modulus.signed(*v)).collect();
            ntt.forward(&mut x);
            x
        })
    }

    /// The public polynomials of a seed, one after the other.
    pub(crate) fn uniform(&self, public: &mut Stream) -> Residues {
        [0, 1].map(|i| sample::uniform(public, self.ntts[i].modulus.p))
    }

    pub(crate) fn packed(&self, x: &Residues, message: &mut Vec<u64>) {
        x.iter().for_each(|x| message.extend(pack(x, self.params.prime_bits)));
    }

    /// A polynomial from its words; a peer's values may be anything below the power of two above p.
    pub(crate) fn unpacked(&self, words: &[u64]) -> Result<Residues> {
        let half = self.params.words() / 2;
        if words.len() != 2 * half {
            return Err(Error::Length);
        }
        let residue = |i: usize| -> Vec<u64> {
            let p = self.ntts[i].modulus.p;
            let values: Vec<u64> = unpack(&words[i * half..(i + 1) * half], N, self.params.prime_bits);
            values.into_iter().map(|v| v.min(v.wrapping_sub(p))).collect()
        };
        Ok([residue(0), residue(1)])
    }
}

/// The client's key. No `Debug`, no `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey {
    /// Transformed.
    s: Residues,
    /// Transformed modulo the plain prime.
    plain: Vec<u64>,
}

/// What the model's owner makes answers fresh with: (b, a) with b = e - a s, transformed.
pub struct PublicKey(pub(crate) [Residues; 2]);

/// Words of a seed.
pub(crate) const SEED: usize = 2;

/// The public polynomials of a message: each from a stream of its own, so that they can be made in any order.
pub(crate) struct Seeds(u128);

/// A block as words.
pub(crate) fn halves(block: u128) -> [u64; SEED] {
    [block as u64, (block >> 64) as u64]
}

impl Seeds {
    /// Of a seed.
    pub(crate) fn new(seed: u128) -> Self {
        Self(seed)
    }

    /// Of a seed's words.
    pub(crate) fn read(words: &[u64]) -> Result<Self> {
        let [low, high]: [u64; SEED] = words.try_into().map_err(|_| Error::Length)?;
        Ok(Self(u128::from(low) | u128::from(high) << 64))
    }

    /// The stream of polynomial number i.
    pub(crate) fn stream(&self, i: usize) -> Stream {
        Stream::new(Stream::new(self.0.to_le_bytes()).at(i as u64).to_le_bytes())
    }
}

impl SecretKey {
    /// A fresh key, and the message that tells the other end the public key.
    #[must_use]
    pub fn new(scheme: &Scheme, random: &mut Stream) -> (Self, Vec<u64>) {
        let mut s = sample::ternary(random);
        let modulus = scheme.plain.modulus;
        let mut plain: Vec<u64> = s.iter().map(|v| modulus.signed(*v)).collect();
        scheme.plain.forward(&mut plain);
        let key = Self { s: scheme.transformed(&s), plain };
        s.zeroize();
        let seed = random.block();
        let a = scheme.uniform(&mut Seeds::new(seed).stream(0));
        let mut e = sample::errors(random);
        let b = key.masked(scheme, &a, scheme.transformed(&e));
        e.zeroize();
        let mut message = halves(seed).to_vec();
        scheme.packed(&b, &mut message);
        (key, message)
    }

    /// m - a s, transformed.
    fn masked(&self, scheme: &Scheme, a: &Residues, m: Residues) -> Residues {
        let mut out = m;
        for (i, out) in out.iter_mut().enumerate() {
            let modulus = &scheme.ntts[i].modulus;
            let products = a[i].iter().zip(&self.s[i]);
            out.iter_mut().zip(products).for_each(|(m, (a, s))| *m = modulus.sub(*m, modulus.mul(*a, *s)));
        }
        out
    }

    /// c_0 of an encryption of a polynomial over Z/2^w: e + round(q v / 2^w) - a s, transformed.
    pub(crate) fn encrypted(&self, scheme: &Scheme, v: &[u64], w: u32, a: &Residues, random: &mut Stream) -> Residues {
        let [p0, p1] = [0, 1].map(|i| scheme.ntts[i].modulus.p);
        let q = u128::from(p0) * u128::from(p1);
        let (hi, lo) = ((q >> 64) as u64, q as u64);
        let mut e = sample::errors(random);
        let dither = random.words(N);
        let mut m: Residues = [Vec::with_capacity(N), Vec::with_capacity(N)];
        for ((&v, &e), dither) in v.iter().zip(&e).zip(dither) {
            // q v / 2^w from the two halves of q, rounded up or down by chance: weights of one sign would add up errors of one sign.
            let scaled = ((u128::from(hi) * u128::from(v)) << (64 - w))
                + ((u128::from(lo) * u128::from(v) + u128::from(dither >> (64 - w))) >> w);
            for (i, m) in m.iter_mut().enumerate() {
                let modulus = &scheme.ntts[i].modulus;
                m.push(modulus.add(modulus.reduce(scaled), modulus.signed(e)));
            }
        }
        e.zeroize();
        m.iter_mut().zip(&scheme.ntts).for_each(|(m, ntt)| ntt.forward(m));
        self.masked(scheme, a, m)
    }

    /// round(2^bits (C_1 s) / 2^(bits + EXTRA)) mod 2^bits of every coefficient, from C_1 rescaled to bits + EXTRA bits.
    pub(crate) fn decrypted(&self, scheme: &Scheme, c: &[u64], bits: u32) -> Vec<u64> {
        let ntt = &scheme.plain;
        let p = ntt.modulus.p;
        // Halves of 32 bits times {-1, 0, 1}: sums stay below 2^44, so that the prime's residues are the integers.
        let [low, high] = [0, 32].map(|shift| {
            let mut x: Vec<u64> = c.iter().map(|v| v >> shift & 0xffff_ffff).collect();
            ntt.forward(&mut x);
            x.iter_mut().zip(&self.plain).for_each(|(x, s)| *x = ntt.modulus.mul(*x, *s));
            ntt.backward(&mut x);
            x
        });
        // Residues of integers below 2^44 in magnitude: the upper half of the prime stands for negative ones.
        let signed = |v: u64| v.wrapping_sub(p & ((p / 2).wrapping_sub(v) >> 63).wrapping_neg());
        let half = 1u64 << (EXTRA - 1);
        let sum = |(l, h): (&u64, &u64)| {
            let exact = signed(*l).wrapping_add(signed(*h) << 32);
            (exact.wrapping_add(half) << (64 - bits - EXTRA)) >> (64 - bits)
        };
        low.iter().zip(&high).map(sum).collect()
    }
}

impl PublicKey {
    /// Words of the message that carries it.
    #[must_use]
    pub fn words(params: Params) -> usize {
        SEED + params.words()
    }

    /// From the client's message.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn read(scheme: &Scheme, message: &[u64]) -> Result<Self> {
        let (seed, b) = message.split_at_checked(SEED).ok_or(Error::Length)?;
        Ok(Self([scheme.unpacked(b)?, scheme.uniform(&mut Seeds::read(seed)?.stream(0))]))
    }
}
