//! Counters of a server, in the text format of Prometheus.

use crate::fault::Blame;
use crate::kinds::{Kinds, Ran, Took};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Instant;

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

#[derive(Default, Clone)]
struct Runs {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    jobs: u64,
    seconds: f64,
    bytes: u64,
    rounds: u64,
}

#[derive(Default, Clone)]
struct Iterations {
    count: u64,
    seconds: f64,
    bytes: u64,
}

#[derive(Default)]
struct Counts {
    /// By model.
    runs: BTreeMap<String, Runs>,
    /// Iterations of trainings, by model.
    iterations: BTreeMap<String, Iterations>,
    /// Layers of runs and of iterations, by model and operator.
    layers: BTreeMap<String, Kinds>,
    /// Failed jobs and refused calls, by kind.
    jobs_failed: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    accepted: u64,
    sessions_begun: u64,
    sessions_failed: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn layers(&mut self, model: &str, kinds: &Kinds) {
        let layers = self.layers.entry(model.into()).or_default();
        for (kind, took) in kinds {
            layers.entry(kind.clone()).or_default().add(*took);
        }
    }
}

/// What a server counts.
pub struct Metrics {
    started: Instant,
    counts: Mutex<Counts>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { started: Instant::now(), counts: Mutex::default() }
    }
}

/// What a server has now, which is not counted.
#[derive(Default, Clone, Debug, serde::Serialize)]
pub struct Gauges {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that run.
    pub running: usize,
    /// Answers that wait for their receivers.
    pub answers: usize,
    /// Models that are kept.
    pub models: usize,
    /// Models that are loaded.
    pub loaded: usize,
    /// When a session with the others last got on, in seconds since 1970.
    pub well: Option<u64>,
    /// When its certificate expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Queries charged, by model and client, with what is left where it is limited.
    pub budgets: Vec<(String, String, u64, Option<u64>)>,
}

/// What a family of metrics begins with.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP sordino_{name} {help}\n# TYPE sordino_{name} {kind}\n");
}

/// A counter for each model.
fn by_model<'a, T: std::fmt::Display>(
    out: &mut String,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a String, T)>,
) {
    head(out, name, "counter", help);
    for (model, value) in values {
        let _ = writeln!(out, "sordino_{name}{{model=\"{model}\"}} {value}");
    }
}

impl Metrics {
    fn with(&self, change: impl FnOnce(&mut Counts)) {
        if let Ok(mut counts) = self.counts.lock() {
            change(&mut counts);
        }
    }

    /// A run of so many jobs is over.
    pub fn ran(&self, model: &str, jobs: usize, ran: &Ran) {
        self.with(|c| {
            let runs = c.runs.entry(model.into()).or_default();
            let seconds = ran.took.as_secs_f64();
            for (bucket, bound) in runs.buckets.iter_mut().zip(BUCKETS) {
                *bucket += u64::from(seconds <= bound);
            }
            runs.count += 1;
            runs.jobs += jobs as u64;
            runs.seconds += seconds;
            runs.bytes += ran.meter.payload();
            runs.rounds += u64::from(ran.meter.rounds);
            c.layers(model, &ran.kinds);
        });
    }

    /// An iteration of a training is over.
    pub fn trained(&self, model: &str, ran: &Ran) {
        self.with(|c| {
            let iterations = c.iterations.entry(model.into()).or_default();
            iterations.count += 1;
            iterations.seconds += ran.took.as_secs_f64();
            iterations.bytes += ran.meter.payload();
            c.layers(model, &ran.kinds);
        });
    }

    /// A job failed.
    pub fn failed(&self, kind: Blame) {
        self.with(|c| *c.jobs_failed.entry(kind.name()).or_default() += 1);
    }

    /// A client's call was refused.
    pub fn refused(&self, kind: Blame) {
        self.with(|c| *c.refused.entry(kind.name()).or_default() += 1);
    }

    /// A job was taken in.
    pub fn accepted(&self) {
        self.with(|c| c.accepted += 1);
    }

    /// A session began.
    pub fn session(&self) {
        self.with(|c| c.sessions_begun += 1);
    }

    /// A session failed.
    pub fn session_failed(&self, kind: Blame) {
        self.with(|c| *c.sessions_failed.entry(kind.name()).or_default() += 1);
    }

