//! What servers say to each other before they compute: that each of them wants the same, from its own store.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::peers::name;
use crate::records::{Job, Model};
use sha2::{Digest, Sha256};
use sordino_net::{Endpoint, Net, Part, Segment, Tag};

/// The leader names an upload, or a job.
const NAMED: Tag = Tag(*b"the leader says.");
/// Yes, or why not.
const VERDICT: Tag = Tag(*b"a server's word.");
/// Whether it saw that all agree.
const SEEN: Tag = Tag(*b"so all agree....");
/// Whether an answer is kept.
const KEPT: Tag = Tag(*b"answer is kept..");

/// What the leader wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing for now; it is still there.
    Idle,
    /// A session with this upload of a model.
    Load(Id),
    /// A run of this job.
    Run(Id),
    /// The session is over.
    Close,
}

/// What a server has to say of what the leader named.
pub(crate) struct Verdict {
    /// Of everything that servers must agree on; or why it refuses.
    pub(crate) digest: Result<[u8; 32]>,
    /// Queries that the client has left, this one included.
    pub(crate) left: u64,
    /// Hashes of the components it holds, as hexadecimal digits.
    pub(crate) components: [String; 2],
}

/// What a failed message says.
pub(crate) fn of_net(e: &sordino_net::NetError) -> Fault {
    let end = e.peer();
    let kind = match e {
        // What owners left comes from this server's own store.
        _ if end.0 >= 3 => Blame::Internal,
        sordino_net::NetError::PeerLost { .. }
        | sordino_net::NetError::Timeout { .. }
        | sordino_net::NetError::Slow { .. } => Blame::PeerLost,
        sordino_net::NetError::Thread { .. } | sordino_net::NetError::NotConnected { .. } => Blame::Internal,
        _ => Blame::PeerMisbehaved,
    };
    Fault::new(kind, e.sentence(&name(end)))
}

/// What a failed session says.
pub(crate) fn of_session(e: &sordino_nn::Error) -> Fault {
    use sordino_mpc::Error as Mpc;
    match e {
        sordino_nn::Error::Protocol(Mpc::Net(e)) => of_net(e),
        sordino_nn::Error::Protocol(e) => {
            let kind = match e {
                Mpc::Incompatible { .. } => Blame::Incompatible,
                Mpc::Inconsistent { .. } => Blame::PeerMisbehaved,
                _ => Blame::Internal,
            };
            Fault::new(kind, e.sentence(&name))
        }
        e => Fault::internal("the program", e),
    }
}

/// The digest of what a session is about.
pub(crate) fn of_model(session: Id, model: &Model) -> [u8; 32] {
    digest(
        b"sordino model",
        &[&session.0, &model.upload.0, model.name.as_bytes(), model.program.as_bytes(), model.owner.as_bytes()],
    )
}

/// The digest of what a run is about.
pub(crate) fn of_job(session: Id, model: &Model, job: &Job) -> [u8; 32] {
    let fields: [&[u8]; 7] = [
        &session.0,
        &job.id.0,
        &model.upload.0,
        model.name.as_bytes(),
        model.program.as_bytes(),
        job.owner.as_bytes(),
        job.receiver.as_bytes(),
    ];
    digest(b"sordino job", &fields)
}

