//! The compiled program: a list of protocol steps with every shape, shift and scale decided. It holds nothing secret,
//! can be printed, hashed, planned and run; weights are apart, in [`Secrets`].

use crate::network::Mask;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino_mpc::{Ends, Settings, Topology};
use sordino_ring::{Conv2d, IndexMap, Shape, WindowSum};
use std::sync::Arc;

/// Index of a value of a program.
pub type Slot = usize;

/// A public re-indexing in a form that is short to write down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum View {
    /// Axis i of the result is axis `perm[i]`.
    Permute {
        /// Dimensions of the operand.
        dims: Vec<usize>,
        /// The permutation.
        perm: Vec<usize>,
    },
    /// `start + step * j` on every axis.
    Window {
        /// Dimensions of the operand.
        dims: Vec<usize>,
        /// First position on each axis.
        start: Vec<isize>,
        /// Step on each axis.
        step: Vec<isize>,
        /// Dimensions of the result.
        out: Vec<usize>,
    },
    /// As [`View::Window`], but positions outside an axis take its nearest element.
    Clamped {
        /// Dimensions of the operand.
        dims: Vec<usize>,
        /// First position on each axis.
        start: Vec<isize>,
        /// Step on each axis.
        step: Vec<isize>,
        /// Dimensions of the result.
        out: Vec<usize>,
    },
    /// From `[o, kh, kw, c / groups]` to `[c, kh, kw, o / groups]` with the kernel turned by half a turn.
    Rotate {
        /// Dimensions of the operand.
        dims: [usize; 4],
        /// Groups.
        groups: usize,
    },
    /// The way back of [`View::Window`]: element j of every axis goes to `start + step * j`, what is between stays open.
    Scatter {
        /// Dimensions of the operand.
        dims: Vec<usize>,
        /// Where the first goes on each axis; may lie outside.
        start: Vec<isize>,
        /// Step on each axis.
        step: Vec<isize>,
        /// Dimensions of the result.
        out: Vec<usize>,
    },
    /// NumPy broadcasting.
    Broadcast {
        /// Dimensions of the operand.
        dims: Vec<usize>,
        /// Dimensions of the result.
        out: Vec<usize>,
    },
    /// Any elements by their place; [`sordino_ring::PAD`] where there is none.
    List {
        /// Where each element of the result comes from.
        source: Vec<u32>,
        /// Dimensions of the result.
        out: Vec<usize>,
    },
}

impl View {
    /// The explicit map.
    #[must_use]
    pub fn map(&self) -> IndexMap {
        match self {
            Self::Permute { dims, perm } => IndexMap::permute(dims, perm),
            Self::Window { dims, start, step, out } => IndexMap::window(dims, start, step, out),
            Self::Clamped { dims, start, step, out } => IndexMap::build(out, |c| {
                let at = |a: usize| (start[a] + step[a] * c[a] as isize).clamp(0, dims[a] as isize - 1) as usize;
                Some((0..dims.len()).fold(0, |p, a| p * dims[a] + at(a)))
            }),
            Self::Broadcast { dims, out } => IndexMap::broadcast(dims, out),
            Self::Rotate { dims: [o, kh, kw, ci], groups } => IndexMap::build(&self.out(), |c| {
                let from = c[0] / ci * (o / groups) + c[3];
                Some(((from * kh + (kh - 1 - c[1])) * kw + (kw - 1 - c[2])) * ci + c[0] % ci)
            }),
            Self::Scatter { dims, start, step, out } => scatter(dims, start, step, out),
            Self::List { source, out } => IndexMap { source: Arc::new(source.clone()), shape: Shape::new(out) },
        }
    }
    /// Dimensions of the result.
    #[must_use]
    pub fn out(&self) -> Vec<usize> {
        match self {
            Self::Permute { dims, perm } => perm.iter().map(|&p| dims[p]).collect(),
            Self::Window { out, .. } | Self::Clamped { out, .. } | Self::Broadcast { out, .. } => out.clone(),
            Self::Scatter { out, .. } | Self::List { out, .. } => out.clone(),
            Self::Rotate { dims: [o, kh, kw, c], groups } => vec![c * groups, *kh, *kw, o / groups],
        }
    }
}

