//! What clients with certificates tried, and servers that stopped at a bad moment: nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PATIENCE, ROWS, Shared, World, asked, best, bobs, compiled, inputs_for, share_inputs};
use sordino::tls::Identity;
use sordino_service::Blame;
use sordino_service::config::Files;
use sordino_service::names::Id;
use sordino_service::push::{JobHead, ModelHead, head};
use sordino_service::records::State;
use sordino_service::shares::{What, share_bytes, share_weights};
use sordino_service::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn an_upload_is_told_apart_from_every_other() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", bobs(None));
    let bob = world.client("bob");
    let theirs = bob.model("mnist").unwrap().view.upload;
    // Bob pushes a model of his own under the id of alice's upload.
    let (public, secrets) = compiled();
    let sets = [(); 3].map(|()| Shared::default());
    share_weights(&public.program, &secrets, sets.clone()).unwrap();
    let model = ModelHead { upload: theirs, grants: None, public };
    for (party, set) in sets.iter().enumerate() {
        let body = [head(&model).unwrap(), set.0.lock().unwrap().clone()].concat();
        let refused = bob.raw(party, "PUT", "/v1/models/evil", body.clone()).unwrap_err();
        assert_eq!(refused.kind, Blame::Conflict, "{refused}");
        // His own name does not help, and neither does alice's.
        assert_eq!(bob.raw(party, "PUT", "/v1/models/mnist", body).unwrap_err().kind, Blame::Conflict);
    }
    assert_eq!(asked(&bob, "mnist"), 7);
    // Nobody changes, or removes, what belongs to somebody else.
    for call in [
        ("DELETE", "/v1/models/mnist"),
        ("PUT", "/v1/models/mnist/grants/bob"),
        ("DELETE", "/v1/models/mnist/grants/bob"),
    ] {
        let refused = bob.raw(1, call.0, call.1, b"{}".to_vec()).unwrap_err();
        assert_eq!(refused.kind, Blame::Refused, "{refused}");
    }
    assert_eq!(asked(&alice, "mnist"), 7);
}

fn identity(world: &World, who: &str) -> Identity {
    let files = Files {
        certificate: format!("{who}.pem").into(),
        key: format!("{who}.key").into(),
        authorities: "ca.pem".into(),
    };
    files.identity(&world.demo.folder().join(who)).unwrap()
}

fn dial(world: &World, who: &str, request: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let config = Arc::new(identity(world, who).dialler().unwrap());
    let connection = rustls::ClientConnection::new(config, "server-0.sordino".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(world.demo.servers[0].as_ref().unwrap().clients).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    stream
}

#[test]
fn bodies_that_never_come_hold_nothing() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let mut open = vec![];
    for call in ["POST /v1/models/x/ask", "POST /v1/jobs", "PUT /v1/models/mine", "PUT /v1/models/x/grants/y"] {
        for _ in 0..25 {
            open.push(dial(&world, "bob", &format!("{call} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")));
        }
    }
    let before = Instant::now();
    let mut healthy = dial(&world, "ops", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = [0; 12];
    healthy.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(asked(&alice, "mnist"), 7);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    // A head that promises more than a job's has is refused before it is read.
    let refused = alice.raw(0, "POST", "/v1/jobs", [&(1u64 << 20).to_le_bytes()[..], &[0; 100]].concat()).unwrap_err();
    assert_eq!(refused.kind, Blame::Limit, "{refused}");
}

#[test]
fn halves_of_jobs_stall_nobody() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", bobs(Some(60)));
    let bob = world.client("bob");
    let model = bob.model("mnist").unwrap();
    let set = Shared::default();
    let sets = [set.clone(), Shared::default(), Shared::default()];
    share_inputs(&model.public.program, &inputs_for(&model), sets);
    let half = || {
        let job = JobHead {
            id: Id::fresh().unwrap(),
            model: "mnist".into(),
            upload: model.view.upload,
            receiver: "bob".into(),
        };
        let body = [head(&job).unwrap(), set.0.lock().unwrap().clone()].concat();
        bob.raw(0, "POST", "/v1/jobs", body).map(|_| job.id)
    };
    assert_eq!(set.0.lock().unwrap().len() as u64, share_bytes(&model.public.program, What::Inputs, 0));
    let halves: Vec<Id> = (0..60).map(|_| half().unwrap()).collect();
    // Those that wait count.
    assert_eq!(half().unwrap_err().kind, Blame::Limit);
    let before = Instant::now();
    for _ in 0..3 {
        assert_eq!(asked(&alice, "mnist"), 7);
    }
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(bob.job(halves[0]).unwrap().state, State::Queued);
}

