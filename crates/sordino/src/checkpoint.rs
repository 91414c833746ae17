//! A server's shares of the states of a training, on its own disk: encrypted under its own key, written whole or not at
//! all, the last two kept.
//!
//! File: one line of JSON (server, iteration, session, training), which is authenticated; a nonce; AES-256-GCM of both
//! components of every state; SHA-256 of all that, by which damage shows without a key. The key is made on first use and lies beside, readable by its owner alone; whoever runs a
//! server on a host of its own puts the folder on a disk that only this server reads.

use crate::model::{create_own, write_own};
use crate::{Error, Result, private};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where, how often, and from where on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Folder of the files.
    pub folder: PathBuf,
    /// Iterations from one to the next; none to read only.
    pub every: Option<usize>,
    /// The files to go on from, if there are any.
    pub from: Option<Mark>,
    /// What the files belong to.
    pub training: Training,
}

/// The training that files belong to. All of it is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Training {
    /// Hash of its program.
    pub program: [u8; 32],
    /// Hash of the one other program that may use its states: the one that answers with them.
    pub answer: [u8; 32],
    /// Hash of how pictures reach the model.
    pub preprocess: [u8; 32],
    /// The owners' tag of their data and their order, which only they can make or check.
    pub data: [u8; 32],
}

/// Which of a training's files: shares of different sessions do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Iterations that are done.
    pub iteration: usize,
    /// The session that wrote them.
    pub session: [u8; 16],
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    server: u8,
    mark: Mark,
    training: Training,
}

/// Keeps other trainings out of a folder while it lives.
pub struct Lock(#[expect(dead_code, reason = "closing the file is what unlocks")] std::fs::File);

/// Locks a folder for one training; makes the folder if `make` says so.
///
/// # Errors
/// [`Error::File`] while another process has it locked, or when it cannot be written.
pub fn lock(folder: &Path, make: bool) -> Result<Lock> {
    let fault = |why: String| Error::File { path: folder.into(), why };
    if !make && newest(folder).is_none() {
        return Err(fault("it holds no checkpoints; start without --resume".into()));
    }
    private::folder(folder, make)?;
    let path = folder.join("lock");
    private::locked(&path, folder, "another training is using it; wait, or take another folder").map(Lock)
}

fn missing(path: &Path) -> Error {
    Error::File { path: path.into(), why: "no such file".into() }
}

fn file(folder: &Path, server: u8, iteration: usize) -> PathBuf {
    folder.join(format!("server-{server}-{iteration:09}.checkpoint"))
}

/// Iterations that a server has a file of.
fn iterations(folder: &Path, server: u8) -> Vec<usize> {
    let prefix = format!("server-{server}-");
    let number = |path: &Path| {
        let i = path.file_name()?.to_str()?.strip_prefix(&prefix)?.strip_suffix(".checkpoint")?.parse().ok()?;
        // Only names that are written here.
        (path == file(folder, server, i)).then_some(i)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<usize> = entries.filter_map(|e| number(&e.path())).collect();
    found.sort_unstable();
    found
}

/// The header of a file, without its seal, and where it ends.
fn header(path: &Path, bytes: &[u8]) -> Result<(Header, usize)> {
    let fault = || Error::File { path: path.into(), why: "not a checkpoint".into() };
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(fault)?;
    Ok((serde_json::from_slice(&bytes[..end]).map_err(|_| fault())?, end))
}

/// A file's contents up to its hash, if that is right.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (content, hash) = bytes.split_last_chunk::<32>()?;
    (Sha256::digest(content)[..] == hash[..]).then_some(content)
}

/// The last iteration that some server has a file of.
#[must_use]
pub fn newest(folder: &Path) -> Option<usize> {
    (0..3).filter_map(|server| iterations(folder, server).pop()).max()
}

/// The header alone of a file that need not be sound; `None` when it has none.
fn first_line(path: &Path) -> Result<Option<Header>> {
    let Some(file) = private::reader(path)? else { return Ok(None) };
    let mut line = vec![];
    std::io::BufReader::new(file).take(1 << 16).read_until(b'\n', &mut line).map_err(Error::at(path))?;
    Ok(header(path, &line).ok().map(|(header, _)| header))
}

/// The mark of a server's file, or what is wrong with it.
fn sound(folder: &Path, server: u8, iteration: usize) -> Result<std::result::Result<Mark, &'static str>> {
    let path = file(folder, server, iteration);
    // A disk that cannot be read is no damage: what it holds must not be passed over.
    let Some(bytes) = private::read(&path)? else { return Ok(Err("is missing")) };
    let header = whole(&bytes).and_then(|content| header(&path, content).ok());
    Ok(match header {
        None => Err("is damaged"),
        Some((header, _)) if header.server != server => Err("is another server's"),
        Some((header, _)) => Ok(header.mark),
    })
}

