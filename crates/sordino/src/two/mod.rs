//! A session of two parties on two machines: a host, who has a model, and a client, who asks it.
//!
//! The client dials the host, both over mutual TLS. The host says what it offers: the program, which is public, and how samples become
//! its inputs. The client looks at it and says how often it asks; the host takes the order, lets it wait for its turn, or refuses. Then both
//! run the program that often. A host has many clients at a time, and a budget for each if it wants to.

mod ask;
mod host;
mod ledger;
mod reception;
mod turns;

pub use ask::Asking;
pub use host::{Host, House, Visit};
pub use ledger::Ledger;

use crate::error::sentence;
use crate::inputs::Preprocess;
use crate::tls::{Ends, Identity};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sordino_mpc::{Kind, Topology};
use sordino_net::{Endpoint, Part, Tag};
use sordino_nn::program::Program;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const HOST: Endpoint = Endpoint(0);
const CLIENT: Endpoint = Endpoint(1);

/// How long the offer is, how many queries the client has left, and the session's id.
const OFFER: Tag = Tag(*b"what is offered.");
const CONTENT: Tag = Tag(*b"the very offer..");
/// How often the client asks, for how many queries transfers are drawn before, and whether it may.
const ORDER: Tag = Tag(*b"so many queries.");
const TAKEN: Tag = Tag(*b"order is taken..");

/// What a host says to an order: which of these, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// More than are offered on one connection: so many are.
    TooMany(u64),
    /// It begins.
    Taken,
    /// So many are to be served before.
    Wait(u64),
    /// More than the client has left: so many.
    Spent(u64),
    /// The host is about to end.
    Closing,
    /// More prepared than the host has memory for: so many are.
    TooMuch(u64),
}

impl Reply {
    fn words(self) -> Vec<u64> {
        let (code, number) = match self {
            Self::TooMany(n) => (0, n),
            Self::Taken => (1, 0),
            Self::Wait(n) => (2, n),
            Self::Spent(n) => (3, n),
            Self::Closing => (4, 0),
            Self::TooMuch(n) => (5, n),
        };
        vec![code, number]
    }

    fn read(message: &[Part]) -> Result<Self> {
        match message {
            [Part::Wide(words)] => match words[..] {
                [0, n] => Ok(Self::TooMany(n)),
                [1, _] => Ok(Self::Taken),
                [2, n] => Ok(Self::Wait(n)),
                [3, n] => Ok(Self::Spent(n)),
                [4, _] => Ok(Self::Closing),
                [5, n] => Ok(Self::TooMuch(n)),
                _ => Err(unasked()),
            },
            _ => Err(unasked()),
        }
    }
}

fn unasked() -> Error {
    Error::Session("a message of another form than was asked for".into())
}

/// Longest offer, in bytes.
const LONGEST: u64 = 256 << 20;

/// What a host offers. All of it is public.
#[derive(Serialize, Deserialize)]
pub struct Offer {
    /// The model's name.
    pub model: String,
    /// The compiled program.
    pub program: Program,
    /// How samples become inputs, and the names of classes.
    pub preprocess: Preprocess,
    /// How often a client may ask on one connection.
    pub most_runs: u64,
}

impl Offer {
    /// What a host sent, if it can be run at all.
    ///
    /// # Errors
    /// When it is no offer, or its program names what is not there.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let offer: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::Session(format!("what the host offers is no program of this version: {e}")))?;
        offer.program.check().map_err(|e| Error::Session(format!("what the host offers cannot be run: {e}")))?;
        let program = &offer.program;
        if program.settings.kind != Kind::Two || program.owners() != 1 || !program.states.is_empty() {
            return Err(Error::Session("what the host offers is not for two parties".into()));
        }
        Ok(offer)
    }
}

/// How a party runs.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// How long the other party is waited for.
    pub deadline: Duration,
    /// Worker threads.
    pub threads: usize,
    /// Set from outside to end the waiting.
    pub stop: &'a AtomicBool,
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::Session(e.to_string())
}

/// A net error with the other party's name.
fn lost(e: sordino_net::NetError) -> Error {
    Error::Session(sentence(&Topology::two(), &sordino_nn::Error::Protocol(e.into())))
}

/// The ends of the connections, of a visit that the client numbers: the session's own id is agreed on inside.
fn ends(me: Endpoint, identity: &Identity, visit: [u8; 16], deadline: Duration) -> Result<Ends> {
    Ends::new(me, Topology::two(), identity, visit, deadline)
        .map_err(|e| Error::Session(format!("the identity cannot be used: {e}")))
}

/// A word of a message's first part.
fn word(message: &[Part], at: usize) -> Result<u64> {
    match message {
        [Part::Wide(words), ..] => words.get(at).copied().ok_or_else(unasked),
        _ => Err(unasked()),
    }
}
