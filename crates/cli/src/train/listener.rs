//! The receiver while a training runs: hears of losses and says where it is.

use super::losses::Losses;
use super::progress::tell;
use sordino::prepared::Prepared;
use sordino::session::Outputs;
use sordino_nn::exec::decode_outputs;
use sordino_nn::program::Program;
use std::time::{Duration, Instant};

/// How long a training says nothing.
const SILENCE: Duration = Duration::from_secs(5);

fn human_time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The receiver while a training runs: hears of losses and says where it is.
pub(crate) struct Listener<'a> {
    program: &'a Program,
    iterations: usize,
    pub(super) losses: Losses,
    quiet: bool,
    /// When it began, and when it last said where it is.
    began: Instant,
    said: Instant,
    done: usize,
}

impl<'a> Listener<'a> {
    pub(crate) fn new(prepared: &'a Prepared, quiet: bool) -> Self {
        let (now, iterations) = (Instant::now(), prepared.material.order.len());
        let losses = Losses::default();
        Self { program: &prepared.program, iterations, losses, quiet, began: now, said: now, done: 0 }
    }
}

impl Outputs for Listener<'_> {
    fn opened(&mut self, run: usize, outputs: &[Vec<i64>], seconds: f64) {
        if let Some(loss) = decode_outputs(self.program, outputs).first() {
            self.losses.push(run + 1, loss.data[0]);
        }
        self.done += 1;
        let all = self.iterations;
        if !self.quiet && (self.done == 1 || self.said.elapsed() > SILENCE || run + 1 == all) {
            self.said = Instant::now();
            let loss = self.losses.recent().map(|l| format!(", loss {l:.4} (mean of the last)")).unwrap_or_default();
            let left = self.began.elapsed().as_secs_f64() / self.done as f64 * (all - run - 1) as f64;
            tell(&format!("iteration {} of {all}: {seconds:.2} s{loss}, about {} left", run + 1, human_time(left)));
        }
    }
}
