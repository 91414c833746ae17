//! `sordino train`.

mod losses;
mod prepared;
mod report;
mod schedule;

use super::plan::Planned;
use super::session::Session;
use super::zoo::Pool;
use super::{input_dims, margin, positive, print, zoo_network};
use clap::Args;
use losses::Losses;
use report::Checked;
use schedule::Schedule;
use sordino::checkpoint::{self, Checkpoints, Mark};
use sordino::data::{self, Set, Split};
use sordino::inputs::Preprocess;
use sordino::model::{self, write_whole};
use sordino::session::{Shared, fresh_id};
use sordino::training::{accuracy, model_states, order, trained};
use sordino::{Error, Result};
use sordino_nn::exec::decode_states;
use sordino_nn::{Graph, import, onnx};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use zeroize::Zeroizing;

pub(super) use prepared::{Material, Prepared, Trainer, owners};
pub(super) use report::Report;

/// Arguments of `train`.
#[derive(Args)]
pub(crate) struct Train {
    /// The model to start from: an ONNX file (also one exported in training mode), or zoo:NAME for a network of the zoo
    /// with seeded weights.
    #[arg(long)]
    model: String,
    /// Pooling of zoo:NAME where the original network takes maxima.
    #[arg(long, value_enum, default_value = "avg")]
    pool: Pool,
    /// Samples: one folder or .npz file that holds labels too, or with --labels MNIST IDX, .npy or .npz arrays, or
    /// pictures. A folder is MNIST's files, CIFAR-10's pictures, x.npy and y.npy, or a folder of pictures for each class.
    #[arg(long, num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Their labels: MNIST IDX, a JSON list of classes, or a .npy array of classes or of answers.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// A further data owner's folder or .npz file. Owners have the same columns and other rows; each takes part in
    /// the session by itself.
    #[arg(long, value_name = "DATA")]
    owner: Vec<PathBuf>,
    /// Samples to judge the trained model by, in the clear, at its owner [default: what the data's folder holds for it].
    #[arg(long, num_args = 1..)]
    validation: Vec<PathBuf>,
    /// Their labels.
    #[arg(long, requires = "validation")]
    validation_labels: Option<PathBuf>,
    /// A TOML file with any options of the schedule below, and [[owner]] tables with data and labels. Options win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    schedule: Schedule,
    #[command(flatten, next_help_heading = "Pictures")]
    preprocess: Preprocess,
    /// Open the loss of every iteration to the first data owner; nothing else is revealed before the end.
    #[arg(long, help_heading = "Results")]
    reveal_loss: bool,
    /// Train the same model in floats beside it and compare losses, weights and accuracies. Opens the model to its owner.
    #[arg(long, help_heading = "Results")]
    check: bool,
    /// Folder in which each server keeps its shares of weights and optimiser, encrypted under its own key.
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    checkpoint: Option<PathBuf>,
    /// Iterations from one checkpoint to the next.
    #[arg(long, default_value_t = 50, value_parser = positive, requires = "checkpoint", help_heading = "Results")]
    checkpoint_every: usize,
    /// Go on from the last checkpoint in the folder; model, data and options must be the same.
    #[arg(long, requires = "checkpoint", help_heading = "Results")]
    resume: bool,
    /// Where to write the trained model, opened to its owner. Without it the model stays shared.
    #[arg(long, short, help_heading = "Results")]
    output: Option<PathBuf>,
    /// Where to write a plot of the loss.
    #[arg(long, value_name = "FILE.svg", requires = "reveal_loss", help_heading = "Results")]
    plot: Option<PathBuf>,
    /// Print what an iteration costs, layer by layer, and stop.
    #[arg(long, help_heading = "Results")]
    plan: bool,
    /// Print one JSON object.
    #[arg(long, help_heading = "Results")]
    json: bool,
    #[command(flatten, next_help_heading = "Session")]
    session: Session,
    /// Room above the ranges of the first iterations, as a factor.
    #[arg(long, default_value_t = 8.0, value_parser = margin, help_heading = "Session")]
    margin: f64,
    /// Iterations in floats, at the owner, that ranges are taken from.
    #[arg(long, default_value_t = 20, value_parser = positive, help_heading = "Session")]
    calibration_iterations: usize,
}

/// A training that can start.
struct Ready {
    graph: Graph,
    prepared: Prepared,
    /// What the trained model is judged by.
    validation: Option<Set>,
    batch: usize,
    from: Option<Mark>,
}

