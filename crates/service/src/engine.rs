//! What a server has: its store, its policy, its queue; and its models. Everything that clients ask for and that sessions do goes through here.

use crate::briefs::Phase;
use crate::clock::now;
use crate::config::Server;
use crate::fault::{Blame, Fault, Result};
use crate::metrics::{Gauges, Metrics};
use crate::names::Id;
use crate::peers::Peers;
use crate::push::Public;
use crate::queue::Queue;
use crate::records::{Grant, Job, Model};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Whoever waits for a job waits with one in so many others.
const WAITS: usize = 64;

/// A server, without its ports.
pub struct Engine {
    /// What it was told.
    pub config: Server,
    /// What it keeps.
    pub store: Store,
    /// What it counts.
    pub metrics: Metrics,
    pub(crate) peers: Arc<Peers>,
    pub(crate) queue: Queue,
    /// What is public of models that were asked for lately, with its hash, by the file it is in.
    known: Mutex<BTreeMap<Id, (Arc<Public>, String)>>,
    seen: Mutex<Seen>,
    /// Iterations that trainings have done in this process.
    progress: Mutex<BTreeMap<Id, usize>>,
    /// Change whenever one of their jobs does.
    changed: Vec<watch::Sender<()>>,
    stopping: AtomicBool,
}

/// When a session with the others last got on, and what went wrong last, with its time.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) well: Option<u64>,
    pub(crate) trouble: Option<(u64, String)>,
}

