//! Names of models and clients, and the ids of uploads and jobs.

use crate::fault::{Fault, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the certificate of a client says, after its name.
pub const CLIENT: &str = ".client.sordino";

/// What the certificate of an operator says, after its name.
pub const OPERATOR: &str = ".operator.sordino";

/// Checks a name: letters, digits, hyphens and, in models' names, underscores and dots; 1 to 63 of them.
///
/// # Errors
/// When it is none.
pub fn checked(what: &str, name: &str, more: &[u8]) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || more.contains(&b);
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    if (1..=63).contains(&name.len())
        && name.bytes().all(fine)
        && ends(name.bytes().next())
        && ends(name.bytes().last())
    {
        return Ok(());
    }
    let also = if more.is_empty() { "" } else { ", underscores and dots" };
    Err(Fault::usage(format!(
        "{name:?} is no name of {what}: 1 to 63 letters, digits, hyphens{also}, of which the first and the last are letters or digits"
    )))
}

/// Checks a model's name.
///
/// # Errors
/// When it is none.
pub fn model(name: &str) -> Result<()> {
    checked("a model", name, b"_.")
}

/// Checks a client's name.
///
/// # Errors
/// When it is none.
pub fn client(name: &str) -> Result<()> {
    checked("a client", name, b"")
}

/// An id that its maker draws at random: of an upload, or of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn fresh() -> Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| Fault::internal("the operating system's random generator", &e))?;
        Ok(Self(id))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self> {
        let fault = || Fault::usage(format!("{text:?} is no id, which has 32 hexadecimal digits"));
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != 32 || !digits {
            return Err(fault());
        }
        u128::from_str_radix(text, 16).map(|v| Self(v.to_be_bytes())).map_err(|_| fault())
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(|e: Fault| serde::de::Error::custom(e.why))
    }
}

/// 32 bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = Id::fresh().unwrap();
        assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        for wrong in ["", "00", "+0000000000000000000000000000000", &id.to_string().replace(['a', '1', '0'], "G")] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_lead_nowhere() {
        for fine in ["a", "resnet-50", "mnist.onnx", "A_1"] {
            model(fine).unwrap();
        }
        for wrong in ["", ".", "..", "../x", "a/b", "a ", "-a", "a\n", "ü", &"a".repeat(64)] {
            assert!(model(wrong).is_err(), "{wrong}");
        }
        assert!(client("alice").is_ok() && client("a.b").is_err() && client("a_b").is_err());
    }
}
