//! Runs as a Chrome trace: one track per server, layers above, what they do besides computing below.
//! The format is the "JSON Object Format" of the Trace Event Format, which Perfetto and chrome://tracing open.

use crate::report::EndReport;
use serde::Serialize;
use sordino_net::Activity;
use sordino_nn::program::Program;

/// A complete event; times in microseconds.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'a str,
    ph: &'static str,
    pid: usize,
    tid: usize,
    ts: f64,
    dur: f64,
}

/// Names a server's track.
#[derive(Serialize)]
struct Named {
    name: &'static str,
    ph: &'static str,
    pid: usize,
    args: Label,
}

#[derive(Serialize)]
struct Label {
    name: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Named(Named),
    Event(Event<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    display_time_unit: &'static str,
    trace_events: Vec<Entry<'a>>,
}

/// The trace of the servers' reports, as a file's bytes.
#[must_use]
pub fn chrome(program: &Program, servers: &[EndReport]) -> Vec<u8> {
    let traces = || servers.iter().enumerate().filter_map(|(i, s)| Some((i, s.trace.as_ref()?)));
    // Clocks of the parties' processes start at different moments; the earliest layer is moment zero.
    let first = traces().filter_map(|(_, t)| Some(t.origin.saturating_add(t.layers.first()?.1))).min().unwrap_or(0);
    let mut events = vec![];
    for (pid, trace) in traces() {
        events.push(Entry::Named(Named {
            name: "process_name",
            ph: "M",
            pid,
            args: Label { name: program.topology().name(sordino_net::Endpoint(pid as u8)) },
        }));
        let mut push = |name, cat, start: u64, length: u64| {
            let ts = trace.origin.saturating_add(start).saturating_sub(first) as f64 * 1e-3;
            events.push(Entry::Event(Event { name, cat, ph: "X", pid, tid: 0, ts, dur: length as f64 * 1e-3 }));
        };
        for &(layer, start, length) in &trace.layers {
            if let Some(info) = program.layers.get(layer) {
                push(&info.name, &info.op, start, length);
            }
        }
        let begin = trace.layers.first().map_or(u64::MAX, |l| l.1);
        for span in trace.spans.iter().filter(|s| s.start >= begin) {
            let name = match span.activity {
                Activity::Randomness => "masks",
                Activity::Send => "send",
                Activity::Receive => "wait",
            };
            push(name, "activity", span.start, span.length);
        }
    }
    // Numbers and strings cannot fail to serialise.
    serde_json::to_vec(&File { display_time_unit: "ms", trace_events: events }).unwrap_or_default()
}
