//! Linear layers on shares: whatever the geometry, the two shares add up to 2^g times the product, with an error that the guard bits hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_he::layer::{Place, answer, question, read};
use sordino_he::params::{guard, noise};
use sordino_he::{Layout, Params, PublicKey, Scheme, SecretKey};
use sordino_ot::Stream;
use sordino_ring::{Conv2d, Cpu, Device, convolve, prepare_one};

const W: u32 = 37;

/// Inputs and weights.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// Random shares, and the largest weights with random signs.
    Random,
    /// One value everywhere, and the largest weights with one sign.
    Coherent,
}

fn masked(v: u64, bits: u32) -> u64 {
    v & (u64::MAX >> (64 - bits))
}

/// The errors of all elements.
fn errors(op: Conv2d, weight_bits: u32, params: Option<Params>, seed: u8) -> Vec<i64> {
    errors_of(op, weight_bits, params, seed, (W, 1), Values::Random)
}

/// The same for products of so many bits, of which so many are summed, and such values.
fn errors_of(
    op: Conv2d,
    weight_bits: u32,
    params: Option<Params>,
    seed: u8,
    (w, answers): (u32, usize),
    values: Values,
) -> Vec<i64> {
    let bits = w + guard(answers);
    let params = params
        .unwrap_or_else(|| Params::new(bits, noise(weight_bits, Layout::weights_per_answer(&op, op.cout))).unwrap());
    let scheme = Scheme::new(params);
    let (mut client, mut owner) = (Stream::new([seed; 16]), Stream::new([seed + 1; 16]));
    let (key, said) = SecretKey::new(&scheme, &mut client);
    let public = PublicKey::read(&scheme, &said).unwrap();
    let layout = Layout::new(op, params, bits);
    let fixed = client.words(1)[0];
    let x = client.words(op.input().len()).into_iter();
    let x: Vec<u64> = x.map(|v| masked(if values == Values::Random { v } else { fixed }, w)).collect();
    // The largest weights: signs alone are random.
    let most = (1i64 << (weight_bits - 1)) - 1;
    let weights: Vec<i64> = owner
        .words(op.weight().len())
        .iter()
        .map(|v| if v & 1 == 0 && values == Values::Random { most } else { -most })
        .collect();
    let at = Place { scheme: &scheme, layout: &layout, bits, threads: 1 + usize::from(seed % 2) };
    let asked = question(&at, &key, &x, w, &mut client);
    let (answered, share) = answer(&at, &public, &weights, &asked, &mut owner).unwrap();
    let other = read(&at, &key, &answered).unwrap();
    let cpu = Cpu::new(1);
    let panel = prepare_one(&cpu, &cpu.upload(weights.iter().map(|v| *v as u64).collect()), &op);
    let want = cpu.download(convolve(&cpu, &cpu.upload(x), &panel, &op)).unwrap();
    let error = |((a, b), y): ((&u64, &u64), &u64)| {
        let difference = a.wrapping_add(*b).wrapping_sub(y << guard(answers));
        ((difference << (64 - bits)) as i64) >> (64 - bits)
    };
    share.iter().zip(&other).zip(&want).map(error).collect()
}

#[test]
fn every_geometry_is_exact_but_for_the_guard_bits() {
    let base = Conv2d { n: 1, h: 9, w: 7, cin: 5, cout: 6, ..Conv2d::matmul(1, 1, 1) };
    let all = [
        Conv2d::matmul(1, 700, 10),
        Conv2d::matmul(3, 64, 100),
        Conv2d { h: 14, w: 14, cin: 96, cout: 40, ..base },
        Conv2d { h: 15, w: 13, cin: 20, cout: 33, stride: [2, 2], ..base },
        Conv2d { kernel: [3, 3], pad: [1; 4], ..base },
        Conv2d { kernel: [3, 2], pad: [1, 0, 2, 1], stride: [2, 1], n: 2, ..base },
        Conv2d { kernel: [3, 3], pad: [2; 4], dilation: [2, 2], ..base },
        Conv2d { h: 70, w: 90, cin: 3, cout: 8, kernel: [7, 7], pad: [3; 4], stride: [2, 2], ..base },
        Conv2d { cin: 12, cout: 8, kernel: [3, 3], pad: [1; 4], groups: 4, ..base },
        Conv2d { cin: 16, cout: 16, kernel: [3, 3], pad: [1; 4], groups: 16, ..base },
        Conv2d { kernel: [1, 1], pad: [1; 4], ..base },
        Conv2d { cin: 6, cout: 9, groups: 3, ..base },
    ];
    for (i, op) in all.into_iter().enumerate() {
        op.check().unwrap();
        let most = errors(op, 13, None, 10 + i as u8).into_iter().map(i64::abs).max().unwrap();
        assert!(most <= 1, "{op:?}: {most}");
    }
}

