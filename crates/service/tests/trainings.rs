//! Models that are trained on servers that stay: rows of several owners, checkpoints, restarts; and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Lesson, PATIENCE, World, compiled, lesson};
use sordino::Tensor;
use sordino::exec::{decode_states, encode_inputs};
use sordino::prepared::Trainer;
use sordino::session::Inputs;
use sordino::training::{Floats, model_states, trained};
use sordino_nn::{float, import};
use sordino_service::client::{Client, Known};
use sordino_service::config::Server;
use sordino_service::course::Course;
use sordino_service::push::{Public, RowsHead, head};
use sordino_service::records::{Grant, State};
use sordino_service::shares::share_inputs;
use sordino_service::trainings::Stage;
use sordino_service::wire::failure;
use sordino_service::{Blame, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ITERATIONS: usize = 10;
impl Lesson {
    fn push(&self, client: &Client, name: &str) -> Known {
        let grants = BTreeMap::from([("bob".into(), Grant::default())]);
        client.push(name, self.public.clone(), &self.prepared.secrets, Some(grants), &Arc::default()).unwrap();
        client.model(name).unwrap()
    }

    fn rows(&self, owner: usize) -> impl FnMut(usize) -> Result<Vec<Vec<i64>>, Fault> + Send {
        let mut trainer = Trainer::all(&self.prepared).remove(owner);
        move |run| trainer.inputs(run).map_err(|e| Fault::new(Blame::Usage, e.to_string()))
    }

    fn give(&self, client: &Client, model: &Known, owner: usize) -> Result<(), Fault> {
        client.give_rows(model, owner, self.rows(owner), &Arc::default())
    }

    /// Losses and states of the same training in floats.
    fn floats(&self) -> (Vec<f32>, Vec<Tensor>) {
        let mut floats = Floats::new(&self.prepared.step);
        let iterations = self.prepared.material.order.len();
        let losses =
            (0..iterations).map(|i| floats.run(self.prepared.material.inputs(i), None).unwrap().unwrap()).collect();
        (losses, floats.states)
    }

    /// All losses, each iteration once, are those of the training in floats; the states, too; and the model answers as it was trained to.
    fn is_learnt(&self, alice: &Client, model: &Known) {
        let name = &model.view.name;
        let training = alice.model(name).unwrap().view.training.unwrap();
        let mut losses = vec![];
        for (i, (made, before, count)) in training.losses.iter().enumerate() {
            assert_eq!(*before, losses.len(), "{training:?}");
            losses.extend(alice.losses(model, i, (*made, *count)).unwrap());
        }
        let (own, states) = self.floats();
        assert_eq!(losses.len(), own.len());
        for (private, float) in losses.iter().zip(&own) {
            assert!((private - float).abs() < 0.05 * float, "{losses:?} against {own:?}");
        }
        let opened = alice.trained(model).unwrap();
        let step = &self.prepared.step;
        let opened = decode_states(&self.prepared.program, step, &opened);
        assert_eq!(opened.len(), model_states(step));
        for (private, float) in opened.iter().zip(&states) {
            let far = private.data.iter().zip(&float.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 0.02, "a weight differs by {far}");
        }
        let digit = self.prepared.material.sets[0].samples[0].clone();
        let graph = trained(&self.graph, step, &opened).unwrap();
        let wanted = float::evaluate(&import(&graph, 1).unwrap(), std::slice::from_ref(&digit), |_, _| ()).unwrap();
        let inputs = encode_inputs(&model.public.program, &[digit]).unwrap();
        let job = alice.submit(model, &inputs, "alice").unwrap();
        assert_eq!(alice.wait(job, PATIENCE).unwrap().state, State::Done);
        let answered = alice.answer(job).unwrap();
        for (got, wanted) in answered.outputs[0].data.iter().zip(&wanted[0].data) {
            assert!((got - wanted).abs() < 0.01, "{got} where {wanted} is right");
        }
    }
}

/// Waits until all three servers know that a training is over.
fn over(client: &Client, name: &str) -> Stage {
    let until = Instant::now() + 2 * PATIENCE;
    loop {
        let views = client.views(name);
        if let Ok(views) = &views {
            let stages = views.each_ref().map(|v| v.training.as_ref().unwrap().stage.clone());
            let ended = |s: &Stage| matches!(s, Stage::Done | Stage::Failed(_));
            if matches!(stages[0], Stage::Failed(_)) || stages.iter().all(ended) {
                return failure(views).map_or(Stage::Done, |f| Stage::Failed(f.clone()));
            }
        }
        assert!(Instant::now() < until, "{views:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Small files of a server that nobody needs any more.
fn files(world: &World, party: usize) -> usize {
    let store = world.demo.configs[party].folder.join("store/shares");
    std::fs::read_dir(store).unwrap().count()
}

#[test]
fn two_owners_train_a_model_that_answers() {
    let world = World::with(|_| ());
    let (alice, bob) = (world.client("alice"), world.client("bob"));
    let lesson = lesson(["alice", "bob"], ITERATIONS);
    let model = lesson.push(&alice, "digits");
    lesson.give(&alice, &model, 0).unwrap();
    // It waits for bob, and does not answer before it is trained.
    let seen = bob.model("digits").unwrap();
    assert_eq!(seen.view.training.as_ref().unwrap().rows, [("alice".to_string(), true), ("bob".to_string(), false)]);
    let inputs = encode_inputs(&model.public.program, &lesson.prepared.material.sets[0].samples[..1]).unwrap();
    assert_eq!(bob.submit(&seen, &inputs, "bob").unwrap_err().kind, Blame::Conflict);
    assert_eq!(alice.trained(&model).unwrap_err().kind, Blame::Conflict);
    assert_eq!(lesson.give(&bob, &seen, 0).unwrap_err().kind, Blame::Refused);
    lesson.give(&bob, &seen, 1).unwrap();
    assert_eq!(over(&alice, "digits"), Stage::Done);
    lesson.is_learnt(&alice, &model);
    // What was opened is for its owner; whoever was granted it asks.
    assert_eq!(bob.trained(&seen).unwrap_err().kind, Blame::Refused);
    assert!(bob.model("digits").unwrap().view.training.unwrap().losses.is_empty());
    let job = bob.submit(&seen, &inputs, "bob").unwrap();
    assert_eq!(bob.wait(job, PATIENCE).unwrap().state, State::Done);
    // Rows, start and earlier checkpoints are gone; what is left is whole.
    let digits = world.demo.configs.each_ref().map(|c| c.folder.clone());
    drop(world.demo);
    for folder in digits {
        let checked = sordino_service::store::Store::open(&folder.join("store")).unwrap().check().unwrap();
        assert!(checked.faults.is_empty(), "{:?}", checked.faults);
    }
}

#[test]
fn servers_that_start_again_go_on_from_a_checkpoint() {
    let mut world = World::with(|config: &mut Server| config.limits.checkpoint_seconds = 0.0);
    let alice = world.client("alice");
    let lesson = lesson(["alice", "alice"], 2 * ITERATIONS);
    let model = lesson.push(&alice, "digits");
    for owner in 0..2 {
        lesson.give(&alice, &model, owner).unwrap();
    }
    let done = |party: usize| alice.views("digits").ok().map_or(0, |v| v[party].training.as_ref().unwrap().done);
    for (party, from) in [(1, 1), (0, 6), (2, 11)] {
        let until = Instant::now() + PATIENCE;
        while done(0) < from && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        world.demo.restart(party).unwrap();
    }
    assert_eq!(over(&alice, "digits"), Stage::Done);
    lesson.is_learnt(&alice, &model);
    // What it was made from is gone once nobody reads it.
    alice.remove("digits").unwrap();
    assert_eq!([0, 1, 2].map(|party| files(&world, party)), [0; 3]);
}

#[test]
fn trainings_and_queries_take_turns() {
    let world = World::with(|config: &mut Server| config.limits.sessions = 1);
    let alice = world.client("alice");
    let lesson = lesson(["alice", "alice"], 4 * ITERATIONS);
    let model = lesson.push(&alice, "digits");
    for owner in 0..2 {
        lesson.give(&alice, &model, owner).unwrap();
    }
    let (public, secrets) = compiled();
    alice.push("other", public, &secrets, None, &Arc::default()).unwrap();
    assert_eq!(common::asked(&alice, "other"), 7);
    assert_eq!(over(&alice, "digits"), Stage::Done);
    lesson.is_learnt(&alice, &model);
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::with(|_| ());
    let (alice, bob) = (world.client("alice"), world.client("bob"));
    let lesson = lesson(["alice", "bob"], ITERATIONS);
    // What no server runs.
    let course = || lesson.public.training.clone().unwrap();
    let mut bad: Vec<(Public, &str)> = vec![];
    let mut with =
        |course: Option<Course>, says| bad.push((Public { training: course, ..lesson.public.clone() }, says));
    with(None, "no inference");
    with(Some(Course { owners: vec!["alice".into()], samples: vec![12], ..course() }), "other owners");
    with(Some(Course { owners: vec!["alice".into(), "b b".into()], ..course() }), "no name");
    with(Some(Course { iterations: 0, ..course() }), "iterations");
    with(Some(Course { opened: 1000, ..course() }), "more states");
    with(Some(Course { step: lesson.public.program.clone(), ..course() }), "other owners");
    let mut other = course();
    other.step.states.pop();
    with(Some(other), "cannot be taken");
    // A row as the loss, order that hangs, a batch that is another.
    let mut tells = course();
    tells.step.outputs[0].slot = tells.step.inputs[1].slot;
    tells.step.outputs[0].dims = tells.step.inputs[1].dims.clone();
    with(Some(tells), "more than a loss");
    with(Some(Course { samples: vec![1 << 62, 8], batch: 1 << 40, ..course() }), "other rows");
    with(Some(Course { samples: vec![1 << 26, 8], ..course() }), "other rows");
    with(Some(Course { batch: 5, ..course() }), "other rows");
    with(Some(Course { samples: vec![2, 18], ..course() }), "other rows");
    for (public, says) in bad {
        let refused = alice.push("bad", public, &lesson.prepared.secrets, None, &Arc::default()).unwrap_err();
        assert!(refused.kind == Blame::Usage && refused.why.contains(says), "{refused} instead of {says}");
    }
    let model = lesson.push(&alice, "digits");
    // A plain model takes no rows.
    let (public, secrets) = compiled();
    alice.push("plain", public, &secrets, None, &Arc::default()).unwrap();
    let plain = alice.model("plain").unwrap();
    let plain =
        head(&RowsHead { id: model.view.upload, upload: plain.view.upload, program: plain.view.program, owner: 0 });
    let refused = alice.raw(0, "PUT", "/v1/models/plain/rows", plain.unwrap()).unwrap_err();
    assert!(refused.why.contains("not trained"), "{refused}");
    // Rows that are too short, too long, of nobody, of another upload, of somebody else.
    let sets = <[common::Shared; 3]>::default();
    share_inputs(&course().step, 1, ITERATIONS, lesson.rows(1), sets.clone()).unwrap();
    let set = |party: usize| sets[party].0.lock().unwrap().clone();
    let rows = |change: &dyn Fn(&mut RowsHead)| {
        let mut rows = RowsHead {
            id: model.view.upload,
            upload: model.view.upload,
            program: model.view.program.clone(),
            owner: 1,
        };
        change(&mut rows);
        head(&rows).unwrap()
    };
    let give = |body: Vec<u8>| bob.raw(0, "PUT", "/v1/models/digits/rows", body).unwrap_err();
    assert!(give([rows(&|_| ()), set(0)[1..].to_vec()].concat()).why.contains("shorter"));
    assert!(give([rows(&|_| ()), set(0), vec![0]].concat()).why.contains("longer"));
    assert_eq!(give(rows(&|r| r.owner = 9)).kind, Blame::Refused);
    assert_eq!(give(rows(&|r| r.owner = 0)).kind, Blame::Refused);
    assert_eq!(give(rows(&|r| r.upload.0[0] ^= 1)).kind, Blame::Conflict);
    assert_eq!(give(rows(&|r| r.program = "ab".repeat(32))).kind, Blame::Conflict);
    // Rows that differ between servers are not computed with: the training fails, and says so, at all of them.
    lesson.give(&alice, &model, 0).unwrap();
    for party in 0..3 {
        let mut shares = set(party);
        let last = shares.len() - 1;
        shares[last] ^= u8::from(party == 1);
        bob.raw(party, "PUT", "/v1/models/digits/rows", [rows(&|_| ()), shares].concat()).unwrap();
    }
    match over(&alice, "digits") {
        Stage::Failed(fault) => assert!(fault.why.contains("the rows of bob"), "{fault}"),
        stage => panic!("{stage:?}"),
    }
    assert_eq!(lesson.give(&bob, &bob.model("digits").unwrap(), 1).unwrap_err().kind, Blame::Conflict);
    // Bob takes his rows back, and gives them rightly; alice has it tried again.
    bob.withdraw_rows("digits").unwrap();
    assert_eq!(bob.withdraw_rows("digits").unwrap_err().kind, Blame::Conflict);
    assert_eq!(bob.try_training_again("digits").unwrap_err().kind, Blame::Refused);
    alice.try_training_again("digits").unwrap();
    lesson.give(&bob, &bob.model("digits").unwrap(), 1).unwrap();
    assert_eq!(over(&alice, "digits"), Stage::Done);
    lesson.is_learnt(&alice, &model);
    // It is pushed anew, and trained.
    let model = lesson.push(&alice, "digits");
    lesson.give(&alice, &model, 0).unwrap();
    let seen = bob.model("digits").unwrap();
    // Rows may be given twice until it begins.
    lesson.give(&bob, &seen, 1).unwrap();
    let _ = lesson.give(&bob, &seen, 1);
    assert_eq!(over(&alice, "digits"), Stage::Done);
    lesson.is_learnt(&alice, &model);
}

#[test]
fn a_training_that_cannot_be_done_fails() {
    let world = World::with(|config: &mut Server| config.limits.run_seconds = 0.001);
    let alice = world.client("alice");
    let lesson = lesson(["alice", "alice"], ITERATIONS);
    let model = lesson.push(&alice, "digits");
    for owner in 0..2 {
        lesson.give(&alice, &model, owner).unwrap();
    }
    let Stage::Failed(fault) = over(&alice, "digits") else { panic!("it takes longer than a millisecond") };
    assert_eq!(fault.kind, Blame::Limit, "{fault}");
    alice.remove("digits").unwrap();
    assert!(alice.models().unwrap().is_empty());
}
