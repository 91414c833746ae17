//! What servers compute on, by arguments, and what there is to choose from.

use super::human_bytes;
use clap::Args;
use sordino::compute::{Compute, DeviceName, devices};
use sordino::{Error, Result};
use sordino_mpc::Kind;
use std::fmt::Write;

/// The device of each of three servers.
#[derive(Clone, Copy)]
pub(crate) struct Chosen([DeviceName; 3]);

fn chosen(text: &str) -> std::result::Result<Chosen, String> {
    let all = text.split(',').map(|t| t.trim().parse()).collect::<std::result::Result<Vec<DeviceName>, _>>()?;
    match all[..] {
        [one] => Ok(Chosen([one; 3])),
        [a, b, c] => Ok(Chosen([a, b, c])),
        _ => Err("expected one device, or one for each of the three servers with commas between them".into()),
    }
}

fn bytes(text: &str) -> std::result::Result<usize, String> {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("", 1.0)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * factor)
    });
    match parsed {
        Some(n) if (1e6..=1e15).contains(&n) => Ok(n as usize),
        _ => Err("expected a size of 1MB or more, such as 800MB or 12GB".into()),
    }
}

/// Arguments for what servers compute on.
#[derive(Args, Clone)]
pub(crate) struct DeviceArgs {
    /// What the three servers compute on: cpu, cuda, opencl, or cuda:N and opencl:N for the N-th (see `sordino devices`); three of them
    /// with commas choose for each server. Results are the same, byte for byte.
    #[arg(long, default_value = "cpu", value_parser = chosen)]
    pub(crate) device: Chosen,
    /// How much of a card's memory a server takes at most, such as 800MB or 12GB [default: what there is].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) device_memory: Option<usize>,
}

impl DeviceArgs {
    /// The first server's.
    pub(crate) fn first(&self) -> DeviceName {
        self.device.0[0]
    }

    /// What the ends of a session compute on, once it is known to be there.
    pub(crate) fn compute(&self, kind: Kind, threads: usize) -> Result<Compute> {
        let compute = Compute { threads, devices: self.device.0, memory: self.device_memory };
        let cpu = compute.devices == [DeviceName::Cpu; 3];
        if kind == Kind::Two && !cpu {
            return Err(Error::Usage("--device: two parties compute on the processor; three servers choose".into()));
        }
        if self.device_memory.is_some() && cpu {
            return Err(Error::Usage("--device-memory is of a card: choose one with --device".into()));
        }
        compute.check().map_err(|e| Error::Session(e.to_string()))?;
        Ok(compute)
    }
}

/// The devices that --device can name.
#[derive(Args)]
pub(crate) struct Devices {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Entry {
    device: String,
    name: String,
    driver: String,
    memory_bytes: u64,
    /// A processor behind a card's driver: for tests.
    processor: bool,
}

#[derive(serde::Serialize, Default)]
struct Report {
    devices: Vec<Entry>,
    /// Why there are none of a kind.
    missing: Vec<String>,
}

impl Devices {
    pub(crate) fn run(self) -> Result<()> {
        let mut report = Report::default();
        for listed in devices() {
            match listed {
                Ok((device, facts)) => report.devices.push(Entry {
                    device: device.to_string(),
                    name: facts.name,
                    driver: facts.driver,
                    memory_bytes: facts.memory,
                    processor: facts.processor,
                }),
                Err(e) => report.missing.push(e.to_string()),
            }
        }
        let mut text = String::new();
        if self.json {
            text = serde_json::to_string_pretty(&report).map_err(|e| Error::Session(e.to_string()))?;
            text.push('\n');
        } else {
            let line = |device: &str, what: &str| format!("{device:10} {what}\n");
            text += &line("cpu", "this processor");
            for e in &report.devices {
                let memory = human_bytes(e.memory_bytes);
                let tests = if e.processor { "; a processor, for tests" } else { "" };
                text += &line(&e.device, &format!("{}, {memory} ({}{tests})", e.name, e.driver));
            }
            for why in &report.missing {
                let _ = writeln!(text, "{why}");
            }
        }
        super::print(&text)
    }
}