/// The map that puts element j of every axis at `start + step * j` and leaves the rest open.
pub(crate) fn scatter(dims: &[usize], start: &[isize], step: &[isize], out: &[usize]) -> IndexMap {
    IndexMap::build(out, |c| {
        (0..dims.len()).try_fold(0, |p, a| {
            let from = c[a] as isize - start[a];
            let j = usize::try_from(from / step[a]).ok().filter(|&j| from % step[a] == 0 && j < dims[a])?;
            (from / step[a] >= 0).then_some(p * dims[a] + j)
        })
    })
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "operands are named like the protocol's")]
pub enum Op {
    /// Input number i from the data owner.
    Input(usize),
    /// Secret tensor number i from the model owner.
    Secret(usize),
    /// State number i, as the last run left it.
    State(usize),
    /// Sum of convolutions whose weights are wide values, bias at the product's scale, truncated.
    Product {
        terms: Vec<(Slot, Slot, Conv2d)>,
        bias: Option<Slot>,
        shift: u32,
    },
    /// Gradient of the weights of a convolution, bias at the product's scale, truncated.
    WeightGradient {
        x: Slot,
        dy: Slot,
        conv: Conv2d,
        bias: Option<Slot>,
        shift: u32,
    },
    /// `w - k v`, where k is the iteration's learning rate times `per_rate`; what rounding leaves of it is carried on to the
    /// next iteration.
    Descend {
        w: Slot,
        v: Slot,
        per_rate: f64,
    },
    /// What the mask of the iteration keeps; `dims` are the model's own.
    Dropout {
        x: Slot,
        mask: Mask,
        dims: Vec<usize>,
    },
    /// Where kept bit number `bit` is set, into the wide ring or the narrow one.
    Select {
        x: Slot,
        bit: usize,
        wide: bool,
    },
    /// Sum of convolutions with prepared weights, bias at the product's scale; truncated, or left wide for a ReLU that does it.
    Linear {
        terms: Vec<(Slot, usize, Conv2d)>,
        bias: Option<Slot>,
        shift: Option<u32>,
    },
    /// Element-wise product plus a wide addend at the product's scale, truncated.
    Mul {
        x: Slot,
        y: Slot,
        bias: Option<Slot>,
        shift: u32,
    },
    /// `x * factor`, truncated.
    Rescale {
        x: Slot,
        factor: i64,
        shift: u32,
    },
    /// `x * factors`, element by element with public integers, truncated.
    MulPublic {
        x: Slot,
        factors: Vec<i64>,
        shift: u32,
    },
    /// max(x, 0), into the wide ring or the narrow one; may keep the bit x >= 0. With a shift x is wide, and truncated first.
    Relu {
        x: Slot,
        shift: Option<u32>,
        wide: bool,
        keep: Option<usize>,
    },
    /// Element-wise maximum; may keep the bit x >= y.
    Max {
        x: Slot,
        y: Slot,
        keep: Option<usize>,
    },
    /// Times a secret sign for each channel, the last axis: `signs` are 1 or -1.
    Flip {
        x: Slot,
        signs: Slot,
    },
    /// Takes note of elements outside their range, for each of so many equal runs by itself; the result is the operand.
    Watch {
        x: Slot,
        rows: usize,
    },
    /// From the narrow ring to the wide one.
    Extend {
        x: Slot,
    },
    /// Functions of x that are constant between thresholds, wide: sums of the weights whose threshold is above x. A row
    /// for each function, then the shape of x.
    Piecewise {
        x: Slot,
        thresholds: Vec<i64>,
        functions: Vec<Vec<i64>>,
        /// Ends beyond which the function is not what it stands for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        watched: Option<Ends>,
    },
    /// One row, plus a number.
    Row {
        x: Slot,
        row: usize,
        addend: i64,
    },
    Add {
        x: Slot,
        y: Slot,
    },
    Sub {
        x: Slot,
        y: Slot,
    },
    Scale {
        x: Slot,
        factor: i64,
    },
    Offset {
        x: Slot,
        addend: i64,
    },
    Reshape {
        x: Slot,
        dims: Vec<usize>,
    },
    Gather {
        x: Slot,
        view: View,
        fill: i64,
    },
    Concat {
        xs: Vec<Slot>,
        outer: usize,
        widths: Vec<usize>,
        dims: Vec<usize>,
    },
    WindowSum {
        x: Slot,
        windows: WindowSum,
    },
}

/// A step with its place and result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instruction {
    /// Index of the layer it belongs to.
    pub layer: usize,
    /// What it does.
    pub op: Op,
    /// Where the result goes.
    pub out: Slot,
}

/// A value's compiled facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Shape as it is laid out: NHWC at rank 4.
    pub shape: Shape,
    /// Integer steps per unit.
    pub scale: f64,
    /// True when a consumer needs it in the wide ring.
    pub wide: bool,
}

