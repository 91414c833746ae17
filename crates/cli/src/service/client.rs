//! `sordino submit|fetch|jobs|models|allow|remove|forget`.

use super::{To, id};
use crate::{Inputs, human_bytes, json, positive, print};
use clap::Args;
use serde::Serialize;
use sordino::inputs::Take;
use sordino::report::{Class, Output, top};
use sordino::{Error, Result};
use sordino_nn::exec::encode_inputs;
use sordino_nn::program::Port;
use sordino_service::client::{Answered, Client, Known};
use sordino_service::clock::ago;
use sordino_service::fleet::{Fleet, shortest};
use sordino_service::names::Id;
use sordino_service::records::{Grant, State};
use sordino_service::wire::{JobView, ModelView};
use sordino_service::{Blame, Fault};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How answers are shown.
#[derive(Args, Clone)]
struct Shown {
    /// Show this many best classes.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `submit`.
#[derive(Args)]
pub(crate) struct Submit {
    /// The model's name at the servers.
    model: String,
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    inputs: Inputs,
    /// Who receives the answers [default: this client].
    #[arg(long, value_name = "CLIENT")]
    receiver: Option<String>,
    /// Wait for the answers and show them; else only the jobs' ids are printed, for `sordino fetch`.
    #[arg(long)]
    wait: bool,
    /// Seconds to wait for all answers.
    #[arg(long, default_value_t = 600.0, value_parser = crate::session::seconds, requires = "wait")]
    patience: f64,
    #[command(flatten)]
    shown: Shown,
}

/// One answer.
#[derive(Serialize)]
struct One {
    job: Id,
    /// The best classes alone were opened, and not their scores.
    #[serde(skip)]
    class: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Class>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Output>,
}

impl One {
    fn new(job: Id, answered: &Answered, most: usize) -> Self {
        let outputs: Vec<Output> = answered
            .names
            .iter()
            .zip(&answered.outputs)
            .map(|(name, t)| Output { name: name.clone(), shape: t.dims.clone(), values: t.data.clone() })
            .collect();
        let named = |class: usize| answered.classes.as_ref().and_then(|names| names.get(class).cloned());
        if answered.class {
            // Places are all that was opened; how sure the model is stays unknown.
            let place = |v: &f32| {
                let class = v.round().max(0.0) as usize;
                Class { class, value: 1.0, name: named(class) }
            };
            return Self { job, class: true, top: answered.outputs[0].data.iter().map(place).collect(), outputs };
        }
        let mut best = top(&answered.scores(), most);
        best.iter_mut().for_each(|c| c.name = named(c.class));
        Self { job, class: false, top: best, outputs }
    }

    fn line(&self) -> String {
        let called = |c: &Class| c.name.clone().unwrap_or_else(|| c.class.to_string());
        match &self.top[..] {
            all if self.class => format!("class {}", all.iter().map(called).collect::<Vec<_>>().join(", ")),
            [one] if self.outputs[0].values.len() == 1 => format!("{:.6}", one.value),
            many => {
                let list: Vec<String> = many.iter().map(|c| format!("{} ({:.4})", called(c), c.value)).collect();
                format!("class {}", list.join(", "))
            }
        }
    }
}

#[derive(Serialize)]
struct Submitted {
    model: String,
    jobs: Vec<Id>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<One>,
    wall_seconds: f64,
}

/// Waits for a job, and says once why it does not get on, or why the leader cannot be asked.
fn over(client: &Client, command: &str, job: Id, until: Instant) -> Result<()> {
    let mut told = None;
    let mut tell = |why: Option<String>| {
        if why.is_some() && why != told {
            eprintln!("{command}: job {job} waits: {}", why.as_deref().unwrap_or_default());
            told = why;
        }
    };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let why = match client.wait(job, left.min(Duration::from_secs(5))) {
            Ok(view) => match view.state {
                State::Done => return Ok(()),
                State::Failed(fault) => return Err(fault.at(&format!("job {job}")).into()),
                _ => view.note,
            },
            // It may be starting anew.
            Err(e) if e.kind == Blame::PeerLost && !left.is_zero() => {
                std::thread::sleep(Duration::from_millis(500).min(left));
                Some(e.why)
            }
            Err(e) => return Err(e.into()),
        };
        if left.is_zero() {
            let why = why.map(|n| format!(": {n}")).unwrap_or_default();
            return Err(Error::Session(format!(
                "job {job} is not answered yet{why}; `sordino fetch {job}` asks again"
            )));
        }
        tell(why);
    }
}

