//! Declared cost: what each protocol sends, exactly, as a formula of size and width.
//!
//! Sizes are per server because parts differ by an element; for n divisible by 192 the totals are those of the table
//! in docs/protocols.md. Rounds are the longest chain of dependent messages.

use super::layout::{plane_words, thirds};
use crate::{Cost, Settings, Width};
use sordino_ring::Comparison;

const SERVERS: [usize; 3] = [0, 1, 2];

/// Each dealer sends planes and words of its part to the next server.
fn deal(n: usize, planes: usize, bytes_per_element: u64) -> Cost {
    let parts = thirds(n);
    per_server(|s| 8 * (plane_words(parts[s].1) * planes) as u64 + bytes_per_element * parts[s].1 as u64)
}

/// Each server sends, for the two parts it evaluates, so many planes to the other evaluator.
fn exchange(n: usize, planes: usize) -> Cost {
    let words = thirds(n).map(|(_, len)| plane_words(len));
    per_server(|s| 8 * (planes * (words[(s + 1) % 3] + words[(s + 2) % 3])) as u64)
}

/// Two additive shares to a replicated sharing.
fn remask(n: usize, width: Width) -> Cost {
    let parts = thirds(n);
    per_server(|s| u64::from(width.bits() / 8) * (parts[(s + 1) % 3].1 + parts[(s + 2) % 3].1) as u64)
}

/// Each server sends a component to the one before it.
fn reshare(n: usize, width: Width) -> Cost {
    per_server(|_| u64::from(width.bits() / 8) * n as u64)
}

/// One round in which server s sends `bytes(s)`.
fn per_server(bytes: impl Fn(usize) -> u64) -> Cost {
    let mut cost = Cost { rounds: 1, ..Cost::default() };
    for s in SERVERS {
        cost.sent[s] = bytes(s);
    }
    cost
}

/// The deal, the levels of the tree, and opening the masked result.
fn comparison(n: usize, bits: u32, extra_bytes: u64) -> Cost {
    let cmp = Comparison::new(bits);
    let levels: Cost = (0..cmp.levels()).map(|l| exchange(n, cmp.opened(l))).sum();
    deal(n, cmp.dealt_planes(), extra_bytes) + levels + exchange(n, 1)
}

/// A tensor of `n` elements from the client: two components as seeds, the third sent to its two holders.
#[must_use]
pub fn input(n: usize) -> Cost {
    Cost { sent: [0, 0, 0, 64 + 16 * n as u64], rounds: 1, ..Cost::default() }
}

/// Truncate-reduce of `n` additively shared elements.
#[must_use]
pub fn truncate(n: usize, shift: u32, settings: Settings) -> Cost {
    if settings.faithful && shift > 0 {
        reshare(n, Width::Wide) + comparison(n, shift, 8) + remask(n, Width::Narrow)
    } else {
        reshare(n, Width::Narrow)
    }
}

/// Signs of `n` elements.
#[must_use]
pub fn msb(n: usize, settings: Settings) -> Cost {
    comparison(n, settings.narrow_bits - 1, 0)
}

/// Shared bits to wide ring elements.
#[must_use]
pub fn inject(n: usize) -> Cost {
    deal(n, 0, 8) + remask(n, Width::Wide)
}

/// max(x, 0).
#[must_use]
pub fn relu(n: usize, out: Width, settings: Settings) -> Cost {
    let bits = settings.narrow_bits - 1;
    match out {
        Width::Narrow => comparison(n, bits, 8) + remask(n, out),
        Width::Wide => comparison(n, bits, 12) + exchange(n, 1) + remask(n, out),
    }
}

/// Narrow to wide. The deal and the exchange do not depend on each other: one round.
#[must_use]
pub fn extend(n: usize) -> Cost {
    let mut first = deal(n, 0, 4) + exchange(n, 1);
    first.rounds = 1;
    first + remask(n, Width::Wide)
}

/// Opening to the client: every server sends its first component.
#[must_use]
pub fn open(n: usize, width: Width) -> Cost {
    reshare(n, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_per_element() {
        let (n, set) = (192 * 100, Settings::default());
        let bits = |c: Cost| (c.total() * 8) as f64 / n as f64;
        let table = [
            (bits(truncate(n, 20, set)), 96.0),
            (bits(msb(n, set)), 159.0),
            (bits(relu(n, Width::Narrow, set)), 287.0),
            (bits(relu(n, Width::Wide, set)), 385.0),
            (bits(extend(n)), 162.0),
            (bits(inject(n)), 192.0),
        ];
        // Fewer bits to compare cost less.
        assert_eq!(bits(relu(n, Width::Wide, Settings { narrow_bits: 28, ..set })), 353.0);
        for (got, want) in table {
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
        // A million ReLUs: 37.6 MB in the narrow ring.
        assert_eq!(relu(1 << 20, Width::Narrow, set).total(), 37_620_208);
        assert_eq!((relu(n, Width::Wide, set).rounds, relu(n, Width::Narrow, set).rounds, extend(n).rounds), (6, 5, 2));
    }
}
