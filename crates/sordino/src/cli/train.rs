//! `sordino train`.

use super::bench::plot::{Axes, Series, lines};
use super::{LinkArg, Parties, human_bytes, input_dims, parse_link, positive, print};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sordino::checkpoint::{self, Checkpoints};
use sordino::inputs::{self, Preprocess};
use sordino::model::{self, write_whole};
use sordino::processes::{self, Processes};
use sordino::report::{Bytes, EndReport, run_seconds};
use sordino::session::{Driven, InProcess, Owner, Shared, fresh_id, in_process};
use sordino::training::{Floats, Set, accuracy, fingerprint, order, trained};
use sordino::{Error, Result};
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::training::{Loss, Rule, TrainingStep, step};
use sordino_nn::{Graph, Options, Ranges, Tensor, compile_step, import, onnx, zoo};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Growth of a weight within the first iterations that no training means.
const WILD: f32 = 30.0;

/// Iterations of a moving average of the loss.
const WINDOW: usize = 20;

/// What is minimised.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LossArg {
    /// Cross-entropy of the softmax of the answer.
    CrossEntropy,
    /// Half the squared distance from the one-hot label.
    SquaredError,
}

/// Arguments of `train`.
#[derive(Args)]
pub(crate) struct Train {
    /// The model to start from: an ONNX file, or zoo:NAME for a network of the zoo with seeded weights.
    #[arg(long)]
    model: String,
    /// Samples: MNIST IDX, .npy or .npz arrays, or pictures.
    #[arg(long, num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Their classes: MNIST IDX labels.
    #[arg(long)]
    labels: PathBuf,
    /// Samples to judge the trained model by, in the clear, at its owner.
    #[arg(long, num_args = 1.., requires = "validation_labels")]
    validation: Vec<PathBuf>,
    /// Their classes.
    #[arg(long, requires = "validation")]
    validation_labels: Option<PathBuf>,
    /// A TOML file with any of: epochs, iterations, batch, rate, momentum, decay, loss, seed. Options win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    plan: Schedule,
    #[command(flatten)]
    preprocess: Preprocess,
    /// Open the loss of every iteration to the data owner; nothing else is revealed before the end.
    #[arg(long)]
    reveal_loss: bool,
    /// Train the same model in floats beside it and compare losses and accuracies.
    #[arg(long)]
    check: bool,
    /// Folder in which each server keeps its shares of weights and velocities, encrypted under its own key.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Iterations from one checkpoint to the next.
    #[arg(long, default_value_t = 50, value_parser = positive, requires = "checkpoint")]
    checkpoint_every: usize,
    /// Go on from the last checkpoint in the folder; model, data and options must be the same.
    #[arg(long, requires = "checkpoint")]
    resume: bool,
    /// Where to write the trained model, opened to its owner.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Where to write a plot of the loss.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Where the parties run.
    #[arg(long, value_enum, default_value = "in-process")]
    parties: Parties,
    /// Make links slow: none, lan, wan, or LATENCY,BANDWIDTH such as 5ms,200Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    link: LinkArg,
    /// Room above the ranges of the first iterations, as a factor.
    #[arg(long, default_value_t = 8.0)]
    margin: f64,
    /// Iterations in floats, at the owner, that ranges are taken from.
    #[arg(long, default_value_t = 20, value_parser = positive)]
    calibration_iterations: usize,
    /// Seconds a party waits for another before it gives up.
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
    /// Worker threads per party [default: a third of the processors].
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
}

/// How long and how fast.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Schedule {
    /// Passes over the data [default: 1].
    #[arg(long, value_parser = positive)]
    epochs: Option<usize>,
    /// Stop after so many iterations.
    #[arg(long, value_parser = positive)]
    iterations: Option<usize>,
    /// Samples of an iteration [default: 128].
    #[arg(long, value_parser = positive)]
    batch: Option<usize>,
    /// Learning rate [default: 0.01].
    #[arg(long)]
    rate: Option<f32>,
    /// Momentum [default: 0.9].
    #[arg(long)]
    momentum: Option<f32>,
    /// Weight decay [default: 0].
    #[arg(long)]
    decay: Option<f32>,
    /// What is minimised [default: cross-entropy].
    #[arg(long, value_enum)]
    loss: Option<LossArg>,
    /// Seed of the public order, and of the weights of zoo:NAME [default: 0].
    #[arg(long)]
    seed: Option<u64>,
}