/// What the model owner shares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SecretForm {
    /// Weights (OHWI), packed for a convolution.
    Weight(Conv2d),
    /// A tensor.
    Tensor(Shape),
}

/// A layer's name for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Name in the model.
    pub name: String,
    /// Operator in the model.
    pub op: String,
    /// Its result: the value's name in the network and its slot, if it has just one.
    pub result: Option<(String, Slot)>,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// Its value.
    pub slot: Slot,
    /// Number of the data owner who provides it; of an output, nothing.
    #[serde(default)]
    pub owner: u8,
    /// Dimensions as the model has them.
    pub dims: Vec<usize>,
    /// Which of them is the batch; none if all of it is one sample.
    #[serde(default)]
    pub batch: Option<usize>,
    /// Powers of two that an input's columns, or channels (axis 1), are times before they are encoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<i32>,
    /// Integer steps per unit.
    pub scale: f64,
    /// Magnitude that a value must stay below: the calibrated range with its margin, up to a power of two.
    pub limit: f64,
}

/// A value that outlives a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where a run reads it.
    pub read: Slot,
    /// Where a run leaves it.
    pub left: Slot,
    /// Number of the secret it starts as; none where an earlier program's states are taken over.
    pub start: Option<usize>,
}

/// So that a program without rows to watch is written, and hashed, as it was before there were any.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_none(rows: &usize) -> bool {
    *rows == 0
}

/// A compiled program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Steps in order.
    pub instructions: Vec<Instruction>,
    /// Values.
    pub slots: Vec<SlotInfo>,
    /// What the model owner shares, in order.
    pub secrets: Vec<SecretForm>,
    /// Layers.
    pub layers: Vec<LayerInfo>,
    /// Inputs, laid out as the program takes them.
    pub inputs: Vec<Port>,
    /// Outputs, row-major in their own dimensions.
    pub outputs: Vec<Port>,
    /// What a run hands to the next one.
    pub states: Vec<State>,
    /// Bits that are kept within a run.
    pub bits: usize,
    /// Of how many rows of jobs of their own it tells the receiver whether all of their values were in range; zero if of none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub guarded: usize,
    /// Learning rate of every iteration; the last one holds on.
    pub rates: Vec<f64>,
    /// What the protocol is to do.
    pub settings: Settings,
}

/// Learning rates, added up.
pub(crate) struct Travelled {
    /// Of so many iterations.
    sums: Vec<f64>,
    /// The rate that holds on.
    last: f64,
}

impl Travelled {
    pub(crate) fn new(rates: &[f64]) -> Self {
        let mut sum = 0.0;
        let added = rates.iter().map(|rate| {
            sum += rate;
            sum
        });
        Self { sums: std::iter::once(0.0).chain(added).collect(), last: rates.last().copied().unwrap_or(0.0) }
    }

    /// An iteration's learning rate times `per_rate` as an integer. What rounding leaves is carried on to the next iteration:
    /// the integers of any number of iterations add up to what the rates do, to half a unit.
    pub(crate) fn units(&self, iteration: usize, per_rate: f64) -> i64 {
        let until = |i: usize| {
            let listed = self.sums.len() - 1;
            let further = i.saturating_sub(listed) as f64 * self.last;
            ((self.sums[i.min(listed)] + further) * per_rate).round()
        };
        (until(iteration + 1) - until(iteration)) as i64
    }
}

/// The model owner's tensors, one for each of [`Program::secrets`]. No `Debug`.
pub struct Secrets(pub Vec<Secret>);

/// A tensor of the model owner's, and how many integer steps one unit has. It is encoded when it is shared, so that no model is held
/// as integers whole.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// In the layout of the program.
    pub values: Arc<Tensor>,
    /// Integer steps per unit.
    pub scale: f64,
}

impl Secret {
    /// The integers; compilation has checked that they fit.
    #[must_use]
    pub fn encoded(&self) -> Vec<i64> {
        self.values.data.iter().map(|&v| (f64::from(v) * self.scale).round() as i64).collect()
    }

    /// Largest magnitude of the integers.
    #[must_use]
    pub fn largest(&self) -> u64 {
        (f64::from(self.values.max_abs()) * self.scale).round() as u64
    }
}