impl Train {
    fn graph(&self, seed: u64) -> Result<Graph> {
        match self.model.strip_prefix("zoo:") {
            None => model::read(Path::new(&self.model)),
            Some(name) => zoo_network(name, seed, self.pool.into()),
        }
    }

    fn read(&self, data: &[PathBuf], labels: Option<&Path>, dims: &[usize], answers: usize) -> Result<Split> {
        let preprocess = self.preprocess.clone().or_beside(Path::new(&self.model))?;
        data::read(data, labels, dims, answers, &preprocess)
    }

    /// Every owner's set, and the one to judge by.
    fn sets(&self, schedule: &Schedule, graph: &Graph) -> Result<(Vec<Set>, Option<Set>, usize, Preprocess)> {
        let single = import(graph, 1)?;
        let (dims, answer) = (input_dims(&single)?, single.outputs.first().map(|o| single.shapes[o.1].clone()));
        let answers = answer.and_then(|a| a.last().copied()).unwrap_or(0);
        let Split { train, mut validation, scale } = self.read(&self.data, self.labels.as_deref(), &dims, answers)?;
        let mut sets = vec![train];
        for folder in &self.owner {
            sets.push(self.read(std::slice::from_ref(folder), None, &dims, answers)?.train);
        }
        for owner in &schedule.owner {
            sets.push(self.read(&owner.data, owner.labels.as_deref(), &dims, answers)?.train);
        }
        if sets.len() > usize::from(sordino::tls::MOST_OWNERS) + 1 {
            return Err(Error::Usage(format!("{} data owners; at most 16 are possible", sets.len())));
        }
        if !self.validation.is_empty() {
            validation = Some(self.read(&self.validation, self.validation_labels.as_deref(), &dims, answers)?.train);
        }
        let given = self.preprocess.clone().or_beside(Path::new(&self.model))?;
        Ok((sets, validation, answers, Preprocess { scale: given.scale.or(scale), ..given }))
    }

    pub(crate) fn run(self) -> Result<()> {
        if self.plan {
            let planned = Planned::of(&self.ready()?.prepared.program, &self.session.link)?;
            return if self.json { planned.print_json() } else { print(&planned.shown()) };
        }
        let report = self.train()?;
        if self.json {
            let text = serde_json::to_string(&report).map_err(|e| Error::Session(e.to_string()))?;
            return print(&format!("{text}\n"));
        }
        let mut text = report.shown();
        text += "scales come from the first iterations of this very training in floats and are public\n";
        match &self.checkpoint {
            Some(folder) => {
                text += &format!("servers keep the model shared: sordino infer --shares {}\n", folder.display());
            }
            None if self.output.is_none() => {
                text += "the trained model is not kept; -o FILE.onnx opens it to its owner, --checkpoint DIR keeps its shares\n";
            }
            None => {}
        }
        print(&text)
    }

    /// Everything before the servers are needed.
    fn ready(&self) -> Result<Ready> {
        for path in self.output.iter().chain(&self.plot) {
            model::writable(path)?;
        }
        let schedule = self.schedule.with_file(self.config.as_deref())?;
        let graph = self.graph(schedule.seed())?;
        let (sets, validation, answers, preprocess) = self.sets(&schedule, &graph)?;
        let (batch, seed) = (schedule.batch.unwrap_or(128), schedule.seed());
        let sizes: Vec<usize> = sets.iter().map(|s| s.samples.len()).collect();
        let mut all = order(&sizes, batch, schedule.epochs.unwrap_or(1), seed)?;
        // So many iterations take as many epochs as they need, unless epochs are given too.
        if let (Some(n), None) = (schedule.iterations, schedule.epochs) {
            all = order(&sizes, batch, n.div_ceil(all.len()), seed)?;
        }
        all.truncate(schedule.iterations.unwrap_or(usize::MAX));
        let order = all;
        let rule = schedule.rule(order.len(), self.reveal_loss)?;
        let (from, key) = match &self.checkpoint {
            Some(folder) if !self.plan => {
                (self.mark(folder, order.len())?, checkpoint::owner_key(folder, !self.resume)?)
            }
            _ => (None, Zeroizing::new([0; 32])),
        };
        let material = Material { sets, order, answers, seed, key, preprocess };
        let prepared = Prepared::new(&graph, material, &rule, self.margin, self.calibration_iterations)?;
        Ok(Ready { graph, prepared, validation, batch, from })
    }

