//! From the content of PEM files to a chain with its key.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::CertificateError;
use crate::config::provider;
use crate::file::Content;

/// A certificate chain with its key, and the expiry of its first certificate.
pub(crate) struct Identity {
    pub(crate) certified_key: Arc<CertifiedKey>,
    pub(crate) expires: SystemTime,
}

/// Parses and checks a chain and its key.
///
/// # Errors
/// When a file contains neither, when the two do not belong together, or when `now` is outside the validity of the
/// certificate.
pub(crate) fn parse_identity(
    chain: &Content,
    key: &Content,
    now: SystemTime,
) -> Result<Identity, CertificateError> {
    let certificates = parse_certificates(chain)?;
    let leaf = certificates.first();
    let leaf = leaf.ok_or_else(|| CertificateError::NoCertificate { path: chain.path.clone() })?;
    let (valid_from, expires) = parse_validity(leaf, &chain.path)?;
    // The cause is dropped: it may quote the file.
    let private_key = PrivateKeyDer::from_pem_slice(&key.bytes)
        .map_err(|_| CertificateError::NoKey { path: key.path.clone() })?;
    let unsupported = || CertificateError::UnsupportedKey { path: key.path.clone() };
    let signing_key =
        provider().key_provider.load_private_key(private_key).map_err(|_| unsupported())?;
    let certified_key = CertifiedKey::new(certificates, signing_key);
    match certified_key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            let (chain, key) = (chain.path.clone(), key.path.clone());
            return Err(CertificateError::KeyMismatch { chain, key });
        }
        Err(error) => return Err(malformed(&chain.path, &error)),
    }
    if now >= expires {
        return Err(CertificateError::Expired { path: chain.path.clone(), expired: expires });
    }
    if now < valid_from {
        return Err(CertificateError::NotYetValid { path: chain.path.clone(), valid_from });
    }
    Ok(Identity { certified_key: Arc::new(certified_key), expires })
}

/// The certificates of a file: at least one.
fn parse_certificates(content: &Content) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates =
        CertificateDer::pem_slice_iter(&content.bytes).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(CertificateError::NoCertificate { path: content.path.clone() }),
    }
}

/// When the validity of a certificate begins and ends.
fn parse_validity(
    certificate: &CertificateDer<'_>,
    path: &Path,
) -> Result<(SystemTime, SystemTime), CertificateError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| malformed(path, &error))?;
    let validity = parsed.validity();
    Ok((unix_time(validity.not_before.timestamp()), unix_time(validity.not_after.timestamp())))
}

/// The time `seconds` after the Unix epoch. What this system cannot represent is the epoch, which counts as
/// expired.
fn unix_time(seconds: i64) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(seconds).unwrap_or(UNIX_EPOCH)
}

fn malformed(path: &Path, reason: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}