impl Program {
    /// What a layer's result must stay below, in reals, rounded as it may be; `None` where it never enters the narrow ring.
    #[must_use]
    pub fn capacity(&self, layer: usize) -> Option<f64> {
        let (_, slot) = self.layers.get(layer)?.result.as_ref()?;
        let mut steps = self.instructions.iter().filter(|i| i.out == *slot);
        let narrow = !self.slots[*slot].wide
            || steps.next_back().is_some_and(|i| matches!(i.op, Op::Extend { .. } | Op::Watch { .. }));
        // Half a unit of rounding to the ring, and one of a truncation's.
        narrow.then(|| (2f64.powi(self.settings.narrow_bits as i32 - 1) - 1.5) / self.slots[*slot].scale)
    }

    /// How many data owners take part.
    #[must_use]
    pub fn owners(&self) -> u8 {
        self.inputs.iter().map(|p| p.owner).max().unwrap_or(0) + 1
    }

    /// Shapes of its states.
    #[must_use]
    pub fn state_shapes(&self) -> Vec<Shape> {
        self.states.iter().map(|s| self.slots[s.read].shape.clone()).collect()
    }

    /// The ends that run it.
    #[must_use]
    pub fn topology(&self) -> Topology {
        Topology::of(self.settings.kind, self.owners())
    }

    /// Hash that parties compare before they start.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        // Serialising numbers, strings and lists cannot fail.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&bytes).into()
    }
}

impl Op {
    /// Values it reads.
    #[must_use]
    pub fn operands(&self) -> Vec<Slot> {
        match self {
            Self::Input(_) | Self::Secret(_) | Self::State(_) => vec![],
            Self::Product { terms, bias, .. } => terms.iter().flat_map(|t| [t.0, t.1]).chain(*bias).collect(),
            Self::WeightGradient { x, dy, bias, .. } => [*x, *dy].into_iter().chain(*bias).collect(),
            Self::Descend { w, v, .. } => vec![*w, *v],
            Self::Linear { terms, bias, .. } => terms.iter().map(|t| t.0).chain(*bias).collect(),
            Self::Mul { x, y, bias, .. } => [*x, *y].into_iter().chain(*bias).collect(),
            Self::Rescale { x, .. }
            | Self::MulPublic { x, .. }
            | Self::Relu { x, .. }
            | Self::Select { x, .. }
            | Self::Extend { x }
            | Self::Watch { x, .. }
            | Self::Piecewise { x, .. }
            | Self::Row { x, .. }
            | Self::Scale { x, .. }
            | Self::Offset { x, .. }
            | Self::Reshape { x, .. }
            | Self::Dropout { x, .. }
            | Self::Gather { x, .. }
            | Self::WindowSum { x, .. } => vec![*x],
            Self::Max { x, y, .. } | Self::Add { x, y } | Self::Sub { x, y } => vec![*x, *y],
            Self::Flip { x, signs } => vec![*x, *signs],
            Self::Concat { xs, .. } => xs.clone(),
        }
    }
    /// True for operations without communication, which work in either ring.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Row { .. }
                | Self::Add { .. }
                | Self::Sub { .. }
                | Self::Scale { .. }
                | Self::Offset { .. }
                | Self::Reshape { .. }
                | Self::Dropout { .. }
                | Self::Descend { .. }
                | Self::Gather { .. }
                | Self::Concat { .. }
                | Self::WindowSum { .. }
        )
    }
    /// True when operands must be in the wide ring.
    #[must_use]
    pub fn takes_wide(&self) -> bool {
        matches!(
            self,
            Self::Linear { .. }
                | Self::Product { .. }
                | Self::WeightGradient { .. }
                | Self::Mul { .. }
                | Self::Rescale { .. }
                | Self::MulPublic { .. }
                | Self::Relu { shift: Some(_), .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_over_many_iterations() {
        let per_rate = 2f64.powi(14);
        let constant: Vec<i64> = (0..1000).map(|i| Travelled::new(&[0.005]).units(i, per_rate)).collect();
        assert!(constant.iter().all(|k| [81, 82].contains(k)));
        assert_eq!(constant.iter().sum::<i64>(), 81920);
        // Even of rates below a unit nothing is lost.
        let rates: Vec<f64> = (0..100).map(|i| 0.001 / f64::from(i + 1)).collect();
        let declining: i64 = (0..100).map(|i| Travelled::new(&rates).units(i, per_rate)).sum();
        assert_eq!(declining, (rates.iter().sum::<f64>() * per_rate).round() as i64);
        assert_eq!(Travelled::new(&[]).units(3, per_rate), 0);
    }
}
