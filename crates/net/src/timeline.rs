//! Where an endpoint's time goes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// What an endpoint does besides computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Expanding keys into masks.
    Randomness,
    /// Handing frames over; long ones leave later, from a thread of their own.
    Send,
    /// Waiting for a peer's frame and reading it.
    Receive,
}

/// Nanoseconds by activity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// [`Activity::Randomness`].
    pub randomness: u64,
    /// [`Activity::Send`].
    pub send: u64,
    /// [`Activity::Receive`].
    pub receive: u64,
}

/// One stretch of an activity, in nanoseconds since the timeline began.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// What was done.
    pub activity: Activity,
    /// When it began.
    pub start: u64,
    /// How long it took.
    pub length: u64,
}

/// Adds up time by activity; keeps every stretch when asked to.
pub struct Timeline {
    origin: Instant,
    totals: [AtomicU64; 3],
    recording: AtomicBool,
    spans: Mutex<Vec<Span>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            totals: Default::default(),
            recording: AtomicBool::new(false),
            spans: Mutex::default(),
        }
    }
}

impl Timeline {
    /// From now on keeps every stretch.
    pub fn record(&self) {
        self.recording.store(true, Ordering::Relaxed);
    }
    /// Nanoseconds since it began.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
    /// Does some work and books its time.
    pub fn time<T>(&self, activity: Activity, work: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = work();
        let length = self.now() - start;
        self.totals[activity as usize].fetch_add(length, Ordering::Relaxed);
        if self.recording.load(Ordering::Relaxed)
            && let Ok(mut spans) = self.spans.lock()
        {
            spans.push(Span { activity, start, length });
        }
        result
    }
    /// Totals so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        let [randomness, send, receive] = [0, 1, 2].map(|i: usize| self.totals[i].load(Ordering::Relaxed));
        Spent { randomness, send, receive }
    }
    /// Takes the stretches kept so far.
    #[must_use]
    pub fn take(&self) -> Vec<Span> {
        self.spans.lock().map(|mut s| std::mem::take(&mut *s)).unwrap_or_default()
    }
}
