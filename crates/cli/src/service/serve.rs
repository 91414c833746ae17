//! `sordino serve`.

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sordino::compute::DeviceName;
use sordino::{Error, Result};
use sordino_service::Running;
use sordino_service::clock::until;
use sordino_service::config::Server;
use sordino_service::demo::Demo;
use std::path::PathBuf;

/// Arguments of `serve`.
#[derive(Args)]
pub(crate) struct Serve {
    /// The server's configuration, server.toml.
    #[arg(long, value_name = "FILE", required_unless_present = "demo")]
    config: Option<PathBuf>,
    /// Instead: all three servers in this process, with certificates and a model that reads digits, to try everything.
    #[arg(long, conflicts_with = "config")]
    demo: bool,
    /// The folder of the demonstration's files, kept for the next time.
    #[arg(long, value_name = "DIR", default_value = "sordino-demo", requires = "demo")]
    folder: PathBuf,
    /// Check the configuration, the certificate and the store, and end.
    #[arg(long, conflicts_with = "demo")]
    check: bool,
}

/// Signals that end a server, or make it read its certificate again.
fn signals() -> Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|e| Error::Session(format!("signals cannot be heard: {e}")))
}

/// As many open files as the system lets this process have: every connection is one.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // Without it fewer connections are possible.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        more_files();
        match &self.config {
            Some(path) if self.check => check(path),
            Some(path) => one(path),
            None => self.three(),
        }
    }

    fn three(&self) -> Result<()> {
        let mut signals = signals()?;
        let demo = Demo::start(&self.folder, |_| ())?;
        let (cluster, page) = (demo.cluster("alice"), demo.folder().join("ops"));
        let mut text = format!("three servers run in this process; their files are in {}\n", self.folder.display());
        let (name, bytes) = super::push::DIGIT;
        let digit = self.folder.join(name);
        sordino::model::write_whole(&digit, bytes)?;
        let model = super::push::demonstration(&cluster)?;
        text +=
            &format!("a model that reads digits is shared among them as {model}; ask it from another terminal:\n\n");
        text += &format!("  sordino submit {model} --to {} --input {} --wait\n\n", cluster.display(), digit.display());
        for server in demo.servers.iter().flatten() {
            let party = server.engine().config.party;
            text += &format!("server {party}: clients at {}, peers at {}\n", server.clients, server.peers);
        }
        text += &format!(
            "a browser with the certificate in {} sees the servers' pages; Ctrl-C ends them\n",
            page.display()
        );
        super::super::print(&text)?;
        for signal in signals.forever() {
            if signal != SIGHUP {
                break;
            }
        }
        for server in demo.servers.into_iter().flatten() {
            server.stop();
        }
        Ok(())
    }
}

fn check(path: &std::path::Path) -> Result<()> {
    let config = Server::read(path)?;
    let identity = config.identity()?;
    config.look_for_device()?;
    let store = config.open_store()?;
    let (models, jobs) = (store.models()?.len(), store.jobs()?.len());
    super::super::print(&format!(
        "{}: server {}, certificate of fingerprint {}, valid for {}, computes on {}, {models} models and {jobs} jobs in its store\n",
        path.display(),
        config.party,
        identity.fingerprint(),
        identity.expires().map_or_else(|| "an unknown time".into(), until),
        config.device
    ))
}

fn one(path: &std::path::Path) -> Result<()> {
    let config = Server::read(path)?;
    let mut signals = signals()?;
    let (party, workers, device) = (config.party, config.workers(), config.device);
    let server = Running::start(config)?;
    let on = match device {
        DeviceName::Cpu => format!("{workers} threads a job"),
        card => format!("jobs on {card}"),
    };
    let text = format!("server {party}: clients at {}, peers at {}, {on}\n", server.clients, server.peers);
    super::super::print(&text)?;
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        if let Err(e) = server.renew() {
            tracing::error!("the certificate cannot be read again, and the old one stays: {e}");
        }
    }
    tracing::info!("stopping: runs under way are finished");
    server.stop();
    super::super::print(&format!("server {party}: stopped\n"))
}
