//! `sordino train`.

mod listener;
mod losses;
mod progress;
mod remote;
mod report;
mod schedule;

use super::plan::Planned;
use super::session::Session;
use super::zoo::Pool;
use super::{Open, margin, of_model, one_input, positive, print, zoo_network};
use clap::Args;
use listener::Listener;
use losses::Losses;
use progress::tell;
use remote::{Came, Remote};
use report::{Checked, Judged};
use schedule::Schedule;
use sordino::checkpoint::{self, Checkpoints, Lock, Mark};
use sordino::class_weights::weigh;
use sordino::data::{self, Set, Split};
use sordino::inputs::{Preprocess, Take};
use sordino::model::{self, write_own};
use sordino::owners::Owners;
use sordino::prepared::{Material, Prepared, Trainer, owners};
use sordino::session::Job;
use sordino::training::{Length, model_states, order, scores, trained};
use sordino::{Error, Result};
use sordino_nn::exec::decode_states;
use sordino_nn::training::Loss;
use sordino_nn::{Graph, import, onnx};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use zeroize::Zeroizing;

pub(crate) use remote::give_rows;
pub(super) use report::Report;

/// Arguments of `train`.
#[derive(Args)]
pub(crate) struct Train {
    /// The model to start from: an ONNX file (also one exported in training mode), or zoo:NAME for a network of the zoo
    /// with seeded weights.
    #[arg(long)]
    model: String,
    #[command(flatten)]
    open: Open,
    /// Pooling of zoo:NAME where the original network takes maxima [default: avg].
    #[arg(long, value_enum)]
    pool: Option<Pool>,
    /// Samples: one folder or .npz file that holds labels too, or with --labels MNIST IDX, .npy or .npz arrays, or
    /// pictures. A folder is MNIST's files, CIFAR-10's pictures, x.npy and y.npy, or a folder of pictures for each class,
    /// in alphabetical order.
    #[arg(long, num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Their labels: MNIST IDX, a JSON list of classes, or a .npy array of classes or of answers.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// A further data owner's folder or .npz file. Owners have the same columns and other rows; each takes part in
    /// the session by itself.
    #[arg(long, value_name = "DATA")]
    owner: Vec<PathBuf>,
    /// The column of a .csv table that holds the labels [default: the one called label, target, class or y].
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Samples to judge the trained model by, in the clear, at its owner [default: what the data's folder holds for it].
    #[arg(long, num_args = 1..)]
    validation: Vec<PathBuf>,
    /// Instead: this share of the first owner's samples, drawn from the seed, such as 0.1.
    #[arg(long, value_name = "SHARE", conflicts_with = "validation", value_parser = share)]
    split: Option<f64>,
    /// Their labels.
    #[arg(long, requires = "validation")]
    validation_labels: Option<PathBuf>,
    /// A TOML file with any options of the schedule below, and [[owner]] tables with data and labels (from the working
    /// folder on). Options win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    schedule: Schedule,
    #[command(flatten, next_help_heading = "Pictures")]
    preprocess: Preprocess,
    /// Open the loss of every iteration to the receiver; nothing else is revealed before the end.
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
    /// Go on from the last checkpoint in the folder, or, with --to, wait again for a training that is there; model, data and options must be the same.
    #[arg(long, help_heading = "Results")]
    resume: bool,
    /// Where to write the trained model, opened to its owner, and beside it, in a .toml, how pictures reach it. Without it
    /// the model stays shared.
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
    #[command(flatten, next_help_heading = "Servers on three hosts")]
    remote: Remote,
    #[command(flatten, next_help_heading = "Session")]
    session: Session,
    /// Room above the ranges of the first iterations, as a factor.
    #[arg(long, default_value_t = 8.0, value_parser = margin, help_heading = "Session")]
    margin: f64,
    /// Iterations in floats, at the owner, that ranges are taken from.
    #[arg(long, default_value_t = 20, value_parser = positive, help_heading = "Session")]
    calibration_iterations: usize,
}

/// Says what a model for inference has lost, and what is not trained as it stands.
fn notices(graph: &Graph, schedule: &Schedule) {
    let count = |op: &str| graph.nodes.iter().filter(|n| n.op == op).count();
    let biased = graph.nodes.iter().filter(|n| n.op == "Conv" && n.inputs.len() > 2).count();
    if count("BatchNormalization") + count("Dropout") == 0 && biased >= MANY {
        tell(&format!(
            "the model has {biased} convolutions and neither batch norms nor dropouts: an export for inference has lost them; export in training mode to train with them"
        ));
    }
    let last = graph.outputs.first().and_then(|o| graph.nodes.iter().find(|n| n.outputs.contains(o)));
    if schedule.trains_classes() && last.is_some_and(|n| n.op == "Softmax") {
        tell("the softmax at the model's end is part of the loss; it is not applied twice");
    }
}

/// So many convolutions are trained with batch norms, as a rule.
const MANY: usize = 8;

/// A share that leaves something on both sides.
fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(s) if s > 0.0 && s < 1.0 => Ok(s),
        _ => Err("expected a share above 0 and below 1".into()),
    }
}

