//! A client that asks a host.

use super::{CLIENT, CONTENT, HOST, LONGEST, OFFER, ORDER, Offer, Reply, Setup, TAKEN, failed, lost, word};
use crate::compute::Compute;
use crate::error::sentence;
use crate::links::{Connecting, connect};
use crate::session::{Ended, Inputs, Job, Outputs, Owned, fresh_id, run};
use crate::tls::Identity;
use crate::{Error, Result};
use sordino_mpc::{System, Topology};
use sordino_net::{LinkModel, Net, Part, Segment};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

/// A client that has heard what a host offers.
pub struct Asking {
    /// The offer.
    pub offer: Offer,
    /// How many queries this client has left, over all its connections, if the host counts them.
    pub left: Option<u64>,
    net: Net,
    session: [u8; 16],
}

impl Asking {
    /// Dials a host and hears its offer.
    ///
    /// # Errors
    /// When the host cannot be reached, is another than the identity knows, or offers what is no program.
    pub fn dial(address: SocketAddr, identity: &Identity, setup: Setup<'_>) -> Result<Self> {
        // By a number of its own the host knows which two connections belong together.
        let ends = super::ends(CLIENT, identity, fresh_id()?, setup.deadline)?;
        let addresses = BTreeMap::from([(HOST.0, address)]);
        let how = Connecting {
            addresses: &addresses,
            link: LinkModel::UNLIMITED,
            connect: setup.deadline,
            deadline: setup.deadline,
            patience: setup.deadline,
            stop: setup.stop,
        };
        let net = connect(CLIENT, &ends, None, &how).map_err(|e| match e {
            crate::tls::ConnectError::Unexpected { .. } => {
                Error::Session("the host does not let this client in: its certificate has been revoked there".into())
            }
            e => failed(&e),
        })?;
        let head = net.recv(HOST, OFFER, &[2, 2].map(Segment::Wide)).map_err(lost)?;
        let (length, left, mut session) = (word(&head, 0)?, word(&head, 1)?, [0; 16]);
        if length > LONGEST {
            return Err(Error::Session(format!("the host's offer has {length} bytes; {LONGEST} are possible")));
        }
        let left = (left != u64::MAX).then_some(left);
        session.copy_from_slice(head[1].bytes());
        let length = length as usize;
        let content = net.recv(HOST, CONTENT, &[Segment::Wide(length.div_ceil(8))]).map_err(lost)?;
        Ok(Self { offer: Offer::read(&content[0].bytes()[..length])?, left, net, session })
    }

    /// Asks nothing, and says so.
    ///
    /// # Errors
    /// When the host is lost.
    pub fn leave(self) -> Result<()> {
        self.net.send(HOST, ORDER, vec![Part::Wide(vec![0, 0])]).map_err(lost)
    }

    /// Asks with these inputs, so many times, of which the transfers of the first `prepared` are drawn before. `waiting` hears how many clients are before this one, as long as there are any.
    ///
    /// # Errors
    /// When the host refuses or is lost.
    pub fn ask(
        self,
        inputs: &mut dyn Inputs,
        outputs: &mut dyn Outputs,
        [runs, prepared]: [usize; 2],
        setup: Setup<'_>,
        waiting: &mut dyn FnMut(u64),
        progress: &AtomicU64,
    ) -> Result<(Offer, Ended)> {
        let Self { offer, net, session, .. } = self;
        net.send(HOST, ORDER, vec![Part::Wide(vec![runs as u64, prepared as u64])]).map_err(lost)?;
        loop {
            match Reply::read(&net.recv(HOST, TAKEN, &[Segment::Wide(2)]).map_err(lost)?)? {
                Reply::Taken => break,
                Reply::Wait(before) => waiting(before),
                Reply::TooMany(most) => {
                    return Err(Error::Usage(format!("{runs} queries; the host offers {most} on one connection")));
                }
                Reply::Spent(left) => {
                    return Err(Error::Usage(format!(
                        "{runs} queries; of its budget at this host this client has {left} left"
                    )));
                }
                Reply::TooMuch(most) => {
                    let why = format!(
                        "--prepare {prepared}: the host has memory for {most} queries, as its --prepared-megabytes says"
                    );
                    return Err(Error::Usage(why));
                }
                Reply::Closing => return Err(Error::Session("the host ended before it was this client's turn".into())),
            }
        }
        let job = Job { session, prepared, ..Job::new(&offer.program, runs)? };
        let owned = Owned { inputs: Some(inputs), outputs: Some(outputs), ..Owned::default() };
        let ended = run(job, net, owned, &Compute::cpu(setup.threads), &System, progress);
        let ended = ended.map_err(|e| Error::Session(sentence(&Topology::two(), &e)))?;
        Ok((offer, ended))
    }
}