/// What all three servers' undamaged files of an iteration have as their mark, or what is wrong with which.
fn common(folder: &Path, iteration: usize) -> Result<std::result::Result<Mark, String>> {
    let mut marks = vec![];
    for server in 0..3 {
        match sound(folder, server, iteration)? {
            Ok(mark) => marks.push(mark),
            Err(why) => {
                let path = file(folder, server, iteration);
                let name = path.file_name().unwrap_or_default().display();
                return Ok(Err(format!("{name} {why}")));
            }
        }
    }
    let same = marks.iter().all(|m| *m == marks[0]);
    Ok(if same { Ok(marks[0]) } else { Err(format!("the files of iteration {iteration} are of different sessions")) })
}

/// The last iteration up to one that all three servers have an undamaged file of, written in the same session.
///
/// # Errors
/// [`Error::File`] for a file that cannot be read.
pub fn latest(folder: &Path, most: usize) -> Result<Option<Mark>> {
    for i in iterations(folder, 0).into_iter().rev().filter(|&i| i <= most) {
        if let Ok(mark) = common(folder, i)? {
            return Ok(Some(mark));
        }
    }
    Ok(None)
}

/// The key of a server or an owner; made on first use if files are written.
fn secret_key(folder: &Path, name: &str, make: bool) -> Result<Zeroizing<[u8; 32]>> {
    let path = folder.join(format!("{name}.key"));
    let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
    let mut key = Zeroizing::new([0u8; 32]);
    if let Some(found) = private::read(&path)?.map(Zeroizing::new) {
        if found.len() != key.len() {
            return Err(fault("not a key of 32 bytes"));
        }
        key.copy_from_slice(&found);
        return Ok(key);
    }
    if !make {
        return Err(fault("it is missing; what was sealed with it cannot be read"));
    }
    getrandom::fill(key.as_mut_slice()).map_err(|_| fault("the operating system's random generator failed"))?;
    // One that has come into being meanwhile stays.
    create_own(&path, key.as_slice())?;
    Ok(key)
}

/// The owners' key, with which they tag their data: a plain hash would let servers test guesses.
///
/// # Errors
/// [`Error::File`]; a missing key is only made when `make` says so.
pub fn owner_key(folder: &Path, make: bool) -> Result<Zeroizing<[u8; 32]>> {
    secret_key(folder, "owner", make)
}

fn seal(folder: &Path, server: u8, make: bool) -> Result<RandomizedNonceKey> {
    let key = secret_key(folder, &format!("server-{server}"), make)?;
    let fault = || Error::File { path: folder.into(), why: format!("the key of server {server} is refused") };
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| fault())
}

impl Checkpoints {
    /// Iterations that are done.
    #[must_use]
    pub fn first(&self) -> usize {
        self.from.map_or(0, |m| m.iteration)
    }

