//! Fuzzing of what two parties say to each other (see `sordino_testkit::fuzz`); `fuzz/` has the same targets, guided by coverage.

mod targets;

use std::path::{Path, PathBuf};

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind)
}

#[test]
fn messages_of_transfers() {
    sordino_testkit::fuzz::fuzz(&folder("transfers"), 2000, targets::transfers);
}

#[test]
fn ciphertexts() {
    sordino_testkit::fuzz::fuzz(&folder("ciphertexts"), 2000, targets::ciphertexts);
}
