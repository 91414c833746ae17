//! Whom servers and clients turn away, each with its typed error.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PATIENCE, Shared, World, asked, compiled, inputs_for, share_inputs};
use sordino::tls::{Authority, ConnectError, Direction, Ends, Identity};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use sordino_service::client::Client;
use sordino_service::config::{Cluster, Files};
use sordino_service::names::Id;
use sordino_service::push::{JobHead, head};
use sordino_service::records::{Grant, State};
use sordino_service::shares::{What, share_bytes, share_weights};
use sordino_service::{Blame, Fault};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

/// A client with this certificate, in files of its own.
fn with(world: &World, identity: &Identity, trusted: &[u8]) -> Client {
    client(world, identity, trusted).unwrap()
}

fn client(world: &World, identity: &Identity, trusted: &[u8]) -> Result<Client, Fault> {
    let folder = world.folder.path().join(format!("other-{}", identity.fingerprint()));
    std::fs::create_dir(&folder).unwrap();
    let (chain, key) = identity.to_pem();
    std::fs::write(folder.join("c.pem"), chain).unwrap();
    sordino::model::write_own(&folder.join("c.key"), key.as_bytes()).unwrap();
    std::fs::write(folder.join("ca.pem"), trusted).unwrap();
    let cluster = Cluster::read(&world.demo.cluster("alice")).unwrap();
    let tls = Files { certificate: "c.pem".into(), key: "c.key".into(), authorities: "ca.pem".into() };
    Client::new(&Cluster { tls, folder, ..cluster })
}

/// The demonstration's own authority.
fn authority(world: &World) -> (Authority, Vec<u8>) {
    let folder = world.demo.folder().join("authority");
    let certificate = std::fs::read(folder.join("ca.pem")).unwrap();
    let key = std::fs::read_to_string(folder.join("ca.key")).unwrap();
    (Authority::from_pem(&certificate, &key).unwrap(), certificate)
}

fn identity_of(world: &World, who: &str) -> Identity {
    let folder = world.demo.folder().join(who);
    let files = Files {
        certificate: format!("{who}.pem").into(),
        key: format!("{who}.key").into(),
        authorities: "ca.pem".into(),
    };
    files.identity(&folder).unwrap()
}

fn refused(result: Result<impl Sized, Fault>, kind: Blame, says: &str) {
    let fault = result.err().unwrap();
    assert!(fault.kind == kind && fault.why.contains(says), "{:?}: {fault}", fault.kind);
}

