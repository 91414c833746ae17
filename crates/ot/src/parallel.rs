//! Work that falls into independent pieces, on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does `n` pieces of work on so many threads; results in order.
#[must_use]
pub fn in_parallel<T: Send>(threads: usize, n: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads < 2 || n < 2 {
        return (0..n).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let some = || -> Vec<(usize, T)> {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < n));
        numbers.map(|i| (i, work(i))).collect()
    };
    let mut all = std::thread::scope(|scope| {
        // Where the system starts no more threads, there are fewer.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, some).ok();
        let others: Vec<_> = (1..threads.min(n)).map_while(start).collect();
        let mut all = some();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|a| a.0);
    all.into_iter().map(|a| a.1).collect()
}
