//! Two ends in one process, with a link between them that may be slow.

use sordino_mpc::two::{Two, establish};
use sordino_mpc::{Entropy, Error, Party, Result, Settings, Step, System, rep3::SessionInfo};
use sordino_net::{Endpoint, LinkModel, Meter, Net, Part, Segment, memory_links};
use sordino_ot::{Method, Pool, Setup, Stream, base};
use sordino_ring::Cpu;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(600);

/// Messages between the two, each in a step of its own.
struct Wire {
    net: Net,
    at: RefCell<Step>,
}

impl Wire {
    fn step(&self) -> Step {
        self.at.borrow_mut().child("message")
    }

    fn peer(&self) -> Endpoint {
        Endpoint(1 - self.net.me().0)
    }

    fn send(&self, at: &Step, words: Vec<u64>) -> Result<()> {
        Ok(self.net.send(self.peer(), at.tag("words"), vec![Part::Wide(words)])?)
    }

    fn recv(&self, at: &Step, n: usize) -> Result<Vec<u64>> {
        match self.net.recv(self.peer(), at.tag("words"), &[Segment::Wide(n)])?.pop() {
            Some(Part::Wide(words)) => Ok(words),
            _ => Err(Error::Usage("a message of another form than was asked for".into())),
        }
    }

    /// Both say something, or one of them.
    fn exchange(&self, message: Vec<u64>, n: usize) -> Result<Vec<u64>> {
        let at = self.step();
        if !message.is_empty() {
            self.send(&at, message)?;
        }
        if n > 0 { self.recv(&at, n) } else { Ok(vec![]) }
    }
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    System.fill(&mut bytes)?;
    Ok(bytes)
}

/// One end: its link, transfers, and randomness. No `Debug`.
pub struct End {
    wire: Wire,
    pool: RefCell<Pool>,
    own: RefCell<Stream>,
    /// Seeds that both ends have.
    seeds: RefCell<Stream>,
    /// Since when time counts.
    since: Cell<Instant>,
}

impl End {
    fn new(net: Net, method: Method) -> Result<Self> {
        let wire = Wire { net, at: RefCell::new(Step::root(*b"sordino baseline")) };
        let first = wire.net.me() == Endpoint(0);
        let (mut setup, point) = Setup::new(b"baseline", first, method, Stream::new(random()?));
        let part = random()?;
        let hello = [bytemuck::cast::<[u8; 16], [u64; 2]>(part).to_vec(), point].concat();
        let theirs = wire.exchange(hello, 2 + base::POINT)?;
        let (half, point) = theirs.split_at(2);
        let seed = u128::from_le_bytes(part) ^ (u128::from(half[0]) | u128::from(half[1]) << 64);
        let second = wire.exchange(setup.second(point)?, Setup::SECOND)?;
        let pool = setup.finish(&second, seed, |message, n| wire.exchange(message, n))?;
        wire.net.reset_meter();
        Ok(Self {
            wire,
            pool: RefCell::new(pool),
            own: RefCell::new(Stream::new(random()?)),
            seeds: RefCell::new(Stream::new((seed ^ 1).to_le_bytes())),
            since: Cell::new(Instant::now()),
        })
    }

