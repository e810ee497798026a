//! The request of a joining node for a certificate.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::{CaError, PrivateKeyPem};

/// A new key, and the request to certify it. The key never leaves the node.
#[derive(Debug)]
pub struct CertificateRequest {
    /// The signed request (PKCS #10), as DER.
    pub request: Vec<u8>,
    /// The key.
    pub key: PrivateKeyPem,
}

impl CertificateRequest {
    /// Maximum length of a request: a P-256 request without names has about 200 bytes.
    pub const BYTES_MAX: usize = 4 << 10;

    /// Draws a key and signs a request with it.
    ///
    /// # Errors
    /// [`CaError::Generate`] when the cryptography library fails.
    pub fn generate() -> Result<CertificateRequest, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let request = request.der().to_vec();
        Ok(CertificateRequest { request, key: PrivateKeyPem::from(&key) })
    }
}
