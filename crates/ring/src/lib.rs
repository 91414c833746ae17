//! Tensors over Z/2^64, Z/2^32 and packed Z/2, and the devices that compute on them.
//!
//! This crate knows arithmetic and nothing else: no parties, no protocols, no models. Protocols are written
//! against [`Device`]; [`Cpu`] is the device every machine has. Every kernel is exact in its ring, so every
//! instruction set and every thread count gives identical results.
//!
//! Start reading at [`Device`], then [`Conv2d`] for the linear layers and [`Comparison`] for the bit-sliced
//! comparison that signs, ReLUs and maxima are made of.
//!
//! `unsafe` appears only in `cpu::simd` (run-time dispatch) and `cpu::tile` (vector micro-kernels).

#[cfg(target_endian = "big")]
compile_error!("buffers travel as little-endian machine words; big-endian hosts are not supported");

mod comparison;
mod conv;
mod convolve;
mod cpu;
mod device;
mod field;
mod fixed;
mod index;
mod lanes;
mod pack;
mod prg;
mod shape;
mod word;

pub use comparison::{Comparison, Group};
pub use conv::{Conv2d, ConvError, WindowSum};
pub use convolve::{convolve, prepare_one};
pub use cpu::{Cpu, Isa, Panel};
pub use device::{Device, DeviceError, ZipOp};
pub use field::times as field_product;
pub use fixed::{RangeError, Scale, decode, encode};
pub use index::{IndexMap, PAD};
pub use lanes::{LANES, LanePoint};
pub use pack::{pack, packed_words, unpack};
pub use prg::PrgKey;
pub use shape::Shape;
pub use word::{Word, Words};
