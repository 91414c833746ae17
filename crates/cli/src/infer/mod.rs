//! `sordino infer`.

mod check;

use super::session::Session;
use super::{Compile, Inputs, Open, Parties, human_bytes, of_model, positive, print, takes};
use check::{DOUBT, checked};
use clap::Args;
use sordino::answer::Answer;
use sordino::checkpoint::Checkpoints;
use sordino::inputs::Take;
use sordino::model::{self, Calibration, Typed};
use sordino::owners::{Finished, Owners};
use sordino::report::{Check, Class, EndReport, LayerLine, LayerReport, Output, Report, Wall, peak_rss_mb, top};
use sordino::samples::{self, Sample};
use sordino::session;
use sordino::{Error, Result};
use sordino_mpc::Kind;
use sordino_net::Endpoint;
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::program::{Port, Program, Secrets};
use sordino_nn::{Ranges, Tensor, exec};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `infer`.
#[derive(Args)]
pub(crate) struct Infer {
    /// The model, an ONNX file. Preprocessing may stand beside it in MODEL.toml.
    #[arg(required_unless_present = "shares")]
    model: Option<PathBuf>,
    /// Instead of a model: the folder of a training's checkpoints. The servers answer with the shares they keep there;
    /// nobody ever has the model.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "check", "batch", "Compile"])]
    shares: Option<PathBuf>,
    #[command(flatten)]
    open: Open,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    compile: Compile,
    /// Compare with the float reference and report layers whose values do not fit.
    #[arg(long)]
    check: bool,
    /// Show time, bytes and rounds by layer, and where the time goes.
    #[arg(long)]
    profile: bool,
    /// Write when each server did what, as a Chrome trace (opens in Perfetto or chrome://tracing).
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Show this many best classes.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// With two parties: draw the strings of all transfers of so many runs before the first one, so that runs do without; takes memory
    /// (`plan` says how much).
    #[arg(long, value_name = "RUNS", default_value_t = 0)]
    prepare: usize,
    #[command(flatten)]
    session: Session,
    /// Samples per run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

/// What a session runs.
struct Job {
    program: Program,
    secrets: Secrets,
    batches: Vec<Sample>,
    samples: usize,
    /// Names of the classes, if the model has any.
    classes: Option<Vec<String>>,
    /// For comparing with floats, if the model is here.
    typed: Option<Typed>,
    /// The shares the servers answer with, if it is not.
    checkpoints: Option<Checkpoints>,
    calibrated_on_inputs: bool,
    wall: Wall,
}

impl Infer {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        self.trace.as_deref().map(model::writable).transpose()?;
        let mut job = match &self.shares {
            Some(folder) => self.kept(folder)?,
            None => self.compiled()?,
        };
        if self.prepare > 0 && job.program.settings.kind == Kind::Three {
            return Err(Error::Usage("--prepare: it is of two parties; say --protocol 2pc as well".into()));
        }
        let encoded = job.batches.iter().map(|b| Ok(encode_inputs(&job.program, b)?)).collect::<Result<Vec<_>>>()?;
        tracing::info!(
            instructions = job.program.instructions.len(),
            products = exec::macs(&job.program),
            runs = encoded.len(),
            "compiled; the session starts"
        );
        let runs = session::Job {
            trace: self.trace.is_some(),
            kept: job.checkpoints.is_some(),
            prepared: self.prepare.min(encoded.len()),
            ..session::Job::new(&job.program, encoded.len())?
        };
        let mut inputs = encoded.as_slice();
        let owners = Owners { weights: &job.secrets, data: vec![&mut inputs], receiver: &mut () };
        let session = Instant::now();
        let done = self.session.run_with_bar(runs, owners, job.checkpoints.as_ref(), self.json)?;
        job.wall.online_seconds = done.seconds().iter().sum();
        // Runs may overlap at the ends.
        job.wall.sharing_seconds = (session.elapsed().as_secs_f64() - job.wall.online_seconds).max(0.0);
        tracing::info!(seconds = done.seconds().iter().sum::<f64>(), "the session is over");
        if let Some(path) = &self.trace {
            model::write_whole(path, &sordino::trace::chrome(&job.program, done.servers()))?;
        }
        let checking = Instant::now();
        let check = match &job.typed {
            Some(typed) if self.check => Some(checked(typed, &job, &done)?),
            _ => None,
        };
        job.wall.checking_seconds = checking.elapsed().as_secs_f64();
        job.wall.wall_seconds = start.elapsed().as_secs_f64();
        let mut report = self.report(&job, &done, check);
        report.calibrated_on_inputs = job.calibrated_on_inputs;
        report.iteration = job.checkpoints.as_ref().map(Checkpoints::first);
        if self.json {
            let text = serde_json::to_string(&report).map_err(|e| Error::Session(e.to_string()))?;
            print(&format!("{text}\n"))
        } else {
            self.show(&report, &job.program.topology().name(Endpoint(0)))
        }
    }

