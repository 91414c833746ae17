//! What strangers, clients and servers send, and what files hold: whatever the bytes are, they are refused with a sentence or make sense.

use sordino_service::config::{Cluster, Server, parse};
use sordino_service::push::{JobHead, ModelHead, Public, RowsHead};
use sordino_service::shares::{Made, Splitter, What, open, share_bytes};
use sordino_service::wire::{About, Ask, JobView, ModelView};

/// `server.toml` and `cluster.toml`.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(server) = parse::<Server>(text).ok().filter(|s| s.check().is_ok()) {
        let _ = (server.deadline(), server.link(), server.workers());
    }
    let _ = parse::<Cluster>(text);
}

/// What is public of a model: what is taken can be planned, and has share sets.
pub(crate) fn public(bytes: &[u8]) {
    if let Ok(public) = Public::parse(bytes) {
        let _ = (public.memory(), public.hash());
        for party in 0..3 {
            assert!(share_bytes(&public.program, What::Model, party) < 1 << 60);
            let _ = Splitter::new(&public.program, What::Inputs, party).take(bytes);
            if let Some(course) = &public.training {
                assert!(share_bytes(&course.step, What::Model, party) < 1 << 60);
                for owner in 0..course.owners.len() {
                    let _ = Splitter::new(&course.step, What::Rows(owner), party).times(course.iterations).take(bytes);
                }
            }
        }
    }
}

/// Heads of uploads and what servers answer, as JSON.
pub(crate) fn head(bytes: &[u8]) {
    let _ = serde_json::from_slice::<JobHead>(bytes);
    let _ = serde_json::from_slice::<RowsHead>(bytes);
    let _ = serde_json::from_slice::<ModelHead>(bytes).map(|head| head.public.check());
    let _ = serde_json::from_slice::<JobView>(bytes);
    let _ = serde_json::from_slice::<ModelView>(bytes);
    let _ = serde_json::from_slice::<Ask>(bytes);
    let _ = serde_json::from_slice::<About>(bytes);
    let _ = serde_json::from_slice::<Made>(bytes);
}

/// Three servers' shares of an answer, one after the other, of a model that is known.
pub(crate) fn answer(public: &Public, bytes: &[u8]) {
    let third = bytes.len() / 3;
    let shares = [0, 1, 2].map(|i| bytes[i * third..(i + 1) * third].to_vec());
    let made = Made { session: sordino_service::names::Id([3; 16]), run: 1, row: None };
    assert!(open(public, made, shares).is_err(), "shares that no session made");
}
