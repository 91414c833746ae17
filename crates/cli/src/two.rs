//! `sordino host`, `sordino ask` and `sordino cert`: two parties on two machines.

use super::service::{Made, ServerCertificate, make_authority};
use super::session::seconds;
use super::{Compile, Inputs, Open, human_bytes, json, of_model, positive, print};
use clap::{Args, Subcommand};
use serde::Serialize;
use sordino::inputs::{Preprocess, Take};
use sordino::model::{self, Calibration};
use sordino::price::Price;
use sordino::report::{Class, Output, top};
use sordino::session::Outputs;
use sordino::tls::{Authority, Identity};
use sordino::two::{Asking, Host, Offer, Setup, Visit};
use sordino::{Error, Result, samples};
use sordino_mpc::{Linear, Topology, Transfers, Truncation, two};
use sordino_net::Endpoint;
use sordino_nn::exec::{decode_outputs, encode_inputs};
use sordino_nn::program::Port;
use sordino_nn::{Ranges, Tensor};
use sordino_service::certificates::Whose;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime};

/// Arguments of `cert`.
#[derive(Args)]
pub(crate) struct Cert {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// An authority, whose signatures three servers and their clients trust.
    Ca {
        /// The folder it is made in.
        #[arg(long, short, value_name = "DIR")]
        output: PathBuf,
    },
    /// A certificate for one of three servers.
    Server(ServerCertificate),
    /// A certificate for a client of three servers: an owner of models or of data.
    Client {
        /// Its name: letters, digits and hyphens.
        name: String,
        #[command(flatten)]
        made: Made,
    },
    /// A certificate for an operator, who may look at a server's page and metrics.
    Operator {
        /// Its name: letters, digits and hyphens.
        name: String,
        #[command(flatten)]
        made: Made,
    },
    /// Identities for a host and its client: two files, of which each party gets its own. The authority that signs them is not kept.
    Pair {
        /// The folder they are written to, as host.identity and client.identity.
        #[arg(long, short)]
        output: PathBuf,
        /// Days until they expire.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

const HOST_FILE: &str = "host.identity";
const CLIENT_FILE: &str = "client.identity";

impl Cert {
    pub(crate) fn run(self) -> Result<()> {
        let (output, days) = match self.what {
            What::Ca { output } => return make_authority(&output),
            What::Server(server) => return server.made.run(&Whose::Server(usize::from(server.party))),
            What::Client { name, made } => return made.run(&Whose::Client(name)),
            What::Operator { name, made } => return made.run(&Whose::Operator(name)),
            What::Pair { output, days } => (output, days),
        };
        let failed = |e: &dyn std::fmt::Display| Error::Session(format!("cannot make certificates: {e}"));
        std::fs::create_dir_all(&output).map_err(Error::at(&output))?;
        let (authority, topology) = (Authority::new().map_err(|e| failed(&e))?, Topology::two());
        let (now, day) = (SystemTime::now(), Duration::from_secs(86400));
        let mut text = String::new();
        for (end, name, whose) in [(0, HOST_FILE, "the host"), (1, CLIENT_FILE, "the client")] {
            let identity = authority.identity_between(&topology, Endpoint(end), now - day, now + days * day);
            let json = zeroize::Zeroizing::new(
                serde_json::to_vec(&identity.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?,
            );
            let path = output.join(name);
            if path.exists() {
                let why = "it is there already; identities are never replaced".into();
                return Err(Error::File { path, why });
            }
            model::write_own(&path, &json)?;
            text += &format!("{}: for {whose} alone, for {days} days\n", path.display());
        }
        print(&text)
    }
}

/// Reads an identity, which must be of this end.
fn identity(path: &Path, end: u8) -> Result<Identity> {
    let text = zeroize::Zeroizing::new(std::fs::read(path).map_err(Error::at(path))?);
    let fault = |why: String| Error::File { path: path.into(), why };
    let none = |_| fault("it is no identity; `sordino cert pair` writes them".into());
    let identity: Identity = serde_json::from_slice(&text).map_err(none)?;
    if identity.is_for(&Topology::two(), Endpoint(end)) {
        return Ok(identity);
    }
    let (whose, name) = if end == 0 { ("a host", HOST_FILE) } else { ("a client", CLIENT_FILE) };
    Err(fault(format!("it is not the identity of {whose}, which `sordino cert pair` writes as {name}")))
}

/// How a party of two runs.
#[derive(Args, Clone)]
struct Running {
    /// This party's identity, as `sordino cert pair` writes it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Seconds the other party is waited for.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    timeout: f64,
    /// Worker threads [default: all processors].
    #[arg(long, value_parser = super::workers)]
    threads: Option<usize>,
}

impl Running {
    fn setup<'a>(&self, stop: &'a AtomicBool) -> Setup<'a> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.unwrap_or(cores);
        Setup { deadline: Duration::from_secs_f64(self.timeout), threads, stop }
    }
}

/// Arguments of `host`.
#[derive(Args)]
pub(crate) struct HostArgs {
    /// The model, an ONNX file. Its calibration must stand beside it, or be given; preprocessing may stand beside it in MODEL.toml.
    model: PathBuf,
    /// Where to listen, such as 0.0.0.0:7000.
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    open: Open,
    #[command(flatten)]
    compile: Compile,
    #[command(flatten)]
    preprocess: Preprocess,
    /// Samples per query.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Queries that a client may ask on one connection; every answer tells a little of the model.
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    queries: usize,
    /// Stop after so many clients have been answered [default: go on].
    #[arg(long, value_parser = positive)]
    clients: Option<usize>,
}

fn address(text: &str) -> Result<SocketAddr> {
    let fault =
        |why: String| Error::Usage(format!("{text}: {why}; an address is a host and a port, such as 10.0.0.1:7000"));
    text.to_socket_addrs().map_err(|e| fault(e.to_string()))?.next().ok_or_else(|| fault("no such host".into()))
}

impl HostArgs {
    pub(crate) fn run(self) -> Result<()> {
        let path = &self.model;
        let named = |e| of_model(path, e);
        let identity = identity(&self.running.identity, 0)?;
        let listen = address(&self.listen)?;
        let graph = self.open.read(path)?;
        let calibration = self.compile.needed_calibration(path)?;
        let (ranges, widths): (Ranges, _) =
            Calibration::of(&calibration, path, &graph).map(|c| (c.ranges, c.widths))?;
        let typed = model::typed(&graph, self.batch as usize).map_err(named)?;
        let options = self.compile.clone().two()?.options(widths)?;
        let (program, secrets) = model::compiled(&typed, &ranges, &options).map_err(named)?;
        drop(typed);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let preprocess = self.preprocess.clone().or_beside(path)?;
        let offer = Offer { model: name, program, preprocess, most_runs: self.queries as u64 };
        let price = Price::of::<two::Declared>(&offer.program)?;
        let stop = AtomicBool::new(false);
        let setup = self.running.setup(&stop);
        let host = Host::new(&identity, &offer, &secrets, setup.deadline)?;
        let listener =
            TcpListener::bind(listen).map_err(|e| Error::Usage(format!("cannot listen at {listen}: {e}")))?;
        let at = listener.local_addr().map_err(|e| Error::Session(e.to_string()))?;
        print(&format!(
            "{} at {at}: {} and {} rounds a query; a client is told layers, shapes, scales and widths, no weights\n",
            offer.model,
            human_bytes(price.bytes),
            price.rounds
        ))?;
        let mut served = 0;
        while self.clients.is_none_or(|most| served < most) {
            match host.serve(&listener, setup) {
                Ok(Visit::Left) => print("a client looked at the offer and left\n")?,
                Ok(Visit::Answered(runs, ended)) => {
                    served += 1;
                    let seconds: f64 = ended.report.runs.iter().map(|r| r.seconds).sum();
                    let sent = human_bytes(ended.report.payload);
                    print(&format!("answered {runs} queries in {seconds:.3} s, {sent} sent\n"))?;
                }
                // The host lives, and takes the next client.
                Err(e) => eprintln!("host: {e}"),
            }
        }
        Ok(())
    }
}

/// Arguments of `ask`.
#[derive(Args)]
pub(crate) struct AskArgs {
    /// The host's address, such as models.example.org:7000.
    address: String,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    inputs: Inputs,
    /// Refuse a host whose queries send more than so many megabytes.
    #[arg(long, default_value_t = 16_384.0, value_name = "MB", value_parser = super::margin)]
    most_megabytes: f64,
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
    bytes: u64,
    rounds: u32,
    memory_mb: f64,
    preprocess: Preprocess,
}

impl Offered {
    fn new(offer: &Offer, price: Price) -> Self {
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
            bytes: price.bytes,
            rounds: price.rounds,
            memory_mb: price.memory as f64 / 1048576.0,
            preprocess: offer.preprocess.clone(),
        }
    }

