//! The signature algorithms of tokens.

use std::fmt;
use std::str::FromStr;

/// A signature algorithm of tokens (RFC 7518, RFC 8037). A key has exactly one; a token never chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256; keys of 2048 to 8192 bits.
    Rs256,
    /// HMAC with SHA-256; secrets of at least 32 bytes. A node that verifies with it could also sign.
    Hs256,
}

/// A name that is not one of the four algorithms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the algorithm {0:?} is not supported; use EdDSA, ES256, RS256 or HS256")]
pub struct UnsupportedAlgorithm(pub String);

impl Algorithm {
    /// All of them, the best first.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256];
    /// Those with a public key.
    pub const ASYMMETRIC: [Algorithm; 3] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256];

    /// The name in tokens and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Hs256 => "HS256",
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnsupportedAlgorithm;

    /// `Ed25519` is the newer name of `EdDSA` with an Ed25519 key (RFC 9864).
    fn from_str(name: &str) -> Result<Algorithm, UnsupportedAlgorithm> {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
        let alias = (name == "Ed25519").then_some(Algorithm::EdDsa);
        known.or(alias).ok_or_else(|| UnsupportedAlgorithm(name.to_owned()))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
