//! Shaping: making a fast link behave like a slow one.

use std::time::{Duration, Instant};

/// A link's one-way latency and bandwidth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkModel {
    /// One-way delay.
    pub latency: Duration,
    /// Bytes per second in each direction; infinite when `None`.
    pub bandwidth: Option<f64>,
}

impl LinkModel {
    /// No delay and no limit.
    pub const UNLIMITED: Self = Self { latency: Duration::ZERO, bandwidth: None };
}

/// Says when each message of one direction arrives.
#[derive(Debug)]
pub struct Shaper {
    model: LinkModel,
    free: Option<Instant>,
}

impl Shaper {
    /// A shaper for one direction.
    #[must_use]
    pub fn new(model: LinkModel) -> Self {
        Self { model, free: None }
    }

    /// When the first and the last byte of a message of `bytes` handed over at `now` are delivered: after the messages
    /// before it, at the link's rate.
    pub fn deliver(&mut self, now: Instant, bytes: u64) -> (Instant, Instant) {
        let start = self.free.map_or(now, |f| f.max(now));
        let busy = self.model.bandwidth.map_or(Duration::ZERO, |b| Duration::from_secs_f64(bytes as f64 / b));
        self.free = Some(start + busy);
        (start + self.model.latency, start + busy + self.model.latency)
    }

    /// True when nothing is ever delayed.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.model == LinkModel::UNLIMITED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_queue_behind_each_other() {
        let model = LinkModel { latency: Duration::from_millis(40), bandwidth: Some(1000.0) };
        let mut shaper = Shaper::new(model);
        let now = Instant::now();
        assert_eq!(shaper.deliver(now, 100).1, now + Duration::from_millis(140));
        assert_eq!(shaper.deliver(now, 100), (now + Duration::from_millis(140), now + Duration::from_millis(240)));
        let later = now + Duration::from_secs(1);
        assert_eq!(shaper.deliver(later, 0).1, later + Duration::from_millis(40));
    }
}