impl Schedule {
    fn or(self, file: Self) -> Self {
        Self {
            epochs: self.epochs.or(file.epochs),
            iterations: self.iterations.or(file.iterations),
            batch: self.batch.or(file.batch),
            rate: self.rate.or(file.rate),
            momentum: self.momentum.or(file.momentum),
            decay: self.decay.or(file.decay),
            loss: self.loss.or(file.loss),
            seed: self.seed.or(file.seed),
        }
    }

    fn rule(&self, tell_loss: bool) -> Result<Rule> {
        let loss = match self.loss {
            Some(LossArg::SquaredError) => Loss::SquaredError,
            _ => Loss::CrossEntropy,
        };
        let rule = Rule {
            loss,
            rate: self.rate.unwrap_or(0.01),
            momentum: self.momentum.unwrap_or(0.9),
            decay: self.decay.unwrap_or(0.0),
            tell_loss,
        };
        if !(rule.rate > 0.0 && rule.rate <= 16.0) {
            return Err(Error::Usage(format!("a learning rate of {}; it must be above 0 and at most 16", rule.rate)));
        }
        if !(0.0..1.0).contains(&rule.momentum) || !(0.0..1.0).contains(&rule.decay) {
            return Err(Error::Usage("momentum and weight decay must be at least 0 and below 1".into()));
        }
        Ok(rule)
    }
}

/// The object that `train --json` prints.
#[derive(Serialize)]
struct Report {
    iterations: usize,
    batch: usize,
    seconds: f64,
    seconds_per_iteration: f64,
    bytes: Bytes,
    rounds_per_iteration: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    losses: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Checked>,
}

/// Against the same training in floats.
#[derive(Serialize)]
struct Checked {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    losses: Vec<f32>,
    /// Largest difference of the moving averages of the loss, relative to the float one, while that is above a
    /// twentieth of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_relative_loss_difference: Option<f64>,
    /// Largest difference of a weight.
    max_abs_weight_difference: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_accuracy: Option<f64>,
}

/// A training that is ready to run.
pub(super) struct Prepared {
    pub(super) step: TrainingStep,
    pub(super) program: Program,
    pub(super) secrets: Secrets,
    pub(super) set: Set,
    pub(super) batches: Vec<Vec<usize>>,
    pub(super) classes: usize,
}

impl Prepared {
    /// Takes ranges from the first iterations in floats and compiles the step.
    pub(super) fn new(
        graph: &Graph,
        set: Set,
        batches: Vec<Vec<usize>>,
        classes: usize,
        rule: &Rule,
        margin: f64,
        calibration: usize,
    ) -> Result<Self> {
        let batch = batches.first().map_or(1, Vec::len);
        let step = step(&import(graph, batch)?, rule)?;
        let mut ranges = Ranges::default();
        let mut floats = Floats::new(&step);
        for rows in batches.iter().take(calibration) {
            floats.run(set.batch(rows, classes), Some(&mut ranges)).map_err(|e| {
                Error::Usage(format!("training leaves the floats within the first iterations ({e}); lower the rate"))
            })?;
        }
        // A step that is far too large shows in floats, where it can be seen.
        let wild = floats.states.iter().zip(&step.start).step_by(2).find(|(now, start)| {
            let (now, start) = (now.max_abs(), start.max_abs());
            !now.is_finite() || now > WILD * start.max(1.0)
        });
        if let Some((now, _)) = wild {
            return Err(Error::Usage(format!(
                "a rate of {} is too large: weights reach {:.1e} within the first iterations",
                rule.rate,
                now.max_abs()
            )));
        }
        let (program, secrets) = compile_step(&step, &ranges, &Options { margin, ..Options::default() })?;
        Ok(Self { step, program, secrets, set, batches, classes })
    }

