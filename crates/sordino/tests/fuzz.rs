//! Fuzzing of every parser of foreign bytes by mutation from a committed corpus (see `sordino_testkit::fuzz`). Nothing may
//! panic or hang, and what is accepted must make sense. `fuzz/` has the same targets for a fuzzer that is guided by coverage.

mod targets;

use std::path::Path;

fn fuzz(kind: &str, inputs: u64, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    sordino_testkit::fuzz::fuzz(&folder, inputs, target);
}

#[test]
fn onnx_models() {
    fuzz("onnx", 3000, targets::onnx);
}

#[test]
fn frames() {
    fuzz("frame", 100_000, targets::frame);
}

#[test]
fn greetings() {
    fuzz("hello", 100_000, targets::hello);
}

#[test]
fn numpy_files() {
    fuzz("npy", 5000, targets::npy);
}

#[test]
fn idx_files() {
    fuzz("idx", 5000, targets::idx);
}

#[test]
fn pictures() {
    fuzz("picture", 2000, targets::picture);
}

#[test]
fn calibrations() {
    fuzz("calibration", 5000, targets::calibration);
}

#[test]
fn preprocessing_files() {
    fuzz("toml", 5000, targets::preprocess);
}

#[test]
fn checkpoints() {
    fuzz("checkpoint", 2000, targets::checkpoint);
}

#[test]
fn offers() {
    fuzz("offer", 4000, targets::offer);
}
