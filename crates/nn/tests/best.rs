//! The places of the best classes, and nothing else, come out of shares.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod graphs;
mod shares;

use graphs::Build;
use shares::Run;
use sordino_nn::best::{Scores, answer_best};
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::{Options, Ranges, Tensor, compile, for_inference, import};
use sordino_ring::PrgKey;
use sordino_testkit::World;

/// Scores with ties, at the ends of their range, and near each other.
fn scores(rows: usize, classes: usize, seed: u8) -> Vec<f32> {
    let words: Vec<u32> = PrgKey::new([seed; 16]).words(rows * classes);
    let of = |(i, w): (usize, u32)| match i / classes % 3 {
        // Few values: many are equal.
        0 => (w % 4) as f32 - 2.0,
        1 => (w % 2001) as f32 / 100.0 - 10.0,
        // Extremes.
        _ => {
            if w % 3 == 0 {
                10.0
            } else {
                -10.0
            }
        }
    };
    words.into_iter().enumerate().map(of).collect()
}

#[test]
fn places_of_the_best() {
    for (classes, most) in [(2, 1), (2, 2), (3, 2), (10, 3), (10, 10), (37, 5)] {
        let rows = 6;
        let mut build = Build::new(&[classes]);
        let eye = (0..classes * classes).map(|i| f32::from(u8::from(i % (classes + 1) == 0))).collect();
        let build = build.constant("eye", Tensor::new(&[classes, classes], eye));
        let mut graph = build.node("MatMul", "scores", &["x", "eye"], &[]).done("scores");
        let x = Tensor::new(&[rows, classes], scores(rows, classes, (classes + most) as u8));
        let plain = for_inference(&import(&graph, rows).unwrap());
        let mut ranges = Ranges::calibrate(&plain, &[vec![x.clone()]]).unwrap();
        let options = Options::default();
        let added = answer_best(&mut graph, most, Scores { classes, largest: 10.0 * options.margin });
        let net = for_inference(&import(&graph, rows).unwrap());
        added.complete(&net, &mut ranges);
        let (program, secrets) = compile(&net, &ranges, &options).unwrap();
        let job = Run {
            program: &program,
            secrets: &secrets,
            inputs: encode_inputs(&program, std::slice::from_ref(&x)).unwrap(),
        };
        let (outputs, ..) = World::default().run(&job).unwrap();
        let outputs: Vec<Vec<i64>> = outputs.into_iter().map(Option::unwrap).collect();
        let got = &decode_outputs(&program, &outputs)[0];
        assert_eq!(got.data.len(), rows * most, "{classes} {most}");
        for (row, got) in x.data.chunks(classes).zip(got.data.chunks(most)) {
            let mut order: Vec<usize> = (0..classes).collect();
            // Stable: of equal ones the first.
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            // Rounding may put apart what is equal; nothing else may change places.
            let value = |place: usize| row[place];
            let places: Vec<usize> = got.iter().map(|p| p.round() as usize).collect();
            let distinct: std::collections::BTreeSet<_> = places.iter().collect();
            assert_eq!(distinct.len(), most, "{classes} {most}: {places:?} of {row:?}");
            for (got, want) in places.iter().zip(&order) {
                assert_eq!(value(*got), value(*want), "{classes} {most}: {places:?} for {order:?} of {row:?}");
            }
        }
    }
}
