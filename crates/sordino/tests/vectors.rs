//! Recorded bytes of greetings: what they mean does not change while the version does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino::tls::{Direction, Hello};
use sordino_net::Endpoint;

fn bytes<const N: usize>(hexadecimal: &str) -> [u8; N] {
    let all: Vec<u8> =
        (0..hexadecimal.len() / 2).map(|i| u8::from_str_radix(&hexadecimal[2 * i..2 * i + 2], 16).unwrap()).collect();
    all.try_into().unwrap()
}

#[test]
fn recorded_greetings() {
    let mut seen = [0, 0];
    for line in include_str!("vectors/hello.txt").lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at: [u8; 26] = bytes(fields[1]);
        if fields[0] == "refused" {
            assert_eq!(Hello::decode(&at), None, "{line}");
            seen[1] += 1;
            continue;
        }
        let direction = if fields[3] == "send" { Direction::Send } else { Direction::Receive };
        let hello = Hello { peer: Endpoint(fields[2].parse().unwrap()), direction, session: bytes(fields[4]) };
        assert_eq!((Hello::decode(&at), hello.encode()), (Some(hello), at), "{line}");
        seen[0] += 1;
    }
    assert!(seen[0] > 4 && seen[1] > 4, "{seen:?}");
}
