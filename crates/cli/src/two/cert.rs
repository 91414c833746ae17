//! `sordino cert`: who may be whom.

use super::{CLIENT_FILE, HOST_FILE};
use crate::print;
use crate::service::{Made, ServerCertificate, make_authority};
use clap::{Args, Subcommand};
use sordino::tls::Authority;
use sordino::{Error, Result, model};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use sordino_service::certificates::{AUTHORITY_KEY, Whose, authority, kept};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Arguments of `cert`.
#[derive(Args)]
pub(crate) struct Cert {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// An authority, whose signatures three servers and their clients trust.
    Ca {
        /// The folder it is made in.
        #[arg(long, short, value_name = "DIR")]
        output: PathBuf,
    },
    /// A certificate for one of three servers.
    Server(ServerCertificate),
    /// A certificate for a client of three servers: an owner of models or of data.
    Client {
        /// Its name: letters, digits and hyphens.
        name: String,
        #[command(flatten)]
        made: Made,
    },
    /// A certificate for an operator, who may look at a server's page and metrics.
    Operator {
        /// Its name: letters, digits and hyphens.
        name: String,
        #[command(flatten)]
        made: Made,
    },
    /// Identities for a host and its client: two files, of which each party gets its own. The authority that signs them is not kept, unless there
    /// are several clients.
    Pair {
        /// The folder they are written to, as host.identity and client.identity, or NAME.identity for each client with a name.
        #[arg(long, short)]
        output: PathBuf,
        /// A client with a name of its own, by which the host counts its queries and can revoke it; one for each, now and later. The authority
        /// then stays in the folder.
        #[arg(long = "client", value_name = "NAME")]
        clients: Vec<String>,
        /// Days until they expire.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

impl Cert {
    pub(crate) fn run(self) -> Result<()> {
        let (output, clients, days) = match self.what {
            What::Ca { output } => return make_authority(&output),
            What::Server(server) => return server.made.run(&Whose::Server(usize::from(server.party))),
            What::Client { name, made } => return made.run(&Whose::Client(name)),
            What::Operator { name, made } => return made.run(&Whose::Operator(name)),
            What::Pair { output, clients, days } => (output, clients, days),
        };
        if !output.exists() {
            sordino::private::folder(&output, true)?;
        }
        let (topology, now, day) = (Topology::two(), SystemTime::now(), Duration::from_secs(86400));
        let (host, times) = (output.join(HOST_FILE), [now - day, now + days * day]);
        let (authority, has_host) = if clients.is_empty() {
            (Authority::new().map_err(|e| failed(&e))?, false)
        } else {
            kept_authority(&output, host.exists())?
        };
        let mut made = vec![];
        if !has_host {
            let identity = authority.identity_between(&topology, Endpoint(0), times[0], times[1]);
            made.push((host, "the host", identity.map_err(|e| failed(&e))?));
        }
        if clients.is_empty() {
            let identity = authority.identity_between(&topology, Endpoint(1), times[0], times[1]);
            made.push((output.join(CLIENT_FILE), "the client", identity.map_err(|e| failed(&e))?));
        }
        for name in &clients {
            sordino_service::names::client(name).map_err(|e| Error::Usage(e.to_string()))?;
            if name == "host" || clients.iter().filter(|other| *other == name).count() > 1 {
                return Err(Error::Usage(format!(
                    "--client {name}: each client needs a name of its own, and host is the host's"
                )));
            }
            let identity = authority.identity_named(&topology, Endpoint(1), name, times);
            made.push((output.join(format!("{name}.identity")), name.as_str(), identity.map_err(|e| failed(&e))?));
        }
        // Nothing is written where anything is there.
        if let Some((path, ..)) = made.iter().find(|(path, ..)| path.exists()) {
            let why = "it is there already; identities are never replaced".into();
            return Err(Error::File { path: path.clone(), why });
        }
        let mut text = String::new();
        if !clients.is_empty() {
            let key = output.join(AUTHORITY_KEY);
            text = format!(
                "{}: makes further clients, and stays here; whoever has it can be any of them\n",
                key.display()
            );
        }
        for (path, whose, identity) in made {
            let json = zeroize::Zeroizing::new(serde_json::to_vec(&identity).map_err(|e| failed(&e))?);
            model::create_own(&path, &json)?;
            text += &format!("{}: for {whose} alone, for {days} days\n", path.display());
        }
        print(&text)
    }
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::Session(format!("cannot make certificates: {e}"))
}

/// The authority in a folder, which is made where there is none and no host that another one signed; and whether the host is there.
fn kept_authority(folder: &Path, host: bool) -> Result<(Authority, bool)> {
    if !folder.join(AUTHORITY_KEY).exists() {
        if host {
            let why = "its host's authority was not kept, so it can have no further clients; make identities with --client in another folder";
            return Err(Error::File { path: folder.into(), why: why.into() });
        }
        authority(folder)?;
    }
    Ok((kept(folder)?, host))
}
