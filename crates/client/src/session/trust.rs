//! Verification of server certificates by a QUIC client.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::CertificateFingerprint;

/// The server certificates that a QUIC client accepts.
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
    /// Any certificate, but only from a loopback address: a node on this machine with its development
    /// certificate.
    #[default]
    Development,
    /// The certificate with this fingerprint.
    Fingerprint(CertificateFingerprint),
    /// Certificates signed by these ones, in PEM.
    Roots(Vec<u8>),
}

impl CertificateTrust {
    /// The verifier for a server at `address`.
    pub(super) fn verifier(
        &self,
        address: SocketAddr,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        match self {
            CertificateTrust::Development if !address.ip().is_loopback() => Err(format!(
                "{address} is not on this machine: set the certificate to trust, by its fingerprint \
                 or by the certificate that signed it"
            )),
            CertificateTrust::Development => Ok(Arc::new(PinnedCertificateVerifier {
                fingerprint: None,
                provider: provider.clone(),
            })),
            CertificateTrust::Fingerprint(fingerprint) => Ok(Arc::new(PinnedCertificateVerifier {
                fingerprint: Some(*fingerprint),
                provider: provider.clone(),
            })),
            CertificateTrust::Roots(pem) => root_verifier(pem, provider),
        }
    }
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
            Some(expected) if expected != fingerprint => Err(rustls::Error::General(
                "the certificate does not have the trusted fingerprint".into(),
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
    fn development_certificate_is_accepted_only_from_loopback() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = CertificateTrust::Development;
        assert!(trust.verifier(SocketAddr::from(([127, 0, 0, 9], 1)), &provider).is_ok());
        let result = trust.verifier(SocketAddr::from(([192, 0, 2, 1], 1)), &provider);
        assert!(result.is_err_and(|error| error.contains("fingerprint")));
    }

    #[test]
    fn malformed_root_certificates_are_rejected() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = CertificateTrust::Roots(b"nothing".to_vec());
        assert!(trust.verifier(SocketAddr::from(([192, 0, 2, 1], 1)), &provider).is_err());
    }
}
