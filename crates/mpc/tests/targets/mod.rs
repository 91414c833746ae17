//! What the other party may say instead of transfers and ciphertexts: whatever it is, there is an error or a result of the right size.

use sordino_he::layer::{Place, answer, question, read};
use sordino_he::params::{guard, noise};
use sordino_he::{Layout, Params, PublicKey, Scheme, SecretKey};
use sordino_ot::{Error, Method, Pool, Setup, Stream, base, kkot};
use sordino_ring::Conv2d;
use std::cell::RefCell;
use std::sync::mpsc::{Receiver, Sender, channel};

/// So many words of a message: its bytes over and over, so that lengths are right; or without the last word.
fn words(bytes: &[u8], n: usize, short: bool) -> Vec<u64> {
    let n = n.saturating_sub(usize::from(short));
    let mut all = bytes.iter().copied().chain([0]).cycle();
    (0..n).map(|_| u64::from_le_bytes(std::array::from_fn(|_| all.next().unwrap_or(0)))).collect()
}

type Wire = (Sender<Vec<u64>>, Receiver<Vec<u64>>);

/// A pool that began with an honest other end.
fn pool(method: Method) -> Option<Pool> {
    let (ab, ba) = (channel(), channel());
    let (mut a, from_a) = Setup::new(b"fuzz", true, method, Stream::new([1; 16]));
    let (mut b, from_b) = Setup::new(b"fuzz", false, method, Stream::new([2; 16]));
    let (from_a, from_b) = (a.second(&from_b).ok()?, b.second(&from_a).ok()?);
    let finish = |setup: Setup, second: Vec<u64>, wire: Wire| {
        setup.finish(&second, 9, |message, _| {
            wire.0.send(message).map_err(|_| Error::Short)?;
            wire.1.recv().map_err(|_| Error::Short)
        })
    };
    let other = std::thread::spawn(move || finish(b, from_a, (ba.0, ab.1)).is_ok());
    let pool = finish(a, from_b, (ab.0, ba.1)).ok();
    other.join().ok().filter(|ended| *ended).and(pool)
}

thread_local! {
    static POOLS: RefCell<[Option<Pool>; 2]> = RefCell::new([Method::SoftSpoken, Method::Iknp].map(pool));
    static MANY: RefCell<Option<kkot::Sender>> =
        RefCell::new(kkot::Sender::new([5, 7], &[3; kkot::ROWS], 1).ok());
    static SILENT: RefCell<Option<Pool>> = RefCell::new(pool(Method::Silent));
    static CLIENT: RefCell<Option<Encrypted>> = RefCell::new(encrypted());
}

/// The first byte says of what kind the message is, and whether it lacks a word.
pub(crate) fn transfers(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let short = kind & 0x80 != 0;
    let mut random = Stream::new([4; 16]);
    let extend = |pool: &mut Pool, n: usize| {
        let made = pool.make([n, n], |_, n| Ok::<_, Error>(words(bytes, n, short)));
        assert_eq!(made.is_ok(), !short);
        if made.is_ok() {
            assert!(pool.send::<u64>(n).is_ok_and(|[a, b]| (a.len(), b.len()) == (n, n)));
            assert!(pool.receive_rows(n, 2).is_ok_and(|(_, strings)| strings.len() == 4 * n));
        }
    };
    match kind & 0x7f {
        0 => {
            let (sender, _) = base::Sender::new(&mut random);
            let strings = sender.strings(b"fuzz", &words(bytes, 3 * base::POINT, short));
            assert!(strings.is_err() || !short);
        }
        1 => {
            let received = base::receive(b"fuzz", &words(bytes, base::POINT, short), &[true, false], &mut random);
            assert!(received.is_ok_and(|(_, strings)| strings.len() == 2 && !short) || short || !bytes.is_empty());
        }
        2 => {
            // A beginning that is not one: points that decode are rare, and seeds without meaning make transfers without meaning.
            let (setup, _) = Setup::new(b"fuzz", true, Method::SoftSpoken, random);
            let second = words(&[0; 32], Setup::SECOND, short);
            let _ = setup
                .finish(&second, 9, |_, n| Ok::<_, Error>(words(bytes, n, false)))
                .map(|mut pool| extend(&mut pool, 100));
        }
        3 => MANY.with_borrow_mut(|many| {
            let strings = many.as_mut().map(|many| many.strings(130, 5, &words(bytes, kkot::words(130), short)));
            assert!(strings.is_some_and(|s| s.map_or(short, |s| s.len() == 650)));
        }),
        4 => SILENT.with_borrow_mut(|pool| {
            // A round's messages that lack a word end the session.
            if let Some(pool) = pool.as_mut().filter(|_| !short) {
                extend(pool, 1000);
            }
        }),
        _ => POOLS.with_borrow_mut(|pools| pools.iter_mut().flatten().for_each(|pool| extend(pool, 1000))),
    }
}

/// A client and an owner of a small layer.
struct Encrypted {
    scheme: Scheme,
    layout: Layout,
    key: SecretKey,
    public: Vec<u64>,
}

const BITS: u32 = 37;

fn encrypted() -> Option<Encrypted> {
    let op = Conv2d::matmul(1, 60, 3);
    let bits = BITS + guard(1);
    let params = Params::new(bits, noise(10, Layout::weights_per_answer(&op, op.cout)))?;
    let scheme = Scheme::new(params);
    let (key, public) = SecretKey::new(&scheme, &mut Stream::new([1; 16]));
    Some(Encrypted { layout: Layout::new(op, params, bits), scheme, key, public })
}

/// The first byte says which message it is, and whether it lacks a word.
pub(crate) fn ciphertexts(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let short = kind & 0x80 != 0;
    CLIENT.with_borrow(|client| {
        let Some(Encrypted { scheme, layout, key, public }) = client else { return };
        let at = Place { scheme, layout, bits: BITS + guard(1), threads: 1 };
        let mut random = Stream::new([6; 16]);
        let asked = question(&at, key, &[5; 60], BITS, &mut random);
        let said = |n: usize| words(bytes, n, short);
        let (public, asked) = match kind & 0x7f {
            0 => (said(public.len()), asked),
            1 => (public.clone(), said(asked.len())),
            _ => {
                let share = read(&at, key, &said(layout.answer_words(at.bits)));
                assert!(share.map_or(short, |share| share.len() == 3 && share.iter().all(|v| v >> at.bits == 0)));
                return;
            }
        };
        let Ok(public) = PublicKey::read(scheme, &public) else { return };
        if let Ok((message, share)) = answer(&at, &public, &[7; 180], &asked, &mut random) {
            assert!(!short && (message.len(), share.len()) == (layout.answer_words(at.bits), 3));
        }
    });
}
