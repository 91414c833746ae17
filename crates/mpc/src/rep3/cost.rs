//! Declared cost: what each protocol sends, exactly, as a formula of size and width.
//!
//! Sizes are per server because parts differ by an element; for n divisible by 192 the totals are those of the table
//! in docs/protocols.md. Rounds are the longest chain of dependent messages.

use super::layout::{plane_words, thirds};
use crate::{Cost, Settings, Width};
use sordino_ring::{Comparison, packed_words};

const SERVERS: [usize; 3] = [0, 1, 2];

/// Bytes of `n` elements on the wire.
fn bytes(n: usize, bits: u32) -> u64 {
    match bits {
        32 => 4 * n as u64,
        _ => 8 * packed_words(n, bits) as u64,
    }
}

/// Each dealer sends planes of its part to the next server, and elements of these widths.
fn deal(n: usize, planes: usize, elements: &[u32]) -> Cost {
    let parts = thirds(n);
    per_server(|s| {
        let len = parts[s].1;
        8 * (plane_words(len) * planes) as u64 + elements.iter().map(|&bits| bytes(len, bits)).sum::<u64>()
    })
}

/// Each server sends, for the two parts it evaluates, so many planes to the other evaluator.
fn exchange(n: usize, planes: usize) -> Cost {
    let words = thirds(n).map(|(_, len)| plane_words(len));
    per_server(|s| 8 * (planes * (words[(s + 1) % 3] + words[(s + 2) % 3])) as u64)
}

/// Two additive shares to a replicated sharing.
fn remask(n: usize, bits: u32) -> Cost {
    let parts = thirds(n);
    per_server(|s| bytes(parts[(s + 1) % 3].1, bits) + bytes(parts[(s + 2) % 3].1, bits))
}

/// Each server sends a component to the one before it.
fn reshare(n: usize, bits: u32) -> Cost {
    per_server(|_| bytes(n, bits))
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
fn comparison(n: usize, bits: u32, extra: &[u32]) -> Cost {
    let cmp = Comparison::new(bits);
    let levels: Cost = (0..cmp.levels()).map(|l| exchange(n, cmp.opened(l))).sum();
    deal(n, cmp.dealt_planes(), extra) + levels + exchange(n, 1)
}

/// A tensor of `n` elements from the client: two components as seeds, the third sent to its two holders.
#[must_use]
pub fn input(n: usize, settings: Settings) -> Cost {
    Cost { sent: [0, 0, 0, 64 + 2 * bytes(n, settings.wide_bits)], rounds: 1, ..Cost::default() }
}

/// Truncate-reduce of `n` additively shared elements.
#[must_use]
pub fn truncate(n: usize, shift: u32, settings: Settings) -> Cost {
    if settings.faithful && shift > 0 {
        let narrow = settings.narrow_bits;
        reshare(n, settings.wide_bits) + comparison(n, shift, &[narrow; 2]) + remask(n, narrow)
    } else {
        reshare(n, settings.narrow_bits)
    }
}

/// Signs of `n` elements.
#[must_use]
pub fn msb(n: usize, settings: Settings) -> Cost {
    comparison(n, settings.narrow_bits - 1, &[])
}

/// Functions of `n` elements that are constant between `thresholds`.
#[must_use]
pub fn piecewise(n: usize, thresholds: usize, functions: usize, settings: Settings) -> Cost {
    let (parts, wide) = (thirds(n), settings.wide_bits);
    let cmp = Comparison::new(settings.narrow_bits - 1);
    let deal = per_server(|s| {
        let planes = cmp.leaf_planes() + thresholds * cmp.product_planes();
        8 * (plane_words(parts[s].1) * planes) as u64 + bytes(thresholds * parts[s].1, wide)
    });
    let levels: Cost = (0..cmp.levels()).map(|l| exchange(n, thresholds * cmp.opened(l))).sum();
    let rows = functions.min(thresholds);
    let out = per_server(|s| bytes(rows * parts[(s + 1) % 3].1, wide) + bytes(rows * parts[(s + 2) % 3].1, wide));
    deal + levels + exchange(n, thresholds) + out
}

/// max(x, 0).
#[must_use]
pub fn relu(n: usize, out: Width, settings: Settings) -> Cost {
    let narrow = settings.narrow_bits;
    match out {
        Width::Narrow => comparison(n, narrow - 1, &[narrow; 2]) + remask(n, narrow),
        Width::Wide => {
            let extra = [narrow, narrow, settings.most_shift()];
            comparison(n, narrow - 1, &extra) + exchange(n, 1) + remask(n, settings.wide_bits)
        }
    }
}

/// A value where a bit is set, else zero; shares of the bit's mask are dealt unless a ReLU left them.
#[must_use]
pub fn select(n: usize, dealt: bool, out: Width, settings: Settings) -> Cost {
    let narrow = settings.narrow_bits;
    let mut elements = vec![narrow; if dealt { 1 } else { 2 }];
    match out {
        Width::Narrow => deal(n, 0, &elements) + remask(n, narrow),
        Width::Wide => {
            elements.push(settings.most_shift());
            deal(n, 0, &elements) + exchange(n, 1) + remask(n, settings.wide_bits)
        }
    }
}

/// Narrow to wide. The deal and the exchange do not depend on each other: one round.
#[must_use]
pub fn extend(n: usize, settings: Settings) -> Cost {
    let mut first = deal(n, 0, &[settings.most_shift()]) + exchange(n, 1);
    first.rounds = 1;
    first + remask(n, settings.wide_bits)
}

/// Opening to the client: every server sends its first component.
#[must_use]
pub fn open(n: usize, width: Width, settings: Settings) -> Cost {
    reshare(n, settings.bits(width))
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
            (bits(extend(n, set)), 162.0),
            (bits(piecewise(n, 4, 7, set)), 1119.0),
            (bits(piecewise(n, 33, 7, set)), 5215.0),
            (bits(select(n, true, Width::Narrow, set)), 96.0),
            (bits(select(n, true, Width::Wide, set)), 194.0),
            (bits(select(n, false, Width::Narrow, set)), 128.0),
            (bits(select(n, false, Width::Wide, set)), 226.0),
        ];
        // Narrower rings cost less: a linear layer's output and its ReLU 481 bits, 397 and 348.
        for (narrow_bits, wide_bits, want) in [(32, 64, 481.0), (28, 52, 397.0), (24, 48, 348.0)] {
            let set = Settings { narrow_bits, wide_bits, ..set };
            assert_eq!(bits(truncate(n, 20, set)) + bits(relu(n, Width::Wide, set)), want);
        }
        for (got, want) in table {
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
        // A million ReLUs: 37.6 MB in the narrow ring.
        assert_eq!(relu(1 << 20, Width::Narrow, set).total(), 37_620_208);
        assert_eq!(
            (relu(n, Width::Wide, set).rounds, relu(n, Width::Narrow, set).rounds, extend(n, set).rounds),
            (6, 5, 2)
        );
    }
}
