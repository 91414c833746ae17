//! Whether operands fit together, and the shapes of results: the same for every protocol.

use crate::{Error, Local, Result};
use sordino_ring::{Conv2d, Shape};

/// The shape a local operation gives.
pub(crate) fn local_shape(op: &Local<'_>, operands: &[&Shape]) -> Result<Shape> {
    let misfit = |what: &str| Error::Usage(format!("{what}: {operands:?}"));
    let one = || operands.first().copied().ok_or_else(|| misfit("an operand is missing"));
    match op {
        Local::Add | Local::Sub => match operands {
            [x, y] if x == y || x.dims().last() == Some(&y.len()) => Ok((*x).clone()),
            _ => Err(misfit("operands of a sum must be two tensors of one shape, or one and a row of it")),
        },
        Local::Scale(_) | Local::Offset(_) | Local::Low => one().cloned(),
        Local::Reshape(shape) if one()?.len() == shape.len() => Ok(shape.clone()),
        Local::Reshape(shape) => Err(misfit(&format!("a reshape to {shape} changes the number of elements"))),
        Local::Gather(map, _) => {
            let n = one()?.len();
            let inside = |s: &u32| *s == sordino_ring::PAD || (*s as usize) < n;
            if map.source.len() == map.shape.len() && map.source.iter().all(inside) {
                Ok(map.shape.clone())
            } else {
                Err(misfit("a re-indexing reads beyond its operand or is not of its shape"))
            }
        }
        Local::Concat { outer, widths, shape } => {
            let fits = operands.len() == widths.len()
                && operands.iter().zip(widths).all(|(s, w)| s.len() == outer * w)
                && shape.len() == outer * widths.iter().sum::<usize>();
            if fits { Ok(shape.clone()) } else { Err(misfit("operands of a concatenation do not fit")) }
        }
        Local::WindowSum(w) => {
            fits_linear(one()?, &w.0)?;
            if w.0.cin == w.0.cout { Ok(w.0.output()) } else { Err(misfit("sums over windows keep their channels")) }
        }
    }
}

/// Checks a geometry, so that no kernel meets one whose sizes overflow.
pub(crate) fn sensible(op: &Conv2d) -> Result<()> {
    op.check().map_err(|e| Error::Usage(format!("a linear layer: {e}")))
}

/// Checks the input of a linear layer.
pub(crate) fn fits_linear(x: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if x.len() == op.input().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{x} elements as the input {} of a linear layer", op.input())))
}

/// Checks computed weights.
pub(crate) fn fits_weight(weights: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if weights.len() == op.weight().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{weights} elements as weights of {}", op.weight())))
}

/// Checks the operands of a selection.
pub(crate) fn fits_bits(bits: &Shape, x: &Shape) -> Result<()> {
    if bits.len() == x.len() {
        return Ok(());
    }
    Err(Error::Usage(format!("{bits} bits select from {x}")))
}

/// The shape of functions of x: a row for each. Checks that each has a weight for every threshold.
pub(crate) fn function_rows(x: &Shape, thresholds: &[i64], functions: &[Vec<i64>]) -> Result<Shape> {
    if thresholds.is_empty() || functions.iter().any(|f| f.len() != thresholds.len()) {
        return Err(Error::Usage(format!(
            "functions need as many weights as there are thresholds, {}",
            thresholds.len()
        )));
    }
    let dims: Vec<usize> = std::iter::once(functions.len()).chain(x.dims().iter().copied()).collect();
    Ok(Shape::new(&dims))
}

/// Checks the operands of a gradient of weights.
pub(crate) fn fits_gradient(x: &Shape, dy: &Shape, op: &Conv2d) -> Result<()> {
    sensible(op)?;
    if x.len() == op.input().len() && dy.len() == op.output().len() {
        return Ok(());
    }
    Err(Error::Usage(format!("a gradient of weights of {} from {x} and {dy}", op.weight())))
}

/// Elements and channels of a tensor that takes a sign for each channel, its last axis.
pub(crate) fn fits_signs(x: &Shape, signs: &Shape) -> Result<(usize, usize)> {
    match x.dims().last() {
        Some(&channels) if channels > 0 && signs.len() == channels => Ok((x.len(), channels)),
        _ => Err(Error::Usage(format!("{signs} signs for channels of {x}"))),
    }
}
