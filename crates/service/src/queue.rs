//! The order of jobs at the leader, and which models are loaded.
//!
//! Clients take turns: of the jobs that wait for a model, the next one is of whoever was served least; whoever comes anew begins with the count of whoever
//! was served least of those that wait. Jobs are taken together only if they are of one client for one receiver. Models take turns, too: one that is loaded gives way
//! when another one has waited for long.

use crate::names::Id;
use crate::records::{Job, Model};
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a model may stay loaded while another one waits.
const TURN: Duration = Duration::from_secs(10);
/// First and longest pause of a job that has not reached every server; each is twice as long as the one before.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(5)];

/// A job that waits.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) job: Id,
    pub(crate) upload: Id,
    pub(crate) owner: String,
    pub(crate) receiver: String,
    /// Not before then.
    after: Instant,
    pause: Duration,
}

impl Waiting {
    pub(crate) fn of(job: &Job) -> Self {
        Self::new(job.id, job.upload, [&job.owner, &job.receiver])
    }

    /// A training goes by its model's upload.
    pub(crate) fn of_training(model: &Model) -> Self {
        Self::new(model.upload, model.upload, [&model.owner, &model.owner])
    }

    fn new(job: Id, upload: Id, [owner, receiver]: [&str; 2]) -> Self {
        Self { job, upload, owner: owner.into(), receiver: receiver.into(), after: Instant::now(), pause: PAUSES[0] }
    }
}

/// A session that runs.
struct Session {
    busy: bool,
    closing: bool,
    begun: Instant,
    used: Instant,
}

/// Sessions of an upload that failed one after the other.
struct Failing {
    times: u32,
    until: Instant,
    why: String,
}

#[derive(Default)]
struct Held {
    waiting: Vec<Waiting>,
    sessions: HashMap<Id, Session>,
    failing: HashMap<Id, Failing>,
    /// Jobs that were taken of each client who has some that wait.
    served: HashMap<String, u64>,
    stopping: bool,
}

/// Jobs that wait, and sessions by the upload of the model they have loaded.
pub(crate) struct Queue {
    most: usize,
    held: Mutex<Held>,
    changed: Condvar,
}

/// What a session does next.
#[derive(Clone)]
pub(crate) enum Next {
    /// Nothing yet.
    Idle,
    /// These jobs.
    Run(Vec<Waiting>),
    /// It ends.
    Close,
}

impl Held {
    /// A job waits from now on, in this place. One that waits already does not wait twice: a run that fails puts back what it has postponed,
    /// too, and a leader who names a job twice is refused.
    fn add(&mut self, at: usize, job: Waiting) {
        self.waiting.retain(|w| w.job != job.job);
        if !self.waiting.iter().any(|w| w.owner == job.owner) {
            let least = self.waiting.iter().filter_map(|w| self.served.get(&w.owner)).min().copied();
            self.served.insert(job.owner.clone(), least.unwrap_or(0));
        }
        self.waiting.insert(at.min(self.waiting.len()), job);
    }

    /// Jobs that wait no more.
    fn drop_served(&mut self) {
        let Self { waiting, served, .. } = self;
        served.retain(|owner, _| waiting.iter().any(|w| w.owner == *owner));
    }

    /// Takes so many jobs of an upload, all of one client for one receiver: of the client that was served least.
    fn take(&mut self, upload: Id, [least, most]: [usize; 2], now: Instant) -> Vec<Waiting> {
        let ready = |w: &Waiting| w.upload == upload && w.after <= now;
        let served = |w: &Waiting| self.served.get(&w.owner).copied().unwrap_or(0);
        let next = self.waiting.iter().enumerate().filter(|(_, w)| ready(w)).min_by_key(|(i, w)| (served(w), *i));
        let Some((_, first)) = next.map(|(i, w)| (i, w.clone())) else { return vec![] };
        let same = |w: &Waiting| ready(w) && w.owner == first.owner && w.receiver == first.receiver;
        let most = if self.waiting.iter().filter(|w| same(w)).count() >= least { most } else { 1 };
        let mut taken = vec![];
        self.waiting.retain(|w| {
            let take = taken.len() < most && same(w);
            taken.extend(take.then(|| w.clone()));
            !take
        });
        *self.served.entry(first.owner).or_default() += taken.len() as u64;
        self.drop_served();
        taken
    }
}

