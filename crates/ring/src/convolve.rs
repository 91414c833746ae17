//! One convolution, where shares are not replicated: a single product, by the kernels of the pair.

use crate::{Conv2d, Device, IndexMap};

/// The convolution whose pair of products, over half of the channels each, is the whole one: `conv(x', a) + conv(x'', b)` where x' and
/// x'' are the halves of every group's channels. With an odd number of them the second half is missing: zeros stand for it.
fn half(op: &Conv2d) -> Option<Conv2d> {
    let channels = op.cin / op.groups;
    channels.is_multiple_of(2).then_some(Conv2d { cin: op.cin / 2, ..*op })
}

/// The first or the second half of every run of so many elements.
fn take<D: Device>(dev: &D, x: &D::Buf<u64>, run: usize, second: bool) -> D::Buf<u64> {
    let rows = dev.len(x) / run;
    let map =
        IndexMap::window(&[rows, run], &[0, if second { run as isize / 2 } else { 0 }], &[1, 1], &[rows, run / 2]);
    dev.gather(x, &map, 0)
}

/// Packs weights (OHWI) for [`convolve`].
pub fn prepare_one<D: Device>(dev: &D, w: &D::Buf<u64>, op: &Conv2d) -> D::Panel {
    let Some(op) = half(op) else {
        let zero = dev.affine(w, 0, 0);
        return dev.prepare(w, &zero, op, false);
    };
    let channels = 2 * op.cin / op.groups;
    let [a, b] = [false, true].map(|second| take(dev, w, channels, second));
    // conv(x0, w0 + w1) + conv(x1, w0), with w0 = b and w0 + w1 = a.
    let difference = dev.zip(crate::ZipOp::Sub, &a, &b);
    dev.prepare(&b, &difference, &op, false)
}

/// `conv(x, w)`, NHWC, with weights from [`prepare_one`]: half the work of a replicated pair.
pub fn convolve<D: Device>(dev: &D, x: &D::Buf<u64>, panel: &D::Panel, op: &Conv2d) -> D::Buf<u64> {
    let Some(halved) = half(op) else {
        return dev.linear(x, &dev.affine(x, 0, 0), panel, op);
    };
    let channels = op.cin / op.groups;
    let [first, second] = [false, true].map(|second| take(dev, x, channels, second));
    dev.linear(&first, &second, panel, &halved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, PrgKey};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_pair_with_zeros(
            (groups, per, cout) in (1..4usize, 1..7usize, 1..5usize),
            (h, w, k, stride) in (1..8usize, 1..8usize, 1..3usize, 1..3usize),
            seed in any::<[u8; 16]>(),
        ) {
            let op = Conv2d {
                n: 2, h, w, cin: groups * per, cout: groups * cout, kernel: [k, 1], stride: [stride, 1],
                dilation: [1, 1], pad: [1, 0, 0, 1], groups,
            };
            prop_assume!(op.check().is_ok());
            let dev = Cpu::new(1);
            let words = PrgKey::new(seed).words::<u64>(op.input().len() + op.weight().len());
            let (x, w) = (words[..op.input().len()].to_vec(), words[op.input().len()..].to_vec());
            let zeros = |v: &[u64]| vec![0u64; v.len()];
            let want = dev.linear(&x, &zeros(&x), &dev.prepare(&w, &zeros(&w), &op, false), &op);
            prop_assert_eq!(convolve(&dev, &x, &prepare_one(&dev, &w, &op), &op), want);
        }
    }
}
