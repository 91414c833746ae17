//! The program `sordino`: commands over the library of that name.

mod bench;
mod calibrate;
mod devices;
mod infer;
mod inputs;
mod inspect;
mod plan;
mod plot;
mod service;
mod session;
mod train;
mod two;
mod zoo;

use clap::{Args, Parser, Subcommand, ValueEnum};
use inputs::{Inputs, Open, of_model, one_input, takes};
use sordino::widths::{Chosen, Widths};
use sordino::{Error, Result};
use sordino_mpc::{Kind, Linear, Settings, Transfers, Truncation};
use sordino_net::LinkModel;
use sordino_nn::Options;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// Large buffers come and go with every layer; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Private inference and training: three servers answer with, or train, a model that none of them sees on data that none of
/// them sees; or a model's owner and a client compute an answer between the two of them.
///
/// A model is an ONNX file; an input is a PNG or JPEG picture, a NumPy array or an MNIST IDX file. The model and the
/// input are secret-shared among three servers, of which any single one learns nothing, or with --protocol 2pc between their two
/// owners; the answer is opened to you.
///
/// Start with:  sordino infer MODEL.onnx --input PICTURE.png --check
#[derive(Parser)]
#[command(name = "sordino", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log what happens to standard error: off, error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "warn")]
    log: LevelFilter,
    /// How the log is written.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run a model on inputs, privately.
    Infer(Box<infer::Infer>),
    /// Train a model on data, privately.
    Train(Box<train::Train>),
    /// Say what a run will send, how many rounds it takes and how much memory it needs, before running anything.
    Plan(plan::PlanArgs),
    /// Describe a model: inputs, outputs, layers, and whether everything is supported.
    Inspect(inspect::Inspect),
    /// Record a model's value ranges on sample inputs, for later runs.
    Calibrate(calibrate::CalibrateArgs),
    /// The networks of the papers, as ONNX files with seeded weights.
    Zoo(zoo::Zoo),
    /// Measure operations, networks, accuracy and links.
    Bench(bench::Bench),
    /// Answer a client's questions with a model, between the two of you alone (--protocol 2pc on two machines).
    Host(Box<two::HostArgs>),
    /// Ask a host: it learns nothing of the input or the answer, and keeps its model.
    Ask(Box<two::AskArgs>),
    /// List the graphics cards and other devices that servers can compute on.
    Devices(devices::Devices),
    /// Certificates and keys: for three servers and their clients, or for `host` and `ask`.
    Cert(two::Cert),
    /// Run one of three servers, or all three to try them (--demo).
    Serve(service::Serve),
    /// Share a model with three servers, none of which can read it.
    Push(Box<service::Push>),
    /// Ask a model that three servers hold.
    Submit(Box<service::Submit>),
    /// Fetch the answer of a job.
    Fetch(service::Fetch),
    /// Jobs that you submitted or receive.
    Jobs(service::Jobs),
    /// Models that you may ask.
    Models(service::Models),
    /// Let a client ask a model of yours, or no more.
    Allow(service::Allow),
    /// Give your rows to a training on three servers.
    Contribute(service::Contribute),
    /// Remove a model of yours from the servers.
    Remove(service::Remove),
    /// Forget a job that waits or is over.
    Forget(service::Forget),
    /// Look after what a stopped server keeps.
    Store(service::StoreArgs),
    /// A server as a child process; started by --parties processes.
    #[command(hide = true)]
    Party,
}

/// How a log is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Where the parties run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Parties {
    /// Threads of this process, talking through memory.
    InProcess,
    /// Child processes over loopback TCP with mutual TLS and throw-away certificates: three servers, or of two parties the client.
    Processes,
}

/// A link by name or by numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LinkArg(pub(crate) LinkModel);

