//! Chooses the exponent of every group of values whose scales belong together.

use super::builder::Pending;
use super::finish::{Finisher, makes_narrow, operands, takes_narrow};
use crate::program::{Op, Slot};
use crate::{Error, Result};
use sordino_mpc::Kind;
use std::collections::BTreeMap;

/// A value that is only ever wide has room for sums of many narrow ones: all but this many bits of its ring, which are
/// left for a product's other factor.
const FACTOR_BITS: f64 = 20.0;

/// Units of weights that a learning rate is for one unit of its operand, at least, where it is no whole number of them: each
/// iteration's is exact to one in twice as many. All weights of a layer are ahead or behind by that together, which is
/// much more than the rounding of each by itself.
const RATE_UNITS: f64 = 48.0;

/// How far from a whole number of units a rate may be for it to count as one.
const WHOLE: f64 = 1e-6;

/// Largest exponents that are looked at: beyond them a value is refused anyway, and sums of them stay integers.
const FARTHEST: f64 = 4096.0;

/// An exponent; ranges that have left the floats get the farthest.
fn exponent(e: f64) -> i32 {
    e.clamp(-FARTHEST, FARTHEST) as i32
}

/// Share of the largest weight below which an iteration's steps do not count.
const STILL: f64 = 1e-6;

/// A product: its operands, its result, the real it is taken times, and the most its shift may be.
struct Product {
    x: Slot,
    y: Slot,
    out: Slot,
    by: f64,
    most: i32,
}

impl Finisher {
    /// A value that is only ever wide must stay below two to this.
    fn wide_bits(&self) -> f64 {
        let settings = &self.b.options.settings;
        // Two parties' wide ring has room for a shift of weights and no more.
        let factor = if settings.kind == Kind::Two { f64::from(settings.most_shift()) } else { FACTOR_BITS };
        f64::from(settings.wide_bits) - factor.min(FACTOR_BITS)
    }

    fn fault(&self, slot: Slot, why: String) -> Error {
        let layer = self.b.steps.iter().find(|s| s.2 == slot).map_or(0, |s| s.0);
        Error::Range { layer: self.b.layers[layer].name.clone(), why }
    }

    fn root_of(&self, slot: Slot) -> usize {
        self.b.root(self.b.values[slot].group).0
    }

    /// Largest exponents that the rings allow, and what is chosen: these, but no more bits than a value's cap.
    pub(super) fn choose_exponents(&mut self) -> Result<()> {
        let mut narrow = vec![false; self.b.values.len()];
        for (_, step, out) in &self.b.steps {
            narrow[*out] |= makes_narrow(step) || !self.wide[*out] || matches!(step, Pending::Done(Op::Input(_)));
            if takes_narrow(step) {
                operands(step).into_iter().for_each(|x| narrow[x] = true);
                narrow[*out] |= matches!(step, Pending::Done(_));
            }
        }
        let mut limits: BTreeMap<usize, i32> = BTreeMap::new();
        for (slot, &narrow) in narrow.iter().enumerate() {
            let value = &self.b.values[slot];
            let ratio = self.b.total_ratio(slot);
            let range = value.range.max(1e-9) * if value.exact { 1.0 } else { self.b.options.margin };
            let bits = if narrow { self.b.narrow_bits() } else { self.wide_bits() };
            let limit = exponent((bits - (range * ratio).log2()).floor());
            let cap = value.cap.map_or(i32::MAX, |cap| exponent((f64::from(cap) - ratio.log2()).floor()));
            for (map, e) in [(&mut limits, limit), (&mut self.exponents, limit.min(cap))] {
                let entry = map.entry(self.b.root(value.group).0).or_insert(i32::MAX);
                *entry = (*entry).min(e);
            }
        }
        for (&slot, &scale) in &self.b.fixed {
            let e = exponent((scale / self.b.total_ratio(slot)).log2().round());
            self.exponents.insert(self.b.root(self.b.values[slot].group).0, e);
        }
        self.balance(limits);
        let moved = self.b.fixed.iter().find(|&(&s, &scale)| (self.scale(s) / scale - 1.0).abs() > 1e-9);
        if let Some((&slot, _)) = moved {
            return Err(self.fault(slot, "the precision it was trained with does not suit what it is asked for".into()));
        }
        for (_, _, slot) in &self.b.steps {
            // Very large values keep their 30 bits at a scale below one; beyond this, products leave the floats.
            if self.scale(*slot) < 2f64.powi(-100) {
                let why = format!("values up to {:.3e} do not fit the narrow ring", self.b.values[*slot].range);
                return Err(self.fault(*slot, why));
            }
        }
        self.check_steps()
    }

    /// Levels of a value's calibrated range.
    fn levels(&self, slot: Slot) -> f64 {
        self.scale(slot) * self.b.values[slot].range
    }

