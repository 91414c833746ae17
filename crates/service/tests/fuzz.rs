//! Fuzzing of what the service reads (see `sordino_testkit::fuzz`), and of its ports while it runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod targets;

use common::{World, asked, compiled, lesson};
use sordino_ring::PrgKey;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind)
}

#[test]
fn configurations() {
    sordino_testkit::fuzz::fuzz(&folder("config"), 20_000, targets::config);
}

#[test]
fn heads_and_answers_in_json() {
    sordino_testkit::fuzz::fuzz(&folder("head"), 20_000, targets::head);
}

#[test]
fn programs() {
    // A real one, whose numbers are changed.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mnist"), serde_json::to_vec(&compiled().0).unwrap()).unwrap();
    let training = serde_json::to_vec(&lesson(["alice", "bob"], 10).public).unwrap();
    std::fs::write(folder.path().join("training"), training).unwrap();
    sordino_testkit::fuzz::fuzz(folder.path(), 1500, targets::public);
}

#[test]
fn answers() {
    let (public, _) = compiled();
    // Something of the right length, and of the right form in part.
    let folder = tempfile::tempdir().unwrap();
    let frame = [&b"sor1"[..], &[0; 12], &112u64.to_le_bytes(), &[9; 16 + 112]].concat();
    std::fs::write(folder.path().join("frames"), frame.repeat(3)).unwrap();
    sordino_testkit::fuzz::fuzz(folder.path(), 5000, |bytes| targets::answer(&public, bytes));
}

/// Sends random bytes, and hears what comes back.
fn shout(stream: &mut (impl Read + Write), seed: u64) {
    let mut key = [5; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let noise: Vec<u8> =
        PrgKey::new(key).words::<u64>(1 + (seed % 60) as usize).into_iter().flat_map(u64::to_le_bytes).collect();
    let starts: [&[u8]; 6] = [
        b"",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 300\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        b"PUT /v1/models/x HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"sordino2",
    ];
    let _ = stream.write_all(starts[seed as usize % starts.len()]);
    let _ = stream.write_all(&noise);
    let _ = stream.flush();
    let _ = stream.read(&mut [0; 512]);
}

#[test]
fn noise_at_both_ports() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let identity = sordino_service::config::Files {
        certificate: "bob.pem".into(),
        key: "bob.key".into(),
        authorities: "ca.pem".into(),
    }
    .identity(&world.demo.folder().join("bob"))
    .unwrap();
    let config = std::sync::Arc::new(identity.dialler().unwrap());
    let server = world.demo.servers[0].as_ref().unwrap();
    for seed in 0..300u64 {
        let port = if seed % 2 == 0 { server.clients } else { server.peers };
        let mut tcp = TcpStream::connect(port).unwrap();
        tcp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if seed % 3 == 0 {
            shout(&mut tcp, seed);
            continue;
        }
        // Inside TLS, with a certificate that is good for the one port and not for the other.
        let name = "server-0.sordino".try_into().unwrap();
        let connection = rustls::ClientConnection::new(std::sync::Arc::clone(&config), name).unwrap();
        shout(&mut rustls::StreamOwned::new(connection, tcp), seed);
    }
    assert_eq!(asked(&alice, "mnist"), 7);
}
