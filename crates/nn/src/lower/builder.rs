//! Steps under construction, with scales still symbolic.
//!
//! Every value has a scale `ratio * 2^e`: values that must agree (operands of a sum, parts of a concatenation) share a
//! group and its exponent; an un-truncated mean carries its divisor in the ratio. Linear layers can give any scale,
//! because their weights absorb it; products of two values can give any power of two times their ratios.

use super::Options;
use super::maxima::Axis;
use crate::network::ValueId;
use crate::program::{Op, Slot};
use crate::tensor::Tensor;
use sordino_mpc::Kind;
use sordino_ring::Conv2d;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a group's scale may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) parent: usize,
    /// Scale of this group over its parent's.
    pub(super) ratio: f64,
    /// Any real scale will do: all sources are linear layers or inputs.
    pub(super) free: bool,
    /// Its scale is given.
    pub(super) fixed: bool,
}

pub(super) struct Value {
    pub(super) dims: Vec<usize>,
    /// Largest magnitude expected, in reals.
    pub(super) range: f64,
    pub(super) group: usize,
    /// Scale over the group's.
    pub(super) ratio: f64,
    /// Most fractional bits, for values a step makes; none for what follows from others.
    pub(super) cap: Option<u32>,
    /// The margin is already part of the range.
    pub(super) exact: bool,
}

/// A real constant whose integer depends on scales not yet known.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// A finished step.
    Done(Op),
    /// Terms, bias, and the real weights of each term.
    Linear { terms: Vec<(Slot, Arc<Tensor>, Conv2d)>, bias: Option<Arc<Tensor>>, channels: usize },
    /// Convolutions with computed weights; values join at the product's scale, times public reals. The product
    /// itself is taken times `by`, which costs nothing: it is read at another scale. Weights of later terms are brought
    /// to the first term's scale.
    Product { terms: Vec<(Slot, Slot, Conv2d)>, by: f64, addends: Vec<(Slot, f64)> },
    /// The gradient of a convolution's weights, in the same way.
    WeightGradient { x: Slot, dy: Slot, conv: Conv2d, by: f64, addends: Vec<(Slot, f64)> },
    /// `by * x * y`, element by element, in the same way.
    Times { x: Slot, y: Slot, by: f64, addends: Vec<(Slot, f64)> },
    /// A sum of values times public reals, truncated once.
    Blend(Vec<(Slot, f64)>),
    /// `w - rate * v` at the scale of w, exactly, with the rate of the iteration.
    Descend { w: Slot, v: Slot },
    /// Product; a bias joins at the product's scale.
    Mul { x: Slot, y: Slot, bias: Option<Slot> },
    /// Times a public real, to the scale of the result.
    Rescale { x: Slot, by: f64 },
    /// By public reals.
    MulPublic { x: Slot, factors: Arc<Vec<f64>> },
    /// What is constant between real thresholds; its rows say what.
    Piecewise { x: Slot, thresholds: Arc<Vec<f64>>, watched: [bool; 2] },
    /// A row of it at the scale of the result: its values below, between and above the thresholds.
    Row { x: Slot, values: Vec<f64> },
    /// A real addend.
    Offset { x: Slot, addend: f64 },
    /// A secret tensor at the scale of the result.
    Secret(Arc<Tensor>),
    /// A secret tensor that is added to the product x * y.
    SecretAtProduct { values: Arc<Tensor>, x: Slot, y: Slot },
    /// A row at the scale of the product x * y.
    RowAtProduct { of: Slot, values: Vec<f64>, x: Slot, y: Slot },
}

/// Fractional bits of activations in training.
const TRAINING_BITS: u32 = 20;

/// Fractional bits that no range leaves.
const MOST_BITS: u32 = 62;

/// A ratio without its powers of two, which the exponents of a product's own group take.
pub(super) fn mantissa(ratio: f64) -> f64 {
    ratio / 2f64.powf(ratio.log2().floor())
}

pub(super) struct Builder {
    pub(super) options: Options,
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<(usize, Pending, Slot)>,
    pub(super) groups: Vec<Group>,
    pub(super) layers: Vec<crate::program::LayerInfo>,
    pub(super) inputs: Vec<(String, Slot, Vec<usize>)>,
    pub(super) outputs: Vec<(String, Slot, Vec<usize>)>,
    /// States: where they are read, where they are left, what they start as.
    pub(super) states: Vec<(Slot, Slot, Option<Tensor>)>,
    /// Scales of states that another program has left.
    pub(super) fixed: BTreeMap<Slot, f64>,
    /// True where weights are values: they do not absorb a mean's divisor.
    pub(super) training: bool,
    /// Powers of two that columns of the inputs are times.
    pub(super) columns: crate::columns::Columns,
    /// Axes of the batch.
    pub(super) batch: Option<crate::batch::Batch>,
    /// Learning rates.
    pub(super) rates: Vec<f64>,
    /// Bits that are kept.
    pub(super) bits: usize,
    /// Operands of ReLUs whose sign is kept, and its bit.
    pub(super) signs: BTreeMap<ValueId, usize>,
    /// What softmaxes of values, over axes from one to another, have made so far: `x - max` and the sum of its exponentials, after
    /// those themselves.
    pub(super) exponentials: BTreeMap<(Slot, usize, usize), [Slot; 3]>,
    /// Of norms that were moved, what the layer behind their ReLU makes good, by that ReLU's result.
    pub(super) behind: BTreeMap<ValueId, super::moved::Behind>,
    /// Results of maximum poolings whose comparisons are kept, once they are made.
    pub(super) pools: BTreeMap<ValueId, Option<Vec<Axis>>>,
}

