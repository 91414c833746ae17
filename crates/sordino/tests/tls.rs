//! Who may connect to whom: every wrong certificate, role and session is refused with its typed error.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::links::{Connecting, connect};
use sordino::tls::{Authority, ConnectError, Connection, Direction, Ends, Hello, Identity};
use sordino_mpc::Topology;
use sordino_net::{Endpoint, LinkModel};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const SESSION: [u8; 16] = [3; 16];
const DEADLINE: Duration = Duration::from_secs(30);

/// Three servers, the model's owner (3), the receiver (4) and two data owners (5, 6).
fn topology() -> Topology {
    Topology::three(2)
}

fn identity(authority: &Authority, end: u8) -> Identity {
    authority.identity(&topology(), Endpoint(end)).unwrap()
}

fn ends(me: u8, identity: &Identity, session: [u8; 16]) -> Ends {
    Ends::new(Endpoint(me), topology(), identity, session, DEADLINE).unwrap()
}

/// Server 1 accepts one connection for which it expects server 0; the dialler believes it dials `to`.
fn meet(dialler: &Ends, accepter: &Ends, to: u8) -> (Result<(), ConnectError>, Result<Connection, ConnectError>) {
    meet_expecting(0, dialler, accepter, to)
}

/// The same with another end expected.
fn meet_expecting(
    from: u8,
    dialler: &Ends,
    accepter: &Ends,
    to: u8,
) -> (Result<(), ConnectError>, Result<Connection, ConnectError>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            accepter.greet(listener.accept().unwrap().0, &|p, d| (p, d) == (Endpoint(from), Direction::Send))
        });
        let dialled = dialler.dial(Endpoint(to), address, Direction::Send).map(|mut dialled| {
            let before = dialled.wire.load(Ordering::Relaxed);
            dialled.stream.write_all(b"hello").unwrap();
            dialled.stream.flush().unwrap();
            // A record costs its header, type and tag.
            assert_eq!(dialled.wire.load(Ordering::Relaxed) - before, 5 + 22);
        });
        (dialled, accepting.join().unwrap())
    })
}

#[test]
fn the_right_peer_connects() {
    let authority = Authority::new().unwrap();
    let id = |i: u8| identity(&authority, i);
    let (dialled, accepted) = meet(&ends(0, &id(0), SESSION), &ends(1, &id(1), SESSION), 1);
    dialled.unwrap();
    let mut accepted = accepted.unwrap();
    let mut got = [0; 5];
    accepted.stream.read_exact(&mut got).unwrap();
    assert_eq!((accepted.peer, &got), (Endpoint(0), b"hello"));
}

#[test]
fn another_authority() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let honest = ends(1, &identity(&ours, 1), SESSION);
    let stranger = ends(0, &identity(&theirs, 0), SESSION);
    let (dialled, accepted) = meet(&stranger, &honest, 1);
    assert!(matches!(dialled, Err(ConnectError::UnknownAuthority { .. })), "{dialled:?}");
    assert!(accepted.is_err());
}

#[test]
fn a_certificate_for_another_role() {
    let authority = Authority::new().unwrap();
    let id = |i: u8| identity(&authority, i);
    // Server 2 claims to be server 0.
    let (dialled, accepted) = meet(&ends(0, &id(2), SESSION), &ends(1, &id(1), SESSION), 1);
    assert!(matches!(dialled, Err(ConnectError::WrongRole { .. })), "{dialled:?}");
    assert!(matches!(accepted.err(), Some(ConnectError::WrongRole { .. })));
    // Server 2 answers where server 1 is expected.
    let (dialled, _) = meet(&ends(0, &id(0), SESSION), &ends(2, &id(2), SESSION), 1);
    assert!(matches!(dialled, Err(ConnectError::WrongRole { .. })), "{dialled:?}");
}