/// How jobs that are under way can be had later.
fn fetchable(jobs: &[Id]) -> String {
    let ids: Vec<String> = jobs.iter().map(Id::to_string).collect();
    if ids.is_empty() { String::new() } else { format!("`sordino fetch` gets the answers of {}", ids.join(" ")) }
}

/// An error in the middle of several jobs, with those that are under way.
fn taken(jobs: &[Id], all: usize, e: Error) -> Error {
    if jobs.is_empty() {
        return e;
    }
    let (code, n) = (e.exit_code(), jobs.len());
    let why = format!("{e}; {n} of {all} are under way, and {}", fetchable(jobs));
    if code == 2 { Error::Usage(why) } else { Error::Session(why) }
}

impl Submit {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        self.inputs.are_there()?;
        let fleet = self.to.fleet()?;
        let (clients, waiting) = (fleet.clients(), fleet.waiting()?);
        let mut given = vec![0; clients.len()];
        let none = || Error::Session("no cluster answers".into());
        let first = shortest(&waiting, &given).ok_or_else(none)?;
        let client = &clients[first];
        let model = client.model(&self.model)?;
        let program = &model.public.program;
        let take = |p: &Port| (p.name.clone(), Take { name: p.name.clone(), dims: p.dims.clone(), batch: p.batch });
        let takes: Vec<(String, Take)> = program.inputs.iter().map(take).collect();
        let preprocess = self.inputs.preprocess.clone().or(model.public.preprocess.clone());
        let samples = self.inputs.read(&takes, &preprocess)?;
        if let Some(left) = model.view.left
            && (samples.len() as u64) > left
        {
            let why = format!("{} inputs; the budget for {} has {left} queries left", samples.len(), self.model);
            return Err(Error::Session(why));
        }
        // All of them are looked at before the first one leaves.
        let encoded = samples.iter().map(|s| Ok(encode_inputs(program, s)?)).collect::<Result<Vec<_>>>()?;
        let receiver = self.receiver.clone().unwrap_or_else(|| client.name().into());
        if self.wait && receiver != client.name() {
            return Err(Error::Usage(format!("the answers are for {receiver}, who fetches them; leave out --wait")));
        }
        let mut jobs = vec![];
        let mut known: Vec<Option<Known>> = clients.iter().map(|_| None).collect();
        let mut at = vec![];
        for inputs in &encoded {
            let place = shortest(&waiting, &given).ok_or_else(none)?;
            given[place] += 1;
            let submitted = match &mut known[place] {
                _ if place == first => clients[place].submit(&model, inputs, &receiver),
                Some(same) => clients[place].submit(same, inputs, &receiver),
                empty => clients[place].model(&self.model).and_then(|there| {
                    if there.public.hash() != model.public.hash() {
                        let why = format!(
                            "clusters have different models named {}; its owner may be pushing it now",
                            self.model
                        );
                        return Err(Fault::new(Blame::Incompatible, why));
                    }
                    clients[place].submit(empty.insert(there), inputs, &receiver)
                }),
            };
            match submitted {
                Ok(job) => {
                    jobs.push(job);
                    at.push(place);
                }
                Err(e) => return Err(taken(&jobs, encoded.len(), e.into())),
            }
            if !self.shown.json && !self.wait {
                print(&format!("{}\n", jobs[jobs.len() - 1]))?;
            }
        }
        crate::session::on_interrupt(&fetchable(&jobs));
        let mut answers = vec![];
        let until = Instant::now() + Duration::from_secs_f64(self.patience);
        for (i, job) in jobs.iter().enumerate().filter(|_| self.wait) {
            let client = &clients[at[i]];
            let one = over(client, "submit", *job, until)
                .and_then(|()| Ok(One::new(*job, &client.answer(*job)?, self.shown.top)));
            let one = one.map_err(|e| if i + 1 < jobs.len() { taken(&jobs[i..], jobs.len(), e) } else { e })?;
            if !self.shown.json {
                print(&format!("input {i}: {}\n", one.line()))?;
            }
            answers.push(one);
            crate::session::on_interrupt(&fetchable(&jobs[i + 1..]));
        }
        let wall_seconds = start.elapsed().as_secs_f64();
        if self.shown.json {
            return print(&json(&Submitted { model: self.model, jobs, answers, wall_seconds })?);
        }
        if self.wait { print(&format!("{wall_seconds:.2} s in all\n")) } else { Ok(()) }
    }
}

