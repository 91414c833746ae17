//! Decides widths and scales, then turns every real constant into integers.

use super::builder::{Builder, Pending};
use crate::limits::MAX_MAPPED;
use crate::program::{Instruction, Op, Port, Program, Secret, SecretForm, Secrets, Slot, SlotInfo, State};
use crate::tensor::Tensor;
use crate::{Error, Result};
use sordino_mpc::Ends;
use sordino_ring::{Conv2d, Scale, Shape};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Finisher {
    pub(super) b: Builder,
    pub(super) wide: Vec<bool>,
    /// Exponent of each root group.
    pub(super) exponents: BTreeMap<usize, i32>,
    instructions: Vec<Instruction>,
    slots: Vec<SlotInfo>,
    forms: Vec<SecretForm>,
    secrets: Vec<Secret>,
    states: Vec<State>,
}

pub(super) fn operands(step: &Pending) -> Vec<Slot> {
    match step {
        Pending::Done(op) => op.operands(),
        Pending::Linear { terms, .. } => terms.iter().map(|t| t.0).collect(),
        Pending::Mul { x, y, bias } => [*x, *y].into_iter().chain(*bias).collect(),
        Pending::Product { terms, addends, .. } => {
            terms.iter().flat_map(|t| [t.0, t.1]).chain(addends.iter().map(|a| a.0)).collect()
        }
        Pending::WeightGradient { x, dy: y, addends, .. } | Pending::Times { x, y, addends, .. } => {
            [*x, *y].into_iter().chain(addends.iter().map(|a| a.0)).collect()
        }
        Pending::Blend(terms) => terms.iter().map(|t| t.0).collect(),
        Pending::Descend { w, v } => vec![*w, *v],
        Pending::Rescale { x, .. }
        | Pending::MulPublic { x, .. }
        | Pending::Piecewise { x, .. }
        | Pending::Row { x, .. }
        | Pending::Offset { x, .. } => vec![*x],
        Pending::RowAtProduct { of, .. } => vec![*of],
        Pending::Secret(_) | Pending::SecretAtProduct { .. } => vec![],
    }
}

fn takes_wide(step: &Pending) -> bool {
    match step {
        Pending::Linear { .. }
        | Pending::Product { .. }
        | Pending::WeightGradient { .. }
        | Pending::Times { .. }
        | Pending::Blend(_)
        | Pending::Mul { .. }
        | Pending::Rescale { .. }
        | Pending::MulPublic { .. } => true,
        Pending::Done(op) => op.takes_wide(),
        _ => false,
    }
}

pub(super) fn takes_narrow(step: &Pending) -> bool {
    matches!(
        step,
        Pending::Piecewise { .. }
            | Pending::Done(Op::Relu { .. } | Op::Select { .. } | Op::Max { .. } | Op::Flip { .. })
    )
}

fn is_local(step: &Pending) -> bool {
    match step {
        Pending::Done(op) => op.is_local(),
        Pending::Row { .. } | Pending::RowAtProduct { .. } | Pending::Offset { .. } => true,
        Pending::Descend { .. } => true,
        _ => false,
    }
}

/// Steps whose result is narrow by nature.
pub(super) fn makes_narrow(step: &Pending) -> bool {
    takes_wide(step) || matches!(step, Pending::Done(Op::Max { .. } | Op::Flip { .. }))
}

/// Steps whose result is wide by nature.
fn makes_wide(step: &Pending) -> bool {
    matches!(
        step,
        Pending::Done(Op::Input(_) | Op::Secret(_) | Op::State(_))
            | Pending::Descend { .. }
            | Pending::Secret(_)
            | Pending::SecretAtProduct { .. }
            | Pending::Piecewise { .. }
            | Pending::Row { .. }
            | Pending::RowAtProduct { .. }
    )
}

