//! Declared cost of two parties: what is sent, exactly, as a formula of size and width.

use super::compare::{Digits, levels};
use super::draw::{Draw, Transfers, all, groups};
use super::flip;
use super::keys::method;
use super::linear::{Batch, Piece, Ways, batches, share_bits, work};
use super::product::{self, PIECE as PRODUCTS, product_widths};
use super::relu::{Form, Halves, Kind, piece, selection, table_planes};
use crate::{Cost, Costs, Result, Settings, Truncation, Width};
use sordino_he::{PublicKey, layer};
use sordino_ot::Supply;
use sordino_ring::{Conv2d, packed_words};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

/// The declared cost of the protocol with two parties.
pub struct Declared {
    settings: Settings,
    known: RefCell<Known>,
    /// Length of the longest chain of messages that ends at the owner, and at the client.
    chain: Cell<[u32; 2]>,
    supply: Cell<Supply>,
    /// Most bytes of transfers at hand, and of ciphertexts.
    at_hand: Cell<u64>,
    ciphertexts: Cell<u64>,
    /// Most bytes of strings that are drawn ahead.
    ahead: Cell<u64>,
    /// Transfers of runs to come whose strings have been drawn.
    prepared: Cell<Transfers>,
    /// What has been drawn so far, until a run has been rehearsed.
    drawn: RefCell<Vec<Draw>>,
    /// What a run draws, once one has been rehearsed.
    run: OnceCell<Vec<Draw>>,
}

/// Who sends words.
#[derive(Clone, Copy)]
enum Said {
    Owner(usize),
    Client(usize),
    /// Neither waits for the other.
    Both(usize, usize),
}

#[derive(Default)]
struct Known {
    /// Geometries of all prepared weights, which their ways are chosen for.
    ops: Vec<Conv2d>,
    ways: Option<Rc<Ways>>,
    /// The owner has the public key.
    keyed: bool,
}

impl Declared {
    fn send(&self, said: Said) -> Cost {
        let before = self.chain.get();
        let [owner, client] = before;
        let (words, after) = match said {
            Said::Owner(n) => ([n, 0], [owner, client.max(owner + 1)]),
            Said::Client(n) => ([0, n], [owner.max(client + 1), client]),
            Said::Both(a, b) => ([a, b], [owner.max(client + 1), client.max(owner + 1)]),
        };
        self.chain.set(after);
        let longest = |chain: [u32; 2]| chain[0].max(chain[1]);
        let [a, b] = words.map(|n| 8 * n as u64);
        Cost { sent: [a, b, 0, 0], rounds: longest(after) - longest(before), ..Cost::default() }
    }

    /// What a run draws, once one has been rehearsed: what [`foresee`](super::Two::foresee) and [`prepare`](super::Two::prepare) take.
    #[must_use]
    pub fn run(&self) -> &[Draw] {
        self.run.get().map_or(&[], Vec::as_slice)
    }

    /// So many transfers will be drawn for sure.
    fn expect(&self, draws: &[Draw]) {
        let mut supply = self.supply.get();
        supply.expect(all(draws).by_end());
        self.supply.set(supply);
    }

    /// What [`prepare`](super::Two::prepare) sends; operations to come send so much less.
    #[must_use]
    pub fn prepare(&self, draws: &[Draw]) -> Cost {
        let bytes = |client: bool| draws.iter().map(|draw| draw.bytes(client)).sum::<u64>();
        self.ahead.set(self.ahead.get().max(bytes(true).max(bytes(false))));
        self.expect(draws);
        let sent = groups(draws).into_iter().map(|group| self.make(all(group))).sum();
        self.prepared.set(self.prepared.get().plus(all(draws)));
        sent
    }

    /// What an operation sends before it draws.
    fn begin(&self, draws: &[Draw]) -> Cost {
        if self.run.get().is_none() {
            self.drawn.borrow_mut().extend(draws);
        }
        let need = all(draws);
        let transfers = (need.from_owner + need.from_client) as u64;
        // What comparisons and products do with a transfer, in nanoseconds of one core, both ends together.
        const USED: u64 = 15;
        let drawn = Cost { transfers, work: transfers * USED, ..Cost::default() };
        if let Some(left) = self.prepared.get().less(need) {
            self.prepared.set(left);
            return drawn;
        }
        drawn + self.make(need)
    }

