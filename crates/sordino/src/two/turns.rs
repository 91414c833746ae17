//! Who is served now, and who waits: so many at once, in the order in which they came.

use crate::Result;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often those who wait are told so.
const TOLD: Duration = Duration::from_secs(1);

/// Places to be served at.
pub(super) struct Turns {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    served: usize,
    waiting: VecDeque<u64>,
    next: u64,
}

/// A place; it is free again when this is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().served -= 1;
        self.0.changed.notify_all();
    }
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for a place. While it does, `told` hears every second how many are before: when it fails, it waits no more.
    pub(super) fn enter(&self, mut told: impl FnMut(u64) -> Result<()>) -> Result<Turn<'_>> {
        let mut state = self.state();
        let ticket = state.next;
        state.next += 1;
        state.waiting.push_back(ticket);
        let mut due = Instant::now();
        loop {
            let before = state.waiting.iter().position(|t| *t == ticket).unwrap_or(0);
            if before == 0 && state.served < self.most {
                state.waiting.pop_front();
                state.served += 1;
                // The next one may have room as well.
                self.changed.notify_all();
                return Ok(Turn(self));
            }
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
                continue;
            }
            // What changes while it is told is seen right afterwards.
            due = Instant::now() + TOLD;
            let before = (before + state.served) as u64;
            drop(state);
            let heard = told(before);
            state = self.state();
            if let Err(e) = heard {
                state.waiting.retain(|t| *t != ticket);
                self.changed.notify_all();
                return Err(e);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_are_served_than_may_be_and_all_come_in() {
        let (turns, inside, most) = (Turns::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _turn = turns.enter(|_| Ok(())).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        let state = turns.state();
        assert_eq!((state.served, state.waiting.len(), state.next), (0, 0, 20));
    }

    #[test]
    fn whoever_leaves_the_line_keeps_nobody_back() {
        let turns = Turns::new(1);
        let first = turns.enter(|_| Ok(())).unwrap();
        let lost = turns.enter(|before| {
            assert_eq!(before, 1);
            Err(Error::Session("lost".into()))
        });
        assert!(lost.is_err());
        drop(first);
        turns.enter(|_| panic!("there is nobody before")).unwrap();
    }
}