    /// A model of this command's owner, compiled.
    fn compiled(&self) -> Result<Job> {
        let path = self.model.as_deref().ok_or_else(|| Error::Usage("a model is needed".into()))?;
        let (mut wall, mut clock) = (Wall::default(), Instant::now());
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
        let mut graph = self.open.read(path)?;
        let named = |e| of_model(path, e);
        let single = self.inputs.typed(&mut graph).map_err(named)?;
        let preprocess = self.inputs.preprocess.clone().or_beside(path)?;
        let samples = self.inputs.read(&takes(&single.reference), &preprocess)?;
        wall.reading_seconds = lap();
        let calibration = self.compile.calibration_file(path);
        let (ranges, widths) = match &calibration {
            Some(file) => Calibration::of(file, path, &graph).map(|c| (c.ranges, c.widths))?,
            None => (Ranges::calibrate(&single.passed, &samples)?, None),
        };
        wall.ranges_seconds = lap();
        let batch = (self.batch as usize).min(samples.len());
        // A model that takes all it was exported with at once has no smaller batch, and needs none.
        let typed = if batch == 1 { single } else { model::typed(&graph, batch).map_err(named)? };
        drop(graph);
        let options = self.compile.options(widths)?;
        let (passed, ranges) = sordino_nn::tamed(&typed.passed, &ranges, options.margin);
        let typed = Typed { passed, ..typed };
        let (program, secrets) = model::compiled(&typed, &ranges, &options).map_err(named)?;
        wall.compiling_seconds = lap();
        let per_run = samples::batch(&program);
        Ok(Job {
            batches: samples.chunks(per_run).map(|c| samples::join(&program, c)).collect(),
            program,
            secrets,
            samples: samples.len(),
            classes: preprocess.classes,
            // A large model is not kept in floats for nothing.
            typed: self.check.then_some(typed),
            checkpoints: None,
            calibrated_on_inputs: calibration.is_none(),
            wall,
        })
    }

    /// A trained model that the servers hold.
    fn kept(&self, folder: &Path) -> Result<Job> {
        let (answer, checkpoints) = Answer::read(folder)?;
        let first = checkpoints.first();
        if let Some(why) = checkpoints.passed_over()? {
            eprintln!("infer: the model of iteration {first} answers, because {why}");
        } else if first < answer.iterations {
            let all = answer.iterations;
            eprintln!("infer: the training is not at its end; the model of iteration {first} of {all} answers");
        }
        let take = |p: &Port| (p.name.clone(), Take { name: p.name.clone(), dims: p.dims.clone(), batch: p.batch });
        let takes: Vec<(String, Take)> = answer.program.inputs.iter().map(take).collect();
        let preprocess = self.inputs.preprocess.clone().or(answer.preprocess);
        let samples = self.inputs.read(&takes, &preprocess)?;
        Ok(Job {
            samples: samples.len(),
            batches: samples,
            classes: preprocess.classes,
            program: answer.program,
            secrets: Secrets(vec![]),
            typed: None,
            checkpoints: Some(checkpoints),
            calibrated_on_inputs: false,
            wall: Wall::default(),
        })
    }