    /// What making transfers sends; they are used up.
    fn make(&self, need: Transfers) -> Cost {
        let mut supply = self.supply.get();
        let need = need.by_end();
        let before = supply.left();
        let steps = supply.make(need);
        let made = match self.settings.transfers {
            crate::Transfers::Softspoken => supply.left(),
            _ => supply.left().saturating_sub(before),
        };
        // What is at hand, and the messages of a round.
        let messages: usize = steps.iter().take(2).flatten().sum();
        self.at_hand.set(self.at_hand.get().max(supply.bytes() + 8 * messages as u64));
        supply.draw(need);
        self.supply.set(supply);
        let sent: Cost = steps.into_iter().map(|[owner, client]| self.both(owner, client)).sum();
        sent + Cost { work: made as u64 * self.per_transfer(), ..Cost::default() }
    }

    /// Nanoseconds of one core that making a transfer takes both ends, about.
    fn per_transfer(&self) -> u64 {
        match self.settings.transfers {
            crate::Transfers::Silent => 20,
            crate::Transfers::Compact => 28,
            crate::Transfers::Softspoken => 15,
        }
    }

    /// Both say something at the same time, or one of them, or none.
    fn both(&self, owner: usize, client: usize) -> Cost {
        match (owner, client) {
            (0, 0) => Cost::default(),
            (owner, 0) => self.send(Said::Owner(owner)),
            (0, client) => self.send(Said::Client(client)),
            (owner, client) => self.send(Said::Both(owner, client)),
        }
    }

    /// An operation on so many elements, piece by piece.
    fn each(&self, n: usize, kind: Kind) -> Cost {
        let form = Form::new(kind, self.settings);
        let most = piece(&self.settings);
        (0..n).step_by(most).map(|at| self.piece(&form, most.min(n - at))).sum()
    }

    fn piece(&self, form: &Form, n: usize) -> Cost {
        let (words, halves) = (n.div_ceil(64), Halves::new(n));
        let one = |bits: u32| usize::from(bits > 0);
        let packed = |n: usize, bits: u32| if bits > 0 { packed_words(n, bits) } else { 0 };
        let digits = (form.lower() + form.upper()) as usize;
        let mut cost = self.begin(&form.draws(halves));
        if digits + one(form.top()) > 0 {
            // For each half one party chooses, and the other one offers tables.
            let chosen = |client: bool| (digits + one(form.top())) * halves.words(client).len();
            cost += self.both(chosen(true), chosen(false));
            let offered = |client: bool| {
                table_planes(form.numbers()) * halves.words(client).len()
                    + packed(halves.elements(client).len(), form.top())
            };
            cost += self.both(offered(false), offered(true));
        }
        // Trees go level by level together; a pair opens two bits, or three with both products.
        let trees: Vec<_> =
            form.numbers().into_iter().map(|(b, equal)| levels(Digits::new(b).0.len(), equal)).collect();
        for level in 0..trees.iter().map(Vec::len).max().unwrap_or(0) {
            let planes: usize =
                trees.iter().flat_map(|t| t.get(level)).flatten().map(|both| 2 + usize::from(*both)).sum();
            cost += self.send(Said::Both(planes * words, planes * words));
        }
        if form.joined() {
            cost += self.send(Said::Both(3 * words, 3 * words));
        }
        let opened = (one(form.selected()) + one(form.carried())) * words;
        if opened > 0 {
            let own = |client: bool| {
                let carried = packed(halves.elements(client).len(), form.carried());
                opened + packed(n, form.selected()) + carried
            };
            cost += self.both(own(false), own(true));
        }
        cost
    }

    fn ways(&self) -> Result<Rc<Ways>> {
        let mut known = self.known.borrow_mut();
        if let Some(ways) = &known.ways {
            return Ok(Rc::clone(ways));
        }
        let ways = Rc::new(Ways::new(&known.ops, &self.settings)?);
        known.ways = Some(Rc::clone(&ways));
        Ok(ways)
    }

