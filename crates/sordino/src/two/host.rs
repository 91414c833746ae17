//! A host: answers clients with one model, many at the same time.

use super::ledger::Ledger;
use super::reception::{Arrival, Reception};
use super::turns::Turns;
use super::{CLIENT, CONTENT, HOST, OFFER, ORDER, Offer, Reply, Setup, TAKEN, failed, lost, word};
use crate::compute::Compute;
use crate::error::sentence;
use crate::session::{Ended, Job, Owned, fresh_id, run};
use crate::tls::{Ends, Identity};
use crate::{Error, Result};
use sordino_mpc::{Kind, System, Topology};
use sordino_net::{Part, Segment};
use sordino_nn::program::Secrets;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What a host allows.
pub struct House {
    /// Clients that are answered at the same time, at most; each takes a session's memory.
    pub at_once: usize,
    /// Clients that look at the offer, or wait for their turn, at most.
    pub waiting: usize,
    /// Stop after so many clients have been answered.
    pub clients: Option<usize>,
    /// Queries that each client may ask in all.
    pub ledger: Option<Ledger>,
    /// Names of clients who are let in no more.
    pub revoked: Vec<String>,
    /// Queries whose transfers a client may have drawn before it asks, at most: they take memory.
    pub prepared: u64,
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
        Ok(Self { ends: super::ends(HOST, identity, [0; 16], deadline)?, offer, content, secrets })
    }

    /// Serves clients until as many as the house allows have been answered, or the waiting is stopped; `told` hears of each by its name. A client
    /// that is refused or lost is an error of its own visit, and nobody else's.
    ///
    /// # Errors
    /// When the listener fails.
    pub fn serve(
        &self,
        listener: &TcpListener,
        setup: Setup<'_>,
        house: &House,
        told: &(dyn Fn(&str, Result<Visit>) + Sync),
    ) -> Result<()> {
        let (turns, answered) = (Turns::new(house.at_once), AtomicUsize::new(0));
        let done = || house.clients.is_some_and(|most| answered.load(Ordering::Acquire) >= most);
        let over = || done() || setup.stop.load(Ordering::Relaxed);
        let most = house.at_once + house.waiting;
        let reception = Reception::new(&self.ends, &house.revoked, most, setup.deadline);
        reception.receive(listener, &over, &|Arrival { net, name }| {
            let visit = self.visit(net, &name, setup, house, &turns, &over);
            if let Ok(Visit::Answered(..)) = visit {
                answered.fetch_add(1, Ordering::AcqRel);
            }
            told(&name, visit);
        })
    }

    fn visit(
        &self,
        net: sordino_net::Net,
        name: &str,
        setup: Setup<'_>,
        house: &House,
        turns: &Turns,
        over: &(dyn Fn() -> bool + Sync),
    ) -> Result<Visit> {
        let session = fresh_id()?;
        let left = || house.ledger.as_ref().map_or(u64::MAX, |ledger| ledger.left(name));
        let head = vec![Part::Wide(vec![self.content.len() as u64, left()]), Part::of_bytes(&session)];
        net.send(CLIENT, OFFER, head).map_err(lost)?;
        net.send(CLIENT, CONTENT, vec![Part::of_bytes(&self.content)]).map_err(lost)?;
        let order = net.recv(CLIENT, ORDER, &[Segment::Wide(2)]).map_err(lost)?;
        let (runs, prepared) = (word(&order, 0)?, word(&order, 1)?);
        if runs == 0 {
            return Ok(Visit::Left);
        }
        let reply = |reply: Reply| net.send(CLIENT, TAKEN, vec![Part::Wide(reply.words())]).map_err(lost);
        let most = self.offer.most_runs;
        if runs > most {
            reply(Reply::TooMany(most))?;
            return Err(Error::Session(format!("it asks {runs} times; {most} are offered on one connection")));
        }
        if prepared > house.prepared.min(runs) {
            reply(Reply::TooMuch(house.prepared))?;
            return Err(Error::Session(format!(
                "it wants {prepared} queries prepared; {} are allowed",
                house.prepared
            )));
        }
        if left() < runs {
            return self.spent(runs, left(), &reply);
        }
        let turn = turns.enter(|before| if over() { Err(closing()) } else { reply(Reply::Wait(before)) });
        if over() {
            reply(Reply::Closing)?;
            return Err(closing());
        }
        let _served = turn?;
        // Another connection of the same client may have been served meanwhile.
        let may = house.ledger.as_ref().map_or(Ok(true), |ledger| ledger.spend(name, runs))?;
        if !may {
            return self.spent(runs, left(), &reply);
        }
        reply(Reply::Taken)?;
        let job = Job { session, prepared: prepared as usize, ..Job::new(&self.offer.program, runs as usize)? };
        let owned = Owned { weights: Some(self.secrets), ..Owned::default() };
        let ended = run(job, net, owned, &Compute::cpu(setup.threads), &System, &AtomicU64::new(0));
        let ended = ended.map_err(|e| Error::Session(sentence(&Topology::two(), &e)))?;
        Ok(Visit::Answered(runs, Box::new(ended)))
    }

    fn spent(&self, runs: u64, left: u64, reply: &dyn Fn(Reply) -> Result<()>) -> Result<Visit> {
        reply(Reply::Spent(left))?;
        Err(Error::Session(format!("it asks {runs} times, and has {left} queries left")))
    }
}

fn closing() -> Error {
    Error::Session("the host ends before its turn".into())
}
