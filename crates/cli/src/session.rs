//! Where the parties of a session run, and how an interrupt ends it.

use super::devices::DeviceArgs;
use super::{LinkArg, Parties, parse_link};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sordino::checkpoint::Checkpoints;
use sordino::in_process::{InProcess, in_process};
use sordino::owners::{Finished, Owners};
use sordino::processes::{self, Processes};
use sordino::session::Job;
use sordino::{Error, Result};
use sordino_mpc::Kind;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Arguments of a session.
#[derive(Args, Clone)]
pub(crate) struct Session {
    /// Where the parties run.
    #[arg(long, value_enum, default_value = "in-process")]
    pub(crate) parties: Parties,
    /// Make links slow: none, lan (0.2 ms, 1 Gb/s), wan (40 ms, 100 Mb/s), or LATENCY,BANDWIDTH such as 5ms,200Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    pub(crate) link: LinkArg,
    /// Seconds a party waits for another before it gives up.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// Worker threads per party [default: a third of the processors; of two parties, which seldom compute at the same time in
    /// linear layers, all].
    #[arg(long, value_parser = super::workers)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// A waiting time.
pub(crate) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(s) if (0.05..=86400.0).contains(&s) => Ok(s),
        _ => Err("expected between 0.05 and 86400 seconds".into()),
    }
}

/// What an interrupt does: ends the process at once, unless child processes must be ended first.
struct Interrupt {
    supervised: AtomicBool,
    flag: Arc<AtomicBool>,
    /// What whoever interrupts had better know.
    note: Mutex<String>,
}

/// Says this, too, when the command is interrupted.
pub(crate) fn on_interrupt(note: &str) {
    if let Ok(mut held) = interrupt().note.lock() {
        note.clone_into(&mut held);
    }
}

fn interrupt() -> &'static Interrupt {
    static INTERRUPT: OnceLock<Interrupt> = OnceLock::new();
    INTERRUPT.get_or_init(|| Interrupt {
        supervised: AtomicBool::new(false),
        flag: Arc::default(),
        note: Mutex::default(),
    })
}

/// Makes every command say that it was interrupted, and exit with 130.
pub(super) fn handle_interrupts() {
    // Without a handler an interrupt still ends everything: child processes notice that we are gone.
    let _ = ctrlc::set_handler(|| {
        let interrupt = interrupt();
        if interrupt.supervised.load(Ordering::Relaxed) {
            interrupt.flag.store(true, Ordering::Relaxed);
        } else {
            let note = interrupt.note.lock().map(|n| n.clone()).unwrap_or_default();
            let note = if note.is_empty() { note } else { format!("; {note}") };
            eprintln!("sordino: interrupted{note}");
            std::process::exit(130);
        }
    });
}

impl Session {
    /// Worker threads per party.
    pub(crate) fn threads(&self, kind: Kind) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let own = match kind {
            Kind::Three => cores / 3,
            Kind::Two => cores,
        };
        self.threads.unwrap_or(own).max(1)
    }

    /// Runs a session.
    pub(crate) fn run(
        &self,
        job: Job<'_>,
        owners: Owners<'_>,
        checkpoints: Option<&Checkpoints>,
        progress: &AtomicU64,
    ) -> Result<Finished> {
        let kind = job.program.settings.kind;
        let (link, deadline) = (self.link.0, Duration::from_secs_f64(self.timeout));
        let compute = self.device.compute(kind, self.threads(kind))?;
        match self.parties {
            Parties::InProcess => {
                in_process(job, &InProcess { link, deadline, compute }, owners, checkpoints, progress)
            }
            Parties::Processes => {
                let program = std::env::current_exe()
                    .map_err(|e| Error::Session(format!("cannot find this program's own file: {e}")))?;
                let interrupt = interrupt();
                interrupt.supervised.store(true, Ordering::Relaxed);
                let setup = Processes { link, deadline, compute, interrupted: Arc::clone(&interrupt.flag), program };
                let result = processes::run(job, &setup, owners, checkpoints, progress);
                interrupt.supervised.store(false, Ordering::Relaxed);
                result
            }
        }
    }

    /// The same with a bar on a terminal, over the layers of all runs.
    pub(crate) fn run_with_bar(
        &self,
        job: Job<'_>,
        owners: Owners<'_>,
        checkpoints: Option<&Checkpoints>,
        quiet: bool,
    ) -> Result<Finished> {
        let (progress, finished) = (AtomicU64::new(0), AtomicBool::new(false));
        let total = (job.program.layers.len() * job.runs) as u64;
        std::thread::scope(|scope| {
            if std::io::stderr().is_terminal() && !quiet {
                // Without a thread for it there is no bar.
                let bar = || show_progress(&progress, &finished, total);
                let _ = std::thread::Builder::new().spawn_scoped(scope, bar);
            }
            let result = self.run(job, owners, checkpoints, &progress);
            finished.store(true, Ordering::Relaxed);
            result
        })
    }
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
