//! Transforms on any machine.

use super::{Inputs, Weights};
use crate::modulus::{Factor, Modulus};
use std::ops::Range;

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

/// Adds sums of products.
pub(super) fn dot(
    modulus: &Modulus,
    x: &Inputs,
    first: usize,
    w: &Weights,
    part: Range<usize>,
    out: &mut [[Vec<u64>; 2]],
) {
    for (o, out) in out.iter_mut().enumerate() {
        for (h, out) in out.iter_mut().enumerate() {
            for (at, out) in out.iter_mut().enumerate() {
                let (block, lane) = (at / 8, at % 8);
                let product = |i: usize| {
                    let x = x.words[((block * x.count + first + i) * 2 + h) * 8 + lane];
                    let w = match w.run {
                        1 => w.words[((block * w.count + i) * w.outputs + o) * 8 + lane],
                        run => w.words[(at / run * w.count + i) * w.outputs + o],
                    };
                    u128::from(x) * u128::from(w)
                };
                *out = modulus.add(*out, modulus.reduce(part.clone().map(product).sum()));
            }
        }
    }
}
