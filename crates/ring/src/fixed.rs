//! The fixed-point codec: reals to ring integers and back, refusing what does not fit.

/// How many integer steps one unit has: a real r is held as round(r * scale).
///
/// Usually a power of two; after an un-truncated sum (average pooling) it carries the public divisor as well.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Scale(f64);

impl Scale {
    /// A scale; must be finite and positive.
    #[must_use]
    pub fn new(steps_per_unit: f64) -> Option<Self> {
        (steps_per_unit.is_finite() && steps_per_unit > 0.0).then_some(Self(steps_per_unit))
    }
    /// 2^bits.
    #[must_use]
    pub fn bits(bits: i32) -> Self {
        Self(2f64.powi(bits))
    }
    /// Integer steps per unit.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A real that has no representative: it is not finite, or its integer does not fit the stated bits.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("element {index} is {value}, which does not fit {bits} signed bits at {steps} steps per unit")]
pub struct RangeError {
    /// Position of the first offending element.
    pub index: usize,
    /// Its value.
    pub value: f64,
    /// The width it had to fit, sign included.
    pub bits: u32,
    /// The scale it was encoded at.
    pub steps: f64,
}

/// Rounds reals to integers that fit `bits` signed bits.
///
/// # Errors
/// [`RangeError`] names the first element that is not finite or does not fit.
pub fn encode(values: &[f32], scale: Scale, bits: u32) -> Result<Vec<i64>, RangeError> {
    let limit = 2f64.powi(bits as i32 - 1);
    values
        .iter()
        .enumerate()
        .map(|(index, &value)| {
            let scaled = (f64::from(value) * scale.get()).round();
            // A NaN fails both comparisons.
            if scaled >= -limit && scaled < limit {
                Ok(scaled as i64)
            } else {
                Err(RangeError { index, value: f64::from(value), bits, steps: scale.get() })
            }
        })
        .collect()
}

/// The reals that integers at `scale` stand for.
#[must_use]
pub fn decode(values: &[i64], scale: Scale) -> Vec<f32> {
    values.iter().map(|&v| (v as f64 / scale.get()) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_does_not_fit() {
        let scale = Scale::bits(20);
        assert!(encode(&[2047.9], scale, 32).is_ok());
        assert_eq!(encode(&[0.0, 2048.0], scale, 32).map_err(|e| e.index), Err(1));
        assert!(encode(&[f32::NAN], scale, 32).is_err());
        assert!(encode(&[f32::INFINITY], scale, 64).is_err());
    }

    proptest! {
        #[test]
        fn round_trip(v in -2000f32..2000.0) {
            let scale = Scale::bits(20);
            let back = decode(&encode(&[v], scale, 32).map_err(|e| TestCaseError::fail(e.to_string()))?, scale);
            prop_assert!((back[0] - v).abs() <= 2f32.powi(-12));
        }
    }
}
