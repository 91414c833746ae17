//! How a convolution is cut into polynomials.
//!
//! A ciphertext holds c channels of a tile of h x t input pixels: channel c', row i, column j is the coefficient of
//! X^(c' h t + i t + j). A polynomial of weights has m outputs: output m', channel c', tap (i, j) stands at
//! (m' c + c - 1 - c') h t + (reach_h - 1 - i) t + (reach_w - 1 - j). The product's coefficient at
//! (m' c + c - 1) h t + (y + reach_h - 1) t + x + reach_w - 1 is the output m' at (y, x), summed over the channels (after Cheetah,
//! ePrint 2022/207, section 4). With c m h t <= N what wraps around ends below the first of these.
//!
//! A convolution of single pixels takes them in any order: h = 1, and t is a power of two, so that weights are polynomials in X^t.

use crate::N;
use crate::params::{EXTRA, Params, noise};
use sordino_ring::{Conv2d, packed_words};

/// Where a padded image's pixel or a weight belongs, and what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The convolution.
    pub op: Conv2d,
    /// Output pixels of a tile.
    out: [usize; 2],
    /// Input pixels of a tile.
    tile: [usize; 2],
    /// Channels of a ciphertext.
    channels: usize,
    /// Outputs of an answer.
    outputs: usize,
    /// True when tiles are runs of single pixels.
    single: bool,
}

/// The smallest modulus for answers of so many bits of all these layers.
#[must_use]
pub fn modulus(ops: &[Conv2d], bits: u32, weight_bits: u32) -> Option<Params> {
    let least =
        |op: &Conv2d, outputs: usize| Params::new(bits, noise(weight_bits, Layout::weights_per_answer(op, outputs)));
    let mut params = ops.iter().map(|op| least(op, 1)).try_fold(Params { prime_bits: 0 }, |a, b| Some(a.max(b?)))?;
    // How many outputs an answer has depends on the modulus a little, and the other way round.
    loop {
        let needed = |op: &Conv2d| least(op, Layout::new(*op, params, bits).outputs);
        let all = ops.iter().map(needed).try_fold(params, |a, b| Some(a.max(b?)))?;
        if all == params {
            return Some(params);
        }
        params = all;
    }
}

/// Nanoseconds that a byte takes on a fast network. What is cheapest follows from this and the times of a product with a ciphertext, a
/// transform of weights, an answer, a ciphertext; both ends use the same.
pub const BYTE: usize = 4;
const PRODUCT: usize = 2_000;
const WEIGHTS: usize = 12_000;
const ANSWER: usize = 60_000;
const FRESH: usize = 60_000;

impl Layout {
    /// The cheapest cut of a convolution, for a modulus and answers of so many bits.
    #[must_use]
    pub fn new(op: Conv2d, params: Params, bits: u32) -> Self {
        let single = op.kernel == [1, 1] && op.pad == [0; 4];
        let reach = Self::reach(&op);
        // What n comes to in parts: every quotient once, without trying all divisors.
        let sizes = |n: usize| std::iter::successors(Some(n), move |q| (*q > 1).then(|| n.div_ceil(n.div_ceil(q - 1))));
        let mut best: Option<(usize, Self)> = None;
        let mut consider = |out: [usize; 2], tile: [usize; 2]| {
            let room = N / (tile[0] * tile[1]);
            if room == 0 {
                return;
            }
            for channels in sizes(op.cin).filter(|c| *c <= room) {
                let outputs = (room / channels).min(op.cout);
                let layout = Self { op, out, tile, channels, outputs, single };
                let cost = layout.cost(params, bits);
                if best.as_ref().is_none_or(|b| cost < b.0) {
                    best = Some((cost, layout));
                }
            }
        };
        if single {
            let pixels = op.n * op.out_h() * op.out_w();
            let most = pixels.next_power_of_two().min(N).trailing_zeros();
            (0..=most).for_each(|log| consider([1, 1 << log], [1, 1 << log]));
        } else {
            for h in sizes(op.out_h()) {
                for w in sizes(op.out_w()) {
                    let tile = [(h - 1) * op.stride[0] + reach[0], (w - 1) * op.stride[1] + reach[1]];
                    consider([h, w], tile);
                }
            }
        }
        // A kernel that reaches further than N is cut into single taps nowhere; such geometries are refused before.
        best.map_or(Self { op, out: [1, 1], tile: reach, channels: 1, outputs: 1, single }, |b| b.1)
    }

