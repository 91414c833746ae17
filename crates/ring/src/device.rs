//! The seam between protocols and hardware.

use crate::{Comparison, Conv2d, IndexMap, PrgKey, WindowSum, Word};
use std::ops::Range;

/// Why a device can give no more results: memory, the card or its driver.
///
/// A device that failed once keeps its first failure. What it is asked for afterwards does nothing, and the next result that
/// would leave it is this error, so that a peer never sees a wrong byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// An element-wise operation on two buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZipOp {
    /// a + b in the ring.
    Add,
    /// a - b in the ring.
    Sub,
    /// a xor b, bit by bit.
    Xor,
}

/// A machine that holds flat buffers of ring elements and computes on them.
///
/// Buffers are immutable once returned. Shapes live above, in the caller. Results depend on the arguments alone:
/// every device gives the same bytes. Of every method ask: can it be made from those that are here?
///
/// Bits are bit-sliced: bit p of element e is bit e % 64 of word `p * words + e / 64`, one *plane* of
/// `words = ceil(n / 64)` words for each p. Unused bits of the last word are arbitrary.
pub trait Device: Send + Sync + 'static {
    /// A flat buffer of ring elements (or of bit planes, for `u64`).
    type Buf<W: Word>: Send + Sync;
    /// A linear operand, prepared once and used many times.
    type Panel: Send + Sync;

    /// Takes a buffer from the host.
    fn upload<W: Word>(&self, host: Vec<W>) -> Self::Buf<W>;
    /// Gives a buffer to the host.
    ///
    /// # Errors
    /// The first failure of the device.
    fn download<W: Word>(&self, buf: Self::Buf<W>) -> Result<Vec<W>, DeviceError>;
    /// Number of words.
    fn len<W: Word>(&self, buf: &Self::Buf<W>) -> usize;
    /// Copies a buffer.
    fn copy<W: Word>(&self, buf: &Self::Buf<W>) -> Self::Buf<W>;
    /// Copies elements `start .. start + len`.
    fn slice<W: Word>(&self, buf: &Self::Buf<W>, start: usize, len: usize) -> Self::Buf<W>;
    /// Joins buffers end to end.
    fn join<W: Word>(&self, parts: Vec<Self::Buf<W>>) -> Self::Buf<W>;
    /// The first `n` words of the stream of `key`.
    fn random<W: Word>(&self, key: &PrgKey, n: usize) -> Self::Buf<W>;
    /// `n` words of the stream of `key`, from word `start` on.
    fn random_from<W: Word>(&self, key: &PrgKey, start: usize, n: usize) -> Self::Buf<W>;

    /// a op b, element by element.
    fn zip<W: Word>(&self, op: ZipOp, a: &Self::Buf<W>, b: &Self::Buf<W>) -> Self::Buf<W>;
    /// `x + row`, where the shorter operand is repeated as often as it fits.
    fn add_rows<W: Word>(&self, x: &Self::Buf<W>, row: &Self::Buf<W>) -> Self::Buf<W>;
    /// `x * mul + add` with public constants.
    fn affine<W: Word>(&self, x: &Self::Buf<W>, mul: W, add: W) -> Self::Buf<W>;
    /// a * b, element by element.
    fn hadamard<W: Word>(&self, a: &Self::Buf<W>, b: &Self::Buf<W>) -> Self::Buf<W>;
    /// `x0 * (y0 + y1) + x1 * y0`, element by element: one party's term of a replicated product.
    fn product<W: Word>(&self, x: [&Self::Buf<W>; 2], y: [&Self::Buf<W>; 2]) -> Self::Buf<W>;
    /// Public re-indexing; `fill` where the map says so.
    fn gather<W: Word>(&self, x: &Self::Buf<W>, map: &IndexMap, fill: W) -> Self::Buf<W>;
    /// Joins tensors along an axis: part j contributes `widths[j]` consecutive elements to each of `outer` rows.
    fn concat<W: Word>(&self, parts: &[&Self::Buf<W>], outer: usize, widths: &[usize]) -> Self::Buf<W>;
    /// Sums over spatial windows.
    fn window_sum<W: Word>(&self, x: &Self::Buf<W>, windows: &WindowSum) -> Self::Buf<W>;

    /// The low 32 bits of each element.
    fn low(&self, x: &Self::Buf<u64>) -> Self::Buf<u32>;
    /// The low `bits` bits of each element side by side ([`crate::pack`]), for the host to send.
    ///
    /// # Errors
    /// The first failure of the device.
    fn pack<W: Word>(&self, x: &Self::Buf<W>, bits: u32) -> Result<Vec<u64>, DeviceError>;
    /// `n` elements of `bits` bits that a host received.
    fn unpack<W: Word>(&self, words: &[u64], n: usize, bits: u32) -> Self::Buf<W>;
    /// `((x + add) mod 2^bits) >> shift`, low 32 bits, plus a difference of masks `+ plus - minus`: one pass.
    #[allow(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
    fn truncate(
        &self,
        x: &Self::Buf<u64>,
        add: u64,
        bits: u32,
        shift: u32,
        plus: &Self::Buf<u32>,
        minus: &Self::Buf<u32>,
    ) -> Self::Buf<u32>;

    /// Packs replicated weights `w0, w1` (OHWI) for [`Device::linear`]. With `gain` its results may come multiplied by
    /// [`Conv2d::gain`], which saves multiplications.
    fn prepare(&self, w0: &Self::Buf<u64>, w1: &Self::Buf<u64>, op: &Conv2d, gain: bool) -> Self::Panel;
    /// `conv(x0, w0 + w1) + conv(x1, w0)`: one party's term of a replicated convolution, both products in one pass;
    /// times the gain, if the panel was prepared with it.
    fn linear(&self, x0: &Self::Buf<u64>, x1: &Self::Buf<u64>, panel: &Self::Panel, op: &Conv2d) -> Self::Buf<u64>;

    /// `x0 (w0 + w1)^T + x1 w0^T` for few rows x `[rows, depth]` and weights w `[outputs, depth]` that are read but once: the same as
    /// [`Device::linear`] of a fully connected layer, without packing.
    fn full(&self, x: [&Self::Buf<u64>; 2], w: [&Self::Buf<u64>; 2], depth: usize) -> Self::Buf<u64>;

    /// For every weight (OHWI) of `op`, the sum over output pixels of `dy0 (x0 + x1) + dy1 x0`: one party's term of the
    /// replicated gradient of the weights, for inputs x and gradients dy of the outputs.
    fn weight_gradient(&self, x: [&Self::Buf<u64>; 2], dy: [&Self::Buf<u64>; 2], op: &Conv2d) -> Self::Buf<u64>;

    /// Bit planes `from .. to` of each element.
    fn planes<W: Word>(&self, x: &Self::Buf<W>, from: u32, to: u32) -> Self::Buf<u64>;
    /// One 0/1 ring element for each of `n` bits of a plane.
    fn expand<W: Word>(&self, plane: &Self::Buf<u64>, n: usize) -> Self::Buf<W>;
    /// Bitwise and of two buffers of planes.
    fn and(&self, a: &Self::Buf<u64>, b: &Self::Buf<u64>) -> Self::Buf<u64>;
    /// Thermometer code of each chunk of the planes of A: for chunk value a, the bits `a < 1 .. a < 2^c`.
    fn thermometer(&self, planes: &Self::Buf<u64>, cmp: &Comparison) -> Self::Buf<u64>;
    /// From XOR shares of the thermometers of A and the planes of a known B: XOR shares of each chunk's
    /// `less` and `equal`. `one` says whether this holder adds public constants.
    fn leaves(&self, shares: &Self::Buf<u64>, planes: &Self::Buf<u64>, cmp: &Comparison, one: bool) -> Self::Buf<u64>;
    /// An evaluator's share of a plane that says which elements x = a + b are outside: those for which the top three bits of a and of b, each
    /// by itself, show that |x| is a quarter of the ring or more. `table` is a share of the thermometers of a's top three bits (seven
    /// planes), b those bits (three planes).
    fn outliers(&self, table: &Self::Buf<u64>, b: &Self::Buf<u64>, first: bool) -> Self::Buf<u64>;
    /// The polynomial over GF(2^64) whose coefficients are the words of a plane, but for elements that are not within, at a point: linear
    /// in the plane, zero if no bit is set, and otherwise zero for few points.
    ///
    /// # Errors
    /// The first failure of the device.
    fn polynomial(&self, plane: &Self::Buf<u64>, within: Range<usize>, point: u64) -> Result<u64, DeviceError>;
    /// The products of masks that one level of the tree needs.
    fn mask_products(&self, masks: &Self::Buf<u64>, cmp: &Comparison, level: usize) -> Self::Buf<u64>;
    /// The wires that a level opens, in order.
    fn tree_inputs(&self, wires: &Self::Buf<u64>, cmp: &Comparison, level: usize) -> Self::Buf<u64>;
    #[allow(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
    /// One level of the tree, from the wires, the opened (masked) inputs and shares of masks and their products.
    fn tree_level(
        &self,
        wires: &Self::Buf<u64>,
        opened: &Self::Buf<u64>,
        masks: &Self::Buf<u64>,
        products: &Self::Buf<u64>,
        cmp: &Comparison,
        level: usize,
        one: bool,
    ) -> Self::Buf<u64>;
    /// `e ? x : 0` plus `(1 - 2e) * (r * b + q)`: an evaluator's share of a selected value, e a plane.
    fn select<W: Word>(
        &self,
        e: &Self::Buf<u64>,
        x: &Self::Buf<W>,
        b: &Self::Buf<W>,
        r: &Self::Buf<W>,
        q: &Self::Buf<W>,
    ) -> Self::Buf<W>;
    /// An evaluator's share of a value zero-extended from `bits` bits: `(y mod 2^bits) + 2^bits w`, with
    /// `w = keep * opened + (1 - 2 own) (1 - 2 opened) * product`, less `1 + own * opened` for the first evaluator;
    /// `keep`, `own` and `opened` are planes.
    #[allow(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
    fn widen(
        &self,
        y: &Self::Buf<u32>,
        bits: u32,
        first: bool,
        keep: &Self::Buf<u64>,
        own: &Self::Buf<u64>,
        opened: &Self::Buf<u64>,
        product: &Self::Buf<u32>,
    ) -> Self::Buf<u64>;
}
