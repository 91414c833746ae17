//! `sordino infer`.

use super::{Compile, Inputs, LinkArg, Parties, human_bytes, input_dims, parse_link, positive, print};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sordino::model::{self, Calibration, Typed};
use sordino::processes::{self, Processes};
use sordino::report::{Bytes, Check, EndReport, LayerLine, Output, Report, check, peak_rss_mb, top};
use sordino::session::{Driven, InProcess, Shared, fresh_id, in_process};
use sordino::{Error, Result};
use sordino_mpc::{Clear, Step};
use sordino_nn::exec::{Loaded, decode_outputs, encode_inputs};
use sordino_nn::program::{Program, Secrets};
use sordino_nn::{Ranges, Tensor, exec, float};
use sordino_ring::Cpu;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Arguments of `infer`.
#[derive(Args)]
pub(crate) struct Infer {
    /// The model, an ONNX file. Preprocessing may stand beside it in MODEL.toml.
    model: PathBuf,
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
    /// Where the parties run.
    #[arg(long, value_enum, default_value = "in-process")]
    parties: Parties,
    /// Make links slow: none, lan (0.2 ms, 1 Gb/s), wan (40 ms, 100 Mb/s), or LATENCY,BANDWIDTH such as 5ms,200Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    link: LinkArg,
    /// Samples per run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Seconds a party waits for another before it gives up.
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// Worker threads per party [default: a third of the processors].
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
}

impl Infer {
    pub(crate) fn run(self) -> Result<()> {
        if !(0.05..=86400.0).contains(&self.timeout) {
            return Err(Error::Usage(format!("--timeout {} must be between 0.05 and 86400 seconds", self.timeout)));
        }
        self.trace.as_deref().map(model::writable).transpose()?;
        let graph = model::read(&self.model)?;
        let single = model::typed(&graph, 1)?;
        let samples = self.inputs.read(&self.model, &input_dims(&single.reference)?)?;
        let calibration = self.compile.calibration_file(&self.model);
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

        let batches: Vec<Tensor> = samples.chunks(batch).map(|c| join(c, batch)).collect();
        let encoded = batches
            .iter()
            .map(|b| Ok(encode_inputs(&program, std::slice::from_ref(b))?))
            .collect::<Result<Vec<_>>>()?;
        tracing::info!(
            instructions = program.instructions.len(),
            products = exec::macs(&program),
            runs = encoded.len(),
            "compiled; the session starts"
        );
        let (driven, servers) = self.session(&program, &secrets, &encoded)?;
        tracing::info!(seconds = driven.seconds.iter().sum::<f64>(), "the session is over");
        if let Some(path) = &self.trace {
            model::write_whole(path, &sordino::trace::chrome(&program, &servers))?;
        }
        let check = self.check.then(|| self.checked(&typed, &program, &secrets, &batches, &driven, samples.len()));
        let mut report = self.report(&program, &driven, &servers, samples.len(), check.transpose()?);
        report.calibrated_on_inputs = calibration.is_none();
        if self.json {
            let text = serde_json::to_string(&report).map_err(|e| Error::Session(e.to_string()))?;
            print(&format!("{text}\n"))
        } else {
            self.show(&report)
        }
    }

