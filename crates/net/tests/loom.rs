//! The writer's queue in every order that its two threads may run in: bytes leave whole and in order, nothing waits for ever,
//! and a broken stream ends. `RUSTFLAGS="--cfg loom" cargo test --release -p sordino-net --test loom`.

#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_net::{Endpoint, Frame, HEADER_BYTES, Header, LinkModel, Outgoing, Part, Patience, StreamSender, Tag};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Takes few bytes while it must not wait, and breaks after so many.
struct Narrow {
    out: Arc<Mutex<Vec<u8>>>,
    room: usize,
    breaks: usize,
    holding: bool,
    held: Vec<u8>,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = self.out.lock().unwrap();
        if out.len() + self.held.len() > self.breaks {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.holding {
            let now = if self.held.is_empty() { bytes.len().min(self.room) } else { 0 };
            out.extend_from_slice(&bytes[..now]);
            self.held.extend_from_slice(&bytes[now..]);
        } else {
            out.append(&mut self.held);
            out.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        if !self.holding {
            self.out.lock().unwrap().append(&mut self.held);
        }
        Ok(())
    }
}

impl Outgoing for Narrow {
    fn hold(&mut self) {
        self.holding = true;
    }
    fn held(&self) -> usize {
        self.held.len()
    }
    fn wait(&mut self, _until: Instant) {
        self.holding = false;
    }
}

fn frame(number: u32, words: usize) -> Frame {
    let message = vec![Part::Wide(vec![u64::from(number); words])];
    Frame { header: Header { tag: Tag([9; 16]), number, depth: 1, payload: 8 * words as u64 }, message }
}

/// Sends frames of so many words; the bytes that left, and whether a send failed.
fn sent(words: &[usize], room: usize, breaks: usize) -> (Vec<u8>, bool) {
    let out = Arc::new(Mutex::new(vec![]));
    let writer = Narrow { out: Arc::clone(&out), room, breaks, holding: false, held: vec![] };
    let minute = Duration::from_secs(60);
    let patience = Patience::new(minute, minute, LinkModel::UNLIMITED);
    let sender = StreamSender::new(Endpoint(1), writer, LinkModel::UNLIMITED, patience).unwrap();
    let failed = words.iter().enumerate().any(|(i, &n)| sender.send(frame(i as u32, n)).is_err());
    drop(sender);
    let bytes = out.lock().unwrap().clone();
    (bytes, failed)
}

const LONG: usize = 5000;

#[test]
fn bytes_leave_whole_and_in_order() {
    for words in [&[LONG, 1, 2][..], &[1, LONG, 1], &[2, 1, LONG]] {
        for room in [0, 50] {
            loom::model(move || {
                let (bytes, failed) = sent(words, room, usize::MAX);
                assert!(!failed);
                let mut rest = &bytes[..];
                for (i, &n) in words.iter().enumerate() {
                    let (header, after) = rest.split_first_chunk::<HEADER_BYTES>().unwrap();
                    assert_eq!(Header::decode(header).unwrap().number, i as u32);
                    let (payload, after) = after.split_at(8 * n);
                    assert!(payload.chunks_exact(8).all(|w| w == (i as u64).to_le_bytes()));
                    rest = after;
                }
                assert!(rest.is_empty());
            });
        }
    }
}

#[test]
fn a_broken_stream_ends() {
    for words in [&[LONG, 1][..], &[1, LONG, 1]] {
        loom::model(move || {
            // Whether a send still hears of it depends on who is first; that all of it ends does not.
            let (bytes, _) = sent(words, 10, 30);
            assert!(bytes.len() < 8 * LONG + HEADER_BYTES);
        });
    }
}
