//! Secrets and errors.

use crate::N;
use sordino_ot::Stream;

/// Coefficients in {-1, 0, 1}, each with probability a third.
pub(crate) fn ternary(random: &mut Stream) -> Vec<i64> {
    let mut out = Vec::with_capacity(N);
    while out.len() < N {
        for word in random.words(N / 16) {
            // Pairs of bits; one of four values is thrown away, which says nothing of those that stay.
            let pairs = (0..32).map(|i| (word >> (2 * i) & 3) as i64 - 1);
            out.extend(pairs.filter(|v| *v < 2));
        }
    }
    out.truncate(N);
    out
}

/// Differences of two sums of 21 bits: deviation 3.24.
pub(crate) fn errors(random: &mut Stream) -> Vec<i64> {
    let one = |word: u64| i64::from((word & 0x1f_ffff).count_ones()) - i64::from((word >> 21 & 0x1f_ffff).count_ones());
    random.words(N).into_iter().map(one).collect()
}

/// Uniform below p.
pub(crate) fn uniform(random: &mut Stream, p: u64) -> Vec<u64> {
    let bits = 64 - p.leading_zeros();
    let mut out = Vec::with_capacity(N);
    while out.len() < N {
        let words = random.words(N / 8);
        out.extend(words.into_iter().map(|w| w >> (64 - bits)).filter(|v| *v < p));
    }
    out.truncate(N);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let mut random = Stream::new([9; 16]);
        let sum = |v: &[i64], power: u32| v.iter().map(|x| x.pow(power)).sum::<i64>() as f64 / v.len() as f64;
        let all = |sample: fn(&mut Stream) -> Vec<i64>, random: &mut Stream| -> Vec<i64> {
            (0..64).flat_map(|_| sample(random)).collect()
        };
        // Over 2^18 values: six standard deviations of the means and of the squares' means.
        let t = all(ternary, &mut random);
        assert!(sum(&t, 1).abs() < 0.0096 && (sum(&t, 2) - 2.0 / 3.0).abs() < 0.0056);
        let e = all(errors, &mut random);
        assert!(sum(&e, 1).abs() < 0.038 && (sum(&e, 2) - 10.5).abs() < 0.18, "{}", sum(&e, 2));
        let p = 40961;
        let u: Vec<i64> = (0..64).flat_map(|_| uniform(&mut random, p)).map(|v| v as i64).collect();
        assert!(u.iter().all(|v| (0..p as i64).contains(v)) && (sum(&u, 1) - 20480.0).abs() < 139.0);
    }
}
