//! The network between the servers is cut, stands still, or repeats, swaps and changes what it carries, at one record of a job after the other: the job is
//! answered all the same, rightly, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{World, best, inputs_for};
use sordino_service::client::{Client, Known};
use sordino_service::records::State;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Of peers, in seconds.
const DEADLINE: f64 = 1.0;

/// What happens at a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Connections to one server are closed.
    Cut(usize),
    /// Nothing passes to that server for longer than the deadline.
    Still(usize),
    /// The next record to that server comes twice.
    Twice(usize),
    /// The next record to that server comes after the one that follows it.
    Swapped(usize),
    /// A bit of the next record to that server is another.
    Flipped(usize),
}

/// What stands between the servers: passes on the records of TLS one by one, and makes trouble after so many.
#[derive(Default)]
struct Middle {
    /// Records that pass before the next trouble; below zero there is none to come.
    left: AtomicI64,
    troubles: Mutex<Vec<(i64, Trouble)>>,
    passed: AtomicI64,
    /// Connections, by the server they lead to.
    open: Mutex<Vec<(usize, TcpStream)>>,
    still: Mutex<Option<(usize, Instant)>>,
    /// What becomes of the next record to a server.
    forged: Mutex<Option<Trouble>>,
    over: AtomicBool,
}

impl Middle {
    /// Troubles come one after the other, each after so many records more.
    fn expect(&self, mut troubles: Vec<(i64, Trouble)>) {
        let first = troubles.first().map_or(-1, |t| t.0);
        troubles.reverse();
        *self.troubles.lock().unwrap() = troubles;
        self.left.store(first, Ordering::SeqCst);
    }

    fn close(&self, to: usize) {
        self.open.lock().unwrap().retain(|(target, tcp)| {
            if *target == to {
                let _ = tcp.shutdown(Shutdown::Both);
            }
            *target != to
        });
    }

    fn record(&self) {
        self.passed.fetch_add(1, Ordering::SeqCst);
        if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return;
        }
        let trouble = {
            let mut troubles = self.troubles.lock().unwrap();
            let now = troubles.pop();
            self.left.store(troubles.last().map_or(-1, |t| t.0), Ordering::SeqCst);
            now
        };
        match trouble {
            Some((_, Trouble::Cut(to))) => self.close(to),
            Some((_, Trouble::Still(to))) => {
                *self.still.lock().unwrap() = Some((to, Instant::now() + Duration::from_secs_f64(DEADLINE + 0.5)));
            }
            forged => *self.forged.lock().unwrap() = forged.map(|(_, trouble)| trouble),
        }
    }

    /// What becomes of a record to a server; what it is swapped with waits.
    fn forge(&self, target: usize, record: &mut Vec<u8>, waits: &mut Vec<u8>) {
        let forged = {
            let mut forged = self.forged.lock().unwrap();
            let is_here = |t: &mut Trouble| matches!(*t, Trouble::Twice(to) | Trouble::Swapped(to) | Trouble::Flipped(to) if to == target);
            forged.take_if(is_here)
        };
        match forged {
            Some(Trouble::Twice(_)) => record.extend_from_within(..),
            Some(Trouble::Swapped(_)) => std::mem::swap(record, waits),
            Some(Trouble::Flipped(_)) => {
                let at = record.len() - 1;
                record[at] ^= 4;
            }
            _ => record.append(waits),
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, target: usize) {
        let mut head = [0; 5];
        let (mut body, mut waits) = (vec![], vec![]);
        while from.read_exact(&mut head).is_ok() {
            body.resize(usize::from(u16::from_be_bytes([head[3], head[4]])), 0);
            if from.read_exact(&mut body).is_err() {
                break;
            }
            loop {
                let still = *self.still.lock().unwrap();
                match still {
                    Some((to, until)) if to == target && Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
            let mut record = [&head[..], &body].concat();
            self.forge(target, &mut record, &mut waits);
            if to.write_all(&record).is_err() {
                break;
            }
            self.record();
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// Stands before a server; returns where.
    fn before(self: &Arc<Self>, server: SocketAddr, target: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let middle = Arc::clone(self);
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if middle.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(on) = TcpStream::connect(server) else { continue };
                let pair = [(&tcp, &on), (&on, &tcp)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()));
                {
                    let mut open = middle.open.lock().unwrap();
                    open.retain(|(_, tcp)| tcp.peer_addr().is_ok());
                    open.extend([(target, tcp), (target, on)]);
                }
                for (from, to) in pair {
                    let middle = Arc::clone(&middle);
                    std::thread::spawn(move || middle.pass(from, to, target));
                }
            }
        });
        at
    }
}

