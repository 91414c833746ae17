//! Links over sockets that hold next to nothing: whoever waits for a peer to read shows here.

use sordino_net::{Endpoint, Link, LinkModel, Patience, Socket, StreamLink, StreamReceiver, StreamSender, Wire};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

struct Pipe(UnixStream);

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}
impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
impl Socket for Pipe {
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, rustix::net::SendFlags::DONTWAIT)?)
    }
}

/// A pair of linked ends whose sockets hold about so many bytes in each direction.
///
/// # Panics
/// When the system gives no sockets.
#[must_use]
pub fn links(a: Endpoint, b: Endpoint, holds: usize, deadline: Duration) -> (Box<dyn Link>, Box<dyn Link>) {
    let direction = || {
        let (from, to) = UnixStream::pair().unwrap_or_else(|e| panic!("no sockets: {e}"));
        for end in [&from, &to] {
            let moment = Some(Duration::from_millis(20));
            let set = rustix::net::sockopt::set_socket_send_buffer_size(end, holds)
                .and_then(|()| rustix::net::sockopt::set_socket_recv_buffer_size(end, holds))
                .map_err(io::Error::from)
                .and_then(|()| end.set_read_timeout(moment))
                .and_then(|()| end.set_write_timeout(moment));
            set.unwrap_or_else(|e| panic!("a socket refuses its settings: {e}"));
        }
        (from, to)
    };
    let ((ab, from_a), (ba, from_b)) = (direction(), direction());
    let patience = Patience::new(deadline, deadline, LinkModel::UNLIMITED);
    let end = |peer, out: UnixStream, incoming: UnixStream| -> Box<dyn Link> {
        let wire = Arc::new(AtomicU64::new(0));
        let ends = [&out, &incoming].map(|s| s.try_clone().unwrap_or_else(|e| panic!("no sockets: {e}")));
        let out = StreamSender::new(peer, Wire::new(Pipe(out), Arc::clone(&wire)), LinkModel::UNLIMITED, patience);
        let out = out.unwrap_or_else(|e| panic!("{e}"));
        let close = move || {
            for end in &ends {
                // It may be closed already.
                let _ = end.shutdown(std::net::Shutdown::Both);
            }
        };
        let incoming = StreamReceiver::new(peer, Pipe(incoming), patience);
        Box::new(StreamLink { out, incoming, wire, close: Box::new(close), binding: [0; 32] })
    };
    (end(b, ab, from_b), end(a, ba, from_a))
}
