//! Products of two shared values, and functions that are constant between thresholds: what smooth functions are made of.

use super::draw::Draw;
use super::engine::Two;
use super::relu::{Form, Halves, Kind, piece};
use super::share::Shared;
use super::transfers::xor;
use crate::{Error, Result, Step, Width};
use sordino_net::{Part, Segment};
use sordino_ring::{Device, packed_words};

/// Elements whose transfers are at hand together.
pub(super) const PIECE: usize = 1 << 14;

/// Bits of the messages for one element: bit j of a share selects a value that counts from 2^j on (Gilboa, CRYPTO 1999).
pub(super) fn product_widths(wide: u32) -> impl Iterator<Item = u32> {
    (0..wide).map(move |j| wide - j)
}

/// What a piece of a product draws.
pub(super) fn draws(n: usize, wide: u32) -> Vec<Draw> {
    let both = [true, false].map(|from_client| Draw::Long { from_client, n });
    (0..wide).flat_map(|_| both).collect()
}

/// What a piece of bits that become values draws.
pub(super) fn bit_draws(halves: Halves) -> [Draw; 2] {
    [true, false].map(|from_client| Draw::Long { from_client, n: halves.elements(from_client).len() })
}

impl<D: Device> Two<D> {
    /// `x y + bias` element by element, wide: x_0 y_0 + x_1 y_1 + x_0 y_1 + x_1 y_0, where each party sends one of the mixed products
    /// by a transfer for each bit of the other's share.
    pub(super) fn product_of_shares(
        &self,
        at: &Step,
        x: &Shared<D>,
        y: &Shared<D>,
        bias: Option<&Shared<D>>,
    ) -> Result<Shared<D>> {
        let [a, b] = [x, y].map(|v| v.wide().and_then(Shared::exact).and_then(|v| v.words(&self.dev)));
        let (a, b) = (a?, b?);
        if a.len() != b.len() {
            return Err(Error::Usage(format!("a product of {} and {}", x.shape, y.shape)));
        }
        let mut z = Vec::with_capacity(a.len());
        for (i, (a, b)) in a.chunks(PIECE).zip(b.chunks(PIECE)).enumerate() {
            z.extend(self.mixed(at, i, a, b)?);
        }
        if let Some(bias) = bias {
            let bias = bias.wide()?.exact()?.words(&self.dev)?;
            if bias.is_empty() || z.len() % bias.len() != 0 {
                return Err(Error::Usage(format!("a bias of {} elements for a result of {}", bias.len(), x.shape)));
            }
            z.iter_mut().zip(bias.iter().cycle()).for_each(|(z, b)| *z = z.wrapping_add(*b));
        }
        Ok(Shared::new(&self.dev, x.shape.clone(), Width::Wide, 0, z))
    }

    fn mixed(&self, at: &Step, piece: usize, x: &[u64], y: &[u64]) -> Result<Vec<u64>> {
        let (n, wide) = (x.len(), self.settings.wide_bits);
        let words = n.div_ceil(64);
        let label = |what: &str| format!("{what} {piece}");
        self.begin(at, &label("transfers"), &draws(n, wide))?;
        // This party's y selects from the other's x, and the other way round.
        let bits = self.planes(y, wide)?;
        let (mut corrections, mut given) = (vec![], vec![]);
        for bit in &bits {
            let (choices, string) = self.chosen(n)?;
            corrections.extend(xor(&choices, bit));
            given.push(string);
        }
        self.send(at, &label("bits"), vec![Part::Wide(corrections)])?;
        let flips = self.recv_words(at, &label("bits"), words * wide as usize)?;
        let mut z: Vec<u64> = x.iter().zip(y).map(|(x, y)| x.wrapping_mul(*y)).collect();
        let mut message = vec![];
        for ((j, width), flips) in product_widths(wide).enumerate().zip(flips.chunks(words.max(1))) {
            let (share, part) = self.correlate(x, Some(flips), width)?;
            message.push(part);
            z.iter_mut().zip(share).for_each(|(z, s)| *z = z.wrapping_add(s << j));
        }
        let form: Vec<Segment> = product_widths(wide).map(|width| Segment::Wide(packed_words(n, width))).collect();
        self.send(at, &label("values"), message)?;
        let theirs = self.recv(at, &label("values"), &form)?;
        for (((j, width), part), (bit, string)) in
            product_widths(wide).enumerate().zip(theirs).zip(bits.iter().zip(given))
        {
            let share = self.correlated(bit, string, part, width)?;
            z.iter_mut().zip(share).for_each(|(z, s)| *z = z.wrapping_add(s << j));
        }
        Ok(z)
    }

    /// For each list of weights the sum of those whose threshold is above x, wide.
    pub(super) fn functions(
        &self,
        mut at: Step,
        x: &Shared<D>,
        thresholds: &[i64],
        functions: &[Vec<i64>],
    ) -> Result<Shared<D>> {
        let shape = crate::fit::function_rows(&x.shape, thresholds, functions)?;
        let words = x.narrow()?.exact()?.words(&self.dev)?;
        let mut sums = vec![vec![0u64; words.len()]; functions.len()];
        for (j, threshold) in thresholds.iter().enumerate() {
            let moved = if self.client { 0 } else { *threshold as u64 };
            let difference: Vec<u64> = words.iter().map(|v| v.wrapping_sub(moved)).collect();
            let (_, below) = self.each(at.child("below"), &difference, Kind::Sign)?;
            let bits = self.bits_as_values(at.child("value"), &below, words.len())?;
            for (sum, weights) in sums.iter_mut().zip(functions) {
                let weight = weights[j] as u64;
                sum.iter_mut().zip(&bits).for_each(|(s, b)| *s = s.wrapping_add(b.wrapping_mul(weight)));
            }
        }
        Ok(Shared::new(&self.dev, shape, Width::Wide, 0, sums.concat()))
    }

    /// Shares of bits in the wide ring: the bits are opened under bits that are shared in both ways.
    fn bits_as_values(&self, mut at: Step, plane: &[u64], n: usize) -> Result<Vec<u64>> {
        let form = Form::new(Kind::Carry, self.settings);
        let mut values = Vec::with_capacity(n);
        let elements = piece(&self.settings);
        for (plane, from) in plane.chunks(elements / 64).zip((0..n).step_by(elements)) {
            let (at, n) = (at.child("piece"), elements.min(n - from));
            let halves = Halves::new(n);
            self.begin(&at, "transfers", &bit_draws(halves))?;
            values.extend(self.selected(&at, vec![0; n], None, Some((&plane.to_vec(), halves)), &form)?);
        }
        Ok(values)
    }
}
