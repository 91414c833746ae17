//! Randomness of tests: fresh by default, and repeatable. A failing test prints the seed that repeats it.

use sha2::{Digest, Sha256};
use sordino_mpc::{Entropy, Result};
use std::cell::Cell;
use std::sync::{Mutex, Once, OnceLock, PoisonError};

/// Names the seed of a whole test process.
const VARIABLE: &str = "SORDINO_TEST_SEED";

fn process_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
        given.unwrap_or_else(|| getrandom::u64().unwrap_or(0))
    })
}

/// A fresh seed for what a test does next: a function of the process's seed, the test's name (its thread's) and how many it
/// drew before.
#[must_use]
pub fn fresh() -> [u8; 32] {
    thread_local! {
        static DRAWN: Cell<u64> = const { Cell::new(0) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            eprintln!("to repeat: {VARIABLE}={}", process_seed());
        }));
    });
    let drawn = DRAWN.replace(DRAWN.get() + 1);
    let thread = std::thread::current();
    Sha256::new()
        .chain_update(process_seed().to_le_bytes())
        .chain_update(drawn.to_le_bytes())
        .chain_update(thread.name().unwrap_or_default())
        .finalize()
        .into()
}

/// Randomness that follows from a seed.
pub struct Seeded(Mutex<([u8; 32], u64)>);

impl Seeded {
    /// That of one end.
    #[must_use]
    pub fn of(seed: [u8; 32], end: u8) -> Self {
        Self(Mutex::new((Sha256::new().chain_update(seed).chain_update([end]).finalize().into(), 0)))
    }
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new().chain_update(state.0).chain_update(state.1.to_le_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            state.1 += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_differ() -> Result<()> {
        let draw = |end| {
            let mut bytes = [0; 40];
            Seeded::of([1; 32], end).fill(&mut bytes).map(|()| bytes)
        };
        assert_eq!(draw(0)?, draw(0)?);
        assert_ne!(draw(0)?, draw(1)?);
        assert_ne!(fresh(), fresh());
        Ok(())
    }
}