#[test]
fn every_owner_has_a_role_of_its_own() {
    let authority = Authority::new().unwrap();
    let id = |i: u8| identity(&authority, i);
    for claims in 3..7 {
        for holds in 3..7 {
            let (dialled, accepted) =
                meet_expecting(claims, &ends(claims, &id(holds), SESSION), &ends(1, &id(1), SESSION), 1);
            if claims == holds {
                dialled.unwrap();
                assert_eq!(accepted.unwrap().peer, Endpoint(claims));
            } else {
                assert!(matches!(dialled, Err(ConnectError::WrongRole { .. })), "{claims} {holds}: {dialled:?}");
                assert!(matches!(accepted.err(), Some(ConnectError::WrongRole { .. })));
            }
        }
    }
}

#[test]
fn an_expired_certificate() {
    let authority = Authority::new().unwrap();
    let ago = |days: u64| SystemTime::now() - Duration::from_secs(86400 * days);
    let old = authority.identity_between(&topology(), Endpoint(1), ago(9), ago(8)).unwrap();
    let fresh = identity(&authority, 0);
    let (dialled, _) = meet(&ends(0, &fresh, SESSION), &ends(1, &old, SESSION), 1);
    assert!(matches!(dialled, Err(ConnectError::Expired { .. })), "{dialled:?}");
}

#[test]
fn itself_another_session_and_the_unexpected() {
    let authority = Authority::new().unwrap();
    let id = |i: u8| identity(&authority, i);
    let one = ends(1, &id(1), SESSION);
    let (dialled, accepted) = meet(&ends(1, &id(1), SESSION), &one, 1);
    assert_eq!((dialled, accepted.err()), (Err(ConnectError::SelfDial), Some(ConnectError::SelfDial)));
    let (dialled, _) = meet(&ends(0, &id(0), [4; 16]), &one, 1);
    assert!(matches!(dialled, Err(ConnectError::WrongSession { .. })), "{dialled:?}");
    let (dialled, _) = meet(&ends(2, &id(2), SESSION), &one, 1);
    assert!(matches!(dialled, Err(ConnectError::Unexpected { .. })), "{dialled:?}");
}

#[test]
fn a_peer_that_speaks_something_else() {
    let authority = Authority::new().unwrap();
    let one = ends(1, &identity(&authority, 1), SESSION);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::net::TcpStream::connect(address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap());
        let accepted = one.greet(listener.accept().unwrap().0, &|p, d| (p, d) == (Endpoint(0), Direction::Send));
        assert!(matches!(accepted.err(), Some(ConnectError::Handshake { .. })));
    });
}

/// Whoever accepts and says nothing is waited for once, not once for each connection that was to follow.
#[test]
fn a_silent_peer_is_waited_for_once() {
    let authority = Authority::new().unwrap();
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = listeners.iter().enumerate().map(|(i, l)| (i as u8, l.local_addr().unwrap())).collect();
    let soon = Duration::from_millis(300);
    let owner = Ends::new(Endpoint(3), topology(), &identity(&authority, 3), SESSION, soon).unwrap();
    let how = Connecting {
        addresses: &addresses,
        link: LinkModel::UNLIMITED,
        connect: soon,
        deadline: soon,
        patience: soon,
        stop: &AtomicBool::new(false),
    };
    assert!(connect(Endpoint(3), &owner, None, &how).is_err());
    let waiting = |listener: &TcpListener| {
        listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    };
    assert_eq!(listeners.iter().map(waiting).sum::<usize>(), 1);
}

#[test]
fn nobody_there() {
    let authority = Authority::new().unwrap();
    let zero = ends(0, &identity(&authority, 0), SESSION);
    // A port that nothing is given by chance.
    let closed = "127.0.0.1:1".parse().unwrap();
    let dialled = zero.dial(Endpoint(1), closed, Direction::Send).err();
    assert!(matches!(dialled, Some(ConnectError::Unreachable { .. })), "{dialled:?}");
}

#[test]
fn greetings_round_trip() {
    let hello = Hello { peer: Endpoint(2), direction: Direction::Receive, session: SESSION };
    assert_eq!(Hello::decode(&hello.encode()), Some(hello));
}
