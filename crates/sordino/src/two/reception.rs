//! A host's door: clients make two connections each, one for each direction, and many come at the same time.

use super::{CLIENT, HOST};
use crate::Result;
use crate::links::assemble;
use crate::tls::{ConnectError, Connection, Ends, Guest, Next, Refusal, each_connection, own_name};
use sordino_mpc::Topology;
use sordino_net::{LinkModel, Net, Patience};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A client with both of its connections.
pub(super) struct Arrival {
    pub(super) net: Net,
    /// The name in its certificate; a pair's only client has none of its own.
    pub(super) name: String,
}

/// What is called a client without a name of its own.
const UNNAMED: &str = "client";

/// How long a first connection waits for its second one.
const HALF: Duration = Duration::from_secs(10);

/// A visit, as its client drew it, and the certificate.
type Visit = ([u8; 16], String);

/// Who is let in.
pub(super) struct Reception<'a> {
    pub(super) ends: &'a Ends,
    /// Names of clients who are not.
    pub(super) revoked: &'a [String],
    /// Clients in the house, at most.
    pub(super) most: usize,
    pub(super) deadline: Duration,
    halves: Mutex<HashMap<Visit, (Instant, Connection)>>,
    inside: AtomicUsize,
}

impl<'a> Reception<'a> {
    pub(super) fn new(ends: &'a Ends, revoked: &'a [String], most: usize, deadline: Duration) -> Self {
        Self { ends, revoked, most, deadline, halves: Mutex::default(), inside: AtomicUsize::new(0) }
    }

    /// Lets clients in until `over` says so, each on a thread of its own, and comes back when all have left.
    ///
    /// # Errors
    /// When the listener fails.
    pub(super) fn receive(
        &self,
        listener: &TcpListener,
        over: &dyn Fn() -> bool,
        serve: &(dyn Fn(Arrival) + Sync),
    ) -> Result<()> {
        let mut next = || if over() { Next::Enough } else { Next::More };
        let handshake = |tcp: TcpStream, placed: &AtomicBool| match self.arrival(tcp, placed) {
            Ok(Some(arrival)) => {
                serve(arrival);
                self.inside.fetch_sub(1, Ordering::AcqRel);
            }
            Ok(None) => (),
            Err(e) => tracing::warn!("refused a connection: {e}"),
        };
        each_connection(listener, &mut next, &handshake).map_err(|e| super::failed(&e))
    }

    /// A client, with its second connection.
    fn arrival(&self, tcp: TcpStream, placed: &AtomicBool) -> std::result::Result<Option<Arrival>, ConnectError> {
        let guest = self.ends.welcome(tcp)?;
        let own = own_name(&Topology::two(), CLIENT, &guest.names);
        let name = own.unwrap_or_else(|| UNNAMED.into());
        if guest.hello.peer != CLIENT || self.revoked.contains(&name) {
            return Err(guest.refuse(Refusal::Unexpected));
        }
        let visit = (guest.hello.session, guest.fingerprint.clone());
        let Some((first, guest)) = self.other_half(&visit, guest)? else { return Ok(None) };
        // From here on it counts, and its thread is its own.
        placed.store(true, Ordering::Release);
        if self.inside.fetch_add(1, Ordering::AcqRel) >= self.most {
            self.inside.fetch_sub(1, Ordering::AcqRel);
            return Err(guest.refuse(Refusal::Unexpected));
        }
        let net = guest.admit().and_then(|second| {
            let patience = |_| Patience::new(self.deadline, self.deadline, LinkModel::UNLIMITED);
            assemble(HOST, &Topology::two(), vec![first, second], LinkModel::UNLIMITED, &patience)
        });
        match net {
            Ok(links) => Ok(Some(Arrival { net: Net::new(HOST, links), name })),
            Err(e) => {
                self.inside.fetch_sub(1, Ordering::AcqRel);
                Err(e)
            }
        }
    }

    /// The connection that a visit made before, with the guest who makes the second one; of the first one nothing, and it is kept.
    fn other_half(
        &self,
        visit: &Visit,
        guest: Guest,
    ) -> std::result::Result<Option<(Connection, Guest)>, ConnectError> {
        let mut halves = self.halves.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        halves.retain(|_, (since, _)| since.elapsed() < HALF);
        match halves.remove(visit) {
            Some((_, first)) if first.direction != guest.hello.direction => Ok(Some((first, guest))),
            // Twice the same: neither is trusted.
            Some(_) => Err(guest.refuse(Refusal::Unexpected)),
            None if halves.len() >= self.most => Err(guest.refuse(Refusal::Unexpected)),
            None => {
                // It dials again only when it has been let in.
                halves.insert(visit.clone(), (Instant::now(), guest.admit()?));
                Ok(None)
            }
        }
    }
}
