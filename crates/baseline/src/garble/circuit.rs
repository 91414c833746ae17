//! Integers as lists of wires from the lowest bit on, and ReLU of shared ones.

use super::gates::{Gates, Wire};
use sordino_mpc::Result;
use sordino_mpc::two::Modulus;

/// a + b, and the carry out of it if that is asked for; numbers have as many bits.
fn add<G: Gates>(g: &mut G, a: &[Wire], b: &[Wire], carry: bool) -> Result<Vec<Wire>> {
    let bits = a.len();
    let mut sum = Vec::with_capacity(bits + 1);
    let mut carried: Option<Wire> = None;
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let half = g.xor(a, b);
        let last = i + 1 == bits && !carry;
        let next = match &carried {
            _ if last => None,
            None => Some(g.and(a, b)?),
            // c ^ (a ^ c)(b ^ c).
            Some(c) => {
                let both = g.and(&g.xor(a, c), &g.xor(b, c))?;
                Some(g.xor(c, &both))
            }
        };
        sum.push(carried.as_ref().map_or_else(|| half.clone(), |c| g.xor(&half, c)));
        carried = next;
    }
    sum.extend(carried);
    Ok(sum)
}

/// a - n for a public n of as many bits, and whether a is at least n.
fn less<G: Gates>(g: &mut G, a: &[Wire], n: u64) -> Result<(Vec<Wire>, Wire)> {
    // a + !n + 1, whose carry says that nothing was borrowed.
    let mut difference = Vec::with_capacity(a.len());
    // None is a carry that is one.
    let mut carried: Option<Wire> = None;
    for (i, a) in a.iter().enumerate() {
        let one = n >> i & 1 == 0;
        let turned = if one { g.not(a) } else { a.clone() };
        // a ^ !n_i ^ c.
        difference.push(match &carried {
            None => g.not(&turned),
            Some(c) => g.xor(&turned, c),
        });
        carried = match carried {
            None if one => None,
            None => Some(a.clone()),
            // With a public bit the carry is an OR, or an AND.
            Some(c) if one => {
                let both = g.and(&g.not(a), &g.not(&c))?;
                Some(g.not(&both))
            }
            Some(c) => Some(g.and(a, &c)?),
        };
    }
    let carried = match carried {
        Some(c) => c,
        // n is zero.
        None => {
            let zero = g.xor(&a[0], &a[0]);
            g.not(&zero)
        }
    };
    Ok((difference, carried))
}

/// `bit ? a : b`.
fn choose<G: Gates>(g: &mut G, bit: &Wire, a: &[Wire], b: &[Wire]) -> Result<Vec<Wire>> {
    let one = |(a, b): (&Wire, &Wire)| {
        let chosen = g.and(bit, &g.xor(a, b))?;
        Ok(g.xor(&chosen, b))
    };
    a.iter().zip(b).map(one).collect()
}

/// a where the bit is set.
fn keep<G: Gates>(g: &mut G, bit: &Wire, a: &[Wire]) -> Result<Vec<Wire>> {
    a.iter().map(|a| g.and(bit, a)).collect()
}

/// a + b modulo N, both below.
fn add_modulo<G: Gates>(g: &mut G, modulus: Modulus, a: &[Wire], b: &[Wire]) -> Result<Vec<Wire>> {
    let sum = add(g, a, b, true)?;
    let (less, over) = less(g, &sum, modulus.get())?;
    let bits = modulus.bits() as usize;
    choose(g, &over, &less[..bits], &sum[..bits])
}

/// max(a + b, 0) + c in Z/N.
pub(crate) fn relu<G: Gates>(g: &mut G, modulus: Modulus, [a, b, c]: [&[Wire]; 3]) -> Result<Vec<Wire>> {
    if !modulus.is_binary() {
        let x = add_modulo(g, modulus, a, b)?;
        let (_, negative) = less(g, &x, modulus.largest() + 1)?;
        let kept = keep(g, &g.not(&negative), &x)?;
        return add_modulo(g, modulus, &kept, c);
    }
    let mut x = add(g, a, b, false)?;
    let top = x.pop().map(|sign| g.not(&sign));
    let Some(positive) = top else { return Ok(vec![]) };
    let mut y = keep(g, &positive, &x)?;
    // The top bit of what is kept is zero.
    y.push(g.xor(&positive, &positive));
    add(g, &y, c, false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// In the clear, and counting.
    #[derive(Default)]
    struct Clear {
        gates: usize,
    }

    impl Gates for Clear {
        fn and(&mut self, a: &Wire, b: &Wire) -> Result<Wire> {
            self.gates += 1;
            Ok(a.iter().zip(b).map(|(a, b)| a & b).collect())
        }
        fn not(&self, a: &Wire) -> Wire {
            a.iter().map(|a| a ^ 1).collect()
        }
    }

    #[test]
    fn relu_of_every_pair_of_shares() {
        for n in (2..=20).chain([31, 32, 33]) {
            let modulus = Modulus::new(n).unwrap();
            let all: Vec<[u64; 3]> = (0..n * n).map(|i| [i / n, i % n, (i * 7 + 3) % n]).collect();
            let number = |which: usize| -> Vec<Wire> {
                (0..modulus.bits()).map(|bit| all.iter().map(|v| u128::from(v[which] >> bit & 1)).collect()).collect()
            };
            let mut g = Clear::default();
            let y = relu(&mut g, modulus, [&number(0), &number(1), &number(2)]).unwrap();
            for (i, [a, b, c]) in all.iter().enumerate() {
                let x = modulus.signed(modulus.add(*a, *b));
                let got = y.iter().rev().fold(0, |v, wire| v << 1 | wire[i] as u64);
                assert_eq!(got, modulus.add(modulus.of(x.max(0)), *c), "{a} + {b}, {c} modulo {n}");
            }
            let l = modulus.bits() as usize;
            // Three chains of l - 1 over a ring of 2^l; modulo N additions, subtractions and choices, twice, and a comparison.
            assert!(
                if modulus.is_binary() { g.gates == 3 * (l - 1) } else { g.gates <= 8 * l + 2 },
                "{n}: {}",
                g.gates
            );
        }
    }
}