pub(super) fn finish(b: Builder) -> Result<(Program, Secrets)> {
    let wide = widths(&b);
    let mut f = Finisher {
        wide,
        exponents: BTreeMap::new(),
        instructions: vec![],
        slots: vec![],
        forms: vec![],
        secrets: vec![],
        states: vec![],
        b,
    };
    f.choose_exponents()?;
    f.slots = (0..f.b.values.len())
        .map(|s| SlotInfo { shape: Shape::new(&f.b.values[s].dims), scale: f.scale(s), wide: f.wide[s] })
        .collect();
    for (layer, step, out) in std::mem::take(&mut f.b.steps) {
        f.emit(layer, &step, out)?;
    }
    f.check_maps()?;
    let axes = f.b.batch.take();
    let port = |f: &Finisher, (name, slot, dims): &(String, Slot, Vec<usize>), batch: Option<&usize>| Port {
        name: name.clone(),
        slot: *slot,
        owner: 0,
        dims: dims.clone(),
        batch: batch.copied(),
        columns: vec![],
        scale: f.scale(*slot),
        limit: f.b.reach(*slot),
    };
    for (read, left, start) in std::mem::take(&mut f.b.states) {
        f.state(read, left, start.as_ref())?;
    }
    let columns = std::mem::take(&mut f.b.columns);
    let mut program = Program {
        states: std::mem::take(&mut f.states),
        guarded: 0,
        bits: f.b.bits,
        rates: std::mem::take(&mut f.b.rates),
        inputs: (0..).zip(&f.b.inputs).map(|(i, p)| port(&f, p, axes.as_ref().and_then(|a| a.inputs.get(i)))).collect(),
        outputs: (0..)
            .zip(&f.b.outputs)
            .map(|(i, p)| port(&f, p, axes.as_ref().and_then(|a| a.outputs.get(i))))
            .collect(),
        instructions: f.instructions,
        slots: f.slots,
        secrets: f.forms,
        layers: f.b.layers,
        settings: f.b.options.settings,
    };
    for (port, columns) in program.inputs.iter_mut().zip(columns) {
        port.columns = columns.unwrap_or_default();
    }
    Ok((program, Secrets(f.secrets)))
}

/// Which values a consumer needs in the wide ring, backwards through local steps.
fn widths(b: &Builder) -> Vec<bool> {
    let mut wide = vec![false; b.values.len()];
    b.states.iter().for_each(|s| wide[s.1] = true);
    for (_, step, out) in b.steps.iter().rev() {
        if takes_wide(step) || (is_local(step) && wide[*out]) {
            for x in operands(step) {
                wide[x] = true;
            }
        }
        if makes_wide(step) {
            wide[*out] = true;
            if is_local(step) {
                for x in operands(step) {
                    wide[x] = true;
                }
            }
        }
    }
    // A local step on operands that are all wide anyway stays there: lowering is free, extending is not.
    for (_, step, out) in &b.steps {
        if is_local(step) && operands(step).iter().all(|&x| wide[x]) {
            wide[*out] = true;
        }
    }
    wide
}

impl Finisher {
    pub(super) fn scale(&self, slot: Slot) -> f64 {
        let value = &self.b.values[slot];
        let (root, ratio) = self.b.root(value.group);
        value.ratio * ratio * 2f64.powi(self.exponents.get(&root).copied().unwrap_or(0))
    }

