//! Why a token is refused.

use crate::{Authenticator, Grants};

/// Why a token is refused. Each text says what to change. Before the signature is verified, no text repeats
/// anything of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// The token is longer than [`Authenticator::TOKEN_BYTES_MAX`].
    #[error(
        "the token has {len} bytes, more than {max}; grant patterns instead of single topics",
        max = Authenticator::TOKEN_BYTES_MAX
    )]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The text is not a signed token.
    #[error("the token is not a JWT: expected three parts in base64url, separated by '.'")]
    Malformed,
    /// The header names extensions (`crit`).
    #[error("the token requires extensions (`crit`); issue it without them")]
    CriticalExtension,
    /// The claim `iss` is missing or no string.
    #[error("the token has no claim `iss`; issue it with the name of its issuer")]
    NoIssuer,
    /// No issuer of this name is configured.
    #[error("the issuer of the token is not one that this cluster accepts")]
    UnknownIssuer,
    /// The issuer has no key with the id of the token.
    #[error("the issuer has no key with the key id (`kid`) of the token; get a new token")]
    UnknownKey,
    /// The keys of the issuer could not be fetched, or not for a day.
    #[error("the keys of the issuer are not available; retry later")]
    KeysUnavailable,
    /// The token names another algorithm than the key has.
    #[error("the algorithm (`alg`) of the token is not that of its key")]
    OtherAlgorithm,
    /// The signature is not that of the key.
    #[error("the signature of the token is not valid")]
    Signature,
    /// The token is of another type, such as an ID token.
    #[error("the type (`typ`) of the token must be {expected}; use an access token")]
    OtherType {
        /// The accepted types.
        expected: String,
    },
    /// A claim is missing or malformed.
    #[error("a claim is missing or malformed: {reason}")]
    Claims {
        /// Which one, and why.
        reason: String,
    },
    /// The token is for others.
    #[error("the audience (`aud`) of the token must be {expected:?}")]
    OtherAudience {
        /// The accepted audience.
        expected: String,
    },
    /// The token has expired.
    #[error("the token has expired; get a new one")]
    Expired,
    /// The token is not valid yet.
    #[error(
        "the token is not valid yet, or was issued in the future (`nbf`, `iat`); check the clocks"
    )]
    NotYetValid,
    /// A grant is malformed.
    #[error("the grant {grant:?} of the token is malformed: {reason}")]
    Grant {
        /// The grant.
        grant: String,
        /// Why.
        reason: String,
    },
    /// The token has more than [`Grants::PATTERNS_MAX`] patterns.
    #[error(
        "the token has {count} patterns, more than {max}; use wildcards",
        max = Grants::PATTERNS_MAX
    )]
    TooManyPatterns {
        /// Number of patterns.
        count: usize,
    },
}

impl AuthenticationError {
    /// Whether anyone could have made the token. A token whose signature was verified is no guess, even if it is refused
    /// because it expired, or is for others.
    pub(crate) fn is_guess(&self) -> bool {
        match self {
            AuthenticationError::TooLong { .. }
            | AuthenticationError::Malformed
            | AuthenticationError::CriticalExtension
            | AuthenticationError::NoIssuer
            | AuthenticationError::UnknownIssuer
            | AuthenticationError::UnknownKey
            | AuthenticationError::OtherAlgorithm
            | AuthenticationError::Signature => true,
            AuthenticationError::KeysUnavailable
            | AuthenticationError::OtherType { .. }
            | AuthenticationError::Claims { .. }
            | AuthenticationError::OtherAudience { .. }
            | AuthenticationError::Expired
            | AuthenticationError::NotYetValid
            | AuthenticationError::Grant { .. }
            | AuthenticationError::TooManyPatterns { .. } => false,
        }
    }

    /// The value of the label `reason` of `pushonce_auth_tokens_rejected_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            AuthenticationError::TooLong { .. } => "too_long",
            AuthenticationError::Malformed | AuthenticationError::CriticalExtension => "malformed",
            AuthenticationError::NoIssuer | AuthenticationError::UnknownIssuer => "issuer",
            AuthenticationError::UnknownKey => "unknown_key",
            AuthenticationError::KeysUnavailable => "keys_unavailable",
            AuthenticationError::OtherAlgorithm => "algorithm",
            AuthenticationError::Signature => "signature",
            AuthenticationError::OtherType { .. } => "type",
            AuthenticationError::Claims { .. } => "claims",
            AuthenticationError::OtherAudience { .. } => "audience",
            AuthenticationError::Expired => "expired",
            AuthenticationError::NotYetValid => "not_yet_valid",
            AuthenticationError::Grant { .. } | AuthenticationError::TooManyPatterns { .. } => {
                "grants"
            }
        }
    }
}
