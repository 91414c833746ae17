//! A product by oblivious transfers (as CrypTFlow2's SCI-OT, after SecureML, ePrint 2017/396): the bits of weights choose.
//!
//! For bit j of a weight the client offers a transfer of its share's elements that meet the weight, as a correlation: the owner gets
//! the pad of no, or the pad of yes plus these elements, and so a share of [bit j] x_1. It counts from 2^j on, so w - j bits of each element
//! travel. The top bit counts negative.
//!
//! Elements that padding makes zero are not sent: which they are is public.

use super::Weight;
use crate::two::draw::Draw;
use crate::two::engine::{Two, wrong_form};
use crate::two::share::Shared;
use crate::two::transfers::{Plane, mask, xor};
use crate::{Result, Settings, Step};
use sordino_net::{Part, Segment};
use sordino_ring::{Conv2d, Device, packed_words};
use std::ops::Range;

/// Elements of a message, at most, where a weight does not meet more.
const ELEMENTS: usize = 1 << 16;

/// Transfers that are at hand together, and bytes that are on their way, about.
const AT_HAND: usize = 1 << 18;
const ON_THE_WAY: usize = 32 << 20;

/// One place of the kernel: the outputs whose input there is no padding.
#[derive(Clone, PartialEq, Eq)]
struct Tap {
    place: [usize; 2],
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Tap {
    /// Those of a kernel that meet anything.
    fn all(op: &Conv2d) -> impl Iterator<Item = Self> {
        let op = *op;
        // Outputs y with 0 <= y stride + i dilation - pad < size.
        let meets = move |axis: usize, i: usize, size: usize, outputs: usize| {
            let (ahead, stride) = (i * op.dilation[axis], op.stride[axis]);
            let first = op.pad[axis].saturating_sub(ahead).div_ceil(stride);
            let last = (size + op.pad[axis]).saturating_sub(ahead).div_ceil(stride).min(outputs);
            first..last.max(first)
        };
        let place = move |k: usize| {
            let place = [k / op.kernel[1], k % op.kernel[1]];
            let rows = meets(0, place[0], op.h, op.out_h());
            Self { place, rows, columns: meets(1, place[1], op.w, op.out_w()) }
        };
        (0..op.kernel[0] * op.kernel[1]).map(place).filter(move |tap| tap.len(&op) > 0)
    }

    /// Outputs.
    fn len(&self, op: &Conv2d) -> usize {
        op.n * self.rows.len() * self.columns.len()
    }

    /// Pixels of the input and the output that meet here.
    fn pixels(&self, op: &Conv2d) -> Vec<[usize; 2]> {
        let at = |axis: usize, y: usize| y * op.stride[axis] + self.place[axis] * op.dilation[axis] - op.pad[axis];
        let (oh, ow) = (op.out_h(), op.out_w());
        let rows =
            (0..op.n).flat_map(|b| self.rows.clone().map(move |y| [(b * op.h + at(0, y)) * op.w, (b * oh + y) * ow]));
        rows.flat_map(|[i, o]| self.columns.clone().map(move |x| [i + at(1, x), o + x])).collect()
    }

    /// The index of a weight here, of those laid out OHWI; of its channel and its output.
    fn weight(&self, op: &Conv2d, channel: usize, output: usize) -> usize {
        let place = self.place[0] * op.kernel[1] + self.place[1];
        (output * op.kernel[0] * op.kernel[1] + place) * (op.cin / op.groups) + channel % (op.cin / op.groups)
    }
}

/// Some weights of one place of the kernel, in order of channels, then outputs, and how many elements each meets.
pub(crate) struct Piece {
    tap: Tap,
    weights: Range<usize>,
    len: usize,
}

impl Piece {
    /// The channel and the output of each weight.
    fn pairs(&self, op: &Conv2d) -> impl Iterator<Item = (usize, usize)> {
        let (cin, cout) = (op.cin / op.groups, op.cout / op.groups);
        self.weights.clone().map(move |u| (u / cout, u / cout / cin * cout + u % cout))
    }

    /// Elements for every bit.
    fn elements(&self) -> usize {
        self.weights.len() * self.len
    }

