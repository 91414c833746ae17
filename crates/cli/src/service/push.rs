//! `sordino push`.

use super::To;
use crate::{Compile, Open, human_bytes, json, of_model, print};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sordino::inputs::Preprocess;
use sordino::model::{self, Calibration};
use sordino::{Error, Result};
use sordino_mpc::Kind;
use sordino_nn::best::{Scores, answer_best};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Graph, Options, Ranges};
use sordino_service::client::Client;
use sordino_service::config::Cluster;
use sordino_service::names::Id;
use sordino_service::push::{Beside, Public};
use sordino_service::records::Grant;
use sordino_service::shares::{What, share_bytes};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `push`.
#[derive(Args)]
pub(crate) struct Push {
    /// The model, an ONNX file. Its calibration must stand beside it, or be given; preprocessing may stand beside it in MODEL.toml.
    model: PathBuf,
    #[command(flatten)]
    to: To,
    /// Its name at the servers [default: the file's name without its ending].
    #[arg(long)]
    name: Option<String>,
    /// Clients who may ask it, separated by commas; with a number of queries where that is limited, such as bob=1000. A model that is pushed anew keeps its
    /// clients where nothing is said.
    #[arg(long, value_delimiter = ',', value_name = "CLIENT[=QUERIES]", value_parser = granted)]
    allow: Vec<(String, Option<u64>)>,
    #[command(flatten)]
    open: Open,
    #[command(flatten)]
    compile: Compile,
    #[command(flatten)]
    preprocess: Preprocess,
    /// What is opened: scores, all of them; class, the number of the best one alone, which tells less of the model; or topN, such as top5,
    /// the numbers of the N best.
    #[arg(long, default_value = "scores", value_parser = opened)]
    answer: Answer,
    /// Jobs that servers may run together when several wait; 1 for none, which saves their memory of a second copy of the weights [default: 16 for small
    /// models, else 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
    together: Option<u8>,
    /// Show what would be public and how much would be sent, and send nothing.
    #[arg(long)]
    show: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A client, with a number of queries where that is limited.
pub(crate) fn granted(text: &str) -> std::result::Result<(String, Option<u64>), String> {
    let (name, queries) = match text.split_once('=') {
        None => (text, None),
        Some((name, n)) => match n.parse() {
            Ok(n) if n > 0 => (name, Some(n)),
            _ => return Err(format!("{n} is no number of queries")),
        },
    };
    sordino_service::names::client(name).map_err(|e| e.why)?;
    Ok((name.into(), queries))
}

/// What clients are granted, if any are named.
pub(crate) fn grants(allow: &[(String, Option<u64>)]) -> Option<BTreeMap<String, Grant>> {
    let grant = |queries: &Option<u64>| Grant { queries: *queries, ..Grant::default() };
    (!allow.is_empty()).then(|| allow.iter().map(|(name, queries)| (name.clone(), grant(queries))).collect())
}

/// What is opened of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Everything that the model answers.
    Scores,
    /// The numbers of so many of the best classes.
    Best(usize),
}

fn opened(text: &str) -> std::result::Result<Answer, String> {
    match (text, text.strip_prefix("top").map(str::parse)) {
        ("scores", _) => Ok(Answer::Scores),
        ("class", _) => Ok(Answer::Best(1)),
        (_, Some(Ok(n @ 1..=20))) => Ok(Answer::Best(n)),
        _ => Err("expected scores, class, or top1 to top20".into()),
    }
}

/// What servers are told of a model.
#[derive(Serialize)]
struct Pushed {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<Id>,
    layers: usize,
    inputs: Vec<Vec<usize>>,
    outputs: Vec<Vec<usize>>,
    bytes: [u64; 3],
    together: usize,
    seconds: f64,
}

