//! A host's door: clients make two connections each, one for each direction, and many come at the same time.

use super::{CLIENT, HOST};
use crate::Result;
use crate::links::assemble;
use crate::tls::{ConnectError, Connection, Ends, Guest, Next, Refusal, each_connection, own_name};
use sordino_mpc::Topology;
use sordino_net::{LinkModel, Net, Patience};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
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

/// First connections of one client that wait for their second ones, at most: another one takes the oldest one's place.
const HALVES: usize = 4;

/// Who is let in.
pub(super) struct Reception<'a> {
    ends: &'a Ends,
    /// Names of clients who are not.
    revoked: &'a [String],
    /// Clients in the house, at most.
    most: usize,
    deadline: Duration,
    halves: Mutex<HashMap<Visit, (Instant, Connection)>>,
    /// How often each client is in the house.
    inside: Mutex<HashMap<String, usize>>,
}

/// A client's place in the house; it is free again when this is dropped.
struct Inside<'a>(&'a Mutex<HashMap<String, usize>>, String);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(n) = inside.get_mut(&self.1) {
            *n -= 1;
        }
        inside.retain(|_, n| *n > 0);
    }
}

impl<'a> Reception<'a> {
    pub(super) fn new(ends: &'a Ends, revoked: &'a [String], most: usize, deadline: Duration) -> Self {
        Self { ends, revoked, most, deadline, halves: Mutex::default(), inside: Mutex::default() }
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
            Ok(Some((arrival, _inside))) => serve(arrival),
            Ok(None) => (),
            // Whoever hangs up, or says nothing: clients that look whether somebody is there, and strangers.
            Err(e @ ConnectError::Handshake { .. }) => tracing::debug!("refused a connection: {e}"),
            Err(e) => tracing::warn!("refused a connection: {e}"),
        };
        each_connection(listener, &mut next, &handshake).map_err(|e| super::failed(&e))
    }

    fn halves(&self) -> MutexGuard<'_, HashMap<Visit, (Instant, Connection)>> {
        self.halves.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A place in the house, unless it is full, or half of it are this client's already. A pair's only identity may be many people's.
    fn enter(&self, name: &str) -> Option<Inside<'_>> {
        let mut inside = self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (all, own) = (inside.values().sum::<usize>(), inside.get(name).copied().unwrap_or(0));
        let most = if name == UNNAMED { self.most } else { self.most.div_ceil(2) };
        if all >= self.most || own >= most {
            return None;
        }
        *inside.entry(name.to_string()).or_default() += 1;
        Some(Inside(&self.inside, name.to_string()))
    }

    /// A client, with its second connection.
    fn arrival(
        &self,
        tcp: TcpStream,
        placed: &AtomicBool,
    ) -> std::result::Result<Option<(Arrival, Inside<'_>)>, ConnectError> {
        let guest = self.ends.welcome(tcp)?;
        let own = own_name(&Topology::two(), CLIENT, &guest.names);
        let name = own.unwrap_or_else(|| UNNAMED.into());
        let revoked = self.revoked.contains(&name);
        if revoked {
            tracing::warn!("{name} is not let in: it is revoked");
        }
        if revoked || guest.hello.peer != CLIENT {
            return Err(guest.refuse(Refusal::Unexpected));
        }
        let visit = (guest.hello.session, guest.fingerprint.clone());
        let Some((first, guest)) = self.other_half(&visit, guest)? else { return Ok(None) };
        let Some(inside) = self.enter(&name) else {
            tracing::info!("{name} is not let in yet: there are too many clients");
            // It dials for its second connection again.
            self.halves().insert(visit, (Instant::now(), first));
            return Err(guest.refuse(Refusal::Busy));
        };
        // From here on its thread is its own.
        placed.store(true, Ordering::Release);
        let second = guest.admit()?;
        let patience = |_| Patience::new(self.deadline, self.deadline, LinkModel::UNLIMITED);
        let links = assemble(HOST, &Topology::two(), vec![first, second], LinkModel::UNLIMITED, &patience)?;
        Ok(Some((Arrival { net: Net::new(HOST, links), name }, inside)))
    }

    /// The connection that a visit made before, with the guest who makes the second one; of the first one nothing, and it is kept.
    fn other_half(
        &self,
        visit: &Visit,
        guest: Guest,
    ) -> std::result::Result<Option<(Connection, Guest)>, ConnectError> {
        let mut halves = self.halves();
        halves.retain(|_, (since, _)| since.elapsed() < HALF);
        match halves.remove(visit) {
            Some((_, first)) if first.direction != guest.hello.direction => return Ok(Some((first, guest))),
            // Twice the same: neither is trusted.
            Some(_) => return Err(guest.refuse(Refusal::Unexpected)),
            None => (),
        }
        let own: Vec<(Instant, Visit)> =
            halves.iter().filter(|(v, _)| v.1 == visit.1).map(|(v, (since, _))| (*since, v.clone())).collect();
        if own.len() >= HALVES
            && let Some((_, oldest)) = own.into_iter().min()
        {
            halves.remove(&oldest);
        }
        // It dials again only when it has been let in.
        halves.insert(visit.clone(), (Instant::now(), guest.admit()?));
        Ok(None)
    }
}