    fn report(&self, job: &Job, done: &Finished, check: Option<Check>) -> Report {
        let program = &job.program;
        let runs: Vec<Vec<Tensor>> = done.outputs.iter().map(|run| decode_outputs(program, run)).collect();
        let wholes = answers(program, &runs, job.samples);
        let outputs: Vec<Output> = program
            .outputs
            .iter()
            .zip(&wholes)
            .map(|(p, t)| Output { name: p.name.clone(), shape: t.dims.clone(), values: t.data.clone() })
            .collect();
        let first = samples::rows(program.outputs[0].batch, &wholes[0], job.samples);
        let mut best: Vec<Vec<Class>> = first.iter().map(|row| top(row, self.top)).collect();
        if let Some(names) = &job.classes {
            best.iter_mut().flatten().for_each(|c| c.name = names.get(c.class).cloned());
        }
        let samples = job.samples;
        let (ends, servers) = (|| done.ends.iter(), done.servers());
        let rounds = ends().map(|e| e.rounds).max().unwrap_or(0);
        let layers = |program: &Program| {
            let mut lines: Vec<LayerLine> = (0..program.layers.len())
                .map(|i| {
                    let of = |e: &EndReport| e.layer(i);
                    let first = servers.first().map(of).unwrap_or_default();
                    LayerLine {
                        name: program.layers[i].name.clone(),
                        op: program.layers[i].op.clone(),
                        figures: LayerReport { bytes: ends().map(|e| of(e).bytes).sum(), ..first },
                    }
                })
                .collect();
            // The last round is the opening's, which ends at the receiver.
            let seen: u32 = lines.iter().map(|l| l.figures.rounds).sum();
            if let Some(last) = lines.last_mut() {
                last.figures.rounds += rounds.saturating_sub(seen);
            }
            lines
        };
        Report {
            top: best,
            outputs,
            inputs: samples,
            runs: done.outputs.len(),
            seconds: done.seconds().iter().sum(),
            wall: job.wall,
            seconds_by_run: done.seconds(),
            bytes: done.bytes(),
            rounds,
            prepared: done.prepared(),
            calibrated_on_inputs: false,
            iteration: None,
            peak_rss_mb: match self.session.parties {
                Parties::InProcess => peak_rss_mb(),
                Parties::Processes => servers.iter().map(|e| e.peak_rss_mb).fold(0.0, f64::max),
            },
            check,
            layers: if self.profile { layers(program) } else { vec![] },
        }
    }

