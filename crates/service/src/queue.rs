//! The order of jobs at the leader, and which models are loaded.

use crate::names::Id;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A session that runs.
struct Session {
    busy: bool,
    closing: bool,
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
    waiting: VecDeque<(Id, Id)>,
    sessions: HashMap<Id, Session>,
    failing: HashMap<Id, Failing>,
    stopping: bool,
}

/// Jobs that wait, in their order, and sessions by the upload of the model they have loaded.
pub(crate) struct Queue {
    most: usize,
    held: Mutex<Held>,
    changed: Condvar,
}

/// What a session does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing yet.
    Idle,
    /// This job.
    Run(Id),
    /// It ends.
    Close,
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

    pub(crate) fn push(&self, job: Id, upload: Id) {
        self.change(|h| h.waiting.push_back((job, upload)));
    }
    pub(crate) fn push_front(&self, job: Id, upload: Id) {
        self.change(|h| h.waiting.push_front((job, upload)));
    }
    pub(crate) fn forget(&self, job: Id) {
        self.change(|h| h.waiting.retain(|w| w.0 != job));
    }
    /// Ends the session of an upload when its run is over.
    pub(crate) fn close(&self, upload: Id) {
        self.change(|h| h.sessions.get_mut(&upload).into_iter().for_each(|s| s.closing = true));
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

    /// Waits for an upload with jobs that needs a session, and gives it one; `None` when the server stops. When all sessions are taken, the
    /// idle one that was used longest ago is told to end.
    pub(crate) fn dispatch(&self) -> Option<Id> {
        let mut held = self.held();
        loop {
            if held.stopping {
                return None;
            }
            let now = Instant::now();
            let ready = |held: &Held, upload: &Id| {
                !held.sessions.contains_key(upload) && held.failing.get(upload).is_none_or(|f| f.until <= now)
            };
            let wanted = held.waiting.iter().map(|w| w.1).find(|upload| ready(&held, upload));
            if let Some(upload) = wanted {
                if held.sessions.len() < self.most {
                    held.sessions.insert(upload, Session { busy: false, closing: false, used: now });
                    return Some(upload);
                }
                let wanted = |upload: &Id| held.waiting.iter().any(|w| w.1 == *upload);
                let idle = held.sessions.iter().filter(|(upload, s)| !s.busy && !wanted(upload));
                let oldest = idle.min_by_key(|(_, s)| s.used).map(|(upload, _)| *upload);
                if let Some(session) = oldest.and_then(|upload| held.sessions.get_mut(&upload)) {
                    session.closing = true;
                    self.changed.notify_all();
                }
            }
            let waited = self.changed.wait_timeout(held, Duration::from_millis(200));
            held = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// What the session of an upload does next; waits so long for a job.
    pub(crate) fn next(&self, upload: Id, patience: Duration, idle: Duration) -> Next {
        let (mut held, until) = (self.held(), Instant::now() + patience);
        loop {
            let stopping = held.stopping;
            let job = held.waiting.iter().position(|w| w.1 == upload);
            let Some(session) = held.sessions.get_mut(&upload) else { return Next::Close };
            session.busy = false;
            if stopping || session.closing || (job.is_none() && session.used.elapsed() > idle) {
                return Next::Close;
            }
            if let Some(at) = job {
                (session.busy, session.used) = (true, Instant::now());
                return held.waiting.remove(at).map_or(Next::Idle, |(job, _)| Next::Run(job));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            let waited = self.changed.wait_timeout(held, left);
            held = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
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

    #[test]
    fn jobs_of_a_model_keep_their_order() {
        let queue = Queue::new(1);
        let [a, b, c, m, n] = [1, 2, 3, 8, 9].map(|b| Id([b; 16]));
        queue.push(a, m);
        queue.push(b, n);
        queue.push(c, m);
        assert_eq!(queue.dispatch(), Some(m));
        assert_eq!(queue.next(m, WAIT, LONG), Next::Run(a));
        queue.push_front(a, m);
        assert_eq!([(); 2].map(|()| queue.next(m, WAIT, LONG)), [Next::Run(a), Next::Run(c)]);
        assert_eq!(queue.next(m, WAIT, LONG), Next::Idle);
        // The idle session makes room for the other model's.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.dispatch());
            while queue.next(m, WAIT, LONG) != Next::Close {}
            queue.ended(m, None);
            assert_eq!(waiting.join().ok().flatten(), Some(n));
        });
        queue.forget(b);
        assert_eq!(queue.next(n, WAIT, LONG), Next::Idle);
        assert_eq!(queue.next(n, WAIT, Duration::ZERO), Next::Close);
        queue.stop();
        assert_eq!((queue.dispatch(), queue.next(n, WAIT, LONG)), (None, Next::Close));
    }

    #[test]
    fn failures_make_the_next_session_wait() {
        let queue = Queue::new(1);
        let [a, m] = [1, 8].map(|b| Id([b; 16]));
        queue.push(a, m);
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
