//! Keys as PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{self, SectionKind};

use super::{InvalidKey, VerificationKey, der};

/// Reads the public key of a PEM text.
pub(super) fn read_public_key(text: &[u8]) -> Result<VerificationKey, InvalidKey> {
    match first_section(text)? {
        (SectionKind::PublicKey, der) => der::read_public_key(&der),
        (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _) => {
            Err(InvalidKey::PrivateKey)
        }
        _ => Err(InvalidKey::WrongSection { expected: "PUBLIC KEY" }),
    }
}

/// The first section of a PEM text that is not a comment.
pub(super) fn first_section(text: &[u8]) -> Result<(SectionKind, Vec<u8>), InvalidKey> {
    let mut text = text;
    pem::from_buf(&mut text).map_err(|_| InvalidKey::MalformedPem)?.ok_or(InvalidKey::NoKey)
}

/// A PEM text with one section, in lines of 64 characters.
pub(super) fn write(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