impl Pushed {
    fn new(name: &str, public: &Public) -> Self {
        let program = &public.program;
        Self {
            name: name.into(),
            upload: None,
            layers: program.layers.len(),
            inputs: program.inputs.iter().map(|p| p.dims.clone()).collect(),
            outputs: program.outputs.iter().map(|p| p.dims.clone()).collect(),
            bytes: [0, 1, 2].map(|party| share_bytes(program, What::Model, party)),
            together: public.rows(),
            seconds: 0.0,
        }
    }

    fn shown(&self) -> String {
        let dims = |all: &[Vec<usize>]| all.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>().join(" and ");
        format!(
            "{}: {} layers from {} to {}\npublic: layers, shapes, scales, widths, preprocessing and names of classes; secret: every weight\nshares: {}, {} and {} for servers 0, 1 and 2; {}\n",
            self.name,
            self.layers,
            dims(&self.inputs),
            dims(&self.outputs),
            human_bytes(self.bytes[0]),
            human_bytes(self.bytes[1]),
            human_bytes(self.bytes[2]),
            match self.together {
                1 => "jobs run one by one".to_string(),
                n => format!("up to {n} jobs that wait run together"),
            }
        )
    }
}

/// Jobs that are run together where nothing is said, and the memory up to which a model is small, in bytes.
const TOGETHER: (usize, u64) = (16, 512 << 20);

/// The program for jobs that wait together, if there is to be one and the model lets samples be told apart.
pub(crate) fn together(
    graph: &Graph,
    program: &Program,
    secrets: &Secrets,
    rows: Option<u8>,
    ranges: &Ranges,
    options: &Options,
) -> Result<Option<Beside>> {
    let rows = rows.map_or(TOGETHER.0, usize::from);
    let varies = program.inputs.iter().chain(&program.outputs).all(|p| p.batch == Some(0) && p.columns.is_empty());
    if rows < 2 || !varies {
        return Ok(None);
    }
    let typed = model::typed(graph, rows)?;
    let Some((many, same)) = sordino_nn::compile_beside(&typed.passed, rows, ranges, options)? else { return Ok(None) };
    // Weights must be the very same: they are shared once.
    let differs =
        secrets.0.len() != same.0.len() || secrets.0.iter().zip(&same.0).any(|(a, b)| a.encoded() != b.encoded());
    let beside = Beside { rows, program: many };
    if differs || beside.check(program).is_err() || sordino_service::push::memory(&beside.program)? > TOGETHER.1 {
        return Ok(None);
    }
    Ok(Some(beside))
}

/// A bar over the bytes of an upload, on a terminal.
pub(crate) fn with_bar<T>(total: u64, sent: &AtomicU64, quiet: bool, body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if std::io::stderr().is_terminal() && !quiet {
            let bar = || {
                let bar = ProgressBar::new(total);
                if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}") {
                    bar.set_style(style);
                }
                while !over.load(Ordering::Relaxed) {
                    bar.set_position(sent.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(100));
                }
                bar.finish_and_clear();
            };
            // Without a thread for it there is no bar.
            let _ = std::thread::Builder::new().spawn_scoped(scope, bar);
        }
        let value = body();
        over.store(true, Ordering::Relaxed);
        value
    })
}

