//! What a query costs over the service, beside a run in a session, and how many it answers when many ask.

use super::Common;
use super::inference::network;
use super::measure::{Job, median, note, sorted};
use super::output::{Findings, Table, short};
use crate::plot;
use crate::service::together;
use crate::{LinkArg, parse_link, positive};
use clap::Args;
use serde::Serialize;
use sordino::inputs::Preprocess;
use sordino::model;
use sordino::report::peak_rss_mb;
use sordino::{Error, Result};
use sordino_net::LinkModel;
use sordino_nn::exec::encode_inputs;
use sordino_nn::zoo::Pool;
use sordino_nn::{Options, Ranges};
use sordino_service::Blame;
use sordino_service::client::{Client, Known};
use sordino_service::config::{Cluster, Shape};
use sordino_service::demo::Demo;
use sordino_service::push::Public;
use sordino_service::records::State;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Service {
    #[command(flatten)]
    common: Common,
    /// Only these networks [default: lenet].
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Make links between servers slow: none, lan, wan, or LATENCY,BANDWIDTH such as 5ms,200Mbps.
    #[arg(long, default_value = "none", value_parser = parse_link)]
    link: LinkArg,
    /// Clients that ask at the same time.
    #[arg(long, default_value_t = 8, value_parser = positive)]
    clients: usize,
    /// Questions of all clients together.
    #[arg(long, default_value_t = 200, value_parser = positive)]
    jobs: usize,
}

#[derive(Serialize)]
struct Line {
    network: String,
    setting: String,
    jobs: usize,
    jobs_per_second: f64,
    /// From the submission to the opened answer.
    median_seconds: f64,
    p99_seconds: f64,
    /// All three servers and the clients, which are one process here.
    peak_rss_mb: f64,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// One question: seconds from its submission to the opened answer.
fn one(client: &Client, model: &Known, inputs: &[Vec<i64>]) -> Result<f64> {
    let start = Instant::now();
    let job = client.submit(model, inputs, client.name())?;
    finish(client, model, job, start)
}

fn finish(client: &Client, model: &Known, job: sordino_service::names::Id, start: Instant) -> Result<f64> {
    let view = client.wait(job, PATIENCE)?;
    if let State::Failed(fault) = view.state {
        return Err(fault.into());
    }
    client.answer_of(job, model)?;
    Ok(start.elapsed().as_secs_f64())
}

pub(super) fn link_name(link: LinkModel) -> String {
    match link.bandwidth {
        None => "as they are".into(),
        Some(bytes) => format!("{} ms one way, {} Mbit/s", link.latency.as_secs_f64() * 1e3, bytes * 8e-6),
    }
}

impl Service {
    pub(crate) fn run(self) -> Result<()> {
        let names = if self.only.is_empty() { vec!["lenet".to_string()] } else { self.only.clone() };
        let mut lines = vec![];
        for name in &names {
            self.network(name, &mut lines)?;
        }
        self.publish(&lines)
    }