    /// The states' integers as tensors of the model.
    fn states(&self, integers: &[Vec<i64>]) -> Vec<Tensor> {
        let decode = |(i, v): (usize, &Vec<i64>)| {
            let scale = self.program.slots[self.program.states[i].read].scale;
            let data = v.iter().map(|&v| (v as f64 / scale) as f32).collect();
            let dims = &self.step.start[i].dims;
            if dims.len() != 4 {
                return Tensor::new(dims, data);
            }
            // Kernels are laid out with their input channels last.
            Tensor::new(&[dims[0], dims[2], dims[3], dims[1]], data).permute(&[0, 3, 1, 2])
        };
        integers.iter().enumerate().map(decode).collect()
    }
}

/// The data owner while a training runs.
pub(super) struct Trainer<'a> {
    prepared: &'a Prepared,
    losses: Vec<f32>,
    quiet: bool,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(prepared: &'a Prepared, quiet: bool) -> Self {
        Self { prepared, losses: vec![], quiet }
    }
}

impl Owner for Trainer<'_> {
    fn inputs(&mut self, run: usize) -> sordino_nn::Result<Vec<Vec<i64>>> {
        let p = self.prepared;
        encode_inputs(&p.program, &p.set.batch(&p.batches[run], p.classes))
    }
    fn opened(&mut self, run: usize, outputs: &[Vec<i64>], seconds: f64) {
        if let Some(loss) = decode_outputs(&self.prepared.program, outputs).first() {
            self.losses.push(loss.data[0]);
        }
        if !self.quiet && (run + 1).is_multiple_of(10) {
            let loss = average(&self.losses).last().map(|l| format!(", loss {l:.4}")).unwrap_or_default();
            let all = self.prepared.batches.len();
            eprintln!("iteration {} of {all}: {seconds:.2} s{loss}", run + 1);
        }
    }
}

/// Moving averages.
fn average(losses: &[f32]) -> Vec<f64> {
    let mean = |i: usize| {
        let from = (i + 1).saturating_sub(WINDOW);
        losses[from..=i].iter().map(|&v| f64::from(v)).sum::<f64>() / (i + 1 - from) as f64
    };
    (0..losses.len()).map(mean).collect()
}

impl Train {
    fn graph(&self, seed: u64) -> Result<Graph> {
        match self.model.strip_prefix("zoo:") {
            None => model::read(Path::new(&self.model)),
            Some(name) => zoo::build(name, seed, zoo::Pool::Average).ok_or_else(|| {
                let names: Vec<&str> = zoo::NETWORKS.iter().map(|n| n.name).collect();
                Error::Usage(format!("no network is named {name}; there are {}", names.join(", ")))
            }),
        }
    }

    fn schedule(&self) -> Result<Schedule> {
        let Some(path) = &self.config else { return Ok(self.plan.clone()) };
        let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
        let file: Schedule =
            toml::from_str(&text).map_err(|e| Error::File { path: path.clone(), why: e.message().to_string() })?;
        Ok(self.plan.clone().or(file))
    }

    fn set(&self, data: &[PathBuf], labels: &Path, dims: &[usize], classes: usize) -> Result<Set> {
        let preprocess = self.preprocess.clone().or_beside(Path::new(&self.model))?;
        Set::new(inputs::read(data, dims, &preprocess)?, inputs::labels(labels)?, classes)
    }

