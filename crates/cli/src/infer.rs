//! `sordino infer`.

use super::session::Session;
use super::{Compile, Inputs, Parties, human_bytes, input_dims, positive, print};
use clap::Args;
use sordino::answer::Answer;
use sordino::checkpoint::Checkpoints;
use sordino::model::{self, Calibration, Typed};
use sordino::owners::{Finished, Owners};
use sordino::report::{Check, EndReport, LayerLine, LayerReport, Output, Report, check, peak_rss_mb, top};
use sordino::session;
use sordino::{Error, Result};
use sordino_mpc::{Clear, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Ranges, Tensor, exec, float};
use sordino_ring::Cpu;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    batches: Vec<Tensor>,
    samples: usize,
    /// For comparing with floats, if the model is here.
    typed: Option<Typed>,
    /// The shares the servers answer with, if it is not.
    checkpoints: Option<Checkpoints>,
    calibrated_on_inputs: bool,
}

impl Infer {
    pub(crate) fn run(self) -> Result<()> {
        self.trace.as_deref().map(model::writable).transpose()?;
        let job = match &self.shares {
            Some(folder) => self.kept(folder)?,
            None => self.compiled()?,
        };
        let encoded = job
            .batches
            .iter()
            .map(|b| Ok(encode_inputs(&job.program, std::slice::from_ref(b))?))
            .collect::<Result<Vec<_>>>()?;
        tracing::info!(
            instructions = job.program.instructions.len(),
            products = exec::macs(&job.program),
            runs = encoded.len(),
            "compiled; the session starts"
        );
        let runs = session::Job {
            trace: self.trace.is_some(),
            kept: job.checkpoints.is_some(),
            ..session::Job::new(&job.program, encoded.len())?
        };
        let mut inputs = encoded.as_slice();
        let owners = Owners { weights: &job.secrets, data: vec![&mut inputs], receiver: &mut () };
        let done = self.session.run_with_bar(runs, owners, job.checkpoints.as_ref(), self.json)?;
        tracing::info!(seconds = done.seconds().iter().sum::<f64>(), "the session is over");
        if let Some(path) = &self.trace {
            model::write_whole(path, &sordino::trace::chrome(&job.program, done.servers()))?;
        }
        let check = match &job.typed {
            Some(typed) if self.check => Some(self.checked(typed, &job, &done)?),
            _ => None,
        };
        let mut report = self.report(&job.program, &done, job.samples, check);
        report.calibrated_on_inputs = job.calibrated_on_inputs;
        report.iteration = job.checkpoints.as_ref().map(Checkpoints::first);
        if self.json {
            let text = serde_json::to_string(&report).map_err(|e| Error::Session(e.to_string()))?;
            print(&format!("{text}\n"))
        } else {
            self.show(&report)
        }
    }

