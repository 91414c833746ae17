//! Weights of linear layers as a server holds them.

use super::share::Pair;
use sordino_ring::{Conv2d, Device, PrgKey};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Words of weights from which on a fully connected layer is kept as it came.
const MANY: usize = 1 << 20;

/// Most rows of such a layer's input: with more, packing each time would cost as much as the products.
const FEW_ROWS: usize = 8;

/// Words of each component that are read at a time: both fit a core's cache.
const PIECE: usize = 1 << 15;

/// One component of weights that an owner shared.
pub(crate) enum Component<D: Device> {
    /// It is the stream of a key.
    Seed(PrgKey),
    /// It travelled.
    Words(D::Buf<u64>),
}

impl<D: Device> Component<D> {
    pub(crate) fn whole(self, dev: &D, n: usize) -> D::Buf<u64> {
        match self {
            Self::Seed(key) => dev.random(&key, n),
            Self::Words(words) => words,
        }
    }

    fn piece(&self, dev: &D, start: usize, n: usize) -> D::Buf<u64> {
        match self {
            Self::Seed(key) => dev.random_from(key, start, n),
            Self::Words(words) => dev.slice(words, start, n),
        }
    }
}

/// Weights packed for a convolution, or, of a large fully connected layer, kept as they came: each is read once a run, and packed
/// they take two to three times the memory. From the second run on they are packed too.
pub(crate) enum Panel<D: Device> {
    Packed(D::Panel),
    Kept(Box<Kept<D>>),
}

pub(crate) struct Kept<D: Device> {
    components: [Component<D>; 2],
    used: AtomicBool,
    packed: OnceLock<D::Panel>,
}

impl<D: Device> Panel<D> {
    pub(crate) fn new(dev: &D, components: [Component<D>; 2], op: &Conv2d) -> Self {
        let rows = op.n * op.h * op.w;
        if op.is_pointwise() && op.groups == 1 && rows <= FEW_ROWS && op.weight().len() >= MANY {
            return Self::Kept(Box::new(Kept { components, used: AtomicBool::new(false), packed: OnceLock::new() }));
        }
        let n = op.weight().len();
        let [w0, w1] = components.map(|c| c.whole(dev, n));
        Self::Packed(dev.prepare(&w0, &w1, op, true))
    }

    /// `conv(x0, w0 + w1) + conv(x1, w0)`.
    pub(crate) fn linear(&self, dev: &D, x: &Pair<D, u64>, op: &Conv2d) -> D::Buf<u64> {
        let kept = match self {
            Self::Packed(panel) => return dev.linear(&x.0, &x.1, panel, op),
            Self::Kept(kept) => kept,
        };
        if kept.used.swap(true, Ordering::Relaxed) {
            let n = op.weight().len();
            let packed = || {
                let [w0, w1] = [0, 1].map(|i| kept.components[i].piece(dev, 0, n));
                dev.prepare(&w0, &w1, op, true)
            };
            return dev.linear(&x.0, &x.1, kept.packed.get_or_init(packed), op);
        }
        // A few output channels at a time.
        let step = (PIECE / op.cin).max(1);
        let (mut parts, mut widths) = (vec![], vec![]);
        for first in (0..op.cout).step_by(step) {
            let cout = step.min(op.cout - first);
            let [w0, w1] = [0, 1].map(|i| kept.components[i].piece(dev, first * op.cin, cout * op.cin));
            parts.push(dev.full([&x.0, &x.1], [&w0, &w1], op.cin));
            widths.push(cout);
        }
        dev.concat(&parts.iter().collect::<Vec<_>>(), op.n * op.h * op.w, &widths)
    }
}
