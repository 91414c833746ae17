//! Share sets: what an owner would send a server in a session, as bytes that can wait, and what servers open, likewise.
//!
//! An owner runs the sharing code of the protocol over links that record; a server later runs the protocol over a link that reads. Neither side has a
//! format of its own: lengths and order follow from the program.

use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use crate::push::Public;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino_mpc::rep3::{opened_form, share_form};
use sordino_mpc::{Client, Kind, Protocol, Result as MpcResult, Role, Step, System, Width};
use sordino_net::{Endpoint, Frame, HEADER_BYTES, Header, Link, Links, Message, Net, NetError, Part, Segment, Tag};
use sordino_nn::exec::{Loaded, in_range, openings, output_widths};
use sordino_nn::program::{Op, Program, SecretForm, Secrets};
use sordino_ring::Shape;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

/// Servers.
pub const PARTIES: usize = 3;

/// What an owner shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The weights of a model.
    Model,
    /// The inputs of one run.
    Inputs,
    /// What a data owner gives to an iteration of a training.
    Rows(usize),
}

impl What {
    /// Whether an input belongs to it.
    fn is_of(self, program: &Program, port: usize) -> bool {
        match self {
            Self::Model => false,
            Self::Inputs => true,
            Self::Rows(owner) => program.inputs.get(port).is_some_and(|p| usize::from(p.owner) == owner),
        }
    }

    /// Elements of every tensor, in the program's order.
    fn tensors(self, program: &Program) -> Vec<usize> {
        match self {
            Self::Model => program
                .secrets
                .iter()
                .map(|form| match form {
                    SecretForm::Weight(op) => op.weight().len(),
                    SecretForm::Tensor(shape) => shape.len(),
                })
                .collect(),
            Self::Inputs | Self::Rows(_) => program
                .instructions
                .iter()
                .filter(|i| matches!(i.op, Op::Input(port) if self.is_of(program, port)))
                .map(|i| program.slots[i.out].shape.len())
                .collect(),
        }
    }
}

/// The two segments of every tensor in a share set.
pub(crate) fn segments(program: &Program, what: What, party: usize) -> Vec<[Segment; 2]> {
    let bits = program.settings.wide_bits;
    what.tensors(program).into_iter().map(|n| share_form(party, n, bits)).collect()
}

/// Bytes of the share set for a server.
#[must_use]
pub fn share_bytes(program: &Program, what: What, party: usize) -> u64 {
    segments(program, what, party).iter().flatten().map(|s| s.bytes()).sum()
}

/// Bytes of a server's share of so many opened elements, with what frames them, at most.
pub(crate) fn frame_bytes(elements: usize) -> u64 {
    HEADER_BYTES as u64 + opened_form(elements, 64).iter().map(|s| s.bytes()).sum::<u64>()
}

/// Bytes of a server's share of the outputs, with what frames them, at most.
#[must_use]
pub fn answer_bytes(program: &Program) -> u64 {
    let of = |slot: usize| frame_bytes(program.slots[slot].shape.len());
    let sound = (HEADER_BYTES + 8) * program.guarded;
    program.outputs.iter().map(|o| of(o.slot)).sum::<u64>() + sound as u64
}

/// Copies a share set while it hashes either component by itself.
pub struct Splitter {
    segments: Vec<u64>,
    times: usize,
    at: usize,
    left: u64,
    hashes: [Sha256; 2],
}

impl Splitter {
    /// For the share set of a server.
    #[must_use]
    pub fn new(program: &Program, what: What, party: usize) -> Self {
        let segments: Vec<u64> = segments(program, what, party).into_iter().flatten().map(Segment::bytes).collect();
        let left = segments.first().copied().unwrap_or(0);
        Self { segments, times: 1, at: 0, left, hashes: [Sha256::new(), Sha256::new()] }
    }

    /// For so many of them, one after the other.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// More of it.
    ///
    /// # Errors
    /// When it is longer than the program has it.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            while self.left == 0 {
                self.at += 1;
                match self.segments.get(self.at % self.segments.len().max(1)) {
                    Some(next) if self.at < self.times * self.segments.len() => self.left = *next,
                    _ => return Err(Fault::usage("the share set is longer than its program says")),
                }
            }
            let n = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.hashes[self.at % 2].update(&bytes[..n]);
            self.left -= n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// The hashes of both components, in hexadecimal digits.
    ///
    /// # Errors
    /// When it is shorter than the program has it.
    pub fn finish(self) -> Result<[String; 2]> {
        let all = self.segments.iter().cycle().take(self.times * self.segments.len());
        if self.left > 0 || all.skip(self.at + 1).any(|s| *s > 0) {
            return Err(Fault::usage("the share set is shorter than its program says"));
        }
        Ok(self.hashes.map(|h| crate::names::hexadecimal(&h.finalize())))
    }
}

