//! Devices of tests: OpenCL's first, where there is one.

use sordino_gpu::{Gpu, OpenCl};

/// Set where a test may not pass over the device.
const REQUIRED: &str = "SORDINO_REQUIRE_OPENCL";

/// Combinations of the three servers' devices: which of them compute on the device. None where there is none.
///
/// # Panics
/// When `SORDINO_REQUIRE_OPENCL` is set and there is none.
#[must_use]
pub fn mixtures() -> Vec<[bool; 3]> {
    match OpenCl::new(0) {
        Ok(_) => vec![[false, false, true], [true, false, true], [true; 3]],
        Err(e) if std::env::var_os(REQUIRED).is_some() => panic!("{REQUIRED} is set, and {e}"),
        Err(e) => {
            eprintln!("passed over: {e}");
            vec![]
        }
    }
}

pub(crate) fn card() -> sordino_mpc::Result<Gpu<OpenCl>> {
    let told = |e: sordino_gpu::Error| sordino_ring::DeviceError(e.to_string());
    Ok(OpenCl::new(0).and_then(|driver| Gpu::new(driver, None)).map_err(told)?)
}
