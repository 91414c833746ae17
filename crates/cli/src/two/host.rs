//! `sordino host`.

use super::{Running, address, identity};
use crate::{Compile, Open, human_bytes, of_model, positive, print};
use clap::Args;
use sordino::ahead::Ahead;
use sordino::inputs::Preprocess;
use sordino::model::{self, Calibration};
use sordino::price::Price;
use sordino::two::{Host, House, Ledger, Offer, Visit};
use sordino::{Error, Result};
use sordino_mpc::two;
use sordino_nn::Ranges;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

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
    /// Clients that are answered at the same time; each takes the memory of a session, and they share the processors. Others wait, and are
    /// told how many are before them.
    #[arg(long, default_value_t = 4, value_parser = positive)]
    sessions: usize,
    /// Clients that look at the offer or wait, at most; more are not let in.
    #[arg(long, default_value_t = 32, value_parser = positive)]
    waiting: usize,
    /// Queries that each client may ask in all, over connections and restarts, by the name in its certificate, or `client` without one. What is
    /// ordered is spent, even if the client leaves before it is answered [default: no limit].
    #[arg(long, value_name = "QUERIES", value_parser = clap::value_parser!(u64).range(1..))]
    budget: Option<u64>,
    /// Where the queries of each client are counted, for one host at a time [default: MODEL.queries.json].
    #[arg(long, value_name = "FILE", requires = "budget")]
    ledger: Option<PathBuf>,
    /// Memory that transfers drawn ahead may take, for each of the clients at once (`ask --prepare`); 0 for none.
    #[arg(long, value_name = "MB", default_value_t = 1024.0, value_parser = crate::megabytes)]
    prepared_megabytes: f64,
    /// A client who is let in no more, by its name; one for each, and at every start.
    #[arg(long, value_name = "NAME")]
    revoke: Vec<String>,
    /// Stop after so many clients have been answered, without those that only look [default: go on].
    #[arg(long, value_parser = positive)]
    clients: Option<usize>,
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
        for name in self.revoke.iter().filter(|name| *name != "client") {
            sordino_service::names::client(name).map_err(|e| Error::Usage(format!("--revoke: {e}")))?;
        }
        let ledger = self.budget.map(|budget| {
            let beside = || path.with_extension("queries.json");
            Ledger::open(&self.ledger.clone().unwrap_or_else(beside), budget)
        });
        let ahead = Ahead::of(&offer.program)?;
        let house = House {
            at_once: self.sessions,
            waiting: self.waiting,
            clients: self.clients,
            ledger: ledger.transpose()?,
            revoked: self.revoke.clone(),
            prepared: (1e6 * self.prepared_megabytes / (ahead.bytes()[0].max(1) as f64)) as u64,
        };
        print(&format!(
            "{} at {at}: {} and {} rounds a query, at most about {:.0} MB of memory for each of {} clients at once, and {:.0} MB for each of the {} queries that one may prepare (--prepared-megabytes); a client is told layers, shapes, scales and widths, no weights\n",
            offer.model,
            human_bytes(price.bytes),
            price.rounds,
            price.memory as f64 / 1048576.0,
            house.at_once,
            ahead.bytes()[0] as f64 / 1048576.0,
            house.prepared
        ))?;
        if offer.preprocess.is_plain() && offer.program.inputs.iter().any(|input| input.dims.len() == 4) {
            let says = "pixels of pictures go in as 0 to 255 unless a client says otherwise";
            print(&format!("{says}; --scale, --mean, --std, --channels or a MODEL.toml change that\n"))?;
        }
        host.serve(&listener, setup, &house, &|name, visit| {
            // Whoever read this may be gone; clients are served all the same.
            let _ = match visit {
                Ok(Visit::Left) => print(&format!("{name} looked at the offer and left\n")),
                Ok(Visit::Answered(runs, ended)) => {
                    let seconds: f64 = ended.report.runs.iter().map(|r| r.seconds).sum();
                    let sent = human_bytes(ended.report.payload);
                    print(&format!("{name}: answered {runs} queries in {seconds:.3} s, {sent} sent\n"))
                }
                Err(e) => {
                    eprintln!("host: {name}: {e}");
                    Ok(())
                }
            };
        })
    }
}
