//! Moments, as records and people have them.

use std::time::SystemTime;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// How long until then, roughly.
#[must_use]
pub fn until(then: u64) -> String {
    match then.saturating_sub(now()) {
        0 => "no more".into(),
        s @ 1..=7199 => format!("{} min", s.div_ceil(60)),
        s @ 7200..=172_799 => format!("{} h", (s + 1800) / 3600),
        s => format!("{} days", (s + 43_200) / 86_400),
    }
}

/// How long ago, roughly.
#[must_use]
pub fn ago(then: u64) -> String {
    match now().saturating_sub(then) {
        s @ 0..=119 => format!("{s} s ago"),
        s @ 120..=7199 => format!("{} min ago", s / 60),
        s @ 7200..=172_799 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}