    /// Trains; everything but what goes to standard output.
    pub(crate) fn train(&self) -> Result<Report> {
        let Ready { graph, prepared, validation, batch, from } = self.ready()?;
        let runs = prepared.material.order.len();
        let checkpoints = self.checkpoints(&prepared, from)?;
        // Nothing is opened that nobody asked for.
        let opens = self.output.is_some() || self.check || !self.validation.is_empty();
        let shared = Shared {
            session: fresh_id()?,
            program: &prepared.program,
            runs,
            trace: false,
            checkpoints: checkpoints.as_ref(),
            opened: if opens { model_states(&prepared.step) } else { 0 },
        };
        let mut trainers = Trainer::all(&prepared, false);
        if let (true, Some(to)) = (self.reveal_loss, &checkpoints) {
            trainers[0].losses = Losses::kept(&to.folder, to.first())?;
        }
        let (driven, servers) =
            self.session.run(shared, &prepared.secrets, &mut owners(&mut trainers), &AtomicU64::new(0))?;
        let (loss_iterations, losses) = trainers.swap_remove(0).losses.all.into_iter().unzip();
        let n = runs - checkpoints.as_ref().map_or(0, Checkpoints::first);
        let seconds: f64 = driven.seconds().iter().sum::<f64>().abs();
        let mut report = Report {
            iterations: n,
            batch,
            seconds,
            seconds_per_iteration: seconds / n.max(1) as f64,
            bytes: driven.bytes(&servers),
            rounds_per_iteration: driven
                .ends(&servers)
                .filter_map(|e| e.runs.last())
                .map(|r| r.rounds)
                .max()
                .unwrap_or(0),
            losses,
            loss_iterations,
            validation_accuracy: None,
            check: None,
        };
        if opens {
            let states = decode_states(&prepared.program, &prepared.step, &driven.states);
            let result = trained(&graph, &prepared.step, &states)?;
            self.write(&result, &prepared.material.preprocess)?;
            let judge = |g: &Graph| match &validation {
                Some(set) => accuracy(g, set, prepared.material.answers),
                None => Ok(None),
            };
            report.validation_accuracy = judge(&result)?;
            if self.check {
                prepared::tell("training the same in floats");
                let (mut checked, floats) = Checked::new(&prepared, &states, &report)?;
                checked.validation_accuracy = judge(&trained(&graph, &prepared.step, &floats)?)?;
                report.check = Some(checked);
            }
        }
        if let Some(path) = &self.plot {
            write_whole(path, report.plot()?.as_bytes())?;
        }
        Ok(report)
    }

    /// The opened model, and how pictures must reach it: as the training's data did.
    fn write(&self, model: &Graph, preprocess: &Preprocess) -> Result<()> {
        let Some(path) = &self.output else { return Ok(()) };
        write_whole(path, &onnx::write(model))?;
        match preprocess.beside() {
            Some(text) => write_whole(&path.with_extension("toml"), text.as_bytes()),
            None => Ok(()),
        }
    }

    fn checkpoints(&self, prepared: &Prepared, from: Option<Mark>) -> Result<Option<Checkpoints>> {
        let Some(folder) = &self.checkpoint else { return Ok(None) };
        let every = Some(self.checkpoint_every);
        let checkpoints = Checkpoints { folder: folder.clone(), every, from, training: prepared.answer.training };
        if self.resume {
            checkpoints.belongs()?;
            if let Some(newest) = checkpoints.passed_over() {
                prepared::tell(&format!("iteration {newest} has no sound checkpoints of all three servers"));
            }
            let (first, all) = (checkpoints.first(), prepared.material.order.len());
            prepared::tell(&format!("going on after iteration {first} of {all}"));
        }
        prepared.answer.write(folder)?;
        Ok(Some(checkpoints))
    }

    /// The files to go on from, if that is asked for and possible.
    fn mark(&self, folder: &Path, iterations: usize) -> Result<Option<Mark>> {
        let fault = |why: &str| Err(Error::File { path: folder.into(), why: why.into() });
        match (self.resume, checkpoint::newest(folder)) {
            (false, None) => Ok(None),
            (false, Some(_)) => fault("it holds checkpoints; --resume goes on from them, another folder starts anew"),
            (true, None) => fault("it holds no checkpoints; start without --resume"),
            (true, Some(_)) => match checkpoint::latest(folder)? {
                Some(mark) if mark.iteration <= iterations => Ok(Some(mark)),
                Some(Mark { iteration, .. }) => Err(Error::Usage(format!(
                    "the last checkpoint is of iteration {iteration}, but there are only {iterations}"
                ))),
                None => fault("no iteration has sound checkpoints of all three servers; start anew in another folder"),
            },
        }
    }
}
