//! Three servers in one process, with certificates and configuration in one folder: to try everything, and for tests.

use crate::certificates::{AUTHORITY, Whose, authority, certificate};
use crate::config::{Cluster, Files, Known, Limits, Policy, Server};
use crate::fault::{Fault, Result};
use crate::server::{Ports, Running};
use crate::shares::PARTIES;
use sordino::compute::DeviceName;
use std::path::{Path, PathBuf};

/// Clients that a demonstration has.
pub const CLIENTS: [&str; 2] = ["alice", "bob"];
/// Its operator.
pub const OPERATOR: &str = "ops";

/// Three servers that run in this process.
pub struct Demo {
    /// They themselves; `None` for one that was stopped.
    pub servers: [Option<Running>; PARTIES],
    /// Their configuration.
    pub configs: [Server; PARTIES],
    folder: PathBuf,
    _lock: std::fs::File,
}

fn files(stem: &str) -> Files {
    Files {
        certificate: format!("{stem}.pem").into(),
        key: format!("{stem}.key").into(),
        authorities: AUTHORITY.into(),
    }
}

fn toml(value: &impl serde::Serialize) -> Result<String> {
    toml::to_string_pretty(value).map_err(|e| Fault::internal("a configuration", &e))
}

impl Demo {
    /// Starts three servers whose files are in a folder, made where they are missing. `change` may change their configuration.
    ///
    /// # Errors
    /// Those of making certificates and of starting servers.
    pub fn start(folder: &Path, change: impl Fn(&mut Server)) -> Result<Self> {
        sordino::private::folder(folder, true)?;
        // Before anything is written: another one may run from these files.
        let lock = sordino::private::lock_file(&folder.join("lock"))?;
        if lock.try_lock().is_err() {
            return Err(Fault::usage(format!("{}: servers run from this folder already", folder.display())));
        }
        let authorities = folder.join("authority");
        if !authorities.exists() {
            authority(&authorities)?;
            for party in 0..PARTIES {
                let home = folder.join(format!("server-{party}"));
                certificate(&authorities, &Whose::Server(party), 365, &home, false)?;
            }
            for client in CLIENTS {
                certificate(&authorities, &Whose::Client(client.into()), 365, &folder.join(client), false)?;
            }
            certificate(&authorities, &Whose::Operator(OPERATOR.into()), 365, &folder.join(OPERATOR), false)?;
        }
        let mut ports = vec![];
        for _ in 0..PARTIES {
            ports.push(Ports::bind("127.0.0.1:0", "127.0.0.1:0")?);
        }
        let mut addresses = vec![];
        for port in &ports {
            addresses.push(port.addresses()?);
        }
        let peers: Vec<String> = addresses.iter().map(|a| a[1].to_string()).collect();
        let three = || Fault::usage("servers are three");
        let servers: [String; PARTIES] = peers.try_into().map_err(|_| three())?;
        let (mut configs, mut known) = (vec![], vec![]);
        for (party, [clients, peers]) in addresses.iter().enumerate() {
            let mut config = Server {
                party,
                store: "store".into(),
                store_key: None,
                clients: clients.to_string(),
                peers: peers.to_string(),
                servers: servers.clone(),
                device: DeviceName::Cpu,
                device_megabytes: None,
                threads: Some((std::thread::available_parallelism().map_or(1, usize::from) / PARTIES).max(1)),
                tls: files(&format!("server-{party}")),
                limits: Limits::default(),
                policy: Policy { push: CLIENTS.map(String::from).to_vec(), revoked: vec![] },
                shape: None,
                folder: folder.join(format!("server-{party}")),
            };
            change(&mut config);
            sordino::model::write_whole(&config.folder.join("server.toml"), toml(&config)?.as_bytes())?;
            let fingerprint = Some(config.identity()?.fingerprint());
            known.push(Known { address: clients.to_string(), fingerprint });
            configs.push(config);
        }
        let known: [Known; PARTIES] = known.try_into().map_err(|_| three())?;
        for client in CLIENTS {
            let cluster =
                Cluster { servers: known.clone(), tls: files(client), replicas: vec![], folder: PathBuf::new() };
            let path = folder.join(client).join("cluster.toml");
            sordino::model::write_whole(&path, toml(&cluster)?.as_bytes())?;
        }
        let mut servers = vec![];
        for (config, ports) in configs.iter().zip(ports) {
            servers.push(Some(Running::start_at(config.clone(), ports)?));
        }
        let servers = servers.try_into().map_err(|_| three())?;
        let configs = configs.try_into().map_err(|_| three())?;
        Ok(Self { servers, configs, folder: folder.into(), _lock: lock })
    }

    /// The `cluster.toml` of a client.
    #[must_use]
    pub fn cluster(&self, client: &str) -> PathBuf {
        self.folder.join(client).join("cluster.toml")
    }

    /// Where all their files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops one of them.
    pub fn stop(&mut self, party: usize) {
        self.servers[party] = None;
    }

    /// Starts one again that was stopped, on its ports.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn restart(&mut self, party: usize) -> Result<()> {
        self.restart_with(party, |_| ())
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn restart_with(&mut self, party: usize, change: impl Fn(&mut Server)) -> Result<()> {
        self.stop(party);
        change(&mut self.configs[party]);
        self.servers[party] = Some(Running::start(self.configs[party].clone())?);
        Ok(())
    }
}
