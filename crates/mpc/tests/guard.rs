//! The guard: values in range are never noted, values well outside always, and the receiver is told of the row they are in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Ends, Local, Protocol, Result, Role, Settings, Step, Width};
use sordino_ring::Shape;
use sordino_testkit::{Job, World, integers};

/// What carries the guard's messages.
#[derive(Clone, Copy)]
enum Carrier {
    Relu,
    Extend,
    Sign,
    Piecewise,
}

/// Values, the number of rows that they are watched in, and of how many the receiver is told.
struct Watched {
    values: Vec<i64>,
    rows: usize,
    told: usize,
    by: Carrier,
}

impl Job for Watched {
    type Out = Vec<Option<bool>>;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let x = p.input(at.child("x"), Role::DataOwner(0), Some(&self.values), &Shape::new(&[self.values.len()]))?;
        let x = p.local(&Local::Low, &[&x])?;
        p.watch(at.child("watch"), &x, self.rows)?;
        let at_once = at.child("carrier");
        match self.by {
            Carrier::Relu => drop(p.relu(at_once, &x, Width::Wide)?),
            Carrier::Extend => drop(p.extend(at_once, &x)?),
            Carrier::Sign => drop(p.msb(at_once, &x)?),
            Carrier::Piecewise => drop(p.piecewise_constant(at_once, &x, &[3], &[vec![1]])?),
        }
        (0..self.told).map(|row| p.sound(at.child("sound"), [row, self.told], Role::Receiver)).collect()
    }
}

fn told(job: &Watched, settings: Settings) -> Vec<bool> {
    let (told, ..) = World { settings, ..World::default() }.run(job).unwrap();
    told.into_iter().map(Option::unwrap).collect()
}

/// Every element is a row, so that each is told of by itself.
fn each(values: Vec<i64>, settings: Settings) -> Vec<bool> {
    let n = values.len();
    told(&Watched { values, rows: n, told: n, by: Carrier::Relu }, settings)
}

fn rings() -> impl Iterator<Item = Settings> {
    [(32, 64), (28, 52), (20, 36), (4, 36)].into_iter().map(|(narrow_bits, wide_bits)| Settings {
        narrow_bits,
        wide_bits,
        ..Settings::default()
    })
}

#[test]
fn nothing_in_range_is_noted() {
    for settings in rings() {
        let limit = 1i64 << (settings.narrow_bits - 2);
        let mut values = integers(5, 500, limit);
        for edge in [limit - 1, 1 - limit, -limit, 0, -1] {
            values.extend(vec![edge; 100]);
        }
        assert!(each(values, settings).iter().all(|sound| *sound), "{settings:?}");
    }
}

#[test]
fn what_is_well_outside_is_always_noted() {
    for settings in rings().filter(|s| s.narrow_bits > 4) {
        let limit = 1i64 << (settings.narrow_bits - 2);
        let from = limit + limit / 2;
        let mut values: Vec<i64> = integers(6, 500, limit / 2).iter().map(|v| from + v.abs()).collect();
        values.extend([from, from + limit - 1].repeat(50));
        let negative: Vec<i64> = values.iter().map(|v| -1 - v).collect();
        values.extend(negative);
        // The same in the ring.
        let wrapped: Vec<i64> = values.iter().map(|v| v + 4 * limit).collect();
        values.extend(wrapped);
        assert!(each(values, settings).iter().all(|sound| !*sound), "{settings:?}");
    }
}

/// Between the bound and one and a half of it the chance grows from none to one. A quarter beyond it is a half: of 4,000 values 2,000,
/// give or take twelve standard deviations of 32, which chance leaves less often than once in 2^43 runs.
#[test]
fn what_is_a_little_outside_is_noted_by_chance() {
    let settings = Settings::default();
    let sound = each(vec![(1 << 30) + (1 << 28); 4000], settings).iter().filter(|s| **s).count();
    assert!(sound.abs_diff(2000) < 380, "{sound}");
}

#[test]
fn rows_are_told_apart() {
    let settings = Settings::default();
    for by in [Carrier::Relu, Carrier::Extend, Carrier::Sign, Carrier::Piecewise] {
        for (rows, at) in [(1, 0), (2, 1), (3, 0), (7, 4), (16, 15)] {
            let row = 50;
            let mut values = integers(7, rows * row, 1 << 30);
            values[at * row + 13] = -(1 << 31);
            let got = told(&Watched { values: values.clone(), rows, told: rows, by }, settings);
            let want: Vec<bool> = (0..rows).map(|r| r != at).collect();
            assert_eq!(got, want);
            // What is watched as a whole is told of every row.
            assert_eq!(told(&Watched { values, rows: 1, told: 3, by }, settings), [false; 3]);
        }
    }
}

