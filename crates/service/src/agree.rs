//! What servers say to each other before they compute: that each of them wants the same, from its own store.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::peers::name;
use crate::records::{Job, Model};
use crate::shares::Made;
use sha2::{Digest, Sha256};
use sordino_mpc::MOST_OWNERS;
use sordino_net::{Endpoint, Net, Part, Segment, Tag};
use std::collections::BTreeSet;

/// The leader names an upload, or a job.
const NAMED: Tag = Tag(*b"the leader says.");
/// Yes, or why not.
const VERDICT: Tag = Tag(*b"a server's word.");
/// Whether it saw that all agree.
const SEEN: Tag = Tag(*b"so all agree....");
/// Whether an answer is kept.
const KEPT: Tag = Tag(*b"answer is kept..");
/// Which checkpoints of a training it has.
const HELD: Tag = Tag(*b"these it holds..");
/// What it wants to happen after an iteration.
const WISH: Tag = Tag(*b"and what is next");

/// What the leader wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing for now; it is still there.
    Idle,
    /// A session with this upload of a model.
    Load(Id),
    /// A run of these jobs.
    Run(Vec<Id>),
    /// The session is over.
    Close,
}

/// What a server has to say of what the leader named.
pub(crate) struct Verdict {
    /// Of everything that servers must agree on; or why it refuses.
    pub(crate) digest: Result<[u8; 32]>,
    /// Queries that the client has left, this one included.
    pub(crate) left: u64,
    /// Whether it has what is needed to do it.
    pub(crate) able: bool,
    /// Where it was done already, if this server has its share of the answer.
    pub(crate) made: Option<Made>,
    /// Hashes of the components it holds, as hexadecimal digits.
    pub(crate) components: [String; 2],
    /// Whose fault it is when servers were asked for different things.
    pub(crate) blame: Blame,
}

/// What all three agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// It is to be done.
    Do,
    /// All of them have their shares of one answer.
    Done,
}

/// What another server said of a thing.
struct Heard<'a> {
    end: Endpoint,
    code: u64,
    left: u64,
    able: bool,
    digest: &'a [u8],
    made: &'a [u8],
    component: &'a [u8],
}

/// Of a run, for comparing; zeros stand for none.
fn of_made(made: Option<Made>) -> [u8; 32] {
    let Some(Made { session, run, row }) = made else { return [0; 32] };
    let row = row.map_or(0, |r| 1 + r as u64);
    digest(b"sordino answer", &[&session.0, &run.to_le_bytes(), &row.to_le_bytes()])
}

