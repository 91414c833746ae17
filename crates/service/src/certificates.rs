//! A small certificate authority in files, for people without one.

use crate::fault::{Blame, Fault, Result};
use crate::names::{self, CLIENT, OPERATOR};
use crate::shares::PARTIES;
use sordino::tls::Authority;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One of the three servers.
    Server(usize),
    /// A client: an owner of models or of data.
    Client(String),
    /// Somebody who runs a server, and may look at its page and metrics.
    Operator(String),
}

impl Whose {
    /// The name in the certificate.
    ///
    /// # Errors
    /// When there is no such server, or the name is none.
    pub fn name(&self) -> Result<String> {
        match self {
            Self::Server(n) if *n < PARTIES => Ok(format!("server-{n}.sordino")),
            Self::Server(n) => Err(Fault::usage(format!("there is no server {n}; there are 0, 1 and 2"))),
            Self::Client(name) => names::client(name).map(|()| format!("{name}{CLIENT}")),
            Self::Operator(name) => names::client(name).map(|()| format!("{name}{OPERATOR}")),
        }
    }

    fn stem(&self) -> String {
        match self {
            Self::Server(n) => format!("server-{n}"),
            Self::Client(name) | Self::Operator(name) => name.clone(),
        }
    }
}

/// The authority's certificate, which everybody needs.
pub const AUTHORITY: &str = "ca.pem";
/// The authority's key, which stays where it is.
pub const AUTHORITY_KEY: &str = "ca.key";

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Fault + '_ {
    move |e| Fault::internal(what, e)
}

/// Makes an authority in a folder.
///
/// # Errors
/// When there is one already; those of the disk.
pub fn authority(folder: &Path) -> Result<()> {
    sordino::private::folder(folder, true)?;
    let authority = Authority::new().map_err(|e| failed("an authority cannot be made")(&e))?;
    let key = folder.join(AUTHORITY_KEY);
    if key.exists() {
        let why = format!("{}: there is an authority already; it is never replaced", key.display());
        return Err(Fault::new(Blame::Conflict, why));
    }
    sordino::model::create_own(&key, authority.key_pem().as_bytes())?;
    Ok(sordino::model::write_whole(&folder.join(AUTHORITY), authority.certificate_pem().as_bytes())?)
}

/// The authority in a folder.
///
/// # Errors
/// When there is none.
pub fn kept(folder: &Path) -> Result<Authority> {
    let path = folder.join(AUTHORITY_KEY);
    let none = || Fault::usage(format!("{}: no such file; `sordino cert ca` makes an authority", path.display()));
    let key = sordino::private::read(&path).map_err(Fault::from)?.ok_or_else(none)?;
    let key = zeroize::Zeroizing::new(key);
    let certificate = std::fs::read(folder.join(AUTHORITY)).map_err(sordino::Error::at(folder.join(AUTHORITY)))?;
    let named = |why: String| Fault::usage(format!("{}: {why}", folder.display()));
    let text = std::str::from_utf8(&key).map_err(|e| named(e.to_string()))?;
    Authority::from_pem(&certificate, text).map_err(named)
}

/// Makes a certificate and its key in a folder, with the authority's certificate beside them. Returns the certificate's file and its fingerprint.
///
/// # Errors
/// When the authority cannot be read, the name is none, or a key of that name is there already and `renew` does not say that it goes.
pub fn certificate(
    authority: &Path,
    whose: &Whose,
    days: u32,
    folder: &Path,
    renew: bool,
) -> Result<(PathBuf, String)> {
    let name = whose.name()?;
    let ca = kept(authority)?;
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let identity = ca.identity_of(&name, now - day, now + day * days);
    let identity = identity.map_err(|e| failed("a certificate cannot be made")(&e))?;
    sordino::private::folder(folder, true)?;
    let (chain, key) = identity.to_pem();
    let (chain_file, key_file) = (folder.join(whose.stem() + ".pem"), folder.join(whose.stem() + ".key"));
    if renew {
        sordino::model::write_own(&key_file, key.as_bytes())?;
    } else {
        if key_file.exists() {
            let why = format!("{}: it is there already; --renew replaces it", key_file.display());
            return Err(Fault::new(Blame::Conflict, why));
        }
        sordino::model::create_own(&key_file, key.as_bytes())?;
    }
    sordino::model::write_whole(&chain_file, chain.as_bytes())?;
    if folder != authority {
        sordino::model::write_whole(&folder.join(AUTHORITY), ca.certificate_pem().as_bytes())?;
    }
    Ok((chain_file, identity.fingerprint()))
}
