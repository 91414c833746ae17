//! A server's shares of the states of a training, on its own disk: encrypted under its own key, written whole or not at
//! all, the last two kept.
//!
//! File: one line of JSON (server, iteration, hashes of the program and the data), which is authenticated; a nonce; AES-256-GCM of both
//! components of every state. The key is made on first use and lies beside, readable by its owner alone; whoever runs a
//! server on a host of its own puts the folder on a disk that only this server reads.

use crate::model::write_whole;
use crate::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where, how often, and from where on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Folder of the files.
    pub folder: PathBuf,
    /// Iterations from one to the next; none to read only.
    pub every: Option<usize>,
    /// Iterations that are done already.
    pub first: usize,
    /// Hash of the data and their order.
    pub data: [u8; 32],
    /// Hash of the program that wrote them, where that is not the one that runs.
    pub program: Option<[u8; 32]>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    server: u8,
    iteration: usize,
    program: [u8; 32],
    data: [u8; 32],
}

fn file(folder: &Path, server: u8, iteration: usize) -> PathBuf {
    folder.join(format!("server-{server}-{iteration:09}.checkpoint"))
}

/// Iterations that a server has a file of.
fn iterations(folder: &Path, server: u8) -> Vec<usize> {
    let prefix = format!("server-{server}-");
    let number = |name: &str| name.strip_prefix(&prefix)?.strip_suffix(".checkpoint")?.parse().ok();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<usize> = entries.filter_map(|e| number(e.file_name().to_str()?)).collect();
    found.sort_unstable();
    found
}

/// The last iteration that all three servers have a file of.
#[must_use]
pub fn latest(folder: &Path) -> Option<usize> {
    let all: Vec<Vec<usize>> = (0..3).map(|s| iterations(folder, s)).collect();
    all[0].iter().rev().copied().find(|i| all[1].contains(i) && all[2].contains(i))
}

fn key(folder: &Path, server: u8) -> Result<RandomizedNonceKey> {
    let path = folder.join(format!("server-{server}.key"));
    let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
    let mut key = Zeroizing::new([0u8; 32]);
    if path.exists() {
        let found = Zeroizing::new(std::fs::read(&path).map_err(Error::at(&path))?);
        if found.len() != key.len() {
            return Err(fault("not a key of 32 bytes"));
        }
        key.copy_from_slice(&found);
    } else {
        getrandom::fill(key.as_mut_slice()).map_err(|_| fault("the operating system's random generator failed"))?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
        let mut file = builder.tempfile_in(folder).map_err(Error::at(&path))?;
        file.write_all(key.as_slice()).and_then(|()| file.as_file().sync_all()).map_err(Error::at(&path))?;
        file.persist(&path).map_err(|e| Error::at(&path)(e.error))?;
    }
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| fault("the key is refused"))
}

impl Checkpoints {
    /// Writes a server's shares after so many iterations and drops all but the last two files.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, server: u8, iteration: usize, program: [u8; 32], mut shares: Zeroizing<Vec<u8>>) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(Error::at(&self.folder))?;
        let path = file(&self.folder, server, iteration);
        let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
        let header = Header { server, iteration, program, data: self.data };
        let header = serde_json::to_vec(&header).map_err(|e| fault(&e.to_string()))?;
        let sealed = key(&self.folder, server)?.seal_in_place_append_tag(Aad::from(&header), &mut *shares);
        let nonce = sealed.map_err(|_| fault("it cannot be encrypted"))?;
        let bytes = [&header[..], b"\n", nonce.as_ref(), &shares].concat();
        write_whole(&path, &bytes)?;
        let all = iterations(&self.folder, server);
        for old in all.iter().rev().skip(2) {
            let old = file(&self.folder, server, *old);
            std::fs::remove_file(&old).map_err(Error::at(&old))?;
        }
        Ok(())
    }

    /// Checks that the files to go on from belong to this training, as far as their headers say; servers check for themselves.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn belongs(&self, program: [u8; 32]) -> Result<()> {
        for server in 0..3 {
            let path = file(&self.folder, server, self.first);
            let bytes = std::fs::read(&path).map_err(Error::at(&path))?;
            self.header(server, program, &path, &bytes)?;
        }
        Ok(())
    }

    /// The end of a header that is as it must be.
    fn header(&self, server: u8, program: [u8; 32], path: &Path, bytes: &[u8]) -> Result<usize> {
        let fault = |why: &str| Error::File { path: path.into(), why: why.into() };
        let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| fault("not a checkpoint"))?;
        let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|_| fault("not a checkpoint"))?;
        if header != (Header { server, iteration: self.first, program, data: self.data }) {
            return Err(fault("it belongs to another training: the same model, data and options are needed"));
        }
        Ok(end)
    }

    /// Reads a server's shares after `first` iterations.
    ///
    /// # Errors
    /// [`Error::File`] for a missing or damaged file, or one of another training.
    pub fn read(&self, server: u8, program: [u8; 32]) -> Result<Zeroizing<Vec<u8>>> {
        let path = file(&self.folder, server, self.first);
        let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
        let mut bytes = Zeroizing::new(std::fs::read(&path).map_err(Error::at(&path))?);
        let end = self.header(server, program, &path, &bytes)?;
        let from = end + 1 + NONCE_LEN;
        if bytes.len() < from {
            return Err(fault("it ends too early"));
        }
        let aad = bytes[..end].to_vec();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[end + 1..from]);
        let key = key(&self.folder, server)?;
        let opened = key.open_in_place(Nonce::from(&nonce), Aad::from(aad), &mut bytes[from..]);
        let plain = opened.map_err(|_| fault("it is damaged, or the key beside it is another one"))?;
        Ok(Zeroizing::new(plain.to_vec()))
    }
}
