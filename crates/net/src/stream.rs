//! Frames over byte streams: one stream per direction.
//!
//! Blocking streams by measurement: asynchronous ones cost up to 80 % more CPU per byte and win no latency. Short
//! messages are written by the caller as far as the transport takes them at once; the rest, and long ones, by a writer
//! thread. A caller never waits for a peer to read, so ends that send to each other at the same time cannot block each
//! other, however little the transport holds.

use crate::sync::mpsc::{Sender, channel};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::{Endpoint, Frame, HEADER_BYTES, Header, Link, LinkModel, NetError, Part, Result, Segment, Shaper, Wire};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// Messages up to this many bytes are written by the caller when nothing is queued.
const INLINE_BYTES: u64 = 32 << 10;

/// Bytes written at once on a link with limited bandwidth.
const PACED_BYTES: usize = 128 << 10;

/// Bytes per second that a peer in the middle of a frame must reach.
const LEAST_RATE: f64 = 16.0 * 1024.0;

/// How long an end waits for a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Until a frame begins.
    pub silence: Duration,
    /// Then for the frame, besides what its bytes take at the least rate.
    pub frame: Duration,
    /// Bytes per second.
    pub rate: f64,
}

impl Patience {
    /// For a link of this shape: a quarter of its rate, or 16 KiB a second where that is less, is the least.
    #[must_use]
    pub fn new(silence: Duration, frame: Duration, link: LinkModel) -> Self {
        Self { silence, frame, rate: link.bandwidth.map_or(LEAST_RATE, |b| LEAST_RATE.min(b / 4.0)) }
    }

    /// How long a frame may take from its first byte on.
    fn length(&self, payload: u64) -> Duration {
        // A rate of nearly nothing would be no limit.
        self.frame + Duration::from_secs_f64((payload as f64 / self.rate.max(1e-3)).min(1e9))
    }
}

/// A writer that can be told not to wait; see [`Wire`], which is at the bottom of all of them.
pub trait Outgoing: Write + Send {
    /// From now on writes do not wait.
    fn hold(&mut self);
    /// Bytes kept back.
    fn held(&self) -> usize;
    /// From now on writes wait, until this moment.
    fn wait(&mut self, until: Instant);
}

impl<S: crate::Socket + Send> Outgoing for Wire<S> {
    fn hold(&mut self) {
        Self::hold(self);
    }
    fn held(&self) -> usize {
        Self::held(self)
    }
    fn wait(&mut self, until: Instant) {
        Self::wait(self, Some(until));
    }
}

impl<W: Outgoing + ?Sized> Outgoing for Box<W> {
    fn hold(&mut self) {
        (**self).hold();
    }
    fn held(&self) -> usize {
        (**self).held()
    }
    fn wait(&mut self, until: Instant) {
        (**self).wait(until);
    }
}

struct Shared<W> {
    peer: Endpoint,
    writer: Mutex<W>,
    queued: AtomicUsize,
    failed: Mutex<Option<String>>,
    abandoned: AtomicBool,
    patience: Patience,
}

/// What the writer thread does next.
enum Job {
    /// A frame, between two moments.
    Frame((Instant, Instant), Frame),
    /// What the caller could not write at once.
    Rest,
    /// Nothing more: the sender is gone.
    End,
}

/// Writes a frame. On a shaped link its bytes leave evenly between the two moments, so that a receiver sees a slow link
/// and not silence.
fn write_frame<W: Write>(writer: &mut W, frame: &Frame, (begin, end): (Instant, Instant)) -> io::Result<()> {
    let pause = |until: Instant| std::thread::sleep(until.saturating_duration_since(Instant::now()));
    pause(begin);
    writer.write_all(&frame.header.encode())?;
    let total = frame.header.payload.max(1) as f64;
    let mut sent = 0;
    for part in &frame.message {
        for chunk in part.bytes().chunks(if end > begin { PACED_BYTES } else { usize::MAX }) {
            writer.write_all(chunk)?;
            sent += chunk.len();
            if end > begin {
                writer.flush()?;
                pause(begin + (end - begin).mul_f64(sent as f64 / total));
            }
        }
    }
    writer.flush()
}

