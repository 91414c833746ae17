//! Smooth functions of one variable on shares: piecewise polynomials of degree four.
//!
//! Comparisons with public thresholds find the piece; its centre, inverse half-width and coefficients are public
//! combinations of the comparison bits; the local coordinate and Horner's rule take five products. Left of the first
//! and right of the last threshold the function is constant, so nothing ever leaves its range.

use super::builder::{Builder, Pending};
use crate::program::{Op, Slot};
use crate::{Error, Result};
use std::rc::Rc;

const DEGREE: usize = 4;
/// Largest error of the fit over the whole range, relative to the largest value.
const TOLERANCE: f64 = 2e-6;

/// A function with the range it is fitted on.
pub(super) struct Function {
    f: Box<dyn Fn(f64) -> f64>,
    lo: f64,
    hi: f64,
    /// Thresholds are spaced evenly in log(x - origin) if there is an origin, else evenly.
    origin: Option<f64>,
    /// Values beyond the ends.
    ends: [f64; 2],
}

impl Function {
    /// e^x for x <= 0; zero below -16.
    pub(super) fn exp_of_negative() -> Self {
        Self { f: Box::new(f64::exp), lo: -16.0, hi: 0.01, origin: None, ends: [0.0, 1.0] }
    }
    /// 1 / x on a positive range.
    pub(super) fn reciprocal(lo: f64, hi: f64) -> Self {
        Self { f: Box::new(|x| 1.0 / x), lo, hi, origin: Some(0.0), ends: [1.0 / lo, 1.0 / hi] }
    }
    /// 1 / (1 + e^-x), constant where it is within 1e-6 of its limits.
    pub(super) fn sigmoid(range: f64) -> Self {
        let r = range.clamp(1.0, 14.0);
        let f = |x: f64| 1.0 / (1.0 + (-x).exp());
        Self { f: Box::new(f), lo: -r, hi: r, origin: None, ends: [f(-r), f(r)] }
    }
    /// -log(x) from 2^-12 to a little over one.
    pub(super) fn negative_log() -> Self {
        let f = |x: f64| -x.ln();
        let (lo, hi) = (2f64.powi(-12), 1.02);
        Self { f: Box::new(f), lo, hi, origin: Some(0.0), ends: [f(lo), f(hi)] }
    }
    /// tanh.
    pub(super) fn tanh(range: f64) -> Self {
        let r = range.clamp(0.5, 7.5);
        Self { f: Box::new(f64::tanh), lo: -r, hi: r, origin: None, ends: [(-r).tanh(), r.tanh()] }
    }
    /// (bias + factor x)^exponent for 0 <= x <= hi.
    pub(super) fn power(bias: f64, factor: f64, exponent: f64, hi: f64) -> Self {
        let f = move |x: f64| (bias + factor * x).powf(exponent);
        let origin = (factor > 0.0).then(|| -bias / factor);
        Self { f: Box::new(f), lo: 0.0, hi, origin, ends: [f(0.0), f(hi)] }
    }
}

/// A fitted function: thresholds and, for each region between them, centre, inverse half-width and coefficients.
struct Fit {
    thresholds: Vec<f64>,
    centre: Vec<f64>,
    inverse: Vec<f64>,
    coefficients: [Vec<f64>; DEGREE + 1],
}

fn fit(function: &Function, pieces: usize) -> Fit {
    let Function { lo, hi, origin, ends, f } = function;
    let at = |i: usize| {
        let t = i as f64 / pieces as f64;
        match origin {
            Some(o) => o + (lo - o) * ((hi - o) / (lo - o)).powf(t),
            None => lo + (hi - lo) * t,
        }
    };
    let thresholds: Vec<f64> = (0..=pieces).map(at).collect();
    let mut fit = Fit { thresholds, centre: vec![], inverse: vec![], coefficients: Default::default() };
    let mut push = |centre: f64, inverse: f64, c: [f64; DEGREE + 1]| {
        fit.centre.push(centre);
        fit.inverse.push(inverse);
        fit.coefficients.iter_mut().zip(c).for_each(|(list, c)| list.push(c));
    };
    push(*lo, 0.0, [ends[0], 0.0, 0.0, 0.0, 0.0]);
    for i in 0..pieces {
        let (a, b) = (at(i), at(i + 1));
        let (centre, half) = ((a + b) / 2.0, (b - a) / 2.0);
        // Interpolation at the Chebyshev nodes, as a Chebyshev series.
        let nodes: Vec<f64> =
            (0..=DEGREE).map(|k| (std::f64::consts::PI * (k as f64 + 0.5) / (DEGREE + 1) as f64).cos()).collect();
        let series: Vec<f64> = (0..=DEGREE)
            .map(|j| {
                let sum: f64 = nodes.iter().map(|x| f(centre + half * x) * (j as f64 * x.acos()).cos()).sum();
                sum * if j == 0 { 1.0 } else { 2.0 } / (DEGREE + 1) as f64
            })
            .collect();
        let [t0, t1, t2, t3, t4] = [series[0], series[1], series[2], series[3], series[4]];
        push(centre, 1.0 / half, [t0 - t2 + t4, t1 - 3.0 * t3, 2.0 * t2 - 8.0 * t4, 4.0 * t3, 8.0 * t4]);
    }
    push(*hi, 0.0, [ends[1], 0.0, 0.0, 0.0, 0.0]);
    fit
}