    /// Whether a kernel fits a polynomial.
    #[must_use]
    pub fn fits(op: &Conv2d) -> bool {
        let [h, w] = Self::reach(op);
        h * w <= N
    }

    fn reach(op: &Conv2d) -> [usize; 2] {
        [0, 1].map(|a| op.dilation[a] * (op.kernel[a] - 1) + 1)
    }

    /// Nanoseconds that a layer takes, about: its bytes on a fast network, and its work.
    #[must_use]
    pub fn cost(&self, params: Params, bits: u32) -> usize {
        8 * BYTE * (self.input_words(params) + self.answer_words(bits)) + self.work()
    }

    /// Nanoseconds of one core for both ends' work, about.
    #[must_use]
    pub fn work(&self) -> usize {
        let products = match self.op.groups {
            1 => self.input_blocks() * self.output_blocks(),
            _ => self.blocks().map(|(_, inputs)| inputs.len()).sum(),
        };
        let tiles = self.tiles();
        tiles * (PRODUCT * products + ANSWER * self.output_blocks() + FRESH * self.input_blocks())
            + WEIGHTS * products / if self.run() > 1 { self.run() } else { 1 }
    }

    /// Tiles of the output.
    #[must_use]
    pub fn tiles(&self) -> usize {
        let op = &self.op;
        if self.single {
            (op.n * op.out_h() * op.out_w()).div_ceil(self.out[1])
        } else {
            op.n * op.out_h().div_ceil(self.out[0]) * op.out_w().div_ceil(self.out[1])
        }
    }

    /// Ciphertexts of a tile.
    #[must_use]
    pub fn input_blocks(&self) -> usize {
        self.op.cin.div_ceil(self.channels)
    }

    /// Answers of a tile.
    #[must_use]
    pub fn output_blocks(&self) -> usize {
        self.op.cout.div_ceil(self.outputs)
    }

    /// Words of all ciphertexts.
    #[must_use]
    pub fn input_words(&self, params: Params) -> usize {
        self.tiles() * self.input_blocks() * params.words()
    }

    /// Words of all answers of so many bits.
    #[must_use]
    pub fn answer_words(&self, bits: u32) -> usize {
        let rest = self.tiles() * self.output_blocks() * packed_words(N, bits + EXTRA);
        rest + packed_words(self.op.output().len(), bits)
    }

    /// Weights that enter one coefficient of an answer, at most.
    #[must_use]
    pub fn weights_per_answer(op: &Conv2d, outputs: usize) -> usize {
        outputs * op.kernel[0] * op.kernel[1] * (op.cin / op.groups)
    }

