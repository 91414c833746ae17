//! Smooth functions of one variable on shares: piecewise polynomials of degree four.
//!
//! The centre, the inverse half-width and the coefficients of the piece are piecewise constant functions, which one
//! operation gives; the local coordinate and Horner's rule take five products. Left of the first
//! and right of the last threshold the function is constant, so nothing ever leaves its range.

use super::Range;
use super::builder::{Builder, Pending, mantissa};
use super::shaping::factor_bits;
use crate::network::Smooth;
use crate::program::{Op, Slot};
use crate::{Error, Result};
use std::sync::Arc;

const DEGREE: usize = 4;
/// Largest error of the fit over the whole range, relative to the largest value.
const TOLERANCE: f64 = 2e-6;

/// Where exp of a negative argument counts as zero.
const LEAST_EXPONENT: f64 = -16.0;
/// Largest argument of exp: from there on its values leave the rings, whatever the scale.
const MOST_EXPONENT: f64 = 60.0;
/// Share of the range below which an argument of a square root counts as zero: its root is below 2^-12 of the largest.
const LEAST_SQUARE: f64 = 1.0 / 16777216.0;
/// Share of the range by which an argument of a square root may be below zero: float rounding of sums of squares.
const ZERO: f64 = 1e-5;
/// Least range of a function that is near its argument at zero.
const SMALLEST: f64 = 1e-8;
/// Ratio of the largest to the least argument, with their margins, that leaves both some bits.
const WIDEST: f64 = 1048576.0;
/// Least argument of derivatives that are steep near zero; smaller ones count as this.
pub(super) const LEAST: f64 = 1.0 / 4096.0;

/// A function with the range it is fitted on.
pub(super) struct Function {
    f: Box<dyn Fn(f64) -> f64>,
    lo: f64,
    hi: f64,
    /// Thresholds are spaced evenly in log(x - origin) if there is an origin, else evenly.
    origin: Option<f64>,
    /// Values beyond the ends.
    ends: [f64; 2],
    /// Ends beyond which it is not what it stands for, and arguments come there only by leaving their range.
    watched: [bool; 2],
    /// Largest error: of the largest value, or relative to each value.
    tolerance: Tolerance,
    /// Scale of its values over a power of two.
    ratio: f64,
}

#[derive(Clone, Copy)]
enum Tolerance {
    OfLargest(f64),
    Relative(f64),
}

