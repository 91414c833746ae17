#![no_main]
//! See `crates/mpc/tests/targets`.

#[allow(dead_code, reason = "each binary has one target")]
#[path = "../../crates/mpc/tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::transfers(bytes));