    fn network(&self, name: &str, lines: &mut Vec<Line>) -> Result<()> {
        let graph = network(name, Pool::Average)?;
        let options = Options::default();
        let job = Job::new(&graph, 1, &options)?;
        let measured = self.common.measure(&job, self.link.0)?;
        let mut add = |setting: &str, jobs: usize, all: f64, seconds: Vec<f64>| {
            let seconds = sorted(seconds);
            let p99 = seconds.get((seconds.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0);
            note(&format!("{name}, {setting}: median {} s, {:.1} jobs/s", short(median(&seconds)), jobs as f64 / all));
            lines.push(Line {
                network: name.into(),
                setting: setting.into(),
                jobs,
                jobs_per_second: jobs as f64 / all,
                median_seconds: median(&seconds),
                p99_seconds: p99,
                peak_rss_mb: peak_rss_mb(),
            });
        };
        let [low, high] = measured.seconds_range;
        add("a run in a session", 1, measured.seconds, vec![low, measured.seconds, high]);
        let folder = tempfile::tempdir().map_err(|e| Error::Session(format!("no temporary folder: {e}")))?;
        let threads =
            self.common.session(super::Parties::Processes, LinkModel::UNLIMITED).threads(sordino_mpc::Kind::Three);
        let demo = Demo::start(&folder.path().join("servers"), |config| {
            config.threads = Some(threads);
            config.shape = self
                .link
                .0
                .bandwidth
                .map(|bytes| Shape { milliseconds: self.link.0.latency.as_secs_f64() * 1e3, megabits: bytes * 8e-6 });
            config.limits.queue = usize::MAX;
            config.limits.queue_per_client = usize::MAX / 16;
        })?;
        let cluster = Cluster::read(&demo.cluster("alice"))?;
        let client = Client::new(&cluster)?;
        let encoded = encode_inputs(&job.program, std::slice::from_ref(&job.input))?;
        let ranges = Ranges::calibrate(&model::typed(&graph, 1)?.passed, &[vec![job.input.clone()]])?;
        for (pushed, rows) in [("alone", 1), ("together", 16)] {
            let beside = together(&graph, &job.program, &job.secrets, Some(rows), &ranges, &options)?;
            if rows > 1 && beside.is_none() {
                note(&format!("{name}: jobs are not run together, for it is too large"));
                continue;
            }
            let public = Public {
                program: job.program.clone(),
                preprocess: Preprocess::default(),
                class: false,
                beside,
                training: None,
            };
            client.push(pushed, public, &job.secrets, Some(BTreeMap::new()), &Arc::default())?;
            let model = client.model(pushed)?;
            // The first question waits for the weights to be loaded.
            one(&client, &model, &encoded)?;
            if rows == 1 {
                let start = Instant::now();
                let few = (self.common.runs * 4).min(self.jobs);
                let seconds = (0..few).map(|_| one(&client, &model, &encoded)).collect::<Result<Vec<f64>>>()?;
                add("one client, one job at a time", few, start.elapsed().as_secs_f64(), seconds);
            }
            let start = Instant::now();
            let seconds = self.load(&cluster, &model, &encoded)?;
            let setting = format!(
                "{} clients, {}",
                self.clients,
                if rows == 1 { "jobs run one by one" } else { "jobs that wait run together" }
            );
            add(&setting, seconds.len(), start.elapsed().as_secs_f64(), seconds);
            // What was fetched is not kept.
            client.jobs()?.iter().try_for_each(|job| client.forget(job.id))?;
        }
        Ok(())
    }

    /// All clients submit their questions, then fetch the answers.
    fn load(&self, cluster: &Cluster, model: &Known, inputs: &[Vec<i64>]) -> Result<Vec<f64>> {
        let each = self.jobs.div_ceil(self.clients);
        let asking = || -> Result<Vec<f64>> {
            let client = Client::new(cluster)?;
            let mut under_way = vec![];
            for _ in 0..each {
                let start = Instant::now();
                let job = loop {
                    match client.submit(model, inputs, client.name()) {
                        Err(e) if e.kind == Blame::Limit => std::thread::sleep(Duration::from_millis(20)),
                        other => break other?,
                    }
                };
                under_way.push((job, start));
            }
            under_way.into_iter().map(|(job, start)| finish(&client, model, job, start)).collect()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.clients)
                .map(|_| std::thread::Builder::new().name("a client".into()).spawn_scoped(scope, asking))
                .collect();
            let mut all = vec![];
            for thread in threads {
                let thread = thread.map_err(|e| Error::Session(format!("no thread can be started: {e}")))?;
                all.extend(thread.join().map_err(|_| Error::Session("a client stopped unexpectedly".into()))??);
            }
            Ok(all)
        })
    }

    fn publish(&self, lines: &[Line]) -> Result<()> {
        let mut table = Table::new(&["network", "setting", "jobs", "jobs/s", "median s", "99 % s", "peak MB in all"]);
        for l in lines {
            table.rows.push(vec![
                l.network.clone(),
                l.setting.clone(),
                l.jobs.to_string(),
                format!("{:.1}", l.jobs_per_second),
                short(l.median_seconds),
                short(l.p99_seconds),
                format!("{:.0}", l.peak_rss_mb),
            ]);
        }
        let names: Vec<String> = lines.iter().map(|l| format!("{}, {}", l.network, l.setting)).collect();
        let series = [("jobs a second", lines.iter().map(|l| Some(l.jobs_per_second)).collect())];
        let heading = format!(
            "Queries over the service, three servers in one process with TLS and stores on this machine, {} questions of {} clients; the run in a session is \
             the median of {} runs of three processes. Links between servers: {}.",
            self.jobs,
            self.clients,
            self.common.runs,
            link_name(self.link.0)
        );
        Findings {
            name: "service",
            heading: &heading,
            table: &table,
            data: lines,
            svg: Some(plot::bars("Queries over the service", "jobs a second", &names, &series)?),
        }
        .publish(&self.common.shown)
    }
}
