//! The seam between models and protocols.

use crate::{Error, Kind, Result, Step, refused};
use sordino_ring::{Conv2d, IndexMap, Shape, WindowSum};

/// The ring a tensor's shares live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Width {
    /// Z/2^n, n at most 32: activations between linear layers. Half the memory and traffic.
    Narrow,
    /// Z/2^w, w at most 64: operands of products.
    Wide,
}

/// How two parties make their oblivious transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfers {
    /// Silently, from learning parity with noise: an assumption of its own, for 2.5 bits a transfer.
    #[default]
    Silent,
    /// The same for 0.7 bits a transfer and more time: for slow links.
    Compact,
    /// From symmetric cryptography alone, for 31 bits a transfer.
    Softspoken,
}

/// How two parties compute products with weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linear {
    /// On the client's encrypted share.
    #[default]
    He,
    /// By oblivious transfers that the bits of weights choose in.
    Ot,
    /// Layer by layer, whichever takes less time.
    Auto,
}

/// How two parties truncate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// To the nearest integer.
    #[default]
    Exact,
    /// Without the carry of the discarded bits: off by at most a unit, which depends on how the value is shared.
    OneBit,
}

/// Of a field that is not written where it says what everybody would think.
fn usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a compiled program fixes for the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Who computes.
    #[serde(default)]
    pub kind: Kind,
    /// Exact rounding in every truncation, for the price of a comparison of the discarded bits.
    pub faithful: bool,
    /// Width n of the narrow ring Z/2^n: 4 to 32. Narrower messages are packed; signs and maxima compare fewer bits.
    pub narrow_bits: u32,
    /// Width w of the wide ring Z/2^w: with three servers from n + 4 to n + 32, and from 33 to 64; with two parties from n to 53.
    /// Truncations shift by at most w - n.
    pub wide_bits: u32,
    /// Bits of the largest weight, sign included, where weights stay with their owner and others must know what noise to expect: of two
    /// parties. Otherwise zero.
    #[serde(default)]
    pub weight_bits: u32,
    /// Of two parties.
    #[serde(default)]
    pub transfers: Transfers,
    /// Of two parties.
    #[serde(default, skip_serializing_if = "usual")]
    pub linear: Linear,
    /// Of two parties.
    #[serde(default, skip_serializing_if = "usual")]
    pub truncation: Truncation,
}

impl Settings {
    /// Bits of a ring.
    #[must_use]
    pub fn bits(&self, width: Width) -> u32 {
        match width {
            Width::Narrow => self.narrow_bits,
            Width::Wide => self.wide_bits,
        }
    }
    /// Largest shift of a truncation: more would leave fewer bits than the narrow ring's.
    #[must_use]
    pub fn most_shift(&self) -> u32 {
        self.wide_bits - self.narrow_bits
    }
    /// What the products of a convolution with prepared weights come multiplied by, which takes bits of their shift.
    #[must_use]
    pub fn gain(&self, op: &Conv2d) -> u64 {
        match self.kind {
            Kind::Three => op.gain(),
            Kind::Two => 1,
        }
    }
    /// Checks the widths.
    ///
    /// # Errors
    /// [`Error::Usage`] for rings that do not exist or do not fit each other.
    pub fn check(&self) -> Result<()> {
        let (n, w) = (self.narrow_bits, self.wide_bits);
        let (wide, needs) = match self.kind {
            Kind::Three => (33.max(n + 4)..=64.min(n + 32), "4 to 32 more and from 33 to 64"),
            Kind::Two => (n..=53, "at least as many and at most 53"),
        };
        if self.weight_bits > 62 {
            return Err(Error::Usage(format!("weights of {} bits; 62 are possible", self.weight_bits)));
        }
        if (4..=32).contains(&n) && wide.contains(&w) {
            return Ok(());
        }
        Err(Error::Usage(format!("rings of {n} and {w} bits; the narrow one has 4 to 32, the wide one {needs}")))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: Kind::Three,
            faithful: false,
            narrow_bits: 32,
            wide_bits: 64,
            weight_bits: 0,
            transfers: Transfers::Silent,
            linear: Linear::He,
            truncation: Truncation::Exact,
        }
    }
}

