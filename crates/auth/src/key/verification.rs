//! Keys that verify signatures.

use std::fmt;

use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

use super::{InvalidKey, KeyFingerprint, SigningKey, jwk, pem};
use crate::Algorithm;

/// A key that verifies signatures of one algorithm. Its bytes appear in no `Debug` output.
#[derive(Clone)]
pub(crate) struct VerificationKey {
    material: Material,
    fingerprint: KeyFingerprint,
}

#[derive(Clone)]
enum Material {
    Ed25519(Vec<u8>),
    /// An uncompressed point.
    P256(Vec<u8>),
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Hmac(hmac::Key),
}

impl VerificationKey {
    /// Reads a PEM or JWK text with a key of `algorithm`.
    pub(crate) fn read(text: &[u8], algorithm: Algorithm) -> Result<VerificationKey, InvalidKey> {
        let is_json = text.trim_ascii_start().starts_with(b"{");
        let key = if is_json { jwk::read_key(text)? } else { pem::read_public_key(text)? };
        match key.algorithm() {
            actual if actual == algorithm => Ok(key),
            actual => Err(InvalidKey::OtherAlgorithm { actual, expected: algorithm }),
        }
    }

    pub(super) fn ed25519(bytes: &[u8]) -> Result<VerificationKey, InvalidKey> {
        match bytes.len() {
            32 => Ok(Material::Ed25519(bytes.to_vec()).into()),
            _ => Err(InvalidKey::Encoding),
        }
    }

    /// `point` is uncompressed: a 4, then both coordinates.
    pub(super) fn p256(point: &[u8]) -> Result<VerificationKey, InvalidKey> {
        match point {
            [4, coordinates @ ..] if coordinates.len() == 64 => {
                Ok(Material::P256(point.to_vec()).into())
            }
            _ => Err(InvalidKey::Encoding),
        }
    }

    /// `modulus` and `exponent` are big-endian; leading zeros are ignored.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<VerificationKey, InvalidKey> {
        let [modulus, exponent] = [modulus, exponent].map(without_leading_zeros);
        let leading_zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = modulus.len() * 8 - leading_zeros;
        // The library would refuse every signature of such a key; here the reason can be said.
        let is_usable = matches!(exponent, [.., last] if last & 1 == 1 && exponent != [1])
            && exponent.len() <= 4;
        if !(2048..=8192).contains(&bits) || !is_usable {
            return Err(InvalidKey::RsaSize { bits });
        }
        let (modulus, exponent) = (modulus.to_vec(), exponent.to_vec());
        Ok(Material::Rsa { modulus, exponent }.into())
    }

    /// The key of HS256.
    pub(crate) fn secret(secret: &[u8]) -> Result<VerificationKey, InvalidKey> {
        Ok(Material::Hmac(hmac_key(secret)?).into())
    }

    /// The key of HS256 in a file.
    pub(crate) fn secret_file(content: &[u8]) -> Result<VerificationKey, InvalidKey> {
        VerificationKey::secret(without_line_break(content))
    }

    /// The one algorithm of this key.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.material.algorithm()
    }

    /// Names this key among others.
    pub(crate) fn fingerprint(&self) -> KeyFingerprint {
        self.fingerprint
    }

    /// Whether `signature` is that of `message` by this key.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            Material::P256(key) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            // Compares in constant time.
            Material::Hmac(key) => hmac::verify(key, message, signature),
        };
        verified.is_ok()
    }
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(_) => Algorithm::Es256,
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::Hmac(_) => Algorithm::Hs256,
        }
    }

    fn fingerprint(&self) -> KeyFingerprint {
        let of_public_key =
            |parts: &[&[u8]]| KeyFingerprint::of_public_key(self.algorithm(), parts);
        match self {
            Material::Ed25519(bytes) | Material::P256(bytes) => of_public_key(&[bytes]),
            Material::Rsa { modulus, exponent } => of_public_key(&[modulus, exponent]),
            Material::Hmac(key) => KeyFingerprint::of_secret(key),
        }
    }
}

impl From<Material> for VerificationKey {
    fn from(material: Material) -> VerificationKey {
        VerificationKey { fingerprint: material.fingerprint(), material }
    }
}

/// The key of HS256. RFC 7518 requires as many bytes as the hash has.
pub(super) fn hmac_key(secret: &[u8]) -> Result<hmac::Key, InvalidKey> {
    if secret.len() < SigningKey::SECRET_BYTES_MIN {
        return Err(InvalidKey::ShortSecret { len: secret.len() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

/// A secret without the line break that editors and `echo` add to a file.
pub(super) fn without_line_break(secret: &[u8]) -> &[u8] {
    let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
    secret.strip_suffix(b"\r").unwrap_or(secret)
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerificationKey").field(&self.algorithm()).finish()
    }
}
