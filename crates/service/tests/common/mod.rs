//! Three servers in this process, their clients, and a model that reads digits.

#![allow(dead_code, reason = "not every test needs all of it")]

use sordino::data::{self, Set};
use sordino::exec::encode_inputs;
use sordino::inputs::{self, Preprocess};
use sordino::nn::training::{Loss, Optimiser, Rates, Rule};
use sordino::prepared::{Material, Prepared};
use sordino::training::{Length, model_states, order};
use sordino::{Graph, Options, Tensor, model, zoo};
use sordino_nn::program::{Program, Secrets};
use sordino_service::client::{Client, Known};
use sordino_service::config::{Cluster, Server};
use sordino_service::course::Course;
use sordino_service::demo::Demo;
use sordino_service::push::{Beside, Public};
use sordino_service::records::{Grant, State};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn asset(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets")).join(name)
}

pub(crate) fn digit() -> Vec<Tensor> {
    let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    inputs::read(&[asset("digit-7.png")], &[1, 1, 28, 28], &preprocess).unwrap()
}

pub(crate) fn compiled() -> (Public, Secrets) {
    let graph = model::read(&asset("mnist.onnx")).unwrap();
    let ranges = model::calibrate(&graph, &[digit()]).unwrap();
    let (typed, options) = (model::typed(&graph, 1).unwrap(), Options::default());
    let (program, secrets) = model::compiled(&typed, &ranges, &options).unwrap();
    let many = model::typed(&graph, ROWS).unwrap();
    let (many, same) = sordino_nn::compile_beside(&many.passed, ROWS, &ranges, &options).unwrap().unwrap();
    assert!(secrets.0.iter().zip(&same.0).all(|(a, b)| a.encoded() == b.encoded()));
    let beside = Some(Beside { rows: ROWS, program: many });
    (Public { program, preprocess: Preprocess::default(), class: false, beside, training: None }, secrets)
}

/// Jobs that run together.
pub(crate) const ROWS: usize = 8;

pub(crate) struct World {
    pub(crate) demo: Demo,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn with(change: impl Fn(&mut Server)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let quick = |config: &mut Server| {
            config.limits.peer_seconds = 5.0;
            change(config);
        };
        let demo = Demo::start(&folder.path().join("demo"), quick).unwrap();
        Self { demo, folder }
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        Client::new(&Cluster::read(&self.demo.cluster(name)).unwrap()).unwrap()
    }

    pub(crate) fn push(&self, name: &str, grants: BTreeMap<String, Grant>) -> Client {
        let (public, secrets) = compiled();
        let alice = self.client("alice");
        alice.push(name, public, &secrets, Some(grants), &Arc::default()).unwrap();
        alice
    }
}

pub(crate) fn inputs_for(model: &Known) -> Vec<Vec<i64>> {
    encode_inputs(&model.public.program, &digit()).unwrap()
}

pub(crate) fn best(scores: &[f32]) -> usize {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap()
}

/// The share sets of one input.
pub(crate) fn share_inputs<W: Write + Send + 'static>(program: &Program, inputs: &[Vec<i64>], out: [W; 3]) {
    sordino_service::shares::share_inputs(program, 0, 1, |_| Ok(inputs.to_vec()), out).unwrap();
}

/// Asks the digit, and waits for the answer.
pub(crate) fn asked(client: &Client, name: &str) -> usize {
    let model = client.model(name).unwrap();
    let job = client.submit(&model, &inputs_for(&model), client.name()).unwrap();
    let view = client.wait(job, PATIENCE).unwrap();
    assert_eq!(view.state, State::Done, "{view:?}");
    best(&client.answer(job).unwrap().scores())
}

/// Bytes that several writers share.
#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn bobs(queries: Option<u64>) -> BTreeMap<String, Grant> {
    BTreeMap::from([("bob".into(), Grant { queries, ..Grant::default() })])
}

/// Samples of an iteration.
pub(crate) const BATCH: usize = 4;
/// Samples of alice and of bob.
pub(crate) const SAMPLES: [usize; 2] = [12, 8];

/// A training of LeNet on digits of two owners.
pub(crate) struct Lesson {
    pub(crate) graph: Graph,
    pub(crate) prepared: Prepared,
    pub(crate) public: Public,
}

pub(crate) fn lesson(owners: [&str; 2], iterations: usize) -> Lesson {
    let graph = zoo::build("lenet", 0, zoo::Pool::Average).unwrap();
    let labels = asset("digits-labels-idx1-ubyte.gz");
    let preprocess = Preprocess::default();
    let digits = [asset("digits-idx3-ubyte.gz")];
    let all = data::read(&digits, Some(&labels), &[1, 1, 28, 28], 10, &preprocess).unwrap().train;
    let data::Labels::Classes(classes) = &all.labels else { panic!("digits have classes") };
    let part = |from: usize, n: usize| {
        let labels = data::Labels::Classes(classes[from..from + n].to_vec());
        Set::new(all.samples[from..from + n].to_vec(), labels, 10).unwrap()
    };
    let sets = vec![part(0, SAMPLES[0]), part(SAMPLES[0], SAMPLES[1])];
    let length = Length { iterations: Some(iterations), ..Length::default() };
    let order = order(&SAMPLES, BATCH, length, 5).unwrap();
    let material = Material { sets, order, answers: 10, seed: 5, key: [0; 32].into(), preprocess };
    let (optimiser, rates) = (Optimiser::Sgd { momentum: 0.9 }, Rates(vec![0.01]));
    let rule =
        Rule { loss: Loss::CrossEntropy, optimiser, rates, decay: 0.0, weighted: false, tell_loss: true, seed: 0 };
    let prepared = Prepared::new(&graph, material, &rule, 8.0, 10).unwrap();
    let course = Course {
        step: prepared.program.clone(),
        owners: owners.map(String::from).to_vec(),
        samples: SAMPLES.to_vec(),
        iterations,
        batch: BATCH,
        seed: 5,
        opened: model_states(&prepared.step),
    };
    let (program, preprocess) = (prepared.answer.program.clone(), Preprocess::default());
    let public = Public { program, preprocess, class: false, beside: None, training: Some(course) };
    Lesson { graph, prepared, public }
}