/// Arguments of `fetch`.
#[derive(Args)]
pub(crate) struct Fetch {
    /// The job's id, as `submit` and `jobs` print it.
    #[arg(value_parser = id)]
    job: Id,
    #[command(flatten)]
    to: To,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 600.0, value_parser = crate::session::seconds)]
    patience: f64,
    #[command(flatten)]
    shown: Shown,
}

impl Fetch {
    pub(crate) fn run(self) -> Result<()> {
        let fleet = self.to.fleet()?;
        let client = fleet.holder(self.job)?;
        over(client, "fetch", self.job, Instant::now() + Duration::from_secs_f64(self.patience))?;
        let one = One::new(self.job, &client.answer(self.job)?, self.shown.top);
        print(&if self.shown.json { json(&one)? } else { one.line() + "\n" })
    }
}

/// Lists of all clusters, one after the other; one that does not answer is told, and fails only if none does.
fn of_all<T>(fleet: &Fleet, list: impl Fn(&Client) -> sordino_service::fault::Result<Vec<T>>) -> Result<Vec<T>> {
    let (mut all, mut failed, mut answered) = (vec![], None, false);
    for client in fleet.clients() {
        match list(client) {
            Ok(mut some) => {
                all.append(&mut some);
                answered = true;
            }
            Err(e) => failed = Some(e),
        }
    }
    match failed {
        Some(e) if !answered => return Err(e.into()),
        Some(e) => eprintln!("a cluster does not answer: {e}"),
        None => {}
    }
    Ok(all)
}

