//! Devices of tests: OpenCL's first, where there is one, or an NVIDIA card where `SORDINO_REQUIRE_CUDA` is set.

use sordino_gpu::{Cuda, Driver, Gpu, OpenCl};
use sordino_ring::DeviceError;

/// Set where a test may not pass over the device.
const REQUIRED: &str = "SORDINO_REQUIRE_OPENCL";
const CUDA: &str = "SORDINO_REQUIRE_CUDA";

/// Whether cards are NVIDIA's.
pub(crate) fn cuda() -> bool {
    std::env::var_os(CUDA).is_some()
}

/// Combinations of the three servers' devices: which of them compute on the device. None where there is none.
///
/// # Panics
/// When `SORDINO_REQUIRE_OPENCL` or `SORDINO_REQUIRE_CUDA` is set and there is none.
#[must_use]
pub fn mixtures() -> Vec<[bool; 3]> {
    let opened = if cuda() { Cuda::new(0).map(drop) } else { OpenCl::new(0).map(drop) };
    match opened {
        Ok(()) => vec![[false, false, true], [true, false, true], [true; 3]],
        Err(e) if cuda() || std::env::var_os(REQUIRED).is_some() => panic!("a card is required, and {e}"),
        Err(e) => {
            eprintln!("passed over: {e}");
            vec![]
        }
    }
}

/// A card of a driver.
pub(crate) fn card<D: Driver>(opened: sordino_gpu::Result<D>) -> sordino_mpc::Result<Gpu<D>> {
    Ok(opened.and_then(|driver| Gpu::new(driver, None)).map_err(|e| DeviceError(e.to_string()))?)
}
