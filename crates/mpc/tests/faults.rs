//! A session that is disturbed ends at every end with a typed error, within its deadline.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_mpc::{Error, Local, Protocol, Result, Role, Step, Width};
use sordino_net::{Endpoint, Frame, NetError, Part};
use sordino_ring::Shape;
use sordino_testkit::{Job, Tap, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Relus;

impl Job for Relus {
    type Out = Option<Vec<i64>>;
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<Self::Out> {
        let mut x = p.input(at.child("x"), Role::DataOwner, Some(&[5, -7, 9]), &Shape::new(&[3]))?;
        for _ in 0..3 {
            let low = p.local(&Local::Low, &[&x])?;
            x = p.relu(at.child("relu"), &low, Width::Wide)?;
        }
        let x = p.verify(at.child("verify"), x)?;
        p.open(at.child("open"), x, Role::DataOwner)
    }
}

/// What happens to the n-th frame from server 1 to server 0.
fn disturbed(n: usize, f: impl Fn(Frame) -> Vec<Frame> + Send + Sync + 'static) -> Vec<Result<()>> {
    let seen = AtomicUsize::new(0);
    let tap: Tap = Arc::new(move |from, to, frame| {
        let hit = (from, to) == (Endpoint(1), Endpoint(0)) && seen.fetch_add(1, Ordering::Relaxed) == n;
        if hit { f(frame) } else { vec![frame] }
    });
    let world = World { tap: Some(tap), deadline: Duration::from_millis(300), ..World::default() };
    let started = Instant::now();
    let outcome = world.run(&Relus);
    assert!(started.elapsed() < Duration::from_secs(5), "the session hung");
    outcome.ends.into_iter().map(|e| e.map(|_| ())).collect()
}

fn copy(frame: &Frame) -> Frame {
    Frame { header: frame.header, message: frame.message.clone() }
}

#[test]
fn undisturbed_it_works() {
    let (out, ..) = World::default().run(&Relus).unwrap();
    assert_eq!(out.as_deref(), Some(&[5, 0, 9][..]));
}

#[test]
fn a_lost_frame_at_every_place() {
    for n in 0..15 {
        let ends = disturbed(n, |_| vec![]);
        assert!(ends[0].is_err(), "server 0 did not notice frame {n} missing");
        assert!(ends[3].is_err(), "the client got an answer without frame {n}");
    }
}

#[test]
fn replayed_frames() {
    let ends = disturbed(4, |f| vec![copy(&f), f]);
    assert!(matches!(&ends[0], Err(Error::Net(NetError::Replayed { .. }))), "{:?}", ends[0]);
}

#[test]
fn frames_out_of_order() {
    let ends = disturbed(4, |mut f| {
        f.header.number += 1;
        vec![f]
    });
    assert!(matches!(&ends[0], Err(Error::Net(NetError::OutOfOrder { .. }))), "{:?}", ends[0]);
}

#[test]
fn frames_of_another_step() {
    let ends = disturbed(4, |mut f| {
        f.header.tag.0[0] ^= 1;
        vec![f]
    });
    assert!(matches!(&ends[0], Err(Error::Net(NetError::WrongStep { .. }))), "{:?}", ends[0]);
}

#[test]
fn frames_of_another_length() {
    for change in [0, 1] {
        let ends = disturbed(4, move |mut f| {
            match f.message.first_mut() {
                Some(Part::Wide(v)) if change == 0 => v.push(0),
                Some(Part::Narrow(v)) if change == 0 => v.push(0),
                _ => f.message.clear(),
            }
            vec![f]
        });
        assert!(matches!(&ends[0], Err(Error::Net(NetError::Length { .. }))), "{:?}", ends[0]);
    }
}

#[test]
fn parties_that_disagree() {
    let mut world = World { deadline: Duration::from_millis(500), ..World::default() };
    world.sessions[1].program = [9; 32];
    let ends = world.run(&Relus).ends;
    // Whoever reads the other's greeting first says so; the rest find that one gone.
    assert!(ends.iter().all(|e| e.is_err()));
    assert!(ends.iter().any(|e| matches!(e, Err(Error::Incompatible { what: "program", .. }))));
}