/// A training that can start.
pub(super) struct Ready {
    graph: Graph,
    /// How many samples each data owner has, those who are elsewhere included.
    sizes: Vec<usize>,
    prepared: Prepared,
    /// What the trained model is judged by.
    validation: Option<Set>,
    loss: Loss,
    batch: usize,
    from: Option<Mark>,
    /// Of the checkpoints' folder.
    lock: Option<Lock>,
}

impl Train {
    fn graph(&self, seed: u64) -> Result<Graph> {
        match self.model.strip_prefix("zoo:") {
            None if self.pool.is_some() => {
                Err(Error::Usage("--pool is for networks of the zoo; a model file has its own pooling".into()))
            }
            None => self.open.read(Path::new(&self.model)).map(|graph| Graph { training: true, ..graph }),
            Some(name) => zoo_network(name, seed, self.pool.unwrap_or(Pool::Avg).into()),
        }
    }

    fn read(
        &self,
        data: &[PathBuf],
        labels: Option<&Path>,
        take: &Take,
        answers: usize,
        preprocess: &Preprocess,
    ) -> Result<Split> {
        data::read_with(data, labels, self.target.as_deref(), take, answers, preprocess)
    }

    /// Every owner's set, and the one to judge by.
    fn sets(&self, schedule: &Schedule, graph: &Graph) -> Result<(Vec<Set>, Option<Set>, usize, Preprocess)> {
        let single = import(graph, 1).map_err(|e| of_model(Path::new(&self.model), e.into()))?;
        let (take, answer) = (one_input(&single)?, single.outputs.first().map(|o| single.shapes[o.1].clone()));
        let answers = answer.and_then(|a| a.last().copied()).unwrap_or(0);
        let given = self.preprocess.clone().or_beside(Path::new(&self.model))?;
        let first = self.read(&self.data, self.labels.as_deref(), &take, answers, &given)?;
        let Split { train, mut validation, scale, columns } = first;
        // Other tables have the columns of the first.
        let given = Preprocess { columns: given.columns.clone().or(columns), ..given };
        let mut sets = vec![train];
        for folder in &self.owner {
            sets.push(self.read(std::slice::from_ref(folder), None, &take, answers, &given)?.train);
        }
        for owner in &schedule.owner {
            sets.push(self.read(&owner.data, owner.labels.as_deref(), &take, answers, &given)?.train);
        }
        if sets.len() > usize::from(sordino_mpc::MOST_OWNERS) {
            return Err(Error::Usage(format!("{} data owners; at most 16 are possible", sets.len())));
        }
        if !self.validation.is_empty() {
            validation =
                Some(self.read(&self.validation, self.validation_labels.as_deref(), &take, answers, &given)?.train);
        }
        if let Some(share) = self.split {
            validation = Some(sets[0].split_off(share, schedule.seed())?);
        }
        let mut all: Vec<&mut Set> = sets.iter_mut().chain(&mut validation).collect();
        let classes = data::unite(&mut all, answers)?;
        let preprocess =
            Preprocess { scale: given.scale.or(scale), classes: classes.or(given.classes.clone()), ..given };
        Ok((sets, validation, answers, preprocess))
    }

