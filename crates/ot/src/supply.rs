//! How many transfers there are, and what making more of them says.

use crate::ferret::{AHEAD, COMPACT, FAST, Params, UNIT, sent_by};
use crate::softspoken;

/// How transfers are made in bulk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Silently, from learning parity with noise: 2.5 bits a transfer.
    #[default]
    Silent,
    /// The same with larger tables: 0.7 bits a transfer, for more time.
    Compact,
    /// By SoftSpokenOT, from symmetric cryptography alone: 31 bits a transfer.
    SoftSpoken,
    /// By the extension of Ishai, Kilian, Nissim and Petrank (CRYPTO 2003), what CrypTFlow2 was measured with: 127 bits a transfer.
    Iknp,
}

impl Method {
    /// Of silent transfers.
    pub(crate) fn params(self) -> Option<Params> {
        match self {
            Self::Silent => Some(FAST),
            Self::Compact => Some(COMPACT),
            Self::SoftSpoken | Self::Iknp => None,
        }
    }

    /// Bits of delta that a tree of SoftSpokenOT covers; silent transfers begin with those, too.
    pub(crate) fn bits(self) -> usize {
        if self == Self::Iknp { 1 } else { softspoken::K }
    }
}

/// Transfers are made in multiples of this by SoftSpokenOT.
pub(crate) const ROUND: usize = 128;

/// How many transfers are at hand in both directions, and what making more of them says: known to both ends, and to whoever plans.
/// Directions are named by who sends: the first end, or the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    method: Method,
    pub(crate) left: [usize; 2],
    /// How many will be drawn for sure.
    expected: [usize; 2],
}

/// What a round makes of each direction.
fn each(params: Params) -> [usize; 2] {
    [true, false].map(|first| sent_by(first).len() * params.yields())
}

/// Words that the two ends say in one step of making transfers; a step in which neither says anything does not happen.
pub type Words = [usize; 2];

impl Supply {
    /// At the beginning of a session.
    #[must_use]
    pub fn new(method: Method) -> Self {
        Self { method, left: [0, 0], expected: [0, 0] }
    }

    /// So many more will be drawn for sure, after what has been said before: rounds of silent transfers then come before what they make is needed, so
    /// that there is something to grow while an end waits.
    pub fn expect(&mut self, more: [usize; 2]) {
        self.expected.iter_mut().zip(more).for_each(|(expected, more)| *expected += more);
    }

    /// What both ends say so that so many transfers can be drawn that the first end sends, and that the second one sends.
    pub fn make(&mut self, need: [usize; 2]) -> Vec<Words> {
        let mut steps = vec![];
        let Some(params) = self.method.params() else {
            // What an operation leaves over is set aside, so that each asks for its own.
            self.left = need.map(|n| n.next_multiple_of(ROUND));
            let words = self.left.map(|n| softspoken::words(self.method.bits(), n));
            // The receiver of a direction asks.
            steps.push([words[1], words[0]]);
            return steps;
        };
        let (each, ahead) = (each(params), self.ahead(need));
        while self.left.iter().zip(ahead).any(|(left, ahead)| *left < ahead) {
            steps.push([true, false].map(|first| params.begin_words(first)));
            steps.push([true, false].map(|first| params.answer_words(first)));
            self.left.iter_mut().zip(each).for_each(|(left, each)| *left += each);
        }
        // A round makes as many both ways. Of a direction that is used less, no more than a round's are kept beyond what is wanted, and some of what is
        // expected: both ends set aside the oldest.
        let sure = self.sure(need);
        for way in [0, 1] {
            let later = AHEAD.min(sure[way] - ahead[way]);
            self.left[way] = self.left[way].min(ahead[way].max(each[way]) + each[way] + later);
        }
        steps
    }

    /// How many of each direction are to be at hand: those that are needed now, and of those that will be, what an end grows ahead.
    fn ahead(&self, need: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|way| need[way].max(self.expected[way].min(need[way] + AHEAD)))
    }

    /// How many of each direction will be drawn for sure.
    pub(crate) fn sure(&self, need: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|way| need[way].max(self.expected[way]))
    }

    /// Transfers at hand in both directions.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.iter().sum()
    }

    /// Bytes that they take at an end, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let blocks = match self.method.params() {
            None => self.left(),
            Some(params) => {
                let rounds = [0, 1].map(|way| self.left[way].div_ceil(each(params)[way].max(1)));
                let rounds = rounds[0].max(rounds[1]) + 1;
                self.left.iter().map(|left| UNIT + AHEAD.min(*left)).sum::<usize>() + rounds * params.held()
            }
        };
        16 * blocks as u64
    }

    /// So many are drawn.
    pub fn draw(&mut self, used: [usize; 2]) {
        self.left.iter_mut().zip(used).for_each(|(left, used)| *left = left.saturating_sub(used));
        self.expected.iter_mut().zip(used).for_each(|(expected, used)| *expected = expected.saturating_sub(used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_makes_no_more_rounds_than_what_is_needed() {
        for method in [Method::Silent, Method::Compact] {
            let steps = |needs: &[[usize; 2]], expected: bool| -> Vec<usize> {
                let mut supply = Supply::new(method);
                if expected {
                    supply.expect(needs.iter().fold([0; 2], |[a, b], need| [a + need[0], b + need[1]]));
                }
                let one = |need: &[usize; 2]| {
                    let steps = supply.make(*need).len();
                    supply.draw(*need);
                    steps
                };
                needs.iter().map(one).collect()
            };
            let sum = |steps: &[usize]| steps.iter().sum::<usize>();
            // Both directions alike; one and then the other; one that takes twice as many.
            for needs in [[[2_000_000; 2]; 20], [[1_500_000, 700_000]; 20]]
                .into_iter()
                .chain([std::array::from_fn(|i| if i % 2 == 0 { [0, 2_000_000] } else { [2_000_000, 0] })])
            {
                let (needed, expected) = (steps(&needs, false), steps(&needs, true));
                assert!(sum(&expected) <= sum(&needed), "{method:?} {needs:?}");
                assert!(expected[0] >= needed[0] && (expected != needed || method == Method::Compact));
            }
            // Nothing is expected any more.
            let mut supply = Supply::new(method);
            supply.expect([100, 100]);
            supply.make([100, 100]);
            supply.draw([100, 100]);
            assert!(supply.make([1, 1]).is_empty() && supply.expected == [0, 0]);
        }
    }
}