    /// Words for each bit, in a ring of so many.
    pub(crate) fn words(&self, bits: u32, wide: u32) -> impl Iterator<Item = usize> {
        let n = self.elements();
        (0..bits).map(move |j| packed_words(n, wide - j))
    }
}

/// Pieces whose transfers are made, and whose weights choose, together.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) transfers: usize,
}

impl Batch {
    /// What it draws: piece by piece, and bit by bit.
    pub(crate) fn draws(&self, settings: &Settings) -> Vec<Draw> {
        let bits = (0..share_bits(settings)).map(|j| settings.wide_bits - j);
        let each = |piece: &Piece, width: u32| Draw::Rows {
            from_client: true,
            n: piece.weights.len(),
            blocks: blocks(piece.len, width),
        };
        self.pieces.iter().flat_map(|piece| bits.clone().map(move |width| each(piece, width))).collect()
    }
}

/// Bits of weights that count in the wide ring.
pub(crate) fn share_bits(settings: &Settings) -> u32 {
    settings.weight_bits.clamp(1, settings.wide_bits)
}

/// How a product is cut, which follows from its geometry and the widths.
pub(crate) fn batches(op: &Conv2d, settings: &Settings) -> Vec<Batch> {
    let (bits, wide, op) = (share_bits(settings), settings.wide_bits, *op);
    let weights = op.cin * (op.cout / op.groups);
    let pieces = Tap::all(&op).flat_map(|tap| {
        let len = tap.len(&op);
        let each = (ELEMENTS / len).clamp(1, weights);
        (0..weights).step_by(each).map(move |u| Piece { tap: tap.clone(), weights: u..weights.min(u + each), len })
    });
    let (mut all, mut bytes) = (vec![], 0);
    for piece in pieces {
        let (transfers, more) = (piece.weights.len() * bits as usize, 8 * piece.words(bits, wide).sum::<usize>());
        let full = |batch: &Batch| batch.transfers + transfers > AT_HAND || bytes + more > ON_THE_WAY;
        if all.last().is_none_or(full) {
            (all.push(Batch::default()), bytes = 0).0
        }
        if let Some(batch) = all.last_mut() {
            batch.transfers += transfers;
            batch.pieces.push(piece);
            bytes += more;
        }
    }
    all
}

/// Elements that meet a weight, of all weights together.
fn elements(op: &Conv2d) -> usize {
    Tap::all(op).map(|tap| tap.len(op)).sum::<usize>() * op.cin * (op.cout / op.groups)
}

/// Nanoseconds of one core for both ends' work, about: keys and sums, without the transfers.
pub(crate) fn work(op: &Conv2d, settings: &Settings) -> usize {
    const KEYS: usize = 50;
    const ELEMENT: usize = 5;
    share_bits(settings) as usize * (KEYS * op.weight().len() + ELEMENT * elements(op))
}

/// Nanoseconds that a product takes, about, as [`Layout::cost`](sordino_he::Layout::cost) says of one on ciphertexts.
pub(super) fn cost(op: &Conv2d, settings: &Settings) -> usize {
    const TRANSFER: usize = 40;
    let (bits, wide) = (share_bits(settings), settings.wide_bits);
    let sent = (0..bits).map(|j| (wide - j) as usize).sum::<usize>() * elements(op) / 8;
    sordino_he::layout::BYTE * sent + work(op, settings) + TRANSFER * bits as usize * op.weight().len()
}

/// Whether two elements share a word of a string.
fn paired(bits: u32) -> bool {
    bits <= 32
}

/// Blocks of the strings for so many elements of so many bits.
fn blocks(elements: usize, bits: u32) -> usize {
    elements.div_ceil(if paired(bits) { 4 } else { 2 })
}

/// The pads that a string is; `room` is where they lie if two of them share a word.
fn pads<'a>(string: &'a [u64], bits: u32, room: &'a mut [u64]) -> &'a [u64] {
    if !paired(bits) {
        return string;
    }
    let (pairs, last) = room.as_chunks_mut::<2>();
    for ([low, high], word) in pairs.iter_mut().zip(string) {
        (*low, *high) = (*word & 0xffff_ffff, *word >> 32);
    }
    last.iter_mut().zip(&string[pairs.len()..]).for_each(|(low, word)| *low = *word & 0xffff_ffff);
    room
}

