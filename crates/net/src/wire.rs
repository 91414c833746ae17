//! The bottom of a byte stream: counts what leaves, bounds how long it takes, and can be told not to wait.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a [`Wire`] needs of a socket. Its blocking reads and writes fail with `WouldBlock` or `TimedOut` after a moment
/// without progress, so that deadlines can be watched in between.
pub trait Socket: Read + Write {
    /// Writes what can be taken without waiting; fails with `WouldBlock` when that is nothing.
    ///
    /// # Errors
    /// Those of the system.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// How long writes may take.
enum Mode {
    /// They do not wait at all: what the socket does not take is kept back.
    Hold,
    /// Until then.
    Until(Option<Instant>),
}

/// A socket whose writes are counted and either do not wait or have a deadline, and whose reads may have one.
pub struct Wire<S> {
    socket: S,
    count: Arc<AtomicU64>,
    mode: Mode,
    read_until: Option<Instant>,
    /// Kept back, and how much of it has been written since.
    held: (Vec<u8>, usize),
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

impl<S: Socket> Wire<S> {
    /// Counts bytes handed to the socket into `count`.
    pub fn new(socket: S, count: Arc<AtomicU64>) -> Self {
        Self { socket, count, mode: Mode::Until(None), read_until: None, held: (vec![], 0) }
    }

    /// From now on writes do not wait: what the socket does not take at once is kept back.
    pub fn hold(&mut self) {
        self.mode = Mode::Hold;
    }

    /// Bytes kept back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.0.len() - self.held.1
    }

    /// From now on writes wait until this moment, if it is given. What was kept back goes before what follows.
    pub fn wait(&mut self, until: Option<Instant>) {
        self.mode = Mode::Until(until);
    }

    /// From now on reads wait until this moment. Without one each read may wait as long as the socket does by itself,
    /// and whoever reads watches the time.
    pub fn read_until(&mut self, until: Option<Instant>) {
        self.read_until = until;
    }

    fn blocking(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        // Looked at before each write: a peer that takes a few bytes at a time is slow too.
        while !over(until) {
            match self.socket.write(bytes) {
                Err(e) if waits(&e) => {}
                other => return other,
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Writes what was kept back.
    fn drain(&mut self, until: Option<Instant>) -> io::Result<()> {
        let (held, mut done) = std::mem::take(&mut self.held);
        let result = loop {
            if done == held.len() {
                return Ok(());
            }
            match self.blocking(&held[done..], until) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) => break Err(e),
            }
        };
        self.held = (held, done);
        result
    }
}

impl<S: Socket> Write for Wire<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = match self.mode {
            Mode::Until(until) => {
                self.drain(until)?;
                self.blocking(bytes, until)?
            }
            Mode::Hold => {
                let taken = if self.held() > 0 {
                    0
                } else {
                    match self.socket.write_now(bytes) {
                        Err(e) if waits(&e) => 0,
                        other => other?,
                    }
                };
                self.held.0.extend_from_slice(&bytes[taken..]);
                bytes.len()
            }
        };
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.mode {
            Mode::Until(until) => {
                self.drain(until)?;
                self.socket.flush()
            }
            Mode::Hold => Ok(()),
        }
    }
}

impl<S: Socket> Read for Wire<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(until) = self.read_until else { return self.socket.read(bytes) };
        loop {
            if over(Some(until)) {
                return Err(ErrorKind::TimedOut.into());
            }
            match self.socket.read(bytes) {
                Err(e) if waits(&e) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Duration;

    /// Takes so many bytes, and no more until more room is made.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }
    impl Read for Narrow {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            Err(ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                std::thread::sleep(Duration::from_millis(1));
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Socket for Narrow {
        fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write(bytes)
        }
    }

    #[test]
    fn what_is_kept_back_goes_first_and_everything_is_counted_once() {
        let count = Arc::new(AtomicU64::new(0));
        let mut wire = Wire::new(Narrow { room: 3, taken: vec![] }, Arc::clone(&count));
        wire.hold();
        wire.write_all(&[1, 2, 3, 4, 5]).unwrap();
        wire.write_all(&[6]).unwrap();
        assert_eq!((wire.held(), wire.socket.taken.as_slice()), (3, &[1, 2, 3][..]));
        for room in [0, 2] {
            wire.wait(Some(Instant::now() + Duration::from_millis(20)));
            wire.socket.room = room;
            assert_eq!(wire.write_all(&[7]).unwrap_err().kind(), ErrorKind::TimedOut);
        }
        wire.wait(None);
        wire.socket.room = 100;
        wire.write_all(&[7]).unwrap();
        assert_eq!(wire.socket.taken, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((wire.held(), count.load(Ordering::Relaxed)), (0, 7));
    }

    #[test]
    fn reads_end_in_time() {
        let mut wire = Wire::new(Narrow { room: 0, taken: vec![] }, Arc::default());
        assert_eq!(wire.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        wire.read_until(Some(Instant::now() + Duration::from_millis(5)));
        assert_eq!(wire.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
