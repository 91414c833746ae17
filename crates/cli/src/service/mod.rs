//! Commands of servers on three hosts and of their clients.

mod certificates;
mod client;
mod contribute;
mod push;
mod serve;
mod store;

pub(crate) use certificates::{Made, Server as ServerCertificate, make_authority};
pub(crate) use client::{Allow, Fetch, Forget, Jobs, Models, Remove, Submit};
pub(crate) use contribute::Contribute;
pub(crate) use push::{Push, granted, grants, together, with_bar};
pub(crate) use serve::Serve;
pub(crate) use store::StoreArgs;

use clap::Args;
use sordino::Result;
use sordino_service::fleet::Fleet;
use sordino_service::names::Id;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which cluster, and how long to wait for it.
#[derive(Args, Clone)]
pub(crate) struct To {
    /// The file that names the three servers and this client's certificate, and further clusters if there are any.
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    to: PathBuf,
    /// Seconds until a server must have answered a call.
    #[arg(long, default_value_t = 30.0, value_parser = super::session::seconds)]
    timeout: f64,
}

impl To {
    pub(crate) fn new(to: &Path, timeout: f64) -> Self {
        Self { to: to.into(), timeout }
    }

    pub(crate) fn fleet(&self) -> Result<Fleet> {
        Ok(Fleet::read(&self.to, Duration::from_secs_f64(self.timeout))?)
    }
}

fn id(text: &str) -> std::result::Result<Id, String> {
    text.parse().map_err(|e: sordino_service::Fault| e.why)
}
