//! Keys that sign tokens: for `pushonce token` and for tests. A node has none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use ring::{error, hmac};
use rustls_pki_types::alg_id;
use rustls_pki_types::pem::SectionKind;

use super::verification::{hmac_key, without_line_break};
use super::{InvalidKey, der, pem};
use crate::Algorithm;

/// A key that signs tokens. Its bytes appear in no `Debug` output.
pub struct SigningKey(Material);

enum Material {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair, SystemRandom),
    Rsa(RsaKeyPair, SystemRandom),
    Hmac(hmac::Key),
}

/// A new key, as the texts of its files.
pub struct NewKey {
    /// A PEM text (PKCS #8), or the secret of HS256. To be kept secret.
    pub private: String,
    /// The PEM text for the nodes; `None` for HS256, whose nodes need the secret.
    pub public: Option<String>,
}

/// The operating system gave no random bytes, or a signature failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// A key of this type cannot be made here.
    #[error("RS256 keys cannot be generated here; use EdDSA, or `openssl genrsa`")]
    CannotGenerateRsa,
    /// The library failed.
    #[error("the operating system provides no random numbers")]
    Random,
}

impl From<error::Unspecified> for SigningError {
    fn from(_: error::Unspecified) -> SigningError {
        SigningError::Random
    }
}

/// What precedes the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7). The library would add the
/// public key, which older OpenSSL releases do not read.
const ED25519_PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

impl SigningKey {
    /// Minimum length of a secret of HS256, in bytes: the size of the hash, as RFC 7518 requires.
    pub const SECRET_BYTES_MIN: usize = 32;

    /// Reads the private key of a PEM text: PKCS #8, or the older form of RSA keys.
    ///
    /// # Errors
    /// [`InvalidKey`] when there is none of a supported type.
    pub fn from_pem(text: &[u8]) -> Result<SigningKey, InvalidKey> {
        let rejected = |_| InvalidKey::Encoding;
        let material = match pem::first_section(text)? {
            (SectionKind::RsaPrivateKey, der) => rsa(RsaKeyPair::from_der(&der).map_err(rejected)?),
            (SectionKind::PrivateKey, der) => {
                let random = SystemRandom::new();
                let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
                // The key says of which type it is: only one of the three reads it.
                if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                    Material::Ed25519(pair)
                } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, &der, &random) {
                    Material::P256(pair, random)
                } else {
                    rsa(RsaKeyPair::from_pkcs8(&der).map_err(rejected)?)
                }
            }
            _ => return Err(InvalidKey::WrongSection { expected: "PRIVATE KEY" }),
        };
        Ok(SigningKey(material))
    }

    /// The key of HS256.
    ///
    /// # Errors
    /// [`InvalidKey::ShortSecret`] below [`SigningKey::SECRET_BYTES_MIN`].
    pub fn from_secret(secret: &[u8]) -> Result<SigningKey, InvalidKey> {
        Ok(SigningKey(Material::Hmac(hmac_key(secret)?)))
    }

    /// The key of HS256 in a file. A line break at its end does not belong to the secret.
    ///
    /// # Errors
    /// [`InvalidKey::ShortSecret`] below [`SigningKey::SECRET_BYTES_MIN`].
    pub fn from_secret_file(content: &[u8]) -> Result<SigningKey, InvalidKey> {
        SigningKey::from_secret(without_line_break(content))
    }

    /// Makes a new key.
    ///
    /// # Errors
    /// [`SigningError`] for RS256, and when there are no random numbers.
    pub fn generate(algorithm: Algorithm) -> Result<NewKey, SigningError> {
        let random = SystemRandom::new();
        let (private, id, public) = match algorithm {
            Algorithm::Rs256 => return Err(SigningError::CannotGenerateRsa),
            Algorithm::Hs256 => {
                let private = URL_SAFE_NO_PAD.encode(random_bytes(&random)?);
                return Ok(NewKey { private, public: None });
            }
            Algorithm::EdDsa => {
                let seed = random_bytes(&random)?;
                let pair =
                    Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SigningError::Random)?;
                let private = [ED25519_PKCS8_PREFIX.as_slice(), &seed].concat();
                (private, alg_id::ED25519, pair.public_key().as_ref().to_vec())
            }
            Algorithm::Es256 => {
                let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let private = EcdsaKeyPair::generate_pkcs8(signing, &random)?.as_ref().to_vec();
                let pair = EcdsaKeyPair::from_pkcs8(signing, &private, &random)
                    .map_err(|_| SigningError::Random)?;
                (private, alg_id::ECDSA_P256, pair.public_key().as_ref().to_vec())
            }
        };
        let public = der::write_public_key(id.as_ref(), &public);
        Ok(NewKey {
            private: pem::write("PRIVATE KEY", &private),
            public: Some(pem::write("PUBLIC KEY", &public)),
        })
    }

    /// The one algorithm of this key.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(..) => Algorithm::Es256,
            Material::Rsa(..) => Algorithm::Rs256,
            Material::Hmac(_) => Algorithm::Hs256,
        }
    }

    /// The signature of `message`.
    ///
    /// # Errors
    /// [`SigningError::Random`] when there are no random numbers.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        Ok(match &self.0 {
            Material::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Material::P256(pair, random) => pair.sign(random, message)?.as_ref().to_vec(),
            Material::Rsa(pair, random) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, random, message, &mut signature)?;
                signature
            }
            Material::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
        })
    }
}

fn rsa(pair: RsaKeyPair) -> Material {
    Material::Rsa(pair, SystemRandom::new())
}

fn random_bytes(random: &SystemRandom) -> Result<[u8; 32], SigningError> {
    let mut bytes = [0; 32];
    random.fill(&mut bytes)?;
    Ok(bytes)
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.algorithm()).finish()
    }
}
