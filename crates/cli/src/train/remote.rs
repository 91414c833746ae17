//! A training on servers that stay: its owner shares the start, data owners give their rows, the servers do the rest by themselves.

use super::progress::{WINDOW, tell};
use super::{Ready, Train};
use crate::service::{To, granted, grants, with_bar};
use crate::{json, print};
use clap::Args;
use serde::Serialize;
use sordino::data::Set;
use sordino::prepared::{Trainer, owners};
use sordino::report::Bytes;
use sordino::training::Order;
use sordino::{Error, Result};
use sordino_service::client::{Client, Known};
use sordino_service::course::Course;
use sordino_service::fleet::Fleet;
use sordino_service::names::Id;
use sordino_service::push::Public;
use sordino_service::shares::{Made, What, share_bytes};
use sordino_service::trainings::Stage;
use sordino_service::wire::{ModelView, TrainingView, failure};
use sordino_service::{Blame, Fault};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How often servers are asked where a training is, and how long it says nothing.
const PAUSE: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(5);
/// How long it says nothing of a server that does not answer, at most.
const LONGEST: Duration = Duration::from_secs(300);

/// Arguments for a training on servers that stay.
#[derive(Args)]
pub(super) struct Remote {
    /// Train on the three servers that this file names, and wait for the end; the trained model stays there. The file is a client's cluster.toml; of several
    /// clusters the first one is taken.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["checkpoint", "parties", "link", "threads", "device", "device_memory", "trace"])]
    to: Option<PathBuf>,
    /// The model's name at the servers [default: the file's name without its ending, or that of the network].
    #[arg(long, requires = "to")]
    name: Option<String>,
    /// Data owners who give their rows by themselves, with `sordino contribute`: clients with the numbers of their samples, separated by commas.
    #[arg(long, requires = "to", value_name = "CLIENT=SAMPLES", value_delimiter = ',', value_parser = joining)]
    pub(super) with: Vec<(String, usize)>,
    /// Clients who may ask the trained model, separated by commas; with a number of queries where that is limited, such as bob=1000.
    #[arg(long, requires = "to", conflicts_with = "resume", value_delimiter = ',', value_name = "CLIENT[=QUERIES]", value_parser = granted)]
    allow: Vec<(String, Option<u64>)>,
    /// Do not wait for the end: --resume does later.
    #[arg(long, requires = "to", conflicts_with = "resume")]
    detach: bool,
}

fn joining(text: &str) -> std::result::Result<(String, usize), String> {
    let (name, samples) = text.split_once('=').ok_or("expected CLIENT=SAMPLES, such as bob=5000")?;
    sordino_service::names::client(name).map_err(|e| e.why)?;
    match samples.parse() {
        Ok(n) if n > 0 => Ok((name.into(), n)),
        _ => Err(format!("{samples} is no number of samples")),
    }
}

/// What the owners learn of a training, wherever it ran.
pub(super) struct Came {
    /// Iterations of this time.
    pub(super) iterations: usize,
    /// Seconds of them.
    pub(super) seconds: f64,
    pub(super) bytes: Bytes,
    /// Of the last one.
    pub(super) rounds: u32,
    /// By iteration, counted from one.
    pub(super) losses: Vec<(usize, f32)>,
    /// Integers of the states that were opened.
    pub(super) states: Vec<Vec<i64>>,
}

/// The object that `train --to --detach --json` prints.
#[derive(Serialize)]
struct Begun {
    name: String,
    upload: Id,
    iterations: usize,
    /// Whose rows are not there yet.
    waits_for: Vec<String>,
}

/// Stretches of losses that were fetched.
#[derive(Default)]
struct Heard(Vec<((Made, usize, usize), Vec<f32>)>);

impl Heard {
    /// Fetches what is new; a training that went back to an earlier checkpoint tells some of it anew.
    fn update(&mut self, client: &Client, known: &Known, view: &TrainingView) -> sordino_service::Result<()> {
        let same = self.0.iter().zip(&view.losses).take_while(|(have, there)| have.0 == **there).count();
        self.0.truncate(same);
        for (i, there) in view.losses.iter().enumerate().skip(same) {
            self.0.push((*there, client.losses(known, i, (there.0, there.2))?));
        }
        Ok(())
    }