impl Fit {
    fn evaluate(&self, x: f64) -> f64 {
        let region = self.thresholds.iter().take_while(|&&t| x >= t).count();
        let v = (x - self.centre[region]) * self.inverse[region];
        self.coefficients.iter().rev().fold(0.0, |y, c| y * v + c[region])
    }
    fn error(&self, function: &Function) -> f64 {
        let n = 4000;
        let sample = |i: usize| {
            let t = i as f64 / n as f64;
            match function.origin {
                Some(o) => o + (function.lo - o) * ((function.hi - o) / (function.lo - o)).powf(t),
                None => function.lo + (function.hi - function.lo) * t,
            }
        };
        (0..n).map(|i| (self.evaluate(sample(i)) - (function.f)(sample(i))).abs()).fold(0.0, f64::max)
    }
}

/// Applies a function; `range` bounds its values.
pub(super) fn apply(b: &mut Builder, x: Slot, function: &Function, range: f64) -> Result<Slot> {
    let fitted = (2..=6).map(|p| fit(function, 1 << p)).find(|fit| fit.error(function) < TOLERANCE * range);
    let Some(fit) = fitted else {
        let layer = b.layers.last().map(|l| l.name.clone()).unwrap_or_default();
        let why = format!("its input ranges up to {:.3e}, where its function cannot be fitted", function.hi);
        return Err(Error::Range { layer, why });
    };
    let dims = b.dims(x);
    let rows: Vec<usize> = std::iter::once(fit.thresholds.len()).chain(dims.iter().copied()).collect();
    let bits = b.source(Pending::Below { x, thresholds: Rc::new(fit.thresholds.clone()) }, &rows, 1.0, 0);
    b.values[bits].exact = true;
    // The value of region r is the last region's plus the differences at all thresholds above x.
    let weights = |list: &[f64]| list.windows(2).map(|w| w[0] - w[1]).collect::<Vec<f64>>();
    let last = |list: &[f64]| list.last().copied().unwrap_or(0.0);
    let largest = |list: &[f64]| list.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
    let combine = |list: &[f64]| Pending::Combine { x: bits, weights: weights(list), offset: last(list) };

    let reach = largest(&fit.centre).max(b.range(x));
    let centre = b.like(x, 1.0, combine(&fit.centre), &dims, largest(&fit.centre));
    let local = b.like(x, 1.0, Pending::Done(Op::Sub { x, y: centre }), &dims, 2.0 * reach);
    let local = refine(b, local, &fit, reach);
    let inverse = b.source(combine(&fit.inverse), &dims, largest(&fit.inverse), 26);
    let v = b.mul(local, inverse, None, &dims, 1.1, 26);
    b.values[v].exact = true;

    let [c0, c1, c2, c3, c4] = &fit.coefficients;
    let mut bound = largest(c4);
    let mut y = b.source(combine(c4), &dims, bound, 26);
    for (i, c) in [c3, c2, c1, c0].into_iter().enumerate() {
        let step = Pending::CombineAtProduct { bits, weights: weights(c), offset: last(c), x: v, y };
        let bias = b.source(step, &dims, largest(c), 52);
        bound = if i == 3 { range } else { bound + largest(c) };
        let cap = if i == 3 { b.cap().max(24) } else { 26 };
        y = b.mul(v, y, Some(bias), &dims, bound, cap);
    }
    Ok(y)
}

/// Where the argument's range is so large that its scale is below one, the local coordinate gets the missing bits by
/// a public power of two. It may wrap outside its piece; there the inverse half-width is zero.
fn refine(b: &mut Builder, local: Slot, fit: &Fit, reach: f64) -> Slot {
    let bits = f64::from(b.options.settings.narrow_bits) - 2.0 - (reach * b.options.margin).log2().ceil();
    let half = fit.inverse.iter().filter(|v| **v > 0.0).fold(0f64, |m, v| m.max(1.0 / v));
    let power =
        (-bits).min(f64::from(b.options.settings.wide_bits) - 20.0 - bits - half.log2().ceil()).clamp(0.0, 62.0) as u32;
    if power == 0 {
        return local;
    }
    let (factor, dims) = (1i64 << power, b.dims(local));
    let step = Pending::Done(Op::Scale { x: local, factor });
    b.values[local].exact = true;
    b.values[local].range = half;
    let refined = b.like(local, factor as f64, step, &dims, half);
    b.values[refined].exact = true;
    refined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_are_close_everywhere() {
        let functions = [
            Function::exp_of_negative(),
            Function::reciprocal(0.99, 1010.0),
            Function::sigmoid(100.0),
            Function::sigmoid(3.0),
            Function::tanh(100.0),
            Function::power(1.0, 2e-5, -0.75, 1e6),
        ];
        for f in &functions {
            let fit = (2..=6).map(|p| fit(f, 1 << p)).find(|fit| fit.error(f) < TOLERANCE);
            assert!(fit.is_some(), "no fit on {} .. {}", f.lo, f.hi);
        }
        let fit = fit(&functions[2], 64);
        assert!(fit.evaluate(50.0) > 0.999_999 && fit.evaluate(-50.0) < 1e-6);
    }
}
