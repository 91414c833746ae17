//! What a server and its clients are told in files: `server.toml` and `cluster.toml`.

use crate::fault::{Fault, Result};
use crate::names;
use crate::shares::PARTIES;
use crate::store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sordino::compute::{Compute, DeviceName};
use sordino::tls::Identity;
use sordino_net::LinkModel;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Files of a certificate. Paths are taken from the folder of the file that names them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Its certificate (PEM), followed by those between it and the authority, if there are any.
    pub certificate: PathBuf,
    /// Its key (PEM, PKCS #8), which nobody else may read.
    pub key: PathBuf,
    /// Certificates of the authorities whose signatures count (PEM).
    pub authorities: PathBuf,
}

impl Files {
    /// The identity in these files.
    ///
    /// # Errors
    /// When one is missing, open to others, or holds something else.
    pub fn identity(&self, folder: &Path) -> Result<Identity> {
        let read = |path: &Path| {
            std::fs::read(folder.join(path)).map_err(|e| Fault::usage(format!("{}: {e}", folder.join(path).display())))
        };
        let key = sordino::private::read(&folder.join(&self.key))?.map(Zeroizing::new);
        let key = key.ok_or_else(|| Fault::usage(format!("{}: no such file", folder.join(&self.key).display())))?;
        let identity = Identity::from_pem(&read(&self.authorities)?, &read(&self.certificate)?, &key);
        identity
            .and_then(|identity| identity.check().map(|()| identity))
            .map_err(|why| Fault::usage(format!("{}: {why}", folder.join(&self.certificate).display())))
    }
}

/// What a server takes and keeps, at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Models whose weights are loaded at the same time.
    pub sessions: usize,
    /// Jobs that wait.
    pub queue: usize,
    /// Jobs of one client that wait.
    pub queue_per_client: usize,
    /// Models that are kept.
    pub models: usize,
    /// Megabytes of one upload.
    pub upload_mb: u64,
    /// Megabytes that a session may need by its plan.
    pub memory_mb: u64,
    /// Connections of clients at the same time.
    pub connections: usize,
    /// Seconds another server is waited for.
    pub peer_seconds: f64,
    /// Seconds a job may wait and run, from its submission on.
    pub job_seconds: u64,
    /// Seconds a run, or an iteration of a training, may take; one that takes longer fails.
    pub run_seconds: f64,
    /// Seconds from one checkpoint of a training to the next.
    pub checkpoint_seconds: f64,
    /// Seconds an answer is kept for its receiver.
    pub answer_seconds: u64,
    /// Seconds after which a loaded model that nobody asks is let go.
    pub idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 4,
            queue: 1000,
            queue_per_client: 200,
            models: 100,
            upload_mb: 4096,
            memory_mb: 16384,
            connections: 1024,
            peer_seconds: 30.0,
            job_seconds: 86_400,
            run_seconds: 3600.0,
            checkpoint_seconds: 60.0,
            answer_seconds: 7 * 86_400,
            idle_seconds: 600,
        }
    }
}

/// What links between servers are made to be like, to try a slow network.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// One-way latency.
    pub milliseconds: f64,
    /// Bandwidth, in megabits a second.
    pub megabits: f64,
}

/// Who may do what at a server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Clients who may push models.
    pub push: Vec<String>,
    /// Certificates that count no more: their fingerprints.
    pub revoked: Vec<String>,
}

/// `server.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Which of the three it is: 0, 1 or 2.
    pub party: usize,
    /// Where its store is.
    pub store: PathBuf,
    /// The file of the store's key; `store.key` in the store where nothing is said. `$CREDENTIALS_DIRECTORY` at its beginning is systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_key: Option<PathBuf>,
    /// Where clients reach it.
    pub clients: String,
    /// Where its peers reach it.
    pub peers: String,
    /// The peer ports of all three servers, in their order.
    #[serde(deserialize_with = "three")]
    pub servers: [String; PARTIES],
    /// Worker threads of a job; all processors where nothing is said.
    #[serde(default)]
    pub threads: Option<usize>,
    /// What jobs are computed on: `cpu`, `cuda:N` or `opencl:N`. Each server chooses by itself.
    #[serde(default)]
    pub device: DeviceName,
    /// How many megabytes of a card's memory each loaded model holds at most; `limits.sessions` of them may be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_megabytes: Option<usize>,
    /// Its certificate.
    pub tls: Files,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Policy.
    #[serde(default)]
    pub policy: Policy,
    /// Makes links to the other servers slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// The folder that paths are taken from.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Exactly three of something.
fn three<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<[T; PARTIES], D::Error> {
    let all = Vec::<T>::deserialize(d)?;
    let n = all.len();
    all.try_into().map_err(|_| serde::de::Error::custom(format!("there are {n} servers; three are needed")))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).into()
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Fault::usage(format!("{}: no such file", path.display())),
        _ => Fault::usage(format!("{}: {e}", path.display())),
    })?;
    parse(&text).map_err(|e| e.at(&path.display().to_string()))
}