    /// The learning rate that steps are chosen for. Rates at the end of a schedule may be rounded more: what they move
    /// is small.
    fn finest_rate(&self) -> f64 {
        let largest = self.b.rates.iter().copied().fold(0.0, f64::max);
        self.b.rates.iter().copied().fold(largest, f64::min).max(largest / 16.0)
    }

    /// Whether the learning rates are too few units of w for one of v to be rounded, and not all whole numbers of them.
    fn coarse(&self, w: Slot, v: Slot) -> bool {
        let units = self.scale(w) / self.scale(v);
        let whole = |rate: &f64| ((rate * units).round() / (rate * units) - 1.0).abs() < WHOLE;
        self.finest_rate() * units < RATE_UNITS && !self.b.rates.iter().all(whole)
    }

    fn descents(&self) -> Vec<(Slot, Slot)> {
        let steps = self.b.steps.iter().filter_map(|(_, step, _)| match step {
            Pending::Descend { w, v } => Some((*w, *v)),
            _ => None,
        });
        steps.collect()
    }

    /// Some weight must move, and for each that does a rate must be enough units. How few levels a step has does not matter:
    /// truncation rounds up or down by chance, and the noise is as many units of a weight.
    fn check_steps(&self) -> Result<()> {
        let largest = self.b.rates.iter().copied().fold(0.0, f64::max);
        let descents = self.descents();
        let counts =
            |&&(w, v): &&(Slot, Slot)| largest * self.b.values[v].range > STILL * self.b.values[w].range.max(1e-3);
        let coarse = |&&(w, v): &&(Slot, Slot)| self.coarse(w, v);
        let mut moving = descents.iter().filter(counts);
        let refused = if descents.iter().any(|d| counts(&d)) { moving.find(coarse) } else { descents.first() };
        match refused {
            None => Ok(()),
            Some(&(w, _)) => {
                let why = format!("a learning rate of {largest:.1e} is below its weights' resolution; raise the rate");
                let step = self.b.steps.iter().find(|s| matches!(s.1, Pending::Descend { w: x, .. } if x == w));
                Err(self.fault(step.map_or(w, |s| s.2), why))
            }
        }
    }

    fn products(&self) -> Vec<Product> {
        let most = self.most_shift() as i32;
        let products = self.b.steps.iter().filter_map(|(_, step, out)| {
            let (x, y, by, most) = match step {
                Pending::Mul { x, y, .. } => (*x, *y, 1.0, most),
                Pending::WeightGradient { x, dy: y, by, .. } | Pending::Times { x, y, by, .. } => (*x, *y, *by, most),
                Pending::Product { terms, by, .. } => {
                    (terms[0].0, terms[0].1, *by, self.most_shift_of(terms.iter().map(|t| &t.2)) as i32)
                }
                _ => return None,
            };
            Some(Product { x, y, out: *out, by, most })
        });
        products.collect()
    }

    /// A product's shift must lie between 0 and the most possible, and a learning rate must be many units of a weight for
    /// one of what it takes a step along: gives way where that is not so. A shift that is too large is first taken by the
    /// result, as far as its ring allows, then by the operand with more levels.
    fn balance(&mut self, mut limits: BTreeMap<usize, i32>) {
        let (products, descents) = (self.products(), self.descents());
        let fixed: Vec<usize> = self.b.fixed.keys().map(|&s| self.root_of(s)).collect();
        for _ in 0..256 {
            let mut settled = true;
            for p in &products {
                let shift = exponent((self.scale(p.x) * self.scale(p.y) / self.scale(p.out) / p.by).log2().round());
                let [x, y, out] = [p.x, p.y, p.out].map(|s| self.root_of(s));
                if shift < 0 {
                    self.exponents.entry(out).and_modify(|e| *e += shift);
                    limits.entry(out).and_modify(|l| *l = (*l).min(self.exponents[&out]));
                    settled = false;
                } else if shift > p.most {
                    let mut over = shift - p.most;
                    if out != x && out != y && !fixed.contains(&out) {
                        let raise = (limits[&out] - self.exponents[&out]).clamp(0, over);
                        self.exponents.entry(out).and_modify(|e| *e += raise);
                        over -= raise;
                    }
                    let (first, second) = if self.levels(p.x) > self.levels(p.y) { (x, y) } else { (y, x) };
                    // States that another program has left stay as they are.
                    let lowered = if fixed.contains(&first) { second } else { first };
                    if over > 0 {
                        self.exponents.entry(lowered).and_modify(|e| *e -= over);
                        // It must not be raised again.
                        limits.insert(lowered, self.exponents[&lowered]);
                    }
                    settled = false;
                }
            }
            for &(w, v) in &descents {
                // A step of the optimiser is a multiple of the weights' last bit.
                let root = self.root_of(v);
                if self.coarse(w, v) && self.exponents[&root] > -40 {
                    self.exponents.entry(root).and_modify(|e| *e -= 1);
                    limits.insert(root, self.exponents[&root]);
                    settled = false;
                }
            }
            if settled {
                return;
            }
        }
    }
}
