//! What servers compute on: threads of the processor, or a graphics card. A server's own affair: every device gives the same bytes, so a
//! session works whatever each of the three has chosen.

use serde::{Deserialize, Serialize};
use sordino_gpu::{Cuda, Driver, Facts, Gpu, OpenCl};
use sordino_net::Endpoint;
use sordino_ring::{Cpu, Device, DeviceError};
use std::fmt;
use std::str::FromStr;
use std::sync::Once;

/// A device by its name: `cpu`, `cuda`, `cuda:1`, `opencl`, `opencl:2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card, by its number.
    Cuda(usize),
    /// A device of any vendor's OpenCL, by its number.
    OpenCl(usize),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::OpenCl(n) => write!(f, "opencl:{n}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(n)) => Ok(Self::Cuda(n)),
            ("opencl", Ok(n)) => Ok(Self::OpenCl(n)),
            _ => Err(format!(
                "{text} is not a device: cpu, cuda, opencl, or cuda:N and opencl:N for the N-th (`sordino devices` lists them)"
            )),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

/// What the ends of a session compute on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Compute {
    /// Worker threads of each, where it computes on the processor.
    pub threads: usize,
    /// The device of each of three servers. Two parties compute on the processor.
    pub devices: [DeviceName; 3],
    /// How many bytes of a card's memory each holds at most.
    pub memory: Option<usize>,
}

impl Compute {
    /// On the processor.
    #[must_use]
    pub fn cpu(threads: usize) -> Self {
        Self { threads, devices: [DeviceName::Cpu; 3], memory: None }
    }

    /// An end's device.
    #[must_use]
    pub fn device(&self, end: Endpoint) -> DeviceName {
        self.devices.get(usize::from(end.0)).copied().unwrap_or_default()
    }

    /// Says at once what cannot be opened later: a missing library, or a card that is not there.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.devices.iter().try_for_each(|device| {
            let (all, kind, number) = match *device {
                DeviceName::Cpu => return Ok(()),
                DeviceName::Cuda(n) => (Cuda::list(), "CUDA", n),
                DeviceName::OpenCl(n) => (OpenCl::list(), "OpenCL", n),
            };
            let present = all.map_err(|e| told(&e))?.len();
            let absent = sordino_gpu::Error::Absent { kind, number, present };
            if number < present { Ok(()) } else { Err(told(&absent)) }
        })
    }
}

/// Work that any device can do.
pub trait OnDevice {
    /// What it comes to.
    type Out;
    /// Does it.
    fn run<D: Device>(self, device: D) -> Self::Out;
}

fn told(e: &sordino_gpu::Error) -> DeviceError {
    DeviceError(e.to_string())
}

/// Opens an end's device for some work.
///
/// # Errors
/// When the device cannot be opened.
pub fn on_device<W: OnDevice>(compute: &Compute, end: Endpoint, work: W) -> Result<W::Out, DeviceError> {
    fn card<D: Driver, W: OnDevice>(
        opened: sordino_gpu::Result<D>,
        memory: Option<usize>,
        work: W,
    ) -> Result<W::Out, DeviceError> {
        let gpu = opened.and_then(|driver| Gpu::new(driver, memory)).map_err(|e| told(&e))?;
        let facts = gpu.driver().facts();
        if facts.processor {
            // Its cache lines are hit by keys, where a card's banks are not.
            static SAID: Once = Once::new();
            let name = &facts.name;
            SAID.call_once(|| {
                tracing::warn!("{name} is a processor behind an OpenCL driver, for tests: its time tells others on it of keys; cpu does not, and is faster");
            });
        }
        Ok(work.run(gpu))
    }
    match compute.device(end) {
        DeviceName::Cpu => Ok(work.run(Cpu::new(compute.threads))),
        DeviceName::Cuda(n) => card(Cuda::new(n), compute.memory, work),
        DeviceName::OpenCl(n) => card(OpenCl::new(n), compute.memory, work),
    }
}

/// A device that is there, or why none of a kind is.
pub type Listed = Result<(DeviceName, Facts), DeviceError>;

/// All devices but the processor.
#[must_use]
pub fn devices() -> Vec<Listed> {
    fn all(list: sordino_gpu::Result<Vec<Facts>>, name: fn(usize) -> DeviceName) -> Vec<Listed> {
        match list {
            Ok(all) => all.into_iter().enumerate().map(|(i, facts)| Ok((name(i), facts))).collect(),
            Err(e) => vec![Err(told(&e))],
        }
    }
    [all(Cuda::list(), DeviceName::Cuda), all(OpenCl::list(), DeviceName::OpenCl)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["cpu", "cuda:0", "cuda:7", "opencl:1"] {
            assert_eq!(name.parse::<DeviceName>().map(|d| d.to_string()), Ok(name.to_owned()));
        }
        assert_eq!("opencl".parse(), Ok(DeviceName::OpenCl(0)));
        for wrong in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "opencl:x", "cuda:1:2"] {
            assert!(wrong.parse::<DeviceName>().is_err_and(|e| e.contains("is not a device")), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_before_anything_runs() {
        let at = |device| Compute { devices: [DeviceName::Cpu, device, DeviceName::Cpu], ..Compute::cpu(1) };
        assert!(at(DeviceName::Cpu).check().is_ok());
        // The thousandth card, with or without the libraries.
        for device in [DeviceName::Cuda(999), DeviceName::OpenCl(999)] {
            let e = at(device).check().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(e.contains("there is no") || e.contains("is not on this machine"), "{e}");
        }
    }
}