    /// Whether this is end 0.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.wire.net.me() == Endpoint(0)
    }

    /// A seed that both ends have; no two of a session are alike.
    pub(crate) fn fresh_seed(&self) -> u128 {
        self.seeds.borrow_mut().block()
    }

    /// Words that nobody else knows.
    pub(crate) fn own_words(&self, n: usize) -> Vec<u64> {
        self.own.borrow_mut().words(n)
    }

    pub(crate) fn own_block(&self) -> u128 {
        self.own.borrow_mut().block()
    }

    /// One end says words, the other hears them.
    pub(crate) fn say(&self, words: Vec<u64>) -> Result<()> {
        self.wire.send(&self.wire.step(), words)
    }

    pub(crate) fn hear(&self, n: usize) -> Result<Vec<u64>> {
        self.wire.recv(&self.wire.step(), n)
    }

    /// Both say as many words.
    pub(crate) fn swap(&self, words: Vec<u64>) -> Result<Vec<u64>> {
        let n = words.len();
        self.wire.exchange(words, n)
    }

    /// Transfers that end 0 sends, and that end 1 sends.
    pub(crate) fn make(&self, need: [usize; 2]) -> Result<()> {
        self.pool.borrow_mut().make(need, |message, n| self.wire.exchange(message, n))
    }

    /// As sender: both strings of the next transfers, of a block each.
    pub(crate) fn sent(&self, n: usize) -> Result<[Vec<u128>; 2]> {
        Ok(self.pool.borrow_mut().send_rows(n, 1)?.map(|words| blocks(&words)))
    }

    /// As receiver: the choices of the next transfers, 64 to a word, and their strings.
    pub(crate) fn received(&self, n: usize) -> Result<(Vec<u64>, Vec<u128>)> {
        let (choices, words) = self.pool.borrow_mut().receive_rows(n, 1)?;
        Ok((choices, blocks(&words)))
    }

    /// Transfers by public keys for something else: as sender, as many pairs of strings.
    pub(crate) fn base_sent(&self, n: usize) -> Result<Vec<[u128; 2]>> {
        let (sender, point) = base::Sender::new(&mut self.own.borrow_mut());
        self.say(point)?;
        Ok(sender.strings(b"baseline's tables", &self.hear(n * base::POINT)?)?)
    }

    /// As receiver, the strings of these choices.
    pub(crate) fn base_received(&self, choices: &[bool]) -> Result<Vec<u128>> {
        let said = self.hear(base::POINT)?;
        let (message, strings) = base::receive(b"baseline's tables", &said, choices, &mut self.own.borrow_mut())?;
        self.say(message)?;
        Ok(strings)
    }

    /// From now on bytes, rounds and time count.
    pub(crate) fn start(&self) {
        self.wire.net.reset_meter();
        self.since.set(Instant::now());
    }
}

/// Blocks of words.
pub(crate) fn blocks(words: &[u64]) -> Vec<u128> {
    words.as_chunks::<2>().0.iter().map(|[low, high]| u128::from(*low) | u128::from(*high) << 64).collect()
}

/// Words of blocks.
pub(crate) fn words(blocks: &[u128]) -> Vec<u64> {
    blocks.iter().flat_map(|b| [*b as u64, (*b >> 64) as u64]).collect()
}

/// What an end came to.
pub struct Ran<T> {
    /// Its result.
    pub out: T,
    /// From the beginning, keys aside.
    pub seconds: f64,
    /// What it sent.
    pub meter: Meter,
}

fn two<T: Send>(link: LinkModel, body: impl Fn(Net) -> Result<T> + Sync) -> Result<[T; 2]> {
    let ends = [Endpoint(0), Endpoint(1)];
    let (a, b) = memory_links(ends[0], ends[1], link, PATIENCE);
    let nets = [Net::new(ends[0], [(ends[1], a)]), Net::new(ends[1], [(ends[0], b)])];
    let body = &body;
    let [a, b] = std::thread::scope(|scope| {
        nets.map(|net| scope.spawn(move || body(net)))
            .map(|end| end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Ok([a?, b?])
}

/// Runs something at two ends that make transfers by a method.
///
/// # Errors
/// Those of either end.
pub fn both<T: Send>(link: LinkModel, method: Method, body: impl Fn(&End) -> Result<T> + Sync) -> Result<[Ran<T>; 2]> {
    two(link, |net| {
        let end = End::new(net, method)?;
        let out = body(&end)?;
        Ok(Ran { out, seconds: end.since.get().elapsed().as_secs_f64(), meter: end.wire.net.meter() })
    })
}

/// Runs something at two parties as this program has them, on one thread each.
///
/// # Errors
/// Those of either party.
pub fn parties<T: Send>(
    link: LinkModel,
    settings: Settings,
    body: impl Fn(&Two<Cpu>, Step) -> Result<T> + Sync,
) -> Result<[Ran<T>; 2]> {
    let mut session = [0; 16];
    System.fill(&mut session)?;
    let info = SessionInfo { session, program: [0; 32] };
    two(link, |net| {
        let keys = establish(&net, &info, &settings, &System)?;
        let party = Two::new(Cpu::new(1), net, keys, settings, 1)?;
        let start = Instant::now();
        let out = body(&party, Step::root(info.session))?;
        Ok(Ran { out, seconds: start.elapsed().as_secs_f64(), meter: party.net().meter() })
    })
}