    pub(crate) fn run(self) -> Result<()> {
        if !(1.0..=1e6).contains(&self.margin) || !(0.05..=86400.0).contains(&self.timeout) {
            return Err(Error::Usage("--margin must be at least 1 and --timeout between 0.05 and 86400".into()));
        }
        for path in self.output.iter().chain(&self.plot) {
            model::writable(path)?;
        }
        if self.plot.is_some() && !self.reveal_loss {
            return Err(Error::Usage("--plot draws the loss, which only --reveal-loss opens".into()));
        }
        let schedule = self.schedule()?;
        let rule = schedule.rule(self.reveal_loss)?;
        let graph = self.graph(schedule.seed.unwrap_or(0))?;
        let single = import(&graph, 1)?;
        let (dims, answer) = (input_dims(&single)?, single.outputs.first().map(|o| single.shapes[o.1].clone()));
        let classes = answer.and_then(|a| a.last().copied()).unwrap_or(0);
        let set = self.set(&self.data, &self.labels, &dims, classes)?;
        let validation = match &self.validation_labels {
            Some(labels) => Some(self.set(&self.validation, labels, &dims, classes)?),
            None => None,
        };
        let batch = schedule.batch.unwrap_or(128);
        let (epochs, seed) = (schedule.epochs.unwrap_or(1), schedule.seed.unwrap_or(0));
        let mut batches = order(set.samples.len(), batch, epochs, seed)?;
        batches.truncate(schedule.iterations.unwrap_or(usize::MAX));
        let prepared = Prepared::new(&graph, set, batches, classes, &rule, self.margin, self.calibration_iterations)?;
        let data = fingerprint(&prepared.set, seed);
        let checkpoints = self.checkpoints(prepared.batches.len(), data)?;
        let done = checkpoints.as_ref().map_or(0, |c| c.first);
        let mut owner = Trainer::new(&prepared, self.json);
        let (driven, servers) = self.session(&prepared, checkpoints.as_ref(), &mut owner)?;
        let losses = owner.losses;
        let states = prepared.states(&driven.states);
        let result = trained(&graph, &prepared.step, &states)?;
        if let Some(path) = &self.output {
            write_whole(path, &onnx::write(&result))?;
            // Pictures must reach the trained model as the training's data did.
            if let Some(beside) = self.preprocess.clone().or_beside(Path::new(&self.model))?.beside(&self.data) {
                write_whole(&path.with_extension("toml"), beside.as_bytes())?;
            }
        }
        let judge = |g: &Graph| validation.as_ref().map(|v| accuracy(g, v, classes)).transpose();
        let check = if self.check { Some(self.checked(&prepared, &graph, &states, &losses, &judge)?) } else { None };
        self.plot(&losses, check.as_ref())?;
        let ends = || servers.iter().chain([&driven.report]);
        let n = prepared.batches.len() - done;
        let seconds: f64 = run_seconds(&servers, n).iter().sum();
        let mut by_party = [0; 4];
        by_party.iter_mut().zip(ends()).for_each(|(b, e)| *b = e.payload);
        let report = Report {
            iterations: n,
            batch,
            seconds,
            seconds_per_iteration: seconds.abs() / n.max(1) as f64,
            bytes: Bytes { payload: ends().map(|e| e.payload).sum(), wire: ends().map(|e| e.wire).sum(), by_party },
            rounds_per_iteration: ends().filter_map(|e| e.runs.last()).map(|r| r.rounds).max().unwrap_or(0),
            losses,
            validation_accuracy: judge(&result)?,
            check,
        };
        if self.json {
            let text = serde_json::to_string(&report).map_err(|e| Error::Session(e.to_string()))?;
            return print(&format!("{text}\n"));
        }
        let mut text = shown(&report);
        text += "scales come from the first iterations of this very training in floats and are public\n";
        if self.output.is_none() && self.checkpoint.is_none() {
            text += "the trained model is not kept; -o FILE.onnx opens it to its owner, --checkpoint DIR keeps its shares\n";
        }
        print(&text)
    }

    fn checkpoints(&self, iterations: usize, data: [u8; 32]) -> Result<Option<Checkpoints>> {
        let Some(folder) = &self.checkpoint else { return Ok(None) };
        let found = checkpoint::latest(folder);
        let first = match (self.resume, found) {
            (true, Some(first)) if first <= iterations => first,
            (true, Some(first)) => {
                return Err(Error::Usage(format!(
                    "the last checkpoint is of iteration {first}, but there are only {iterations}"
                )));
            }
            (true, None) => {
                let why = "no iteration has checkpoints of all three servers; start without --resume".into();
                return Err(Error::File { path: folder.clone(), why });
            }
            (false, Some(_)) => {
                let why = "it holds checkpoints; --resume goes on from them, another folder starts anew".into();
                return Err(Error::File { path: folder.clone(), why });
            }
            (false, None) => 0,
        };
        Ok(Some(Checkpoints { folder: folder.clone(), every: self.checkpoint_every, first, data }))
    }