/// The sending direction. One thread at a time sends, as [`crate::Net`] numbers its frames.
pub struct StreamSender<W: Outgoing + 'static> {
    shared: Arc<Shared<W>>,
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    shaper: Mutex<Shaper>,
}

impl<W: Outgoing + 'static> StreamSender<W> {
    /// Sends to `peer` over `writer`, shaped like `model`; gives a peer up that does not read.
    ///
    /// # Errors
    /// [`NetError::Thread`].
    pub fn new(peer: Endpoint, writer: W, model: LinkModel, patience: Patience) -> Result<Self> {
        let (queue, jobs) = channel::<Job>();
        let shared = Arc::new(Shared {
            peer,
            writer: Mutex::new(writer),
            queued: AtomicUsize::new(0),
            failed: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            patience,
        });
        let worker = Arc::clone(&shared);
        let thread = Builder::new().name(format!("to {peer}")).spawn(move || {
            while let Ok(job) = jobs.recv() {
                if matches!(job, Job::End) {
                    return;
                }
                if !worker.abandoned.load(Ordering::Relaxed) {
                    worker.work(&job);
                }
                worker.queued.fetch_sub(1, Ordering::Release);
            }
        });
        let thread = thread.map_err(|e| NetError::Thread { peer, why: e.to_string() })?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread), shaper: Mutex::new(Shaper::new(model)) })
    }

    /// Sends nothing more; what is queued is dropped. The owner of the stream ends a write in progress by closing it.
    pub fn abandon(&self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
    }

    /// Sends a frame: at once if it is short and nothing is queued, else through the writer thread. Does not wait for the
    /// peer.
    ///
    /// # Errors
    /// When an earlier or this write failed.
    pub fn send(&self, frame: Frame) -> Result<()> {
        let lost = |why: String| NetError::PeerLost { peer: self.shared.peer, why };
        let now = Instant::now();
        let mut at = (now, now);
        let mut inline = frame.header.payload <= INLINE_BYTES && self.shared.queued.load(Ordering::Acquire) == 0;
        if let Ok(mut shaper) = self.shaper.lock()
            && !shaper.is_transparent()
        {
            at = shaper.deliver(now, HEADER_BYTES as u64 + frame.header.payload);
            inline = false;
        }
        let job = if inline {
            (self.shared.write(|w| write_at_once(w, &frame)) == Some(true)).then_some(Job::Rest)
        } else {
            Some(Job::Frame(at, frame))
        };
        if let (Some(job), Some(queue)) = (job, &self.queue) {
            self.shared.queued.fetch_add(1, Ordering::Release);
            queue.send(job).map_err(|_| lost("its writer has stopped".into()))?;
        }
        match self.shared.failed.lock() {
            Ok(failed) => failed.clone().map_or(Ok(()), |why| Err(lost(why))),
            Err(_) => Err(lost("its writer has stopped".into())),
        }
    }
}

/// Writes what the transport takes of a frame; true when something was kept back.
fn write_at_once<W: Outgoing>(writer: &mut W, frame: &Frame) -> io::Result<bool> {
    let now = Instant::now();
    writer.hold();
    write_frame(writer, frame, (now, now))?;
    Ok(writer.held() > 0)
}

impl<W: Outgoing> Shared<W> {
    fn work(&self, job: &Job) {
        let _ = self.write(|writer| match job {
            Job::Frame(at, frame) => {
                writer.wait(at.1.max(Instant::now()) + self.patience.length(frame.header.payload));
                write_frame(writer, frame, *at)
            }
            Job::Rest => {
                writer.wait(Instant::now() + self.patience.length(INLINE_BYTES));
                writer.flush()
            }
            Job::End => Ok(()),
        });
    }

    /// `None` when it failed, which the next send says.
    fn write<T>(&self, write: impl FnOnce(&mut W) -> io::Result<T>) -> Option<T> {
        let Ok(mut writer) = self.writer.lock() else { return None };
        match write(&mut *writer) {
            Ok(done) => Some(done),
            Err(error) => {
                // What follows on a broken stream has nowhere to go.
                self.abandoned.store(true, Ordering::Relaxed);
                if let Ok(mut failed) = self.failed.lock() {
                    failed.get_or_insert_with(|| explain(&error));
                }
                None
            }
        }
    }
}

