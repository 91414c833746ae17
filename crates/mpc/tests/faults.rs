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
        let mut x = p.input(at.child("x"), Role::DataOwner(0), Some(&[5, -7, 9]), &Shape::new(&[3]))?;
        for _ in 0..3 {
            let low = p.local(&Local::Low, &[&x])?;
            x = p.relu(at.child("relu"), &low, Width::Wide)?;
        }
        let x = p.verify(at.child("verify"), x)?;
        p.open(at.child("open"), x, Role::Receiver)
    }
}

/// What happens to the n-th frame from server 1 to server 0.
fn disturbed(n: usize, f: impl Fn(Frame) -> Vec<Frame> + Send + Sync + 'static) -> Vec<Result<()>> {
    // Long enough for a busy machine: an end that fails lets go of its links, so nobody waits for it.
    disturbed_within(Duration::from_secs(20), n, f)
}

fn disturbed_within(
    deadline: Duration,
    n: usize,
    f: impl Fn(Frame) -> Vec<Frame> + Send + Sync + 'static,
) -> Vec<Result<()>> {
    let seen = AtomicUsize::new(0);
    let tap: Tap = Arc::new(move |from, to, frame| {
        let hit = (from, to) == (Endpoint(1), Endpoint(0)) && seen.fetch_add(1, Ordering::Relaxed) == n;
        if hit { f(frame) } else { vec![frame] }
    });
    let world = World { tap: Some(tap), deadline, ..World::default() };
    let started = Instant::now();
    let outcome = world.run(&Relus);
    assert!(started.elapsed() < 3 * deadline + Duration::from_secs(30), "the session hung");
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
        // However the others' waiting ends, both fail: that a deadline passes early does no harm here.
        let ends = disturbed_within(Duration::from_millis(300), n, |_| vec![]);
        assert!(ends[0].is_err(), "server 0 did not notice frame {n} missing");
        assert!(ends[4].is_err(), "the receiver got an answer without frame {n}");
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
    let mut world = World::default();
    world.sessions[1].program = [9; 32];
    let ends = world.run(&Relus).ends;
    // Whoever reads the other's greeting first says so; the rest find that one gone.
    assert!([0, 1, 2, 4].iter().all(|&i| ends[i].is_err()));
    assert!(ends.iter().any(|e| matches!(e, Err(Error::Incompatible { what: "program", .. }))));
}

/// A server that adds to what it sends of an opened value is found out by the receiver; one that adds to what it says of
/// the other's component too.
#[test]
fn a_changed_opening_is_no_answer() {
    for server in 0..3 {
        for part in 0..2 {
            let tap: Tap = Arc::new(move |from, to, mut frame| {
                if (from, to) == (Endpoint(server), Endpoint(4)) {
                    match &mut frame.message[part] {
                        Part::Narrow(v) => v[0] ^= 1,
                        Part::Wide(v) => v[0] ^= 1,
                    }
                }
                vec![frame]
            });
            let ends = World { tap: Some(tap), ..World::default() }.run(&Relus).ends;
            let Err(Error::Inconsistent { peers, .. }) = &ends[4] else { panic!("{:?}", ends[4].as_ref().err()) };
            assert!(peers.contains(&Endpoint(server)));
        }
    }
}

struct Agreeing;

impl Job for Agreeing {
    type Out = ();
    fn run<P: Protocol>(&self, p: &P, mut at: Step) -> Result<()> {
        let x = p.input(at.child("x"), Role::DataOwner(0), Some(&[5, -7, 9]), &Shape::new(&[3]))?;
        p.agree(at.child("agree"), &[])?;
        p.agree(at.child("again"), &[&x])
    }
}

/// An owner's shares that do not fit together are found out before anything is computed with them, whichever part differs
/// and whichever server is told so.
#[test]
fn shares_that_do_not_fit_together_are_refused() {
    assert!(World::default().run(&Agreeing).ends.iter().all(Result::is_ok));
    for server in 0..3 {
        for part in 0..2 {
            let tap: Tap = Arc::new(move |from, to, mut frame| {
                if (from, to) == (Endpoint(5), Endpoint(server)) {
                    match &mut frame.message[part] {
                        Part::Narrow(v) => v[0] ^= 1,
                        Part::Wide(v) => v[0] ^= 1,
                    }
                }
                vec![frame]
            });
            let ends = World { tap: Some(tap), ..World::default() }.run(&Agreeing).ends;
            assert!(ends.iter().any(|e| matches!(e, Err(Error::Inconsistent { .. }))), "server {server}, part {part}");
        }
    }
}
