//! Three servers and their clients: a model is pushed, asked, and answers; everything else is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PATIENCE, World, asked, best, inputs_for};
use sordino_service::Blame;
use sordino_service::records::{Grant, State};
use std::collections::BTreeMap;

fn grants(client: &str, grant: Grant) -> BTreeMap<String, Grant> {
    BTreeMap::from([(client.to_string(), grant)])
}

#[test]
fn a_model_is_pushed_and_asked() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    alice.about().unwrap();
    for _ in 0..3 {
        assert_eq!(asked(&alice, "mnist"), 7);
    }
    assert_eq!(alice.jobs().unwrap().len(), 3);
    let job = alice.jobs().unwrap()[0].id;
    alice.forget(job).unwrap();
    assert_eq!(alice.jobs().unwrap().len(), 2);
    assert_eq!(alice.answer(job).err().unwrap().kind, Blame::Unknown);
    alice.remove("mnist").unwrap();
    assert!(alice.models().unwrap().is_empty());
}

#[test]
fn others_ask_what_they_were_allowed_and_no_more() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let bob = world.client("bob");
    // Grants of later hold in a session that has begun.
    assert_eq!(asked(&alice, "mnist"), 7);
    assert_eq!(bob.model("mnist").err().unwrap().kind, Blame::Unknown);
    assert!(bob.models().unwrap().is_empty());
    alice.allow("mnist", "bob", &Grant { queries: Some(2), ..Grant::default() }).unwrap();
    let model = bob.model("mnist").unwrap();
    assert_eq!(model.view.left, Some(2));
    // Whom bob may not send answers to.
    let refused = bob.submit(&model, &inputs_for(&model), "alice").unwrap_err();
    assert_eq!(refused.kind, Blame::Refused, "{refused}");
    assert_eq!(asked(&bob, "mnist"), 7);
    let job = bob.submit(&model, &inputs_for(&model), "bob").unwrap();
    bob.wait(job, PATIENCE).unwrap();
    // It is bob's, and nobody else's.
    assert_eq!(alice.job(job).unwrap_err().kind, Blame::Unknown);
    assert_eq!(alice.forget(job).unwrap_err().kind, Blame::Unknown);
    let refused = bob.submit(&model, &inputs_for(&model), "bob").unwrap_err();
    assert_eq!(refused.kind, Blame::Limit, "{refused}");
    alice.allow("mnist", "bob", &Grant { receivers: vec!["alice".into()], ..Grant::default() }).unwrap();
    let job = bob.submit(&model, &inputs_for(&model), "alice").unwrap();
    bob.wait(job, PATIENCE).unwrap();
    assert_eq!(bob.answer(job).err().unwrap().kind, Blame::Refused);
    assert_eq!(best(&alice.answer(job).unwrap().scores()), 7);
    // Only its owner changes it.
    assert_eq!(bob.remove("mnist").unwrap_err().kind, Blame::Refused);
    assert_eq!(bob.allow("mnist", "bob", &Grant::default()).unwrap_err().kind, Blame::Refused);
    alice.disallow("mnist", "bob").unwrap();
    assert_eq!(bob.submit(&model, &inputs_for(&model), "bob").unwrap_err().kind, Blame::Unknown);
}

#[test]
fn servers_that_start_again_lose_nothing() {
    let mut world = World::with(|_| ());
    let alice = world.push("mnist", grants("bob", Grant::default()));
    let model = alice.model("mnist").unwrap();
    let jobs: Vec<_> = (0..10).map(|_| alice.submit(&model, &inputs_for(&model), "alice").unwrap()).collect();
    for party in [1, 0, 2] {
        world.demo.restart(party).unwrap();
    }
    for job in jobs {
        assert_eq!(alice.wait(job, PATIENCE).unwrap().state, State::Done);
        assert_eq!(best(&alice.answer(job).unwrap().scores()), 7);
    }
}

/// Each server computes on what it has: the others cannot tell.
#[test]
fn servers_compute_on_cards_too() {
    if sordino_testkit::cards::mixtures().is_empty() {
        return;
    }
    let world = World::with(|config| {
        if config.party > 0 {
            config.device = "opencl".parse().unwrap();
        }
    });
    let alice = world.push("mnist", BTreeMap::new());
    for _ in 0..2 {
        assert_eq!(asked(&alice, "mnist"), 7);
    }
}

#[test]
fn a_card_that_is_not_there_is_said_when_a_server_starts() {
    let mut world = World::with(|_| ());
    let refused = world.demo.restart_with(1, |config| config.device = "opencl:999".parse().unwrap()).unwrap_err();
    assert!(refused.kind == Blame::Usage && refused.why.starts_with("device: "), "{refused}");
    // It was not there, and the others are: with the processor the cluster is whole.
    world.demo.restart_with(1, |config| config.device = "cpu".parse().unwrap()).unwrap();
    let alice = world.push("mnist", BTreeMap::new());
    assert_eq!(asked(&alice, "mnist"), 7);
}
