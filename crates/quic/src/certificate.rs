//! The self-signed development certificate: QUIC requires a certificate, and a first start has none.
//!
//! ECDSA P-256, for `localhost`, `127.0.0.1` and `::1`, valid for thirteen days: browsers accept a
//! certificate by its hash (`serverCertificateHashes`) only if it is of this kind and valid for at most
//! fourteen days.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

/// Validity of a new certificate. A day less than the fourteen that browsers allow, for clocks that are
/// some hours off.
pub const VALIDITY: Duration = Duration::from_secs(13 * DAY_SECS);

/// A certificate that expires within this time is replaced, at start or while the endpoints run. A user
/// who copied its hash has this long to copy the new one.
pub const RENEW_BEFORE: Duration = Duration::from_secs(3 * DAY_SECS);

const DAY_SECS: u64 = 24 * 3600;
const _: () = assert!(VALIDITY.as_secs() > RENEW_BEFORE.as_secs());

/// The name of the file. Key, certificate and expiry are in one file, so that a crash between two
/// writes cannot leave a key without its certificate.
pub const FILE_NAME: &str = "quic-dev.pem";

/// The first line of the file. PEM readers skip what precedes the blocks.
const EXPIRES_PREFIX: &str = "Expires (Unix seconds): ";

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    file: CertificateFile,
}

/// Where a certificate is stored and when it expires: what is needed to renew it in time.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFile {
    directory: PathBuf,
    expires: SystemTime,
}

/// What a browser must know to accept the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    /// SHA-256 of the certificate in hexadecimal.
    pub sha256: String,
    /// The same hash in base64, for `serverCertificateHashes`.
    pub sha256_base64: String,
    /// When the certificate expires, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The hashes in base64 of every certificate that clients may accept: of this one, and after a renewal also of the
    /// one before, until it expires.
    pub hashes: Vec<String>,
}

/// Why a certificate can neither be loaded nor made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read or written.
    #[error("cannot use {path}: {source}; make the directory readable and writable for this user")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The cryptography library failed to make one.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A newly generated key cannot be parsed.
    #[error("cannot parse the newly generated key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// Loads the certificate in `directory`. If there is none, or it is damaged or expires within
/// [`RENEW_BEFORE`] of `now`, makes a new one and stores it, readable only by this user.
///
/// # Errors
/// [`CertificateError`] when the directory does not exist or cannot be read or written.
pub fn load_or_generate(
    directory: &Path,
    now: SystemTime,
) -> Result<Certificate, CertificateError> {
    let path = directory.join(FILE_NAME);
    let stored = match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text, directory),
        Err(source) if source.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(CertificateError::File { path, source }),
    };
    match stored {
        Some(certificate) if !certificate.file.is_renewal_due(now) => Ok(certificate),
        _ => {
            let (certificate, text) = generate(directory, now)?;
            write_atomically(&path, &text)
                .map_err(|source| CertificateError::File { path, source })?;
            Ok(certificate)
        }
    }
}

impl Certificate {
    /// The hash and expiry of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::new(&self.chain, self.file.expires)
    }

    /// When it expires.
    pub fn expires(&self) -> SystemTime {
        self.file.expires
    }

    pub(crate) fn file(&self) -> CertificateFile {
        self.file.clone()
    }
}

impl Fingerprint {
    pub(crate) fn new(chain: &[CertificateDer<'_>], expires: SystemTime) -> Fingerprint {
        let hash = chain.first().map(|leaf| sha256(leaf)).unwrap_or_default();
        let sha256_base64 = STANDARD.encode(&hash);
        Fingerprint {
            sha256: hex::encode(&hash),
            hashes: vec![sha256_base64.clone()],
            sha256_base64,
            expires_ms: unix_secs(expires).saturating_mul(1000),
        }
    }

    /// Also lists the certificate before this one, if it is valid at `now`.
    pub(crate) fn with_previous(mut self, previous: &Fingerprint, now: SystemTime) -> Fingerprint {
        if previous.expires_ms > unix_secs(now).saturating_mul(1000) {
            self.hashes.push(previous.sha256_base64.clone());
        }
        self
    }
}

impl CertificateFile {
    /// The next certificate, if it is time to renew this one.
    pub(crate) fn renew(
        &mut self,
        now: SystemTime,
    ) -> Result<Option<Certificate>, CertificateError> {
        if !self.is_renewal_due(now) {
            return Ok(None);
        }
        let next = load_or_generate(&self.directory, now)?;
        *self = next.file();
        Ok(Some(next))
    }