fn digest(label: &[u8], fields: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(label);
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

fn words(part: &Part) -> &[u64] {
    match part {
        Part::Wide(words) => words,
        Part::Narrow(_) => &[],
    }
}

/// The leader says what is next.
pub(crate) fn say(net: &Net, others: [Endpoint; 2], turn: Turn) -> Result<()> {
    let (kind, id) = match turn {
        Turn::Idle => (0, Id([0; 16])),
        Turn::Load(id) => (1, id),
        Turn::Run(id) => (2, id),
        Turn::Close => (3, Id([0; 16])),
    };
    let message = || vec![Part::Wide(vec![kind]), Part::of_bytes(&id.0)];
    others.into_iter().try_for_each(|end| net.send(end, NAMED, message())).map_err(|e| of_net(&e))
}

/// What the leader says is next.
pub(crate) fn hear(net: &Net) -> Result<Turn> {
    let message = net.recv(Endpoint(0), NAMED, &[Segment::Wide(1), Segment::Wide(2)]).map_err(|e| of_net(&e))?;
    let mut id = Id([0; 16]);
    id.0.copy_from_slice(message[1].bytes());
    match words(&message[0]) {
        [0] => Ok(Turn::Idle),
        [1] => Ok(Turn::Load(id)),
        [2] => Ok(Turn::Run(id)),
        [3] => Ok(Turn::Close),
        _ => Err(Fault::new(Blame::PeerMisbehaved, "server 0 says what no leader says")),
    }
}

/// Servers tell each other what they think. What all three agree on is `Ok` with the least budget; the inner error is why it will
/// not be done, the outer one ends the session.
pub(crate) fn agree(net: &Net, others: [Endpoint; 2], own: &Verdict) -> Result<Result<u64>> {
    let me = net.me();
    let code = own.digest.as_ref().map_or_else(|e| e.kind.code(), |_| 0);
    let said = own.digest.as_ref().copied().unwrap_or([0; 32]);
    // Server i holds components i and i + 1: the next server holds the second one too, the one before the first.
    let shared = |end: Endpoint| &own.components[usize::from(end.0 == (me.0 + 1) % 3)];
    let hash = |end: Endpoint| -> [u8; 32] { Sha256::digest(shared(end).as_bytes()).into() };
    for end in others {
        let message = vec![Part::Wide(vec![code, own.left]), Part::of_bytes(&said), Part::of_bytes(&hash(end))];
        net.send(end, VERDICT, message).map_err(|e| of_net(&e))?;
    }
    let mut left = own.left;
    let mut refusal = own.digest.as_ref().err().cloned();
    for end in others {
        let form = [Segment::Wide(2), Segment::Wide(4), Segment::Wide(4)];
        let message = net.recv(end, VERDICT, &form).map_err(|e| of_net(&e))?;
        let [code, theirs] = words(&message[0])[..] else { continue };
        left = left.min(theirs);
        let found = if code != 0 {
            Some(Fault::new(Blame::of_code(code), format!("{} refuses it", name(end))))
        } else if own.digest.is_ok() && message[1].bytes() != said {
            Some(Fault::new(Blame::PeerMisbehaved, format!("{} was asked for something else", name(end))))
        } else if own.digest.is_ok() && message[2].bytes() != hash(end) {
            let why = format!("the share sets do not fit together: {} and {} hold different ones", name(me), name(end));
            Some(Fault::usage(why))
        } else {
            None
        };
        refusal = refusal.or(found);
    }
    if refusal.is_none() && left == 0 {
        refusal = Some(Fault::limit("the budget is used up"));
    }
    // Who holds a component that does not fit is seen by two of the three alone; the hash would tell the third too much.
    let seen = confirmed(net, others, SEEN, refusal.map_or(Ok(()), Err), "does not agree")?;
    Ok(seen.map(|()| left))
}

/// Servers tell each other whether they keep their shares of an answer.
pub(crate) fn kept(net: &Net, others: [Endpoint; 2], own: Result<()>) -> Result<Result<()>> {
    confirmed(net, others, KEPT, own, "cannot keep the answer")
}

/// The first failure among what the three say, the own one first.
fn confirmed(net: &Net, others: [Endpoint; 2], tag: Tag, own: Result<()>, what: &str) -> Result<Result<()>> {
    let code = own.as_ref().map_or_else(|e| e.kind.code(), |()| 0);
    others.into_iter().try_for_each(|end| net.send(end, tag, vec![Part::Wide(vec![code])])).map_err(|e| of_net(&e))?;
    let mut result = own;
    for end in others {
        let message = net.recv(end, tag, &[Segment::Wide(1)]).map_err(|e| of_net(&e))?;
        let code = words(&message[0]).first().copied().unwrap_or(0);
        if code != 0 && result.is_ok() {
            result = Err(Fault::new(Blame::of_code(code), format!("{} {what}", name(end))));
        }
    }
    Ok(result)
}
