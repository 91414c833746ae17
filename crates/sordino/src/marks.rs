//! Attributes time, bytes and rounds to runs and layers.

use crate::report::{DETAILED, EndReport, RunReport, Trace, cpu_seconds};
use sordino_net::{Meter, Net};
use std::time::{Instant, SystemTime};

/// Attributes time, bytes and rounds to runs and layers.
pub(crate) struct Marks<'n> {
    net: &'n Net,
    runs: Vec<RunReport>,
    trace: Option<Trace>,
    /// When the end began, in nanoseconds of the system's clock.
    origin: u64,
    open: Option<(usize, u64, Meter)>,
    /// Processor seconds, rounds and time when the run began.
    began: (f64, u32, Instant),
}

impl<'n> Marks<'n> {
    pub(crate) fn new(net: &'n Net, trace: bool) -> Self {
        let timeline = net.timeline();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let origin = (since.as_nanos() as u64).saturating_sub(timeline.now());
        let trace = trace.then(|| {
            timeline.record();
            Trace { origin, ..Trace::default() }
        });
        Self { net, runs: vec![], trace, origin, open: None, began: (0.0, 0, Instant::now()) }
    }
    pub(crate) fn run(&mut self) {
        let began = self.origin + self.net.timeline().now();
        self.runs.push(RunReport { began, ..RunReport::default() });
        self.began = (cpu_seconds(), self.net.meter().rounds, Instant::now());
    }
    pub(crate) fn layer(&mut self, layer: usize) {
        self.end();
        self.open = Some((layer, self.net.timeline().now(), self.net.meter()));
    }
    fn end(&mut self) {
        let detailed = self.runs.len().min(DETAILED);
        let run = self.runs[..detailed].last_mut();
        let Some(((layer, start, before), run)) = self.open.take().zip(run) else { return };
        let (length, meter) = (self.net.timeline().now() - start, self.net.meter());
        let entry = run.layers.entry(layer).or_default();
        let seconds = |ns: u64| ns as f64 * 1e-9;
        entry.seconds += seconds(length);
        entry.waited += seconds(meter.spent.receive - before.spent.receive);
        entry.sending += seconds(meter.spent.send - before.spent.send);
        entry.randomness += seconds(meter.spent.randomness - before.spent.randomness);
        entry.bytes += meter.payload() - before.payload();
        entry.rounds += meter.rounds.saturating_sub(before.rounds);
        if let Some(trace) = &mut self.trace {
            trace.layers.push((layer, start, length));
        }
    }
    /// Returns the run's seconds.
    pub(crate) fn end_run(&mut self) -> f64 {
        self.end();
        let seconds = self.began.2.elapsed().as_secs_f64();
        if let Some(run) = self.runs.last_mut() {
            run.seconds = seconds;
            run.ended = self.origin + self.net.timeline().now();
            run.cpu_seconds = cpu_seconds() - self.began.0;
            run.rounds = self.net.meter().rounds - self.began.1;
        }
        seconds
    }
    pub(crate) fn report(mut self) -> EndReport {
        if let Some(trace) = &mut self.trace {
            trace.spans = self.net.timeline().take();
        }
        EndReport::new(&self.net.meter(), self.runs, self.trace)
    }
}
