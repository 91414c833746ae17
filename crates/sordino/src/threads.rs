//! Threads that may be refused by the system, and say so.

use crate::{Error, Result};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts a thread of this name.
///
/// # Errors
/// [`Error::Session`] when the system starts no more.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let started = Builder::new().name(name.into()).spawn_scoped(scope, body);
    started.map_err(|e| Error::Session(format!("no thread can be started for {name}: {e}")))
}

/// What a thread ended with.
///
/// # Errors
/// [`Error::Session`] when it panicked.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    let name = thread.thread().name().unwrap_or("a thread").to_string();
    thread.join().map_err(|_| Error::Session(format!("{name} stopped unexpectedly")))
}
