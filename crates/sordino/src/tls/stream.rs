//! A TLS connection over TCP whose bytes are counted and whose time is bounded.

use rustix::net::{SendFlags, send, sockopt};
use rustls::{ConnectionCommon, SideData, StreamOwned};
use sordino_net::{Outgoing, Socket, Wire};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// A TCP connection.
pub(super) struct Tcp(TcpStream);

/// A vanished host is noticed after so long without an answer, in seconds, by probes this far apart.
const KEEP_ALIVE: (u64, u64, u32) = (15, 5, 4);

impl Tcp {
    /// Sets up a connection of which reads and writes return every so often without progress.
    pub(super) fn new(tcp: TcpStream, moment: Duration) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(moment))?;
        tcp.set_write_timeout(Some(moment))?;
        sockopt::set_socket_keepalive(&tcp, true)?;
        sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(KEEP_ALIVE.0))?;
        sockopt::set_tcp_keepintvl(&tcp, Duration::from_secs(KEEP_ALIVE.1))?;
        sockopt::set_tcp_keepcnt(&tcp, KEEP_ALIVE.2)?;
        Ok(Self(tcp))
    }
}

impl Read for Tcp {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Tcp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Socket for Tcp {
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }
}

/// TLS over [`Tcp`], for either side.
pub(super) struct Tls<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData>(StreamOwned<C, Wire<Tcp>>);

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Tls<C, S> {
    /// A connection whose handshake must be over by a moment.
    pub(super) fn new(connection: C, tcp: Tcp, count: Arc<AtomicU64>, until: Instant) -> Self {
        let mut wire = Wire::new(tcp, count);
        wire.wait(Some(until));
        wire.read_until(Some(until));
        Self(StreamOwned::new(connection, wire))
    }

    /// Ends the handshake's limit. An end that sends reads nothing more: a failed write must not be followed by a read.
    pub(super) fn settle(&mut self, sends: bool) {
        self.0.sock.wait(None);
        self.0.sock.read_until(sends.then(Instant::now));
    }

    pub(super) fn connection(&self) -> &C {
        &self.0.conn
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Read for Tls<C, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Write for Tls<C, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.sock.flush()
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>> + Send, S: SideData> Outgoing for Tls<C, S> {
    fn hold(&mut self) {
        self.0.sock.hold();
    }
    fn held(&self) -> usize {
        self.0.sock.held()
    }
    fn wait(&mut self, until: Instant) {
        self.0.sock.wait(Some(until));
    }
}

/// One direction of a link, after the handshake.
pub trait Stream: Read + Outgoing {}
impl<T: Read + Outgoing> Stream for T {}

impl Deref for Tcp {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
        &self.0
    }
}
