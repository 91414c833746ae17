//! `sordino cert ca|server|client|operator`.

use clap::Args;
use sordino::Result;
use sordino_service::certificates::{AUTHORITY, Whose, authority, certificate};
use std::path::{Path, PathBuf};

/// Where a certificate is made, and for how long.
#[derive(Args)]
pub(crate) struct Made {
    /// The folder of the authority, as `sordino cert ca` makes it.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The folder that the certificate, its key and the authority's certificate are written to.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Days until it expires.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace the certificate and the key that are there.
    #[arg(long)]
    renew: bool,
}

/// Arguments of `cert server`.
#[derive(Args)]
pub(crate) struct Server {
    /// Which of the three servers: 0, 1 or 2.
    #[arg(value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) party: u8,
    #[command(flatten)]
    pub(crate) made: Made,
}

impl Made {
    pub(crate) fn run(&self, whose: &Whose) -> Result<()> {
        let (file, fingerprint) = certificate(&self.ca, whose, self.days, &self.output, self.renew)?;
        super::super::print(&format!(
            "{}: for {}, for {} days; fingerprint {fingerprint}\n",
            file.display(),
            whose.name()?,
            self.days
        ))
    }
}

/// Makes an authority.
pub(crate) fn make_authority(folder: &Path) -> Result<()> {
    authority(folder)?;
    let path = folder.join(AUTHORITY);
    super::super::print(&format!(
        "{}: the authority's certificate, for everybody; its key stays in this folder\n",
        path.display()
    ))
}
