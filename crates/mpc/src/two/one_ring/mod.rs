//! CrypTFlow2's own forms (ePrint 2020/1002, sections 3 to 5): one ring Z/N for everything, with N a power of two or not, and division by
//! public numbers, exact.
//!
//! Networks here run over two rings, where truncation and ReLU are one comparison; these forms are for whoever has shares in a
//! single ring, and for comparing with the paper. Values are signed: an element above (N - 1) / 2 stands for itself less N.
//! docs/two-party.md has the argument and the cost of each.

mod divide;
mod modulus;
mod share;

pub use modulus::Modulus;

use super::compare::{Compared, Number};
use super::draw::Draw;
use super::engine::{Two, wrong_form};
use super::relu::{Halves, nodes, not, piece, tables};
use super::transfers::{Plane, mask, xor};
use crate::{Result, Step};
use sordino_ring::Device;

/// Operations on shares in one ring, as one party runs them: its share of every element, below N.
///
/// x = x_0 + x_1 modulo N, where end 0 of the party's link has x_0; bits are shared as b = b_0 ^ b_1. Both parties call the same operations in the
/// same order, on as many elements, each in a step of the same name. The party's own widths do not matter here.
///
/// ```
/// use sordino_mpc::rep3::SessionInfo;
/// use sordino_mpc::two::{Modulus, OneRing, Two, establish};
/// use sordino_mpc::{Kind, Result, Settings, Step, System};
/// use sordino_net::{Endpoint, LinkModel, Net, memory_links};
/// use sordino_ring::Cpu;
///
/// let [owner, client] = [Endpoint(0), Endpoint(1)];
/// let (a, b) = memory_links(owner, client, LinkModel::UNLIMITED, std::time::Duration::from_secs(30));
/// let (a, b) = (Net::new(owner, [(client, a)]), Net::new(client, [(owner, b)]));
/// let modulus = Modulus::new(1_000_003)?;
/// // -700 and 700.
/// let (x, y) = (vec![123_456, 1], vec![modulus.sub(modulus.of(-700), 123_456), 699]);
/// let settings = Settings { kind: Kind::Two, narrow_bits: 20, wide_bits: 37, ..Settings::default() };
/// // Of a real session both are fresh, and the program's hash is what both agree on.
/// let info = SessionInfo { session: [1; 16], program: [0; 32] };
/// let run = |net: Net, x: Vec<u64>| -> Result<[Vec<u64>; 2]> {
///     let keys = establish(&net, &info, &settings, &System)?;
///     let party = Two::new(Cpu::new(1), net, keys, settings, 1)?;
///     let (ring, mut at) = (OneRing::new(&party, modulus), Step::root(info.session));
///     Ok([ring.relu(at.child("relu"), &x)?.0, ring.divide(at.child("seventh"), &x, 7)?])
/// };
/// let [first, second] = std::thread::scope(|scope| {
///     [scope.spawn(|| run(a, x)), scope.spawn(|| run(b, y))].map(|end| end.join().expect("no panic"))
/// });
/// let (first, second) = (first?, second?);
/// let opened = |i: usize, j: usize| modulus.signed(modulus.add(first[i][j], second[i][j]));
/// assert_eq!([opened(0, 0), opened(0, 1)], [0, 700]);
/// assert_eq!([opened(1, 0), opened(1, 1)], [-100, 100]);
/// # Ok::<(), sordino_mpc::Error>(())
/// ```
pub struct OneRing<'a, D: Device> {
    party: &'a Two<D>,
    modulus: Modulus,
}

/// Numbers that are compared: of each its bits, and whether equality is wanted.
type Form = Vec<(u32, bool)>;

/// A function of a share.
type Of<'f> = &'f dyn Fn(u64) -> u64;

/// What a comparison draws: transfers of tables one way for each half, products both ways.
fn comparison(form: &Form, halves: Halves) -> Vec<Draw> {
    let mut draws = tables(form, halves);
    draws.extend((0..nodes(form)).map(|_| Draw::Triples { n: halves.n }));
    draws
}

impl<'a, D: Device> OneRing<'a, D> {
    /// Over Z/N.
    #[must_use]
    pub fn new(party: &'a Two<D>, modulus: Modulus) -> Self {
        Self { party, modulus }
    }