    fn shown(&self) -> String {
        let inputs: Vec<String> = self.inputs.iter().map(|dims| format!("{dims:?}")).collect();
        format!(
            "{}: {} layers, {} of input, {} and {} rounds a query, {} queries at most, at most about {:.0} MB of memory; rings of {} and {} bits, {} transfers, products {}, truncations {}\n",
            self.model,
            self.layers,
            inputs.join(" and "),
            human_bytes(self.bytes),
            self.rounds,
            self.queries,
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
        let offered = Offered::new(&asking.offer, price);
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
            return Err(Error::Usage(format!("a query sends {bytes}, more than the {most} MB of --most-megabytes")));
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
        let mut inputs = encoded.as_slice();
        let mut teller = Teller {
            outputs: &asking.offer.program.outputs.clone(),
            batch: per_run,
            samples: given.len(),
            classes: preprocess.classes.clone(),
            top: self.top,
            quiet: self.json,
        };
        let (offer, ended) = asking.ask(&mut inputs, &mut teller, encoded.len(), setup, &AtomicU64::new(0))?;
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
        })
    }

    fn tell(&self, a: &Answered) -> Result<()> {
        if self.json {
            return print(&json(a)?);
        }
        // The answers themselves have been told as they came.
        let text = format!(
            "{:.3} s online, {:.2} s in all, {} sent by this party, {} rounds\n",
            a.seconds,
            a.wall_seconds,
            human_bytes(a.bytes_sent),
            a.rounds
        );
        print(&text)
    }
}
