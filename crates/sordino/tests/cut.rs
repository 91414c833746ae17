//! A connection that is cut in the middle of a run: every end fails with a typed error, within the deadline.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::inputs::{Preprocess, read};
use sordino::party::connect;
use sordino::session::{Shared, drive, serve};
use sordino::tls::{Authority, Ends};
use sordino::{model, report::EndReport};
use sordino_mpc::Error as Mpc;
use sordino_net::{Endpoint, LinkModel, Net};
use sordino_nn::exec::encode_inputs;
use sordino_nn::{Error, Options};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

const SESSION: [u8; 16] = [5; 16];
const DEADLINE: Duration = Duration::from_secs(3);

/// Forwards connections to `target` and cuts each after so many bytes towards it.
fn proxy(target: SocketAddr, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let to = TcpStream::connect(target).unwrap();
            let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            std::thread::spawn(move || forward(from, to, bytes));
        }
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if n > left || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        left -= n;
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What each server and the client end with when what server 0 sends to server 1 is cut after `bytes`.
fn run(bytes: usize) -> (Vec<Result<EndReport, Error>>, Result<usize, Error>) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let graph = model::read(&assets.join("mnist.onnx")).unwrap();
    let typed = model::typed(&graph, 1).unwrap();
    let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    let sample = read(&[assets.join("digit-7.png")], &[1, 1, 28, 28], &preprocess).unwrap();
    let ranges = model::calibrate(&graph, std::slice::from_ref(&sample)).unwrap();
    let (program, secrets) = model::compiled(&typed, &ranges, &Options::default()).unwrap();
    let input = encode_inputs(&program, &sample).unwrap();

    let authority = Authority::new().unwrap();
    let ends = |i: u8| Ends::new(Endpoint(i), &authority.identity(Endpoint(i)).unwrap(), SESSION, DEADLINE).unwrap();
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: BTreeMap<u8, SocketAddr> =
        listeners.iter().enumerate().map(|(i, l)| (i as u8, l.local_addr().unwrap())).collect();
    let mut detour = addresses.clone();
    detour.insert(1, proxy(addresses[&1], bytes));
    let shared = Shared { session: SESSION, program: &program, runs: 1, trace: false, checkpoints: None, opened: 0 };
    let link = |me: u8, listener: Option<&TcpListener>, to: &BTreeMap<u8, SocketAddr>| -> Net {
        connect(Endpoint(me), &ends(me), listener, to, 1, LinkModel::UNLIMITED, DEADLINE).unwrap()
    };
    let (link, addresses, detour) = (&link, &addresses, &detour);
    std::thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| {
                let to = if i == 0 { detour } else { addresses };
                scope.spawn(move || serve(shared, link(i as u8, Some(listener), to), 1, &AtomicU64::new(0)))
            })
            .collect();
        let client =
            drive(shared, link(3, None, addresses), Some(&secrets), &mut [input].as_slice()).map(|d| d.outputs.len());
        (servers.into_iter().map(|s| s.join().unwrap()).collect(), client)
    })
}

#[test]
fn a_cut_connection_ends_every_end() {
    for bytes in [20_000, 100_000] {
        let started = Instant::now();
        let (servers, client) = run(bytes);
        assert!(started.elapsed() < 3 * DEADLINE, "it took {:?}", started.elapsed());
        for end in servers.into_iter().map(|s| s.map(|_| 0)).chain([client]) {
            assert!(matches!(end, Err(Error::Protocol(Mpc::Net(_)))), "{:?}", end.map_err(|e| e.to_string()));
        }
    }
}

#[test]
fn an_uncut_one_finishes() {
    let (servers, client) = run(usize::MAX);
    assert!(servers.iter().all(Result::is_ok));
    assert!(client.is_ok_and(|n| n == 1));
}