    /// max(x, 0), and shares of the bits x < 0, 64 to a word. For N = 2^l one comparison of l - 1 bits, otherwise two of the bits of N
    /// with one of the numbers in common; 2 (bits of N + 1) bits an element for the selection.
    ///
    /// # Errors
    /// Lost peers; shares that are not below N.
    pub fn relu(&self, at: Step, x: &[u64]) -> Result<(Vec<u64>, Vec<u64>)> {
        self.check(x)?;
        let (mut values, mut signs) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len().div_ceil(64)));
        self.pieces(at, x, 1, |mut at, x| {
            let halves = Halves::new(x.len());
            let mut draws = comparison(&self.sign_form(), halves);
            draws.extend(share::selection(x.len()));
            self.party.begin(&at, "transfers", &draws)?;
            let sign = self.sign(&mut at, x, halves)?;
            let keep = if self.party.client { sign.clone() } else { not(&sign) };
            values.extend(self.select(&at, &keep, x)?);
            signs.extend(sign);
            Ok(())
        })?;
        Ok((values, signs))
    }

    /// Shares of the bits x < 0, 64 to a word.
    ///
    /// # Errors
    /// As for [`relu`](Self::relu).
    pub fn negative(&self, at: Step, x: &[u64]) -> Result<Vec<u64>> {
        self.check(x)?;
        let mut signs = Vec::with_capacity(x.len().div_ceil(64));
        self.pieces(at, x, 1, |mut at, x| {
            let halves = Halves::new(x.len());
            self.party.begin(&at, "transfers", &comparison(&self.sign_form(), halves))?;
            signs.extend(self.sign(&mut at, x, halves)?);
            Ok(())
        })?;
        Ok(signs)
    }

    fn check(&self, x: &[u64]) -> Result<()> {
        if x.iter().all(|v| *v < self.modulus.get()) {
            return Ok(());
        }
        Err(crate::Error::Usage(format!("a share is not below {}", self.modulus.get())))
    }

    /// Piece by piece: their size bounds memory, and is so many times smaller for what takes so many times the transfers of a ReLU.
    fn pieces(
        &self,
        mut at: Step,
        x: &[u64],
        smaller: usize,
        mut each: impl FnMut(Step, &[u64]) -> Result<()>,
    ) -> Result<()> {
        x.chunks(piece(&self.party.settings) / smaller).try_for_each(|x| each(at.child("piece"), x))
    }

    fn sign_form(&self) -> Form {
        let bits = self.modulus.bits();
        if self.modulus.is_binary() { vec![(bits - 1, false)] } else { vec![(bits, false); 2] }
    }

    /// The bits x < 0.
    fn sign(&self, at: &mut Step, x: &[u64], halves: Halves) -> Result<Plane> {
        if !self.modulus.is_binary() {
            return Ok(self.wrap_and_sign(at, x, halves)?.1);
        }
        // The sum of both top bits and of the carry into them.
        let top = self.modulus.bits() - 1;
        let low = u64::MAX.checked_shr(64 - top).unwrap_or(0);
        let mut sign = self.party.planes(x, top + 1)?.pop().ok_or_else(wrong_form)?;
        if top > 0 {
            let numbers = self.numbers(x, halves, top, &[(&|v| v & low, &|v| low - (v & low))])?;
            let carry = self.compare(at, halves, numbers)?.pop().ok_or_else(wrong_form)?;
            sign = xor(&sign, &carry.larger);
        }
        Ok(sign)
    }

    /// Whether the shares' sum as integers reaches N, and x < 0. The sum S is negative where it is above h = (N - 1) / 2 and below N, or above N + h:
    /// [S > h] ^ [S >= N] ^ [S > N + h], of which the chooser of the comparison knows one by its own share and compares one.
    fn wrap_and_sign(&self, at: &mut Step, x: &[u64], halves: Halves) -> Result<(Plane, Plane)> {
        let (n, h) = (self.modulus.get(), self.modulus.largest());
        let rest = |v: u64| h.wrapping_sub(v).wrapping_add(n & u64::from(v > h).wrapping_neg());
        let own = |v: u64| v;
        let numbers = self.numbers(x, halves, self.modulus.bits(), &[(&own, &|v| n - 1 - v), (&own, &rest)])?;
        let mut compared = self.compare(at, halves, numbers)?;
        let (second, wrap) = (compared.pop().ok_or_else(wrong_form)?, compared.pop().ok_or_else(wrong_form)?.larger);
        let mut sign = xor(&wrap, &second.larger);
        for i in halves.elements(!self.party.client) {
            sign[i / 64] ^= u64::from(x[i] > h) << (i % 64);
        }
        Ok((wrap, sign))
    }

    /// Planes of numbers to compare: of the elements that this party offers tables for by one function of its share, of those that it
    /// chooses entries for by another one.
    fn numbers(
        &self,
        x: &[u64],
        halves: Halves,
        bits: u32,
        each: &[(Of<'_>, Of<'_>)],
    ) -> Result<Vec<(Vec<Plane>, bool)>> {
        let chosen = halves.elements(!self.party.client);
        let number = |(offers, chooses): &(Of<'_>, Of<'_>)| {
            let of = |(i, v): (usize, &u64)| if chosen.contains(&i) { chooses(*v) } else { offers(*v) };
            let values: Vec<u64> = x.iter().enumerate().map(of).collect();
            Ok((self.party.planes(&values, bits)?, false))
        };
        each.iter().map(number).collect()
    }

    /// Whether the offered numbers are larger than the chosen ones, and equal where that is wanted.
    fn compare(&self, at: &mut Step, halves: Halves, numbers: Vec<(Vec<Plane>, bool)>) -> Result<Vec<Compared>> {
        let numbers: Vec<Number<'_>> = numbers.iter().map(|(planes, equal)| Number { planes, equal: *equal }).collect();
        let at_leaves = at.child("leaves");
        let leaves = self.party.leaves(&at_leaves, halves, &numbers, None)?;
        self.party.trees(at, halves.n, &numbers, leaves)
    }

    /// This party's part of a public constant: the owner's.
    fn public(&self, value: u64) -> u64 {
        if self.party.client { 0 } else { value }
    }
}

/// One where the bit is set.
fn bit(plane: &[u64], i: usize) -> u64 {
    mask(plane, i) & 1
}