#[test]
fn certificates() {
    let world = World::with(|config| config.policy.revoked = vec!["0".repeat(64)]);
    let (ours, trusted) = authority(&world);
    let theirs = Authority::new().unwrap();
    let now = SystemTime::now();
    // Another authority.
    let identity = theirs.identity_of("alice.client.sordino", now - HOUR, now + HOUR).unwrap();
    refused(with(&world, &identity, &trusted).about(), Blame::Refused, "authority");
    // Out of its time.
    let identity = ours.identity_of("alice.client.sordino", now - 3 * HOUR, now - HOUR).unwrap();
    refused(client(&world, &identity, &trusted), Blame::Usage, "expired");
    assert_eq!(dial(&world, 0, &identity, "GET /v1/about HTTP/1.1\r\nhost: x\r\n\r\n"), "");
    // Servers whom the client does not trust.
    let identity = ours.identity_of("alice.client.sordino", now - HOUR, now + HOUR).unwrap();
    let other = theirs.certificate_pem();
    refused(with(&world, &identity, other.as_bytes()).about(), Blame::PeerMisbehaved, "is not server 0");
    // A server's certificate at the port for clients, and an operator's in a client's calls.
    let ops = identity_of(&world, "ops");
    for (wrong, says) in [(ops, "none of an operator's pages"), (identity_of(&world, "server-1"), "no client's")] {
        let dialled = dial(&world, 0, &wrong, "GET /v1/about HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(dialled.contains("403") && dialled.contains(says), "{dialled}");
    }
    // Nobody without a certificate.
    assert_eq!(anonymous(&world), "");
    // Whoever is right is served.
    world.client("alice").about().unwrap();
}

/// What a server answers to a request of this identity.
fn dial(world: &World, party: usize, identity: &Identity, request: &str) -> String {
    let config = identity.dialler().unwrap();
    said(world, party, config, request)
}

fn said(world: &World, party: usize, config: rustls::ClientConfig, request: &str) -> String {
    let name = format!("server-{party}.sordino").try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(world.demo.servers[party].as_ref().unwrap().clients).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    if stream.write_all(request.as_bytes()).is_err() {
        return String::new();
    }
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

fn anonymous(world: &World) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(world.demo.folder().join("authority/ca.pem")).unwrap();
    let certificate: rustls::pki_types::CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    roots.add(certificate).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    said(world, 0, config, "GET /v1/about HTTP/1.1\r\nhost: x\r\n\r\n")
}

#[test]
fn revoked_certificates() {
    let fingerprint = Mutex::new(String::new());
    let world = World::with(|config| {
        let alice = config.folder.parent().unwrap().join("alice");
        let files = Files { certificate: "alice.pem".into(), key: "alice.key".into(), authorities: "ca.pem".into() };
        *fingerprint.lock().unwrap() = files.identity(&alice).unwrap().fingerprint();
        config.policy.revoked = vec![fingerprint.lock().unwrap().clone()];
    });
    refused(world.client("alice").about(), Blame::Refused, "revoked");
    world.client("bob").about().unwrap();
}

#[test]
fn servers_that_are_others() {
    let world = World::with(|_| ());
    let mut cluster = Cluster::read(&world.demo.cluster("alice")).unwrap();
    cluster.servers.swap(0, 1);
    refused(Client::new(&cluster).unwrap().about(), Blame::PeerMisbehaved, "is not server 0");
    cluster.servers.swap(0, 1);
    cluster.servers[2].fingerprint = Some("ab".repeat(32));
    refused(Client::new(&cluster).unwrap().about(), Blame::PeerMisbehaved, "fingerprint");
    cluster.servers[2].address = "127.0.0.1:1".into();
    refused(Client::new(&cluster).unwrap().about(), Blame::PeerLost, "server 2 at 127.0.0.1:1");
}

#[test]
fn strangers_at_the_port_for_peers() {
    let world = World::with(|_| ());
    let address = world.demo.servers[1].as_ref().unwrap().peers;
    let dial = |me: u8, identity: &Identity, direction| {
        let ends = Ends::new(Endpoint(me), Topology::three(1), identity, [7; 16], Duration::from_secs(5)).unwrap();
        ends.dial(Endpoint(1), address, direction).err().unwrap()
    };
    let alice = identity_of(&world, "alice");
    assert!(matches!(dial(0, &alice, Direction::Send), ConnectError::WrongRole { .. }));
    assert!(matches!(dial(2, &identity_of(&world, "server-0"), Direction::Send), ConnectError::WrongRole { .. }));
    // A server of the three: of a session that only the leader may begin, itself, and in the wrong direction.
    assert!(matches!(dial(2, &identity_of(&world, "server-2"), Direction::Send), ConnectError::WrongSession { .. }));
    assert!(matches!(dial(1, &identity_of(&world, "server-1"), Direction::Send), ConnectError::SelfDial));
    assert!(matches!(dial(0, &identity_of(&world, "server-0"), Direction::Receive), ConnectError::Unexpected { .. }));
    let stranger = Authority::new().unwrap().identity(&Topology::three(1), Endpoint(0)).unwrap();
    assert!(matches!(dial(0, &stranger, Direction::Send), ConnectError::UnknownAuthority { .. }));
}

#[test]
fn share_sets_that_do_not_fit() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let model = alice.model("mnist").unwrap();
    let program = &model.public.program;
    let sets = || {
        let sets = [(); 3].map(|()| Shared::default());
        share_inputs(program, &inputs_for(&model), sets.clone());
        sets.map(|s| s.0.lock().unwrap().clone())
    };
    let submit = |id: Id, sets: [Vec<u8>; 3]| -> Result<(), Fault> {
        let job = JobHead { id, model: "mnist".into(), upload: model.view.upload, receiver: "alice".into() };
        for (party, set) in sets.into_iter().enumerate() {
            alice.raw(party, "POST", "/v1/jobs", [head(&job).unwrap(), set].concat())?;
        }
        Ok(())
    };
    let outcome = |sets| {
        let id = Id::fresh().unwrap();
        submit(id, sets).unwrap();
        alice.wait(id, PATIENCE).unwrap().state
    };
    assert_eq!(outcome(sets()), State::Done);
    // Every server's set from another sharing, and a bit of every component at every holder.
    for party in 0..3 {
        let (mut mixed, other) = (sets(), sets());
        mixed[party] = other[party].clone();
        match outcome(mixed) {
            State::Failed(fault) => assert_eq!(fault.kind, Blame::Usage, "{fault}"),
            state => panic!("{state:?}"),
        }
    }
    for (party, at) in [(0, 0), (0, 16), (1, 0), (1, 20), (2, 0), (2, usize::MAX)] {
        let mut flipped = sets();
        let at = at.min(flipped[party].len() - 1);
        flipped[party][at] ^= 1;
        assert!(matches!(outcome(flipped), State::Failed(fault) if fault.kind == Blame::Usage), "{party} {at}");
    }
    // Too short, too long, no head, a head that lies about its length, an id that is taken.
    let [a, b, c] = sets();
    assert_eq!(a.len() as u64, share_bytes(program, What::Inputs, 0));
    refused(submit(Id::fresh().unwrap(), [a[..a.len() - 1].to_vec(), b.clone(), c.clone()]), Blame::Usage, "shorter");
    refused(submit(Id::fresh().unwrap(), [[&a[..], b"x"].concat(), b.clone(), c.clone()]), Blame::Usage, "longer");
    refused(alice.raw(0, "POST", "/v1/jobs", vec![]), Blame::Usage, "head");
    refused(alice.raw(0, "POST", "/v1/jobs", u64::MAX.to_le_bytes().to_vec()), Blame::Limit, "head");
    refused(alice.raw(0, "POST", "/v1/jobs", [&9u64.to_le_bytes()[..], b"{\"a\":1} "].concat()), Blame::Usage, "head");
    refused(
        alice.raw(0, "POST", "/v1/jobs", [&8u64.to_le_bytes()[..], b"{\"a\":1} "].concat()),
        Blame::Incompatible,
        "version",
    );
    let taken = alice.jobs().unwrap()[0].id;
    refused(submit(taken, sets()), Blame::Conflict, "already");
    // Servers work as before.
    assert_eq!(asked(&alice, "mnist"), 7);
}

