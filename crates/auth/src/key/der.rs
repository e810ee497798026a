//! The little of DER that public keys need.

use rustls_pki_types::alg_id;

use super::{InvalidKey, VerificationKey};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Reads a `SubjectPublicKeyInfo` (RFC 5280).
pub(super) fn read_public_key(der: &[u8]) -> Result<VerificationKey, InvalidKey> {
    let (algorithm, bits) = split_public_key(der).ok_or(InvalidKey::Encoding)?;
    if algorithm == alg_id::ED25519.as_ref() {
        VerificationKey::ed25519(bits)
    } else if algorithm == alg_id::ECDSA_P256.as_ref() {
        VerificationKey::p256(bits)
    } else if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
        let (modulus, exponent) = split_rsa_key(bits).ok_or(InvalidKey::Encoding)?;
        VerificationKey::rsa(modulus, exponent)
    } else {
        Err(InvalidKey::Encoding)
    }
}

/// Writes a `SubjectPublicKeyInfo`. `algorithm` and `key` together have less than 125 bytes: true for
/// Ed25519 and P-256.
pub(super) fn write_public_key(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend(key);
    let mut content = element(SEQUENCE, algorithm);
    content.extend(element(BIT_STRING, &bits));
    element(SEQUENCE, &content)
}

/// One element with a length of one byte.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    debug_assert!(content.len() < 0x80, "a length of one byte");
    let mut element = vec![tag, content.len() as u8];
    element.extend(content);
    element
}

/// The algorithm identifier and the key bits.
fn split_public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, rest) = read_element(SEQUENCE, der)?;
    let (algorithm, key) = read_element(SEQUENCE, info)?;
    let (bits, after) = read_element(BIT_STRING, key)?;
    // The first byte counts the unused bits of the last one: keys are whole bytes.
    let (0, bits) = bits.split_first().map(|(unused, bits)| (*unused, bits))? else { return None };
    (rest.is_empty() && after.is_empty()).then_some((algorithm, bits))
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017).
fn split_rsa_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, rest) = read_element(SEQUENCE, der)?;
    let (modulus, key) = read_element(INTEGER, key)?;
    let (exponent, after) = read_element(INTEGER, key)?;
    (rest.is_empty() && after.is_empty()).then_some((modulus, exponent))
}

/// The content of the first element, which has this tag, and what follows it.
fn read_element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (actual, der) = der.split_first()?;
    let (first, der) = der.split_first()?;
    // A length below 128 is one byte; else the byte counts the bytes of the length.
    let (len, der) = match first {
        0..=0x7f => (usize::from(*first), der),
        0x81 | 0x82 => {
            let (len, der) = der.split_at_checked(usize::from(first & 0x7f))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), der)
        }
        _ => return None,
    };
    (*actual == tag).then_some(())?;
    der.split_at_checked(len)
}