    /// Whether truncations send nothing.
    fn one_bit(&self) -> bool {
        self.settings.truncation == Truncation::OneBit
    }

    /// Guard bits of a sum of products as they come.
    fn answers_guard(&self, terms: &[(Conv2d, u64)]) -> u32 {
        self.ways().map_or(0, |ways| ways.guard(terms.iter().map(|(op, _)| op)))
    }

    /// A product by transfers.
    fn transferred(&self, op: &Conv2d) -> Cost {
        let (bits, wide) = (share_bits(&self.settings), self.settings.wide_bits);
        let batch = |batch: &Batch| {
            let made = self.begin(&batch.draws(&self.settings));
            let chosen = self.send(Said::Owner(batch.transfers.div_ceil(64)));
            let rows = |piece: &Piece| self.send(Said::Client(piece.words(bits, wide).sum()));
            made + chosen + batch.pieces.iter().map(rows).sum()
        };
        let sent: Cost = batches(op, &self.settings).iter().map(batch).sum();
        sent + Cost { macs: op.macs(), work: work(op, &self.settings) as u64, ..Cost::default() }
    }
}

impl Costs for Declared {
    fn new(settings: Settings) -> Self {
        let supply = Cell::new(Supply::new(method(&settings)));
        Self {
            settings,
            known: RefCell::default(),
            chain: Cell::default(),
            supply,
            at_hand: Cell::default(),
            ciphertexts: Cell::default(),
            ahead: Cell::default(),
            prepared: Cell::default(),
            drawn: RefCell::default(),
            run: OnceCell::new(),
        }
    }
    fn restart(&self) {
        self.chain.set([0, 0]);
    }
    /// Rounds of silent transfers come before what they make is needed.
    const REHEARSES: bool = true;
    fn rehearsed(&self) {
        // A second rehearsal would find what the first one found.
        let _ = self.run.set(self.drawn.take());
        self.supply.set(Supply::new(method(&self.settings)));
        [&self.at_hand, &self.ciphertexts, &self.ahead].into_iter().for_each(|most| most.set(0));
    }
    fn run_begins(&self) {
        if self.prepared.get().less(all(self.run())).is_none() {
            self.expect(self.run());
        }
    }
    /// An owner's share is the value itself.
    fn input(&self, _n: usize) -> Cost {
        Cost::default()
    }
    fn prepare(&self, op: &Conv2d) -> u64 {
        self.known.borrow_mut().ops.push(*op);
        1
    }
    fn guard(&self, terms: &[(Conv2d, u64)]) -> u32 {
        if self.one_bit() { 0 } else { self.answers_guard(terms) }
    }
    fn linear(&self, terms: &[(Conv2d, u64)], shift: u32) -> Result<(u32, Cost)> {
        Ok((shift + self.guard(terms), self.linear_wide(terms)?))
    }
    fn linear_wide(&self, terms: &[(Conv2d, u64)]) -> Result<Cost> {
        let (ways, low) = (self.ways()?, self.answers_guard(terms));
        let bits = self.settings.wide_bits + low;
        let term = |(op, _): &(Conv2d, u64)| {
            let Some((params, layout)) = ways.encrypted(op) else {
                return self.transferred(op);
            };
            // A ciphertext as it travels, and both of its polynomials modulo both primes; answers, packed and not.
            let (question, answers) = (layer::question_words(params, layout), layout.answer_words(bits));
            // And what the owner's own product reads.
            let words = 5 * question + 3 * answers + 2 * op.weight().len();
            self.ciphertexts.set(self.ciphertexts.get().max(8 * words as u64));
            let sent = self.send(Said::Client(question)) + self.send(Said::Owner(answers));
            sent + Cost { macs: op.macs(), work: layout.work() as u64, ..Cost::default() }
        };
        let mut cost: Cost = terms.iter().map(term).sum();
        if let Some((op, _)) = terms.first().filter(|_| self.one_bit() && low > 0) {
            cost += self.each(op.output().len(), Kind::Unguard { low });
        }
        Ok(cost)
    }
    fn truncate(&self, n: usize, shift: u32) -> Cost {
        if self.one_bit() { Cost::default() } else { self.each(n, Kind::Truncate { low: shift }) }
    }
    fn msb(&self, n: usize) -> Cost {
        self.each(n, Kind::Sign)
    }
    fn relu(&self, n: usize, out: Width) -> Cost {
        self.each(n, Kind::Relu { low: 0, out })
    }
    fn relu_truncated(&self, n: usize, shift: u32, out: Width) -> Option<Cost> {
        Some(self.each(n, Kind::Relu { low: if self.one_bit() { 0 } else { shift }, out }))
    }
    fn extend(&self, n: usize) -> Cost {
        self.each(n, Kind::Extend)
    }
    fn open(&self, n: usize, width: Width) -> Cost {
        self.send(Said::Owner(packed_words(n, self.settings.bits(width))))
    }
    /// The client's public key, before the first run.
    fn agree(&self) -> Cost {
        let needed =
            !self.known.borrow().ops.is_empty() && !std::mem::replace(&mut self.known.borrow_mut().keyed, true);
        match self.ways().map(|ways| ways.modulus()) {
            Ok(Some(params)) if needed => self.send(Said::Client(PublicKey::words(params))),
            _ => Cost::default(),
        }
    }
    fn mul(&self, n: usize) -> Result<Cost> {
        let wide = self.settings.wide_bits;
        let piece = |at: usize| {
            let n = PRODUCTS.min(n - at);
            let made = self.begin(&product::draws(n, wide));
            let bits = wide as usize * n.div_ceil(64);
            let values = product_widths(wide).map(|width| packed_words(n, width)).sum();
            made + self.both(bits, bits) + self.both(values, values)
        };
        Ok((0..n).step_by(PRODUCTS).map(piece).sum())
    }
    fn flip(&self, n: usize, channels: usize) -> Result<Cost> {
        let made = self.begin(&flip::draws(n, channels));
        let offer = packed_words(n, self.settings.narrow_bits);
        Ok(made + self.send(Said::Owner(channels.div_ceil(64))) + self.send(Said::Client(offer)))
    }
    fn piecewise(&self, n: usize, thresholds: usize, _functions: usize) -> Result<Cost> {
        let most = piece(&self.settings);
        let value = |at: usize| {
            let n = most.min(n - at);
            let halves = Halves::new(n);
            let made = self.begin(&product::bit_draws(halves));
            let sent = |client: bool| halves.elements(client).len();
            let own = |client: bool| n.div_ceil(64) + packed_words(sent(client), self.settings.wide_bits);
            made + self.both(own(false), own(true))
        };
        let one = |_| {
            let sign = self.each(n, Kind::Sign);
            sign + (0..n).step_by(most).map(value).sum()
        };
        Ok((0..thresholds).map(one).sum())
    }
    fn select(&self, n: usize, _dealt: bool, out: Width) -> Result<Cost> {
        let form = Form::new(Kind::Relu { low: 0, out }, self.settings);
        let mut cost = if out == Width::Wide { self.extend(n) } else { Cost::default() };
        let most = piece(&self.settings);
        for at in (0..n).step_by(most) {
            let n = most.min(n - at);
            let words = packed_words(n, form.selected()) + n.div_ceil(64);
            cost += self.begin(&selection(n));
            cost += self.both(words, words);
        }
        Ok(cost)
    }

    /// Transfers, the tables of the trees they come from, and ciphertexts.
    fn other_bytes(&self) -> u64 {
        const TABLES: u64 = 32 << 20;
        TABLES + self.at_hand.get() + self.ahead.get() + self.ciphertexts.get()
    }
    fn tensor_bytes(&self, n: usize, _width: Width) -> u64 {
        8 * n as u64
    }
    fn bits_bytes(&self, n: usize, _dealt: bool) -> u64 {
        8 * n.div_ceil(64) as u64
    }
    /// The owner's integers.
    fn panel_bytes(&self, op: &Conv2d, _gain: u64) -> u64 {
        8 * op.weight().len() as u64
    }
}
