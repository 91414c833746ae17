//! `sordino ask`.

use super::{Running, address, identity};
use crate::{Inputs, human_bytes, json, positive, print};
use clap::Args;
use serde::Serialize;
use sordino::ahead::Ahead;
use sordino::inputs::{Preprocess, Take};
use sordino::price::Price;
use sordino::report::{Class, Output, Prepared, top};
use sordino::session::Outputs;
use sordino::two::{Asking, Offer};
use sordino::{Error, Result, samples};
use sordino_mpc::{Linear, Transfers, Truncation, two};
use sordino_nn::Tensor;
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::program::Port;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

/// Arguments of `ask`.
#[derive(Args)]
#[command(mut_arg("input", |input| input.required(false).required_unless_present("show")))]
pub(crate) struct AskArgs {
    /// The host's address, such as models.example.org:7000.
    address: String,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    inputs: Inputs,
    /// Refuse a host whose queries send more than so many megabytes.
    #[arg(long, default_value_t = 16_384.0, value_name = "MB", value_parser = crate::megabytes)]
    most_megabytes: f64,
    /// Draw the strings of all transfers of so many queries before the first one, so that these are answered sooner; takes memory.
    #[arg(long, value_name = "QUERIES", default_value_t = 0)]
    prepare: usize,
    /// Show what is offered and what it would cost, and ask nothing.
    #[arg(long)]
    show: bool,
    /// Show this many best classes.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a client is told before it asks.
#[derive(Serialize)]
struct Offered {
    model: String,
    layers: usize,
    inputs: Vec<Vec<usize>>,
    narrow_bits: u32,
    wide_bits: u32,
    transfers: Transfers,
    linear: Linear,
    truncation: Truncation,
    queries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queries_left: Option<u64>,
    bytes: u64,
    rounds: u32,
    memory_mb: f64,
    preprocess: Preprocess,
}

impl Offered {
    fn new(offer: &Offer, left: Option<u64>, price: Price) -> Self {
        let (program, settings) = (&offer.program, offer.program.settings);
        Self {
            model: offer.model.clone(),
            layers: program.layers.len(),
            inputs: program.inputs.iter().map(|p| p.dims.clone()).collect(),
            narrow_bits: settings.narrow_bits,
            wide_bits: settings.wide_bits,
            transfers: settings.transfers,
            linear: settings.linear,
            truncation: settings.truncation,
            queries: offer.most_runs,
            queries_left: left,
            bytes: price.bytes,
            rounds: price.rounds,
            memory_mb: price.memory as f64 / 1048576.0,
            preprocess: offer.preprocess.clone(),
        }
    }

    fn shown(&self) -> String {
        let inputs: Vec<String> = self.inputs.iter().map(|dims| format!("{dims:?}")).collect();
        format!(
            "{}: {} layers, {} of input, {} and {} rounds a query, {} queries at most{}, at most about {:.0} MB of memory; rings of {} and {} bits, {} transfers, products {}, truncations {}\n",
            self.model,
            self.layers,
            inputs.join(" and "),
            human_bytes(self.bytes),
            self.rounds,
            self.queries,
            self.queries_left.map(|left| format!(" on a connection, {left} left")).unwrap_or_default(),
            self.memory_mb,
            self.narrow_bits,
            self.wide_bits,
            format!("{:?}", self.transfers).to_lowercase(),
            match self.linear {
                Linear::He => "on encrypted values",
                Linear::Ot => "by transfers",
                Linear::Auto => "on encrypted values or by transfers",
            },
            match self.truncation {
                Truncation::Exact => "exact",
                Truncation::OneBit => "off by a unit at most",
            }
        )
    }
}

/// Tells answers as they come, so that none is lost with a host.
struct Teller<'a> {
    outputs: &'a [Port],
    batch: usize,
    samples: usize,
    classes: Option<Vec<String>>,
    top: usize,
    quiet: bool,
}

impl Outputs for Teller<'_> {
    fn opened(&mut self, run: usize, outputs: &[Vec<i64>], _seconds: f64) {
        let (Some(port), Some(values)) = (self.outputs.first(), outputs.first()) else { return };
        if self.quiet {
            return;
        }
        let data = values.iter().map(|&v| (v as f64 / port.scale) as f32).collect();
        let rows = samples::rows(port.batch, &Tensor::new(&port.dims, data), self.batch);
        for (i, row) in rows.iter().enumerate().filter(|(i, _)| run * self.batch + i < self.samples) {
            let called = |class: usize| match self.classes.as_ref().and_then(|names| names.get(class)) {
                Some(name) => name.clone(),
                None => class.to_string(),
            };
            let best: Vec<String> =
                top(row, self.top).iter().map(|c| format!("{} ({:.4})", called(c.class), c.value)).collect();
            // A reader that has gone away is noticed at the end.
            let _ = print(&format!("input {}: class {}\n", run * self.batch + i, best.join(", ")));
        }
    }
}

#[derive(Serialize)]
struct Answered {
    model: String,
    top: Vec<Vec<Class>>,
    outputs: Vec<Output>,
    seconds: f64,
    wall_seconds: f64,
    bytes_sent: u64,
    rounds: u32,
    /// What was done before the first query; this party's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    prepared: Option<Prepared>,
}

