//! `sordino host`, `sordino ask` and `sordino cert`: two parties on two machines.

mod ask;
mod cert;
mod host;

pub(crate) use ask::AskArgs;
pub(crate) use cert::Cert;
pub(crate) use host::HostArgs;

use super::session::seconds;
use clap::Args;
use sordino::tls::Identity;
use sordino::two::Setup;
use sordino::{Error, Result};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const HOST_FILE: &str = "host.identity";
const CLIENT_FILE: &str = "client.identity";

/// Reads an identity, which must be of this end.
fn identity(path: &Path, end: u8) -> Result<Identity> {
    let text = zeroize::Zeroizing::new(std::fs::read(path).map_err(Error::at(path))?);
    let fault = |why: String| Error::File { path: path.into(), why };
    let none = |_| fault("it is no identity; `sordino cert pair` writes them".into());
    let identity: Identity = serde_json::from_slice(&text).map_err(none)?;
    if identity.is_for(&Topology::two(), Endpoint(end)) {
        // Whoever else can read it is that party.
        sordino::private::read(path)?;
        return Ok(identity);
    }
    let (whose, name) = if end == 0 { ("a host", HOST_FILE) } else { ("a client", CLIENT_FILE) };
    Err(fault(format!("it is not the identity of {whose}, which `sordino cert pair` writes as {name}")))
}

/// How a party of two runs.
#[derive(Args, Clone)]
struct Running {
    /// This party's identity, as `sordino cert pair` writes it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Seconds the other party is waited for.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    timeout: f64,
    /// Worker threads [default: all processors].
    #[arg(long, value_parser = crate::workers)]
    threads: Option<usize>,
}

impl Running {
    fn setup<'a>(&self, stop: &'a AtomicBool) -> Setup<'a> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.unwrap_or(cores);
        Setup { deadline: Duration::from_secs_f64(self.timeout), threads, stop }
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    let fault =
        |why: String| Error::Usage(format!("{text}: {why}; an address is a host and a port, such as 10.0.0.1:7000"));
    text.to_socket_addrs().map_err(|e| fault(e.to_string()))?.next().ok_or_else(|| fault("no such host".into()))
}