fn parse_link(text: &str) -> std::result::Result<LinkArg, String> {
    let model = |ms: f64, bits: f64| {
        LinkArg(LinkModel { latency: Duration::from_secs_f64(ms * 1e-3), bandwidth: Some(bits / 8.0) })
    };
    match text {
        "none" => return Ok(LinkArg(LinkModel::UNLIMITED)),
        "lan" => return Ok(model(0.2, 1e9)),
        "wan" => return Ok(model(40.0, 1e8)),
        _ => {}
    }
    let usage = || format!("{text}: expected none, lan, wan, or a one-way latency and a bandwidth such as 5ms,200Mbps");
    let (latency, bandwidth) = text.split_once(',').ok_or_else(usage)?;
    let number = |s: &str, units: &[(&str, f64)]| {
        let (unit, factor) = units.iter().find(|(u, _)| s.ends_with(u))?;
        let v: f64 = s.strip_suffix(unit)?.trim().parse().ok()?;
        (v.is_finite() && v >= 0.0).then_some(v * factor)
    };
    let ms = number(latency.trim(), &[("us", 1e-3), ("ms", 1.0), ("s", 1e3)]).ok_or_else(usage)?;
    let bits = number(bandwidth.trim(), &[("kbps", 1e3), ("Mbps", 1e6), ("Gbps", 1e9)]).ok_or_else(usage)?;
    if bits <= 0.0 || ms > 60_000.0 {
        return Err(usage());
    }
    Ok(model(ms, bits))
}

/// Who computes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Three servers, of which one may be curious.
    #[value(name = "3pc")]
    Three,
    /// The model's owner and the client, of whom either may be curious; nobody else.
    #[value(name = "2pc")]
    Two,
}

impl Protocol {
    fn kind(self) -> Kind {
        match self {
            Self::Three => Kind::Three,
            Self::Two => Kind::Two,
        }
    }
}

/// Widths of two parties where nothing else is said. Every bit of the wide ring costs; what the narrow one leaves of it weights and
/// activations have as fractional bits, and networks of all kinds need more of these than of room.
const TWO_PARTY: Widths = Widths { narrow: 20, wide: 37 };

/// How oblivious transfers are made.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ot {
    Silent,
    Compact,
    Softspoken,
}

/// How two parties compute products with weights.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinearBy {
    He,
    Ot,
    Auto,
}

/// How two parties truncate.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rounding {
    Exact,
    OneBit,
}

/// Yes or no.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Widths of both rings, as far as they are said.
#[derive(Clone, Copy)]
struct Rings {
    narrow: Option<u32>,
    wide: Option<u32>,
}

/// Reads [`Compile::rings`].
fn rings(said: &str) -> std::result::Result<Rings, String> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let read = said.split_once('/').and_then(|(bits, fraction)| Some((number(bits)?, number(fraction)?)));
    match read {
        Some((bits, fraction)) if bits <= 64 && fraction < bits && (4..=32).contains(&(bits - fraction)) => {
            Ok(Rings { narrow: Some(bits - fraction), wide: Some(bits) })
        }
        Some(_) => Err("at most 64 bits, of which the fraction leaves 4 to 32".into()),
        None => Err("two numbers, such as 37/12".into()),
    }
}

/// How to compile.
#[derive(Args, Clone)]
pub(crate) struct Compile {
    /// Who computes: three servers (3pc), or the model's owner and the client alone (2pc) [default: 3pc; of `host` 2pc].
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// How two parties make their oblivious transfers: silent (2.5 bits each, from learning parity with noise), compact (the same in
    /// 0.7 bits and more time and memory: worse for small models, for large ones on slow links), or softspoken (31 bits each, without that
    /// assumption) [default: silent].
    #[arg(long, value_enum)]
    ot: Option<Ot>,
    /// How two parties compute products with weights: on encrypted values (he), by oblivious transfers (ot; many more bytes, and no
    /// assumption about lattices), or layer by layer whichever takes less time (auto) [default: he].
    #[arg(long, value_enum)]
    linear: Option<LinearBy>,
    /// How two parties truncate: to the nearest integer (exact), or off by a unit at most (one-bit), for fewer bytes and less time
    /// [default: exact].
    #[arg(long, value_enum)]
    truncation: Option<Rounding>,
    /// Fractional bits of activations, at most [default: as many as the ranges leave; they cost nothing].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=30))]
    frac_bits: Option<u32>,
    /// Fractional bits of weights [default: as many as fit, up to 32 more than needed; they cost nothing].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=32))]
    weight_bits: Option<u32>,
    /// Width of the ring of activations, sign included; fewer bits send less and round more coarsely [default: the
    /// calibration's choice, else 32; with two parties 20, where fewer leave the wide ring more fractional bits].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=32))]
    narrow_bits: Option<u32>,
    /// Width of the ring of products, at most 32 more than the other, with two parties at most 53; fewer bits leave weights fewer
    /// fractional bits [default: the calibration's choice, else 64; with two parties 37].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=64))]
    wide_bits: Option<u32>,
    /// Both rings as papers write them, bits of a value and of its fraction, such as CrypTFlow2's 32/9 for SqueezeNet, 37/12 for ResNet-50 and
    /// 32/11 for DenseNet-121: products take all those bits, activations what the fraction leaves of them.
    #[arg(long, value_name = "BITS/FRACTION", value_parser = rings, conflicts_with_all = ["narrow_bits", "wide_bits"])]
    rings: Option<Rings>,
    /// Room above the calibrated ranges, as a factor.
    #[arg(long, default_value_t = 2.0, value_parser = margin)]
    margin: f64,
    /// Whether the servers find out, on shares, that a value left its range, and the receiver refuses the answer; costs two percent of the
    /// bytes and tells the receiver this one bit. Of three servers [default: on].
    #[arg(long, value_enum, value_name = "on|off")]
    guard: Option<Switch>,
    /// Elements that one ReLU or maximum compares at once, at most: larger ones are done slice by slice, which takes less memory (of a card,
    /// too) and more rounds [default: all].
    #[arg(long, value_name = "ELEMENTS", value_parser = clap::value_parser!(u32).range(64..))]
    at_once: Option<u32>,
    /// Round exactly in every truncation, for the price of one more comparison each. Of three servers; two parties do so anyway.
    #[arg(long)]
    faithful: bool,
    /// Calibration written by `sordino calibrate` [default: MODEL.calibration.json if it is there, else the given inputs].
    #[arg(long)]
    calibration: Option<PathBuf>,
}

