//! Recorded heads, answers and programs of version 1: what this program says is what others understood when they were recorded, and what they said then is
//! understood. A change of any of them is a change of the version. `RECORD_VECTORS=1` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sordino_nn::graph::{Attribute, Dim, Graph, Node};
use sordino_nn::program::Program;
use sordino_nn::{Constant, Options, Range, Ranges, Tensor, compile, for_inference, import};
use sordino_service::Fault;
use sordino_service::names::Id;
use sordino_service::push::{JobHead, RowsHead, head};
use sordino_service::records::{Grant, State};
use sordino_service::shares::Made;
use sordino_service::trainings::{Spent, Stage};
use sordino_service::wire::{About, Ask, JobView, ModelView, TrainingView};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn recorded(name: &str, now: &str) -> String {
    let at = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    if std::env::var_os("RECORD_VECTORS").is_some() {
        std::fs::write(&at, now).unwrap();
    }
    std::fs::read_to_string(at).unwrap()
}

/// What is said now is what was recorded, and what was recorded is understood.
fn holds<T: Serialize + DeserializeOwned>(name: &str, value: &T) {
    let now = serde_json::to_string_pretty(value).unwrap() + "\n";
    let then = recorded(name, &now);
    assert_eq!(now, then, "{name}");
    let read: T = serde_json::from_str(&then).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<Value>(&then).unwrap(), "{name}");
}

/// What is refused: fields that are unknown, and fields that are missing.
fn refuses<T: Serialize + DeserializeOwned>(value: &T, optional: &[&str], strict: bool) {
    let whole = serde_json::to_value(value).unwrap();
    let fields: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
    for field in fields.iter().filter(|f| !optional.contains(&f.as_str())) {
        let mut less = whole.clone();
        less.as_object_mut().unwrap().remove(field);
        assert!(serde_json::from_value::<T>(less).is_err(), "without {field}");
        let mut odd = whole.clone();
        odd[field] = serde_json::json!([[]]);
        assert!(serde_json::from_value::<T>(odd).is_err(), "an odd {field}");
    }
    let mut more = whole;
    more["later"] = 1.into();
    assert_eq!(serde_json::from_value::<T>(more).is_err(), strict);
}

fn id(k: u8) -> Id {
    Id([k; 16])
}

#[test]
fn calls_and_answers() {
    let about = About { version: 1, program: "0.1.0".into(), party: 2, waiting: 7 };
    holds("about.json", &about);
    refuses(&about, &["waiting"], false);
    let ask = Ask { bytes: 123_456, memory: 7_890_123 };
    holds("ask.json", &ask);
    refuses(&ask, &[], true);
    let grant = Grant { queries: Some(100), seconds: Some(3600), receivers: vec!["carol".into()] };
    holds("grant.json", &grant);
    let view = ModelView {
        name: "digits".into(),
        owner: "alice".into(),
        upload: id(1),
        program: "ab".repeat(32),
        bytes: 1 << 20,
        created: 1_795_000_000,
        left: Some(3),
        barred: false,
        grants: BTreeMap::from([("bob".into(), grant)]),
        used: BTreeMap::from([("bob".into(), 97)]),
        training: None,
    };
    holds("model.json", &view);
    refuses(&view, &["left", "barred", "grants", "used"], false);
    let training = TrainingView {
        stage: Stage::Begun,
        iterations: 100,
        done: 17,
        rows: vec![("alice".into(), true), ("bob".into(), false)],
        note: Some("attempt 1 of 3 failed: server 1 does not answer".into()),
        spent: Spent { seconds: 1.5, payload: 1 << 20, wire: 1 << 21, rounds: 77 },
        losses: vec![(Made { session: id(3), run: 1, row: None }, 0, 10)],
        made: Some(Made { session: id(3), run: 17, row: None }),
    };
    holds("model-trained.json", &ModelView { training: Some(training.clone()), ..view });
    refuses(&training, &["note", "losses", "made"], false);
    let rows = RowsHead { id: id(4), upload: id(1), program: "ab".repeat(32), owner: 1 };
    holds("rows-head.json", &rows);
    refuses(&rows, &[], true);
    for (name, state, note) in [
        ("job-queued.json", State::Queued, Some("attempt 1 of 3 failed: server 1 does not answer".to_string())),
        ("job-done.json", State::Done, None),
    ] {
        let job = JobView {
            id: id(2),
            model: "digits".into(),
            upload: id(1),
            owner: "bob".into(),
            receiver: "carol".into(),
            program: "ab".repeat(32),
            state,
            created: 1_795_000_001,
            attempts: 1,
            note,
        };
        holds(name, &job);
        refuses(&job, &["note"], false);
    }
    let job = JobHead { id: id(2), model: "digits".into(), upload: id(1), receiver: "carol".into() };
    holds("job-head.json", &job);
    refuses(&job, &[], true);
    // As it travels: its length, then itself.
    let travels = head(&job).unwrap();
    let (length, json) = travels.split_at(8);
    assert_eq!(u64::from_le_bytes(length.try_into().unwrap()), json.len() as u64);
    assert_eq!(serde_json::from_slice::<JobHead>(json).unwrap().id, id(2));
    for kind in sordino_service::Blame::ALL {
        holds(&format!("fault-{}.json", kind.name()), &Fault::new(kind, "why"));
    }
}

/// A small network with a convolution, a maximum, a ReLU and a smooth function.
fn program(guard: bool) -> Program {
    let node = |name: &str, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]| Node {
        name: name.into(),
        op: op.into(),
        inputs: inputs.iter().map(|i| (*i).to_string()).collect(),
        outputs: vec![name.into()],
        attributes: attributes.iter().map(|(n, a)| ((*n).to_string(), a.clone())).collect(),
    };
    let weight = Tensor::new(&[2, 1, 3, 3], (0..18).map(|i| i as f32 / 16.0 - 0.5).collect());
    let graph = Graph {
        opset: 13,
        inputs: vec![("x".into(), [1, 1, 6, 6].map(Dim::Fixed).to_vec())],
        outputs: vec!["s".into()],
        constants: BTreeMap::from([("w".into(), Constant::Float(weight.into()))]),
        nodes: vec![
            node("c", "Conv", &["x", "w"], &[]),
            node("m", "MaxPool", &["c"], &[("kernel_shape", Attribute::Ints(vec![2, 2]))]),
            node("r", "Relu", &["m"], &[]),
            node("s", "Sigmoid", &["r"], &[]),
        ],
        ..Graph::default()
    };
    let net = for_inference(&import(&graph, 1).unwrap());
    let mut ranges = Ranges::default();
    for name in &net.names {
        ranges.values.insert(name.clone(), Range::within(2.0));
    }
    compile(&net, &ranges, &Options { guard, ..Options::default() }).unwrap().0
}

/// A stored program means what it meant: servers that find it in their stores, and owners who pushed it, have the same hash of it. What the compiler makes
/// may change; how it is written down may not.
#[test]
fn programs() {
    for (name, guard) in [("program.json", false), ("program-guarded.json", true)] {
        let made = program(guard);
        let hash = |p: &Program| p.hash().iter().map(|b| format!("{b:02x}")).collect::<String>();
        let then = recorded(name, &(serde_json::to_string_pretty(&made).unwrap() + "\n"));
        let read: Program = serde_json::from_str(&then).unwrap();
        read.check().unwrap();
        assert_eq!(read.guarded, usize::from(guard));
        assert_eq!(serde_json::to_string_pretty(&read).unwrap() + "\n", then, "{name}");
        assert_eq!(recorded(&format!("{name}.sha256"), &hash(&made)), hash(&read), "{name}");
    }
}
