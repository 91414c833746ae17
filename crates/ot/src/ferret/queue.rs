//! Outputs in the order they are drawn in: grown by whoever draws them, or before by threads of their own while their end waits for the other one
//! or does something else. What comes out does not depend on who grew it.

use super::outputs::{Outputs, UNIT};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use zeroize::Zeroize;

/// Some trees of an instance.
#[derive(Clone)]
struct Job {
    outputs: Arc<Outputs>,
    trees: Range<usize>,
}

impl Job {
    fn grow(&self, mut blocks: Vec<u128>) -> Vec<u128> {
        blocks.resize(self.len(), 0);
        self.outputs.grow(self.trees.clone(), &mut blocks);
        blocks
    }

    fn len(&self) -> usize {
        self.trees.len() << self.outputs.depth()
    }
}

/// Outputs that are drawn together.
enum Unit {
    /// Nobody has begun.
    Waits(Job),
    /// A thread is at it.
    Grows(Job),
    Done(Vec<u128>),
}

impl Unit {
    fn len(&self) -> usize {
        match self {
            Self::Waits(job) | Self::Grows(job) => job.len(),
            Self::Done(blocks) => blocks.len(),
        }
    }
}

/// What an instance has made in a round.
pub(crate) struct Units(Vec<Unit>);

impl Units {
    /// Blocks that are there, and then those of trees to be grown.
    pub(super) fn new(blocks: Vec<u128>, outputs: Arc<Outputs>, trees: impl Iterator<Item = Range<usize>>) -> Self {
        let grow = trees.map(|trees| Unit::Waits(Job { outputs: Arc::clone(&outputs), trees }));
        Self(std::iter::once(Unit::Done(blocks)).chain(grow).collect())
    }
}

/// One direction's outputs. They are begun in their order.
#[derive(Default)]
struct Way {
    units: VecDeque<Unit>,
    /// Number of the first of them, over the whole session.
    first: u64,
    /// How many blocks of those that are here will be drawn, as far as is known.
    wanted: usize,
}

impl Way {
    /// Blocks that are grown or being grown.
    fn begun(&self) -> usize {
        self.units.iter().take_while(|unit| !matches!(unit, Unit::Waits(_))).map(Unit::len).sum()
    }

    /// Begins the next unit.
    fn begin(&mut self) -> Option<(u64, Job)> {
        let at = self.units.iter().position(|unit| matches!(unit, Unit::Waits(_)))?;
        let unit = self.units.get_mut(at)?;
        let Unit::Waits(job) = unit else { return None };
        let job = job.clone();
        *unit = Unit::Grows(job.clone());
        Some((self.first + at as u64, job))
    }

    /// Takes the first unit away.
    fn pop(&mut self) -> Option<Unit> {
        let unit = self.units.pop_front()?;
        self.first += 1;
        self.wanted = self.wanted.saturating_sub(unit.len());
        Some(unit)
    }

    /// A unit that has been begun, if it is still here.
    fn unit(&mut self, number: u64) -> Option<&mut Unit> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.units.get_mut(at)
    }
}

/// Blocks of a direction that are grown before they are drawn, at most.
pub(crate) const AHEAD: usize = 64 * UNIT;

/// How much more of a direction than of the other one is grown in one go.
const RUN: usize = 16 * UNIT;

#[derive(Default)]
struct State {
    ways: [Way; 2],
    /// Buffers that have been used up.
    spare: Vec<Vec<u128>>,
    /// The direction whose turn it is.
    turn: usize,
    ended: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        self.spare.zeroize();
        for unit in self.ways.iter_mut().flat_map(|way| &mut way.units) {
            if let Unit::Done(blocks) = unit {
                blocks.zeroize();
            }
        }
    }
}

impl State {
    /// Takes back a buffer that has been used up, if it is one that others can use.
    fn keep(&mut self, mut used: Vec<u128>) {
        if used.capacity() >= UNIT {
            self.spare.push(used);
        } else {
            used.zeroize();
        }
    }