    /// All of it.
    #[must_use]
    pub fn text(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        let one = |out: &mut String, name: &str, kind: &str, help: &str, value: f64| {
            head(out, name, kind, help);
            let _ = writeln!(out, "sordino_{name} {value}");
        };
        one(
            &mut out,
            "uptime_seconds",
            "gauge",
            "Seconds since this server started.",
            self.started.elapsed().as_secs_f64(),
        );
        one(&mut out, "jobs_queued", "gauge", "Jobs that wait.", gauges.queued as f64);
        one(&mut out, "jobs_running", "gauge", "Jobs that run.", gauges.running as f64);
        one(&mut out, "answers_waiting", "gauge", "Answers that wait for their receivers.", gauges.answers as f64);
        one(&mut out, "models", "gauge", "Models that are kept.", gauges.models as f64);
        one(&mut out, "models_loaded", "gauge", "Models that are loaded.", gauges.loaded as f64);
        let help = "When a session with both other servers last got on, in seconds since 1970.";
        one(&mut out, "last_session_timestamp_seconds", "gauge", help, gauges.well.unwrap_or(0) as f64);
        let help = "When this server's certificate expires, in seconds since 1970.";
        one(&mut out, "certificate_expiry_timestamp_seconds", "gauge", help, gauges.expires.unwrap_or(0) as f64);
        let Ok(c) = self.counts.lock() else { return out };
        one(&mut out, "jobs_accepted_total", "counter", "Jobs taken in.", c.accepted as f64);
        one(&mut out, "sessions_total", "counter", "Sessions with the other servers.", c.sessions_begun as f64);
        let kinds = [
            ("jobs_failed_total", "Jobs that failed, by whose fault it is.", &c.jobs_failed),
            ("calls_refused_total", "Calls of clients that were refused, by kind.", &c.refused),
            ("sessions_failed_total", "Sessions that failed, by whose fault it is.", &c.sessions_failed),
        ];
        for (name, help, counts) in kinds {
            head(&mut out, name, "counter", help);
            for kind in Blame::ALL {
                let n = counts.get(kind.name()).copied().unwrap_or(0);
                let _ = writeln!(out, "sordino_{name}{{blame=\"{}\"}} {n}", kind.name());
            }
        }
        head(&mut out, "run_seconds", "histogram", "Seconds of runs, by model.");
        for (model, r) in &c.runs {
            for (n, bound) in r.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(out, "sordino_run_seconds_bucket{{model=\"{model}\",le=\"{bound}\"}} {n}");
            }
            let _ = writeln!(out, "sordino_run_seconds_bucket{{model=\"{model}\",le=\"+Inf\"}} {}", r.count);
            let _ = writeln!(out, "sordino_run_seconds_sum{{model=\"{model}\"}} {}", r.seconds);
            let _ = writeln!(out, "sordino_run_seconds_count{{model=\"{model}\"}} {}", r.count);
        }
        let runs = |of: fn(&Runs) -> u64| c.runs.iter().map(move |(model, r)| (model, of(r)));
        let help = "Jobs in runs, by model: several that wait are run together.";
        by_model(&mut out, "run_jobs_total", help, runs(|r| r.jobs));
        let help = "Bytes this server sent to the others in runs, by model.";
        by_model(&mut out, "run_bytes_total", help, runs(|r| r.bytes));
        by_model(&mut out, "run_rounds_total", "Rounds of runs, by model.", runs(|r| r.rounds));
        let trained = |of: fn(&Iterations) -> u64| c.iterations.iter().map(move |(model, i)| (model, of(i)));
        let help = "Iterations of trainings, by model.";
        by_model(&mut out, "training_iterations_total", help, trained(|i| i.count));
        let seconds = c.iterations.iter().map(|(model, i)| (model, i.seconds));
        by_model(&mut out, "training_seconds_total", "Seconds of iterations of trainings, by model.", seconds);
        let help = "Bytes this server sent to the others in trainings, by model.";
        by_model(&mut out, "training_bytes_total", help, trained(|i| i.bytes));
        let mut layers = |name: &str, help: &str, of: fn(&Took) -> f64| {
            head(&mut out, name, "counter", help);
            for (model, kinds) in &c.layers {
                for (kind, took) in kinds {
                    let _ = writeln!(out, "sordino_{name}{{model=\"{model}\",kind=\"{kind}\"}} {}", of(took));
                }
            }
        };
        layers("layer_seconds_total", "Seconds of layers, by model and operator.", |t| t.seconds);
        let help = "Bytes this server sent to the others for layers, by model and operator.";
        layers("layer_bytes_total", help, |t| t.bytes as f64);
        layers("layer_rounds_total", "Rounds of layers, by model and operator.", |t| t.rounds as f64);
        head(&mut out, "queries_charged", "gauge", "Queries within their time, by model and client.");
        for (model, client, used, _) in &gauges.budgets {
            let _ = writeln!(out, "sordino_queries_charged{{model=\"{model}\",client=\"{client}\"}} {used}");
        }
        head(&mut out, "queries_left", "gauge", "Queries that are left, by model and client, where they are limited.");
        for (model, client, _, left) in &gauges.budgets {
            if let Some(left) = left {
                let _ = writeln!(out, "sordino_queries_left{{model=\"{model}\",client=\"{client}\"}} {left}");
            }
        }
        out
    }
}