    fn session(
        &self,
        p: &Prepared,
        checkpoints: Option<&Checkpoints>,
        owner: &mut dyn Owner,
    ) -> Result<(Driven, Vec<EndReport>)> {
        let shared =
            Shared { session: fresh_id()?, program: &p.program, runs: p.batches.len(), trace: false, checkpoints };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.unwrap_or(cores / 3).max(1);
        let deadline = Duration::from_secs_f64(self.timeout);
        let progress = AtomicU64::new(0);
        match self.parties {
            Parties::InProcess => {
                let _ = ctrlc::set_handler(|| {
                    eprintln!("sordino: interrupted");
                    std::process::exit(130);
                });
                let setup = InProcess { link: self.link.0, deadline, threads };
                in_process(shared, &setup, &p.secrets, owner, &progress)
            }
            Parties::Processes => {
                let interrupted = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&interrupted);
                let _ = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
                let setup = Processes { link: self.link.0, deadline, threads, interrupted };
                processes::run(shared, &setup, &p.secrets, owner, &progress)
            }
        }
    }

    fn checked(
        &self,
        p: &Prepared,
        graph: &Graph,
        states: &[Tensor],
        losses: &[f32],
        judge: &dyn Fn(&Graph) -> Result<Option<f64>>,
    ) -> Result<Checked> {
        let mut floats = Floats::new(&p.step);
        let mut own = vec![];
        for rows in &p.batches {
            own.extend(floats.run(p.set.batch(rows, p.classes), None)?);
        }
        // After a resumption the losses are those of its own iterations.
        let own = own.split_off(own.len().saturating_sub(losses.len()));
        let floor = own.first().map_or(0.0, |l| f64::from(*l) / 20.0);
        let pairs = average(losses).into_iter().zip(average(&own)).filter(|p| p.1 > floor);
        let weights = states.iter().zip(&floats.states).step_by(2);
        let difference = weights.flat_map(|(a, b)| a.data.iter().zip(&b.data)).map(|(a, b)| f64::from((a - b).abs()));
        Ok(Checked {
            largest_relative_loss_difference: pairs.map(|(a, b)| (a - b).abs() / b).reduce(f64::max),
            max_abs_weight_difference: difference.fold(0.0, f64::max),
            validation_accuracy: judge(&trained(graph, &p.step, &floats.states)?)?,
            losses: own,
        })
    }

    fn plot(&self, losses: &[f32], check: Option<&Checked>) -> Result<()> {
        let Some(path) = &self.plot else { return Ok(()) };
        let curve = |name: &str, losses: &[f32]| {
            let points = average(losses).into_iter().enumerate().map(|(i, l)| (i as f64 + 1.0, l)).collect();
            Series { name: name.into(), points }
        };
        let mut series = vec![curve("private", losses)];
        series.extend(check.map(|c| curve("floats", &c.losses)));
        let axes = Axes {
            title: "Loss, moving average of 20",
            x: "iteration",
            y: "cross-entropy",
            log_x: false,
            log_y: false,
        };
        write_whole(path, lines(&axes, &series)?.as_bytes())
    }
}

fn shown(r: &Report) -> String {
    let mut text = format!(
        "{} iterations of {} samples: {:.3} s each, {} sent by all parties each ({} on the wire), {} rounds each\n",
        r.iterations,
        r.batch,
        r.seconds_per_iteration,
        human_bytes(r.bytes.payload / r.iterations.max(1) as u64),
        human_bytes(r.bytes.wire / r.iterations.max(1) as u64),
        r.rounds_per_iteration
    );
    if let Some(loss) = average(&r.losses).last() {
        text += &format!("loss {loss:.4} (moving average of {WINDOW})\n");
    }
    if let Some(a) = r.validation_accuracy {
        text += &format!("validation accuracy {:.2} %\n", 100.0 * a);
    }
    if let Some(c) = &r.check {
        text += &format!(
            "floats, same start and order: largest difference of a weight {:.2e}",
            c.max_abs_weight_difference
        );
        if let Some(d) = c.largest_relative_loss_difference {
            text += &format!(", of the averaged loss {:.3} %", 100.0 * d);
        }
        if let Some(a) = c.validation_accuracy {
            text += &format!(", validation accuracy {:.2} %", 100.0 * a);
        }
        text.push('\n');
    }
    text
}