    /// Begins a unit that will be drawn, if there is room for it: in the direction whose table is in the caches, until the other one has clearly less in
    /// store.
    fn begin(&mut self) -> Option<(usize, u64, Job)> {
        let begun = [0, 1].map(|way: usize| self.ways[way].begun());
        let other = 1 - self.turn;
        if begun[other] + RUN < begun[self.turn] {
            self.turn = other;
        }
        [self.turn, 1 - self.turn].into_iter().find_map(|way| {
            let ahead = &mut self.ways[way];
            if begun[way] >= ahead.wanted.min(AHEAD) {
                return None;
            }
            ahead.begin().map(|(number, job)| (way, number, job))
        })
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Puts a unit back whose thread does not get to its end.
struct Begun<'a> {
    shared: &'a Shared,
    way: usize,
    number: u64,
    job: Option<Job>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.shared.done(self.way, self.number, Unit::Waits(job));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, way: usize, number: u64, unit: Unit) {
        let mut state = self.state();
        match (state.ways[way].unit(number), unit) {
            (Some(begun), unit) => *begun = unit,
            // It was set aside in the meantime.
            (None, Unit::Done(blocks)) => state.keep(blocks),
            (None, _) => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Grows a unit that has been begun.
    fn grow(&self, mut state: MutexGuard<'_, State>, (way, number, job): (usize, u64, Job)) {
        let spare = state.spare.pop().unwrap_or_default();
        drop(state);
        let mut begun = Begun { shared: self, way, number, job: Some(job.clone()) };
        let blocks = job.grow(spare);
        begun.job = None;
        self.done(way, number, Unit::Done(blocks));
    }

    /// A thread's work, until there will be no more.
    fn work(&self) {
        let mut state = self.state();
        while !state.ended {
            match state.begin() {
                Some(begun) => {
                    self.grow(state, begun);
                    state = self.state();
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Both directions' outputs, and the threads that grow them ahead.
#[derive(Default)]
pub(crate) struct Growing {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// How many threads there are to be when there is something to do.
    most: usize,
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // What a thread that panicked did not grow is grown where it is drawn.
            let _ = thread.join();
        }
    }
}

impl Growing {
    /// So many threads besides the one that draws.
    pub(crate) fn use_threads(&mut self, others: usize) {
        self.most = others;
    }

    /// Takes what an instance made.
    pub(crate) fn put(&mut self, way: usize, units: Units) {
        self.shared.state().ways[way].units.extend(units.0);
    }

    /// Blocks of a direction that are here, grown or not.
    pub(crate) fn left(&self, way: usize) -> usize {
        self.shared.state().ways[way].units.iter().map(Unit::len).sum()
    }

    /// Says how many of the blocks of each direction will be drawn for sure.
    pub(crate) fn want(&mut self, wanted: [usize; 2]) {
        let mut state = self.shared.state();
        state.ways.iter_mut().zip(wanted).for_each(|(way, wanted)| way.wanted = wanted);
        let some = state.ways.iter().any(|way| way.begun() < way.wanted);
        drop(state);
        self.shared.changed.notify_all();
        while some && self.threads.len() < self.most {
            let shared = Arc::clone(&self.shared);
            match Builder::new().name("transfers".into()).spawn(move || shared.work()) {
                Ok(thread) => self.threads.push(thread),
                // Where the system starts no more threads, there are fewer.
                Err(_) => self.most = 0,
            }
        }
    }

    /// The next outputs of a direction, for a buffer that has been used up.
    pub(crate) fn next(&mut self, way: usize, used: Vec<u128>) -> Option<Vec<u128>> {
        let mut state = self.shared.state();
        state.keep(used);
        loop {
            let begun = match state.ways[way].units.front()? {
                Unit::Done(_) => {
                    let Some(Unit::Done(blocks)) = state.ways[way].pop() else { return None };
                    drop(state);
                    // There is room for another one.
                    self.shared.changed.notify_all();
                    return Some(blocks);
                }
                Unit::Waits(_) => state.ways[way].begin().map(|(number, job)| (way, number, job)),
                // Another thread is at it: the one after it, in the meantime.
                Unit::Grows(_) => state.begin(),
            };
            match begun {
                Some(begun) => {
                    self.shared.grow(state, begun);
                    state = self.shared.state();
                }
                None => state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Sets the next outputs of a direction aside, which nobody will draw, if they are at most so many: how many they were.
    pub(crate) fn set_aside(&mut self, way: usize, most: usize) -> Option<usize> {
        let mut state = self.shared.state();
        let len = state.ways[way].units.front().map(Unit::len).filter(|len| *len <= most)?;
        if let Some(Unit::Done(blocks)) = state.ways[way].pop() {
            state.keep(blocks);
        }
        Some(len)
    }
}