impl Function {
    fn new(f: impl Fn(f64) -> f64 + 'static, lo: f64, hi: f64, origin: Option<f64>) -> Self {
        let ends = [f(lo), f(hi)];
        Self {
            f: Box::new(f),
            lo,
            hi,
            origin,
            ends,
            watched: [true; 2],
            tolerance: Tolerance::OfLargest(TOLERANCE),
            ratio: 1.0,
        }
    }
    /// Even around zero, up to a range that is kept within bounds.
    fn symmetric(f: impl Fn(f64) -> f64 + 'static, range: f64, least: f64, most: f64) -> Self {
        let r = range.clamp(least, most);
        Self::new(f, -r, r, None)
    }
    /// Steep towards zero.
    fn positive(f: impl Fn(f64) -> f64 + 'static, range: f64) -> Self {
        Self::new(f, LEAST, range.max(1.0), Some(0.0))
    }
    /// e^x for x <= 0; zero below -16.
    pub(super) fn exp_of_negative() -> Self {
        Self { ends: [0.0, 1.0], ..Self::new(f64::exp, LEAST_EXPONENT, 0.01, None) }
    }
    /// With values at a scale of this ratio to a power of two.
    pub(super) fn at(self, ratio: f64) -> Self {
        Self { ratio, ..self }
    }
    /// 1 / x on a positive range.
    pub(super) fn reciprocal(lo: f64, hi: f64) -> Self {
        Self::new(|x| 1.0 / x, lo, hi, Some(0.0))
    }
    /// ln(x) on a positive range.
    pub(super) fn log(lo: f64, hi: f64) -> Self {
        Self::new(f64::ln, lo, hi, Some(0.0))
    }
    /// A function of the networks on a calibrated range with its margin: constant where it is within 1e-6 of its limits, and
    /// beyond the range. Ends are powers of two, so that the program tells no more of the range.
    pub(super) fn smooth(f: Smooth, argument: Range, margin: f64) -> std::result::Result<Self, String> {
        let value = move |x: f64| f.value(x);
        let reach = power_above(argument.largest() * margin);
        let ends = format!("its input ranges from {:.3e} to {:.3e}", argument.lo, argument.hi);
        let refuse = |why: &str| Err(format!("{ends}, {why}"));
        // The least and the largest magnitude, where the sign stays.
        let least = argument.lo.abs().min(argument.hi.abs()) / margin;
        let least = least.max(1e-30).log2().floor().exp2();
        Ok(match f {
            Smooth::Sigmoid => Self::symmetric(value, reach, 1.0, 14.0),
            // Near zero they are as small as their argument.
            Smooth::Tanh => Self::symmetric(value, reach, SMALLEST, 7.5),
            Smooth::Erf => Self::symmetric(value, reach, SMALLEST, 3.7),
            Smooth::SoftplusRest => Self { ends: [0.0, 0.0], ..Self::symmetric(value, reach, 0.5, 14.0) },
            Smooth::Gelu => Self::symmetric(value, reach, 0.5, reach.max(0.5)),
            Smooth::Exp => {
                // What the margin leaves room for is a factor of the result.
                let top = power_above(argument.hi.exp() * margin).ln();
                if top.is_nan() || top >= MOST_EXPONENT {
                    return refuse("and its exponential is too large to be told from others");
                }
                let lo = (top + LEAST_EXPONENT).max(-reach).min(top - 0.5);
                Self { tolerance: Tolerance::Relative(TOLERANCE), ..Self::new(value, lo, top, None) }
            }
            Smooth::Sqrt => {
                if argument.lo < -ZERO * argument.hi.abs() {
                    return refuse("where it has no square root");
                }
                let smallest = reach * LEAST_SQUARE;
                if least > smallest {
                    Self::new(value, least, reach, Some(0.0))
                } else {
                    let zero_below = Self::new(value, smallest, reach, Some(0.0));
                    // Down to zero its root is as good as none.
                    Self { ends: [0.0, zero_below.ends[1]], watched: [false, true], ..zero_below }
                }
            }
            Smooth::Log | Smooth::InverseRoot if argument.lo <= 0.0 => {
                let what = if f == Smooth::Log { "logarithm" } else { "inverse root" };
                return refuse(&format!("where it has no {what}; it must stay above zero"));
            }
            Smooth::Reciprocal if argument.lo <= 0.0 && argument.hi >= 0.0 => {
                return refuse("where its reciprocal has a pole; it must keep its sign");
            }
            Smooth::Log | Smooth::InverseRoot | Smooth::Reciprocal => {
                if reach > least * WIDEST {
                    return refuse("which is too wide: what is small among it would be lost");
                }
                let ends = if argument.lo < 0.0 { [-reach, -least] } else { [least, reach] };
                let all = Self::new(value, ends[0], ends[1], Some(0.0));
                let tolerance = if f == Smooth::Log { all.tolerance } else { Tolerance::Relative(TOLERANCE) };
                Self { tolerance, ..all }
            }
        })
    }
    /// Its derivative.
    pub(super) fn slope(f: Smooth, range: f64) -> Self {
        let slope = move |x: f64| f.slope(x);
        match f {
            Smooth::Sigmoid => Self::symmetric(slope, range, 1.0, 16.0),
            Smooth::Tanh => Self::symmetric(slope, range, 0.5, 8.5),
            Smooth::Erf => Self::symmetric(slope, range, 0.5, 4.0),
            Smooth::Gelu => Self::symmetric(slope, range, 0.5, 6.0),
            Smooth::Exp => Self::symmetric(slope, range, 0.5, 12.0),
            Smooth::SoftplusRest => Self::symmetric(slope, range, 0.5, 14.0),
            Smooth::Log | Smooth::Sqrt | Smooth::Reciprocal | Smooth::InverseRoot => Self::positive(slope, range),
        }
    }
    /// The distribution function of the normal distribution.
    pub(super) fn normal_distribution(range: f64) -> Self {
        Self::symmetric(crate::network::normal_distribution, range, 0.5, 5.2)
    }
    /// 1 / sqrt(x + epsilon) for 0 <= x <= hi, to a relative error.
    pub(super) fn inverse_root(epsilon: f64, hi: f64, error: f64) -> Self {
        let f = move |x: f64| 1.0 / (x + epsilon).sqrt();
        // Rounding takes squares below zero.
        let all = Self::new(f, 0.0, hi.max(epsilon), Some(-epsilon));
        Self { tolerance: Tolerance::Relative(error), watched: [false, true], ..all }
    }
    /// (bias + factor x)^exponent for 0 <= x <= hi.
    pub(super) fn power(bias: f64, factor: f64, exponent: f64, hi: f64) -> Self {
        let f = move |x: f64| (bias + factor * x).powf(exponent);
        Self { watched: [false, true], ..Self::new(f, 0.0, hi, (factor > 0.0).then(|| -bias / factor)) }
    }
    /// A bound of its values.
    pub(super) fn largest(&self) -> f64 {
        1.02 * (0..=64).map(|i| (self.f)(self.point(f64::from(i) / 64.0)).abs()).fold(1e-15, f64::max)
    }
    /// The argument at a share of the range, as thresholds are spaced.
    fn point(&self, t: f64) -> f64 {
        match self.origin {
            Some(o) => o + (self.lo - o) * ((self.hi - o) / (self.lo - o)).powf(t),
            None => self.lo + (self.hi - self.lo) * t,
        }
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
    let Function { lo, hi, ends, f, .. } = function;
    let at = |i: usize| function.point(i as f64 / pieces as f64);
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
    /// Largest error over what is tolerated, for values up to `range`.
    fn error(&self, function: &Function, range: f64) -> f64 {
        let excess = |x: f64| {
            let value = (function.f)(x);
            let tolerated = match function.tolerance {
                Tolerance::OfLargest(share) => share * range,
                Tolerance::Relative(share) => share * value.abs(),
            };
            (self.evaluate(x) - value).abs() / tolerated
        };
        (0..4000).map(|i| excess(function.point(f64::from(i) / 4000.0))).fold(0.0, f64::max)
    }
}

/// The fit with the fewest pieces that is close enough.
fn fitted(function: &Function, range: f64) -> Option<Fit> {
    // An eighth more each time.
    let pieces = std::iter::successors(Some(3), |n| Some(n + 1 + n / 8)).take_while(|n| *n <= 128);
    pieces.map(|n| fit(function, n)).find(|fit| fit.error(function, range) < 1.0)
}

/// The power of two that a magnitude does not exceed.
fn power_above(magnitude: f64) -> f64 {
    magnitude.max(1e-9).log2().ceil().exp2()
}

/// Ends that must be watched: where the function itself goes on otherwise than with the value that stands for it.
fn watched(function: &Function) -> [bool; 2] {
    let Function { f, lo, hi, ends, watched, .. } = function;
    let close = 1e-5 * function.largest().max(ends[0].abs()).max(ends[1].abs());
    let far = hi - lo;
    // Not a number is not close.
    let flat = |x: f64, end: f64| (f(x) - end).abs() <= close;
    [
        watched[0] && !(flat(lo - far, ends[0]) && flat(*lo, ends[0])),
        watched[1] && !(flat(hi + far, ends[1]) && flat(*hi, ends[1])),
    ]
}

/// 1 where x >= 0, else 0.
pub(super) fn step(b: &mut Builder, x: Slot) -> Slot {
    let dims = b.dims(x);
    let rows: Vec<usize> = std::iter::once(0).chain(dims.iter().copied()).collect();
    let pieces =
        b.source(Pending::Piecewise { x, thresholds: Arc::new(vec![0.0]), watched: [false; 2] }, &rows, 1.0, 0);
    b.values[pieces].exact = true;
    let y = b.source(Pending::Row { x: pieces, values: vec![0.0, 1.0] }, &dims, 1.0, 20);
    b.values[y].exact = true;
    y
}

/// Applies a function; `range` bounds its values.
pub(super) fn apply(b: &mut Builder, x: Slot, function: &Function, range: f64) -> Result<Slot> {
    let Some(fit) = fitted(function, range) else {
        let layer = b.layers.last().map(|l| l.name.clone()).unwrap_or_default();
        let why = format!("its input ranges up to {:.3e}, where its function cannot be fitted", function.hi);
        return Err(Error::Range { layer, why });
    };
    let dims = b.dims(x);
    let rows: Vec<usize> = std::iter::once(0).chain(dims.iter().copied()).collect();
    let step = Pending::Piecewise { x, thresholds: Arc::new(fit.thresholds.clone()), watched: watched(function) };
    let pieces = b.source(step, &rows, 1.0, 0);
    b.values[pieces].exact = true;
    let largest = |list: &[f64]| list.iter().fold(1e-15f64, |m, v| m.max(v.abs()));
    let row = |list: &[f64]| Pending::Row { x: pieces, values: list.to_vec() };

    let reach = largest(&fit.centre).max(b.range(x));
    let centre = b.like(x, 1.0, row(&fit.centre), &dims, largest(&fit.centre));
    let local = b.like(x, 1.0, Pending::Done(Op::Sub { x, y: centre }), &dims, 2.0 * reach);
    let local = refine(b, local, &fit, reach);
    let inverse = b.source(row(&fit.inverse), &dims, largest(&fit.inverse), factor_bits(largest(&fit.inverse)));
    // The function's scale does not follow from the argument's.
    b.values[inverse].ratio = mantissa(1.0 / b.total_ratio(local));
    let v = b.mul(local, inverse, None, &dims, 1.1, 26);
    b.values[v].exact = true;

    let [c0, c1, c2, c3, c4] = &fit.coefficients;
    let mut bound = largest(c4);
    let mut y = b.source(row(c4), &dims, bound, factor_bits(bound));
    b.values[y].ratio = function.ratio;
    for (i, c) in [c3, c2, c1, c0].into_iter().enumerate() {
        let step = Pending::RowAtProduct { of: pieces, values: c.clone(), x: v, y };
        bound = if i == 3 { range } else { bound + largest(c) };
        let cap = if i == 3 { b.cap().max(24) } else { factor_bits(bound) };
        let bias = b.source(step, &dims, largest(c), 26 + factor_bits(bound));
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
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn fits_are_close_everywhere() {
        let mut functions = vec![
            Function::exp_of_negative(),
            Function::reciprocal(0.99, 1010.0),
            Function::log(0.99, 1010.0),
            Function::power(1.0, 2e-5, -0.75, 1e6),
            Function::inverse_root(1e-5, 1e4, 1e-5),
            Function::inverse_root(1e-8, 1e2, 1e-3),
            Function::normal_distribution(1000.0),
        ];
        for f in Smooth::ALL {
            let least = matches!(f, Smooth::Log | Smooth::Sqrt | Smooth::Reciprocal | Smooth::InverseRoot);
            functions.extend([1.0, 10.0, 1000.0].map(|r| Function::slope(f, r)));
            if f != Smooth::Gelu {
                // Exponentials of more than a few dozens leave the rings.
                let tops = if f == Smooth::Exp { [1.0, 10.0, 30.0] } else { [1.0, 10.0, 1000.0] };
                let ranges = tops.map(|hi| Range { lo: if least { 1.0 / 64.0 } else { -hi }, hi });
                functions.extend(ranges.map(|r| Function::smooth(f, r, 2.0).unwrap()));
            }
        }
        for f in &functions {
            assert!(fitted(f, f.largest()).is_some(), "no fit on {} .. {}", f.lo, f.hi);
        }
        let sigmoid = Function::smooth(Smooth::Sigmoid, Range::within(100.0), 2.0).unwrap();
        let fit = fit(&sigmoid, 64);
        assert!(fit.evaluate(50.0) > 0.999_999 && fit.evaluate(-50.0) < 1e-6);
    }
}