/// Which ends of a piecewise function are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ends {
    /// Below its first threshold.
    pub below: bool,
    /// From its last threshold on.
    pub above: bool,
    /// In so many rows.
    pub rows: usize,
}

/// Who provides an input or receives an output. Which end plays a role is up to the [`Kind`] of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// Holds the weights.
    ModelOwner,
    /// Holds inputs: owner number k, from zero.
    DataOwner(u8),
    /// Receives the outputs.
    Receiver,
}

/// An operation without communication, the same on every share.
#[derive(Clone, Debug)]
pub enum Local<'a> {
    /// a + b; b has the shape of a, or is one of its rows (its last axis) and added to all.
    Add,
    /// a - b, as for a sum.
    Sub,
    /// x * c for a public integer.
    Scale(i64),
    /// x + c for a public integer.
    Offset(i64),
    /// The same elements in another shape.
    Reshape(Shape),
    /// Public re-indexing; the second member fills positions the map leaves open.
    Gather(&'a IndexMap, i64),
    /// Joins operands along an axis: each gives `widths[j]` consecutive elements to each of `outer` rows.
    Concat {
        /// Rows.
        outer: usize,
        /// Elements per row of each operand.
        widths: Vec<usize>,
        /// Shape of the result.
        shape: Shape,
    },
    /// Sums over spatial windows.
    WindowSum(WindowSum),
    /// From the wide ring to the narrow one, for values that fit it.
    Low,
}

/// A share that passed the protocol's verification; only [`Protocol::verify`] makes one, only it can be opened.
pub struct Checked<T>(pub(crate) T);

/// A way to compute on values that nobody sees. Operations with a body that refuses are for training and smooth functions:
/// a protocol need not offer them.
///
/// Values are fixed-point integers in a ring of stated [`Width`]; scales are the caller's business. With a narrow ring of
/// n bits ([`Settings`]) a narrow value v must satisfy |v| < 2^(n - 2) where it is extended, and where it or its difference
/// with another is compared: signs and extensions are exact there, and meaningless beyond.
pub trait Protocol {
    /// A shared tensor.
    type Arith: Clone;
    /// Shared bits, reusable: a sign once computed can select any number of times.
    type Bit;
    /// A linear operand, prepared once.
    type Weight;

