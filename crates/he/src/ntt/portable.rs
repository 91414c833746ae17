//! Transforms on any machine.

use crate::N;
use crate::modulus::{Factor, Modulus};

/// Of any power of two of points, with the first of the longest transform's factors.
pub(super) fn forward(p: u64, factors: &[Factor], x: &mut [u64]) {
    let two_p = 2 * p;
    let (mut groups, mut half) = (1, x.len() / 2);
    while half > 0 {
        for (group, factor) in x.chunks_exact_mut(2 * half).zip(&factors[groups..]) {
            let (low, high) = group.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                // Below 4p in, below 4p out.
                let u = (*a).min(a.wrapping_sub(two_p));
                let v = factor.times(*b, p);
                (*a, *b) = (u + v, u + two_p - v);
            }
        }
        groups *= 2;
        half /= 2;
    }
    for v in x {
        *v = (*v).min(v.wrapping_sub(two_p));
        *v = (*v).min(v.wrapping_sub(p));
    }
}

pub(super) fn backward(p: u64, factors: &[Factor], last: Factor, x: &mut [u64]) {
    let two_p = 2 * p;
    let (mut groups, mut half) = (x.len() / 2, 1);
    while groups > 0 {
        for (group, factor) in x.chunks_exact_mut(2 * half).zip(&factors[groups..]) {
            let (low, high) = group.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                // Below 2p in, below 2p out.
                let (u, v) = (*a, *b);
                let sum = u + v;
                *a = sum.min(sum.wrapping_sub(two_p));
                *b = factor.times(u + two_p - v, p);
            }
        }
        groups /= 2;
        half *= 2;
    }
    for v in x {
        *v = last.times(*v, p);
        *v = (*v).min(v.wrapping_sub(p));
    }
}

/// Sums of products, in two words each until they are reduced.
pub(super) fn dot(modulus: &Modulus, inputs: &[[&[u64]; 2]], weights: &[&[u64]]) -> [Vec<u64>; 2] {
    [0, 1].map(|h| {
        let mut sums = vec![0u128; N];
        for (x, w) in inputs.iter().zip(weights) {
            let run = N / w.len();
            for ((sums, x), &w) in sums.chunks_exact_mut(run).zip(x[h].chunks_exact(run)).zip(*w) {
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += u128::from(x) * u128::from(w));
            }
        }
        sums.into_iter().map(|sum| modulus.reduce(sum)).collect()
    })
}
