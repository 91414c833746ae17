//! Additive shares.

use crate::{Error, Local, Result, Width};
use sordino_ring::{Device, Shape, ZipOp};
use std::sync::Arc;

/// One end's share of a tensor, in words whose low bits count: n or w of them, and below those of a wide tensor `guard` bits of which only
/// truncation makes use. Cheap to clone; no `Debug`.
pub struct Shared<D: Device> {
    pub(super) shape: Shape,
    pub(super) width: Width,
    /// The value is times 2^guard, with an error below half of that.
    pub(super) guard: u32,
    pub(super) data: Arc<D::Buf<u64>>,
}

/// Shared bits, 64 to a word.
pub struct Bits {
    pub(super) shape: Shape,
    pub(super) plane: Vec<u64>,
}

impl<D: Device> Clone for Shared<D> {
    fn clone(&self) -> Self {
        Self { shape: self.shape.clone(), width: self.width, guard: self.guard, data: Arc::clone(&self.data) }
    }
}

impl<D: Device> Shared<D> {
    pub(super) fn new(dev: &D, shape: Shape, width: Width, guard: u32, values: Vec<u64>) -> Self {
        Self { shape, width, guard, data: Arc::new(dev.upload(values)) }
    }

    /// The share's words.
    pub(super) fn words(&self, dev: &D) -> Result<Vec<u64>> {
        Ok(dev.download(dev.copy(&self.data))?)
    }

    /// Refuses what still has guard bits.
    pub(super) fn exact(&self) -> Result<&Self> {
        if self.guard == 0 {
            return Ok(self);
        }
        Err(Error::Usage("a product must be truncated before anything else is done with it".into()))
    }

    pub(super) fn narrow(&self) -> Result<&Self> {
        if self.width == Width::Narrow {
            Ok(self)
        } else {
            Err(Error::Usage("this operation takes a narrow tensor".into()))
        }
    }

    pub(super) fn wide(&self) -> Result<&Self> {
        if self.width == Width::Wide {
            Ok(self)
        } else {
            Err(Error::Usage("this operation takes a wide tensor".into()))
        }
    }
}

/// A local operation; `first` says whether this end adds public constants. An error in guard bits must not grow: what would
/// multiply it, or add two of them, is refused.
pub(super) fn local<D: Device>(dev: &D, first: bool, op: &Local<'_>, xs: &[&Shared<D>]) -> Result<Shared<D>> {
    let shapes: Vec<&Shape> = xs.iter().map(|x| &x.shape).collect();
    let shape = crate::fit::local_shape(op, &shapes)?;
    let Some(first_operand) = xs.first() else {
        return Err(Error::Usage("a local operation takes an operand".into()));
    };
    let width = first_operand.width;
    if xs.iter().any(|x| x.width != width) {
        return Err(Error::Usage("operands of a local operation must have one width".into()));
    }
    let guard = xs.iter().map(|x| x.guard).max().unwrap_or(0);
    // Operands with fewer guard bits are brought to the same scale.
    let raised = |x: &Shared<D>| -> Arc<D::Buf<u64>> {
        if x.guard == guard { Arc::clone(&x.data) } else { Arc::new(dev.affine(&x.data, 1 << (guard - x.guard), 0)) }
    };
    let constant = |c: i64| if first { (c as u64) << guard } else { 0 };
    let x = raised(first_operand);
    let data = match op {
        Local::Add | Local::Sub => {
            if xs.iter().filter(|x| x.guard > 0).count() > 1 {
                return Err(Error::Usage("two products must be truncated before they are added".into()));
            }
            let y = raised(xs[1]);
            let sub = matches!(op, Local::Sub);
            if dev.len(&x) == dev.len(&y) {
                dev.zip(if sub { ZipOp::Sub } else { ZipOp::Add }, &x, &y)
            } else if sub {
                dev.add_rows(&x, &dev.affine(&y, u64::MAX, 0))
            } else {
                dev.add_rows(&x, &y)
            }
        }
        Local::Scale(_) | Local::WindowSum(_) | Local::Low if guard > 0 => {
            return Err(Error::Usage("a product must be truncated before it is scaled or summed".into()));
        }
        Local::Scale(c) => dev.affine(&x, *c as u64, 0),
        Local::WindowSum(windows) => dev.window_sum(&x, windows),
        Local::Offset(c) => dev.affine(&x, 1, constant(*c)),
        Local::Reshape(_) => return Ok(Shared { shape, width, guard, data: x }),
        Local::Low => return Ok(Shared { shape, width: Width::Narrow, guard, data: x }),
        Local::Gather(map, fill) => dev.gather(&x, map, constant(*fill)),
        Local::Concat { outer, widths, .. } => {
            let parts: Vec<_> = xs.iter().map(|x| raised(x)).collect();
            dev.concat(&parts.iter().map(|p| &**p).collect::<Vec<_>>(), *outer, widths)
        }
    };
    Ok(Shared { shape, width, guard, data: Arc::new(data) })
}
