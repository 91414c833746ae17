//! What a client was charged for, as budgets count it.

use crate::records::Grant;
use serde::{Deserialize, Serialize};

/// A client's queries of a model.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Charges {
    /// All that were charged.
    all: u64,
    /// When, of those in the time that the grant counts; of a grant without one the latest, in case it gets one.
    times: Vec<u64>,
}

/// Moments of charges that are kept where no time is counted.
const LATEST: usize = 1000;

impl Charges {
    pub(crate) fn count(&self, grant: &Grant, now: u64) -> u64 {
        match grant.seconds {
            None => self.all,
            Some(_) => self.times.iter().filter(|t| **t >= grant.since(now)).count() as u64,
        }
    }

    pub(crate) fn add(&mut self, grant: &Grant, now: u64) {
        self.all += 1;
        self.times.push(now);
        if grant.seconds.is_some() {
            self.times.retain(|t| *t >= grant.since(now));
        } else {
            self.times.drain(..self.times.len().saturating_sub(LATEST));
        }
    }
}