    pub(crate) fn run(self) -> Result<()> {
        if self.plan {
            let planned =
                Planned::of(&self.ready()?.prepared.program, &self.session.link, self.session.device.first())?;
            return if self.json { planned.print_json() } else { print(&planned.shown()) };
        }
        if self.remote.is_asked() {
            self.remote.begins(&self)?;
        } else {
            if self.resume && self.checkpoint.is_none() {
                return Err(Error::Usage("--resume needs --checkpoint DIR, or --to FILE".into()));
            }
            // Said before anything is computed.
            self.session.device.compute(sordino_mpc::Kind::Three, 1)?;
        }
        let Some(report) = self.train()? else { return Ok(()) };
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
            None if self.remote.is_asked() => {
                text += &format!(
                    "servers keep the model shared: sordino submit {} --input FILE\n",
                    self.remote.name(&self.model)?
                );
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
        self.remote.fits(self.check, schedule.class_weights.is_some())?;
        let graph = self.graph(schedule.seed())?;
        let (mut sets, validation, answers, preprocess) = self.sets(&schedule, &graph)?;
        self.outputs_fit(&schedule, &preprocess)?;
        notices(&graph, &schedule);
        let (batch, seed) = (schedule.batch.unwrap_or(128), schedule.seed());
        let mut sizes: Vec<usize> = sets.iter().map(|s| s.samples.len()).collect();
        sizes.extend(self.remote.with.iter().map(|(_, samples)| samples));
        let length = Length { epochs: schedule.epochs, iterations: schedule.iterations };
        let mut order = order(&sizes, batch, length, seed)?;
        let rule = schedule.rule(order.len(), self.reveal_loss)?;
        if rule.loss == Loss::CrossEntropy {
            for (i, set) in sets.iter().chain(&validation).enumerate() {
                let whose = if i < sets.len() { format!("data owner {}", i + 1) } else { "validation".into() };
                set.distributions(answers).map_err(|e| Error::Usage(format!("{whose}: {e}")))?;
            }
        }
        if let Some(asked) = &schedule.class_weights {
            weigh(&mut sets, asked, answers)?;
        }
        let (lock, from, key) = match &self.checkpoint {
            Some(folder) if !self.plan => {
                let lock = checkpoint::lock(folder, !self.resume)?;
                (Some(lock), self.mark(folder, order.len())?, checkpoint::owner_key(folder, !self.resume)?)
            }
            _ => (None, None, Zeroizing::new([0; 32])),
        };
        let calibration = self.calibration_iterations.min(order.len());
        self.remote.stand_in(&mut sets, &mut order, calibration);
        let material = Material { sets, order, answers, seed, key, preprocess };
        tell(&format!("taking ranges from {calibration} iterations in floats"));
        let prepared = Prepared::new(&graph, material, &rule, self.margin, calibration)?;
        Ok(Ready { graph, sizes, prepared, validation, loss: rule.loss, batch, from, lock })
    }

    /// Trains here; what the owners learn.
    fn trained_here(&self, ready: &Ready, opened: usize) -> Result<Came> {
        let Ready { prepared, from, .. } = ready;
        let runs = prepared.material.order.len();
        let checkpoints = self.checkpoints(prepared, *from)?;
        let job = Job {
            kept: from.is_some(),
            first: from.map_or(0, |m| m.iteration),
            opened,
            ..Job::new(&prepared.program, runs)?
        };
        let mut trainers = Trainer::all(prepared);
        let mut listener = Listener::new(prepared, false);
        if let (true, Some(to)) = (self.reveal_loss, &checkpoints) {
            listener.losses = Losses::kept(&to.folder, to.first())?;
        }
        let owners = Owners { weights: &prepared.secrets, data: owners(&mut trainers), receiver: &mut listener };
        let done = self.session.run(job, owners, checkpoints.as_ref(), &AtomicU64::new(0))?;
        Ok(Came {
            iterations: runs - checkpoints.as_ref().map_or(0, Checkpoints::first),
            seconds: done.seconds().iter().sum::<f64>().abs(),
            bytes: done.bytes(),
            rounds: done.rounds_of_last_run(),
            losses: listener.losses.all,
            states: done.states,
        })
    }

    /// Trains; everything but what goes to standard output. Nothing, if whoever asked does not wait for it.
    pub(crate) fn train(&self) -> Result<Option<Report>> {
        let ready = self.ready()?;
        // Nothing is opened that nobody asked for.
        let opens = self.output.is_some() || self.check || !self.validation.is_empty() || self.split.is_some();
        let opened = if opens { model_states(&ready.prepared.step) } else { 0 };
        let came = match self.remote.is_asked() {
            true => self.remote.train(&ready, opened, self)?,
            false => Some(self.trained_here(&ready, opened)?),
        };
        let Some(came) = came else { return Ok(None) };
        let Ready { graph, prepared, validation, loss, batch, lock: _lock, .. } = ready;
        let (loss_iterations, losses) = came.losses.into_iter().unzip();
        let mut report = Report {
            iterations: came.iterations,
            batch,
            seconds: came.seconds,
            seconds_per_iteration: came.seconds / came.iterations.max(1) as f64,
            bytes: came.bytes,
            rounds_per_iteration: came.rounds,
            losses,
            loss_iterations,
            validation: Judged::default(),
            written: vec![],
            check: None,
        };
        if opens {
            let states = decode_states(&prepared.program, &prepared.step, &came.states);
            let result = trained(&graph, &prepared.step, &states)?;
            report.written = self.write(&result, &prepared.material.preprocess)?;
            let judge = |g: &Graph| match &validation {
                Some(set) => scores(g, set, prepared.material.answers, loss).map(Judged::from),
                None => Ok(Judged::default()),
            };
            report.validation = judge(&result)?;
            if self.check {
                tell("training the same in floats");
                let (mut checked, floats) = Checked::new(&prepared, &states, &report)?;
                checked.validation = judge(&trained(&graph, &prepared.step, &floats)?)?;
                report.check = Some(checked);
            }
        }
        if let Some(path) = &self.plot {
            write_own(path, report.plot()?.as_bytes())?;
            report.written.push(path.clone());
        }
        Ok(Some(report))
    }

    /// The opened model, and how pictures must reach it: as the training's data did. Returns the files written.
    fn write(&self, model: &Graph, preprocess: &Preprocess) -> Result<Vec<PathBuf>> {
        let Some(path) = &self.output else { return Ok(vec![]) };
        write_own(path, &onnx::write(model))?;
        let Some(text) = preprocess.beside() else { return Ok(vec![path.clone()]) };
        let beside = path.with_extension("toml");
        write_own(&beside, text.as_bytes())?;
        Ok(vec![path.clone(), beside])
    }

    /// Checks that what is to be written overwrites nothing that is read, or written too, or somebody else's.
    fn outputs_fit(&self, schedule: &Schedule, preprocess: &Preprocess) -> Result<()> {
        let model = Path::new(&self.model);
        let mut taken: Vec<(&Path, &str)> = vec![(model, "--model")];
        taken.extend(self.data.iter().map(|p| (p.as_path(), "--data")));
        taken.extend(self.owner.iter().map(|p| (p.as_path(), "--owner")));
        taken.extend(self.validation.iter().map(|p| (p.as_path(), "--validation")));
        taken.extend(self.labels.iter().map(|p| (p.as_path(), "--labels")));
        taken.extend(self.validation_labels.iter().map(|p| (p.as_path(), "--validation-labels")));
        taken.extend(self.config.iter().map(|p| (p.as_path(), "--config")));
        for owner in &schedule.owner {
            taken.extend(owner.data.iter().chain(&owner.labels).map(|p| (p.as_path(), "[[owner]]")));
        }
        let beside = self.output.as_ref().map(|p| p.with_extension("toml"));
        let words = beside.as_ref().filter(|_| preprocess.beside().is_some());
        let written = [(self.output.as_ref(), "-o"), (words, "-o"), (self.plot.as_ref(), "--plot")];
        // Of a file that is not there yet, the folder is.
        let real = |path: &Path| {
            let made = || Some(model::folder_of(path).canonicalize().ok()?.join(path.file_name()?));
            path.canonicalize().ok().or_else(made).unwrap_or_else(|| path.into())
        };
        for (path, option) in written.iter().filter_map(|(p, o)| Some((p.map(PathBuf::as_path)?, *o))) {
            let same = |other: &Path| real(path) == real(other);
            if let Some((_, other)) = taken.iter().find(|(p, _)| same(p)) {
                let why = format!("{option} would write it, but {other} names it too; choose another name");
                return Err(Error::File { path: path.into(), why });
            }
            taken.push((path, option));
        }
        // A file beside the model tells how pictures reach it: only one of the same words may be there.
        let Some(beside) = beside.filter(|p| p.exists()) else { return Ok(()) };
        let there = std::fs::read_to_string(&beside).map_err(Error::at(&beside))?;
        if preprocess.beside().as_deref() == Some(there.as_str()) {
            return Ok(());
        }
        let why = "it would tell how pictures reach the model that -o writes; move it, or choose another name".into();
        Err(Error::File { path: beside, why })
    }

    fn checkpoints(&self, prepared: &Prepared, from: Option<Mark>) -> Result<Option<Checkpoints>> {
        let Some(folder) = &self.checkpoint else { return Ok(None) };
        let every = Some(self.checkpoint_every);
        let checkpoints = Checkpoints { folder: folder.clone(), every, from, training: prepared.answer.training };
        if self.resume {
            checkpoints.belongs()?;
            if let Some(why) = checkpoints.passed_over()? {
                tell(&format!("an older checkpoint is taken, because {why}"));
            }
            let (first, all) = (checkpoints.first(), prepared.material.order.len());
            tell(&match all - first {
                0 => format!("all {all} iterations are done"),
                _ => format!("going on after iteration {first} of {all}"),
            });
        }
        prepared.answer.write(folder)?;
        Ok(Some(checkpoints))
    }

    /// The last sound files, if possible none of which the loss was not yet heard.
    fn sound(&self, folder: &Path) -> Result<Option<Mark>> {
        let heard = if self.reveal_loss { Losses::last(folder)? } else { None };
        let mark = checkpoint::latest(folder, heard.unwrap_or(usize::MAX))?;
        if mark.is_some() { Ok(mark) } else { checkpoint::latest(folder, usize::MAX) }
    }

    /// The files to go on from, if that is asked for and possible.
    fn mark(&self, folder: &Path, iterations: usize) -> Result<Option<Mark>> {
        let fault = |why: &str| Err(Error::File { path: folder.into(), why: why.into() });
        match (self.resume, checkpoint::newest(folder)) {
            (false, None) => Ok(None),
            (false, Some(_)) => fault("it holds checkpoints; --resume goes on from them, another folder starts anew"),
            (true, None) => fault("it holds no checkpoints; start without --resume"),
            (true, Some(_)) => match self.sound(folder)? {
                Some(mark) if mark.iteration <= iterations => Ok(Some(mark)),
                Some(Mark { iteration, .. }) => Err(Error::Usage(format!(
                    "the last checkpoint is of iteration {iteration}, but there are only {iterations}"
                ))),
                None => fault("no iteration has sound checkpoints of all three servers; start anew in another folder"),
            },
        }
    }
}
