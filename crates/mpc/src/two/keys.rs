//! How two parties begin: what they run, a seed that is both's, and their first oblivious transfers.

use super::engine::wrong_form;
use crate::rep3::SessionInfo;
use crate::{Entropy, Result, Settings, Step, Transfers};
use sha2::{Digest, Sha256};
use sordino_net::{Endpoint, Net, Part, Segment};
use sordino_ot::{Method, Pool, Setup, Stream, base};
use zeroize::{Zeroize, Zeroizing};

const VERSION: u64 = 3;

/// What one party has when a session begins. No `Debug`, no `Clone`.
pub struct Keys {
    /// Transfers in both directions.
    pub(super) pool: Pool,
    /// This party's own randomness: masks, encryption.
    pub(super) own: Stream,
}

fn stream(entropy: &dyn Entropy) -> Result<Stream> {
    let mut seed = [0; 16];
    entropy.fill(&mut seed)?;
    let stream = Stream::new(seed);
    seed.zeroize();
    Ok(stream)
}

pub(super) fn method(settings: &Settings) -> Method {
    match settings.transfers {
        Transfers::Silent => Method::Silent,
        Transfers::Compact => Method::Compact,
        Transfers::Softspoken => Method::SoftSpoken,
    }
}

/// Words of a received message of one part.
pub(super) fn heard(net: &Net, from: Endpoint, at: &Step, label: &str, words: usize) -> Result<Vec<u64>> {
    match net.recv(from, at.tag(label), &[Segment::Wide(words)])?.pop() {
        Some(Part::Wide(v)) => Ok(v),
        _ => Err(wrong_form()),
    }
}

/// Agrees on a session: both say what they run and a random contribution to a seed that keys the hash of transfers, and make the
/// transfers by public keys that all others come from; for silent ones also those that the first round starts from, 1.3 MB. Three or four
/// messages from each, as many rounds; the meter starts counting afterwards.
///
/// # Errors
/// Lost peers; a peer with another version, session or program; points that are none.
pub fn establish(net: &Net, info: &SessionInfo, settings: &Settings, entropy: &dyn Entropy) -> Result<Keys> {
    let me = net.me();
    let peer = Endpoint(1 - me.0.min(1));
    let mut at = Step::root(info.session);
    let at = at.child("keys");
    let name = [&info.session[..], &info.program, &net.binding(peer)].concat();
    let (mut setup, point) = Setup::new(&name, me.0 == 0, method(settings), stream(entropy)?);
    let mut own = Zeroizing::new([0u8; 32]);
    entropy.fill(&mut *own)?;
    let mut hello = info.hello(VERSION);
    hello.extend([Part::of_bytes(&*own), Part::Wide(point)]);
    net.send(peer, at.tag("hello"), hello)?;
    let form = [1, 2, 4, 4, base::POINT].map(Segment::Wide);
    let theirs = net.recv(peer, at.tag("hello"), &form)?;
    info.meets(VERSION, peer, &theirs)?;
    let [_, _, _, contribution, Part::Wide(point)] = &theirs[..] else { return Err(wrong_form()) };
    let (mine, theirs) = (&own[..], contribution.bytes());
    let both = if me.0 == 0 { [mine, theirs] } else { [theirs, mine] };
    let mut digest = Sha256::new().chain_update(b"sordino transfers").chain_update(&name);
    both.iter().for_each(|part| digest.update(part));
    let mut seed = [0; 16];
    seed.copy_from_slice(&digest.finalize()[..16]);
    let second = setup.second(point)?;
    net.send(peer, at.tag("choices"), vec![Part::Wide(second)])?;
    let second = heard(net, peer, &at, "choices", Setup::SECOND)?;
    let mut step = 0;
    let pool = setup.finish(&second, u128::from_le_bytes(seed), |message, n| -> Result<Vec<u64>> {
        step += 1;
        let label = format!("bulk {step}");
        net.send(peer, at.tag(&label), vec![Part::Wide(message)])?;
        heard(net, peer, &at, &label, n)
    })?;
    net.reset_meter();
    Ok(Keys { pool, own: stream(entropy)? })
}