    fn show(&self, r: &Report, first: &str) -> Result<()> {
        let mut text = String::new();
        let shown = 10.min(r.top.len());
        for (i, classes) in r.top.iter().take(shown).enumerate() {
            let called = |c: &Class| match &c.name {
                Some(name) => name.clone(),
                None => c.class.to_string(),
            };
            let list: Vec<String> = classes.iter().map(|c| format!("{} ({:.4})", called(c), c.value)).collect();
            // One number is no choice among classes.
            match &classes[..] {
                [one] if r.outputs[0].values.len() == r.inputs => text += &format!("input {i}: {:.6}\n", one.value),
                _ => text += &format!("input {i}: class {}\n", list.join(", ")),
            }
        }
        if shown < r.top.len() {
            text += &format!("... and {} more inputs (--json has all)\n", r.top.len() - shown);
        }
        let memory = if self.session.parties == Parties::InProcess { "all parties" } else { "largest party" };
        text += &format!(
            "{:.3} s online in {} run(s), {} sent by all parties ({} on the wire), {} rounds, {:.0} MB of memory ({memory})\n",
            r.seconds,
            r.runs,
            human_bytes(r.bytes.payload),
            human_bytes(r.bytes.wire),
            r.rounds,
            r.peak_rss_mb
        );
        if let Some(p) = &r.prepared {
            text += &format!(
                "{} run(s) prepared before in {:.3} s, {} sent by all parties\n",
                p.queries,
                p.seconds,
                human_bytes(p.bytes)
            );
        }
        let w = &r.wall;
        text += &format!(
            "{:.2} s in all: reading {:.2}, ranges {:.2}, compiling {:.2}, sharing {:.2}, online {:.2}",
            w.wall_seconds,
            w.reading_seconds,
            w.ranges_seconds,
            w.compiling_seconds,
            w.sharing_seconds,
            w.online_seconds
        );
        text += &if r.check.is_some() { format!(", checking {:.2}\n", w.checking_seconds) } else { "\n".into() };
        if r.runs * self.batch as usize > r.inputs && r.runs > 1 {
            text += &format!(
                "{} inputs in runs of {}: the last run is filled up and costs as much\n",
                r.inputs, self.batch
            );
        }
        if self.model.as_deref().is_some_and(|m| self.inputs.plain_pictures(m)) {
            text += "pixels went in as 0 to 255; --scale, --mean, --std, --channels or a MODEL.toml say otherwise\n";
        }
        if r.calibrated_on_inputs {
            text += "scales come from these very inputs and are public; `sordino calibrate` takes them from others\n";
        }
        if let Some(c) = &r.check {
            text += &format!(
                "check against floats: largest error {:.2e}, mean relative error {:.4} %, top-1 agrees on {:.1} %, top-5 on {:.1} %\n",
                c.max_abs_err,
                100.0 * c.mean_rel_err,
                100.0 * c.top1_match,
                100.0 * c.top5_match
            );
            if c.not_finite > 0 {
                text += &format!("{} elements of the outputs are infinite, or no numbers, in floats\n", c.not_finite);
            }
            if c.float_doubt > DOUBT {
                text += &format!(
                    "floats differ by {:.4} % from themselves in another order: they are no measure here\n",
                    100.0 * c.float_doubt
                );
            }
            for overflow in &c.overflows {
                text += &format!("overflow: {overflow}\n");
            }
            for l in &c.layers {
                text += &format!("off: layer {}: mean relative error {:.4} %\n", l.name, 100.0 * l.mean_rel_err);
            }
        }
        if !r.layers.is_empty() {
            text += &format!(
                "seconds at {}: in all, computing, expanding keys, sending, waiting\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6}  layer\n",
                first, "seconds", "compute", "masks", "send", "wait", "bytes", "rounds"
            );
            let mut total = LayerLine { name: "all layers".into(), ..LayerLine::default() };
            for l in &r.layers {
                text += &profile_line(l);
                total.figures.add(&l.figures);
            }
            text += &profile_line(&total);
        }
        print(&text)
    }
}

fn profile_line(l: &LayerLine) -> String {
    let op = if l.op.is_empty() { String::new() } else { format!(" ({})", l.op) };
    let (name, l) = (&l.name, &l.figures);
    let compute = l.seconds - l.waited - l.sending - l.randomness;
    format!(
        "{:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>11} {:>6}  {name}{op}\n",
        l.seconds,
        compute,
        l.randomness,
        l.sending,
        l.waited,
        human_bytes(l.bytes),
        l.rounds
    )
}

/// What all runs answered, whole.
fn answers(program: &Program, runs: &[Vec<Tensor>], samples: usize) -> Vec<Tensor> {
    let one = |(i, p): (usize, &Port)| {
        let runs: Vec<Tensor> = runs.iter().map(|r| r[i].clone()).collect();
        samples::whole(p.batch, &runs, samples, samples::batch(program))
    };
    program.outputs.iter().enumerate().map(one).collect()
}
