//! A session of two parties on two machines: a host, who has a model, and a client, who asks it.
//!
//! The client dials the host, both over mutual TLS. The host says what it offers: the program, which is public, and how samples become
//! its inputs. The client looks at it and says how often it asks; the host takes the order or not. Then both run the program that often.

use crate::compute::Compute;
use crate::error::sentence;
use crate::in_process::PATIENT;
use crate::inputs::Preprocess;
use crate::links::{Connecting, connect};
use crate::session::{Ended, Inputs, Job, Outputs, Owned, fresh_id, run};
use crate::tls::{Ends, Identity};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sordino_mpc::{Kind, System, Topology};
use sordino_net::{Endpoint, LinkModel, Net, Part, Segment, Tag};
use sordino_nn::program::{Program, Secrets};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

const HOST: Endpoint = Endpoint(0);
const CLIENT: Endpoint = Endpoint(1);

/// How long the offer is, and the session's id.
const OFFER: Tag = Tag(*b"what is offered.");
const CONTENT: Tag = Tag(*b"the very offer..");
/// How often the client asks, and whether it may.
const ORDER: Tag = Tag(*b"so many queries.");
const TAKEN: Tag = Tag(*b"order is taken..");

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

/// The ends of the connections, which are for any session: its id is agreed on inside.
fn ends(me: Endpoint, identity: &Identity, deadline: Duration) -> Result<Ends> {
    Ends::new(me, Topology::two(), identity, [0; 16], deadline)
        .map_err(|e| Error::Session(format!("the identity cannot be used: {e}")))
}

/// The first word of a message.
fn word(message: &[Part]) -> Result<u64> {
    match message {
        [Part::Wide(words), ..] if !words.is_empty() => Ok(words[0]),
        _ => Err(Error::Session("a message of another form than was asked for".into())),
    }
}

/// A host: answers clients with one model.
pub struct Host<'a> {
    ends: Ends,
    offer: &'a Offer,
    content: Vec<u8>,
    secrets: &'a Secrets,
}

/// What became of a client's visit.
pub enum Visit {
    /// It looked at the offer and left.
    Left,
    /// It asked so many times; the host's traffic and times.
    Answered(u64, Box<Ended>),
}

impl<'a> Host<'a> {
    /// A host with its identity and its model.
    ///
    /// # Errors
    /// When the identity is none, or the program is not for two parties.
    pub fn new(identity: &Identity, offer: &'a Offer, secrets: &'a Secrets, deadline: Duration) -> Result<Self> {
        if offer.program.settings.kind != Kind::Two {
            return Err(Error::Usage("the program is not for two parties".into()));
        }
        let content = serde_json::to_vec(offer).map_err(|e| failed(&e))?;
        Ok(Self { ends: ends(HOST, identity, deadline)?, offer, content, secrets })
    }

    /// Waits for a client, and serves it to the end.
    ///
    /// # Errors
    /// When it is refused or lost, or the waiting is stopped; the host can go on with the next one.
    pub fn serve(&self, listener: &TcpListener, setup: Setup<'_>) -> Result<Visit> {
        let none = BTreeMap::new();
        let how = Connecting {
            addresses: &none,
            link: LinkModel::UNLIMITED,
            connect: PATIENT,
            deadline: setup.deadline,
            patience: setup.deadline,
            stop: setup.stop,
        };
        let net = connect(HOST, &self.ends, Some(listener), &how).map_err(|e| failed(&e))?;
        let session = fresh_id()?;
        let head = vec![Part::Wide(vec![self.content.len() as u64]), Part::of_bytes(&session)];
        net.send(CLIENT, OFFER, head).map_err(lost)?;
        net.send(CLIENT, CONTENT, vec![Part::of_bytes(&self.content)]).map_err(lost)?;
        let runs = word(&net.recv(CLIENT, ORDER, &[Segment::Wide(1)]).map_err(lost)?)?;
        if runs == 0 {
            return Ok(Visit::Left);
        }
        let taken = (1..=self.offer.most_runs).contains(&runs);
        net.send(CLIENT, TAKEN, vec![Part::Wide(vec![u64::from(taken)])]).map_err(lost)?;
        if !taken {
            let most = self.offer.most_runs;
            return Err(Error::Session(format!("the client asks {runs} times; {most} are offered")));
        }
        let job = Job { session, ..Job::new(&self.offer.program, runs as usize)? };
        let owned = Owned { weights: Some(self.secrets), ..Owned::default() };
        let ended = run(job, net, owned, &Compute::cpu(setup.threads), &System, &AtomicU64::new(0));
        let ended = ended.map_err(|e| Error::Session(sentence(&Topology::two(), &e)))?;
        Ok(Visit::Answered(runs, Box::new(ended)))
    }
}

/// A client that has heard what a host offers.
pub struct Asking {
    /// The offer.
    pub offer: Offer,
    net: Net,
    session: [u8; 16],
}

impl Asking {
    /// Dials a host and hears its offer.
    ///
    /// # Errors
    /// When the host cannot be reached, is another than the identity knows, or offers what is no program.
    pub fn dial(address: SocketAddr, identity: &Identity, setup: Setup<'_>) -> Result<Self> {
        let ends = ends(CLIENT, identity, setup.deadline)?;
        let addresses = BTreeMap::from([(HOST.0, address)]);
        let how = Connecting {
            addresses: &addresses,
            link: LinkModel::UNLIMITED,
            connect: setup.deadline,
            deadline: setup.deadline,
            patience: setup.deadline,
            stop: setup.stop,
        };
        let net = connect(CLIENT, &ends, None, &how).map_err(|e| failed(&e))?;
        let head = net.recv(HOST, OFFER, &[1, 2].map(Segment::Wide)).map_err(lost)?;
        let (length, mut session) = (word(&head)?, [0; 16]);
        if length > LONGEST {
            return Err(Error::Session(format!("the host's offer has {length} bytes; {LONGEST} are possible")));
        }
        session.copy_from_slice(head[1].bytes());
        let length = length as usize;
        let content = net.recv(HOST, CONTENT, &[Segment::Wide(length.div_ceil(8))]).map_err(lost)?;
        Ok(Self { offer: Offer::read(&content[0].bytes()[..length])?, net, session })
    }

    /// Asks nothing, and says so.
    ///
    /// # Errors
    /// When the host is lost.
    pub fn leave(self) -> Result<()> {
        self.net.send(HOST, ORDER, vec![Part::Wide(vec![0])]).map_err(lost)
    }

    /// Asks with these inputs, so many times.
    ///
    /// # Errors
    /// When the host refuses or is lost.
    pub fn ask(
        self,
        inputs: &mut dyn Inputs,
        outputs: &mut dyn Outputs,
        runs: usize,
        setup: Setup<'_>,
        progress: &AtomicU64,
    ) -> Result<(Offer, Ended)> {
        let Self { offer, net, session } = self;
        net.send(HOST, ORDER, vec![Part::Wide(vec![runs as u64])]).map_err(lost)?;
        if word(&net.recv(HOST, TAKEN, &[Segment::Wide(1)]).map_err(lost)?)? != 1 {
            let most = offer.most_runs;
            return Err(Error::Usage(format!("{runs} queries; the host offers {most} on one connection")));
        }
        let job = Job { session, ..Job::new(&offer.program, runs)? };
        let owned = Owned { inputs: Some(inputs), outputs: Some(outputs), ..Owned::default() };
        let ended = run(job, net, owned, &Compute::cpu(setup.threads), &System, progress);
        let ended = ended.map_err(|e| Error::Session(sentence(&Topology::two(), &e)))?;
        Ok((offer, ended))
    }
}
