//! Parsing and printing of certificate fingerprints.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 hash of a certificate in DER, as `GET /dev/certificate` of a node returns it. In text: 64
/// hexadecimal digits, with or without colons between the bytes.
///
/// # Example
///
/// ```
/// use pushonce_client::CertificateFingerprint;
///
/// let text = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// let fingerprint: CertificateFingerprint = text.parse()?;
/// assert_eq!(fingerprint.0[0], 0x0f);
/// assert_eq!(fingerprint.to_string(), text);
/// # Ok::<(), pushonce_client::InvalidCertificateFingerprint>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFingerprint(pub [u8; 32]);

/// Text that is not a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint has 64 hexadecimal digits")]
pub struct InvalidCertificateFingerprint;

impl FromStr for CertificateFingerprint {
    type Err = InvalidCertificateFingerprint;

    fn from_str(text: &str) -> Result<CertificateFingerprint, InvalidCertificateFingerprint> {
        let digits: String = text.chars().filter(|&c| c != ':').collect();
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| InvalidCertificateFingerprint)?;
        Ok(CertificateFingerprint(hash))
    }
}

impl fmt::Display for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_with_or_without_colons_is_parsed() {
        let plain = "0F".repeat(32);
        let colons = vec!["0f"; 32].join(":");
        assert_eq!(plain.parse(), Ok(CertificateFingerprint([0x0f; 32])));
        assert_eq!(colons.parse(), Ok(CertificateFingerprint([0x0f; 32])));
        assert_eq!(CertificateFingerprint([0x0f; 32]).to_string(), plain.to_lowercase());
        for text in ["", "0f", &"zz".repeat(32), &"0f".repeat(33), &"\u{e9}".repeat(32)] {
            assert!(text.parse::<CertificateFingerprint>().is_err(), "{text:?}");
        }
    }
}