    fn session(
        &self,
        program: &Program,
        secrets: &Secrets,
        inputs: &[Vec<Vec<i64>>],
    ) -> Result<(Driven, Vec<EndReport>)> {
        let shared = Shared {
            session: fresh_id()?,
            program,
            runs: inputs.len(),
            trace: self.trace.is_some(),
            checkpoints: None,
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.unwrap_or(cores / 3).max(1);
        let deadline = Duration::from_secs_f64(self.timeout);
        let progress = AtomicU64::new(0);
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if std::io::stderr().is_terminal() && !self.json {
                scope.spawn(|| show_progress(&progress, &finished, (program.layers.len() * inputs.len()) as u64));
            }
            let result = match self.parties {
                Parties::InProcess => {
                    let _ = ctrlc::set_handler(|| {
                        eprintln!("sordino: interrupted");
                        std::process::exit(130);
                    });
                    let setup = InProcess { link: self.link.0, deadline, threads };
                    in_process(shared, &setup, secrets, &mut &*inputs, &progress)
                }
                Parties::Processes => {
                    let interrupted = Arc::new(AtomicBool::new(false));
                    let flag = Arc::clone(&interrupted);
                    // Without a handler an interrupt still ends everything: the children notice that we are gone.
                    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
                    let setup = Processes { link: self.link.0, deadline, threads, interrupted };
                    processes::run(shared, &setup, secrets, &mut &*inputs, &progress)
                }
            };
            finished.store(true, Ordering::Relaxed);
            result
        })
    }

    fn checked(
        &self,
        typed: &Typed,
        program: &Program,
        secrets: &Secrets,
        batches: &[Tensor],
        driven: &Driven,
        samples: usize,
    ) -> Result<Check> {
        let (mut got, mut want) = (vec![], vec![]);
        for (batch, outputs) in batches.iter().zip(&driven.outputs) {
            let reference = float::evaluate(&typed.reference, std::slice::from_ref(batch), |_, _| ())?;
            got.extend(rows(&decode_outputs(program, outputs)[0]));
            want.extend(rows(&reference[0]));
        }
        got.truncate(samples);
        want.truncate(samples);
        let mut check = check(&got, &want);
        check.overflows = overflows(typed, program, secrets, batches)?;
        Ok(check)
    }

    fn report(
        &self,
        program: &Program,
        driven: &Driven,
        servers: &[EndReport],
        samples: usize,
        check: Option<Check>,
    ) -> Report {
        let mut outputs: Vec<Output> = program
            .outputs
            .iter()
            .map(|p| Output { name: p.name.clone(), shape: p.dims.clone(), values: vec![] })
            .collect();
        for run in &driven.outputs {
            for (output, tensor) in outputs.iter_mut().zip(decode_outputs(program, run)) {
                output.values.extend(tensor.data);
            }
        }
        for output in &mut outputs {
            let per_sample = output.shape.iter().product::<usize>() / output.shape[0].max(1);
            output.shape[0] = samples;
            output.values.truncate(samples * per_sample);
        }
        let first = &outputs[0];
        let per_sample = first.values.len() / samples.max(1);
        let best = first.values.chunks(per_sample.max(1)).map(|row| top(row, self.top)).collect();
        let mut by_party = [0; 4];
        for (slot, end) in by_party.iter_mut().zip(servers.iter().chain([&driven.report])) {
            *slot = end.payload;
        }
        let ends = || servers.iter().chain([&driven.report]);
        let rounds = ends().map(|e| e.rounds).max().unwrap_or(0);
        let layers = |program: &Program| {
            let mut lines: Vec<LayerLine> = (0..program.layers.len())
                .map(|i| {
                    let of = |e: &EndReport| e.layer(i);
                    let first = servers.first().map(of).unwrap_or_default();
                    LayerLine {
                        name: program.layers[i].name.clone(),
                        op: program.layers[i].op.clone(),
                        seconds: first.seconds,
                        waited: first.waited,
                        sending: first.sending,
                        randomness: first.randomness,
                        bytes: ends().map(|e| of(e).bytes).sum(),
                        rounds: first.rounds,
                    }
                })
                .collect();
            // The last round is the opening's, which ends at the client.
            let seen: u32 = lines.iter().map(|l| l.rounds).sum();
            if let Some(last) = lines.last_mut() {
                last.rounds += rounds.saturating_sub(seen);
            }
            lines
        };
        Report {
            top: best,
            outputs,
            inputs: samples,
            runs: driven.outputs.len(),
            seconds: driven.seconds.iter().sum(),
            seconds_by_run: driven.seconds.clone(),
            bytes: Bytes { payload: ends().map(|e| e.payload).sum(), wire: ends().map(|e| e.wire).sum(), by_party },
            rounds,
            calibrated_on_inputs: false,
            peak_rss_mb: match self.parties {
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
        let memory = if self.parties == Parties::InProcess { "all parties" } else { "largest party" };
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
        if self.inputs.plain_pictures(&self.model) {
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
                total.seconds += l.seconds;
                total.waited += l.waited;
                total.sending += l.sending;
                total.randomness += l.randomness;
                total.bytes += l.bytes;
                total.rounds += l.rounds;
            }
            text += &profile_line(&total);
        }
        print(&text)
    }
}

fn profile_line(l: &LayerLine) -> String {
    let compute = l.seconds - l.waited - l.sending - l.randomness;
    let op = if l.op.is_empty() { String::new() } else { format!(" ({})", l.op) };
    format!(
        "{:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>9.4} {:>11} {:>6}  {}{op}\n",
        l.seconds,
        compute,
        l.randomness,
        l.sending,
        l.waited,
        human_bytes(l.bytes),
        l.rounds,
        l.name
    )
}

/// Samples of batch one as one batch; the last is repeated to fill it.
fn join(samples: &[Tensor], batch: usize) -> Tensor {
    let mut dims = samples[0].dims.clone();
    dims[0] = batch;
    let last = samples.len() - 1;
    let data = (0..batch).flat_map(|i| samples[i.min(last)].data.iter().copied()).collect();
    Tensor::new(&dims, data)
}

fn rows(x: &Tensor) -> Vec<Vec<f32>> {
    let n = x.data.len() / x.dims[0].max(1);
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

fn show_progress(progress: &AtomicU64, finished: &AtomicBool, total: u64) {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} layers {elapsed}") {
        bar.set_style(style);
    }
    while !finished.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        bar.set_position(progress.load(Ordering::Relaxed).min(total));
    }
    bar.finish_and_clear();
}
