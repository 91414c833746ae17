//! Every way computes the same ReLU, for shares of all kinds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_baseline::{Ran, both, garble, paper::Paper};
use sordino_mpc::two::Modulus;
use sordino_net::LinkModel;
use sordino_ot::{Method, Stream};

/// Shares of small values, of edges and of whatever, and both ends' results.
fn check(modulus: Modulus, n: usize, relu: impl Fn(&[Vec<u64>; 2]) -> [Ran<Vec<u64>>; 2]) {
    let mut random = Stream::new([3; 16]);
    let mut below = || {
        let [low, high] = [random.words(1)[0], random.words(1)[0]];
        modulus.uniform(low, high)
    };
    let edges = [0, 1, modulus.largest(), modulus.largest() + 1, modulus.get() - 1];
    let x: Vec<u64> = (0..n).map(|i| if i % 3 == 0 { edges[i / 3 % 5] } else { below() }).collect();
    let a: Vec<u64> = x.iter().map(|_| below()).collect();
    let b: Vec<u64> = x.iter().zip(&a).map(|(x, a)| modulus.sub(*x, *a)).collect();
    let [y0, y1] = relu(&[a, b]);
    assert_eq!(y0.out.len(), n);
    for (i, x) in x.iter().enumerate() {
        let y = modulus.signed(modulus.add(y0.out[i], y1.out[i]));
        assert_eq!(y, modulus.signed(*x).max(0), "{} modulo {}", modulus.signed(*x), modulus.get());
    }
}

const RINGS: [u64; 6] = [1 << 32, 1 << 41, (1 << 32) - 5, (1 << 37) - 25, 1 << 5, 97];

#[test]
fn garbled_circuits() {
    for n in RINGS {
        let modulus = Modulus::new(n).unwrap();
        for elements in [1, 200, 4096 + 70] {
            check(modulus, elements, |x| {
                both(LinkModel::UNLIMITED, Method::Iknp, |end| {
                    garble::relu(end, modulus, &x[usize::from(!end.is_first())])
                })
                .unwrap()
            });
        }
    }
}

#[test]
fn the_papers_protocols() {
    for n in RINGS.into_iter().filter(|n| n.is_power_of_two()) {
        let modulus = Modulus::new(n).unwrap();
        for elements in [1, 200, 4096 + 70] {
            check(modulus, elements, |x| {
                both(LinkModel::UNLIMITED, Method::Iknp, |end| {
                    Paper::new(end)?.relu(modulus.bits(), &x[usize::from(!end.is_first())])
                })
                .unwrap()
            });
        }
    }
}

/// Bits an element, of both ends together, beside the papers' formulas.
#[test]
fn what_they_send() {
    let (n, l) = (4096, 32);
    let modulus = Modulus::new(1 << l).unwrap();
    let x = vec![5; n];
    let bits = |ends: [Ran<Vec<u64>>; 2]| ends.iter().map(|end| end.meter.payload() * 8).sum::<u64>() as f64 / n as f64;
    let garbled = bits(both(LinkModel::UNLIMITED, Method::Iknp, |end| garble::relu(end, modulus, &x)).unwrap());
    // Two blocks for each of 3 (l - 1) gates, a transfer and an offer for each bit: the paper says 8 lambda l - 4 lambda.
    let expected = (3 * (l - 1) * 256 + l * (128 + 127 + 1) + l) as f64;
    assert!((garbled - expected).abs() < 1.0, "{garbled} for {expected}");
    let paper = bits(both(LinkModel::UNLIMITED, Method::Iknp, |end| Paper::new(end)?.relu(32, &x)).unwrap());
    // Eight leaves: of 16 entries of two bits, the highest of 8, the lowest of 16 bits. Four nodes with two products, from 8 entries, three with one, two of them
    // from 16. Two transfers of two strings.
    let leaves = 8 * 256 + 6 * 32 + 16 + 16;
    let nodes = 4 * (256 + 16 + 6) + 3 * ((256 + 32) / 2 + 4);
    let expected = f64::from(leaves + nodes + 2 * (127 + 1 + 2 * 32));
    assert!((paper - expected).abs() < 1.0, "{paper} for {expected}");
}