    /// Dimensions of a tensor.
    fn shape<'a>(&self, x: &'a Self::Arith) -> &'a Shape;
    /// Ring of a tensor.
    fn width(&self, x: &Self::Arith) -> Width;

    /// A run of a program begins.
    fn run_begins(&self) {}

    /// A wide tensor provided by `from`, who passes its ring elements; everybody else passes `None`.
    ///
    /// # Errors
    /// Lost peers; values missing at their owner.
    fn input(&self, at: Step, from: Role, values: Option<&[i64]>, shape: &Shape) -> Result<Self::Arith>;
    /// Weights (OHWI) provided by `from`, packed for `op`.
    ///
    /// # Errors
    /// As for [`Protocol::input`].
    fn prepare(&self, at: Step, from: Role, values: Option<&[i64]>, op: &Conv2d) -> Result<Self::Weight>;
    /// A wide shared tensor as the weights (OHWI) of `op`, for linear layers whose weights are computed. No messages.
    ///
    /// # Errors
    /// When the sizes differ.
    fn pack(&self, weights: &Self::Arith, op: &Conv2d) -> Result<Self::Weight> {
        let _ = (weights, op);
        refused("a product with computed weights")
    }
    /// A public tensor.
    fn constant(&self, values: &[i64], shape: &Shape, width: Width) -> Self::Arith;
    /// A local operation.
    ///
    /// # Errors
    /// When operands do not fit together.
    fn local(&self, op: &Local<'_>, operands: &[&Self::Arith]) -> Result<Self::Arith>;

    /// `round((sum_j conv(x_j, w_j) + bias) / 2^shift)`, narrow, for wide x. The bias has the result's shape, or is one
    /// of its trailing rows (a value for each channel) and repeated. The shift is at most
    /// [`Settings::most_shift`], less two where a convolution has a [`Settings::gain`] of four. The result must fit the narrow
    /// ring; otherwise it is off by a multiple of 2^n, never by less.
    ///
    /// # Errors
    /// Lost peers.
    fn linear(
        &self,
        at: Step,
        terms: &[(&Self::Arith, &Self::Weight, Conv2d)],
        bias: Option<&Self::Arith>,
        shift: u32,
    ) -> Result<Self::Arith>;
    /// `sum_j conv(x_j, w_j) + bias`, wide, for wide x: a product whose truncation waits for [`Protocol::relu_truncated`].
    ///
    /// # Errors
    /// Lost peers; by default, as a protocol whose products are truncated at once.
    fn linear_wide(
        &self,
        at: Step,
        terms: &[(&Self::Arith, &Self::Weight, Conv2d)],
        bias: Option<&Self::Arith>,
    ) -> Result<Self::Arith> {
        let _ = (at, terms, bias);
        refused("a product that is not truncated")
    }
    /// `round((dW + bias) / 2^shift)`, narrow and OHWI, where dW is the gradient of the weights of `op`: for each the sum over
    /// output pixels of the input it meets times `dy`, for wide x and dy. Bias, shift and result as for [`Protocol::linear`].
    ///
    /// # Errors
    /// Lost peers; sizes that do not fit.
    fn weight_gradient(
        &self,
        at: Step,
        x: &Self::Arith,
        dy: &Self::Arith,
        op: &Conv2d,
        bias: Option<&Self::Arith>,
        shift: u32,
    ) -> Result<Self::Arith> {
        let _ = (at, x, dy, op, bias, shift);
        refused("a gradient of weights")
    }
    /// `round((x * y + bias) / 2^shift)` element by element, narrow, for wide operands of one shape.
    ///
    /// # Errors
    /// Lost peers.
    fn mul(
        &self,
        at: Step,
        x: &Self::Arith,
        y: &Self::Arith,
        bias: Option<&Self::Arith>,
        shift: u32,
    ) -> Result<Self::Arith> {
        let _ = (at, x, y, bias, shift);
        refused("a product of two shared values")
    }
    /// Narrow x times a sign for each of its channels, the last axis; narrow. `signs` are 1 or -1, an input of the model's owner, who alone
    /// learns them.
    ///
    /// # Errors
    /// Lost peers; shapes that do not fit; by default, as a protocol without it.
    fn flip(&self, at: Step, x: &Self::Arith, signs: &Self::Arith) -> Result<Self::Arith> {
        let _ = (at, x, signs);
        refused("signs of channels")
    }
    /// `round(x / 2^shift)`, narrow, for wide x.
    ///
    /// # Errors
    /// Lost peers.
    fn truncate(&self, at: Step, x: &Self::Arith, shift: u32) -> Result<Self::Arith>;

    /// `x < 0`, for narrow x.
    ///
    /// # Errors
    /// Lost peers.
    fn msb(&self, at: Step, x: &Self::Arith) -> Result<Self::Bit>;
    /// Functions of narrow x that are constant between thresholds, wide: for each list of weights the sum of those whose
    /// threshold is above x. One row of the result for each function, each of x's shape. Thresholds t must leave x - t
    /// within the narrow ring.
    ///
    /// # Errors
    /// Lost peers; lists that are not as long as the thresholds.
    fn piecewise_constant(
        &self,
        at: Step,
        x: &Self::Arith,
        thresholds: &[i64],
        functions: &[Vec<i64>],
    ) -> Result<Self::Arith> {
        let _ = (at, x, thresholds, functions);
        refused("a piecewise function")
    }
    /// `max(x, 0)` for narrow x, in either ring.
    ///
    /// # Errors
    /// Lost peers.
    fn relu(&self, at: Step, x: &Self::Arith, out: Width) -> Result<Self::Arith> {
        Ok(self.relu_with_bit(at, x, out)?.0)
    }
    /// [`Protocol::relu`] and the bit `x >= 0`, which it computes anyway.
    ///
    /// # Errors
    /// Lost peers.
    fn relu_with_bit(&self, at: Step, x: &Self::Arith, out: Width) -> Result<(Self::Arith, Self::Bit)>;
    /// [`Protocol::relu_with_bit`] of `round(x / 2^shift)`, for wide x.
    ///
    /// # Errors
    /// Lost peers.
    fn relu_truncated(
        &self,
        mut at: Step,
        x: &Self::Arith,
        shift: u32,
        out: Width,
    ) -> Result<(Self::Arith, Self::Bit)> {
        let narrow = self.truncate(at.child("truncate"), x, shift)?;
        self.relu_with_bit(at.child("relu"), &narrow, out)
    }
    /// `bit ? x : 0` for narrow x, in either ring; the wide one for |x| < 2^(n - 2).
    ///
    /// # Errors
    /// Lost peers.
    fn select(&self, at: Step, bit: &Self::Bit, x: &Self::Arith, out: Width) -> Result<Self::Arith> {
        let _ = (at, bit, x, out);
        refused("a selection by a kept bit")
    }
    /// The same value in the wide ring, for narrow x.
    ///
    /// # Errors
    /// Lost peers.
    fn extend(&self, at: Step, x: &Self::Arith) -> Result<Self::Arith>;

    /// `max(x, y)`, narrow, for narrow operands.
    ///
    /// # Errors
    /// Lost peers.
    fn max(&self, at: Step, x: &Self::Arith, y: &Self::Arith) -> Result<Self::Arith> {
        Ok(self.max_with_bit(at, x, y)?.0)
    }
    /// [`Protocol::max`] and the bit `x >= y`.
    ///
    /// # Errors
    /// Lost peers.
    fn max_with_bit(&self, mut at: Step, x: &Self::Arith, y: &Self::Arith) -> Result<(Self::Arith, Self::Bit)> {
        let difference = self.local(&Local::Sub, &[x, y])?;
        let (positive, bit) = self.relu_with_bit(at.child("relu"), &difference, Width::Narrow)?;
        Ok((self.local(&Local::Add, &[y, &positive])?, bit))
    }

    /// [`Protocol::piecewise_constant`], which also takes note of elements below the first threshold, or from the last one on, for each of
    /// so many equal runs by itself, where these ends are watched: as [`Protocol::watch`], but of every one of them, and for nothing more.
    ///
    /// # Errors
    /// As for [`Protocol::piecewise_constant`].
    fn piecewise_watched(
        &self,
        at: Step,
        x: &Self::Arith,
        thresholds: &[i64],
        functions: &[Vec<i64>],
        ends: Ends,
    ) -> Result<Self::Arith> {
        let _ = ends;
        self.piecewise_constant(at, x, thresholds, functions)
    }
    /// Takes note of the elements of narrow x that are not within |v| < 2^(n - 2), for each of `rows` runs of equal length by itself.
    /// A value within never counts. One beyond by half, up to two and a half times the bound, always does, as do those that are the same
    /// mod 2^n; others with a probability.
    ///
    /// # Errors
    /// Elements that are not so many rows; by default, as a protocol without it.
    fn watch(&self, at: Step, x: &Self::Arith, rows: usize) -> Result<()> {
        let _ = (at, x, rows);
        refused("a guard of ranges")
    }
    /// Tells the receiver of a row (its number, of how many) whether nothing was noted in the run, which ends with the last one; everybody
    /// else gets `None`, as does the receiver where values are in the clear anyway.
    ///
    /// # Errors
    /// Lost peers; by default, as a protocol without it.
    fn sound(&self, at: Step, row: [usize; 2], to: Role) -> Result<Option<bool>> {
        let _ = (at, row, to);
        refused("a guard of ranges")
    }

    /// Ends that hold copies of the same shares compare them: of everything that owners shared since the last comparison, and
    /// of these tensors. A protocol without copies has nothing to compare.
    ///
    /// # Errors
    /// [`Error::Inconsistent`]; lost peers.
    fn agree(&self, at: Step, tensors: &[&Self::Arith]) -> Result<()> {
        let _ = (at, tensors);
        Ok(())
    }
    /// Passes when the value is what honest parties would have computed. A semi-honest protocol trusts its peers to
    /// follow it, so it always passes there.
    ///
    /// # Errors
    /// A peer misbehaved.
    fn verify(&self, at: Step, x: Self::Arith) -> Result<Checked<Self::Arith>>;
    /// Opens a value to its named receiver, who gets the integers; everybody else gets `None`.
    ///
    /// # Errors
    /// Lost peers.
    fn open(&self, at: Step, x: Checked<Self::Arith>, to: Role) -> Result<Option<Vec<i64>>>;
}