#[test]
fn the_widest_products_and_weights_of_one_sign_are_exact_too() {
    // Of two answers each may be off by less than two units of four guard values.
    let picture = Conv2d { h: 28, w: 28, cin: 8, cout: 8, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
    let many = Conv2d::matmul(1, 1 << 17, 1);
    for seed in 0..12 {
        for (op, weight_bits) in [(picture, 20), (many, 13)] {
            let wide = if op == picture { 53 } else { 36 };
            for values in [Values::Random, Values::Coherent] {
                let e = errors_of(op, weight_bits, None, 100 + seed, (wide, 2), values);
                let most = e.into_iter().map(i64::abs).max().unwrap();
                assert!(most <= 1, "{op:?} {wide}: {most}");
            }
        }
    }
}

#[test]
fn noise_is_within_its_bound_and_a_shorter_modulus_is_not() {
    // 512 channels of 3 x 3, all weights of the largest size.
    let op = Conv2d { n: 1, h: 14, w: 14, cin: 512, cout: 12, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
    let bits = W + guard(1);
    let params = Params::new(bits, noise(13, Layout::weights_per_answer(&op, op.cout))).unwrap();
    let spread = |e: &[i64]| (e.iter().map(|v| v * v).sum::<i64>() as f64 / e.len() as f64).sqrt();
    let good = errors(op, 13, Some(params), 50);
    // Two roundings to whole units of a value with a deviation of 0.1 and a quarter of a unit: at most one, seldom.
    assert!(good.iter().all(|e| e.abs() <= 1) && spread(&good) < 0.6, "{}", spread(&good));
    let short = Params { prime_bits: params.prime_bits - 3 };
    assert!(errors(op, 13, Some(short), 50).iter().any(|e| e.abs() > 1));
}

#[test]
fn answers_for_weights_of_zero_are_fresh() {
    let op = Conv2d::matmul(1, 64, 8);
    let bits = W + guard(1);
    let params = Params::new(bits, noise(13, 512)).unwrap();
    let (scheme, mut client) = (Scheme::new(params), Stream::new([1; 16]));
    let (key, said) = SecretKey::new(&scheme, &mut client);
    let public = PublicKey::read(&scheme, &said).unwrap();
    let layout = Layout::new(op, params, bits);
    let at = Place { scheme: &scheme, layout: &layout, bits, threads: 1 };
    let asked = question(&at, &key, &[5; 64], W, &mut client);
    let answered = |seed: u8| answer(&at, &public, &[0; 512], &asked, &mut Stream::new([seed; 16])).unwrap().0;
    let (a, b) = (answered(2), answered(3));
    let equal = a.iter().zip(&b).filter(|(x, y)| x == y).count();
    assert!(equal < 3 && a.iter().filter(|w| **w == 0).count() < 3);
}

#[test]
fn what_is_too_long_or_too_short_is_refused() {
    let op = Conv2d::matmul(1, 64, 8);
    let params = Params::new(39, noise(13, 512)).unwrap();
    let (scheme, mut client) = (Scheme::new(params), Stream::new([1; 16]));
    let (key, said) = SecretKey::new(&scheme, &mut client);
    assert!(PublicKey::read(&scheme, &said[1..]).is_err() && PublicKey::read(&scheme, &[]).is_err());
    let public = PublicKey::read(&scheme, &said).unwrap();
    let layout = Layout::new(op, params, 39);
    let at = Place { scheme: &scheme, layout: &layout, bits: 39, threads: 1 };
    let asked = question(&at, &key, &[5; 64], W, &mut client);
    assert!(answer(&at, &public, &[0; 512], &asked[1..], &mut client).is_err());
    assert!(read(&at, &key, &asked).is_err());
}

/// The client and the host must make the same of the same seeds whatever machine they run on, and whatever version.
#[test]
fn known_answers() {
    use sha2::{Digest, Sha256};
    let op = Conv2d { n: 1, h: 9, w: 7, cin: 12, cout: 8, kernel: [3, 3], pad: [1; 4], ..Conv2d::matmul(1, 1, 1) };
    let bits = W + guard(1);
    let params = Params::new(bits, noise(13, 512)).unwrap();
    let (scheme, mut client, mut owner) = (Scheme::new(params), Stream::new([1; 16]), Stream::new([2; 16]));
    let (key, said) = SecretKey::new(&scheme, &mut client);
    let public = PublicKey::read(&scheme, &said).unwrap();
    let layout = Layout::new(op, params, bits);
    let at = Place { scheme: &scheme, layout: &layout, bits, threads: 2 };
    let x: Vec<u64> = (0..op.input().len() as u64).map(|v| v * 1_000_003).collect();
    let weights: Vec<i64> = (0..op.weight().len() as i64).map(|v| v % 4001 - 2000).collect();
    let asked = question(&at, &key, &x, W, &mut client);
    let (answered, share) = answer(&at, &public, &weights, &asked, &mut owner).unwrap();
    let digest = |words: &[u64]| -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Sha256::digest(&bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
    };
    let got = [&said, &asked, &answered, &share, &read(&at, &key, &answered).unwrap()].map(|words| digest(words));
    assert_eq!(
        got,
        ["809c4a683110e293", "758aa533cf6c0654", "22d51c64c64219f9", "3d0c0a7cdc05a708", "070591f192e95aec"]
    );
}