    /// Writes a server's shares, made in this session, after so many iterations. Keeps the file before it, of this session or
    /// the one gone on from; other files were left by sessions that nobody goes on from, and go.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, server: u8, mark: Mark, mut shares: Zeroizing<Vec<u8>>) -> Result<()> {
        let path = file(&self.folder, server, mark.iteration);
        let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
        let header = Header { server, mark, training: self.training };
        let header = serde_json::to_vec(&header).map_err(|e| fault(&e.to_string()))?;
        let sealed = seal(&self.folder, server, true)?.seal_in_place_append_tag(Aad::from(&header), &mut *shares);
        let nonce = sealed.map_err(|_| fault("it cannot be encrypted"))?;
        let mut bytes = [&header[..], b"\n", nonce.as_ref(), &shares].concat();
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        write_own(&path, &bytes)?;
        let usable = |i: &usize| match first_line(&file(&self.folder, server, *i)) {
            Ok(found) => found.is_some_and(|h| h.mark.session == mark.session || Some(h.mark) == self.from),
            // What cannot be read now may be readable later.
            Err(_) => true,
        };
        let (keep, rest): (Vec<usize>, Vec<usize>) = iterations(&self.folder, server).into_iter().partition(usable);
        for old in keep.into_iter().rev().skip(2).chain(rest) {
            let old = file(&self.folder, server, old);
            std::fs::remove_file(&old).map_err(Error::at(&old))?;
        }
        Ok(())
    }

    /// Why the files of a newer iteration are not used, if there are such.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read.
    pub fn passed_over(&self) -> Result<Option<String>> {
        match newest(&self.folder).filter(|n| *n > self.first()) {
            None => Ok(None),
            Some(newest) => {
                let why = common(&self.folder, newest)?.err();
                Ok(Some(why.unwrap_or_else(|| format!("the loss of iteration {newest} was not heard"))))
            }
        }
    }

    /// Checks that the files to go on from belong to this training, as far as their headers say, and that their keys are
    /// there; servers check for themselves.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn belongs(&self) -> Result<()> {
        for server in 0..3 {
            let path = file(&self.folder, server, self.first());
            let bytes = private::read(&path)?.ok_or_else(|| missing(&path))?;
            self.header(server, &path, &bytes)?;
            seal(&self.folder, server, false)?;
        }
        Ok(())
    }

    /// The end of a header that is as it must be.
    fn header(&self, server: u8, path: &Path, bytes: &[u8]) -> Result<usize> {
        let (header, end) = header(path, bytes)?;
        let (found, own) = (&header.training, &self.training);
        let why = if header.server != server || Some(header.mark) != self.from {
            "it is not the file that it is named as"
        } else if found.data != own.data {
            "it belongs to a training with other data, other options for pictures, another order of owners or another --seed"
        } else if found.program != own.program {
            "it belongs to a training with another model or other options (--rate, --batch, --iterations, --margin, --reveal-loss, ...)"
        } else if found != own {
            "it belongs to a training with other ranges: with other --calibration-iterations, or as many --iterations as those at most"
        } else {
            return Ok(end);
        };
        Err(Error::File { path: path.into(), why: why.into() })
    }

    /// Reads a server's shares for a program: the one that trains, or the one that may answer.
    ///
    /// # Errors
    /// [`Error::File`] for a missing or damaged file, or one of another training.
    pub fn read(&self, server: u8, program: [u8; 32]) -> Result<Zeroizing<Vec<u8>>> {
        let path = file(&self.folder, server, self.first());
        let fault = |why: &str| Error::File { path: path.clone(), why: why.into() };
        let wanted = if self.every.is_some() { self.training.program } else { self.training.answer };
        if program != wanted {
            return Err(fault("another program asks for these shares than the one they are kept for"));
        }
        private::folder(&self.folder, false)?;
        let mut bytes = Zeroizing::new(private::read(&path)?.ok_or_else(|| missing(&path))?);
        let end = self.header(server, &path, &bytes)?;
        let content = whole(&bytes).ok_or_else(|| fault("it is damaged"))?.len();
        bytes.truncate(content);
        let from = end + 1 + NONCE_LEN;
        if bytes.len() < from {
            return Err(fault("it ends too early"));
        }
        let aad = bytes[..end].to_vec();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[end + 1..from]);
        let opened =
            seal(&self.folder, server, false)?.open_in_place(Nonce::from(&nonce), Aad::from(aad), &mut bytes[from..]);
        let plain = opened.map_err(|_| fault("the key beside it is not the one it was sealed with"))?;
        Ok(Zeroizing::new(plain.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_iteration_of_all_three_always_remains() {
        let dir = tempfile::tempdir().unwrap();
        let training = Training { program: [1; 32], answer: [2; 32], preprocess: [3; 32], data: [4; 32] };
        let go = |from: Option<Mark>, session: u8, servers: std::ops::Range<u8>, iteration: usize| {
            let to = Checkpoints { folder: dir.path().into(), every: Some(10), from, training };
            for server in servers {
                let mark = Mark { iteration, session: [session; 16] };
                to.write(server, mark, Zeroizing::new(vec![session; 40])).unwrap();
            }
            latest(dir.path(), usize::MAX).unwrap().map(|m| (m.iteration, m.session[0]))
        };
        assert_eq!(go(None, 1, 0..3, 40), Some((40, 1)));
        assert_eq!(go(None, 1, 0..3, 50), Some((50, 1)));
        // Killed while 60 was written; then, with another interval, while 100 was.
        assert_eq!(go(None, 1, 0..1, 60), Some((50, 1)));
        let from = latest(dir.path(), usize::MAX).unwrap();
        assert_eq!(go(from, 2, 0..1, 100), Some((50, 1)));
        assert_eq!(go(from, 2, 1..3, 100), Some((100, 2)));
        assert_eq!(go(from, 2, 0..1, 150), Some((100, 2)));
        assert_eq!(iterations(dir.path(), 0), [100, 150]);
        // A damaged file is passed over, and goes when the next is written.
        let path = file(dir.path(), 0, 150);
        write_own(&path, &std::fs::read(&path).unwrap()[..90]).unwrap();
        assert_eq!(go(latest(dir.path(), usize::MAX).unwrap(), 3, 0..3, 200), Some((200, 3)));
        assert_eq!(iterations(dir.path(), 0), [100, 200]);
        assert_eq!(latest(dir.path(), 199).unwrap().map(|m| m.iteration), Some(100));
        // Swapped files are passed over too, and named; so are names that are not written here.
        let [zero, one] = [0, 1].map(|server| file(dir.path(), server, 200));
        let aside = dir.path().join("server-0-7.checkpoint");
        std::fs::rename(&zero, &aside).unwrap();
        std::fs::rename(&one, &zero).unwrap();
        std::fs::rename(&aside, &one).unwrap();
        std::fs::write(&aside, b"{}").unwrap();
        let from = latest(dir.path(), usize::MAX).unwrap();
        assert_eq!(from.map(|m| m.iteration), Some(100));
        let to = Checkpoints { folder: dir.path().into(), every: Some(10), from, training };
        assert_eq!(to.passed_over().unwrap().unwrap(), "server-0-000000200.checkpoint is another server's");
        assert_eq!(go(from, 4, 0..3, 110), Some((110, 4)));
        assert!(aside.exists());
    }

    #[test]
    fn one_training_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("kept");
        let first = lock(&dir, true).unwrap();
        assert!(lock(&dir, true).is_err());
        drop(first);
        assert!(lock(&dir, true).is_ok());
    }
}
