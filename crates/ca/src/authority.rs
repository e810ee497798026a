//! [`CertificateAuthority`]: issues the certificates of nodes.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_core::{ClusterId, SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;

use crate::{CaError, CertificateInfo, CertificateRequest};

/// Validity of an authority. Its end is an outage of the cluster unless another authority replaces it before.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3_650 * 86_400);

/// A certificate is valid from this long before it was issued: the clocks of the nodes may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// An authority with its key.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    info: CertificateInfo,
    issuer: Issuer<'static, KeyPair>,
}

/// The certificate of a node, with its key.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The key.
    pub key: PrivateKeyPem,
}

/// A private key as PEM. It has no `Debug` output.
#[derive(Clone)]
pub struct PrivateKeyPem(String);

impl CertificateAuthority {
    /// Makes the authority of a cluster, valid for ten years.
    ///
    /// # Errors
    /// [`CaError::Generate`] when the cryptography library fails.
    pub fn generate(
        cluster: ClusterId,
        now: SystemTime,
    ) -> Result<(CertificateAuthority, PrivateKeyPem), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let key_pem = PrivateKeyPem::from(&key);
        let mut params = params(&format!("Pushonce cluster {cluster}"));
        params.subject_alt_names = vec![SanType::URI(trust_domain(cluster).try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, now + AUTHORITY_VALIDITY);
        let certificate = params.self_signed(&key)?.der().clone();
        let info = CertificateInfo::parse(&certificate)?;
        let issuer = Issuer::new(params, key);
        Ok((CertificateAuthority { certificate, info, issuer }, key_pem))
    }

    /// Reads an authority: the certificate of `certificates` that belongs to `key`.
    ///
    /// # Errors
    /// [`CaError`] when there is none, it is malformed, or not that of an authority.
    pub fn from_pem(certificates: &str, key: &str) -> Result<CertificateAuthority, CaError> {
        let key = KeyPair::from_pem(key)?;
        let public_key = key.subject_public_key_info();
        let mut certificates = CertificateInfo::parse_pem(certificates)?.into_iter();
        let certificate = certificates.find(|(_, info)| info.public_key == public_key);
        let (der, info) = certificate.ok_or(CaError::KeyMismatch)?;
        if !info.is_authority {
            return Err(CaError::NotAnAuthority { subject: info.subject });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(CertificateAuthority { certificate: der, info, issuer })
    }

    /// The certificate of the authority.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate of the authority, as PEM.
    pub fn certificate_pem(&self) -> String {
        to_pem(&self.certificate)
    }

    /// What the certificate of the authority says.
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The cluster of the authority; `None` for one that [`CertificateAuthority::generate`] did not make.
    pub fn cluster(&self) -> Option<ClusterId> {
        let domains = self.info.uris.iter().filter_map(|uri| uri.strip_prefix("spiffe://"));
        domains.filter_map(|domain| domain.parse().ok()).next()
    }

    /// Issues a certificate for a node, with a new key. The hosts are its DNS names and IP addresses: other
    /// nodes do not check them, but other programs may.
    ///
    /// # Errors
    /// [`CaError`] for another cluster, an invalid host, or an expired authority.
    pub fn issue(
        &self,
        node: SpiffeId,
        hosts: &[String],
        validity: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = to_pem(&self.certify(&key, node, hosts, validity, now)?);
        Ok(IssuedCertificate { certificate, key: PrivateKeyPem::from(&key) })
    }

    /// Certifies the key of a request for a node. The names and usages that the request asks for are ignored.
    ///
    /// # Errors
    /// [`CaError::InvalidRequest`] for a malformed request, one that is not signed with its own key, or
    /// another key than ECDSA P-256; else as [`CertificateAuthority::issue`].
    pub fn sign(
        &self,
        request: &[u8],
        node: SpiffeId,
        hosts: &[String],
        validity: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let invalid = |reason: String| CaError::InvalidRequest(reason);
        if request.len() > CertificateRequest::BYTES_MAX {
            return Err(invalid(format!(
                "it has more than {} bytes",
                CertificateRequest::BYTES_MAX
            )));
        }
        let request = CertificateSigningRequestParams::from_der(&request.into())
            .map_err(|error| invalid(error.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(invalid("its key is not ECDSA P-256".to_owned()));
        }
        self.certify(&request.public_key, node, hosts, validity, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        node: SpiffeId,
        hosts: &[String],
        validity: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        if let Some(authority) = self.cluster().filter(|&cluster| cluster != node.cluster) {
            return Err(CaError::OtherCluster { authority, node });
        }
        if self.info.not_after <= now {
            return Err(CaError::Expired);
        }
        let mut params = params(&format!("Pushonce node {}", node.node.0));
        params.subject_alt_names = vec![SanType::URI(node.to_string().try_into()?)];
        for host in hosts {
            params.subject_alt_names.push(alternative_name(host)?);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node is the server of some connections and the client of others.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, self.info.not_after.min(now + validity));
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("info", &self.info).finish_non_exhaustive()
    }
}

impl PrivateKeyPem {
    /// The text, for the file of the key and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&KeyPair> for PrivateKeyPem {
    fn from(key: &KeyPair) -> PrivateKeyPem {
        PrivateKeyPem(key.serialize_pem())
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem")
    }
}

/// A certificate as PEM.
pub fn to_pem(certificate: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate), config)
}

/// The name of a cluster as a SPIFFE trust domain.
fn trust_domain(cluster: ClusterId) -> String {
    format!("spiffe://{cluster}")
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    params.not_before = from.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH).into();
    params.not_after = until.into();
}