impl Compile {
    /// For two parties, whatever was said.
    fn two(self) -> Result<Self> {
        match self.protocol {
            Some(Protocol::Three) => Err(Error::Usage("--protocol 3pc: a host serves two parties alone".into())),
            _ => Ok(Self { protocol: Some(Protocol::Two), ..self }),
        }
    }

    fn kind(&self) -> Kind {
        self.protocol.unwrap_or(Protocol::Three).kind()
    }

    fn options(&self, calibrated: Option<Chosen>) -> Result<Options> {
        // A width from the command line sets aside the calibration's choice, which was made for both, and one for other parties is none.
        let calibrated = calibrated.filter(|c| c.kind == self.kind());
        let Rings { narrow: narrow_said, wide: wide_said } =
            self.rings.unwrap_or(Rings { narrow: self.narrow_bits, wide: self.wide_bits });
        let calibrated = calibrated.filter(|_| narrow_said.is_none() && wide_said.is_none());
        if let Some(chosen) = calibrated {
            let other = self.margin != chosen.margin || self.frac_bits.is_some() || self.weight_bits.is_some();
            if other {
                return Err(Error::Usage(format!(
                    "the calibration's widths were chosen for --margin {} and default fractional bits; leave those as they are, or set both --narrow-bits and --wide-bits yourself",
                    chosen.margin
                )));
            }
        }
        let calibrated = calibrated.map(|c| c.widths);
        let kind = self.kind();
        let (narrow, wide) = match kind {
            Kind::Three => (32, 64),
            Kind::Two => (TWO_PARTY.narrow, TWO_PARTY.wide),
        };
        let narrow_bits = narrow_said.or(calibrated.map(|w| w.narrow)).unwrap_or(narrow);
        let wide_bits = wide_said.or(calibrated.map(|w| w.wide)).unwrap_or(wide.min(narrow_bits + 32));
        let transfers = match self.ot {
            None | Some(Ot::Silent) => Transfers::Silent,
            Some(Ot::Compact) => Transfers::Compact,
            Some(Ot::Softspoken) => Transfers::Softspoken,
        };
        let of_two = [
            ("--linear", self.linear.is_some()),
            ("--truncation", self.truncation.is_some()),
            ("--ot", self.ot.is_some()),
        ];
        if let Some((flag, _)) = of_two.into_iter().find(|(_, said)| *said && kind == Kind::Three) {
            return Err(Error::Usage(format!("{flag}: it is of two parties; say --protocol 2pc as well")));
        }
        if self.faithful && self.truncation == Some(Rounding::OneBit) {
            return Err(Error::Usage("--faithful and --truncation one-bit say opposite things".into()));
        }
        let linear = match self.linear {
            None | Some(LinearBy::He) => Linear::He,
            Some(LinearBy::Ot) => Linear::Ot,
            Some(LinearBy::Auto) => Linear::Auto,
        };
        let truncation = match self.truncation {
            None | Some(Rounding::Exact) => Truncation::Exact,
            Some(Rounding::OneBit) => Truncation::OneBit,
        };
        let settings = Settings {
            kind,
            transfers,
            linear,
            truncation,
            faithful: self.faithful,
            narrow_bits,
            wide_bits,
            ..Settings::default()
        };
        settings.check().map_err(|e| Error::Usage(e.to_string()))?;
        if kind == Kind::Two && self.guard == Some(Switch::On) {
            return Err(Error::Usage(
                "--guard on: two parties have none; `infer --check` compares layer by layer".into(),
            ));
        }
        let guard = self.guard != Some(Switch::Off);
        Ok(Options {
            frac_bits: self.frac_bits,
            weight_bits: self.weight_bits,
            margin: self.margin,
            guard,
            at_once: self.at_once.map(|n| n as usize),
            settings,
        })
    }

