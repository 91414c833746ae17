//! How many queries each client has asked, over all connections and over restarts.

use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A budget of queries for each client, with what has been spent in a file. A client is who its certificate says.
pub struct Ledger {
    path: PathBuf,
    /// Held as long as this lives: two hosts that count in one file would each forget what the other counts.
    _lock: File,
    budget: u64,
    spent: Mutex<BTreeMap<String, u64>>,
}

impl Ledger {
    /// A ledger in a file, which is made when somebody asks first.
    ///
    /// # Errors
    /// When the file is there and is none, or another host counts in it.
    pub fn open(path: &Path, budget: u64) -> Result<Self> {
        let mut beside = path.as_os_str().to_os_string();
        beside.push(".lock");
        let beside = PathBuf::from(beside);
        let busy = "another host counts queries in it; give each its own, with --ledger";
        let lock = crate::private::locked(&beside, path, busy)?;
        let spent = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                let why = format!("it is no count of queries by client, such as {{\"alice\": 3}}: {e}");
                Error::File { path: path.into(), why }
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(Error::at(path)(e)),
        };
        Ok(Self { path: path.into(), _lock: lock, budget, spent: Mutex::new(spent) })
    }

    /// How many a client may still ask.
    #[must_use]
    pub fn left(&self, client: &str) -> u64 {
        let spent = self.spent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.budget.saturating_sub(spent.get(client).copied().unwrap_or(0))
    }

    /// Writes down that a client asks so many, before it is answered; false when it has not so many left.
    ///
    /// # Errors
    /// When the file cannot be written: then nothing is spent, and nothing may be answered.
    pub fn spend(&self, client: &str, queries: u64) -> Result<bool> {
        let mut spent = self.spent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = spent.get(client).copied().unwrap_or(0);
        let Some(after) = before.checked_add(queries).filter(|after| *after <= self.budget) else { return Ok(false) };
        let mut all = spent.clone();
        all.insert(client.into(), after);
        let text = serde_json::to_vec_pretty(&all).map_err(|e| Error::Session(e.to_string()))?;
        crate::model::write_own(&self.path, &text)?;
        *spent = all;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_spent_stays_spent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queries.json");
        let ledger = Ledger::open(&path, 5).unwrap();
        assert!(ledger.spend("alice", 3).unwrap() && ledger.spend("bob", 5).unwrap());
        assert!(!ledger.spend("alice", 3).unwrap() && !ledger.spend("carol", u64::MAX).unwrap());
        assert!(Ledger::open(&path, 5).map(|_| ()).unwrap_err().to_string().contains("another host"));
        drop(ledger);
        let again = Ledger::open(&path, 5).unwrap();
        assert_eq!(["alice", "bob", "carol"].map(|name| again.left(name)), [2, 0, 5]);
        assert!(again.spend("alice", 2).unwrap() && !again.spend("alice", 1).unwrap());
        drop(again);
        // A smaller budget than what was spent.
        assert_eq!(Ledger::open(&path, 1).unwrap().left("bob"), 0);
        std::fs::write(&path, "[]").unwrap();
        assert!(Ledger::open(&path, 5).map(|_| ()).unwrap_err().to_string().contains("no count of queries"));
        // What cannot be written down is not spent.
        assert!(Ledger::open(&folder.path().join("no/such/folder.json"), 5).is_err());
        let gone = folder.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let nowhere = Ledger::open(&gone.join("queries.json"), 5).unwrap();
        std::fs::remove_dir_all(&gone).unwrap();
        assert!(nowhere.spend("alice", 1).is_err());
        assert_eq!(nowhere.left("alice"), 5);
    }
}