struct Scene {
    middle: Arc<Middle>,
    ends: [SocketAddr; 3],
    world: World,
    alice: Client,
    model: Known,
}

impl Scene {
    fn new() -> Self {
        let middle = Arc::new(Middle::default());
        middle.expect(vec![]);
        let between: Mutex<BTreeMap<String, SocketAddr>> = Mutex::default();
        let world = World::with(|config| {
            config.limits.peer_seconds = DEADLINE;
            let mut between = between.lock().unwrap();
            for (target, address) in config.servers.iter_mut().enumerate() {
                let at =
                    *between.entry(address.clone()).or_insert_with(|| middle.before(address.parse().unwrap(), target));
                *address = at.to_string();
            }
        });
        let ends: Vec<SocketAddr> = between.into_inner().unwrap().into_values().collect();
        let alice = world.push("mnist", BTreeMap::new());
        let model = alice.model("mnist").unwrap();
        Self { middle, ends: ends.try_into().unwrap(), world, alice, model }
    }

    /// A job, whatever happens; how many times it was begun.
    fn job(&self, what: &str) -> u64 {
        let job = self.alice.submit(&self.model, &inputs_for(&self.model), "alice").unwrap();
        let view = self.alice.wait(job, Duration::from_secs(300)).unwrap();
        assert_eq!(view.state, State::Done, "{what}: {view:?}");
        assert_eq!(best(&self.alice.answer(job).unwrap().scores()), 7, "{what}");
        self.alice.forget(job).unwrap();
        view.attempts.into()
    }

    /// Records that pass while a new session is made and answers a job.
    fn length(&self) -> i64 {
        self.middle.expect(vec![(0, Trouble::Cut(0))]);
        self.job("first cut");
        let before = self.middle.passed.load(Ordering::SeqCst);
        self.middle.expect(vec![(0, Trouble::Cut(1))]);
        self.job("second cut");
        self.middle.passed.load(Ordering::SeqCst) - before
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.middle.over.store(true, Ordering::SeqCst);
        (0..3).for_each(|to| self.middle.close(to));
        for end in self.ends {
            let _ = TcpStream::connect(end);
        }
    }
}

fn held() -> [usize; 2] {
    ["fd", "task"].map(|what| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count())
}

/// A session is cut at its first record, so that the next one is made anew, and that one at record number k.
fn cut_at(scene: &Scene, records: impl Iterator<Item = i64>, trouble: impl Fn(usize) -> Trouble) {
    let mut again = 0;
    for (i, k) in records.enumerate() {
        scene.middle.expect(vec![(0, Trouble::Cut(i % 3)), (k, trouble(i / 3 % 3))]);
        again += u64::from(scene.job(&format!("at record {k}")) > 1);
    }
    println!("{again} jobs were begun more than once");
    scene.middle.expect(vec![]);
    scene.job("after all of it");
}

#[test]
fn cut_at_many_records() {
    let scene = Scene::new();
    let length = scene.length();
    assert!(length > 100, "{length}");
    let before = held();
    cut_at(&scene, (0..18).map(|i| i * length / 18), Trouble::Cut);
    cut_at(&scene, (0..4).map(|i| 20 + i * (length - 20) / 4), Trouble::Still);
    // Sessions that ended take a moment to go.
    let until = Instant::now() + Duration::from_secs(20);
    while held().iter().zip(before).any(|(now, then)| *now > then + 12) {
        assert!(Instant::now() < until, "{before:?} {:?}", held());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_replayed_or_reordered_is_refused() {
    let scene = Scene::new();
    let length = scene.length();
    let failed = || -> u64 {
        let of = |party: usize| {
            let engine = scene.world.demo.servers[party].as_ref().unwrap().engine();
            let told = engine.metrics.text(&engine.gauges().unwrap());
            let lines = told.lines().filter(|l| l.starts_with("sordino_sessions_failed_total{"));
            lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
        };
        (0..3).map(of).sum()
    };
    for (i, trouble) in [Trouble::Twice, Trouble::Swapped, Trouble::Flipped].into_iter().enumerate() {
        let before = failed();
        // Of a handshake, of the keys' agreement, of the model, of the job.
        cut_at(&scene, (0..6).map(|k| k * length / 6 + i as i64), trouble);
        // Beyond the cuts that begin each session anew, which fail it at one server at least.
        assert!(failed() > before + 6, "{} sessions failed", failed() - before);
    }
}

/// Every one of them: some minutes.
#[test]
#[ignore = "takes minutes"]
fn cut_at_every_record() {
    let scene = Scene::new();
    let length = scene.length();
    cut_at(&scene, 0..length, Trouble::Cut);
}
