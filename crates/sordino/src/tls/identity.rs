//! Who may be whom: certificates for names, signed by an authority.

use super::provider;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sordino_mpc::Topology;
use sordino_net::Endpoint;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What an end needs to prove its role and to check others'. Erased on drop; no `Debug`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Identity {
    /// Whose signatures count.
    #[zeroize(skip)]
    authorities: Vec<Vec<u8>>,
    /// Its certificate, then those between it and an authority, if there are any.
    #[zeroize(skip)]
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// Whether a certificate is for a name.
pub(super) fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return false };
    ServerName::try_from(name).is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
}

/// The names that a certificate is for.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map_or_else(|_| vec![], |c| c.valid_dns_names().map(str::to_string).collect())
}

/// SHA-256 of a certificate, as 64 hexadecimal digits.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|b| format!("{b:02x}")).collect()
}

impl Identity {
    /// From the files of a certificate authority: the authorities' certificates, the chain that begins with this one's own, and
    /// its key (PKCS #8).
    ///
    /// # Errors
    /// One sentence when a file holds something else.
    pub fn from_pem(authorities: &[u8], chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let certificates = |pem: &[u8], what: &str| -> Result<Vec<Vec<u8>>, String> {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let all = all.map_err(|e| format!("{what} cannot be read: {e}"))?;
            if all.is_empty() {
                return Err(format!("{what} holds no certificate"));
            }
            Ok(all.into_iter().map(|c| c.to_vec()).collect())
        };
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(PrivateKeyDer::Pkcs8(key)) => key.secret_pkcs8_der().to_vec(),
            Ok(_) => return Err("the key is not in PKCS #8 form; `openssl pkcs8 -topk8 -nodes` makes it so".into()),
            Err(_) => return Err("there is no private key in the key's file".into()),
        };
        let authorities = certificates(authorities, "the authorities' file")?;
        Ok(Self { authorities, chain: certificates(chain, "the certificate's file")?, key })
    }

    /// The certificate and the key, as files hold them.
    #[must_use]
    pub fn to_pem(&self) -> (String, Zeroizing<String>) {
        let chain = self.chain.iter().map(|c| pem("CERTIFICATE", c)).collect();
        (chain, Zeroizing::new(pem("PRIVATE KEY", &self.key)))
    }

    /// Whether it is for this end.
    #[must_use]
    pub fn is_for(&self, topology: &Topology, end: Endpoint) -> bool {
        self.chain.first().is_some_and(|c| is_for(&CertificateDer::from(c.as_slice()), &role_name(topology, end)))
    }

    /// The names that it is for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.chain.first().map_or_else(Vec::new, |c| names(&CertificateDer::from(c.as_slice())))
    }

    /// Its certificate's [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.chain.first().map_or_else(String::new, |c| fingerprint(&CertificateDer::from(c.as_slice())))
    }

    /// The second after 1970 in which its own certificate expires.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        let own = CertificateDer::from(self.chain.first()?.as_slice());
        // A verification in a time that no certificate lives to says when it did.
        const FAR: u64 = 1 << 40;
        let far = UnixTime::since_unix_epoch(Duration::from_secs(FAR));
        let usage = webpki::KeyUsage::server_auth();
        let parsed = webpki::EndEntityCert::try_from(&own).ok()?;
        match parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], far, usage, None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        }
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        self.authorities.iter().try_for_each(|a| roots.add(CertificateDer::from(a.clone())))?;
        Ok(Arc::new(roots))
    }

    fn certified(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = self.chain.iter().map(|c| CertificateDer::from(c.clone())).collect();
        (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone())))
    }

    /// How it dials: TLS 1.3 alone, with its certificate.
    ///
    /// # Errors
    /// When the identity is malformed.
    pub fn dialler(&self) -> Result<ClientConfig, rustls::Error> {
        let (chain, key) = self.certified();
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
    }

    /// How it accepts: TLS 1.3 alone, from diallers with a certificate of its authorities.
    ///
    /// # Errors
    /// When the identity is malformed.
    pub fn accepter(&self) -> Result<ServerConfig, rustls::Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let (chain, key) = self.certified();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // Every connection proves anew who dials: nothing to resume.
        server.send_tls13_tickets = 0;
        Ok(server)
    }
}

impl Identity {
    /// Whether it can be used now: key and certificate fit, and its time has come and is not over, as far as its own authorities know it; others may be
    /// needed for it than for its peers. Shakes hands with itself, in memory.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        use rustls::{CertificateError as Cert, Error as Tls};
        let sentence = |e: Tls| match e {
            Tls::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. }) => "it has expired".to_string(),
            Tls::InvalidCertificate(Cert::NotValidYet | Cert::NotValidYetContext { .. }) => {
                "it is not valid yet".into()
            }
            Tls::InconsistentKeys(_) => "the key is not its own".into(),
            e => format!("it cannot be used: {e}"),
        };
        let name = self.names().into_iter().next().ok_or("it is for no name")?;
        let name = ServerName::try_from(name).map_err(|e| format!("it is for no name that is one: {e}"))?;
        let (dialler, accepter) = (self.dialler().map_err(sentence)?, self.accepter().map_err(sentence)?);
        let mut dialler = rustls::ClientConnection::new(Arc::new(dialler), name).map_err(sentence)?;
        let mut accepter = rustls::ServerConnection::new(Arc::new(accepter)).map_err(sentence)?;
        let broken = |e: std::io::Error| format!("it cannot be used: {e}");
        let foreign = |e: &Tls| matches!(e, Tls::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature));
        while dialler.is_handshaking() || accepter.is_handshaking() {
            let mut bytes = vec![];
            while dialler.wants_write() {
                dialler.write_tls(&mut bytes).map_err(broken)?;
            }
            accepter.read_tls(&mut &bytes[..]).map_err(broken)?;
            accepter.process_new_packets().map_err(sentence)?;
            bytes.clear();
            while accepter.wants_write() {
                accepter.write_tls(&mut bytes).map_err(broken)?;
            }
            dialler.read_tls(&mut &bytes[..]).map_err(broken)?;
            match dialler.process_new_packets() {
                Err(e) if foreign(&e) => return Ok(()),
                other => other.map(|_| ()).map_err(sentence)?,
            }
        }
        Ok(())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