impl Builder {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            values: vec![],
            steps: vec![],
            groups: vec![],
            layers: vec![],
            inputs: vec![],
            outputs: vec![],
            states: vec![],
            fixed: BTreeMap::new(),
            training: false,
            columns: vec![],
            batch: None,
            rates: vec![],
            bits: 0,
            signs: BTreeMap::new(),
            exponentials: BTreeMap::new(),
            behind: BTreeMap::new(),
            pools: BTreeMap::new(),
        }
    }

    fn group(&mut self, free: bool) -> usize {
        let parent = self.groups.len();
        self.groups.push(Group { parent, ratio: 1.0, free, fixed: false });
        parent
    }

    /// The root of a group, and the group's scale over the root's.
    pub(super) fn root(&self, mut group: usize) -> (usize, f64) {
        let mut ratio = 1.0;
        while self.groups[group].parent != group {
            ratio *= self.groups[group].ratio;
            group = self.groups[group].parent;
        }
        (group, ratio)
    }

    fn push(&mut self, step: Pending, dims: &[usize], range: f64, group: usize, ratio: f64, cap: Option<u32>) -> Slot {
        self.values.push(Value { dims: dims.to_vec(), range, group, ratio, cap, exact: false });
        let slot = self.values.len() - 1;
        self.steps.push((self.layers.len().saturating_sub(1), step, slot));
        slot
    }

    /// A step that chooses its result's scale, at most `cap` bits.
    pub(super) fn source(&mut self, step: Pending, dims: &[usize], range: f64, cap: u32) -> Slot {
        let group = self.group(true);
        self.push(step, dims, range, group, 1.0, Some(cap))
    }

    /// The same, at a power of two of x's scale.
    pub(super) fn source_like(&mut self, x: Slot, step: Pending, dims: &[usize], range: f64, cap: u32) -> Slot {
        let ratio = mantissa(self.total_ratio(x));
        let group = self.group(true);
        self.push(step, dims, range, group, ratio, Some(cap))
    }

    /// A step whose result has this scale.
    pub(super) fn fixed(&mut self, step: Pending, dims: &[usize], range: f64, scale: f64) -> Slot {
        let group = self.group(false);
        self.groups[group].fixed = true;
        let slot = self.push(step, dims, range, group, mantissa(scale), None);
        self.fixed.insert(slot, scale);
        slot
    }

    /// A step whose result's scale is its operand's times `ratio`.
    pub(super) fn like(&mut self, x: Slot, ratio: f64, step: Pending, dims: &[usize], range: f64) -> Slot {
        let (group, own) = (self.values[x].group, self.values[x].ratio);
        self.push(step, dims, range, group, own * ratio, None)
    }

    /// A step whose product of computed operands has any power of two of the product of their ratios.
    pub(super) fn product(&mut self, step: Pending, dims: &[usize], range: f64, cap: u32) -> Slot {
        let (x, y, by) = match &step {
            Pending::Product { terms, by, .. } => (terms[0].0, terms[0].1, *by),
            Pending::WeightGradient { x, dy: y, by, .. } | Pending::Times { x, y, by, .. } => (*x, *y, *by),
            _ => return self.source(step, dims, range, cap),
        };
        let ratio = mantissa(self.settled_ratio(x) * self.settled_ratio(y) / by);
        let group = self.group(false);
        self.push(step, dims, range, group, ratio, Some(cap))
    }

    /// The product of two values, at a power of two of the product of their ratios.
    pub(super) fn mul(&mut self, x: Slot, y: Slot, bias: Option<Slot>, dims: &[usize], range: f64, cap: u32) -> Slot {
        let ratio = mantissa(self.settled_ratio(x) * self.settled_ratio(y));
        let group = self.group(false);
        self.push(Pending::Mul { x, y, bias }, dims, range, group, ratio, Some(cap))
    }

    /// The ratio of a scale at which the least learning rate is a power of two of a unit of a weight; none if nothing is
    /// trained.
    pub(super) fn pace(&self) -> Option<f64> {
        self.rates.iter().copied().filter(|r| *r > 0.0).reduce(f64::min)
    }

    /// Gives a value that ratio, if its scale may still be chosen.
    pub(super) fn keep_pace(&mut self, x: Slot) {
        let root = self.root(self.values[x].group).0;
        if let (true, Some(pace)) = (self.groups[root].free, self.pace()) {
            let ratio = mantissa(pace / self.total_ratio(x));
            let parent = self.group(false);
            (self.groups[root].parent, self.groups[root].ratio) = (parent, ratio);
        }
    }

    /// A value's scale over its root group's power of two.
    pub(super) fn total_ratio(&self, x: Slot) -> f64 {
        self.values[x].ratio * self.root(self.values[x].group).1
    }

    /// The same, which must not change any more because a product's ratio follows from it.
    fn settled_ratio(&mut self, x: Slot) -> f64 {
        let (root, _) = self.root(self.values[x].group);
        self.groups[root].free = false;
        self.total_ratio(x)
    }

    /// Makes two values' scales agree; returns the second, rescaled if there is no other way.
    pub(super) fn agree(&mut self, x: Slot, y: Slot) -> Slot {
        let (gx, rx) = self.root(self.values[x].group);
        let (gy, ry) = self.root(self.values[y].group);
        let (sx, sy) = (self.values[x].ratio * rx, self.values[y].ratio * ry);
        if gx == gy {
            return if (sx / sy - 1.0).abs() < 1e-12 { y } else { self.rescale_to(x, y) };
        }
        // scale_x = sx 2^ex and scale_y = sy 2^ey: joining fixes ey - ex.
        let ratio = sx / sy;
        let power = (ratio.log2() - ratio.log2().round()).abs() < 1e-12;
        if self.groups[gx].fixed || self.groups[gy].fixed {
            return self.rescale_to(x, y);
        }
        if self.groups[gy].free {
            (self.groups[gy].parent, self.groups[gy].ratio) = (gx, ratio);
        } else if self.groups[gx].free {
            (self.groups[gx].parent, self.groups[gx].ratio) = (gy, 1.0 / ratio);
        } else if power {
            (self.groups[gy].parent, self.groups[gy].ratio) = (gx, ratio);
        } else {
            return self.rescale_to(x, y);
        }
        y
    }

    /// y at the scale of x, by a truncation.
    fn rescale_to(&mut self, x: Slot, y: Slot) -> Slot {
        let (dims, range) = (self.values[y].dims.clone(), self.values[y].range);
        let (group, ratio) = (self.values[x].group, self.values[x].ratio);
        self.push(Pending::Rescale { x: y, by: 1.0 }, &dims, range, group, ratio, None)
    }

    /// A calibrated range raised until it is a power of two with its margin: the public program is made from these alone, and
    /// tells no more of a range.
    pub(super) fn rounded(&self, range: f64) -> f64 {
        self.power(range) / self.options.margin
    }
    /// The power of two that a range with its margin does not exceed, and that the range itself stays below by more than
    /// rounding takes: values must be less than it, where they are compared.
    fn power(&self, range: f64) -> f64 {
        const ROUNDING: f64 = 1.0 + 1.0 / 8192.0;
        (range.max(1e-9) * self.options.margin.max(ROUNDING)).log2().ceil().exp2()
    }
    /// A power of two that a value stays below with its margin.
    pub(super) fn reach(&self, x: Slot) -> f64 {
        self.power(self.range(x))
    }
    /// A narrow value must stay below two to this, in units.
    pub(super) fn narrow_bits(&self) -> f64 {
        f64::from(self.options.settings.narrow_bits) - 2.0
    }
    /// One unit of a narrow value with as many fractional bits as its range leaves.
    pub(super) fn unit(&self, x: Slot) -> f64 {
        let cap = self.values[x].cap.map_or(f64::INFINITY, f64::from);
        (self.reach(x).log2() - self.narrow_bits()).max(-cap).exp2()
    }
    /// A mean of many, truncated: as an operand of a product its divisor would cost the other one's bits.
    pub(super) fn mean(&mut self, sum: Slot, by: f64, range: f64, cap: u32) -> Slot {
        let dims = self.dims(sum);
        self.source_like(sum, Pending::Blend(vec![(sum, by)]), &dims, range, cap)
    }
    pub(super) fn dims(&self, x: Slot) -> Vec<usize> {
        self.values[x].dims.clone()
    }
    pub(super) fn range(&self, x: Slot) -> f64 {
        self.values[x].range
    }
    /// Most fractional bits of an activation. In training they are few: what a step is made of must leave room for a learning
    /// rate of many units. With two parties every bit costs, and weights have only what the rings differ by: activations have as many.
    pub(super) fn cap(&self) -> u32 {
        let settings = &self.options.settings;
        self.options.frac_bits.unwrap_or(match settings.kind {
            Kind::Two => settings.most_shift(),
            Kind::Three if self.training => TRAINING_BITS,
            Kind::Three => MOST_BITS,
        })
    }
}