/// Arguments of `jobs`.
#[derive(Args)]
pub(crate) struct Jobs {
    #[command(flatten)]
    to: To,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Jobs {
    pub(crate) fn run(self) -> Result<()> {
        let fleet = self.to.fleet()?;
        let jobs = of_all(&fleet, Client::jobs)?;
        if self.json {
            return print(&json(&jobs)?);
        }
        let line = |j: &JobView| {
            let state = match &j.state {
                State::Queued => format!("waits{}", j.note.as_deref().map(|n| format!(": {n}")).unwrap_or_default()),
                State::Running => "runs".into(),
                State::Done => "answered".into(),
                State::Failed(fault) => format!("failed ({}): {fault}", fault.kind.name()),
            };
            format!("{}  {}  from {} to {}, {}: {state}\n", j.id, j.model, j.owner, j.receiver, ago(j.created))
        };
        print(&if jobs.is_empty() { "no jobs\n".into() } else { jobs.iter().map(line).collect::<String>() })
    }
}

/// Arguments of `models`.
#[derive(Args)]
pub(crate) struct Models {
    #[command(flatten)]
    to: To,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Models {
    pub(crate) fn run(self) -> Result<()> {
        let fleet = self.to.fleet()?;
        let mut models = of_all(&fleet, Client::models)?;
        // The same model of several clusters is one.
        let mut seen = BTreeSet::new();
        models.retain(|m| seen.insert((m.name.clone(), m.program.clone())));
        if self.json {
            return print(&json(&models)?);
        }
        let line = |m: &ModelView| {
            let mut text =
                format!("{}  of {}, pushed {}, {} of shares", m.name, m.owner, ago(m.created), human_bytes(m.bytes));
            text += if m.barred { ", which you may not ask" } else { "" };
            text += &m.left.map(|l| format!(", {l} queries left")).unwrap_or_default();
            text += &m.training.as_ref().map(|t| format!("; {}", t.shown())).unwrap_or_default();
            for (client, grant) in &m.grants {
                let used = m.used.get(client).copied().unwrap_or(0);
                text += &format!("\n  {client} may ask {}, {used} used", granted(grant));
            }
            text + "\n"
        };
        print(&if models.is_empty() { "no models\n".into() } else { models.iter().map(line).collect::<String>() })
    }
}

fn granted(grant: &Grant) -> String {
    let mut text = match (grant.queries, grant.seconds) {
        (None, _) => "as often as it likes".to_string(),
        (Some(q), None) => format!("{q} times"),
        (Some(q), Some(s)) => format!("{q} times in {s} seconds"),
    };
    if !grant.receivers.is_empty() {
        text += &format!(", also for {}", grant.receivers.join(", "));
    }
    text
}

/// Arguments of `allow`.
#[derive(Args)]
pub(crate) struct Allow {
    /// The model's name at the servers.
    model: String,
    /// Who may ask it.
    client: String,
    #[command(flatten)]
    to: To,
    /// How often in all, what it asked before included; every answer tells a little of the model [default: as often as it likes].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    queries: Option<u64>,
    /// The seconds that queries are counted over [default: for ever].
    #[arg(long, requires = "queries", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Whom else answers may be sent to, separated by commas.
    #[arg(long, value_delimiter = ',')]
    receivers: Vec<String>,
    /// Instead: it may ask no more.
    #[arg(long, conflicts_with_all = ["queries", "seconds", "receivers"])]
    never: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a command did, for a program to read.
#[derive(Serialize)]
struct Did<'a> {
    done: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<&'a Grant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Id>,
}

impl Did<'_> {
    const NOTHING: Self = Self { done: "", model: None, client: None, grant: None, job: None };

    fn told(&self, as_json: bool, sentence: String) -> Result<()> {
        print(&if as_json { json(self)? } else { sentence + "\n" })
    }
}

impl Allow {
    pub(crate) fn run(self) -> Result<()> {
        let fleet = self.to.fleet()?;
        if self.never {
            fleet.clients().iter().try_for_each(|c| c.disallow(&self.model, &self.client))?;
            let did = Did { done: "disallowed", model: Some(&self.model), client: Some(&self.client), ..Did::NOTHING };
            return did.told(self.json, format!("{} may ask {} no more", self.client, self.model));
        }
        let grant = Grant { queries: self.queries, seconds: self.seconds, receivers: self.receivers };
        fleet.clients().iter().try_for_each(|c| c.allow(&self.model, &self.client, &grant))?;
        let sentence = format!("{} may ask {} {}", self.client, self.model, granted(&grant));
        let (model, client) = (Some(&*self.model), Some(&*self.client));
        Did { done: "allowed", model, client, grant: Some(&grant), ..Did::NOTHING }.told(self.json, sentence)
    }
}

/// Arguments of `remove`.
#[derive(Args)]
pub(crate) struct Remove {
    /// The model's name at the servers.
    model: String,
    #[command(flatten)]
    to: To,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub(crate) fn run(self) -> Result<()> {
        self.to.fleet()?.clients().iter().try_for_each(|c| c.remove(&self.model))?;
        let did = Did { done: "removed", model: Some(&self.model), ..Did::NOTHING };
        did.told(self.json, format!("{} is removed", self.model))
    }
}

/// Arguments of `forget`.
#[derive(Args)]
pub(crate) struct Forget {
    /// The job's id.
    #[arg(value_parser = id)]
    job: Id,
    #[command(flatten)]
    to: To,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Forget {
    pub(crate) fn run(self) -> Result<()> {
        let fleet = self.to.fleet()?;
        fleet.holder(self.job)?.forget(self.job)?;
        let did = Did { done: "forgotten", job: Some(self.job), ..Did::NOTHING };
        did.told(self.json, format!("job {} is forgotten", self.job))
    }
}
