//! The life of a job at a server: taken in, judged, begun, answered or failed, forgotten.

use crate::agree::Verdict;
use crate::briefs::{Phase, Room};
use crate::clock::now;
use crate::engine::Engine;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::queue::Waiting;
use crate::records::{Answer, Job, Model, State};
use crate::shares::Made;
use std::io::Write;

/// How often a job is begun before it fails.
const ATTEMPTS: u32 = 3;
/// For so many seconds a job may be at one server and not yet at another.
const YOUNG: u64 = 60;
/// Jobs of one client that are over and kept, for each that may wait.
const OVER: usize = 10;

impl Engine {
    /// Jobs that an earlier process left: those that ran wait again, also those whose answer this server has; whether the others have theirs, too, the
    /// next session tells.
    pub(crate) fn recover(&self) -> Result<()> {
        for job in self.store.jobs()? {
            if job.state == State::Running {
                self.store.change_job(job.id, |job| {
                    job.state = State::Queued;
                    job.note = Some("this server was started anew while it ran".into());
                    Ok(())
                })?;
            }
            if self.leads() && !job.is_over() {
                self.queue.push(Waiting::of(&job));
            }
        }
        Ok(())
    }

    fn room(&self) -> Room {
        let limits = &self.config.limits;
        Room { waiting: limits.queue, own: limits.queue_per_client, over: limits.queue_per_client.saturating_mul(OVER) }
    }

    /// Whether there is room for one more job of a client.
    pub(crate) fn has_room(&self, client: &str) -> Result<()> {
        if self.is_stopping() {
            return Err(Fault::limit("the server is stopping; ask again in a moment"));
        }
        self.room().check(client, self.store.briefs().values())
    }

    /// Takes a job in, if its model is still the one it was made for and there is room.
    ///
    /// # Errors
    /// Why not; those of the store.
    pub(crate) fn submit(&self, job: Job) -> Result<Job> {
        let job = self.store.add_job(job, self.room())?;
        self.metrics.accepted();
        let (party, id, model) = (self.config.party, job.id, &job.model);
        tracing::info!(party, job = %id, %model, owner = %job.owner, receiver = %job.receiver, "a job was submitted");
        if self.leads() {
            self.queue.push(Waiting::of(&job));
        }
        self.tell(id);
        Ok(job)
    }

    /// Ends a job that will not be answered.
    ///
    /// # Errors
    /// Those of the store.
    pub fn fail(&self, id: Id, fault: Fault) -> Result<()> {
        self.fail_if(id, fault, |job| !job.is_over())
    }

    fn fail_if(&self, id: Id, fault: Fault, due: impl Fn(&Job) -> bool) -> Result<()> {
        let mut files = vec![];
        let mut failed = false;
        self.store.change_jobs(&[id], |job| {
            if due(job) {
                files.extend(job.shares.take().into_iter().chain(job.answer.take().map(|a| a.shares)));
                job.state = State::Failed(fault.clone());
                failed = true;
            }
        })?;
        self.store.discard(files);
        if failed {
            self.queue.forget(id);
            self.metrics.failed(fault.kind);
            tracing::warn!(party = self.config.party, job = %id, blame = fault.kind.name(), "a job failed: {fault}");
            self.tell(id);
        }
        Ok(())
    }

    /// What this server thinks of a job that the leader names, and the job as it was then.
    pub(crate) fn judge(&self, session: Id, model: &Model, id: Id) -> (Verdict, Option<Job>) {
        let mut verdict = Verdict {
            digest: Ok([0; 32]),
            left: 0,
            able: false,
            made: None,
            components: Default::default(),
            blame: Blame::Usage,
        };
        let mut judged = None;
        verdict.digest = self.store.job(id).and_then(|job| {
            // An upload may be under way to one of us while the others have it.
            let pending = || Fault::new(Blame::Pending, format!("job {id} has not been submitted to every server"));
            let job = job.ok_or_else(pending)?;
            // A session that has failed elsewhere may not know it here yet.
            if job.state == State::Running && job.session != Some(session) {
                return Err(Fault::new(Blame::Pending, format!("job {id} runs in another session")));
            }
            if job.upload != model.upload || job.model != model.name {
                return Err(Fault::unknown("the job was made for another model"));
            }
            let current = self.current(&job)?;
            self.may_ask(&current, &job.owner, &job.receiver)?;
            if let State::Failed(fault) = &job.state {
                return Err(fault.clone());
            }
            if job.state != State::Done && now().saturating_sub(job.created) > self.config.limits.job_seconds {
                return Err(Fault::limit("the job has waited too long"));
            }
            let grant = self.grant(&current, &job.owner)?;
            verdict.left = match grant.queries {
                Some(queries) if !job.charged => {
                    let charged = self.store.charged(&current.name, &job.owner, &grant, now())?;
                    queries.saturating_sub(charged)
                }
                _ => u64::MAX,
            };
            verdict.able = job.state == State::Queued && job.shares.is_some();
            verdict.made = job.answer.as_ref().map(|a| a.made);
            verdict.components = job.components.clone();
            let digest = crate::agree::of_job(session, model, &job);
            judged = Some(job);
            Ok(digest)
        });
        (verdict, judged)
    }

    /// A job of the leader's queue that another server does not have: it waits, unless it has waited for long.
    pub(crate) fn postpone(&self, job: Waiting) -> Result<()> {
        let brief = self.store.briefs().get(&job.job).cloned();
        match brief {
            // One that was charged has been at all three.
            Some(b) if !b.is_over() && (b.charged || now().saturating_sub(b.created) < YOUNG) => {
                self.queue.push_later(job);
            }
            _ => self.fail(job.job, Fault::usage("it was not submitted to all three servers"))?,
        }
        Ok(())
    }

