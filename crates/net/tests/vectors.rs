//! Recorded bytes of frames: what they mean does not change while the version does not, and what is wrong stays refused, for the same reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sordino_net::{FrameError, HEADER_BYTES, Header, Tag};

fn bytes(hexadecimal: &str) -> [u8; HEADER_BYTES] {
    let all: Vec<u8> =
        (0..hexadecimal.len() / 2).map(|i| u8::from_str_radix(&hexadecimal[2 * i..2 * i + 2], 16).unwrap()).collect();
    all.try_into().unwrap()
}

#[test]
fn recorded_headers() {
    let (mut right, mut wrong) = (0, 0);
    for line in include_str!("vectors/frames.txt").lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = bytes(fields[1]);
        let decoded = Header::decode(&at);
        match fields[0] {
            "frame" => {
                let [number, depth] = [2, 3].map(|i| fields[i].parse().unwrap());
                let mut tag = [0; 16];
                tag.copy_from_slice(&bytes(&format!("{}{}", "0".repeat(48), fields[5]))[24..]);
                let header = Header { tag: Tag(tag), number, depth, payload: fields[4].parse().unwrap() };
                assert_eq!((decoded, header.encode()), (Ok(header), at), "{line}");
                right += 1;
            }
            kind => {
                let fits = match decoded {
                    Err(FrameError::Magic) => kind == "magic",
                    Err(FrameError::Reserved) => kind == "reserved",
                    Err(FrameError::Oversized(_)) => kind == "oversized",
                    Ok(_) => false,
                };
                assert!(fits, "{line}: {decoded:?}");
                wrong += 1;
            }
        }
    }
    assert!(right > 3 && wrong > 5, "{right} {wrong}");
}