/// Reads a configuration.
///
/// # Errors
/// Names the field.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|at| text[..at.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        Fault::usage(format!("{place}{}", e.message().trim().replace('\n', " ")))
    })
}

/// Whether a text is a host and a port.
fn is_address(text: &str) -> Result<()> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    if matches!(port, Some(Ok(_))) {
        return Ok(());
    }
    Err(Fault::usage(format!("{text:?} is no address: a host and a port, such as 10.0.0.1:7000")))
}

/// A fingerprint as 64 small hexadecimal digits, however it was written.
///
/// # Errors
/// When it is none.
fn fingerprint(text: &str) -> Result<String> {
    let plain: String = text.chars().filter(|c| *c != ':').flat_map(char::to_lowercase).collect();
    if plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(plain);
    }
    Err(Fault::usage(format!("{text:?} is no fingerprint, which has 64 hexadecimal digits")))
}

/// The first address of a host and a port.
///
/// # Errors
/// When it is none, or nobody knows the host.
pub fn address(text: &str) -> Result<SocketAddr> {
    let fault =
        |why: String| Fault::usage(format!("{text}: {why}; an address is a host and a port, such as 10.0.0.1:7000"));
    text.to_socket_addrs().map_err(|e| fault(e.to_string()))?.next().ok_or_else(|| fault("no such host".into()))
}

impl Server {
    /// Reads `server.toml`.
    ///
    /// # Errors
    /// Names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let mut config = Self { folder: folder_of(path), ..parsed(path)? };
        let revoked: Result<Vec<String>> = config.policy.revoked.iter().map(|f| fingerprint(f)).collect();
        config.policy.revoked = revoked.map_err(|e| e.at("policy.revoked").at(&path.display().to_string()))?;
        config.check().map_err(|e| e.at(&path.display().to_string()))?;
        Ok(config)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        if self.party >= PARTIES {
            return Err(Fault::usage(format!("party is {}; it is 0, 1 or 2", self.party)));
        }
        for (field, text) in [("clients", &self.clients), ("peers", &self.peers)] {
            is_address(text).map_err(|e| e.at(field))?;
        }
        if self.clients == self.peers {
            return Err(Fault::usage("clients and peers are the same address; two ports are needed"));
        }
        for (i, text) in self.servers.iter().enumerate() {
            is_address(text).map_err(|e| e.at(&format!("servers[{i}]")))?;
            if let Some(j) = self.servers[..i].iter().position(|other| other == text) {
                return Err(Fault::usage(format!("servers[{j}] and servers[{i}] are the same address")));
            }
        }
        let l = &self.limits;
        let counts = [
            ("sessions", l.sessions),
            ("queue", l.queue),
            ("queue_per_client", l.queue_per_client),
            ("models", l.models),
            ("connections", l.connections),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Fault::usage(format!("limits.{name} is 0; nothing could be done")));
        }
        if !(0.5..=3600.0).contains(&l.peer_seconds) {
            return Err(Fault::usage("limits.peer_seconds is between 0.5 and 3600"));
        }
        if !(1e-3..=1e7).contains(&l.run_seconds) {
            return Err(Fault::usage("limits.run_seconds is between 0.001 and 10000000"));
        }
        if !(0.0..=1e7).contains(&l.checkpoint_seconds) {
            return Err(Fault::usage("limits.checkpoint_seconds is between 0 and 10000000"));
        }
        if self.threads.is_some_and(|t| !(1..=256).contains(&t)) {
            return Err(Fault::usage("threads is between 1 and 256"));
        }
        if self.device_megabytes.is_some() && self.device == DeviceName::Cpu {
            return Err(Fault::usage("device_megabytes is of a card: choose one with device"));
        }
        if self.device_megabytes == Some(0) {
            return Err(Fault::usage("device_megabytes is 0; nothing could be done"));
        }
        let sensible = |s: Shape| (0.0..=10_000.0).contains(&s.milliseconds) && (1e-3..=1e6).contains(&s.megabits);
        if self.shape.is_some_and(|s| !sensible(s)) {
            return Err(Fault::usage("shape has a latency of 0 to 10000 milliseconds and 0.001 to 1000000 megabits"));
        }
        self.policy.push.iter().try_for_each(|name| names::client(name).map_err(|e| e.at("policy.push")))
    }

    /// Its identity, which must be of this party.
    ///
    /// # Errors
    /// When it is none, or somebody else's.
    pub fn identity(&self) -> Result<Identity> {
        let identity = self.tls.identity(&self.folder)?;
        let name = format!("server-{}.sordino", self.party);
        if identity.names().contains(&name) {
            return Ok(identity);
        }
        let (path, names) = (self.folder.join(&self.tls.certificate), identity.names().join(", "));
        Err(Fault::usage(format!("{}: it is for {names:?}, and party {} needs {name}", path.display(), self.party)))
    }

    /// Opens its store.
    ///
    /// # Errors
    /// Those of [`Store::open_with`].
    pub fn open_store(&self) -> Result<Store> {
        const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
        let folder = self.folder.join(&self.store);
        let Some(key) = &self.store_key else { return Store::open(&folder) };
        let Ok(rest) = key.strip_prefix(format!("${CREDENTIALS}")) else {
            return Store::open_with(&folder, &self.folder.join(key));
        };
        let credentials = std::env::var_os(CREDENTIALS);
        let credentials = credentials.ok_or_else(|| Fault::usage(format!("store_key: there is no {CREDENTIALS}")))?;
        Store::open_with(&folder, &PathBuf::from(credentials).join(rest))
    }

    /// How long another server is waited for.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.limits.peer_seconds)
    }

    /// What links to the other servers are like.
    #[must_use]
    pub fn link(&self) -> LinkModel {
        self.shape.map_or(LinkModel::UNLIMITED, |s| LinkModel {
            latency: Duration::from_secs_f64(s.milliseconds * 1e-3),
            bandwidth: Some(s.megabits * 1e6 / 8.0),
        })
    }

    /// What jobs are computed on.
    #[must_use]
    pub fn compute(&self) -> Compute {
        let memory = self.device_megabytes.map(|m| m.saturating_mul(1_000_000));
        Compute { threads: self.workers(), devices: [self.device; PARTIES], memory }
    }

    /// Looks for the device.
    ///
    /// # Errors
    /// When it is not there.
    pub fn look_for_device(&self) -> Result<()> {
        self.compute().check().map_err(|e| Fault::usage(format!("device: {e}")))
    }

    /// Worker threads of a job.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

