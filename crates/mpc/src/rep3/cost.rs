//! Declared cost: what each protocol sends, exactly, as a formula of size and width.
//!
//! Sizes are per server because parts differ by an element; for n divisible by 192 the totals are those of the table
//! in docs/protocols.md. Rounds are the longest chain of dependent messages.

use super::guard::dealt_planes;
use super::layout::{plane_words, thirds};
use crate::{Cost, Costs, Result, Settings, Width};
use sordino_ring::{Comparison, Conv2d, packed_words};

const SERVERS: [usize; 3] = [0, 1, 2];

/// Bytes of a hash of a component.
const HASH_BYTES: u64 = 32;

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

/// The declared cost of the protocol with three servers.
pub struct Declared(Settings);

impl Costs for Declared {
    fn new(settings: Settings) -> Self {
        Self(settings)
    }
    fn input(&self, n: usize) -> Cost {
        input(n, self.0)
    }
    fn prepare(&self, op: &Conv2d) -> u64 {
        op.gain()
    }
    fn linear(&self, terms: &[(Conv2d, u64)], shift: u32) -> Result<(u32, Cost)> {
        let gain = terms.iter().map(|t| t.1).max().unwrap_or(1);
        Ok((shift + gain.trailing_zeros(), products(terms.iter().map(|t| t.0.macs()).sum())))
    }
    fn truncate(&self, n: usize, shift: u32) -> Cost {
        truncate(n, shift, self.0)
    }
    fn msb(&self, n: usize) -> Cost {
        msb(n, self.0)
    }
    fn relu(&self, n: usize, out: Width) -> Cost {
        relu(n, out, self.0)
    }
    fn extend(&self, n: usize) -> Cost {
        extend(n, self.0)
    }
    fn open(&self, n: usize, width: Width) -> Cost {
        open(n, width, self.0)
    }
    /// Each server sends a hash to each of the two others.
    fn watch(&self, n: usize) -> Result<Cost> {
        Ok(Cost { rounds: 0, ..deal(n, dealt_planes(), &[]) })
    }
    fn sound(&self) -> Result<Cost> {
        Ok(per_server(|_| 8))
    }
    fn agree(&self) -> Cost {
        per_server(|_| 2 * HASH_BYTES)
    }
    fn mul(&self, n: usize) -> Result<Cost> {
        Ok(products(n as u64))
    }
    fn weight_gradient(&self, op: &Conv2d) -> Result<Cost> {
        Ok(products(op.macs()))
    }
    fn piecewise(&self, n: usize, thresholds: usize, functions: usize) -> Result<Cost> {
        Ok(piecewise(n, thresholds, functions, self.0))
    }
    fn select(&self, n: usize, dealt: bool, out: Width) -> Result<Cost> {
        Ok(select(n, dealt, out, self.0))
    }
    fn pack(&self, op: &Conv2d) -> Result<u64> {
        Ok(op.gain_once())
    }

    fn tensor_bytes(&self, n: usize, width: Width) -> u64 {
        2 * n as u64 * if width == Width::Narrow { 4 } else { 8 }
    }
    /// Three planes, and two shares of a third of the masks each.
    fn bits_bytes(&self, n: usize, dealt: bool) -> u64 {
        (n / 8 + if dealt { 8 * n / 3 } else { 0 }) as u64
    }
    fn panel_bytes(&self, op: &Conv2d, gain: u64) -> u64 {
        let channels = (op.cout / op.groups).next_multiple_of(16) * op.groups;
        // Winograd's form has 16 weights for a 3x3 kernel's nine.
        let taps = if gain > 1 { 16 } else { op.kernel[0] * op.kernel[1] };
        (channels * taps * (op.cin / op.groups)) as u64 * 16
    }
}

/// Both replicated products of so many multiplications.
fn products(macs: u64) -> Cost {
    Cost { macs: 2 * macs, ..Cost::default() }
}

/// A tensor of `n` elements from an owner: two components as seeds, the third sent to its two holders.
fn input(n: usize, settings: Settings) -> Cost {
    Cost { sent: [0, 0, 0, 64 + 2 * bytes(n, settings.wide_bits)], rounds: 1, ..Cost::default() }
}

/// Truncate-reduce of `n` additively shared elements.
fn truncate(n: usize, shift: u32, settings: Settings) -> Cost {
    if settings.faithful && shift > 0 {
        let narrow = settings.narrow_bits;
        reshare(n, settings.wide_bits) + comparison(n, shift, &[narrow; 2]) + remask(n, narrow)
    } else {
        reshare(n, settings.narrow_bits)
    }
}

/// Signs of `n` elements.
fn msb(n: usize, settings: Settings) -> Cost {
    comparison(n, settings.narrow_bits - 1, &[])
}

/// Functions of `n` elements that are constant between `thresholds`.
fn piecewise(n: usize, thresholds: usize, functions: usize, settings: Settings) -> Cost {
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
fn relu(n: usize, out: Width, settings: Settings) -> Cost {
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
fn select(n: usize, dealt: bool, out: Width, settings: Settings) -> Cost {
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
fn extend(n: usize, settings: Settings) -> Cost {
    let mut first = deal(n, 0, &[settings.most_shift()]) + exchange(n, 1);
    first.rounds = 1;
    first + remask(n, settings.wide_bits)
}

/// Opening to the receiver: every server sends its first component, and a hash of the other one.
fn open(n: usize, width: Width, settings: Settings) -> Cost {
    reshare(n, settings.bits(width)) + Cost { rounds: 0, ..per_server(|_| HASH_BYTES) }
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
