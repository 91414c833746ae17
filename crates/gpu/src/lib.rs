//! A [`sordino_ring::Device`] on a graphics card.
//!
//! Kernels are written once, in the common part of CUDA C and OpenCL C 1.2 (`kernels/dialect.h` is the whole difference), and a
//! [`Driver`] of a few calls runs them: [`Cuda`] through NVIDIA's driver, as PTX that the binary carries, and [`OpenCl`] through any
//! vendor's. [`Gpu`] says which kernels an operation queues; every result has the bytes that [`sordino_ring::Cpu`] gives.
//!
//! Libraries of the vendors are looked up when a device is opened. Where one is missing, opening says so; nothing links to them and
//! nothing falls back to the processor by itself. A device that fails later keeps its first failure, and every result that would
//! leave it from then on is that error.
//!
//! Start reading at [`Driver`], then `kernels/words.cl`. `unsafe` is in `cuda.rs` and `opencl.rs` (calls of the drivers) and in
//! `kernels.rs` (launches, each after the checks that make it safe).

mod cuda;
mod device;
mod driver;
mod kernels;
mod memory;
mod opencl;
mod plans;
mod sources;
mod table;

pub use cuda::Cuda;
pub use device::{Gpu, Panel};
pub use driver::{Arg, Driver, Error, Facts, Grid, Result};
pub use memory::Buf;
pub use opencl::OpenCl;
pub use sources::{SOURCES, Source};