    fn all(&self) -> Vec<(usize, f32)> {
        let stretch = |((_, before, _), losses): &((Made, usize, usize), Vec<f32>)| {
            losses.iter().enumerate().map(|(i, l)| (before + i + 1, *l)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(stretch).collect()
    }

    /// The mean of the last ones, in words.
    fn recent(&self) -> String {
        let all = self.all();
        let last = &all[all.len().saturating_sub(WINDOW)..];
        match last.last() {
            None => String::new(),
            Some((i, _)) => {
                let mean = last.iter().map(|(_, l)| f64::from(*l)).sum::<f64>() / last.len() as f64;
                format!(", loss {mean:.4} (mean up to iteration {i})")
            }
        }
    }
}

impl Remote {
    pub(super) fn is_asked(&self) -> bool {
        self.to.is_some()
    }

    /// Refuses what needs the data of owners who are elsewhere.
    pub(super) fn fits(&self, check: bool, class_weights: bool) -> Result<()> {
        match self.with.is_empty() {
            false if check => Err(Error::Usage(
                "--check trains in floats on everybody's rows, which --with leaves where they are".into(),
            )),
            false if class_weights => Err(Error::Usage(
                "--class-weights counts everybody's labels, which --with leaves where they are".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Ranges are taken from this owner's rows alone: those of others are stood in for by them, and the order of the others' rows by such rows.
    pub(super) fn stand_in(&self, sets: &mut Vec<Set>, order: &mut Order, calibration: usize) {
        for _ in &self.with {
            let k = sets.len();
            let rows = order.first().map_or(0, |b| b[k].len());
            let set = sets[0].first((rows * calibration).max(1));
            let n = set.samples.len();
            order.iter_mut().for_each(|batch| batch[k].iter_mut().for_each(|row| *row %= n));
            sets.push(set);
        }
    }

    /// What can be said before anything is computed.
    pub(super) fn begins(&self, train: &Train) -> Result<()> {
        let name = self.name(&train.model)?;
        let fleet = self.fleet(train)?;
        let client = &fleet.clients()[0];
        for (i, (with, _)) in self.with.iter().enumerate() {
            if with == client.name() {
                return Err(Error::Usage(format!("--with {with}: that is you; your rows are --data and --owner")));
            }
            if self.with[..i].iter().any(|w| w.0 == *with) {
                return Err(Error::Usage(format!("--with names {with} twice")));
            }
        }
        client.about()?;
        match (client.model(&name), train.resume) {
            (Ok(_), false) => Err(Error::Usage(format!(
                "there is a model {name} at the servers: --resume waits for its training, `sordino remove {name}` removes it, --name chooses another name"
            ))),
            (Ok(known), true) if known.public.training.is_none() => {
                Err(Error::Usage(format!("{name} was not trained there: it was pushed")))
            }
            (Err(e), true) => Err(e.at(&name).into()),
            _ => Ok(()),
        }
    }

    fn fleet(&self, train: &Train) -> Result<Fleet> {
        let to = self.to.as_ref().ok_or_else(|| Error::Usage("--to names no servers".into()))?;
        To::new(to, train.session.timeout).fleet()
    }

    /// The model's name at the servers.
    pub(super) fn name(&self, model: &str) -> Result<String> {
        let plain = || match model.strip_prefix("zoo:") {
            Some(name) => name.into(),
            None => Path::new(model).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let name = self.name.clone().unwrap_or_else(plain);
        sordino_service::names::model(&name)?;
        Ok(name)
    }

    /// Trains there; what the owners learn, or nothing if nobody waits.
    pub(super) fn train(&self, ready: &Ready, opened: usize, train: &Train) -> Result<Option<Came>> {
        let prepared = &ready.prepared;
        let name = self.name(&train.model)?;
        let fleet = self.fleet(train)?;
        let client = &fleet.clients()[0];
        let own = prepared.material.sets.len() - self.with.len();
        let all = std::iter::repeat_n(client.name().to_string(), own).chain(self.with.iter().map(|w| w.0.clone()));
        let course = Course {
            step: prepared.program.clone(),
            owners: all.collect(),
            samples: ready.sizes.clone(),
            iterations: prepared.material.order.len(),
            batch: ready.batch,
            seed: prepared.material.seed,
            opened,
        };
        let (program, preprocess) = (prepared.answer.program.clone(), prepared.material.preprocess.clone());
        let public = Public { program, preprocess, class: false, beside: None, training: Some(course) };
        let found = client.model(&name);
        let sent = Arc::default();
        match (&found, train.resume) {
            (Ok(known), true) if known.view.program == public.hash() => {
                if failure(&client.views(&name)?).is_some() {
                    client.try_training_again(&name)?;
                    tell("the training failed before; it is tried again from its last checkpoint on");
                }
            }
            (Ok(known), true) => {
                let differs = difference(known.public.course()?, public.course()?);
                let why = format!(
                    "{name} at the servers is trained in another way: {differs}; --resume needs the same model, data and options"
                );
                return Err(Error::Usage(why));
            }
            (Ok(_), false) => return Err(Error::Usage(format!("there is a model {name} at the servers"))),
            (Err(e), true) => return Err(e.clone().at(&name).into()),
            (Err(e), false) if e.kind == Blame::Unknown => {
                let total = (0..3).map(|party| share_bytes(public.shared(), What::Model, party)).sum();
                let push = || client.push(&name, public.clone(), &prepared.secrets, grants(&self.allow), &sent);
                let upload = with_bar(total, &Arc::clone(&sent), train.json, push)?;
                tell(&format!("the start is shared as {name}; upload {upload}"));
            }
            (Err(e), false) => return Err(e.clone().into()),
        }
        let known = client.model(&name)?;
        self.give(client, &known, ready, own, train.json)?;
        crate::session::on_interrupt(
            "the training goes on at the servers; the same command with --resume waits for it again",
        );
        if self.detach {
            return self.begun(client, &known, train.json).map(|()| None);
        }
        drop(fleet);
        self.wait(train, &known).map(Some)
    }

    /// Gives this owner's rows, where they are not there already.
    fn give(&self, client: &Client, known: &Known, ready: &Ready, own: usize, quiet: bool) -> Result<()> {
        let course = known.public.course()?;
        let views = client.views(&known.view.name)?;
        let mut trainers = Trainer::all(&ready.prepared);
        let mut inputs = owners(&mut trainers);
        for (k, input) in inputs.iter_mut().enumerate().take(own) {
            let there = |v: &ModelView| v.training.as_ref().is_some_and(|t| t.rows[k].1);
            if views.iter().all(there) {
                continue;
            }
            give_rows(client, known, k, |run| input.inputs(run).map_err(|e| Fault::usage(e.to_string())), quiet)?;
            tell(&format!("rows of {} samples are given", course.samples[k]));
        }
        Ok(())
    }

    fn begun(&self, client: &Client, known: &Known, as_json: bool) -> Result<()> {
        let [view, ..] = client.views(&known.view.name)?;
        let course = known.public.course()?;
        let waits_for = view.training.as_ref().map(TrainingView::waits_for).unwrap_or_default();
        let (name, iterations) = (known.view.name.clone(), course.iterations);
        if as_json {
            return print(&json(&Begun { name, upload: known.view.upload, iterations, waits_for })?);
        }
        print(&match waits_for.len() {
            0 => format!("{name} is trained now, over {iterations} iterations; `sordino models` says how far it is\n"),
            _ => format!(
                "{name} waits for the rows of {}: `sordino contribute {name} --data DATA`\n",
                waits_for.join(", ")
            ),
        })
    }

    /// Waits for the end, and says where the training is.
    fn wait(&self, train: &Train, known: &Known) -> Result<Came> {
        let mut fleet = self.fleet(train)?;
        let (name, course) = (&known.view.name, known.public.course()?);
        let (mut heard, mut said, mut last, mut lost) =
            (Heard::default(), None::<Instant>, String::new(), None::<Instant>);
        let mut gap = SILENCE;
        let views = loop {
            let client = &fleet.clients()[0];
            let asked = client.views(name).and_then(|views| {
                let training = views[0].training.as_ref().filter(|_| views[0].upload == known.view.upload);
                let training =
                    training.ok_or_else(|| Fault::new(Blame::Unknown, "the model was removed, or pushed anew"))?;
                if course.tells_loss() {
                    heard.update(client, known, training)?;
                }
                Ok(views)
            });
            let views = match asked {
                Ok(views) => views,
                // A server may be starting anew, or be a checkpoint behind.
                Err(e) if matches!(e.kind, Blame::PeerLost | Blame::Conflict) => {
                    let since = *lost.get_or_insert_with(Instant::now);
                    if since.elapsed() > SILENCE && said.is_none_or(|s| s.elapsed() > gap) {
                        tell(&format!("{e}; asked again until it answers. Ctrl-C leaves the training to the servers"));
                        (said, gap) = (Some(Instant::now()), (2 * gap).min(LONGEST));
                        // They may have moved.
                        fleet = self.fleet(train).unwrap_or(fleet);
                    }
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            (lost, gap) = (None, SILENCE);
            if let Some(fault) = failure(&views) {
                return Err(fault.clone().at(name).into());
            }
            // Where the order is made it is over; another server may have what it became without knowing that all do.
            let has = |v: &ModelView| v.training.as_ref().is_some_and(|t| t.made.is_some());
            let is_over = views[0].training.as_ref().is_some_and(|t| t.stage == Stage::Done);
            if is_over && views.iter().all(has) {
                break views;
            }
            if let Some(view) = &views[0].training {
                let hint = match view.waits_for().is_empty() {
                    true => heard.recent(),
                    false => format!(": `sordino contribute {name} --data DATA`"),
                };
                let text = format!("{name}: {}{hint}", view.shown());
                let changed = text != last && (last.is_empty() || said.is_none_or(|s| s.elapsed() > SILENCE));
                if changed {
                    tell(&text);
                    (last, said) = (text, Some(Instant::now()));
                }
            }
            std::thread::sleep(PAUSE);
        };
        let spent: Vec<_> = views.iter().filter_map(|v| v.training.as_ref().map(|t| t.spent)).collect();
        let payload = |party: usize| spent.get(party).map_or(0, |s| s.payload);
        let states = if course.opened > 0 { fleet.clients()[0].trained(known)? } else { vec![] };
        Ok(Came {
            iterations: course.iterations,
            seconds: spent.iter().map(|s| s.seconds).fold(0.0, f64::max),
            bytes: Bytes {
                payload: spent.iter().map(|s| s.payload).sum(),
                wire: spent.iter().map(|s| s.wire).sum(),
                by_party: [payload(0), payload(1), payload(2), 0],
            },
            rounds: spent.first().map_or(0, |s| s.rounds),
            losses: heard.all(),
            states,
        })
    }
}

/// What differs between a training that is there and one that is asked for.
fn difference(there: &Course, here: &Course) -> String {
    let losses = |c: &Course| if c.tells_loss() { "with --reveal-loss" } else { "without --reveal-loss" };
    let opened = |c: &Course| if c.opened > 0 { "its model is opened" } else { "its model stays shared" };
    let facts = |c: &Course| {
        [
            format!("{} iterations", c.iterations),
            format!("batches of {}", c.batch),
            format!("seed {}", c.seed),
            format!("rows of {} with {:?} samples", c.owners.join(", "), c.samples),
            losses(c).into(),
            opened(c).into(),
        ]
    };
    let pair = facts(there).into_iter().zip(facts(here)).find(|(a, b)| a != b);
    pair.map_or_else(|| "another model, rates or ranges".into(), |(a, b)| format!("{a} there, {b} here"))
}

/// Gives a data owner's rows, with a bar.
pub(crate) fn give_rows(
    client: &Client,
    known: &Known,
    owner: usize,
    inputs: impl FnMut(usize) -> sordino_service::Result<Vec<Vec<i64>>> + Send,
    quiet: bool,
) -> Result<()> {
    let course = known.public.course()?;
    let sent: Arc<AtomicU64> = Arc::default();
    let give = || client.give_rows(known, owner, inputs, &sent);
    Ok(with_bar((0..3).map(|party| course.rows_bytes(owner, party)).sum(), &sent, quiet, give)?)
}
