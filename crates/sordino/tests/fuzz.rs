//! Fuzzing of every parser of foreign bytes: a few seconds each from a committed corpus, by mutation. Nothing may panic
//! or hang, and what is accepted must make sense. `FUZZ_SECONDS` sets the time, `FUZZ_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::inputs::{Preprocess, read};
use sordino::report::cpu_seconds;
use sordino::tls::Hello;
use sordino_net::{Endpoint, HEADER_BYTES, Header, LinkModel, Patience, Segment, StreamReceiver};
use sordino_nn::{Options, Ranges, Tensor, compile, for_inference, import, onnx};
use sordino_ring::PrgKey;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn corpus(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), std::fs::read(f).unwrap())).collect()
}

/// A stream of numbers from a seed.
struct Random(Vec<u64>, u64);

impl Random {
    fn next(&mut self) -> usize {
        if self.0.is_empty() {
            self.1 += 1;
            let mut key = [0; 16];
            key[..8].copy_from_slice(&self.1.to_le_bytes());
            self.0 = PrgKey::new(key).words(1024);
        }
        self.0.pop().unwrap_or_default() as usize
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }
}

/// Flips, overwrites, removes, repeats and inserts.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let len = random.below(9).min(bytes.len() - at);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'0'][random.below(6)],
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let copy = bytes[at..at + len].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => drop(bytes.splice(at..at, [random.next() as u8])),
            _ => bytes.truncate(at),
        }
    }
}

fn fuzz(kind: &str, inputs: u64, mut target: impl FnMut(&Path, &[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    // By default so many inputs from a fixed seed: the same on every machine, however busy.
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let time = number("FUZZ_SECONDS").map(Duration::from_secs);
    let corpus = corpus(kind);
    let mut random = Random(vec![], seed << 32);
    for (path, bytes) in &corpus {
        target(path, bytes);
    }
    let started = Instant::now();
    let mut count = 0u64;
    while time.map_or(count < inputs, |time| started.elapsed() < time) {
        let (path, bytes) = &corpus[random.below(corpus.len())];
        let mut bytes = bytes.clone();
        mutate(&mut bytes, &mut random);
        // Processor time: other work on the machine is no fault of the parser's.
        let (before, label) = (cpu_seconds(), format!("FUZZ_SEED={seed}, input {count}"));
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(path, &bytes)));
        assert!(unwound.is_ok(), "{label} is not survived");
        let took = cpu_seconds() - before;
        assert!(took < 60.0, "{label} took {took:.1} s");
        count += 1;
    }
    println!("{count} inputs");
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn onnx_models() {
    fuzz("onnx", 3000, |_, bytes| {
        let Ok(graph) = onnx::read(bytes) else { return };
        // What is read is written and read again alike.
        let again = onnx::read(&onnx::write(&graph));
        assert!(again.is_ok_and(|g| g.nodes.len() == graph.nodes.len()));
        let Ok(net) = import(&graph, 2) else { return };
        let elements: usize = net.shapes.iter().map(|s| s.iter().product::<usize>()).sum();
        if elements > 1 << 20 || net.macs() > 1 << 26 {
            return;
        }
        let passed = for_inference(&net);
        let inputs = net.inputs.iter().map(|&i| Tensor::new(&net.shapes[i], vec![0.5; net.shapes[i].iter().product()]));
        if let Ok(ranges) = Ranges::calibrate(&passed, &[inputs.collect()]) {
            let _ = compile(&passed, &ranges, &Options::default());
        }
    });
}

#[test]
fn frames() {
    fuzz("frame", 100_000, |_, bytes| {
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
            && let Ok(parsed) = Header::decode(header)
        {
            assert_eq!(parsed.encode(), *header);
        }
        let receiver = StreamReceiver::new(Endpoint(1), bytes, Patience::new(SECOND, SECOND, LinkModel::UNLIMITED));
        if let Ok(frame) = receiver.recv(&[Segment::Wide(8)]) {
            assert_eq!(frame.header.payload, 64);
        }
    });
}

#[test]
fn greetings() {
    fuzz("hello", 100_000, |_, bytes| {
        if let Some(bytes) = bytes.first_chunk::<26>()
            && let Some(hello) = Hello::decode(bytes)
        {
            assert_eq!(hello.encode(), *bytes);
        }
    });
}

fn files(kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    fuzz(kind, 5000, |path, bytes| {
        let at = folder.path().join(path.file_name().unwrap());
        std::fs::write(&at, bytes).unwrap();
        for x in read(&[at], &[1, 2, 2], &Preprocess::default()).unwrap_or_default() {
            assert_eq!(x.data.len(), 4);
        }
    });
}

#[test]
fn numpy_files() {
    files("npy");
}

#[test]
fn idx_files() {
    files("idx");
}
