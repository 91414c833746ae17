//! Who may be whom: certificates for the roles of one session, signed by its authority.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde::{Deserialize, Serialize};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use std::time::Duration;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What an end needs to prove its role and to check others'. Erased on drop; no `Debug`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Identity {
    #[zeroize(skip)]
    pub(super) authority: Vec<u8>,
    #[zeroize(skip)]
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Identity {
    /// Whether it is for this end.
    #[must_use]
    pub fn is_for(&self, topology: &Topology, end: Endpoint) -> bool {
        let certificate = rustls::pki_types::CertificateDer::from(self.certificate.as_slice());
        let Ok(parsed) = webpki::EndEntityCert::try_from(&certificate) else { return false };
        rustls::pki_types::ServerName::try_from(role_name(topology, end))
            .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

/// Signs certificates for the roles of one session.
pub struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// The name in an end's certificate.
pub(super) fn role_name(topology: &Topology, end: Endpoint) -> String {
    format!("{}.sordino", topology.slug(end))
}

impl Authority {
    /// A fresh authority whose key never leaves this process.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "sordino session authority");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// An identity for a role, valid for a day around now.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity(&self, topology: &Topology, end: Endpoint) -> Result<Identity, rcgen::Error> {
        let now = std::time::SystemTime::now();
        let day = Duration::from_secs(86400);
        self.identity_between(topology, end, now - day, now + day)
    }

    /// An identity valid between two moments.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity_between(
        &self,
        topology: &Topology,
        end: Endpoint,
        from: std::time::SystemTime,
        to: std::time::SystemTime,
    ) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(vec![role_name(topology, end)])?;
        params.not_before = from.into();
        params.not_after = to.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(Identity { authority: self.certificate.clone(), certificate, key: key.serialize_der() })
    }
}