    /// Marks jobs as running in a session, and charges their queries. Each must be as it was judged.
    ///
    /// # Errors
    /// Those of the store; of each job why it cannot be begun.
    pub(crate) fn begin(&self, session: Id, judged: &[&Job]) -> Result<Vec<Result<Job>>> {
        let models = self.store.models()?;
        let begun = self.store.begin(session, judged, now(), |job| {
            // What holds now, not what held when the session began.
            let model = models.iter().find(|m| m.name == job.model && m.upload == job.upload);
            self.grant(model.ok_or_else(|| Fault::unknown("the model is gone"))?, &job.owner)
        })?;
        judged.iter().for_each(|job| self.tell(job.id));
        Ok(begun)
    }

    /// Keeps this server's shares of answers.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn keep(&self, answers: &[(Id, Made, Vec<u8>)]) -> Result<()> {
        let mut files = vec![];
        let mut kept = || -> Result<Vec<Id>> {
            let mut named = vec![];
            for (id, made, opened) in answers {
                let mut file = self.store.create()?;
                file.write_all(opened).map_err(|e| crate::files::of_io("an answer cannot be kept", &e))?;
                let shares = file.finish()?;
                files.push(shares);
                named.push((*id, Answer { shares, made: *made }));
            }
            self.store.keep(&named)
        };
        match kept() {
            Ok(before) => self.store.discard(before),
            Err(e) => {
                self.store.discard(files);
                return Err(e);
            }
        }
        Ok(())
    }

    /// All servers keep their shares of these answers.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn answered(&self, ids: &[Id]) -> Result<()> {
        let mut inputs = vec![];
        self.store.change_jobs(ids, |job| {
            if !job.is_over() {
                job.state = State::Done;
                job.note = None;
                inputs.extend(job.shares.take());
            }
        })?;
        self.store.discard(inputs);
        for id in ids {
            tracing::info!(party = self.config.party, job = %id, "a job is answered");
            self.tell(*id);
        }
        Ok(())
    }

    /// A session failed while it had these jobs: they wait again, or fail if they were begun often enough. Jobs that another session has begun meanwhile
    /// are that one's.
    pub(crate) fn broken_off(&self, session: Id, ids: &[Id], fault: &Fault) {
        for id in ids {
            // Each by itself: where the store fails for one, it may not for the next.
            if let Err(e) = self.put_back(session, *id, fault) {
                tracing::error!(party = self.config.party, job = %id, "a job cannot be put back: {e}");
            }
        }
    }

    fn put_back(&self, session: Id, id: Id, fault: &Fault) -> Result<()> {
        let theirs = |job: &Job| job.is_over() || job.state == State::Running && job.session != Some(session);
        let Some(job) = self.store.job(id)?.filter(|j| !theirs(j)) else { return Ok(()) };
        // What takes too long once does so again.
        if job.attempts >= ATTEMPTS || fault.kind == Blame::Limit {
            return self.fail(id, fault.clone());
        }
        self.store.change_jobs(&[id], |job| {
            if !theirs(job) {
                job.state = State::Queued;
                job.note = Some(format!("attempt {} of {ATTEMPTS} failed: {fault}", job.attempts));
            }
        })?;
        let (party, attempt, blame) = (self.config.party, job.attempts, fault.kind.name());
        tracing::warn!(party, job = %id, attempt, blame, "a job waits again: {fault}");
        if self.leads() {
            self.queue.push_front(Waiting::of(&job));
        }
        self.tell(id);
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
        self.remove(id, |job| {
            if job.owner != client && job.receiver != client {
                return Err(Fault::unknown(format!("there is no job {id}")));
            }
            match job.state {
                State::Running => Err(Fault::new(Blame::Conflict, format!("job {id} runs"))),
                State::Queued if job.owner != client => {
                    Err(Fault::refused(format!("job {id} belongs to {}", job.owner)))
                }
                _ => Ok(()),
            }
        })
    }

    fn remove(&self, id: Id, allowed: impl FnOnce(&Job) -> Result<()>) -> Result<()> {
        let job = self.store.remove_job(id, allowed)?;
        self.queue.forget(id);
        self.store.discard(job.shares.into_iter().chain(job.answer.map(|a| a.shares)));
        self.release(job.public)?;
        self.tell(id);
        Ok(())
    }

    /// Fails what has waited too long, and forgets what nobody fetched.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn tidy(&self) -> Result<()> {
        let (limits, now) = (&self.config.limits, now());
        let old = |phase: Phase, age: u64| match phase {
            Phase::Queued => age > limits.job_seconds,
            // Also one that this server does not know to be answered, if it has its share of an answer.
            Phase::Done => age > limits.job_seconds + limits.answer_seconds,
            Phase::Failed => age > limits.job_seconds.min(3600) + limits.answer_seconds.min(3600),
            Phase::Running => false,
        };
        let due: Vec<(Id, Phase)> = {
            let briefs = self.store.briefs();
            let aged = briefs
                .iter()
                .map(|(id, b)| (*id, if b.answered { Phase::Done } else { b.phase }, now.saturating_sub(b.created)));
            aged.filter(|(_, phase, age)| old(*phase, *age)).map(|(id, phase, _)| (id, phase)).collect()
        };
        for (id, phase) in due {
            if phase == Phase::Queued {
                let why = format!("it waited for more than {} seconds", limits.job_seconds);
                self.fail_if(id, Fault::limit(why), |job| job.state == State::Queued)?;
                continue;
            }
            let still = |job: &Job| match job.state {
                State::Running => Err(Fault::new(Blame::Conflict, "it runs")),
                _ => Ok(()),
            };
            match self.remove(id, still) {
                Err(e) if !matches!(e.kind, Blame::Conflict | Blame::Unknown) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}
