//! Verification of a peer's certificate: its chain, its validity, and the node that it names.
//!
//! The address or DNS name of a peer is not verified: nodes move, and their identity is the name in the
//! certificate.

use std::sync::Arc;

use pushonce_ca::{CertificateInfo, Fingerprint, NoNodeIdentity};
use pushonce_core::{ClusterId, NodeId, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

/// A certificate that was issued by a known authority and is not acceptable here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRejection {
    /// It names no node, or several.
    #[error("{0}; issue one with `pushonce ca issue`")]
    NoNode(#[from] NoNodeIdentity),
    /// It names a node of another cluster.
    #[error("the certificate is that of {peer}, but this is cluster {cluster}")]
    OtherCluster {
        /// The node that the certificate names.
        peer: SpiffeId,
        /// The expected cluster.
        cluster: ClusterId,
    },
    /// It names another node than the dialled one.
    #[error("{node} answers at the address of {expected}; correct the address of {expected}")]
    OtherNode {
        /// The node that the certificate names.
        node: NodeId,
        /// The node that was dialled.
        expected: NodeId,
    },
    /// The peer sends no certificate of the authority that the join token names.
    #[error(
        "the node presents no certificate of the authority in the join token; name a node that has \
         --peer-ca-key, or make a new token"
    )]
    OtherAuthority,
    /// The certificate is malformed.
    #[error("the certificate {0}")]
    Malformed(#[from] pushonce_ca::InvalidCertificate),
}

/// What a node that joins with a token knows about its cluster: enough to recognise it, nothing to present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityPin {
    /// The cluster.
    pub cluster: ClusterId,
    /// The authority that issued the certificates of its nodes.
    pub authority: Fingerprint,
}

/// Verifies peers on both sides of a connection.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
    /// The chain of a client, and whether one without a certificate may connect.
    client: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Verifies the node that a token leads to.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) pin: AuthorityPin,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(
        cluster: ClusterId,
        roots: Arc<RootCertStore>,
        admits_joiners: bool,
    ) -> Result<PeerVerifier, VerifierBuilderError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
        let client =
            if admits_joiners { client.allow_unauthenticated().build() } else { client.build() }?;
        Ok(PeerVerifier { cluster, roots, client, algorithms })
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server(end_entity, intermediates, &self.roots, self.algorithms, now)?;
        named_node(end_entity, self.cluster).map_err(rejected)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.client.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.client.verify_client_cert(end_entity, intermediates, now)?;
        named_node(end_entity, self.cluster).map_err(rejected)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned = |der: &&CertificateDer<'_>| Fingerprint::of(der) == self.pin.authority;
        let authority = intermediates.iter().find(is_pinned);
        let authority = authority.ok_or(CertificateRejection::OtherAuthority).map_err(rejected)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        verify_server(end_entity, intermediates, &roots, self.algorithms, now)?;
        named_node(end_entity, self.pin.cluster).map_err(rejected)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_server(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)
}

/// The node of `cluster` that a verified certificate names.
pub(super) fn named_node(
    certificate: &CertificateDer<'_>,
    cluster: ClusterId,
) -> Result<SpiffeId, CertificateRejection> {
    let peer = CertificateInfo::parse(certificate)?.node()?;
    if peer.cluster != cluster {
        return Err(CertificateRejection::OtherCluster { peer, cluster });
    }
    Ok(peer)
}

fn rejected(reason: CertificateRejection) -> Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}

/// The reason behind an error of the handshake, if this node rejected the certificate.
pub(super) fn rejection_of(error: &Error) -> Option<CertificateRejection> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            reason.downcast_ref().cloned()
        }
        _ => None,
    }
}
