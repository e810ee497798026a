//! Keys that sign tokens and keys that verify them.

mod der;
mod fingerprint;
mod jwk;
mod pem;
mod signing;
mod verification;

pub use fingerprint::KeyFingerprint;
pub(crate) use jwk::{KeySetDocument, UnusableKey};
pub use signing::{NewKey, SigningError, SigningKey};
pub(crate) use verification::VerificationKey;

use crate::Algorithm;

/// Why a key is refused. No text has anything of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The text has neither a PEM section nor a JSON object.
    #[error("the file has no key; expected a PEM section `PUBLIC KEY` or a JWK")]
    NoKey,
    /// The PEM section cannot be decoded.
    #[error("the PEM section cannot be decoded; write the key again")]
    MalformedPem,
    /// The PEM section is of another kind.
    #[error("the file has a PEM section of another kind; expected `{expected}`")]
    WrongSection {
        /// The expected kind.
        expected: &'static str,
    },
    /// A file that should hold a public key holds a private one.
    #[error(
        "the file has a private key; to verify tokens a node needs the public key only: write that to the file"
    )]
    PrivateKey,
    /// The encoding of the key is broken, or the key is of a type that is not supported.
    #[error("the key cannot be decoded; use Ed25519, ECDSA on P-256, or RSA")]
    Encoding,
    /// The key is of another type than its algorithm.
    #[error("the key is for {actual}, but its algorithm is set to {expected}")]
    OtherAlgorithm {
        /// The algorithm of the key.
        actual: Algorithm,
        /// The algorithm that is set.
        expected: Algorithm,
    },
    /// An RSA key is too short, too long, or has an even or tiny exponent.
    #[error("the RSA key has {bits} bits or an unusable exponent; use 2048 to 8192 bits")]
    RsaSize {
        /// Length of the modulus in bits.
        bits: usize,
    },
    /// A secret is too short.
    #[error(
        "the secret has {len} bytes; use at least {min} random bytes",
        min = SigningKey::SECRET_BYTES_MIN
    )]
    ShortSecret {
        /// Length in bytes.
        len: usize,
    },
}

#[cfg(test)]
mod key_test;
