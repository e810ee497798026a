//! Verification of server certificates.

use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::CertificateFingerprint;
use super::certificate_check::CertificateCheck;
use crate::server_address::ServerAddress;

/// The server certificates that a client accepts, at `https://`, `wss://` and `quic://` addresses.
///
/// # Example
///
/// ```
/// use pushonce_client::{
///     CertificateTrust, StartFrom, Subscriber, SubscriberEvent, Topic, Transport,
/// };
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "quic://127.0.0.1:7443";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.quic();
/// let fingerprint = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// # let fingerprint = node.certificate_fingerprint();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .transport(Transport::Quic)
///     .trust(CertificateTrust::Fingerprint(fingerprint.parse()?))
///     .topic(Topic::new("chat/7")?, StartFrom::Now)
///     .connect()?;
/// let first = subscriber.next().await;
/// assert!(matches!(first, Some(SubscriberEvent::Connected { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum CertificateTrust {
    /// Certificates that an authority of the system signed. Over QUIC also any certificate from a loopback
    /// address: a node on this machine with its development certificate.
    #[default]
    System,
    /// The certificate with this fingerprint.
    Fingerprint(CertificateFingerprint),
    /// Certificates signed by these ones, in PEM.
    Roots(Vec<u8>),
}

/// Whether a server may present any certificate, which only a node on this machine may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DevelopmentCertificate {
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "for QUIC alone"))]
    Accepted,
    Rejected,
}

impl CertificateTrust {
    /// The settings of TLS for a server, without application protocols, and the check of its certificate.
    #[cfg(any(feature = "quic", feature = "websocket"))]
    pub(super) fn client_config(
        &self,
        server: &ServerAddress,
        development: DevelopmentCertificate,
    ) -> Result<(rustls::ClientConfig, Arc<CertificateCheck>), String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let check = self.check(server, development, &provider)?;
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(check.clone())
            .with_no_client_auth();
        Ok((config, check))
    }

    /// The check of the certificate of a server.
    pub(super) fn check(
        &self,
        server: &ServerAddress,
        development: DevelopmentCertificate,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<CertificateCheck>, String> {
        let verifier = self.verifier(development, provider)?;
        Ok(Arc::new(CertificateCheck::new(verifier, server, self)))
    }

    /// Checks the certificates of [`CertificateTrust::Roots`].
    pub(crate) fn check_certificates(&self) -> Result<(), String> {
        match self {
            CertificateTrust::Roots(pem) => {
                root_verifier(pem, &Arc::new(rustls::crypto::ring::default_provider())).map(drop)
            }
            CertificateTrust::System | CertificateTrust::Fingerprint(_) => Ok(()),
        }
    }

    fn verifier(
        &self,
        development: DevelopmentCertificate,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        match (self, development) {
            (CertificateTrust::System, DevelopmentCertificate::Rejected) => system_verifier(),
            (CertificateTrust::System, DevelopmentCertificate::Accepted) => {
                Ok(Arc::new(PinnedCertificateVerifier {
                    fingerprint: None,
                    provider: provider.clone(),
                }))
            }
            (CertificateTrust::Fingerprint(fingerprint), _) => {
                Ok(Arc::new(PinnedCertificateVerifier {
                    fingerprint: Some(*fingerprint),
                    provider: provider.clone(),
                }))
            }
            (CertificateTrust::Roots(pem), _) => root_verifier(pem, provider),
        }
    }
}

/// The verifier with the authorities of the system, which are read once: there are more than a hundred.
fn system_verifier() -> Result<Arc<dyn ServerCertVerifier>, String> {
    static VERIFIER: LazyLock<Result<Arc<dyn ServerCertVerifier>, String>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "the system has no trusted certificates ({}): install its package `ca-certificates`, or set \
                 the certificate to trust",
                errors.join("; ")
            ));
        }
        verifier_for(roots, &Arc::new(rustls::crypto::ring::default_provider()))
    });
    VERIFIER.clone()
}

fn root_verifier(
    pem: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("invalid trusted certificate: {error}"))?;
        roots.add(certificate).map_err(|error| format!("invalid trusted certificate: {error}"))?;
    }
    verifier_for(roots, provider)
}

fn verifier_for(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    Ok(verifier.build().map_err(|error| format!("invalid trusted certificates: {error}"))?)
}

/// Accepts one certificate by its fingerprint, or any. The signature of the handshake is verified in both cases,
/// so the server has the certificate's key.
#[derive(Debug)]
struct PinnedCertificateVerifier {
    fingerprint: Option<CertificateFingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprint = CertificateFingerprint(Sha256::digest(end_entity).into());
        match self.fingerprint {
            Some(expected) if expected != fingerprint => Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_root_certificates_are_rejected() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = CertificateTrust::Roots(b"nothing".to_vec());
        assert!(trust.verifier(DevelopmentCertificate::Accepted, &provider).is_err());
    }
}
