//! Fuzzing by mutation from a committed corpus: so many inputs from a fixed seed, the same on every machine. `FUZZ_SECONDS` sets a time instead,
//! `FUZZ_SEED` another seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rustix::time::{ClockId, clock_gettime};
use sordino_ring::PrgKey;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processor seconds of this process.
fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// The files of a folder, in the order of their names.
fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

/// A stream of numbers from a seed.
struct Random(Vec<u64>, u64);

impl Random {
    fn next(&mut self) -> usize {
        if self.0.is_empty() {
            self.1 += 1;
            let mut key = [0; 16];
            key[..8].copy_from_slice(&self.1.to_le_bytes());
            self.0 = PrgKey::new(key).words(1024);
        }
        self.0.pop().unwrap_or_default() as usize
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }
}

/// Flips, overwrites, removes, repeats and inserts.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let len = random.below(9).min(bytes.len() - at);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'0'][random.below(6)],
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let copy = bytes[at..at + len].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => drop(bytes.splice(at..at, [random.next() as u8])),
            _ => bytes.truncate(at),
        }
    }
}

/// Gives a parser the corpus of a folder, and so many mutations of it; nothing may panic, or take a minute.
///
/// # Panics
/// When something does.
pub fn fuzz(folder: &Path, inputs: u64, target: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    // By default so many inputs from a fixed seed: the same on every machine, however busy.
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let time = number("FUZZ_SECONDS").map(Duration::from_secs);
    let corpus = corpus(folder);
    let mut random = Random(vec![], seed << 32);
    for bytes in &corpus {
        target(bytes);
    }
    let started = Instant::now();
    let mut count = 0u64;
    while time.map_or(count < inputs, |time| started.elapsed() < time) {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        mutate(&mut bytes, &mut random);
        // Processor time: other work on the machine is no fault of the parser's.
        let (before, label) = (cpu_seconds(), format!("FUZZ_SEED={seed}, input {count}"));
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes)));
        assert!(unwound.is_ok(), "{label} is not survived");
        let took = cpu_seconds() - before;
        assert!(took < 60.0, "{label} took {took:.1} s");
        count += 1;
    }
    println!("{count} inputs");
}
