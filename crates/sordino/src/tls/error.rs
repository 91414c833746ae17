//! Why two processes could not connect, and whose fault it is.

use std::net::SocketAddr;

/// Why two processes could not connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer cannot be reached in time.
    #[error("cannot reach {peer} at {address}: {why}")]
    Unreachable {
        /// Who was dialled.
        peer: String,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// The certificate is not signed by the session's authority.
    #[error("{peer} has a certificate of another authority")]
    UnknownAuthority {
        /// Who.
        peer: String,
    },
    /// The certificate is no longer or not yet valid.
    #[error("the certificate of {peer} has expired or is not yet valid")]
    Expired {
        /// Who.
        peer: String,
    },
    /// The certificate is for another role.
    #[error("{peer} has a certificate for another role")]
    WrongRole {
        /// Who it claims or is expected to be.
        peer: String,
    },
    /// The connection comes from this very end.
    #[error("an end connected to itself")]
    SelfDial,
    /// A role that is not expected, or connected already.
    #[error("{peer} is not expected to connect now")]
    Unexpected {
        /// Who.
        peer: String,
    },
    /// The peer belongs to another session.
    #[error("{peer} belongs to another session")]
    WrongSession {
        /// Who.
        peer: String,
    },
    /// Somebody else's failure ended the session before this connection was made.
    #[error("the session ended before {peer} was connected")]
    Stopped {
        /// Who.
        peer: String,
    },
    /// What came is no handshake of this version.
    #[error("{peer} did not complete the handshake: {why}")]
    Handshake {
        /// Who.
        peer: String,
        /// What happened.
        why: String,
    },
}

impl ConnectError {
    /// True for what may pass: a peer that is not there yet, or too busy.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Handshake { .. })
    }
}

/// What a failed handshake says of the peer.
pub(super) fn classify(peer: &str, error: &std::io::Error) -> ConnectError {
    let text = error.to_string();
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    use rustls::{AlertDescription as Alert, CertificateError as Cert, Error as Tls};
    let peer = peer.to_string();
    match inner {
        Some(Tls::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature))
        | Some(Tls::AlertReceived(Alert::UnknownCA)) => ConnectError::UnknownAuthority { peer },
        Some(Tls::InvalidCertificate(
            Cert::Expired | Cert::ExpiredContext { .. } | Cert::NotValidYet | Cert::NotValidYetContext { .. },
        ))
        | Some(Tls::AlertReceived(Alert::CertificateExpired)) => ConnectError::Expired { peer },
        Some(Tls::InvalidCertificate(Cert::NotValidForName | Cert::NotValidForNameContext { .. })) => {
            ConnectError::WrongRole { peer }
        }
        _ if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof) => {
            ConnectError::Handshake { peer, why: "it hung up; its time limit may have passed".into() }
        }
        _ if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            ConnectError::Handshake { peer, why: "it did not answer in time".into() }
        }
        _ => ConnectError::Handshake { peer, why: text },
    }
}