/// A server as clients know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its client port.
    pub address: String,
    /// Its certificate's fingerprint (SHA-256), if no other certificate of its authority is to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// `cluster.toml`: three servers, and who this client is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The servers, in their order.
    #[serde(deserialize_with = "three")]
    pub servers: [Known; PARTIES],
    /// This client's certificate.
    pub tls: Files,
    /// The `cluster.toml`s of further clusters that have the same models: jobs go to whichever has the shortest queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<PathBuf>,
    /// The folder that paths are taken from.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Cluster {
    /// Reads `cluster.toml`.
    ///
    /// # Errors
    /// Names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let cluster = Self { folder: folder_of(path), ..parsed(path)? };
        let mut cluster = cluster;
        for (i, server) in cluster.servers.iter_mut().enumerate() {
            let named = |e: Fault, field: &str| e.at(&format!("{}: servers[{i}].{field}", path.display()));
            is_address(&server.address).map_err(|e| named(e, "address"))?;
            if let Some(text) = &server.fingerprint {
                server.fingerprint = Some(fingerprint(text).map_err(|e| named(e, "fingerprint"))?);
            }
        }
        Ok(cluster)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SERVER: &str = r#"
        party = 1
        store = "store"
        clients = "0.0.0.0:7000"
        peers = "0.0.0.0:7001"
        servers = ["a:1", "b:1", "c:1"]
        [tls]
        certificate = "c.pem"
        key = "c.key"
        authorities = "ca.pem"
    "#;

    #[test]
    fn fingerprints_are_read_as_others_write_them() {
        let plain = "ab".repeat(32);
        assert_eq!(fingerprint(&plain).unwrap(), plain);
        assert_eq!(fingerprint(&["AB"; 32].join(":")).unwrap(), plain);
        assert!(fingerprint("abc").is_err() && fingerprint(&"xy".repeat(32)).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let server: Server = parse(SERVER).unwrap();
        assert_eq!((server.party, server.limits.sessions), (1, 4));
        server.check().unwrap();
        let wrong = [
            (SERVER.replace("party = 1", "party = 3"), "party is 3"),
            (SERVER.replace("0.0.0.0:7000", "0.0.0.0"), "clients"),
            (SERVER.replace("0.0.0.0:7001", "0.0.0.0:99999"), "peers"),
            (SERVER.replace("0.0.0.0:7001", "0.0.0.0:7000"), "same address"),
            (SERVER.replace("b:1", "a:1"), "servers[0] and servers[1]"),
            (SERVER.replace("c:1", "c"), "servers[2]"),
            (SERVER.replace("store =", "shop ="), "line 3"),
            (SERVER.replace("\"c:1\"]", "\"c:1\", \"d:1\"]"), "servers"),
            (SERVER.replace("store =", "shop ="), "shop"),
            (format!("{SERVER}\n[limits]\nqueue = 0"), "limits.queue"),
            (format!("{SERVER}\n[limits]\npeer_seconds = 0.0"), "peer_seconds"),
            (format!("{SERVER}\n[limits]\nrun_seconds = -1.0"), "run_seconds"),
            (format!("{SERVER}\n[policy]\npush = [\"a b\"]"), "policy.push"),
            (SERVER.replace("key = \"c.key\"", ""), "key"),
        ];
        for (text, named) in wrong {
            let refused = parse::<Server>(&text).and_then(|s| s.check()).unwrap_err();
            assert!(refused.why.contains(named), "{refused}");
        }
    }
}