/// Signs certificates.
pub struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// The name in an end's certificate.
pub(super) fn role_name(topology: &Topology, end: Endpoint) -> String {
    format!("{}.sordino", topology.slug(end))
}

/// The name of its own that an end of this role has, of those in its certificate.
#[must_use]
pub fn own_name(topology: &Topology, end: Endpoint, names: &[String]) -> Option<String> {
    let role = role_name(topology, end);
    names.iter().find_map(|name| Some(name.strip_suffix(&role)?.strip_suffix('.')?.to_string()))
}

/// What an authority says of itself. Its name is that of its key, so that two of them are never taken for each other.
fn authority(key: &KeyPair) -> Result<CertificateParams, rcgen::Error> {
    let digest = Sha256::digest(key.public_key_raw());
    let name: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, format!("sordino authority {name}"));
    Ok(params)
}

impl Authority {
    /// A fresh authority.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = authority(&key)?;
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// One that was made before and kept in files.
    ///
    /// # Errors
    /// One sentence when they hold something else.
    pub fn from_pem(certificate: &[u8], key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|_| "it holds no private key of an authority".to_string())?;
        let certificate =
            CertificateDer::from_pem_slice(certificate).map_err(|_| "it holds no certificate".to_string())?.to_vec();
        let params = authority(&key).map_err(|e| e.to_string())?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, which everybody needs.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Its key, which makes whoever has it anybody.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// An identity for a role, valid for a day around now.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity(&self, topology: &Topology, end: Endpoint) -> Result<Identity, rcgen::Error> {
        let (now, day) = (SystemTime::now(), Duration::from_secs(86400));
        self.identity_between(topology, end, now - day, now + day)
    }

    /// An identity for a role, valid between two moments.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn identity_between(
        &self,
        topology: &Topology,
        end: Endpoint,
        from: SystemTime,
        to: SystemTime,
    ) -> Result<Identity, rcgen::Error> {
        self.identity_of(&role_name(topology, end), from, to)
    }

    /// An identity for a role and a name of its own, `NAME.ROLE`, valid between two moments.
    ///
    /// # Errors
    /// When keys cannot be made, or the name is none.
    pub fn identity_named(
        &self,
        topology: &Topology,
        end: Endpoint,
        name: &str,
        [from, to]: [SystemTime; 2],
    ) -> Result<Identity, rcgen::Error> {
        let role = role_name(topology, end);
        self.signed(&[&role, &format!("{name}.{role}")], from, to)
    }

    /// An identity for a name, valid between two moments.
    ///
    /// # Errors
    /// When keys cannot be made, or the name is none.
    pub fn identity_of(&self, name: &str, from: SystemTime, to: SystemTime) -> Result<Identity, rcgen::Error> {
        self.signed(&[name], from, to)
    }

    fn signed(&self, names: &[&str], from: SystemTime, to: SystemTime) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, names.last().copied().unwrap_or_default());
        params.not_before = from.into();
        params.not_after = to.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(Identity { authorities: vec![self.certificate.clone()], chain: vec![certificate], key: key.serialize_der() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let authority = Authority::new().unwrap();
        let kept = Authority::from_pem(authority.certificate_pem().as_bytes(), &authority.key_pem()).unwrap();
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let identity = kept.identity_of("alice.client.sordino", now - hour, now + hour).unwrap();
        let (chain, key) = identity.to_pem();
        let read =
            Identity::from_pem(authority.certificate_pem().as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!((read.names(), read.fingerprint()), (vec!["alice.client.sordino".into()], identity.fingerprint()));
        read.check().unwrap();
        let end = (now + hour).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(read.expires().unwrap().abs_diff(end) < 2);
        let over = kept.identity_of("alice.client.sordino", now - 2 * hour, now - hour).unwrap();
        assert_eq!(over.check().unwrap_err(), "it has expired");
        let early = kept.identity_of("alice.client.sordino", now + hour, now + 2 * hour).unwrap();
        assert_eq!(early.check().unwrap_err(), "it is not valid yet");
        let mut other = kept.identity_of("alice.client.sordino", now - hour, now + hour).unwrap();
        other.authorities.clone_from(&Authority::new().unwrap().identity_of("x.y", now, now).unwrap().authorities);
        other.check().unwrap();
        other.key.clone_from(&over.key);
        assert_eq!(other.check().unwrap_err(), "the key is not its own");
        assert!(Identity::from_pem(b"", chain.as_bytes(), key.as_bytes()).is_err());
        assert!(Identity::from_pem(chain.as_bytes(), chain.as_bytes(), chain.as_bytes()).is_err());
    }
}
