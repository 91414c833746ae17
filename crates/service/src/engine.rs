//! What a server has: its store, its policy, its queue. Everything that clients ask for and that sessions do goes through here.

use crate::agree::Verdict;
use crate::config::Server;
use crate::fault::{Blame, Fault, Result};
use crate::metrics::{Gauges, Metrics};
use crate::names::Id;
use crate::peers::Peers;
use crate::push::Public;
use crate::queue::Queue;
use crate::records::{Answer, Grant, Job, Model, State};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often a job is begun before it fails.
pub(crate) const ATTEMPTS: u32 = 3;

/// For so many seconds a job may be at one server and not yet at another.
const YOUNG: u64 = 30;

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
    /// What is public of models that were asked for lately, by upload.
    known: Mutex<BTreeMap<Id, Arc<Public>>>,
    seen: Mutex<Seen>,
    /// Changes whenever a job does.
    changed: watch::Sender<u64>,
    stopping: AtomicBool,
}

/// When a session with the others last got on, and what went wrong last, with its time.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) well: Option<u64>,
    pub(crate) trouble: Option<(u64, String)>,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
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
            changed: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
        };
        for job in engine.store.jobs()? {
            if job.state == State::Running {
                engine.store.change_job(job.id, |job| {
                    job.state = State::Queued;
                    job.note = Some("this server was started anew while it ran".into());
                    Ok(())
                })?;
            }
            if engine.leads() && !job.is_over() {
                engine.queue.push(job.id, job.upload);
            }
        }
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
        self.tell();
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Wakes whoever waits for a job to change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What a client may do with a model; its owner may do everything.
    fn grant(&self, model: &Model, client: &str) -> Result<Grant> {
        if model.owner == client {
            return Ok(Grant::default());
        }
        // Whoever may not ask is not told that it exists.
        model.grants.get(client).cloned().ok_or_else(|| Fault::unknown(format!("there is no model {}", model.name)))
    }

    /// Queries a client has left: those of its grant, less those charged in its time.
    ///
    /// # Errors
    /// When it may not ask at all; those of the store.
    pub fn left(&self, model: &Model, client: &str) -> Result<u64> {
        let grant = self.grant(model, client)?;
        let Some(queries) = grant.queries else { return Ok(u64::MAX) };
        let charged = self.store.charges(&model.name, client, since(&grant))?.len() as u64;
        Ok(queries.saturating_sub(charged))
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

    /// What is public of a model.
    ///
    /// # Errors
    /// Those of the store.
    pub fn public(&self, model: &Model) -> Result<Arc<Public>> {
        if let Some(known) = self.known.lock().ok().and_then(|k| k.get(&model.upload).cloned()) {
            return Ok(known);
        }
        let public = Arc::new(Public::parse(&self.store.whole(model.public)?)?);
        if public.hash() != model.program {
            return Err(Fault::internal("the program that is kept", &"it is another than was pushed"));
        }
        if let Ok(mut known) = self.known.lock() {
            known.insert(model.upload, Arc::clone(&public));
        }
        Ok(public)
    }

    /// Whether a client may ask, and send the answer to a receiver.
    pub(crate) fn may_ask(&self, model: &Model, client: &str, receiver: &str) -> Result<()> {
        let grant = self.grant(model, client)?;
        if receiver != client && model.owner != client && !grant.receivers.iter().any(|r| r == receiver) {
            return Err(Fault::refused(format!("{client} may not send answers of {} to {receiver}", model.name)));
        }
        Ok(())
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

    /// A model that belongs to a client.
    ///
    /// # Errors
    /// When there is none.
    pub fn model_of(&self, name: &str, client: &str) -> Result<Model> {
        let model = self.model_for(name, client)?;
        if model.owner == client {
            return Ok(model);
        }
        Err(Fault::refused(format!("{name} belongs to {}", model.owner)))
    }

    /// Whether a client may push a model of that name, so large.
    ///
    /// # Errors
    /// Why not.
    pub fn may_push(&self, name: &str, client: &str, bytes: u64, memory: u64) -> Result<()> {
        let limits = &self.config.limits;
        if !self.config.policy.push.iter().any(|c| c == client) {
            return Err(Fault::refused(format!("{client} may not push models here")));
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
    pub fn put_model(&self, model: &Model) -> Result<()> {
        let before = self.store.put_model(model, |before| match before {
            Some(b) if b.owner != model.owner => {
                Err(Fault::new(Blame::Conflict, format!("there is another model {}", model.name)))
            }
            _ => Ok(()),
        })?;
        tracing::info!(party = self.config.party, model = %model.name, upload = %model.upload, owner = %model.owner, bytes = model.bytes, "a model was pushed");
        if let Some(before) = before {
            self.gone(&before, "the model was pushed anew")?;
        }
        Ok(())
    }

    /// Removes a model, and fails jobs that were made for it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove_model(&self, name: &str) -> Result<()> {
        if let Some(model) = self.store.remove_model(name)? {
            tracing::info!(party = self.config.party, model = name, "a model was removed");
            self.gone(&model, "the model was removed")?;
        }
        Ok(())
    }

    fn gone(&self, model: &Model, why: &str) -> Result<()> {
        self.queue.close(model.upload);
        self.store.discard([model.public, model.shares]);
        if let Ok(mut known) = self.known.lock() {
            known.remove(&model.upload);
        }
        for job in self.store.jobs()? {
            if job.upload == model.upload && !job.is_over() {
                self.fail(job.id, Fault::unknown(why))?;
            }
        }
        Ok(())
    }

    /// Whether there is room for one more job of a client.
    pub(crate) fn has_room(&self, client: &str) -> Result<()> {
        let limits = &self.config.limits;
        if self.is_stopping() {
            return Err(Fault::limit("the server is stopping; ask again in a moment"));
        }
        let (mut all, mut own) = (0, 0);
        for job in self.store.jobs()?.iter().filter(|j| !j.is_over()) {
            all += 1;
            own += usize::from(job.owner == client);
        }
        if all >= limits.queue || own >= limits.queue_per_client {
            let whose = if all >= limits.queue { "jobs" } else { "of your jobs" };
            return Err(Fault::limit(format!("{} {whose} wait, and no more are taken", all.min(limits.queue))));
        }
        Ok(())
    }

    /// Takes a job in.
    ///
    /// # Errors
    /// When its id is taken; those of the store.
    pub fn submit(&self, mut job: Job) -> Result<()> {
        self.store.add_job(&mut job)?;
        self.metrics.accepted();
        tracing::info!(party = self.config.party, job = %job.id, model = %job.model, owner = %job.owner, receiver = %job.receiver, "a job was submitted");
        if self.leads() {
            self.queue.push(job.id, job.upload);
        }
        self.tell();
        Ok(())
    }

    /// Ends a job that will not be answered.
    ///
    /// # Errors
    /// Those of the store.
    pub fn fail(&self, id: Id, fault: Fault) -> Result<()> {
        self.queue.forget(id);
        let mut inputs = None;
        let changed = self.store.change_job(id, |job| {
            if !job.is_over() {
                inputs = job.shares.take();
                job.state = State::Failed(fault.clone());
            }
            Ok(())
        });
        match changed {
            Ok(_) => {
                self.store.discard(inputs);
                self.metrics.failed(fault.kind);
                tracing::warn!(party = self.config.party, job = %id, blame = fault.kind.name(), "a job failed: {fault}");
                self.tell();
                Ok(())
            }
            Err(e) if e.kind == Blame::Unknown => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What this server thinks of a job that the leader names; waits a while for one that is still on its way.
    pub(crate) fn judge(&self, session: Id, model: &Model, id: Id, patience: Duration) -> Verdict {
        let mut verdict = Verdict { digest: Ok([0; 32]), left: 0, components: [String::new(), String::new()] };
        verdict.digest = self.awaited(id, patience).and_then(|job| {
            if job.upload != model.upload || job.model != model.name {
                return Err(Fault::unknown("the job was made for another model"));
            }
            let current = self.current(&job)?;
            self.may_ask(&current, &job.owner, &job.receiver)?;
            if now().saturating_sub(job.created) > self.config.limits.job_seconds {
                return Err(Fault::limit("the job has waited too long"));
            }
            if let State::Failed(fault) = &job.state {
                return Err(fault.clone());
            }
            verdict.left = if job.charged { u64::MAX } else { self.left(&current, &job.owner)? };
            verdict.components = job.components.clone();
            Ok(crate::agree::of_job(session, model, &job))
        });
        verdict
    }

    /// The model that a job was made for, with its grants of now.
    pub(crate) fn current(&self, job: &Job) -> Result<Model> {
        let model = self.store.model(&job.model)?.filter(|m| m.upload == job.upload);
        model.ok_or_else(|| Fault::unknown(format!("the model of job {} is gone", job.id)))
    }

    /// Whether a job came so recently that another server may not have it yet.
    pub(crate) fn is_young(&self, id: Id) -> Result<bool> {
        Ok(self.store.job(id)?.is_some_and(|j| !j.is_over() && now().saturating_sub(j.created) < YOUNG))
    }

    fn awaited(&self, id: Id, patience: Duration) -> Result<Job> {
        let until = Instant::now() + patience;
        loop {
            if let Some(job) = self.store.job(id)? {
                return Ok(job);
            }
            if Instant::now() >= until {
                return Err(Fault::unknown(format!("job {id} was not submitted to every server")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Marks a job as running, and charges its query.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn begin(&self, id: Id) -> Result<Job> {
        let job = self.store.job(id)?.ok_or_else(|| Fault::unknown(format!("there is no job {id}")))?;
        // What holds now, not what held when the session began.
        let grant = self.grant(&self.current(&job)?, &job.owner)?;
        let job = self.store.begin(id, now(), since(&grant), grant.queries.is_some())?;
        self.tell();
        Ok(job)
    }

    /// Keeps this server's share of an answer.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn keep(&self, id: Id, session: Id, run: u64, opened: &[u8]) -> Result<()> {
        let mut file = self.store.create()?;
        std::io::Write::write_all(&mut file, opened)
            .map_err(|e| crate::store::of_io("an answer cannot be kept", &e))?;
        let shares = file.finish()?;
        let mut before = vec![];
        self.store.change_job(id, |job| {
            before.extend(job.answer.take().map(|a| a.shares));
            job.answer = Some(Answer { shares, session, run });
            Ok(())
        })?;
        self.store.discard(before);
        Ok(())
    }

    /// All servers keep their shares of the answer.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn answered(&self, id: Id) -> Result<()> {
        let mut inputs = None;
        self.store.change_job(id, |job| {
            job.state = State::Done;
            job.note = None;
            inputs = job.shares.take();
            Ok(())
        })?;
        self.store.discard(inputs);
        tracing::info!(party = self.config.party, job = %id, "a job is answered");
        self.tell();
        Ok(())
    }

    /// A session failed while this job ran: it waits again, or fails if it was begun often enough.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn broken_off(&self, id: Id, fault: &Fault) -> Result<()> {
        let Some(job) = self.store.job(id)? else { return Ok(()) };
        if job.is_over() {
            return Ok(());
        }
        if job.attempts >= ATTEMPTS {
            return self.fail(id, fault.clone());
        }
        let job = self.store.change_job(id, |job| {
            job.state = State::Queued;
            job.note = Some(format!("attempt {} of {ATTEMPTS} failed: {fault}", job.attempts));
            Ok(())
        })?;
        tracing::warn!(party = self.config.party, job = %id, attempt = job.attempts, blame = fault.kind.name(), "a job waits again: {fault}");
        if self.leads() {
            self.queue.push_front(id, job.upload);
        }
        self.tell();
        Ok(())
    }

    /// A job as its owner or its receiver.
    ///
    /// # Errors
    /// When there is none, or it is somebody else's.
    pub fn job_for(&self, id: Id, client: &str) -> Result<Job> {
        let job = self.store.job(id)?.filter(|j| j.owner == client || j.receiver == client);
        job.ok_or_else(|| Fault::unknown(format!("there is no job {id}")))
    }

    /// Forgets a job: its owner's while it waits, its owner's or receiver's when it is over.
    ///
    /// # Errors
    /// When there is none, or it runs.
    pub fn forget(&self, id: Id, client: &str) -> Result<()> {
        let job = self.job_for(id, client)?;
        if job.state == State::Running {
            return Err(Fault::new(Blame::Conflict, format!("job {id} runs")));
        }
        if job.state == State::Queued && job.owner != client {
            return Err(Fault::refused(format!("job {id} belongs to {}", job.owner)));
        }
        self.queue.forget(id);
        self.remove(id)
    }

    fn remove(&self, id: Id) -> Result<()> {
        if let Some(job) = self.store.remove_job(id)? {
            self.store.discard(job.shares.into_iter().chain(job.answer.map(|a| a.shares)));
        }
        self.tell();
        Ok(())
    }

    /// Fails what has waited too long, and forgets what nobody fetched.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn tidy(&self) -> Result<()> {
        let (limits, now) = (&self.config.limits, now());
        for job in self.store.jobs()? {
            let age = now.saturating_sub(job.created);
            match job.state {
                State::Queued if age > limits.job_seconds => {
                    self.fail(job.id, Fault::limit(format!("it waited for more than {} seconds", limits.job_seconds)))?;
                }
                State::Done | State::Failed(_) if age > limits.job_seconds + limits.answer_seconds => {
                    self.remove(job.id)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What it has now.
    ///
    /// # Errors
    /// Those of the store.
    pub fn gauges(&self) -> Result<Gauges> {
        let (jobs, models) = (self.store.jobs()?, self.store.models()?);
        let count = |state: State| jobs.iter().filter(|j| j.state == state).count();
        let mut budgets = vec![];
        for model in &models {
            for (client, grant) in &model.grants {
                let used = self.store.charges(&model.name, client, since(grant))?.len() as u64;
                let left = grant.queries.map(|q| q.saturating_sub(used));
                budgets.push((model.name.clone(), client.clone(), used, left));
            }
        }
        Ok(Gauges {
            queued: count(State::Queued),
            running: count(State::Running),
            answers: count(State::Done),
            models: models.len(),
            loaded: self.queue.loaded(),
            budgets,
        })
    }
}

/// From when on a grant's queries count.
fn since(grant: &Grant) -> u64 {
    grant.seconds.map_or(0, |s| now().saturating_sub(s))
}
