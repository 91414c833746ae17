//! Sessions over TLS that are disturbed from outside: a connection that is cut ends every end with a typed error within the
//! deadline; strangers on the ports end nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::compute::Compute;
use sordino::inputs::{Preprocess, read};
use sordino::links::{Connecting, connect};
use sordino::model;
use sordino::session::{self, Job, Owned};
use sordino::tls::{Authority, Ends};
use sordino_mpc::{Error as Mpc, Kind, Linear, Role, Settings, System, Transfers, Truncation};
use sordino_net::{Endpoint, LinkModel, Net};
use sordino_nn::exec::encode_inputs;
use sordino_nn::{Error, Options};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SESSION: [u8; 16] = [5; 16];
/// Of a server that is waited for.
const DEADLINE: Duration = Duration::from_secs(3);
/// Of connecting, which machines that do other things too may need.
const CONNECT: Duration = Duration::from_secs(60);

const TWO: Settings = Settings {
    kind: Kind::Two,
    faithful: false,
    narrow_bits: 25,
    wide_bits: 37,
    weight_bits: 0,
    transfers: Transfers::Silent,
    linear: Linear::He,
    truncation: Truncation::Exact,
};

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

/// Every end of a session with its result, when what end 0 sends to end 1 is cut after `bytes`; and how long they took
/// from the moment that all were connected.
fn run(
    settings: Settings,
    bytes: usize,
    deadline: Duration,
    nearby: impl Fn(&[SocketAddr]),
) -> (Vec<Result<usize, Error>>, Duration) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let graph = model::read(&assets.join("mnist.onnx")).unwrap();
    let typed = model::typed(&graph, 1).unwrap();
    let preprocess = Preprocess { scale: Some(1.0 / 255.0), ..Preprocess::default() };
    let sample = read(&[assets.join("digit-7.png")], &[1, 1, 28, 28], &preprocess).unwrap();
    let ranges = model::calibrate(&graph, std::slice::from_ref(&sample)).unwrap();
    let (program, secrets) = model::compiled(&typed, &ranges, &Options { settings, ..Options::default() }).unwrap();
    let input = encode_inputs(&program, &sample).unwrap();
    let topology = program.topology();

    let authority = Authority::new().unwrap();
    let listeners: Vec<TcpListener> =
        (0..topology.computing().len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let all: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    nearby(&all);
    let addresses: BTreeMap<u8, SocketAddr> = all.iter().enumerate().map(|(i, a)| (i as u8, *a)).collect();
    let mut detour = addresses.clone();
    detour.insert(1, proxy(addresses[&1], bytes));
    let job = Job { session: SESSION, ..Job::new(&program, 1).unwrap() };
    let (addresses, detour, stop) = (&addresses, &detour, &AtomicBool::new(false));
    let link = |me: Endpoint, listener: Option<&TcpListener>, to: &BTreeMap<u8, SocketAddr>| -> Net {
        let identity = authority.identity(&topology, me).unwrap();
        let ends = Ends::new(me, topology, &identity, SESSION, CONNECT).unwrap();
        let how = Connecting {
            addresses: to,
            link: LinkModel::UNLIMITED,
            connect: CONNECT,
            deadline,
            patience: CONNECT,
            stop,
        };
        connect(me, &ends, listener, &how).unwrap()
    };
    let connected = std::sync::Barrier::new(topology.ends().len() + 1);
    let (link, connected, listeners, secrets, input) = (&link, &connected, &listeners, &secrets, &[input]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = topology
            .ends()
            .into_iter()
            .map(|end| {
                scope.spawn(move || {
                    let to = if end == Endpoint(0) { detour } else { addresses };
                    let net = link(end, listeners.get(usize::from(end.0)), to);
                    connected.wait();
                    let mut inputs = input.as_slice();
                    let mut owned = Owned::default();
                    if end == topology.end(Role::ModelOwner) {
                        owned.weights = Some(secrets);
                    }
                    if end == topology.end(Role::DataOwner(0)) {
                        owned.inputs = Some(&mut inputs);
                    }
                    let mut receiver = ();
                    if end == topology.end(Role::Receiver) {
                        owned.outputs = Some(&mut receiver);
                    }
                    session::run(job, net, owned, &Compute::cpu(1), &System, &AtomicU64::new(0))
                        .map(|e| e.outputs.len())
                })
            })
            .collect();
        connected.wait();
        let started = Instant::now();
        let ends = threads.into_iter().map(|t| t.join().unwrap()).collect();
        (ends, started.elapsed())
    })
}

#[test]
fn a_cut_connection_ends_every_end() {
    for bytes in [20_000, 100_000] {
        let (ends, took) = run(Settings::default(), bytes, DEADLINE, |_| ());
        // Ends fail one after the other, each within the deadline; the rest is for a machine that does other things too.
        assert!(took < 3 * DEADLINE + Duration::from_secs(30), "it took {took:?}");
        // The model's owner may be done: it only waits until its shares are there.
        for (i, end) in ends.into_iter().enumerate().filter(|(i, e)| *i != 3 || e.is_err()) {
            assert!(matches!(end, Err(Error::Protocol(Mpc::Net(_)))), "end {i}: {:?}", end.map_err(|e| e.to_string()));
        }
    }
}

/// Within the setup, the ciphertexts, the transfers, the comparisons.
#[test]
fn a_cut_connection_ends_both_parties() {
    for bytes in [3_000, 60_000, 400_000, 900_000, 1_400_000] {
        let (ends, took) = run(TWO, bytes, DEADLINE, |_| ());
        assert!(took < 3 * DEADLINE + Duration::from_secs(30), "it took {took:?}");
        for (i, end) in ends.into_iter().enumerate() {
            assert!(matches!(end, Err(Error::Protocol(Mpc::Net(_)))), "end {i}: {:?}", end.map_err(|e| e.to_string()));
        }
    }
}

#[test]
fn an_uncut_one_finishes() {
    for settings in [Settings::default(), TWO] {
        let (ends, _) = run(settings, usize::MAX, CONNECT, |_| ());
        assert_eq!(ends.into_iter().map(|e| e.unwrap()).sum::<usize>(), 1);
    }
}

/// Says nothing, or a byte at a time, or something else, on every port, with more connections than handshakes may run.
#[test]
fn strangers_on_the_ports_end_nothing() {
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let (ends, _) = run(Settings::default(), usize::MAX, CONNECT, |ports| {
        for &port in ports {
            let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(port).unwrap()).collect();
            let mut drips: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(port).unwrap()).collect();
            TcpStream::connect(port).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let over = std::sync::Arc::clone(&over);
            std::thread::spawn(move || {
                // The beginning of a TLS record, slowly.
                for byte in [0x16, 3, 1, 2, 0, 1, 0].into_iter().chain(std::iter::repeat(0)) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    for drip in &mut drips {
                        let _ = drip.write_all(&[byte]);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                drop(silent);
            });
        }
    });
    over.store(true, Ordering::Relaxed);
    assert!(ends.iter().all(Result::is_ok), "{:?}", ends.iter().map(|e| e.as_ref().err()).collect::<Vec<_>>());
}
