//! The token with which a node without a certificate joins.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pushonce_core::{ClusterId, JoinTokenHash};
use sha2::{Digest as _, Sha256};

use crate::Fingerprint;

/// A join token: which cluster to join, how to recognise it, and a secret to be admitted by. It is used once
/// and expires; the cluster stores the hash of its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// The authority that issued the certificates of its nodes.
    pub authority: Fingerprint,
    secret: [u8; JoinToken::SECRET_BYTES],
}

/// Text that is not a [`JoinToken`]. It is not quoted: it may be most of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join token is incomplete or damaged: copy all that `pushonce cluster token` prints")]
pub struct InvalidJoinToken;

/// Tells the token from other secrets, and its format from later ones.
const PREFIX: &str = "pushonce-join-1.";

/// The cluster, the fingerprint and the secret.
const BYTES: usize = 16 + 32 + JoinToken::SECRET_BYTES;

impl JoinToken {
    /// Length of the secret: it cannot be guessed.
    pub const SECRET_BYTES: usize = 32;

    /// A token with a secret that the caller drew at random.
    pub fn new(
        cluster: ClusterId,
        authority: Fingerprint,
        secret: [u8; JoinToken::SECRET_BYTES],
    ) -> JoinToken {
        JoinToken { cluster, authority, secret }
    }

    /// The token as text, for the operator who asked for it and nothing else.
    pub fn expose(&self) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.cluster.0.to_be_bytes());
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.secret);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The secret, for the request to join and nothing else.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The hash of a secret.
    pub fn hash(secret: &[u8]) -> JoinTokenHash {
        JoinTokenHash(Sha256::digest(secret).into())
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<JoinToken, InvalidJoinToken> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidJoinToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| InvalidJoinToken)?;
        let bytes: [u8; BYTES] = bytes.try_into().map_err(|_| InvalidJoinToken)?;
        let (cluster, rest) = bytes.split_at(16);
        let (authority, secret) = rest.split_at(32);
        let cluster = cluster.try_into().map_err(|_| InvalidJoinToken)?;
        Ok(JoinToken {
            cluster: ClusterId(u128::from_be_bytes(cluster)),
            authority: Fingerprint(authority.try_into().map_err(|_| InvalidJoinToken)?),
            secret: secret.try_into().map_err(|_| InvalidJoinToken)?,
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JoinToken { cluster, authority, secret: _ } = self;
        f.debug_struct("JoinToken")
            .field("cluster", cluster)
            .field("authority", authority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(ClusterId(7), Fingerprint([1; 32]), [2; 32])
    }

    #[test]
    fn token_is_read_as_printed() {
        let text = token().expose();
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()), "as in a file");
    }

    #[test]
    fn token_that_is_cut_or_extended_anywhere_is_rejected() {
        let text = token().expose();
        for length in 0..text.len() {
            assert_eq!(text[..length].parse::<JoinToken>(), Err(InvalidJoinToken), "{length}");
        }
        for other in [format!("{text}A"), format!("{text}="), text.replace("-1.", "-2.")] {
            assert_eq!(other.parse::<JoinToken>(), Err(InvalidJoinToken), "{other}");
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let debug = format!("{:?}", token());
        assert!(!debug.contains("2, 2") && !debug.contains("0202"), "{debug}");
    }
}
