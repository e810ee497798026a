//! Why a certificate or key cannot be used.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

/// Why the files of a certificate or a key cannot be used. No text contains bytes of a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; check that it exists and that this user may read it")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The file is longer than any certificate.
    #[error("{path} has more than {max} bytes; choose the PEM file of a certificate or key")]
    TooLong {
        /// Path of the file.
        path: PathBuf,
        /// The maximum size in bytes.
        max: u64,
    },
    /// The file contains no certificate, or a block that cannot be decoded.
    #[error(
        "{path} contains no valid certificate; it must be a PEM file with blocks `BEGIN CERTIFICATE`"
    )]
    NoCertificate {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file contains no private key, or one that cannot be decoded.
    #[error(
        "{path} contains no private key; it must be a PEM file with a block `BEGIN PRIVATE KEY` that is not \
         encrypted"
    )]
    NoKey {
        /// Path of the file.
        path: PathBuf,
    },
    /// The algorithm of the key is unknown, or its size is not supported.
    #[error(
        "the private key in {path} cannot be used; choose an ECDSA (P-256, P-384), Ed25519 or RSA key"
    )]
    UnsupportedKey {
        /// Path of the file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error(
        "the private key in {key} does not belong to the first certificate in {chain}; the chain must begin \
         with the certificate of this key"
    )]
    KeyMismatch {
        /// Path of the chain.
        chain: PathBuf,
        /// Path of the key.
        key: PathBuf,
    },
    /// A certificate cannot be parsed, or is not allowed where it stands.
    #[error("a certificate in {path} cannot be used: {reason}")]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate has expired.
    #[error("the certificate in {path} expired at {}; renew it", format_rfc3339_seconds(*.expired))]
    Expired {
        /// Path of the file.
        path: PathBuf,
        /// When it expired.
        expired: SystemTime,
    },
    /// The validity of the certificate has not begun.
    #[error(
        "the certificate in {path} is not valid before {}; check the clock of this host",
        format_rfc3339_seconds(*.valid_from)
    )]
    NotYetValid {
        /// Path of the file.
        path: PathBuf,
        /// When its validity begins.
        valid_from: SystemTime,
    },
}
