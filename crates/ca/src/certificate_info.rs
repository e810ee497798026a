//! What a certificate says.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_core::{InvalidSpiffeId, SpiffeId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::InvalidCertificate;

/// The contents of a certificate that matter here. Nothing is verified: not its chain, and not its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject, for people.
    pub subject: String,
    /// The URIs among the alternative names.
    pub uris: Vec<String>,
    /// The DNS names and IP addresses among the alternative names.
    pub hosts: Vec<String>,
    /// The start of its validity, in whole seconds.
    pub not_before: SystemTime,
    /// The end of its validity, in whole seconds.
    pub not_after: SystemTime,
    /// Whether it may issue other certificates.
    pub is_authority: bool,
    /// The SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// The public key with its algorithm, as DER.
    pub(crate) public_key: Vec<u8>,
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A certificate that does not name exactly one node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNodeIdentity {
    /// There is no URI: the certificate is not one for nodes.
    #[error("the certificate has no URI that names a node (spiffe://CLUSTER/node/ID)")]
    Missing,
    /// There are several URIs, of which one might be checked and another one used.
    #[error("the certificate has {0} URIs, and must have exactly one, which names the node")]
    Several(usize),
    /// The URI is not the name of a node.
    #[error(transparent)]
    Invalid(#[from] InvalidSpiffeId),
}

impl CertificateInfo {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`InvalidCertificate::X509`] when it is malformed, or has an alternative name that is.
    pub fn parse(der: &[u8]) -> Result<CertificateInfo, InvalidCertificate> {
        let malformed = |reason: String| InvalidCertificate::X509(reason);
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the certificate".to_owned()));
        }
        let (mut uris, mut hosts) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|error| malformed(error.to_string()))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(octets) => {
                    let address = parse_address(octets);
                    let invalid = || malformed("an address has an invalid length".to_owned());
                    hosts.push(address.ok_or_else(invalid)?.to_string());
                }
                GeneralName::Invalid(..) => {
                    return Err(malformed("an alternative name is invalid".to_owned()));
                }
                _ => {}
            }
        }
        Ok(CertificateInfo {
            subject: certificate.subject().to_string(),
            uris,
            hosts,
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            is_authority: certificate.is_ca(),
            fingerprint: Fingerprint::of(der),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Reads the certificates of a PEM text, each with its DER.
    ///
    /// # Errors
    /// [`InvalidCertificate`] when there is none, or one is malformed.
    pub fn parse_pem(
        text: &str,
    ) -> Result<Vec<(CertificateDer<'static>, CertificateInfo)>, InvalidCertificate> {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| {
            let der = der.map_err(|error| InvalidCertificate::Pem(error.to_string()))?;
            let info = CertificateInfo::parse(&der)?;
            Ok((der, info))
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() { Err(InvalidCertificate::Missing) } else { Ok(certificates) }
    }

    /// The node that the certificate names.
    ///
    /// # Errors
    /// [`NoNodeIdentity`] when it names none, or has several URIs.
    pub fn node(&self) -> Result<SpiffeId, NoNodeIdentity> {
        match self.uris.as_slice() {
            [] => Err(NoNodeIdentity::Missing),
            [uri] => Ok(uri.parse()?),
            uris => Err(NoNodeIdentity::Several(uris.len())),
        }
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Fingerprint {
        Fingerprint(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

fn parse_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// A time before 1970 counts as 1970.
fn system_time(time: ASN1Time) -> SystemTime {
    let secs = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(secs)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(uris: &[&str]) -> CertificateInfo {
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        for uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        CertificateInfo::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn certificate_names_a_node_by_exactly_one_uri() {
        let id = "spiffe://000000000000000000000000000000ab/node/3";
        let named = certificate(&[id]);
        assert_eq!(named.node().map(|id| id.to_string()), Ok(id.to_owned()));
        assert_eq!(named.hosts, ["a.example"]);
        assert_eq!(certificate(&[]).node(), Err(NoNodeIdentity::Missing));
        assert_eq!(certificate(&[id, id]).node(), Err(NoNodeIdentity::Several(2)));
        let other = certificate(&["https://a.example"]).node();
        assert!(matches!(other, Err(NoNodeIdentity::Invalid(_))), "{other:?}");
    }

    #[test]
    fn damaged_or_missing_certificate_is_an_error() {
        assert!(matches!(CertificateInfo::parse(b"x"), Err(InvalidCertificate::X509(_))));
        assert_eq!(CertificateInfo::parse_pem("").unwrap_err(), InvalidCertificate::Missing);
        let damaged = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert!(CertificateInfo::parse_pem(damaged).is_err());
    }
}
