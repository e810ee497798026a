//! Why a certificate cannot be issued or read.

use pushonce_core::{ClusterId, SpiffeId};

/// A certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate of the authority cannot be used.
    #[error("the certificate of the authority {0}")]
    InvalidCertificate(#[from] InvalidCertificate),
    /// The certificate is not that of an authority.
    #[error(
        "{subject} is no certificate authority: give the certificate that `pushonce ca init` made"
    )]
    NotAnAuthority {
        /// The subject of the certificate.
        subject: String,
    },
    /// The key is not the one of the certificate.
    #[error(
        "the key of the authority does not belong to its certificate: give the files of one authority"
    )]
    KeyMismatch,
    /// The authority is expired.
    #[error(
        "the certificate authority expired: make another one with `pushonce ca init --cluster`"
    )]
    Expired,
    /// The authority belongs to another cluster.
    #[error("the certificate authority is that of cluster {authority}, and cannot issue {node}")]
    OtherCluster {
        /// The cluster of the authority.
        authority: ClusterId,
        /// The requested name.
        node: SpiffeId,
    },
    /// A host is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address: correct --host")]
    InvalidHost(String),
    /// The request for a certificate is malformed, or not signed with its own key.
    #[error("the certificate request is invalid: {0}")]
    InvalidRequest(String),
    /// The cryptography library failed.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Bytes that are not a certificate that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// The text holds no PEM block with a certificate.
    #[error("has no `BEGIN CERTIFICATE` block")]
    Missing,
    /// A PEM block is damaged.
    #[error("is not valid PEM: {0}")]
    Pem(String),
    /// The bytes are not an X.509 certificate.
    #[error("is not a valid X.509 certificate: {0}")]
    X509(String),
}