/// An owner's link to a server: writes payloads down.
struct Recorder<W: Write + Send> {
    peer: Endpoint,
    out: Mutex<W>,
}

fn lost(peer: Endpoint, e: &dyn std::fmt::Display) -> NetError {
    NetError::PeerLost { peer, why: e.to_string() }
}

/// As many bytes as a message of this form has.
fn read_message(peer: Endpoint, expect: &[Segment], from: &mut dyn Read) -> sordino_net::Result<Message> {
    expect.iter().map(|form| Part::read(*form, from)).collect::<io::Result<_>>().map_err(|e| lost(peer, &e))
}

impl<W: Write + Send> Link for Recorder<W> {
    fn send(&self, frame: Frame) -> sordino_net::Result<()> {
        let mut out = self.out.lock().map_err(|e| lost(self.peer, &e))?;
        frame.message.iter().try_for_each(|part| out.write_all(part.bytes())).map_err(|e| lost(self.peer, &e))
    }
    fn recv(&self, _: &[Segment]) -> sordino_net::Result<Frame> {
        Err(lost(self.peer, &"nothing is received while shares are made"))
    }
    fn wire(&self) -> u64 {
        0
    }
}

/// An owner of a program, whose links to the servers record.
fn recording<W: Write + Send + 'static>(program: &Program, role: Role, out: [W; PARTIES]) -> Client<'static> {
    let links: Links = out
        .into_iter()
        .enumerate()
        .map(|(i, out)| {
            let peer = Endpoint(i as u8);
            (peer, Box::new(Recorder { peer, out: Mutex::new(out) }) as Box<dyn Link>)
        })
        .collect();
    Client::new(Net::new(Kind::Three.end(role), links), program.settings, &System)
}

/// Why shares were not written.
fn unwritten(e: sordino_nn::Error) -> Fault {
    match e {
        sordino_nn::Error::Protocol(sordino_mpc::Error::Net(e)) => Fault::new(Blame::PeerLost, e.sentence("a server")),
        e => Fault::usage(e.to_string()),
    }
}

/// Writes the share set of each server: of the weights.
///
/// # Errors
/// When they do not fit the program, or cannot be written.
pub fn share_weights<W: Write + Send + 'static>(program: &Program, weights: &Secrets, out: [W; PARTIES]) -> Result<()> {
    let client = recording(program, Role::ModelOwner, out);
    // Names of steps play no part in what is recorded.
    Loaded::load(&client, Step::root([0; 16]), program, Some(weights)).map(drop).map_err(unwritten)
}

/// Writes the share set of each server: of what a data owner gives to so many runs. `inputs` are the encoded inputs of a run; what other owners provide
/// is left empty.
///
/// # Errors
/// When they do not fit the program, or cannot be written.
pub fn share_inputs<W: Write + Send + 'static>(
    program: &Program,
    owner: usize,
    runs: usize,
    mut inputs: impl FnMut(usize) -> Result<Vec<Vec<i64>>>,
    out: [W; PARTIES],
) -> Result<()> {
    let owner = u8::try_from(owner).map_err(|_| Fault::usage("there is no such data owner"))?;
    let client = recording(program, Role::DataOwner(owner), out);
    let mut at = Step::root([0; 16]);
    let loaded = Loaded::load(&client, at.child("load"), program, None).map_err(unwritten)?;
    for run in 0..runs {
        loaded.run(&client, at.child("run"), Some(&inputs(run)?), |_| ()).map_err(unwritten)?;
    }
    Ok(())
}

/// What waits for an owner's link at a server, and what was opened to it.
#[derive(Default)]
struct Pigeonhole {
    incoming: Option<Box<dyn Read + Send>>,
    opened: Vec<Frame>,
}

/// A server's link to an owner who is not there: reads what the owner left, keeps what the owner will fetch.
#[derive(Clone)]
pub struct Mail {
    peer: Endpoint,
    held: Arc<Mutex<Pigeonhole>>,
}