#[test]
fn jobs_that_only_some_servers_have() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let model = alice.model("mnist").unwrap();
    let job = JobHead {
        id: Id::fresh().unwrap(),
        model: "mnist".into(),
        upload: model.view.upload,
        receiver: "alice".into(),
    };
    let set = Shared::default();
    let sets = [set.clone(), Shared::default(), Shared::default()];
    share_inputs(&model.public.program, &inputs_for(&model), sets);
    let body = [head(&job).unwrap(), set.0.lock().unwrap().clone()].concat();
    alice.raw(0, "POST", "/v1/jobs", body).unwrap();
    // It waits for the others, and nobody else waits for it.
    let before = Instant::now();
    assert_eq!(asked(&alice, "mnist"), 7);
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(alice.job(job.id).unwrap().state, State::Queued);
    alice.forget(job.id).unwrap();
}

#[test]
fn policy_and_limits() {
    let world = World::with(|config| {
        config.policy.push = vec!["alice".into()];
        config.limits.models = 1;
        config.limits.queue = 2;
        config.limits.queue_per_client = 2;
    });
    let (public, secrets) = compiled();
    let bob = world.client("bob");
    refused(bob.push("mnist", public, &secrets, None, &Arc::default()), Blame::Refused, "may not push");
    let alice = world.push("mnist", BTreeMap::from([("bob".into(), Grant::default())]));
    let (public, _) = compiled();
    refused(alice.may_push("other", &public), Blame::Limit, "1 models are kept");
    refused(alice.may_push("../x", &public), Blame::Usage, "no name of a model");
    refused(bob.raw(0, "PUT", "/v1/models/a%2Fb", vec![]), Blame::Usage, "no name");
    refused(bob.raw(0, "GET", "/v2/about", vec![]), Blame::Incompatible, "version 1");
    refused(bob.raw(0, "GET", "/v1/nothing", vec![]), Blame::Unknown, "no call");
    refused(bob.raw(0, "GET", "/metrics", vec![]), Blame::Refused, "operators");
    refused(bob.raw(0, "GET", "/v1/jobs/xyz", vec![]), Blame::Usage, "no id");
    // A full queue refuses at once, and what runs is unharmed.
    let model = bob.model("mnist").unwrap();
    let inputs = inputs_for(&model);
    let mut full = None;
    let mut jobs = vec![];
    for _ in 0..50 {
        let before = Instant::now();
        match bob.submit(&model, &inputs, "bob") {
            Ok(job) => jobs.push(job),
            Err(e) => {
                full = Some((e, before.elapsed()));
                break;
            }
        }
    }
    if let Some((fault, took)) = full {
        assert!(fault.kind == Blame::Limit && took < Duration::from_secs(2), "{fault} {took:?}");
    }
    for job in jobs {
        assert_eq!(bob.wait(job, PATIENCE).unwrap().state, State::Done);
    }
}