impl<W: Outgoing + 'static> Drop for StreamSender<W> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            // A writer that has stopped needs no telling.
            let _ = queue.send(Job::End);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected => "it closed the connection".into(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not read what is sent to it".into(),
        _ => error.to_string(),
    }
}

/// The receiving direction.
pub struct StreamReceiver<R> {
    peer: Endpoint,
    reader: Mutex<R>,
    patience: Patience,
}

/// How a read ended before its end.
enum Short {
    /// In time, after so many bytes.
    Late(usize),
    Failed(io::Error),
}

/// Fills the buffer before a moment. The reader's own time limit says how often the clock is looked at.
fn fill(reader: &mut impl Read, buffer: &mut [u8], until: Instant) -> std::result::Result<(), Short> {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(&mut buffer[done..]) {
            Ok(0) => return Err(Short::Failed(ErrorKind::UnexpectedEof.into())),
            Ok(n) => done += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => return Err(Short::Failed(e)),
        }
        if done < buffer.len() && Instant::now() >= until {
            return Err(Short::Late(done));
        }
    }
    Ok(())
}

impl<R: Read> StreamReceiver<R> {
    /// Receives from `peer` over `reader`, whose reads fail with `TimedOut` or `WouldBlock` after a moment without a
    /// byte: a small part of what the peer is waited for.
    pub fn new(peer: Endpoint, reader: R, patience: Patience) -> Self {
        Self { peer, reader: Mutex::new(reader), patience }
    }

    /// The next frame, its payload in the expected form. The announced length is compared before anything is
    /// allocated.
    ///
    /// # Errors
    /// A lost, silent or slow peer, an invalid header, another length.
    pub fn recv(&self, expect: &[Segment]) -> Result<Frame> {
        let (peer, patience) = (self.peer, &self.patience);
        let mut reader =
            self.reader.lock().map_err(|_| NetError::PeerLost { peer, why: "its reader has stopped".into() })?;
        let lost = |error: io::Error| NetError::PeerLost { peer, why: explain(&error) };
        let mut bytes = [0; HEADER_BYTES];
        fill(&mut *reader, &mut bytes, Instant::now() + patience.silence).map_err(|short| match short {
            Short::Late(_) => NetError::Timeout { peer, after: patience.silence },
            Short::Failed(e) => lost(e),
        })?;
        let header = Header::decode(&bytes).map_err(|source| NetError::Frame { peer, source })?;
        let want = expect.iter().map(|s| s.bytes()).sum();
        if header.payload != want {
            return Err(NetError::Length { peer, got: header.payload, want });
        }
        let mut message = Vec::with_capacity(expect.len());
        let after = patience.length(want);
        let (until, mut got) = (Instant::now() + after, 0);
        for &form in expect {
            let mut part = Part::zeroed(form);
            fill(&mut *reader, part.bytes_mut(), until).map_err(|short| match short {
                Short::Late(n) => NetError::Slow { peer, got: got + n as u64, want, after },
                Short::Failed(e) => lost(e),
            })?;
            got += form.bytes();
            message.push(part);
        }
        Ok(Frame { header, message })
    }
}

/// A link of two streams, one for each direction.
pub struct StreamLink<W: Outgoing + 'static, R> {
    /// What is sent.
    pub out: StreamSender<W>,
    /// What is received.
    pub incoming: StreamReceiver<R>,
    /// Bytes handed to the network so far.
    pub wire: std::sync::Arc<std::sync::atomic::AtomicU64>,
    /// Closes both streams from outside, so that whoever reads or writes them stops.
    pub close: Box<dyn Fn() + Send + Sync>,
    /// What the two streams are bound to: see [`Link::binding`].
    pub binding: [u8; 32],
}