impl Mail {
    /// Of this end.
    #[must_use]
    pub fn new(peer: Endpoint) -> Self {
        Self { peer, held: Arc::default() }
    }

    /// Whose it is.
    #[must_use]
    pub fn end(&self) -> Endpoint {
        self.peer
    }

    /// Leaves a share set.
    pub fn leave(&self, shares: impl Read + Send + 'static) {
        if let Ok(mut held) = self.held.lock() {
            held.incoming = Some(Box::new(shares));
        }
    }

    /// What was opened since the last time, an output each, as bytes.
    #[must_use]
    pub fn opened(&self) -> Vec<Vec<u8>> {
        let frames = self.held.lock().map(|mut held| std::mem::take(&mut held.opened)).unwrap_or_default();
        let bytes = |frame: Frame| {
            let parts = frame.message.iter().flat_map(|part| part.bytes());
            frame.header.encode().iter().chain(parts).copied().collect()
        };
        frames.into_iter().map(bytes).collect()
    }
}

impl Link for Mail {
    fn send(&self, frame: Frame) -> sordino_net::Result<()> {
        self.held.lock().map_err(|e| lost(self.peer, &e))?.opened.push(frame);
        Ok(())
    }
    fn recv(&self, expect: &[Segment]) -> sordino_net::Result<Frame> {
        self.recv_named(Tag([0; 16]), 0, expect)
    }
    fn recv_named(&self, tag: Tag, number: u32, expect: &[Segment]) -> sordino_net::Result<Frame> {
        let mut held = self.held.lock().map_err(|e| lost(self.peer, &e))?;
        let from = held.incoming.as_mut().ok_or_else(|| lost(self.peer, &"its shares are not here"))?;
        let message = read_message(self.peer, expect, from)?;
        let payload = expect.iter().map(|s| s.bytes()).sum();
        Ok(Frame { header: Header { tag, number, depth: 0, payload }, message })
    }
    fn wire(&self) -> u64 {
        0
    }
}

/// A receiver's link to a server: what the server opened.
struct Opened {
    peer: Endpoint,
    from: Mutex<Box<dyn Read + Send>>,
}

impl Link for Opened {
    fn send(&self, _: Frame) -> sordino_net::Result<()> {
        Ok(())
    }
    fn recv(&self, expect: &[Segment]) -> sordino_net::Result<Frame> {
        self.recv_named(Tag([0; 16]), 0, expect)
    }
    fn recv_named(&self, _: Tag, number: u32, expect: &[Segment]) -> sordino_net::Result<Frame> {
        let mut from = self.from.lock().map_err(|e| lost(self.peer, &e))?;
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).map_err(|e| lost(self.peer, &e))?;
        let header = Header::decode(&header).map_err(|source| NetError::Frame { peer: self.peer, source })?;
        let message = read_message(self.peer, expect, &mut *from)?;
        // Its number counts what this server opened to all receivers.
        Ok(Frame { header: Header { number, ..header }, message })
    }
    fn wire(&self) -> u64 {
        0
    }
}

/// The names of a session's steps up to a run, the same at servers and at the receiver of what the run opens.
pub struct Steps {
    root: Step,
    runs: u64,
}

impl Steps {
    /// Of a session. Weights are loaded, and their copies compared, for a program or for two, before anything runs.
    #[must_use]
    pub fn new(session: [u8; 16]) -> Self {
        Self { root: Step::root(session), runs: 0 }
    }
    /// Where weights of a program are loaded.
    pub fn load(&mut self) -> Step {
        self.root.child("load")
    }
    /// Where their copies are compared.
    pub fn agree(&mut self) -> Step {
        self.root.child("agree")
    }
    /// The next run.
    pub fn run(&mut self) -> Step {
        self.runs += 1;
        self.root.child("run")
    }
    /// Where the next state of a training is opened.
    pub fn state(&mut self) -> Step {
        self.root.child("state")
    }
    /// How many runs there were.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }
}

/// Most runs of a session: a receiver follows their names one by one.
pub const MOST_RUNS: u64 = 1 << 20;

/// Where an answer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The session.
    pub session: Id,
    /// Which run of it, from 1.
    pub run: u64,
    /// Which of the jobs of that run, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
}