    /// The largest shift of a sum of convolutions: their gains take bits of it.
    pub(super) fn most_shift_of<'a>(&self, convolutions: impl Iterator<Item = &'a Conv2d>) -> u32 {
        let settings = &self.b.options.settings;
        let gain = convolutions.map(|op| settings.gain(op)).max().unwrap_or(1);
        self.most_shift() - gain.trailing_zeros()
    }

    /// A narrow value must stay below two to this: two bits less than what comparisons take.
    pub(super) fn most_shift(&self) -> u32 {
        self.b.options.settings.most_shift()
    }

    fn number(&self, layer: usize, value: f64, scale: f64) -> Result<i64> {
        let v = (value * scale).round();
        if v.abs() < 2f64.powi(62) {
            return Ok(v as i64);
        }
        let why = format!("the constant {value} does not fit at {scale} steps per unit");
        Err(Error::Range { layer: self.b.layers[layer].name.clone(), why })
    }

    /// A tensor of the model owner's at a scale at which it fits.
    fn secret(&mut self, layer: usize, form: SecretForm, values: &Arc<Tensor>, scale: f64) -> Result<usize> {
        let fault = |why: String| Err(Error::Range { layer: self.b.layers[layer].name.clone(), why });
        if Scale::new(scale).is_none() {
            return fault("its scale is not a positive number".into());
        }
        // So large, every float is an integer: rounding would change nothing.
        let fits = |v: &&f32| (f64::from(**v) * scale).abs() < 2f64.powi(62);
        if let Some(v) = values.data.iter().find(|v| !fits(v)) {
            return fault(format!("a weight of {v} does not fit at {scale:.3e} steps per unit"));
        }
        self.forms.push(form);
        self.secrets.push(Secret { values: Arc::clone(values), scale });
        Ok(self.forms.len() - 1)
    }

    /// Every party holds the maps of all re-indexings: a small model, such as one whose pooling has a huge window, must not ask
    /// for more than there is.
    fn check_maps(&self) -> Result<()> {
        let mut sum = 0usize;
        for instruction in self.instructions.iter().filter(|i| matches!(i.op, Op::Gather { .. })) {
            sum = sum.saturating_add(self.slots[instruction.out].shape.len());
            if sum > MAX_MAPPED {
                let why = "with it the model moves more elements than a party can map; lower the batch".into();
                return Err(Error::Range { layer: self.b.layers[instruction.layer].name.clone(), why });
            }
        }
        Ok(())
    }

    fn push(&mut self, layer: usize, op: Op, out: Slot) {
        self.instructions.push(Instruction { layer, op, out });
    }

    fn shift_of(&self, layer: usize, x: Slot, y: Slot, out: Slot, by: f64, most: u32) -> Result<u32> {
        let shift = (self.scale(x) * self.scale(y) / self.scale(out) / by).log2().round();
        // Ranges that leave the floats have no scale; such a model runs, and its answer means as much as theirs.
        if shift.is_nan() {
            return Ok(0);
        }
        if (0.0..=f64::from(most)).contains(&shift) {
            return Ok(shift as u32);
        }
        let why = "the scales of its operands and its result do not go together in these rings".into();
        Err(Error::Range { layer: self.b.layers[layer].name.clone(), why })
    }

    /// A state and its first value, shared by the model owner, if it has one.
    fn state(&mut self, read: Slot, left: Slot, start: Option<&Tensor>) -> Result<()> {
        let Some(start) = start else {
            self.states.push(State { read, left, start: None });
            return Ok(());
        };
        let layer = self.b.steps.iter().find(|s| s.2 == read).map_or(0, |s| s.0);
        let form = SecretForm::Tensor(self.slots[read].shape.clone());
        let start = self.secret(layer, form, &Arc::new(start.clone()), self.scale(read))?;
        self.states.push(State { read, left, start: Some(start) });
        Ok(())
    }

    /// A wide value times a public integer.
    fn scaled(&mut self, layer: usize, x: Slot, factor: i64) -> Slot {
        let scale = self.slots[x].scale * factor as f64;
        self.slots.push(SlotInfo { shape: self.slots[x].shape.clone(), scale, wide: true });
        let slot = self.slots.len() - 1;
        self.push(layer, Op::Scale { x, factor }, slot);
        slot
    }

    /// The sum of values times reals at a scale; values of one shape. What the result's own scale cannot show is left out.
    fn sum(&mut self, layer: usize, terms: &[(Slot, f64)], scale: f64, out: f64) -> Result<Option<Slot>> {
        let mut sum: Option<Slot> = None;
        for &(x, by) in terms {
            let exact = by * scale / self.scale(x);
            let top = by.abs() * self.b.values[x].range * self.b.options.margin * out;
            let y = if (exact.round() / exact - 1.0).abs() < 1.0 / 128.0 {
                self.scaled(layer, x, self.number(layer, exact, 1.0)?)
            } else if top < 0.5 || exact.abs() < 2f64.powi(-30) {
                continue;
            } else {
                // A factor that an integer would be too coarse for.
                self.brought(layer, x, by, scale)?
            };
            sum = Some(match sum {
                None => y,
                Some(x) => {
                    let info = SlotInfo { shape: self.slots[y].shape.clone(), scale, wide: true };
                    self.slots.push(info);
                    let slot = self.slots.len() - 1;
                    self.push(layer, Op::Add { x, y }, slot);
                    slot
                }
            });
        }
        Ok(sum)
    }

    /// The addends of a product, at its scale.
    fn addends(&mut self, layer: usize, addends: &[(Slot, f64)], out: Slot, shift: u32) -> Result<Option<Slot>> {
        let scale = self.scale(out);
        self.sum(layer, addends, scale * 2f64.powi(shift as i32), scale)
    }

    /// A value times a real at another scale, where its range may be beyond the narrow ring: rescaled within it, then
    /// times a power of two.
    fn brought(&mut self, layer: usize, x: Slot, by: f64, scale: f64) -> Result<Slot> {
        let top = (self.b.values[x].range.max(1e-9) * by.abs() * self.b.options.margin * scale).log2().ceil();
        let power = (top - self.b.narrow_bits()).clamp(0.0, 62.0);
        let shape = self.slots[x].shape.clone();
        let within = scale / 2f64.powf(power);
        let op = self.rescale(layer, x, by, within)?;
        self.slots.push(SlotInfo { shape, scale: within, wide: true });
        let slot = self.slots.len() - 1;
        self.push(layer, op, slot);
        self.push(layer, Op::Extend { x: slot }, slot);
        Ok(if power > 0.0 { self.scaled(layer, slot, 1 << power as u32) } else { slot })
    }

    /// As many bits of the factor as keep the product within the ring.
    fn rescale(&self, layer: usize, x: Slot, by: f64, scale: f64) -> Result<Op> {
        let factor = by * scale / self.scale(x);
        let shift = (24.0 - factor.abs().max(1e-9).log2()).floor().clamp(0.0, f64::from(self.most_shift())) as u32;
        Ok(Op::Rescale { x, factor: self.number(layer, factor, 2f64.powi(shift as i32))?, shift })
    }

    fn integers(&self, layer: usize, values: &[f64], scale: f64) -> Result<Vec<i64>> {
        values.iter().map(|&v| self.number(layer, v, scale)).collect()
    }

    fn emit(&mut self, layer: usize, step: &Pending, out: Slot) -> Result<()> {
        let op = match step {
            Pending::Done(Op::Relu { x, keep, .. }) => {
                Op::Relu { x: *x, shift: None, wide: self.wide[out], keep: *keep }
            }
            Pending::Done(Op::Select { x, bit, .. }) => Op::Select { x: *x, bit: *bit, wide: self.wide[out] },
            Pending::Done(op) => op.clone(),
            Pending::Linear { .. } => self.linear(layer, step, out)?,
            Pending::Product { terms, by, addends } => {
                let (x, w, _) = terms[0];
                let shift = self.shift_of(layer, x, w, out, *by, self.most_shift_of(terms.iter().map(|t| &t.2)))?;
                let mut brought = vec![terms[0]];
                for &(y, w, conv) in &terms[1..] {
                    let scale = self.scale(x) * self.scale(terms[0].1) / self.scale(y);
                    brought.push((y, self.brought(layer, w, 1.0, scale)?, conv));
                }
                let bias = self.addends(layer, addends, out, shift)?;
                Op::Product { terms: brought, bias, shift }
            }
            Pending::WeightGradient { x, dy, conv, by, addends } => {
                let shift = self.shift_of(layer, *x, *dy, out, *by, self.most_shift())?;
                let bias = self.addends(layer, addends, out, shift)?;
                Op::WeightGradient { x: *x, dy: *dy, conv: *conv, bias, shift }
            }
            Pending::Times { x, y, by, addends } => {
                let shift = self.shift_of(layer, *x, *y, out, *by, self.most_shift())?;
                let bias = self.addends(layer, addends, out, shift)?;
                Op::Mul { x: *x, y: *y, bias, shift }
            }
            Pending::Blend(terms) => {
                let shift = self.most_shift();
                match self.addends(layer, terms, out, shift)? {
                    Some(x) => Op::Rescale { x, factor: 1, shift },
                    // All terms are too small to show.
                    None => Op::Rescale { x: terms[0].0, factor: 0, shift },
                }
            }
            Pending::Descend { w, v } => {
                let per_rate = self.scale(*w) / self.scale(*v);
                Op::Descend { w: *w, v: *v, per_rate }
            }
            Pending::Mul { x, y, bias } => {
                Op::Mul { x: *x, y: *y, bias: *bias, shift: self.shift_of(layer, *x, *y, out, 1.0, self.most_shift())? }
            }
            Pending::Rescale { x, by } => self.rescale(layer, *x, *by, self.scale(out))?,
            Pending::MulPublic { x, factors } => {
                let shift = 24.min(self.most_shift());
                let scale = self.scale(out) / self.scale(*x) * 2f64.powi(shift as i32);
                Op::MulPublic { x: *x, factors: self.integers(layer, factors, scale)?, shift }
            }
            // Each of its rows adds its weights once its scale is known.
            Pending::Piecewise { x, thresholds, watched: [below, above] } => {
                let thresholds = self.thresholds(layer, thresholds, self.scale(*x))?;
                // A domain of a few units is crossed by rounding.
                let wide = thresholds.last().zip(thresholds.first()).is_some_and(|(hi, lo)| hi - lo >= 64);
                let watched = (wide && (*below || *above)).then_some(Ends { below: *below, above: *above, rows: 0 });
                Op::Piecewise { x: *x, thresholds, functions: vec![], watched }
            }
            Pending::Row { x, values } => self.row(layer, *x, values, self.scale(out))?,
            Pending::RowAtProduct { of, values, x, y } => {
                self.row(layer, *of, values, self.scale(*x) * self.scale(*y))?
            }
            Pending::Offset { x, addend } => {
                Op::Offset { x: *x, addend: self.number(layer, *addend, self.scale(out))? }
            }
            Pending::Secret(values) => {
                Op::Secret(self.secret(layer, SecretForm::Tensor(Shape::new(&values.dims)), values, self.scale(out))?)
            }
            Pending::SecretAtProduct { values, x, y } => {
                let form = SecretForm::Tensor(Shape::new(&values.dims));
                Op::Secret(self.secret(layer, form, values, self.scale(*x) * self.scale(*y))?)
            }
        };
        self.push(layer, op, out);
        if self.wide[out] && makes_narrow(step) {
            self.push(layer, Op::Extend { x: out }, out);
        }
        Ok(())
    }

    /// Thresholds must stay where comparisons with any narrow value are exact.
    fn thresholds(&self, layer: usize, thresholds: &[f64], scale: f64) -> Result<Vec<i64>> {
        let limit = 1 << (self.b.options.settings.narrow_bits - 2);
        Ok(self.integers(layer, thresholds, scale)?.into_iter().map(|t| t.clamp(-limit, limit)).collect())
    }

    /// The value of a region is the last region's plus the differences at all thresholds above x. Values are rounded, not
    /// differences, whose errors would add up.
    fn row(&mut self, layer: usize, x: Slot, values: &[f64], scale: f64) -> Result<Op> {
        let values = self.integers(layer, values, scale)?;
        let weights = values.windows(2).map(|v| v[0].wrapping_sub(v[1])).collect();
        let addend = values.last().copied().unwrap_or(0);
        let made = self.instructions.iter_mut().rev().find(|i| i.out == x);
        let Some(Instruction { op: Op::Piecewise { functions, .. }, .. }) = made else {
            return Err(Error::Model("a row of what is no piecewise function".into()));
        };
        functions.push(weights);
        let row = functions.len() - 1;
        let dims = [&[row + 1], &self.slots[x].shape.dims()[1..]].concat();
        self.slots[x].shape = Shape::new(&dims);
        Ok(Op::Row { x, row, addend })
    }

    fn linear(&mut self, layer: usize, step: &Pending, out: Slot) -> Result<Op> {
        let Pending::Linear { terms, bias, channels } = step else {
            return Err(Error::Model("not a linear layer".into()));
        };
        let (first, _, _) = &terms[0];
        // Weights carry as many fractional bits as the shift allows; more cost nothing.
        let most = self.most_shift_of(terms.iter().map(|t| &t.2));
        let shift = match self.b.options.weight_bits {
            None => most,
            Some(bits) => {
                let shift = f64::from(bits) + (self.scale(*first) / self.scale(out)).log2();
                shift.round().clamp(0.0, f64::from(most)) as u32
            }
        };
        // Where the result is far smaller than what it is the sum of, as its bias, that must fit the ring all the same.
        let at = |shift: u32| self.scale(out) * 2f64.powi(shift as i32);
        let largest = |shift: u32| {
            let weights = terms.iter().map(|(x, w, _)| f64::from(w.max_abs()) * at(shift) / self.scale(*x));
            let bias = bias.as_ref().map_or(0.0, |b| f64::from(b.max_abs()) * at(shift));
            weights.fold(bias, f64::max)
        };
        let shift = (0..=shift).rev().find(|s| largest(*s) < 2f64.powi(61)).unwrap_or(0);
        let product = at(shift);
        let mut packed = vec![];
        for (x, weight, op) in terms {
            let secret = self.secret(layer, SecretForm::Weight(*op), weight, product / self.scale(*x))?;
            packed.push((*x, secret, *op));
        }
        let bias = match bias {
            None => None,
            Some(bias) => Some(self.bias(layer, bias, *channels, product)?),
        };
        Ok(Op::Linear { terms: packed, bias, shift: Some(shift) })
    }

    /// A bias per channel; channels are the last dimension.
    fn bias(&mut self, layer: usize, bias: &Arc<Tensor>, channels: usize, scale: f64) -> Result<Slot> {
        let shape = Shape::new(&[channels]);
        self.slots.push(SlotInfo { shape: shape.clone(), scale, wide: true });
        let slot = self.slots.len() - 1;
        let index = self.secret(layer, SecretForm::Tensor(shape), bias, scale)?;
        self.push(layer, Op::Secret(index), slot);
        Ok(slot)
    }
}