impl AskArgs {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        let identity = identity(&self.running.identity, 1)?;
        self.inputs.are_there()?;
        let stop = AtomicBool::new(false);
        let setup = self.running.setup(&stop);
        let host = address(&self.address)?;
        if TcpStream::connect_timeout(&host, setup.deadline.min(Duration::from_secs(1))).is_err() {
            eprintln!("ask: nobody answers at {host} yet; trying for {:.0} seconds", setup.deadline.as_secs_f64());
        }
        let asking = Asking::dial(host, &identity, setup)?;
        let program = &asking.offer.program;
        let price = Price::of::<two::Declared>(program)?;
        let offered = Offered::new(&asking.offer, asking.left, price);
        if self.show {
            asking.leave()?;
            let text = if self.json { json(&offered)? } else { offered.shown() };
            return print(&text);
        }
        if !self.json {
            eprint!("{}", offered.shown());
        }
        if price.bytes as f64 > 1e6 * self.most_megabytes {
            let (bytes, most) = (human_bytes(price.bytes), self.most_megabytes);
            asking.leave()?;
            return Err(Error::Usage(format!(
                "a query sends {bytes}, more than the {most} MB of --most-megabytes; a larger limit lets it"
            )));
        }
        let take = |p: &Port| (p.name.clone(), Take { name: p.name.clone(), dims: p.dims.clone(), batch: p.batch });
        let per_run = samples::batch(program);
        // One sample at a time, whatever a run takes.
        let single = |p: &Port| {
            let (name, mut take) = take(p);
            take.batch.into_iter().for_each(|axis| take.dims[axis] /= per_run.max(1));
            (name, take)
        };
        let preprocess = self.inputs.preprocess.clone().or(asking.offer.preprocess.clone());
        let given = self.inputs.read(&program.inputs.iter().map(single).collect::<Vec<_>>(), &preprocess)?;
        let batches: Vec<_> = given.chunks(per_run).map(|c| samples::join(program, c)).collect();
        let encoded = batches.iter().map(|b| Ok(encode_inputs(program, b)?)).collect::<Result<Vec<_>>>()?;
        let (mut inputs, mut told) = (encoded.as_slice(), None);
        let mut teller = Teller {
            outputs: &asking.offer.program.outputs.clone(),
            batch: per_run,
            samples: given.len(),
            classes: preprocess.classes.clone(),
            top: self.top,
            quiet: self.json,
        };
        let mut waiting = |before: u64| {
            if told != Some(before) {
                eprintln!("ask: waiting for {before} other client(s)");
            }
            told = Some(before);
        };
        let runs = [encoded.len(), self.prepare.min(encoded.len())];
        if runs[1] > 0 && !self.json {
            let each = Ahead::of(program)?.bytes()[1] as f64 / 1048576.0;
            eprintln!("ask: preparing {} queries, which takes {:.0} MB more of memory", runs[1], runs[1] as f64 * each);
        }
        let (offer, ended) = asking.ask(&mut inputs, &mut teller, runs, setup, &mut waiting, &AtomicU64::new(0))?;
        let runs: Vec<Vec<Tensor>> = ended.outputs.iter().map(|run| decode_outputs(&offer.program, run)).collect();
        let whole = |(i, p): (usize, &Port)| {
            let runs: Vec<Tensor> = runs.iter().map(|r| r[i].clone()).collect();
            samples::whole(p.batch, &runs, given.len(), per_run)
        };
        let wholes: Vec<Tensor> = offer.program.outputs.iter().enumerate().map(whole).collect();
        let first = samples::rows(offer.program.outputs[0].batch, &wholes[0], given.len());
        let mut best: Vec<Vec<Class>> = first.iter().map(|row| top(row, self.top)).collect();
        if let Some(names) = &preprocess.classes {
            best.iter_mut().flatten().for_each(|c| c.name = names.get(c.class).cloned());
        }
        let output =
            |(p, t): (&Port, &Tensor)| Output { name: p.name.clone(), shape: t.dims.clone(), values: t.data.clone() };
        let report = &ended.report;
        self.tell(&Answered {
            model: offer.model,
            top: best,
            outputs: offer.program.outputs.iter().zip(&wholes).map(output).collect(),
            seconds: report.runs.iter().map(|r| r.seconds).sum(),
            wall_seconds: start.elapsed().as_secs_f64(),
            bytes_sent: report.payload,
            rounds: report.rounds,
            prepared: report.prepared,
        })
    }

    fn tell(&self, a: &Answered) -> Result<()> {
        if self.json {
            return print(&json(a)?);
        }
        // The answers themselves have been told as they came.
        let mut text = String::new();
        if let Some(p) = &a.prepared {
            let sent = human_bytes(p.bytes);
            text = format!("{} queries prepared before in {:.3} s, {sent} sent by this party\n", p.queries, p.seconds);
        }
        text += &format!(
            "{:.3} s online, {:.2} s in all, {} sent by this party, {} rounds\n",
            a.seconds,
            a.wall_seconds,
            human_bytes(a.bytes_sent),
            a.rounds
        );
        print(&text)
    }
}
