//! Verification of a peer's certificate: its chain, its validity, and the node that it names.
//!
//! The address or DNS name of a peer is not verified: nodes move, and their identity is the name in the
//! certificate.

use std::sync::Arc;

use pushonce_ca::{CertificateInfo, Fingerprint, NoNodeIdentity};
use pushonce_core::{ClusterId, NodeId, SpiffeId};
use pushonce_tls::provider;
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

/// The authorities that may have issued the certificate of a dialled node.
#[derive(Clone, Debug)]
pub(super) enum TrustAnchor {
    Roots(Arc<RootCertStore>),
    /// The one with this fingerprint, which the node sends with its chain.
    Pin(Fingerprint),
}

/// Verifies the node that was dialled.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) cluster: ClusterId,
    pub(super) anchor: TrustAnchor,
}

/// Verifies the node that has dialled.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    cluster: ClusterId,
    /// Verifies the chain, and decides whether a client without a certificate may connect.
    chain: Arc<dyn ClientCertVerifier>,
}

/// Both verifiers of a node with a certificate.
#[derive(Clone, Debug)]
pub(super) struct Verifiers {
    pub(super) server: Arc<ServerVerifier>,
    pub(super) client: Arc<ClientVerifier>,
}

impl Verifiers {
    /// The verifiers of a node of `cluster` that trusts `roots`.
    pub(super) fn new(
        cluster: ClusterId,
        roots: RootCertStore,
        admits_joiners: bool,
    ) -> Result<Verifiers, VerifierBuilderError> {
        let roots = Arc::new(roots);
        let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        let chain =
            if admits_joiners { chain.allow_unauthenticated().build() } else { chain.build() }?;
        Ok(Verifiers {
            server: Arc::new(ServerVerifier { cluster, anchor: TrustAnchor::Roots(roots) }),
            client: Arc::new(ClientVerifier { cluster, chain }),
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.anchor.roots(intermediates)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let all = algorithms().all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, all)?;
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
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        named_node(end_entity, self.cluster).map_err(rejected)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl TrustAnchor {
    /// The authorities for a chain with these intermediate certificates.
    fn roots(&self, intermediates: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let pin = match self {
            TrustAnchor::Roots(roots) => return Ok(roots.clone()),
            TrustAnchor::Pin(pin) => pin,
        };
        let authority = intermediates.iter().find(|der| Fingerprint::of(der) == *pin);
        let authority = authority.ok_or(CertificateRejection::OtherAuthority).map_err(rejected)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        Ok(Arc::new(roots))
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
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