#[test]
fn jobs_that_wait_run_together_and_stay_apart() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", bobs(None));
    let bob = world.client("bob");
    assert_eq!(asked(&bob, "mnist"), 7);
    let model = alice.model("mnist").unwrap();
    // Different inputs: the digit, and shades of it that answer otherwise.
    let inputs: Vec<Vec<Vec<i64>>> = (0..40)
        .map(|k| inputs_for(&model).into_iter().map(|x| x.iter().map(|v| v * (k % 5) / 4).collect()).collect())
        .collect();
    let alone: Vec<Vec<f32>> = (0..5)
        .map(|k| {
            let job = alice.submit(&model, &inputs[k], "alice").unwrap();
            alice.wait(job, PATIENCE).unwrap();
            alice.answer(job).unwrap().scores()
        })
        .collect();
    assert!(alone[0] != alone[4]);
    let jobs: Vec<(Id, bool)> = inputs
        .iter()
        .enumerate()
        .map(|(k, x)| {
            let (who, name) = if k % 3 == 0 { (&bob, "bob") } else { (&alice, "alice") };
            (who.submit(&model, x, name).unwrap(), k % 3 == 0)
        })
        .collect();
    for (k, (job, of_bob)) in jobs.into_iter().enumerate() {
        let who = if of_bob { &bob } else { &alice };
        assert_eq!(who.wait(job, PATIENCE).unwrap().state, State::Done);
        let scores = who.answer_of(job, &model).unwrap().remove(0).data;
        // Within the rounding of truncations.
        let far = scores.iter().zip(&alone[k % 5]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-3, "{far}");
    }
    let text = world.demo.servers[0].as_ref().unwrap().engine().metrics.text(&Default::default());
    let count = |name: &str| -> f64 {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (jobs, runs) = (count("sordino_run_jobs_total"), count("sordino_run_seconds_count"));
    assert!(jobs == 46.0 && runs < jobs && runs >= jobs / ROWS as f64, "{jobs} jobs in {runs} runs");
    // Whoever shares a run is one client with one receiver.
    let mut runs: BTreeMap<(Id, u64), BTreeSet<(String, String)>> = BTreeMap::new();
    for job in world.demo.servers[1].as_ref().unwrap().engine().store.jobs().unwrap() {
        let made = job.answer.unwrap().made;
        runs.entry((made.session, made.run)).or_default().insert((job.owner, job.receiver));
    }
    assert!(runs.len() > 7 && runs.values().all(|whose| whose.len() == 1));
}

/// A run that takes too long fails its job, once, and the servers go on.
#[test]
fn a_run_has_a_limited_time() {
    let world = World::with(|config| config.limits.run_seconds = 1e-3);
    let alice = world.push("mnist", BTreeMap::new());
    let model = alice.model("mnist").unwrap();
    for _ in 0..3 {
        let job = alice.submit(&model, &inputs_for(&model), "alice").unwrap();
        let view = alice.wait(job, PATIENCE).unwrap();
        let State::Failed(fault) = &view.state else { panic!("{view:?}") };
        // Whichever server notices first; one that was told by its peers hears it when it asks again.
        let said = ["longer than the 0.001 seconds", "refuses it"].iter().any(|why| fault.why.contains(why));
        assert!(fault.kind == Blame::Limit && said && view.attempts <= 2, "{view:?}");
    }
}

/// Jobs whose values leave their range have no answer, and those that ran beside them do.
#[test]
fn a_job_out_of_range_spoils_no_other() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let model = alice.model("mnist").unwrap();
    let good = inputs_for(&model);
    // Five times what pixels are, past the check that a client makes of its own inputs.
    let bad: Vec<Vec<i64>> = good.iter().map(|x| x.iter().map(|v| v * 5).collect()).collect();
    let jobs: Vec<Id> =
        (0..60).map(|k| alice.submit(&model, if k % 4 == 1 { &bad } else { &good }, "alice").unwrap()).collect();
    for (k, job) in jobs.iter().enumerate() {
        assert_eq!(alice.wait(*job, PATIENCE).unwrap().state, State::Done);
        match alice.answer(*job) {
            Ok(answer) => assert!(k % 4 != 1 && best(&answer.scores()) == 7, "{k}"),
            Err(e) => assert!(k % 4 == 1 && e.to_string().contains("left the range"), "{k}: {e}"),
        }
    }
    let runs: BTreeSet<(Id, u64)> = world.demo.servers[0]
        .as_ref()
        .unwrap()
        .engine()
        .store
        .jobs()
        .unwrap()
        .into_iter()
        .map(|j| j.answer.unwrap().made)
        .map(|m| (m.session, m.run))
        .collect();
    assert!(runs.len() < jobs.len(), "none ran beside another");
}