/// What a server decides from its own verdict and what it heard. All three decide alike, unless share sets differ.
fn decide(
    me: Endpoint,
    own: &Verdict,
    heard: &[Heard<'_>; 2],
    component: impl Fn(Endpoint) -> [u8; 32],
) -> Result<Agreed> {
    let said = own.digest.clone()?;
    if let Some(h) = heard.iter().find(|h| h.code != 0) {
        return Err(Fault::new(Blame::of_code(h.code), format!("{} refuses it", name(h.end))));
    }
    if let Some(h) = heard.iter().find(|h| h.digest != said) {
        return Err(Fault::new(own.blame, format!("{} was asked for something else", name(h.end))));
    }
    let made = of_made(own.made);
    if own.made.is_some() && heard.iter().all(|h| h.made == made) {
        return Ok(Agreed::Done);
    }
    if !own.able || heard.iter().any(|h| !h.able) {
        return Err(Fault::new(Blame::Internal, "a server has lost its share of the answer"));
    }
    if let Some(h) = heard.iter().find(|h| h.component != component(h.end)) {
        let (a, b) = (name(me), name(h.end));
        return Err(Fault::usage(format!("the share sets do not fit together: {a} and {b} hold different ones")));
    }
    if own.left == 0 || heard.iter().any(|h| h.left == 0) {
        return Err(Fault::limit("the budget is used up"));
    }
    Ok(Agreed::Do)
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
    match e {
        sordino_net::NetError::PeerLost { why, .. } if end.0 >= 3 => {
            Fault::new(kind, format!("what {} left at this server cannot be read: {why}", name(end)))
        }
        e => Fault::new(kind, e.sentence(&name(end))),
    }
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
                // Most often its memory.
                Mpc::Device(_) => Blame::Limit,
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

/// The digest of what the rows of a data owner are about.
pub(crate) fn of_rows(session: Id, model: &Model, number: usize, owner: &str, rows: Id) -> [u8; 32] {
    let number = (number as u64).to_le_bytes();
    digest(b"sordino rows", &[&session.0, &model.upload.0, &number, owner.as_bytes(), &rows.0])
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

/// Jobs of one turn, at most.
pub(crate) const MOST: usize = MOST_OWNERS as usize;

/// The leader says what is next.
pub(crate) fn say(net: &Net, others: [Endpoint; 2], turn: &Turn) -> Result<()> {
    let (kind, ids) = match turn {
        Turn::Idle => (0, &[][..]),
        Turn::Load(id) => (1, std::slice::from_ref(id)),
        Turn::Run(ids) => (2, &ids[..]),
        Turn::Close => (3, &[][..]),
    };
    // Always as long, so that whoever listens knows the form.
    let mut bytes = [0; 16 * MOST];
    bytes.chunks_exact_mut(16).zip(ids).for_each(|(place, id)| place.copy_from_slice(&id.0));
    let message = || vec![Part::Wide(vec![kind, ids.len() as u64]), Part::of_bytes(&bytes)];
    others.into_iter().try_for_each(|end| net.send(end, NAMED, message())).map_err(|e| of_net(&e))
}

/// What the leader says is next.
pub(crate) fn hear(net: &Net) -> Result<Turn> {
    let form = [Segment::Wide(2), Segment::Wide(2 * MOST)];
    let message = net.recv(Endpoint(0), NAMED, &form).map_err(|e| of_net(&e))?;
    let nonsense = || Fault::new(Blame::PeerMisbehaved, "server 0 says what no leader says");
    let [kind, count] = words(&message[0])[..] else { return Err(nonsense()) };
    let count = usize::try_from(count).ok().filter(|c| *c <= MOST).ok_or_else(nonsense)?;
    let ids: Vec<Id> =
        message[1].bytes().chunks_exact(16).take(count).filter_map(|c| c.try_into().ok().map(Id)).collect();
    let distinct = ids.iter().collect::<BTreeSet<_>>().len() == ids.len();
    match (kind, &ids[..]) {
        (0, []) => Ok(Turn::Idle),
        (1, [id]) => Ok(Turn::Load(*id)),
        (2, [_, ..]) if distinct => Ok(Turn::Run(ids)),
        (3, []) => Ok(Turn::Close),
        _ => Err(nonsense()),
    }
}

/// Servers tell each other what they think of several things at once. Each inner result is what all three agree on, or why it will not be done; the
/// outer error ends the session. `ready` makes this server ready for what it takes to be agreed, before any of them goes on: what fails there fails for all.
pub(crate) fn agree(
    net: &Net,
    others: [Endpoint; 2],
    own: &[Verdict],
    ready: impl FnOnce(&[Result<Agreed>]) -> Vec<Result<()>>,
) -> Result<Vec<Result<Agreed>>> {
    let (me, n) = (net.me(), own.len());
    let said: Vec<[u8; 32]> = own.iter().map(|v| v.digest.as_ref().copied().unwrap_or([0; 32])).collect();
    let made: Vec<[u8; 32]> = own.iter().map(|v| of_made(v.made)).collect();
    let numbers: Vec<u64> = own
        .iter()
        .flat_map(|v| [v.digest.as_ref().map_or_else(|e| e.kind.code(), |_| 0), v.left, u64::from(v.able)])
        .collect();
    // Server i holds components i and i + 1: the next server holds the second one too, the one before the first.
    let component = |v: &Verdict, end: Endpoint| -> [u8; 32] {
        Sha256::digest(v.components[usize::from(end.0 == (me.0 + 1) % 3)].as_bytes()).into()
    };
    for end in others {
        let components: Vec<[u8; 32]> = own.iter().map(|v| component(v, end)).collect();
        let parts = [&said, &made, &components].map(|d| Part::of_bytes(d.as_flattened()));
        let message = std::iter::once(Part::Wide(numbers.clone())).chain(parts).collect();
        net.send(end, VERDICT, message).map_err(|e| of_net(&e))?;
    }
    let form = [Segment::Wide(3 * n), Segment::Wide(4 * n), Segment::Wide(4 * n), Segment::Wide(4 * n)];
    let hear = |end| net.recv(end, VERDICT, &form).map_err(|e| of_net(&e));
    let messages = [hear(others[0])?, hear(others[1])?];
    let results: Vec<Result<Agreed>> = (0..n)
        .map(|i| {
            let heard = [0, 1].map(|k| {
                let message = &messages[k];
                let numbers = &words(&message[0])[3 * i..];
                let of = |part: usize| &message[part].bytes()[32 * i..32 * i + 32];
                Heard {
                    end: others[k],
                    code: numbers[0],
                    left: numbers[1],
                    able: numbers[2] == 1,
                    digest: of(1),
                    made: of(2),
                    component: of(3),
                }
            });
            decide(me, &own[i], &heard, |end| component(&own[i], end))
        })
        .collect();
    let ready = ready(&results);
    // Who holds a component that does not fit is seen by two of the three alone; the hash would tell the third too much.
    let seen = results.iter().zip(ready).map(|(r, ready)| r.clone().and(ready)).collect();
    let seen = confirmed(net, others, SEEN, seen, "does not agree")?;
    Ok(results.into_iter().zip(seen).map(|(result, seen)| seen.and(result)).collect())
}

/// Servers tell each other whether they keep their shares of answers.
pub(crate) fn kept(net: &Net, others: [Endpoint; 2], own: Vec<Result<()>>) -> Result<Vec<Result<()>>> {
    confirmed(net, others, KEPT, own, "cannot keep the answer")
}

/// Checkpoints that a server tells of, at most.
pub(crate) const MOST_HELD: usize = 2;

/// The latest checkpoint that all three servers have, of those that this server has.
pub(crate) fn common(net: &Net, others: [Endpoint; 2], own: &[(Made, usize)]) -> Result<Option<(Made, usize)>> {
    let mut ids = [[0; 32]; MOST_HELD];
    ids.iter_mut().zip(own).for_each(|(id, (made, _))| *id = of_made(Some(*made)));
    let message = || vec![Part::of_bytes(ids.as_flattened())];
    others.into_iter().try_for_each(|end| net.send(end, HELD, message())).map_err(|e| of_net(&e))?;
    let mut theirs = vec![];
    for end in others {
        theirs.push(net.recv(end, HELD, &[Segment::Wide(4 * MOST_HELD)]).map_err(|e| of_net(&e))?);
    }
    let has = |message: &[Part], made| message[0].bytes().chunks_exact(32).any(|id| id == of_made(Some(made)));
    let all = own.iter().filter(|(made, _)| theirs.iter().all(|m| has(m, *made)));
    Ok(all.max_by_key(|(_, iteration)| *iteration).copied())
}

/// What a server wants to happen after an iteration; what is wanted most is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// The next one.
    GoOn,
    /// A checkpoint, then the next one.
    Keep,
    /// A checkpoint, then the session ends.
    Rest,
    /// The session ends.
    Leave,
}

/// Servers tell each other what they want next.
pub(crate) fn wish(net: &Net, others: [Endpoint; 2], own: Wish) -> Result<Wish> {
    let message = || vec![Part::Wide(vec![own as u64])];
    others.into_iter().try_for_each(|end| net.send(end, WISH, message())).map_err(|e| of_net(&e))?;
    let mut most = own;
    for end in others {
        let heard = net.recv(end, WISH, &[Segment::Wide(1)]).map_err(|e| of_net(&e))?;
        most = most.max(match words(&heard[0])[..] {
            [0] => Wish::GoOn,
            [1] => Wish::Keep,
            [2] => Wish::Rest,
            [3] => Wish::Leave,
            _ => return Err(Fault::new(Blame::PeerMisbehaved, format!("{} wants what nobody can want", name(end)))),
        });
    }
    Ok(most)
}

/// The first failure among what the three say of each thing, the own one first.
fn confirmed(net: &Net, others: [Endpoint; 2], tag: Tag, own: Vec<Result<()>>, what: &str) -> Result<Vec<Result<()>>> {
    let codes: Vec<u64> = own.iter().map(|r| r.as_ref().map_or_else(|e| e.kind.code(), |()| 0)).collect();
    others
        .into_iter()
        .try_for_each(|end| net.send(end, tag, vec![Part::Wide(codes.clone())]))
        .map_err(|e| of_net(&e))?;
    let mut results = own;
    for end in others {
        let message = net.recv(end, tag, &[Segment::Wide(codes.len())]).map_err(|e| of_net(&e))?;
        for (result, code) in results.iter_mut().zip(words(&message[0])) {
            if *code != 0 && result.is_ok() {
                *result = Err(Fault::new(Blame::of_code(*code), format!("{} {what}", name(end))));
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use sordino_net::{LinkModel, Links, memory_links};
    use std::time::Duration;

    fn verdict() -> Verdict {
        Verdict {
            digest: Ok([1; 32]),
            left: 5,
            able: true,
            made: None,
            components: [String::new(), String::new()],
            blame: Blame::PeerMisbehaved,
        }
    }

    /// Server i holds components i and i + 1 of these.
    fn holding(components: [&str; 4]) -> impl Fn(usize, &mut Verdict) {
        let all = components.map(String::from);
        move |i, v| v.components = [all[i].clone(), all[i + 1].clone()]
    }

    /// What three servers say, each with its own verdict.
    fn outcome(change: impl Fn(usize, &mut Verdict)) -> [Result<Agreed>; 3] {
        let mut links: [Links; 3] = Default::default();
        for (a, b) in [(0u8, 1u8), (1, 2), (0, 2)] {
            let (ends, long) = ((Endpoint(a), Endpoint(b)), Duration::from_secs(60));
            let (ab, ba) = memory_links(ends.0, ends.1, LinkModel::UNLIMITED, long);
            links[usize::from(a)].push((ends.1, ab));
            links[usize::from(b)].push((ends.0, ba));
        }
        let change = &change;
        let mut results = std::thread::scope(|scope| {
            let threads: Vec<_> = links
                .into_iter()
                .enumerate()
                .map(|(i, links)| {
                    let mut own = verdict();
                    change(i, &mut own);
                    std::thread::Builder::new()
                        .spawn_scoped(scope, move || {
                            let net = Net::new(Endpoint(i as u8), links);
                            let others = [1, 2].map(|k| Endpoint((i as u8 + k) % 3));
                            // What goes with it is agreed as ever.
                            let all = agree(&net, others, &[verdict(), own], |r| r.iter().map(|_| Ok(())).collect());
                            let mut all = all.unwrap();
                            assert_eq!(all[0], Ok(Agreed::Do));
                            all.pop().unwrap()
                        })
                        .unwrap()
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>().into_iter()
        });
        std::array::from_fn(|_| results.next().unwrap())
    }

    fn all_refuse(change: impl Fn(usize, &mut Verdict), kind: Blame) {
        for result in outcome(change) {
            assert_eq!(result.unwrap_err().kind, kind);
        }
    }

    #[test]
    fn all_three_decide_alike() {
        assert_eq!(outcome(|_, _| ()), [const { Ok(Agreed::Do) }; 3]);
        let made = Made { session: Id([3; 16]), run: 2, row: None };
        assert_eq!(outcome(|_, v| v.made = Some(made)), [const { Ok(Agreed::Done) }; 3]);
        // Done everywhere is done, whatever is left of it.
        assert_eq!(outcome(|i, v| (v.made, v.able) = (Some(made), i == 1)), [const { Ok(Agreed::Done) }; 3]);
        for one in 0..3 {
            let is = |i: usize| i == one;
            all_refuse(|i, v| v.digest = if is(i) { Ok([2; 32]) } else { Ok([1; 32]) }, Blame::PeerMisbehaved);
            all_refuse(
                |i, v| {
                    if is(i) {
                        v.digest = Err(Fault::refused("no"))
                    }
                },
                Blame::Refused,
            );
            all_refuse(
                |i, v| {
                    if is(i) {
                        v.left = 0
                    }
                },
                Blame::Limit,
            );
            all_refuse(
                |i, v| {
                    if is(i) {
                        v.able = false
                    }
                },
                Blame::Internal,
            );
            // Of different runs: it is done again, by those who can.
            let other = Made { run: 3, ..made };
            let differs = |i: usize, v: &mut Verdict| v.made = Some(if is(i) { other } else { made });
            assert_eq!(outcome(differs), [const { Ok(Agreed::Do) }; 3]);
            all_refuse(|i, v| (v.made, v.able) = ((!is(i)).then_some(made), is(i)), Blame::Internal);
        }
        assert_eq!(outcome(holding(["a", "b", "c", "a"])), [const { Ok(Agreed::Do) }; 3]);
        for wrong in [["a", "b", "c", "d"], ["d", "b", "c", "a"]] {
            all_refuse(holding(wrong), Blame::Usage);
        }
        // One component that two holders have differently.
        all_refuse(|i, v| v.components = [["a", "b"], ["x", "c"], ["c", "a"]][i].map(String::from), Blame::Usage);
    }
}