/// Sums of one place of the kernel, output by output, which go where they belong when the next one begins.
struct Sums<'a> {
    op: &'a Conv2d,
    tap: Option<Tap>,
    pixels: Vec<[usize; 2]>,
    sums: Vec<u64>,
    y: Vec<u64>,
}

impl<'a> Sums<'a> {
    fn new(op: &'a Conv2d) -> Self {
        Self { op, tap: None, pixels: vec![], sums: vec![], y: vec![0; op.output().len()] }
    }

    fn at(&mut self, tap: &Tap) {
        if self.tap.as_ref() == Some(tap) {
            return;
        }
        self.settle();
        self.pixels = tap.pixels(self.op);
        self.sums = vec![0; self.pixels.len() * self.op.cout];
        self.tap = Some(tap.clone());
    }

    fn settle(&mut self) {
        let len = self.pixels.len().max(1);
        for (output, sums) in self.sums.chunks(len).enumerate() {
            for ([_, pixel], sum) in self.pixels.iter().zip(sums) {
                let y = &mut self.y[pixel * self.op.cout + output];
                *y = y.wrapping_add(*sum);
            }
        }
        self.sums.clear();
    }

    /// Adds 2^j times each, or takes it off for the top bit.
    fn add(&mut self, output: usize, j: u32, top: bool, values: impl Iterator<Item = u64>) {
        let len = self.pixels.len();
        let sums = self.sums[output * len..(output + 1) * len].iter_mut();
        if top {
            sums.zip(values).for_each(|(sum, v)| *sum = sum.wrapping_sub(v << j));
        } else {
            sums.zip(values).for_each(|(sum, v)| *sum = sum.wrapping_add(v << j));
        }
    }

    fn done(mut self) -> Vec<u64> {
        self.settle();
        self.y
    }
}

impl<D: Device> Two<D> {
    /// A share of conv(x, w), exactly.
    pub(super) fn transferred_product(
        &self,
        mut at: Step,
        x: &Shared<D>,
        weight: &Weight,
        op: &Conv2d,
    ) -> Result<Vec<u64>> {
        let mut sums = Sums::new(op);
        match &weight.values {
            None if self.client => {
                let own = x.words(&self.dev)?;
                for batch in batches(op, &self.settings) {
                    self.offer_rows(&at.child("batch"), &batch, &own, &mut sums)?;
                }
                Ok(sums.done())
            }
            Some(weights) if !self.client => {
                let own = self.own_product(x, weights, op)?;
                for batch in batches(op, &self.settings) {
                    self.choose_rows(&at.child("batch"), &batch, weights, &mut sums)?;
                }
                Ok(sums.done().iter().zip(own).map(|(y, own)| y.wrapping_add(own)).collect())
            }
            _ => Err(wrong_form()),
        }
    }

