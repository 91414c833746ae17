#![no_main]
//! See `crates/service/tests/targets`.

#[allow(dead_code, reason = "each binary has one target")]
#[path = "../../crates/service/tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::config(bytes));