impl Queue {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: Mutex::default(), changed: Condvar::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let value = change(&mut self.held());
        self.changed.notify_all();
        value
    }

    pub(crate) fn push(&self, job: Waiting) {
        self.change(|h| h.add(usize::MAX, job));
    }
    /// Puts a job back that was begun: it is the next one again.
    pub(crate) fn push_front(&self, job: Waiting) {
        self.change(|h| h.add(0, job));
    }
    /// Puts a job back that has not reached every server.
    pub(crate) fn push_later(&self, mut job: Waiting) {
        job.after = Instant::now() + job.pause;
        job.pause = (2 * job.pause).min(PAUSES[1]);
        self.change(|h| h.add(usize::MAX, job));
    }
    pub(crate) fn forget(&self, job: Id) {
        self.change(|h| {
            h.waiting.retain(|w| w.job != job);
            h.drop_served();
        });
    }
    /// Jobs that wait for an upload.
    pub(crate) fn jobs_of(&self, upload: Id) -> Vec<Id> {
        self.held().waiting.iter().filter(|w| w.upload == upload).map(|w| w.job).collect()
    }
    /// Ends the session of an upload when its run is over, and forgets its failures: it is gone.
    pub(crate) fn close(&self, upload: Id) {
        self.change(|h| {
            h.failing.remove(&upload);
            h.sessions.get_mut(&upload).into_iter().for_each(|s| s.closing = true);
        });
    }
    pub(crate) fn stop(&self) {
        self.change(|h| h.stopping = true);
    }
    pub(crate) fn loaded(&self) -> usize {
        self.held().sessions.len()
    }
    /// Why jobs of an upload do not get on, if they do not.
    pub(crate) fn obstacle(&self, upload: Id) -> Option<String> {
        self.held().failing.get(&upload).map(|f| f.why.clone())
    }

    /// Waits for an upload with jobs that needs a session, and gives it one; `None` when the server stops. When all sessions are taken, one is told to end: an
    /// idle one that nobody waits for, or the oldest one once it has had its turn.
    pub(crate) fn dispatch(&self) -> Option<Id> {
        let mut held = self.held();
        loop {
            if held.stopping {
                return None;
            }
            let now = Instant::now();
            let ready = |w: &&Waiting| {
                w.after <= now
                    && !held.sessions.contains_key(&w.upload)
                    && held.failing.get(&w.upload).is_none_or(|f| f.until <= now)
            };
            if let Some(upload) = held.waiting.iter().find(ready).map(|w| w.upload) {
                if held.sessions.len() < self.most {
                    held.sessions.insert(upload, Session { busy: false, closing: false, begun: now, used: now });
                    return Some(upload);
                }
                let wanted = |upload: &Id| held.waiting.iter().any(|w| w.upload == *upload);
                let idle = held.sessions.iter().filter(|(upload, s)| !s.busy && !wanted(upload));
                let idle = idle.min_by_key(|(_, s)| s.used).map(|(upload, _)| *upload);
                let had = held.sessions.iter().filter(|(_, s)| now.duration_since(s.begun) >= TURN);
                let had = had.min_by_key(|(_, s)| s.begun).map(|(upload, _)| *upload);
                let closing = held.sessions.values().any(|s| s.closing);
                if let Some(session) = idle.or(had).filter(|_| !closing).and_then(|u| held.sessions.get_mut(&u)) {
                    session.closing = true;
                    self.changed.notify_all();
                }
            }
            let waited = self.changed.wait_timeout(held, Duration::from_millis(200));
            held = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// What the session of an upload does next; waits so long for a job. `most` jobs at a time, if there are at least `least`; else one.
    pub(crate) fn next(&self, upload: Id, [least, most]: [usize; 2], patience: Duration, idle: Duration) -> Next {
        let (mut held, until) = (self.held(), Instant::now() + patience);
        loop {
            let (now, stopping) = (Instant::now(), held.stopping);
            let of = held.waiting.iter().filter(|w| w.upload == upload);
            let (all, ready) = (of.clone().count(), of.filter(|w| w.after <= now).count());
            let Some(session) = held.sessions.get_mut(&upload) else { return Next::Close };
            session.busy = false;
            if stopping || session.closing || (all == 0 && session.used.elapsed() > idle) {
                return Next::Close;
            }
            if ready > 0 {
                (session.busy, session.used) = (true, now);
                return Next::Run(held.take(upload, [least, most], now));
            }
            let mut left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Next::Idle;
            }
            // One becomes ready by itself.
            if let Some(after) = held.waiting.iter().filter(|w| w.upload == upload).map(|w| w.after).min() {
                left = left.min(after.saturating_duration_since(now).max(Duration::from_millis(1)));
            }
            let waited = self.changed.wait_timeout(held, left);
            held = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The session of an upload trains: it waits no more, and is busy until it ends.
    pub(crate) fn trains(&self, upload: Id) {
        self.change(|h| h.sessions.get_mut(&upload).into_iter().for_each(|s| s.busy = true));
        self.forget(upload);
    }

    /// Whether the session of an upload is to end when it can.
    pub(crate) fn wants_end(&self, upload: Id) -> bool {
        let held = self.held();
        held.stopping || held.sessions.get(&upload).is_some_and(|s| s.closing)
    }

    /// A run worked: whatever failed before is over.
    pub(crate) fn works(&self, upload: Id) {
        self.held().failing.remove(&upload);
    }

    /// A session is over. After a failure the next one waits a little, each time longer.
    pub(crate) fn ended(&self, upload: Id, failure: Option<String>) {
        self.change(|h| {
            h.sessions.remove(&upload);
            if let Some(why) = failure {
                let times = h.failing.get(&upload).map_or(0, |f| f.times) + 1;
                let pause = Duration::from_millis(100 << times.min(6));
                h.failing.insert(upload, Failing { times, until: Instant::now() + pause, why });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    fn ids<const N: usize>() -> [Id; N] {
        std::array::from_fn(|i| Id([i as u8; 16]))
    }

    /// What runs next, a job at a time or more of them.
    fn next(queue: &Queue, upload: Id, most: usize) -> Option<Vec<Id>> {
        match queue.next(upload, [2, most], WAIT, LONG) {
            Next::Idle => Some(vec![]),
            Next::Run(jobs) => Some(jobs.iter().map(|w| w.job).collect()),
            Next::Close => None,
        }
    }

    #[test]
    fn jobs_of_a_model_keep_their_order() {
        let queue = Queue::new(1);
        let [a, b, c, m, n] = ids();
        for (job, upload) in [(a, m), (b, n), (c, m)] {
            queue.push(Waiting::new(job, upload, ["x", "x"]));
        }
        assert_eq!(queue.dispatch(), Some(m));
        assert_eq!(next(&queue, m, 1), Some(vec![a]));
        queue.push_front(Waiting::new(a, m, ["x", "x"]));
        assert_eq!([(); 2].map(|()| next(&queue, m, 1)), [Some(vec![a]), Some(vec![c])]);
        assert_eq!(next(&queue, m, 1), Some(vec![]));
        // The idle session makes room for the other model's.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.dispatch());
            while next(&queue, m, 1).is_some() {}
            queue.ended(m, None);
            assert_eq!(waiting.join().ok().flatten(), Some(n));
        });
        queue.forget(b);
        assert_eq!(next(&queue, n, 1), Some(vec![]));
        assert!(matches!(queue.next(n, [2, 1], WAIT, Duration::ZERO), Next::Close));
        queue.stop();
        assert!(queue.dispatch().is_none() && next(&queue, n, 1).is_none());
    }

    #[test]
    fn clients_take_turns_and_jobs_are_taken_together() {
        let queue = Queue::new(1);
        let [a, b, c, d, e, m] = ids();
        for (job, owner) in [(a, "x"), (b, "x"), (c, "x"), (d, "y"), (e, "y")] {
            queue.push(Waiting::new(job, m, [owner, owner]));
        }
        assert_eq!(queue.dispatch(), Some(m));
        // Of one client, one after the other, then of the other, who was served less.
        assert_eq!(next(&queue, m, 2), Some(vec![a, b]));
        assert_eq!(next(&queue, m, 4), Some(vec![d, e]));
        // One alone is not worth a run for many, and answers for different receivers are never opened from one run.
        assert_eq!(next(&queue, m, 4), Some(vec![c]));
        queue.push(Waiting::new(a, m, ["x", "x"]));
        queue.push(Waiting::new(b, m, ["x", "z"]));
        assert_eq!([(); 2].map(|()| next(&queue, m, 4)), [Some(vec![a]), Some(vec![b])]);
        // Whoever comes anew does not go before those who wait for long.
        for _ in 0..3 {
            queue.push(Waiting::new(a, m, ["x", "x"]));
            assert_eq!(next(&queue, m, 1), Some(vec![a]));
        }
        for (job, owner) in [(a, "x"), (b, "x"), (c, "y"), (d, "y")] {
            queue.push(Waiting::new(job, m, [owner, owner]));
        }
        let order = [(); 4].map(|()| next(&queue, m, 1));
        assert_eq!(order, [a, c, b, d].map(|id| Some(vec![id])));
        queue.push(Waiting::new(d, m, ["y", "y"]));
        queue.push_later(Waiting::new(c, m, ["x", "x"]));
        assert_eq!(next(&queue, m, 4), Some(vec![d]));
        // What has not reached every server waits a little.
        let before = Instant::now();
        while next(&queue, m, 4) != Some(vec![c]) {}
        assert!(before.elapsed() >= PAUSES[0] / 2);
    }

    #[test]
    fn a_job_waits_once() {
        let queue = Queue::new(1);
        let [upload, a, b] = ids();
        let job = |id| Waiting::new(id, upload, ["alice", "alice"]);
        queue.push(job(a));
        queue.push(job(b));
        // Postponed by a run that then fails, and puts back all it had.
        queue.push_later(job(b));
        queue.push_front(job(b));
        queue.push_front(job(a));
        assert_eq!(queue.jobs_of(upload), [a, b]);
        assert_eq!(queue.dispatch(), Some(upload));
        assert_eq!(next(&queue, upload, 8), Some(vec![a, b]));
    }

    #[test]
    fn failures_make_the_next_session_wait() {
        let queue = Queue::new(1);
        let [a, m] = ids();
        queue.push(Waiting::new(a, m, ["x", "x"]));
        assert_eq!(queue.dispatch(), Some(m));
        queue.ended(m, Some("server 2 is gone".into()));
        assert_eq!(queue.obstacle(m).as_deref(), Some("server 2 is gone"));
        let before = Instant::now();
        assert_eq!(queue.dispatch(), Some(m));
        assert!(before.elapsed() >= Duration::from_millis(150));
        queue.works(m);
        assert_eq!(queue.obstacle(m), None);
    }
}