/// Beyond a watched end of a piecewise function every element is noted, and no other.
#[test]
fn ends_of_functions_are_exact() {
    struct Pieces(Vec<i64>, [bool; 2]);
    impl Job for Pieces {
        type Out = Vec<Option<bool>>;
        fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
            let n = self.0.len();
            let x = p.input(at.child("x"), Role::DataOwner(0), Some(&self.0), &Shape::new(&[n]))?;
            let x = p.local(&Local::Low, &[&x])?;
            let ends = Ends { below: self.1[0], above: self.1[1], rows: n };
            p.piecewise_watched(at.child("f"), &x, &[-50, 0, 70], &[vec![1, 2, 3]], ends)?;
            (0..n).map(|row| p.sound(at.child("sound"), [row, n], Role::Receiver)).collect()
        }
    }
    let values: Vec<i64> = (-60..80).chain([-51, -50, 69, 70, 1 << 30, -(1 << 30), 0]).collect();
    for watched in [[true, true], [true, false], [false, true]] {
        let (got, ..) = World::default().run(&Pieces(values.clone(), watched)).unwrap();
        for (v, told) in values.iter().zip(got) {
            let beyond = watched[0] && *v < -50 || watched[1] && *v >= 70;
            assert_eq!(told, Some(!beyond), "{v} {watched:?}");
        }
    }
}

/// Values at equal places of rows and parts, which a hash that is the same for all of them would lose.
#[test]
fn two_of_a_kind_do_not_cancel() {
    let settings = Settings::default();
    let out = 1 << 31;
    for rows in [1, 2, 3, 6] {
        let n = 192 * rows;
        let seen = |at: &[usize], told_rows: usize| {
            let mut values = integers(9, n, 1 << 30);
            at.iter().for_each(|&i| values[i] = out);
            told(&Watched { values, rows, told: told_rows, by: Carrier::Relu }, settings)
        };
        let third = n / 3;
        for (a, b) in [(0, third), (0, 2 * third), (third, 2 * third), (5, 5 + third), (63, 64), (0, 64), (0, 128)] {
            let want: Vec<bool> = (0..rows).map(|r| a / 192 != r && b / 192 != r).collect();
            assert_eq!(seen(&[a, b], rows), want, "{rows} rows, {a} and {b}");
        }
        // Whole rows, whole parts, everything.
        assert_eq!(seen(&(0..n).collect::<Vec<_>>(), rows), vec![false; rows]);
        assert!(!seen(&(0..n).step_by(third).collect::<Vec<_>>(), rows)[0]);
    }
}

/// A run that is sound is not taken for one because of the run before it.
#[test]
fn runs_are_told_apart() {
    struct Two;
    impl Job for Two {
        type Out = [Option<bool>; 3];
        fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
            let mut told = [None; 3];
            for (run, value) in [5, 1 << 31, 7].into_iter().enumerate() {
                let job = Watched { values: vec![value; 9], rows: 3, told: 3, by: Carrier::Extend };
                told[run] = job.run(p, at.child("run"))?[2];
            }
            Ok(told)
        }
    }
    let (told, ..) = World::default().run(&Two).unwrap();
    assert_eq!(told, [Some(true), Some(false), Some(true)]);
}

/// Thermometers travel with a later deal; without one there is nothing to tell.
#[test]
fn what_waits_for_no_deal_is_refused() {
    struct NoDeal;
    impl Job for NoDeal {
        type Out = ();
        fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<()> {
            let x = p.input(at.child("x"), Role::DataOwner(0), Some(&[1]), &Shape::new(&[1]))?;
            p.watch(at.child("watch"), &p.local(&Local::Low, &[&x])?, 1)?;
            p.sound(at.child("sound"), [0, 1], Role::Receiver)?;
            Ok(())
        }
    }
    let ends = World::default().run(&NoDeal).ends;
    assert!(ends[..3].iter().all(|end| matches!(end, Err(sordino_mpc::Error::Usage(why)) if why.contains("dealt"))));
}
