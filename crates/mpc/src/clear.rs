//! The oracle: the same fixed-point program in the clear, with exact rounding, watching for values that do not fit.

use crate::{Checked, Error, Local, Protocol, Result, Role, Settings, Step, Width};
use sordino_ring::{Conv2d, Device, PAD, Shape, convolve, prepare_one};
use std::cell::RefCell;
use std::rc::Rc;

/// A tensor in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearTensor {
    shape: Shape,
    width: Width,
    values: Rc<Vec<i64>>,
}

impl ClearTensor {
    /// The integers.
    #[must_use]
    pub fn values(&self) -> &[i64] {
        &self.values
    }
}

/// A value that did not fit its ring where an operation relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// The integer.
    pub value: i64,
    /// Elements that did not fit in the same operation.
    pub count: usize,
}

/// Fixed point in the clear. Rounds exactly, and records the first operation since [`Clear::take_overflow`] whose
/// operand or result leaves the range a protocol needs.
pub struct Clear<D: Device> {
    dev: D,
    settings: Settings,
    overflow: RefCell<Option<Overflow>>,
}

impl<D: Device> Clear<D> {
    /// Computes on `dev`.
    #[must_use]
    pub fn new(dev: D) -> Self {
        Self { dev, settings: Settings::default(), overflow: RefCell::new(None) }
    }
    /// Watches for what does not fit these rings.
    #[must_use]
    pub fn with(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }
    /// The first overflow since the last call.
    pub fn take_overflow(&self) -> Option<Overflow> {
        self.overflow.borrow_mut().take()
    }

    fn tensor(&self, shape: Shape, width: Width, values: Vec<i64>) -> ClearTensor {
        self.fits(&values, self.settings.bits(width));
        ClearTensor { shape, width, values: Rc::new(values) }
    }

    fn fits(&self, values: &[i64], bits: u32) {
        let outside = |v: &&i64| v.unsigned_abs() >= 1u64 << (bits - 1);
        if let Some(&value) = values.iter().find(outside) {
            let count = values.iter().filter(outside).count();
            self.overflow.borrow_mut().get_or_insert(Overflow { value, count });
        }
    }

    fn panel(&self, values: &[i64], op: &Conv2d) -> D::Panel {
        prepare_one(&self.dev, &self.dev.upload(ring(values)), op)
    }

    /// The sum of convolutions.
    fn products(&self, terms: &[(&ClearTensor, &D::Panel, Conv2d)]) -> Result<(Shape, Vec<i64>)> {
        let mut sum: Option<Vec<i64>> = None;
        for (x, panel, op) in terms {
            crate::fit::fits_linear(&x.shape, op)?;
            let z = convolve(&self.dev, &self.dev.upload(ring(&x.values)), panel, op);
            let z = integers(self.dev.download(z)?);
            sum = Some(match sum {
                Some(s) => s.iter().zip(&z).map(|(a, b)| a.wrapping_add(*b)).collect(),
                None => z,
            });
        }
        match (sum, terms.first()) {
            (Some(z), Some((_, _, op))) => Ok((op.output(), z)),
            _ => Err(Error::Usage("a linear layer takes at least one term".into())),
        }
    }

    fn rounded(
        &self,
        shape: Shape,
        z: impl Iterator<Item = i64>,
        bias: Option<&ClearTensor>,
        shift: u32,
    ) -> ClearTensor {
        let half = if shift > 0 { 1i64 << (shift - 1) } else { 0 };
        let mut sum: Vec<i64> = match bias {
            Some(b) => z.zip(b.values.iter().cycle()).map(|(v, b)| v.wrapping_add(*b)).collect(),
            None => z.collect(),
        };
        self.fits(&sum, self.settings.wide_bits);
        sum.iter_mut().for_each(|v| *v = v.wrapping_add(half) >> shift);
        self.tensor(shape, Width::Narrow, sum)
    }
}

fn ring(values: &[i64]) -> Vec<u64> {
    values.iter().map(|&v| v as u64).collect()
}

fn integers(values: Vec<u64>) -> Vec<i64> {
    values.into_iter().map(|v| v as i64).collect()
}

impl<D: Device> Protocol for Clear<D> {
    type Arith = ClearTensor;
    type Bit = ClearTensor;
    type Weight = D::Panel;