#[test]
fn jobs_that_are_swapped_under_way_harm_nobody_else() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", bobs(None));
    let bob = world.client("bob");
    let model = bob.model("mnist").unwrap();
    let inputs = inputs_for(&model);
    assert_eq!(asked(&alice, "mnist"), 7);
    let sets = || {
        let sets = [(); 3].map(|()| Shared::default());
        share_inputs(&model.public.program, &inputs, sets.clone());
        sets.map(|s| s.0.lock().unwrap().clone())
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Bob takes his jobs back at one server and puts others in their place, as fast as he can.
        let swapping = std::thread::Builder::new().spawn_scoped(scope, || {
            let mut swapped = 0;
            while !stop.load(Ordering::Relaxed) {
                let id = Id::fresh().unwrap();
                let job = JobHead { id, model: "mnist".into(), upload: model.view.upload, receiver: "bob".into() };
                let body = |set: &[u8]| [head(&job).unwrap(), set.to_vec()].concat();
                let (first, other) = (sets(), sets());
                for party in [1, 2, 0] {
                    bob.raw(party, "POST", "/v1/jobs", body(&first[party])).unwrap();
                }
                let gone = bob.raw(1, "DELETE", &format!("/v1/jobs/{id}"), vec![]);
                let again = bob.raw(1, "POST", "/v1/jobs", body(&other[1]));
                swapped += usize::from(gone.is_ok() && again.is_ok());
                let _ = bob.forget(id);
            }
            swapped
        });
        let swapping = swapping.unwrap();
        for _ in 0..60 {
            assert_eq!(asked(&alice, "mnist"), 7);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(swapping.join().unwrap() > 0);
    });
    // No session ended for it.
    let text = world.demo.servers[0].as_ref().unwrap().engine().metrics.text(&Default::default());
    let failed = text.lines().filter(|l| l.starts_with("sordino_sessions_failed_total"));
    assert!(
        failed.clone().count() > 5 && failed.clone().all(|l| l.ends_with(" 0")),
        "{:?}",
        failed.collect::<Vec<_>>()
    );
}

/// Changes a server's records while it is stopped.
fn amend(world: &mut World, party: usize, job: Id, state: State) {
    world.demo.stop(party);
    let store = Store::open(&world.demo.configs[party].folder.join("store")).unwrap();
    store
        .change_job(job, |job| {
            job.state = state;
            Ok(())
        })
        .unwrap();
    drop(store);
    world.demo.restart(party).unwrap();
}

#[test]
fn an_answer_that_all_have_is_never_lost() {
    let mut world = World::with(|_| ());
    let alice = world.push("mnist", bobs(Some(3)));
    let bob = world.client("bob");
    let model = bob.model("mnist").unwrap();
    let answered = |job| {
        assert_eq!(bob.wait(job, PATIENCE).unwrap().state, State::Done);
        best(&bob.answer(job).unwrap().scores())
    };
    // Whichever servers stopped after all had their shares and before they knew that: each alone, and all of them.
    for parties in [&[1][..], &[0], &[0, 2], &[0, 1, 2]] {
        let job = alice.submit(&model, &inputs_for(&model), "bob").unwrap();
        assert_eq!(answered(job), 7);
        for party in parties {
            amend(&mut world, *party, job, State::Running);
        }
        assert_eq!(answered(job), 7);
        // It was not run again, and whoever asks next is answered.
        assert_eq!(bob.job(job).unwrap().attempts, 1);
        assert_eq!(asked(&alice, "mnist"), 7);
    }
    // A model that is pushed anew takes its answers not away, only what waits.
    let job = alice.submit(&model, &inputs_for(&model), "bob").unwrap();
    assert_eq!(answered(job), 7);
    let (public, secrets) = compiled();
    alice.push("mnist", public, &secrets, None, &Arc::default()).unwrap();
    assert_eq!(answered(job), 7);
    // Who may ask stays as it was.
    let refused = bob.submit(&model, &inputs_for(&model), "bob").unwrap_err();
    assert_eq!(refused.kind, Blame::Conflict, "{refused}");
    alice.remove("mnist").unwrap();
    assert_eq!(answered(job), 7);
    bob.forget(job).unwrap();
    for party in 0..3 {
        world.demo.stop(party);
        let store = Store::open(&world.demo.configs[party].folder.join("store")).unwrap();
        assert!(store.check().unwrap().faults.is_empty());
    }
}