impl Engine {
    /// A server with its store; jobs that an earlier process left wait again.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn new(config: Server, store: Store, peers: Arc<Peers>) -> Result<Self> {
        let engine = Self {
            queue: Queue::new(config.limits.sessions),
            config,
            store,
            metrics: Metrics::default(),
            peers,
            known: Mutex::default(),
            seen: Mutex::default(),
            progress: Mutex::default(),
            changed: (0..WAITS).map(|_| watch::Sender::new(())).collect(),
            stopping: AtomicBool::new(false),
        };
        engine.recover()?;
        engine.recover_trainings()?;
        Ok(engine)
    }

    /// Whether this server decides the order.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.config.party == 0
    }

    /// Begins to stop: nothing new is begun.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.queue.stop();
        self.changed.iter().for_each(|c| c.send_replace(()));
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn channel(&self, job: Id) -> &watch::Sender<()> {
        &self.changed[usize::from(job.0[0]) % WAITS]
    }

    /// A job has changed.
    pub(crate) fn tell(&self, job: Id) {
        self.channel(job).send_replace(());
    }

    /// Wakes whoever waits for a job to change.
    #[must_use]
    pub fn changes(&self, job: Id) -> watch::Receiver<()> {
        self.channel(job).subscribe()
    }

    /// A session got on, or why it did not.
    pub(crate) fn saw(&self, trouble: Option<&Fault>) {
        if let Ok(mut seen) = self.seen.lock() {
            match trouble {
                None => seen.well = Some(now()),
                Some(fault) => seen.trouble = Some((now(), fault.why.clone())),
            }
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().map(|s| s.clone()).unwrap_or_default()
    }

    /// Why jobs of an upload do not get on, if this server leads and knows.
    pub(crate) fn obstacle(&self, upload: Id) -> Option<String> {
        self.queue.obstacle(upload)
    }

    /// What is public of a model, from the file it is in; `hash` is what it must be.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn public(&self, file: Id, hash: &str) -> Result<Arc<Public>> {
        let known = self.known.lock().ok().and_then(|k| k.get(&file).cloned());
        let (public, found) = match known {
            Some(known) => known,
            None => {
                let public = Arc::new(Public::parse(&self.store.whole(file)?)?);
                let fresh = (Arc::clone(&public), public.hash());
                if let Ok(mut known) = self.known.lock() {
                    known.insert(file, fresh.clone());
                }
                fresh
            }
        };
        if found == hash {
            return Ok(public);
        }
        Err(Fault::internal("the program that is kept", &"it is another than was pushed"))
    }

    /// What a client may do with a model; its owner may do everything.
    pub(crate) fn grant(&self, model: &Model, client: &str) -> Result<Grant> {
        if model.owner == client {
            return Ok(Grant::default());
        }
        // Whoever may not ask is not told that it exists, but for those who gave rows to it.
        model.grants.get(client).cloned().ok_or_else(|| match model.is_known_to(client) {
            true => Fault::refused(format!("{} does not let {client} ask {}", model.owner, model.name)),
            false => Fault::unknown(format!("there is no model {}", model.name)),
        })
    }

    /// Queries a client has left: those of its grant, less those charged in its time and those that wait.
    ///
    /// # Errors
    /// When it may not ask at all; those of the store.
    pub fn left(&self, model: &Model, client: &str) -> Result<u64> {
        let grant = self.grant(model, client)?;
        let Some(queries) = grant.queries else { return Ok(u64::MAX) };
        let charged = self.store.charged(&model.name, client, &grant, now())?;
        let briefs = self.store.briefs();
        let waits = briefs.values().filter(|b| b.upload == model.upload && b.owner == client && !b.charged);
        Ok(queries.saturating_sub(charged + waits.filter(|b| !b.is_over()).count() as u64))
    }

    /// Whether a client may ask, and send the answer to a receiver.
    pub(crate) fn may_ask(&self, model: &Model, client: &str, receiver: &str) -> Result<()> {
        let grant = self.grant(model, client)?;
        if receiver != client && model.owner != client && !grant.receivers.iter().any(|r| r == receiver) {
            return Err(Fault::refused(format!("{client} may not send answers of {} to {receiver}", model.name)));
        }
        Ok(())
    }

    /// A model that a client may know of.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn known_model(&self, name: &str, client: &str) -> Result<Model> {
        let model = self.store.model(name)?.filter(|m| m.is_known_to(client));
        model.ok_or_else(|| Fault::unknown(format!("there is no model {name}")))
    }

    /// Iterations of a training that are done, also those since its last checkpoint.
    pub(crate) fn progress(&self, upload: Id, iteration: usize) {
        if let Ok(mut progress) = self.progress.lock() {
            progress.insert(upload, iteration);
        }
    }

    /// A training is over, and its progress with it.
    pub(crate) fn forget_progress(&self, upload: Id) {
        if let Ok(mut progress) = self.progress.lock() {
            progress.remove(&upload);
        }
    }

    /// What [`Engine::progress`] was told last, if this process trained.
    pub(crate) fn progressed(&self, upload: Id) -> Option<usize> {
        self.progress.lock().ok()?.get(&upload).copied()
    }

    /// A model that a client may ask.
    ///
    /// # Errors
    /// When there is none.
    pub fn model_for(&self, name: &str, client: &str) -> Result<Model> {
        let model = self.store.model(name)?.ok_or_else(|| Fault::unknown(format!("there is no model {name}")))?;
        self.grant(&model, client)?;
        Ok(model)
    }

    /// Whether a client may push a model of that name, so large.
    ///
    /// # Errors
    /// Why not.
    pub fn may_push(&self, name: &str, client: &str, bytes: u64, memory: u64) -> Result<()> {
        let limits = &self.config.limits;
        if !self.config.policy.push.iter().any(|c| c == client) {
            return Err(Fault::refused(format!(
                "{client} may not push models here; policy.push of server.toml names who may"
            )));
        }
        if bytes > limits.upload_mb << 20 {
            let mb = bytes >> 20;
            return Err(Fault::limit(format!("the shares have {mb} MB; {} are possible", limits.upload_mb)));
        }
        if memory > limits.memory_mb << 20 {
            let mb = memory >> 20;
            return Err(Fault::limit(format!("a session needs {mb} MB of memory; {} are possible", limits.memory_mb)));
        }
        let models = self.store.models()?;
        match models.iter().find(|m| m.name == name) {
            Some(m) if m.owner != client => Err(Fault::new(Blame::Conflict, format!("there is another model {name}"))),
            None if models.len() >= limits.models => {
                Err(Fault::limit(format!("{} models are kept, and no more are taken", limits.models)))
            }
            _ => Ok(()),
        }
    }

    /// Puts a pushed model in its place. One of the same name and owner goes, and jobs that were made for it fail.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn put_model(&self, model: &mut Model, keep_grants: bool) -> Result<()> {
        let before = self.store.put_model(model, self.config.limits.models, keep_grants)?;
        let (name, owner, bytes) = (&model.name, &model.owner, model.bytes);
        tracing::info!(party = self.config.party, model = %name, upload = %model.upload, %owner, bytes, "a model was pushed");
        if let Some(before) = before {
            self.gone(&before, "the model was pushed anew; ask again")?;
        }
        Ok(())
    }

    /// Removes a model of a client, and fails jobs that were made for it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove_model(&self, name: &str, client: &str) -> Result<()> {
        let model = self.store.remove_model(name, client)?;
        tracing::info!(party = self.config.party, model = name, "a model was removed");
        self.gone(&model, "the model was removed")
    }

    fn gone(&self, model: &Model, why: &str) -> Result<()> {
        self.forget_progress(model.upload);
        self.queue.forget(model.upload);
        self.queue.close(model.upload);
        self.store.discard(model.files().into_iter().map(|(id, _)| id));
        let jobs: Vec<Id> = {
            let briefs = self.store.briefs();
            briefs.iter().filter(|(_, b)| b.upload == model.upload && !b.is_over()).map(|(id, _)| *id).collect()
        };
        for job in jobs {
            self.fail(job, Fault::unknown(why))?;
        }
        self.release(model.public)
    }

    /// Lets go of what is public of a model once neither a model nor an answer needs it.
    pub(crate) fn release(&self, public: Id) -> Result<()> {
        let needed = self.store.briefs().values().any(|b| b.public == public)
            || self.store.models()?.iter().any(|m| m.public == public);
        if !needed {
            if let Ok(mut known) = self.known.lock() {
                known.remove(&public);
            }
            self.store.discard([public]);
        }
        Ok(())
    }

    /// The model that a job was made for, with its grants of now.
    pub(crate) fn current(&self, job: &Job) -> Result<Model> {
        let model = self.store.model(&job.model)?.filter(|m| m.upload == job.upload);
        model.ok_or_else(|| Fault::unknown(format!("the model of job {} is gone", job.id)))
    }

    /// What it has now.
    ///
    /// # Errors
    /// Those of the store.
    pub fn gauges(&self) -> Result<Gauges> {
        let models = self.store.models()?;
        let mut budgets = vec![];
        for model in &models {
            for (client, grant) in &model.grants {
                let used = self.store.charged(&model.name, client, grant, now())?;
                let left = grant.queries.map(|q| q.saturating_sub(used));
                budgets.push((model.name.clone(), client.clone(), used, left));
            }
        }
        let briefs = self.store.briefs();
        let count = |phase: Phase| briefs.values().filter(|b| b.phase == phase).count();
        Ok(Gauges {
            queued: count(Phase::Queued),
            running: count(Phase::Running),
            answers: count(Phase::Done),
            models: models.len(),
            loaded: self.queue.loaded(),
            well: self.seen().well,
            expires: self.peers.expires(),
            budgets,
        })
    }
}