    /// The calibration of a model that nothing can be done without.
    fn needed_calibration(&self, model: &std::path::Path) -> Result<PathBuf> {
        self.calibration_file(model).ok_or_else(|| {
            let why = "it has no calibration; `sordino calibrate` takes one from samples that may be known".into();
            Error::File { path: model.into(), why }
        })
    }

    fn calibration_file(&self, model: &std::path::Path) -> Option<PathBuf> {
        self.calibration.clone().or_else(|| {
            let beside = calibrate::beside(model);
            beside.exists().then_some(beside)
        })
    }
}

fn main() -> ExitCode {
    ExitCode::from(run())
}

/// Runs the command line; the result is the exit code.
fn run() -> u8 {
    let cli = Cli::parse();
    // A server hears signals itself.
    if !matches!(cli.command, Command::Party | Command::Serve(_)) {
        session::handle_interrupts();
    }
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_max_level(cli.log).with_writer(std::io::stderr).with_ansi(colours);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let result = match cli.command {
        Command::Infer(args) => args.run(),
        Command::Train(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Calibrate(args) => args.run(),
        Command::Zoo(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Host(args) => args.run(),
        Command::Ask(args) => args.run(),
        Command::Cert(args) => args.run(),
        Command::Devices(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Push(args) => args.run(),
        Command::Submit(args) => args.run(),
        Command::Fetch(args) => args.run(),
        Command::Jobs(args) => args.run(),
        Command::Models(args) => args.run(),
        Command::Allow(args) => args.run(),
        Command::Contribute(args) => args.run(),
        Command::Remove(args) => args.run(),
        Command::Forget(args) => args.run(),
        Command::Store(args) => args.run(),
        Command::Party => return sordino::party::run(),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("sordino: {error}");
            error.exit_code()
        }
    }
}

/// Writes to standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Session(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// A line of JSON.
fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string(value).map_err(|e| Error::Session(e.to_string()))? + "\n")
}

/// Millions of bytes.
fn megabytes(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => Err("expected a number of megabytes".into()),
    }
}

/// Room above ranges.
fn margin(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(m) if (1.0..=1e6).contains(&m) => Ok(m),
        _ => Err("expected a factor from 1 to 1000000".into()),
    }
}

/// A network of the zoo with weights drawn from a seed.
fn zoo_network(name: &str, seed: u64, pool: sordino_nn::zoo::Pool) -> Result<sordino_nn::Graph> {
    sordino_nn::zoo::build(name, seed, pool).ok_or_else(|| {
        let names: Vec<&str> = sordino_nn::zoo::NETWORKS.iter().map(|n| n.name).collect();
        Error::Usage(format!("no network is named {name}; there are {}", names.join(", ")))
    })
}

/// A count of at least one.
fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=0xffff_ffff) => Ok(n),
        _ => Err("expected a whole number from 1 to 4294967295".into()),
    }
}

/// A number of threads.
fn workers(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=256) => Ok(n),
        _ => Err("expected a whole number from 1 to 256".into()),
    }
}

/// Bytes for people.
fn human_bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..=9_999_999_999 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_parse() {
        let got = parse_link("5ms,200Mbps").map(|l| (l.0.latency.as_millis(), l.0.bandwidth));
        assert_eq!(got, Ok((5, Some(25e6))));
        for wrong in ["", "fast", "5,200", "-1ms,1Gbps", "1ms,0Mbps", "nanms,1Gbps"] {
            assert!(parse_link(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