    /// Outputs of an answer.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// For every block of outputs the blocks of inputs that it reads: all of them, or those of its groups.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        let (op, c, m) = (&self.op, self.channels, self.outputs);
        let (cin, cout) = (op.cin / op.groups, op.cout / op.groups);
        (0..self.output_blocks()).map(move |block| {
            let groups = [block * m, ((block + 1) * m).min(op.cout) - 1].map(|o| o / cout);
            (block, groups[0] * cin / c..((groups[1] + 1) * cin).div_ceil(c))
        })
    }

    /// Coefficients between a weight polynomial's entries, if all lie that far apart.
    pub(crate) fn run(&self) -> usize {
        // Below eight values a register would hold several runs.
        if self.single && self.tile[1] >= 8 { self.tile[1] } else { 1 }
    }

    /// The polynomial of a block of outputs and one of inputs, by runs.
    pub(crate) fn weights(&self, weights: &[i64], block: usize, inputs: usize) -> Vec<i64> {
        let op = &self.op;
        let ([h, t], reach, run) = (self.tile, Self::reach(op), self.run());
        let (cin, cout, [kh, kw]) = (op.cin / op.groups, op.cout / op.groups, op.kernel);
        let mut out = vec![0; N / run];
        for m in 0..self.outputs.min(op.cout - block * self.outputs) {
            let o = block * self.outputs + m;
            let group = o / cout;
            for c in 0..self.channels.min(op.cin - inputs * self.channels) {
                let channel = inputs * self.channels + c;
                if channel / cin != group {
                    continue;
                }
                let at = (m * self.channels + self.channels - 1 - c) * h * t;
                for i in 0..kh {
                    for j in 0..kw {
                        let place = (reach[0] - 1 - i * op.dilation[0]) * t + reach[1] - 1 - j * op.dilation[1];
                        out[(at + place) / run] = weights[((o * kh + i) * kw + j) * cin + channel % cin];
                    }
                }
            }
        }
        out
    }

    /// The first output pixel of a tile: sample, row, column; of single pixels the first one's number.
    fn origin(&self, tile: usize) -> [usize; 3] {
        if self.single {
            return [0, 0, tile * self.out[1]];
        }
        let columns = self.op.out_w().div_ceil(self.out[1]);
        let rows = self.op.out_h().div_ceil(self.out[0]);
        [tile / columns / rows, tile / columns % rows * self.out[0], tile % columns * self.out[1]]
    }

    /// The polynomial of a tile and a block of channels of an NHWC tensor; zero outside of it.
    pub(crate) fn input(&self, x: &[u64], tile: usize, inputs: usize) -> Vec<u64> {
        let op = &self.op;
        let [h, t] = self.tile;
        let origin = self.origin(tile);
        let mut out = vec![0; N];
        let first = inputs * self.channels;
        let channels = self.channels.min(op.cin - first);
        let (oh, ow) = (op.out_h(), op.out_w());
        for i in 0..h {
            for j in 0..t {
                let pixel = if self.single {
                    let number = origin[2] + j;
                    (number < op.n * oh * ow).then(|| {
                        let (n, y, x) = (number / ow / oh, number / ow % oh, number % ow);
                        (n * op.h + y * op.stride[0]) * op.w + x * op.stride[1]
                    })
                } else {
                    let y = (origin[1] * op.stride[0] + i).checked_sub(op.pad[0]).filter(|y| *y < op.h);
                    let x = (origin[2] * op.stride[1] + j).checked_sub(op.pad[1]).filter(|x| *x < op.w);
                    y.zip(x).map(|(y, x)| (origin[0] * op.h + y) * op.w + x)
                };
                let Some(pixel) = pixel else { continue };
                let from = &x[pixel * op.cin + first..][..channels];
                from.iter().enumerate().for_each(|(c, v)| out[c * h * t + i * t + j] = *v);
            }
        }
        out
    }

    /// For a tile and a block of outputs: the coefficients that are wanted, and the NHWC element each one is.
    pub(crate) fn wanted(&self, tile: usize, block: usize) -> Vec<(usize, usize)> {
        let op = &self.op;
        let ([h, t], reach, origin) = (self.tile, Self::reach(op), self.origin(tile));
        let (oh, ow) = (op.out_h(), op.out_w());
        let mut all = vec![];
        for m in 0..self.outputs.min(op.cout - block * self.outputs) {
            let o = block * self.outputs + m;
            let at = (m * self.channels + self.channels - 1) * h * t;
            if self.single {
                let pixels = (op.n * oh * ow - origin[2]).min(t);
                all.extend((0..pixels).map(|j| (at + j, (origin[2] + j) * op.cout + o)));
                continue;
            }
            for y in 0..self.out[0].min(oh - origin[1]) {
                for x in 0..self.out[1].min(ow - origin[2]) {
                    let place = (y * op.stride[0] + reach[0] - 1) * t + x * op.stride[1] + reach[1] - 1;
                    let pixel = (origin[0] * oh + origin[1] + y) * ow + origin[2] + x;
                    all.push((at + place, pixel * op.cout + o));
                }
            }
        }
        all
    }
}