#[test]
fn strangers_keep_nobody_out() {
    let world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    let server = world.demo.servers[0].as_ref().unwrap();
    let (clients, peers) = (server.clients, server.peers);
    let mut idle = vec![];
    for _ in 0..300 {
        idle.push(TcpStream::connect(clients).unwrap());
    }
    for _ in 0..50 {
        idle.push(TcpStream::connect(peers).unwrap());
    }
    let before = Instant::now();
    assert_eq!(asked(&alice, "mnist"), 7);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    // A connection that says a byte at a time is closed in time.
    let mut drip = TcpStream::connect(clients).unwrap();
    drip.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let started = Instant::now();
    // A record of 512 bytes, which never comes to its end.
    let mut bytes = [22, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(0));
    while started.elapsed() < Duration::from_secs(8) && drip.write_all(&[bytes.next().unwrap()]).is_ok() {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
}

#[test]
fn nothing_at_rest_can_be_read_and_damage_is_named() {
    let mut world = World::with(|_| ());
    let alice = world.push("mnist", BTreeMap::new());
    assert_eq!(asked(&alice, "mnist"), 7);
    let model = alice.model("mnist").unwrap();
    let sets = [(); 3].map(|()| Shared::default());
    let (_, secrets) = compiled();
    share_weights(&model.public.program, &secrets, sets).unwrap();
    // Two weights or two pixels that follow each other, as the integers that are shared: nowhere in a store.
    let tensors = secrets.0.iter().map(|s| s.encoded()).chain(inputs_for(&model));
    let mut patterns: Vec<[u8; 16]> = vec![];
    for tensor in tensors {
        let pairs = tensor.windows(2).filter(|w| w[0] != w[1]);
        patterns.extend(
            pairs.map(|w| -> [u8; 16] { [w[0].to_le_bytes(), w[1].to_le_bytes()].concat().try_into().unwrap() }),
        );
    }
    patterns.sort_unstable();
    assert!(patterns.len() > 1000);
    let stores: Vec<_> = world.demo.configs.iter().map(|c| c.folder.join("store")).collect();
    for store in &stores {
        for file in files(store) {
            let bytes = std::fs::read(&file).unwrap();
            for window in bytes.windows(16) {
                let window: [u8; 16] = window.try_into().unwrap();
                assert!(patterns.binary_search(&window).is_err(), "{}", file.display());
            }
        }
    }
    world.demo.stop(1);
    let largest = files(&stores[1].join("shares")).into_iter().max_by_key(|f| f.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let checked = sordino_service::store::Store::open(&stores[1]).unwrap().check().unwrap();
    assert!(checked.faults.len() == 1 && checked.faults[0].contains("mnist"), "{:?}", checked.faults);
    // A server with damaged shares answers nothing, and says why; the job is not lost.
    world.demo.restart(1).unwrap();
    world.demo.restart(0).unwrap();
    let job = alice.submit(&model, &inputs_for(&model), "alice").unwrap();
    let view = alice.wait(job, Duration::from_secs(3)).unwrap();
    assert_eq!(view.state, State::Queued);
    assert!(world.demo.servers[1].as_ref().unwrap().engine().store.is_writable().is_ok());
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}