    fn is_renewal_due(&self, now: SystemTime) -> bool {
        self.expires <= now + RENEW_BEFORE
    }
}

pub(crate) fn generate(
    directory: &Path,
    now: SystemTime,
) -> Result<(Certificate, String), CertificateError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Pushonce development");
    // Whole seconds, as in the file.
    let expires = UNIX_EPOCH + Duration::from_secs(unix_secs(now)) + VALIDITY;
    params.not_before = now.into();
    params.not_after = expires.into();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let leaf = params.self_signed(&key)?;
    let text =
        format!("{EXPIRES_PREFIX}{}\n{}{}", unix_secs(expires), key.serialize_pem(), leaf.pem());
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())?;
    let file = CertificateFile { directory: directory.to_owned(), expires };
    Ok((Certificate { chain: vec![leaf.der().clone()], key, file }, text))
}

/// `None` for a damaged file.
fn parse(text: &str, directory: &Path) -> Option<Certificate> {
    let expires = text.lines().next()?.strip_prefix(EXPIRES_PREFIX)?.parse().ok()?;
    let chain =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires))?;
    let file = CertificateFile { directory: directory.to_owned(), expires };
    (!chain.is_empty()).then_some(Certificate { chain, key, file })
}

/// Writes a temporary file and renames it.
fn write_atomically(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary_path = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary_path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary_path, path)?;
    // The rename as well: clients that pinned the certificate must find it after a power failure.
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

/// Uses the hash function of a cipher suite, which is linked anyway.
fn sha256(bytes: &[u8]) -> Vec<u8> {
    TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(bytes).as_ref().to_vec())
        .unwrap_or_default()
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((20_000 + days) * DAY_SECS)
    }

    #[test]
    fn certificate_is_reused_until_its_renewal_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_generate(dir.path(), day(0)).unwrap();
        assert_eq!(first.expires(), day(13));
        let again = load_or_generate(dir.path(), day(9)).unwrap();
        assert_eq!(again.fingerprint(), first.fingerprint());
        let renewed = load_or_generate(dir.path(), day(11)).unwrap();
        assert_ne!(renewed.fingerprint(), first.fingerprint());
        assert_eq!(renewed.expires(), day(24));
    }

    #[test]
    fn certificate_is_renewed_in_time_while_the_node_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = load_or_generate(dir.path(), day(0)).unwrap().file();
        assert!(file.renew(day(9)).unwrap().is_none());
        assert_eq!(file.renew(day(10)).unwrap().unwrap().expires(), day(23));
        assert!(file.renew(day(19)).unwrap().is_none());
    }

    #[test]
    fn renewed_certificate_lists_the_one_before_until_that_expires() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_generate(dir.path(), day(0)).unwrap().fingerprint();
        let second = load_or_generate(dir.path(), day(11)).unwrap().fingerprint();
        assert_eq!(second.hashes, std::slice::from_ref(&second.sha256_base64));
        let both = [second.sha256_base64.clone(), first.sha256_base64.clone()];
        assert_eq!(second.clone().with_previous(&first, day(11)).hashes, both);
        assert_eq!(second.clone().with_previous(&first, day(13)).hashes, second.hashes);
    }

    /// What browsers require of a certificate that they accept by its hash.
    #[test]
    fn certificate_is_ecdsa_p256_and_valid_for_at_most_fourteen_days() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = load_or_generate(dir.path(), day(0)).unwrap();
        assert!(VALIDITY <= Duration::from_secs(14 * DAY_SECS));
        // The identifiers of ecPublicKey and prime256v1 (RFC 5480) in the encoding of the certificate.
        let der = &certificate.chain[0];
        let has = |id: &[u8]| der.windows(id.len()).any(|window| window == id);
        assert!(has(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]));
        assert!(has(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]));
    }

    #[test]
    fn damaged_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "Expires (Unix seconds): x\n").unwrap();
        assert_eq!(load_or_generate(dir.path(), day(0)).unwrap().expires(), day(13));
    }

    #[cfg(unix)]
    #[test]
    fn key_file_is_readable_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        load_or_generate(dir.path(), day(0)).unwrap();
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn fingerprint_is_the_sha256_of_the_certificate() {
        assert_eq!(STANDARD.encode(sha256(b"abc")), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn error_for_a_missing_directory_names_its_path() {
        let error = load_or_generate(Path::new("/nonexistent/gateway"), day(0)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/gateway"), "{error}");
    }
}
