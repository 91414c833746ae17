//! Files that belong to one user alone: shares and keys at rest. They are opened without following links, must belong to
//! whoever runs the program, and nobody else may read them; neither may anybody else enter their folder.

use crate::model::folder_of;
use crate::{Error, Result};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::Path;

fn fault(path: &Path, why: impl Into<String>) -> Error {
    Error::File { path: path.into(), why: why.into() }
}

/// Refuses what belongs to somebody else, or is open to others.
fn own(path: &Path, found: &Metadata) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (owner, me) = (found.uid(), rustix::process::geteuid().as_raw());
        if owner != me {
            return Err(fault(path, format!("it belongs to user {owner}, not to user {me} who runs this")));
        }
        let (mode, wanted) = (found.mode() & 0o777, if found.is_dir() { "700" } else { "600" });
        if mode & 0o077 != 0 {
            let why = format!("others have access to it (mode {mode:o}); `chmod {wanted}` closes it");
            return Err(fault(path, why));
        }
    }
    Ok(())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe must not make us wait either.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits() as i32).mode(0o600);
    }
    options
}

/// A regular file of the user's own; `None` when there is none of that name.
fn opened(path: &Path, options: &OpenOptions) -> Result<Option<File>> {
    let file = match options.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) => {
            return Err(fault(path, format!("it is a link, which is not followed here ({e})")));
        }
        Err(e) => return Err(Error::at(path)(e)),
    };
    let found = file.metadata().map_err(Error::at(path))?;
    if !found.is_file() {
        return Err(fault(path, "it is not a regular file"));
    }
    own(path, &found)?;
    Ok(Some(file))
}

/// Checks a folder, and makes it if `make` says so.
///
/// # Errors
/// [`Error::File`] when it is missing, somebody else's, or open to others.
pub fn folder(path: &Path, make: bool) -> Result<()> {
    if make {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = std::fs::create_dir_all(folder_of(path)).and_then(|()| builder.create(path));
        match made {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(fault(path, format!("the folder cannot be made: {e}")));
            }
            _ => {}
        }
    }
    // A link to a folder is a choice of its user; what it leads to is looked at.
    let found = std::fs::metadata(path).map_err(Error::at(path))?;
    if !found.is_dir() {
        return Err(fault(path, "it is not a folder"));
    }
    own(path, &found)
}

/// The contents; `None` when there is no such file.
///
/// # Errors
/// [`Error::File`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = opened(path, options().read(true))? else { return Ok(None) };
    // As large as it is at once: growing would leave copies behind.
    let length = file.metadata().map_err(Error::at(path))?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    file.read_to_end(&mut bytes).map_err(Error::at(path))?;
    Ok(Some(bytes))
}

/// A reader; `None` when there is no such file.
///
/// # Errors
/// [`Error::File`].
pub fn reader(path: &Path) -> Result<Option<File>> {
    opened(path, options().read(true))
}

/// A file to lock, made if it is not there.
///
/// # Errors
/// [`Error::File`].
pub fn lock_file(path: &Path) -> Result<File> {
    let file = opened(path, options().create(true).truncate(false).write(true))?;
    file.ok_or_else(|| fault(path, "the folder is gone"))
}

/// A file, made if it is not there, that no other process gets from here as long as it is open.
///
/// # Errors
/// [`Error::File`]; while another process has it, of `what`, for the reason `busy`.
pub fn locked(path: &Path, what: &Path, busy: &str) -> Result<File> {
    let file = lock_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        // Some file systems of networks have no locks.
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::WouldBlock) => Err(fault(what, busy)),
        Err(TryLockError::Error(e)) => Err(Error::at(path)(e)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::model::create_own as create;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn links_and_what_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        create(&at("key"), b"secret").unwrap();
        assert_eq!(read(&at("key")).unwrap().unwrap(), b"secret");
        assert!(create(&at("key"), b"other").is_err());
        assert_eq!(read(&at("key")).unwrap().unwrap(), b"secret");
        assert!(read(&at("none")).unwrap().is_none());
        symlink(at("key"), at("link")).unwrap();
        assert!(read(&at("link")).unwrap_err().to_string().contains("link"));
        assert!(lock_file(&at("link")).is_err());
        symlink(at("nowhere"), at("dangling")).unwrap();
        assert!(lock_file(&at("dangling")).is_err() && create(&at("dangling"), b"x").is_err());
        assert!(!at("nowhere").exists());
        mode(&at("key"), 0o640);
        assert!(read(&at("key")).unwrap_err().to_string().contains("640"));
        assert!(read(dir.path()).unwrap_err().to_string().contains("regular"));
    }

    #[test]
    fn folders_are_the_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("b");
        folder(&path, true).unwrap();
        folder(&path, true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        mode(&path, 0o755);
        assert!(folder(&path, false).unwrap_err().to_string().contains("chmod 700"));
        assert!(folder(&dir.path().join("none"), false).is_err());
        create(&dir.path().join("file"), b"").unwrap();
        assert!(folder(&dir.path().join("file"), true).is_err());
    }

    #[test]
    fn somebody_elses_are_refused() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give a file away.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("planted.key");
        create(&path, &[7; 32]).unwrap();
        std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("belongs to user 4242"));
        std::os::unix::fs::chown(dir.path(), Some(4242), None).unwrap();
        assert!(folder(dir.path(), true).is_err());
    }
}