/// What servers opened to an owner at a step, once the hashes that they give each other's shares have been compared.
pub(crate) fn heard(client: &Client<'_>, step: Step, shape: &Shape, width: Width, role: Role) -> MpcResult<Vec<i64>> {
    let checked = client.verify(Step::root([0; 16]), client.constant(&[], shape, width))?;
    Ok(client.open(step, checked, role)?.unwrap_or_default())
}

/// An owner of a program, to whom servers opened something.
pub(crate) fn hearing(program: &Program, role: Role, opened: [Vec<u8>; PARTIES]) -> Client<'static> {
    let links: Links = opened
        .into_iter()
        .enumerate()
        .map(|(i, bytes)| {
            let peer = Endpoint(i as u8);
            let from: Box<dyn Read + Send> = Box::new(io::Cursor::new(bytes));
            (peer, Box::new(Opened { peer, from: Mutex::new(from) }) as Box<dyn Link>)
        })
        .collect();
    Client::new(Net::new(Kind::Three.end(role), links), program.settings, &System)
}

/// Adds the three servers' shares of an answer, after the hashes that servers give each other's shares have been compared. Integers of every
/// output.
///
/// # Errors
/// When shares do not fit together: then a server deviates, and there is no answer.
pub fn open(public: &Public, made: Made, answers: [Vec<u8>; PARTIES]) -> Result<Vec<Vec<i64>>> {
    let misbehaved = |why: String| Fault::new(Blame::PeerMisbehaved, why);
    let rows = public.rows();
    if !(1..=MOST_RUNS).contains(&made.run) || made.row.is_some_and(|row| row >= rows || rows == 1) {
        return Err(misbehaved("the answer is said to be of a run that no session has".into()));
    }
    let program = if made.row.is_some() { public.program_for(rows) } else { &public.program };
    let client = hearing(program, Role::Receiver, answers);
    let of = |e: sordino_mpc::Error| misbehaved(e.sentence(&|end| program.topology().name(end)));
    let widths = output_widths(program).map_err(|e| Fault::usage(e.to_string()))?;
    let mut steps = Steps::new(made.session.0);
    for _ in 0..1 + usize::from(public.beside.is_some()) {
        drop((steps.load(), steps.agree()));
    }
    for _ in 1..made.run {
        drop(steps.run());
    }
    let mut opened = vec![];
    let openings = openings(program, steps.run());
    let ours = |at: &usize| made.row.is_none_or(|row| at % rows == row);
    let (mut sound, mut told) = (true, 0);
    for (at, step) in openings.outputs.into_iter().enumerate().filter(|(at, _)| ours(at)) {
        let shape = &program.slots[program.outputs[at].slot].shape;
        let integers = heard(&client, step, shape, widths[at], Role::Receiver).map_err(of)?;
        sound &= program.guarded == 0 || in_range(program, widths[at], &integers);
        opened.push(integers);
    }
    for (at, step) in openings.sound.into_iter().enumerate().filter(|(at, _)| ours(at)) {
        sound &= client.sound(step, [at, program.guarded], Role::Receiver).map_err(of)? == Some(true);
        told += 1;
    }
    if program.guarded > 0 && told != 1 {
        return Err(misbehaved("the answer does not say whether its values were in range".into()));
    }
    if !sound {
        return Err(Fault::new(Blame::Usage, sordino_mpc::Error::OutOfRange.to_string()));
    }
    Ok(opened)
}

/// Whether it is an inference of one data owner that servers run.
///
/// # Errors
/// Why not.
pub fn servable(program: &Program) -> Result<()> {
    if program.owners() != 1 {
        return Err(Fault::usage("the program is no inference of one data owner"));
    }
    if program.guarded > 1 {
        return Err(Fault::usage("the program guards rows of other jobs"));
    }
    runnable(program)
}

/// Whether three servers run it.
pub(crate) fn runnable(program: &Program) -> Result<()> {
    if program.settings.kind != Kind::Three {
        return Err(Fault::usage("the program is for two parties; servers take programs for three"));
    }
    if program.outputs.is_empty() || program.inputs.is_empty() {
        return Err(Fault::usage("the program has no inputs or no outputs"));
    }
    is_whole(program)
}

/// Whether every step of it finds what it reads.
pub(crate) fn is_whole(program: &Program) -> Result<()> {
    program.check().map_err(|e| Fault::usage(format!("the program cannot be run: {e}")))?;
    Ok(())
}