impl<W: Outgoing + 'static, R: Read + Send> Link for StreamLink<W, R> {
    fn send(&self, frame: Frame) -> Result<()> {
        self.out.send(frame)
    }
    fn recv(&self, expect: &[Segment]) -> Result<Frame> {
        self.incoming.recv(expect)
    }
    fn wire(&self) -> u64 {
        self.wire.load(std::sync::atomic::Ordering::Relaxed)
    }
    fn binding(&self) -> [u8; 32] {
        self.binding
    }
    fn abort(&self) {
        self.out.abandon();
        (self.close)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameError, Tag};
    use std::sync::mpsc;

    struct Sink(mpsc::Sender<Vec<u8>>);
    impl Read for Sink {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
    }
    impl crate::Socket for Sink {
        fn write_now(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.write(buf)
        }
    }
    const SECOND: Duration = Duration::from_secs(1);
    fn patience() -> Patience {
        Patience::new(SECOND, SECOND, LinkModel::UNLIMITED)
    }
    fn sender(sink: mpsc::Sender<Vec<u8>>) -> Result<StreamSender<Wire<Sink>>> {
        StreamSender::new(Endpoint(1), Wire::new(Sink(sink), Arc::default()), LinkModel::UNLIMITED, patience())
    }
    impl Write for Sink {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.send(buf.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn frame(number: u32, words: usize) -> Frame {
        let message = vec![Part::Wide((0..words as u64).collect())];
        Frame { header: Header { tag: Tag([9; 16]), number, depth: 1, payload: 8 * words as u64 }, message }
    }

    fn receive(bytes: &[u8], expect: &[Segment]) -> Result<Frame> {
        StreamReceiver::new(Endpoint(1), bytes, patience()).recv(expect)
    }

    #[test]
    fn long_and_short_frames_keep_their_order() -> Result<()> {
        let (to, from) = mpsc::channel();
        let sender = sender(to)?;
        let sizes = [10_000, 1, 20_000, 0, 3];
        for (i, &n) in sizes.iter().enumerate() {
            sender.send(frame(i as u32, n))?;
        }
        drop(sender);
        let bytes: Vec<u8> = from.iter().flatten().collect();
        let receiver = StreamReceiver::new(Endpoint(0), &bytes[..], patience());
        for (i, &n) in sizes.iter().enumerate() {
            let got = receiver.recv(&[Segment::Wide(n)])?;
            assert_eq!(got.header.number, i as u32);
            assert!(got.message == frame(0, n).message);
        }
        Ok(())
    }

    #[test]
    fn typed_errors() {
        let mut bytes = frame(0, 2).header.encode().to_vec();
        assert!(matches!(receive(&bytes, &[Segment::Wide(1)]), Err(NetError::Length { got: 16, want: 8, .. })));
        assert!(matches!(receive(&bytes, &[Segment::Wide(2)]), Err(NetError::PeerLost { .. })));
        assert!(matches!(receive(&bytes[..7], &[]), Err(NetError::PeerLost { .. })));
        bytes[0] ^= 1;
        let garbage = receive(&bytes, &[Segment::Wide(2)]);
        assert!(matches!(garbage, Err(NetError::Frame { source: FrameError::Magic, .. })));
    }

    #[test]
    fn a_peer_that_is_gone_is_reported() -> Result<()> {
        let (to, from) = mpsc::channel();
        let sender = sender(to)?;
        drop(from);
        assert!(matches!(sender.send(frame(0, 1)), Err(NetError::PeerLost { .. })));
        Ok(())
    }

    /// Gives a byte every few milliseconds.
    struct Drip(Vec<u8>);
    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(3));
            match self.0.pop() {
                Some(byte) => {
                    buf[0] = byte;
                    Ok(1)
                }
                None => Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    #[test]
    fn bytes_that_drip_are_no_frame() {
        let mut bytes = frame(0, 100).header.encode().to_vec();
        bytes.extend([0; 800]);
        bytes.reverse();
        let moment = Duration::from_millis(200);
        let of = |bytes: Vec<u8>, silence| {
            let began = Instant::now();
            let patience = Patience { silence, frame: moment, rate: LEAST_RATE };
            let got = StreamReceiver::new(Endpoint(1), Drip(bytes), patience).recv(&[Segment::Wide(100)]);
            (got.err(), began.elapsed())
        };
        let (slow, took) = of(bytes.clone(), SECOND);
        assert!(matches!(slow, Some(NetError::Slow { want: 800, .. })), "{slow:?}");
        assert!(took < 2 * SECOND);
        // A header that drips, and one that never comes.
        for bytes in [bytes, vec![]] {
            assert!(matches!(of(bytes, Duration::from_millis(50)).0, Some(NetError::Timeout { .. })));
        }
    }
}