    /// The client's side.
    fn offer_rows(&self, at: &Step, batch: &Batch, x: &[u64], sums: &mut Sums<'_>) -> Result<()> {
        let (bits, wide, op) = (share_bits(&self.settings), self.settings.wide_bits, sums.op);
        self.begin(at, "transfers", &batch.draws(&self.settings))?;
        let flips = self.recv_words(at, "bits", batch.transfers.div_ceil(64))?;
        let mut number = 0;
        for (i, piece) in batch.pieces.iter().enumerate() {
            sums.at(&piece.tap);
            let (n, len) = (piece.weights.len(), piece.len);
            let pairs: Vec<(usize, usize)> = piece.pairs(op).collect();
            let first = pairs.first().map_or(0, |pair| pair.0);
            let last = pairs.last().map_or(0, |pair| pair.0);
            let row = |channel: usize| sums.pixels.iter().map(move |[pixel, _]| x[pixel * op.cin + channel]);
            let rows: Vec<u64> = (first..=last).flat_map(row).collect();
            let (mut room, mut other) = (vec![0; len], vec![0; len]);
            let mut message = vec![];
            for (j, width) in (0..bits).map(|j| (j, wide - j)) {
                let blocks = blocks(len, width);
                let [zero, one] = self.rows_sent(n, blocks)?;
                let strings = zero.chunks_exact(2 * blocks).zip(one.chunks_exact(2 * blocks));
                let mut offers = Vec::with_capacity(n * len);
                for ((u, (zero, one)), (channel, output)) in strings.enumerate().zip(&pairs) {
                    let (zero, one) = (pads(zero, width, &mut room), pads(one, width, &mut other));
                    let flip = mask(&flips, number + u);
                    let row = &rows[(channel - first) * len..][..len];
                    let all = row.iter().zip(zero.iter().zip(one));
                    // Where the owner wants another bit than it was given, the strings change places.
                    offers.extend(all.clone().map(|(x, (zero, one))| {
                        let difference = zero.wrapping_sub(*one);
                        (difference ^ flip).wrapping_sub(flip).wrapping_add(*x)
                    }));
                    let no = zero.iter().zip(one).map(|(zero, one)| zero ^ (zero ^ one) & flip);
                    sums.add(*output, j, j + 1 == bits, no.map(u64::wrapping_neg));
                }
                number += n;
                message.push(self.packed(offers, width)?);
            }
            self.send(at, &format!("rows {i}"), message)?;
        }
        Ok(())
    }

    /// The owner's side.
    fn choose_rows(&self, at: &Step, batch: &Batch, weights: &[i64], sums: &mut Sums<'_>) -> Result<()> {
        let (bits, wide, op) = (share_bits(&self.settings), self.settings.wide_bits, sums.op);
        self.begin(at, "transfers", &batch.draws(&self.settings))?;
        let (mut strings, mut choices) = (vec![], Plane::new());
        let (mut wanted, mut number) = (Plane::new(), 0);
        // In the order in which the client draws: piece by piece, and bit by bit.
        for piece in &batch.pieces {
            let n = piece.weights.len();
            let chosen: Vec<u64> = piece.pairs(op).map(|(c, o)| weights[piece.tap.weight(op, c, o)] as u64).collect();
            for j in 0..bits {
                let (given, rows) = self.rows_received(n, blocks(piece.len, wide - j))?;
                put(&mut choices, number, n, |u| mask(&given, u) & 1);
                put(&mut wanted, number, n, |u| chosen[u] >> j & 1);
                strings.push(rows);
                number += n;
            }
        }
        self.send(at, "bits", vec![Part::Wide(xor(&choices, &wanted))])?;
        let (mut number, mut strings) = (0, strings.into_iter());
        for (i, piece) in batch.pieces.iter().enumerate() {
            let form: Vec<Segment> = piece.words(bits, wide).map(Segment::Wide).collect();
            let message = self.recv(at, &format!("rows {i}"), &form)?;
            sums.at(&piece.tap);
            let (n, len) = (piece.weights.len(), piece.len);
            let mut room = vec![0; len];
            for (j, part) in (0..bits).zip(message) {
                let offers = self.unpacked(part, n * len, wide - j)?;
                let rows = strings.next().ok_or_else(wrong_form)?;
                let each = rows.chunks_exact(2 * blocks(len, wide - j)).zip(offers.chunks_exact(len));
                for ((u, (string, offers)), (_, output)) in each.enumerate().zip(piece.pairs(op)) {
                    let yes = mask(&wanted, number + u);
                    let pads = pads(string, wide - j, &mut room).iter().zip(offers);
                    sums.add(output, j, j + 1 == bits, pads.map(|(pad, offer)| pad.wrapping_add(offer & yes)));
                }
                number += n;
            }
        }
        Ok(())
    }
}

/// Writes so many bits from a place on.
fn put(plane: &mut Plane, at: usize, n: usize, bit: impl Fn(usize) -> u64) {
    plane.resize((at + n).div_ceil(64), 0);
    (0..n).for_each(|i| plane[(at + i) / 64] |= bit(i) << ((at + i) % 64));
}