    /// A model of this command's owner, compiled.
    fn compiled(&self) -> Result<Job> {
        let path = self.model.as_deref().ok_or_else(|| Error::Usage("a model is needed".into()))?;
        let graph = model::read(path)?;
        let single = model::typed(&graph, 1)?;
        let preprocess = self.inputs.preprocess.clone().or_beside(path)?;
        let samples = self.inputs.read(&input_dims(&single.reference)?, preprocess)?;
        let calibration = self.compile.calibration_file(path);
        let (ranges, widths) = match &calibration {
            Some(path) => Calibration::read(path).map(|c| (c.ranges, c.widths))?,
            None => {
                let all: Vec<Vec<Tensor>> = samples.iter().map(|s| vec![s.clone()]).collect();
                (Ranges::calibrate(&single.passed, &all)?, None)
            }
        };
        let batch = (self.batch as usize).min(samples.len());
        let typed = if batch == 1 { single } else { model::typed(&graph, batch)? };
        drop(graph);
        let (program, secrets) = model::compiled(&typed, &ranges, &self.compile.options(widths)?)?;
        Ok(Job {
            program,
            secrets,
            batches: samples.chunks(batch).map(|c| join(c, batch)).collect(),
            samples: samples.len(),
            typed: Some(typed),
            checkpoints: None,
            calibrated_on_inputs: calibration.is_none(),
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
        let [port] = &answer.program.inputs[..] else {
            return Err(Error::Usage("the trained model has several inputs".into()));
        };
        let samples = self.inputs.read(&port.dims, self.inputs.preprocess.clone().or(answer.preprocess))?;
        Ok(Job {
            samples: samples.len(),
            batches: samples,
            program: answer.program,
            secrets: Secrets(vec![]),
            typed: None,
            checkpoints: Some(checkpoints),
            calibrated_on_inputs: false,
        })
    }

    fn checked(&self, typed: &Typed, job: &Job, done: &Finished) -> Result<Check> {
        let (mut got, mut want) = (vec![], vec![]);
        for (batch, outputs) in job.batches.iter().zip(&done.outputs) {
            let reference = float::evaluate(&typed.reference, std::slice::from_ref(batch), |_, _| ())?;
            got.extend(rows(&decode_outputs(&job.program, outputs)[0]));
            want.extend(rows(&reference[0]));
        }
        got.truncate(job.samples);
        want.truncate(job.samples);
        let mut check = check(&got, &want);
        check.overflows = overflows(typed, &job.program, &job.secrets, &job.batches)?;
        Ok(check)
    }

    fn report(&self, program: &Program, done: &Finished, samples: usize, check: Option<Check>) -> Report {
        let mut outputs: Vec<Output> = program
            .outputs
            .iter()
            .map(|p| Output { name: p.name.clone(), shape: p.dims.clone(), values: vec![] })
            .collect();
        for run in &done.outputs {
            for (output, tensor) in outputs.iter_mut().zip(decode_outputs(program, run)) {
                output.values.extend(tensor.data);
            }
        }
        for output in &mut outputs {
            // One number a run has no axis for the runs.
            let Some(batch) = output.shape.first().copied() else {
                output.shape = vec![output.values.len()];
                continue;
            };
            let per_sample = output.shape.iter().product::<usize>() / batch.max(1);
            output.shape[0] = samples;
            output.values.truncate(samples * per_sample);
        }
        let first = &outputs[0];
        let per_sample = first.values.len() / samples.max(1);
        let best = first.values.chunks(per_sample.max(1)).map(|row| top(row, self.top)).collect();
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
            seconds_by_run: done.seconds(),
            bytes: done.bytes(),
            rounds,
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

    fn show(&self, r: &Report) -> Result<()> {
        let mut text = String::new();
        let shown = 10.min(r.top.len());
        for (i, classes) in r.top.iter().take(shown).enumerate() {
            let list: Vec<String> = classes.iter().map(|c| format!("{} ({:.4})", c.class, c.value)).collect();
            text += &format!("input {i}: class {}\n", list.join(", "));
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
            for overflow in &c.overflows {
                text += &format!("overflow: {overflow}\n");
            }
        }
        if !r.layers.is_empty() {
            text += &format!(
                "seconds at server 0: in all, computing, expanding keys, sending, waiting\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6}  layer\n",
                "seconds", "compute", "masks", "send", "wait", "bytes", "rounds"
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

/// Samples of batch one as one batch; the last is repeated to fill it.
fn join(samples: &[Tensor], batch: usize) -> Tensor {
    let mut dims = samples[0].dims.clone();
    dims.iter_mut().take(1).for_each(|d| *d = batch);
    let last = samples.len() - 1;
    let data = (0..batch).flat_map(|i| samples[i.min(last)].data.iter().copied()).collect();
    Tensor::new(&dims, data)
}

fn rows(x: &Tensor) -> Vec<Vec<f32>> {
    let n = x.data.len() / x.dims.first().copied().unwrap_or(1).max(1);
    x.data.chunks(n.max(1)).map(<[f32]>::to_vec).collect()
}

/// Names the layers whose values leave their ring: results by the float reference, whose values cannot wrap, and what
/// lies within a layer by the fixed-point oracle.
fn overflows(typed: &Typed, program: &Program, secrets: &Secrets, batches: &[Tensor]) -> Result<Vec<String>> {
    let clear = Clear::new(Cpu::new(1)).with(program.settings);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&clear, at.child("load"), program, Some(secrets))?;
    clear.take_overflow();
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    let places: BTreeMap<&str, usize> =
        program.layers.iter().enumerate().filter_map(|(i, l)| Some((l.result.as_ref()?.0.as_str(), i))).collect();
    for batch in batches {
        let mut wild = vec![];
        float::evaluate(&typed.passed, std::slice::from_ref(batch), |node, value| {
            let place = places.get(typed.passed.names[node.output].as_str());
            if let Some((&layer, capacity)) = place.and_then(|l| Some((l, program.capacity(*l)?)))
                && f64::from(value.max_abs()) >= capacity
            {
                wild.push((layer, value.max_abs(), capacity));
            }
        })?;
        for (layer, value, capacity) in wild {
            let name = &program.layers[layer].name;
            let line = format!("layer {name}: a value of {value:.4e} does not fit its {capacity:.4e}");
            found.entry(layer).or_insert(line);
        }
        let encoded = encode_inputs(program, std::slice::from_ref(batch))?;
        let mut layer = 0;
        let mut note = |layer: usize| {
            if let Some(o) = clear.take_overflow() {
                let name = &program.layers[layer].name;
                let line = format!("layer {name}: {} integers within it, such as {}, do not fit", o.count, o.value);
                found.entry(layer).or_insert(line);
            }
        };
        loaded.run(&clear, at.child("run"), Some(&encoded), |next| {
            note(layer);
            layer = next;
        })?;
        note(layer);
    }
    Ok(found.into_values().collect())
}
