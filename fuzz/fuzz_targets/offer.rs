#![no_main]
//! See `crates/sordino/tests/targets`.

#[allow(dead_code, reason = "each binary has one target")]
#[path = "../../crates/sordino/tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::offer(bytes));