fn alternative_name(host: &str) -> Result<SanType, CaError> {
    let invalid = || CaError::InvalidHost(host.to_owned());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // The same check as for an address that others dial.
    let is_name = format!("{host}:1").parse::<pushonce_core::HostPort>().is_ok();
    let name = is_name.then(|| host.try_into().ok()).flatten();
    name.map(SanType::DnsName).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use pushonce_core::NodeId;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(0xab);
    const NODE: SpiffeId = SpiffeId { cluster: CLUSTER, node: NodeId(3) };
    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn authority() -> (CertificateAuthority, PrivateKeyPem) {
        CertificateAuthority::generate(CLUSTER, now()).expect("generated")
    }

    fn info(pem: &str) -> CertificateInfo {
        CertificateInfo::parse_pem(pem).expect("valid").remove(0).1
    }

    #[test]
    fn authority_is_read_as_written_and_knows_its_cluster() {
        let (authority, key) = authority();
        let read = CertificateAuthority::from_pem(&authority.certificate_pem(), key.expose());
        let read = read.expect("valid");
        assert_eq!(read.cluster(), Some(CLUSTER));
        assert!(read.info().is_authority);
        assert_eq!(read.info().not_after, now() + AUTHORITY_VALIDITY);
    }

    #[test]
    fn certificate_names_the_node_and_its_hosts() {
        let (authority, _) = authority();
        let hosts = ["n3.example", "10.0.0.3", "::1"].map(str::to_owned);
        let issued = authority.issue(NODE, &hosts, 90 * DAY, now()).expect("issued");
        let info = info(&issued.certificate);
        assert_eq!(info.node(), Ok(NODE));
        assert_eq!(info.hosts, hosts);
        assert!(!info.is_authority);
        assert_eq!((info.not_before, info.not_after), (now() - CLOCK_SKEW, now() + 90 * DAY));
    }

    #[test]
    fn certificate_does_not_outlive_its_authority() {
        let (authority, _) = authority();
        let issued = authority.issue(NODE, &[], 9_999 * DAY, now()).expect("issued");
        assert_eq!(info(&issued.certificate).not_after, authority.info().not_after);
        let late = authority.issue(NODE, &[], DAY, now() + AUTHORITY_VALIDITY);
        assert!(matches!(late, Err(CaError::Expired)));
    }

    #[test]
    fn request_contributes_its_key_only() {
        let (authority, _) = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generated");
        let mut params = CertificateParams::new(["evil.example".to_owned()]).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = params.serialize_request(&key).expect("signed");
        let signed = authority.sign(request.der(), NODE, &[], DAY, now()).expect("signed");
        let info = CertificateInfo::parse(&signed).expect("valid");
        assert_eq!((info.node(), info.is_authority), (Ok(NODE), false));
        assert_eq!(info.hosts, Vec::<String>::new());
        assert_eq!(info.public_key, key.subject_public_key_info());
    }

    #[test]
    fn forged_or_malformed_request_is_rejected() {
        let (authority, _) = authority();
        let mut forged = CertificateRequest::generate().expect("generated").request;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let other_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("generated");
        let other = CertificateParams::default().serialize_request(&other_key).expect("signed");
        let too_long = vec![0; CertificateRequest::BYTES_MAX + 1];
        for request in [&forged, &other.der().to_vec(), &Vec::new(), &too_long] {
            let signed = authority.sign(request, NODE, &[], DAY, now());
            assert!(matches!(signed, Err(CaError::InvalidRequest(_))), "{signed:?}");
        }
    }

    #[test]
    fn authority_issues_for_its_own_cluster_and_valid_hosts_only() {
        let (authority, _) = authority();
        let other = SpiffeId { cluster: ClusterId(1), ..NODE };
        let result = authority.issue(other, &[], DAY, now());
        assert!(matches!(result, Err(CaError::OtherCluster { .. })), "{result:?}");
        for host in ["a b", "http://a", "a:1", "", "-a"] {
            let result = authority.issue(NODE, &[host.to_owned()], DAY, now());
            assert!(matches!(result, Err(CaError::InvalidHost(_))), "{host:?}");
        }
    }

    #[test]
    fn files_that_do_not_belong_together_are_rejected() {
        let ((authority, _), (_, other_key)) = (authority(), self::authority());
        let mixed =
            CertificateAuthority::from_pem(&authority.certificate_pem(), other_key.expose());
        assert!(matches!(mixed, Err(CaError::KeyMismatch)));
        let issued = authority.issue(NODE, &[], DAY, now()).expect("issued");
        let leaf = CertificateAuthority::from_pem(&issued.certificate, issued.key.expose());
        assert!(matches!(leaf, Err(CaError::NotAnAuthority { .. })));
    }

    #[test]
    fn authority_is_found_in_a_bundle_by_its_key() {
        let ((first, _), (second, key)) = (authority(), self::authority());
        let bundle = [first.certificate_pem(), second.certificate_pem()].concat();
        let read = CertificateAuthority::from_pem(&bundle, key.expose()).expect("valid");
        assert_eq!(read.info().fingerprint, second.info().fingerprint);
    }

    #[test]
    fn keys_have_no_debug_output() {
        let (authority, key) = authority();
        let issued = authority.issue(NODE, &[], DAY, now()).expect("issued");
        let request = CertificateRequest::generate().expect("generated");
        let text = format!("{authority:?} {key:?} {issued:?} {request:?}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}