impl Push {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        if self.compile.kind() == Kind::Two {
            return Err(Error::Usage("--protocol 2pc: servers are three; `sordino host` serves two parties".into()));
        }
        let fleet = self.to.fleet()?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => self.model.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        sordino_service::names::model(&name)?;
        let (public, secrets) = self.compiled()?;
        let mut pushed = Pushed::new(&name, &public);
        if self.show {
            return print(&if self.json { json(&pushed)? } else { pushed.shown() });
        }
        if !self.json {
            print(&pushed.shown())?;
        }
        for client in fleet.clients() {
            client.about()?;
        }
        let grants = grants(&self.allow);
        let sent = Arc::default();
        let total = pushed.bytes.iter().sum::<u64>() * fleet.clients().len() as u64;
        // Every cluster has shares of its own.
        let push = || {
            let each = fleet.clients().iter().map(|c| c.push(&name, public.clone(), &secrets, grants.clone(), &sent));
            each.collect::<sordino_service::fault::Result<Vec<_>>>()
        };
        let uploads = with_bar(total, &Arc::clone(&sent), self.json, push)?;
        let upload = uploads[0];
        (pushed.upload, pushed.seconds) = (Some(upload), start.elapsed().as_secs_f64());
        if self.json {
            return print(&json(&pushed)?);
        }
        print(&format!("pushed as {name} in {:.2} s; upload {upload}\n", pushed.seconds))
    }

    fn compiled(&self) -> Result<(Public, Secrets)> {
        let path = &self.model;
        let mut graph = self.open.read(path)?;
        let calibration = self.compile.needed_calibration(path)?;
        let preprocess = self.preprocess.clone().or_beside(path)?;
        let mut calibration = Calibration::of(&calibration, path, &graph)?;
        let named = |e| of_model(path, e);
        let mut typed = model::typed(&graph, 1).map_err(named)?;
        if let Answer::Best(most) = self.answer {
            let net = &typed.reference;
            let classes = net.outputs.first().and_then(|(_, id)| net.shapes[*id].get(1).copied()).unwrap_or(1);
            if most > classes {
                return Err(Error::Usage(format!("--answer top{most}: the model has {classes} classes")));
            }
            let scores = typed.passed.outputs.first().map(|(_, id)| &typed.passed.names[*id]);
            let range = scores.and_then(|name| calibration.ranges.values.get(name)).map_or(1.0, |r| r.largest());
            let scores = Scores { classes, largest: range * self.compile.margin };
            let added = answer_best(&mut graph, most, scores);
            typed = model::typed(&graph, 1).map_err(named)?;
            added.complete(&typed.passed, &mut calibration.ranges);
        }
        let options = self.compile.options(calibration.widths)?;
        let (program, secrets) = model::compiled(&typed, &calibration.ranges, &options).map_err(named)?;
        let class = matches!(self.answer, Answer::Best(_));
        let beside = together(&graph, &program, &secrets, self.together, &calibration.ranges, &options)?;
        Ok((Public { program, preprocess, class, beside, training: None }, secrets))
    }
}

/// The model of the demonstration, and what belongs to it: a network for MNIST digits.
pub(crate) const DIGIT: (&str, &[u8]) = ("digit-7.png", include_bytes!("../../../../assets/digit-7.png"));
const DIGITS: [(&str, &[u8]); 3] = [
    ("digits.onnx", include_bytes!("../../../../assets/mnist.onnx")),
    ("digits.calibration.json", include_bytes!("../../../../assets/mnist.calibration.json")),
    ("digits.toml", include_bytes!("../../../../assets/mnist.toml")),
];

/// Pushes the demonstration's model, unless it is there already. Returns its name.
pub(crate) fn demonstration(cluster: &Path) -> Result<String> {
    let client = Client::new(&Cluster::read(cluster)?)?;
    let name = "digits";
    if client.model(name).is_ok() {
        return Ok(name.into());
    }
    let folder = tempfile::tempdir().map_err(|e| Error::Session(format!("no temporary folder can be made: {e}")))?;
    for (file, bytes) in DIGITS {
        model::write_whole(&folder.path().join(file), bytes)?;
    }
    let path = folder.path().join(DIGITS[0].0);
    let graph = model::read(&path)?;
    let calibration = Calibration::read(&folder.path().join(DIGITS[1].0))?;
    let preprocess = Preprocess::default().or_beside(&path)?;
    let typed = model::typed(&graph, 1)?;
    let options = Options::default();
    let (program, secrets) = model::compiled(&typed, &calibration.ranges, &options)?;
    let beside = together(&graph, &program, &secrets, None, &calibration.ranges, &options)?;
    let public = Public { program, preprocess, class: false, beside, training: None };
    client.push(name, public, &secrets, None, &Arc::default())?;
    Ok(name.into())
}