    fn shape<'a>(&self, x: &'a ClearTensor) -> &'a Shape {
        &x.shape
    }
    fn width(&self, x: &ClearTensor) -> Width {
        x.width
    }
    fn input(&self, _at: Step, _from: Role, values: Option<&[i64]>, shape: &Shape) -> Result<ClearTensor> {
        let values = values.ok_or_else(|| Error::Usage("an input has no values".into()))?;
        Ok(self.tensor(shape.clone(), Width::Wide, values.to_vec()))
    }
    fn prepare(&self, _at: Step, _from: Role, values: Option<&[i64]>, op: &Conv2d) -> Result<D::Panel> {
        crate::fit::sensible(op)?;
        Ok(self.panel(values.ok_or_else(|| Error::Usage("a weight has no values".into()))?, op))
    }
    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> ClearTensor {
        self.tensor(shape.clone(), width, values.to_vec())
    }

    fn local(&self, op: &Local<'_>, operands: &[&ClearTensor]) -> Result<ClearTensor> {
        let shapes: Vec<&Shape> = operands.iter().map(|x| &x.shape).collect();
        let shape = crate::fit::local_shape(op, &shapes)?;
        let x = operands[0];
        let values = match op {
            Local::Add => {
                x.values.iter().zip(operands[1].values.iter().cycle()).map(|(a, b)| a.wrapping_add(*b)).collect()
            }
            Local::Sub => {
                x.values.iter().zip(operands[1].values.iter().cycle()).map(|(a, b)| a.wrapping_sub(*b)).collect()
            }
            Local::Scale(c) => x.values.iter().map(|v| v.wrapping_mul(*c)).collect(),
            Local::Offset(c) => x.values.iter().map(|v| v.wrapping_add(*c)).collect(),
            Local::Reshape(_) | Local::Low => x.values.to_vec(),
            Local::Gather(map, fill) => {
                map.source.iter().map(|&s| if s == PAD { *fill } else { x.values[s as usize] }).collect()
            }
            Local::Concat { outer, widths, .. } => {
                let parts: Vec<Vec<u64>> = operands.iter().map(|x| ring(&x.values)).collect();
                let parts: Vec<_> = parts.into_iter().map(|p| self.dev.upload(p)).collect();
                integers(self.dev.download(self.dev.concat(&parts.iter().collect::<Vec<_>>(), *outer, widths))?)
            }
            Local::WindowSum(w) => {
                let x = self.dev.upload(ring(&x.values));
                integers(self.dev.download(self.dev.window_sum(&x, w))?)
            }
        };
        let width = if matches!(op, Local::Low) { Width::Narrow } else { x.width };
        Ok(self.tensor(shape, width, values))
    }

    fn linear(
        &self,
        _at: Step,
        terms: &[(&ClearTensor, &D::Panel, Conv2d)],
        bias: Option<&ClearTensor>,
        shift: u32,
    ) -> Result<ClearTensor> {
        let (shape, z) = self.products(terms)?;
        Ok(self.rounded(shape, z.into_iter(), bias, shift))
    }
    fn linear_wide(
        &self,
        _at: Step,
        terms: &[(&ClearTensor, &D::Panel, Conv2d)],
        bias: Option<&ClearTensor>,
    ) -> Result<ClearTensor> {
        let (shape, mut z) = self.products(terms)?;
        if let Some(b) = bias {
            z.iter_mut().zip(b.values.iter().cycle()).for_each(|(v, b)| *v = v.wrapping_add(*b));
        }
        Ok(self.tensor(shape, Width::Wide, z))
    }
    fn weight_gradient(
        &self,
        _at: Step,
        x: &ClearTensor,
        dy: &ClearTensor,
        op: &Conv2d,
        bias: Option<&ClearTensor>,
        shift: u32,
    ) -> Result<ClearTensor> {
        crate::fit::fits_gradient(&x.shape, &dy.shape, op)?;
        let parts = [&x.values, &dy.values].map(|v| [ring(v), vec![0; v.len()]].map(|v| self.dev.upload(v)));
        let [[x0, x1], [dy0, dy1]] = &parts;
        let z = self.dev.download(self.dev.weight_gradient([x0, x1], [dy0, dy1], op))?;
        Ok(self.rounded(op.weight(), z.into_iter().map(|v| v as i64), bias, shift))
    }
    fn mul(
        &self,
        _at: Step,
        x: &ClearTensor,
        y: &ClearTensor,
        bias: Option<&ClearTensor>,
        shift: u32,
    ) -> Result<ClearTensor> {
        let z = x.values.iter().zip(y.values.iter()).map(|(a, b)| a.wrapping_mul(*b));
        Ok(self.rounded(x.shape.clone(), z, bias, shift))
    }
    fn flip(&self, _at: Step, x: &ClearTensor, signs: &ClearTensor) -> Result<ClearTensor> {
        crate::fit::fits_signs(&x.shape, &signs.shape)?;
        let values = x.values.iter().zip(signs.values.iter().cycle()).map(|(x, s)| x.wrapping_mul(*s)).collect();
        Ok(self.tensor(x.shape.clone(), Width::Narrow, values))
    }
    fn truncate(&self, _at: Step, x: &ClearTensor, shift: u32) -> Result<ClearTensor> {
        Ok(self.rounded(x.shape.clone(), x.values.iter().copied(), None, shift))
    }
    fn msb(&self, _at: Step, x: &ClearTensor) -> Result<ClearTensor> {
        self.fits(&x.values, self.settings.narrow_bits);
        let bits = x.values.iter().map(|&v| i64::from(v < 0)).collect();
        Ok(self.tensor(x.shape.clone(), Width::Narrow, bits))
    }
    fn piecewise_constant(
        &self,
        _at: Step,
        x: &ClearTensor,
        thresholds: &[i64],
        functions: &[Vec<i64>],
    ) -> Result<ClearTensor> {
        let shape = crate::fit::function_rows(&x.shape, thresholds, functions)?;
        for t in thresholds {
            let differences: Vec<i64> = x.values.iter().map(|v| v - t).collect();
            self.fits(&differences, self.settings.narrow_bits);
        }
        let value = |v: i64, weights: &[i64]| {
            let above = thresholds.iter().zip(weights).filter(|(t, _)| v < **t);
            above.fold(0i64, |sum, (_, w)| sum.wrapping_add(*w))
        };
        let values = functions.iter().flat_map(|f| x.values.iter().map(|&v| value(v, f)));
        Ok(self.tensor(shape, Width::Wide, values.collect()))
    }
    fn relu_with_bit(&self, _at: Step, x: &ClearTensor, out: Width) -> Result<(ClearTensor, ClearTensor)> {
        self.fits(&x.values, self.settings.narrow_bits);
        let bits = x.values.iter().map(|&v| i64::from(v >= 0)).collect();
        let y = self.tensor(x.shape.clone(), out, x.values.iter().map(|&v| v.max(0)).collect());
        Ok((y, self.tensor(x.shape.clone(), Width::Narrow, bits)))
    }
    fn select(&self, _at: Step, bit: &ClearTensor, x: &ClearTensor, out: Width) -> Result<ClearTensor> {
        crate::fit::fits_bits(&bit.shape, &x.shape)?;
        if out == Width::Wide {
            self.fits(&x.values, self.settings.narrow_bits - 1);
        }
        let values = x.values.iter().zip(bit.values.iter()).map(|(&v, &b)| v * b).collect();
        Ok(self.tensor(x.shape.clone(), out, values))
    }
    fn pack(&self, weights: &ClearTensor, op: &Conv2d) -> Result<D::Panel> {
        crate::fit::fits_weight(&weights.shape, op)?;
        Ok(self.panel(&weights.values, op))
    }
    fn extend(&self, _at: Step, x: &ClearTensor) -> Result<ClearTensor> {
        self.fits(&x.values, self.settings.narrow_bits - 1);
        Ok(self.tensor(x.shape.clone(), Width::Wide, x.values.to_vec()))
    }
    fn watch(&self, _at: Step, x: &ClearTensor, _rows: usize) -> Result<()> {
        self.fits(&x.values, self.settings.narrow_bits - 1);
        Ok(())
    }
    fn sound(&self, _at: Step, _row: [usize; 2], _to: Role) -> Result<Option<bool>> {
        Ok(None)
    }
    fn verify(&self, _at: Step, x: ClearTensor) -> Result<Checked<ClearTensor>> {
        Ok(Checked(x))
    }
    fn open(&self, _at: Step, x: Checked<ClearTensor>, _to: Role) -> Result<Option<Vec<i64>>> {
        Ok(Some(x.0.values.to_vec()))
    }
}
