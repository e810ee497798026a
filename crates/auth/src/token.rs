//! A token as text: a JWS in compact form (RFC 7515) with claims (RFC 7519).

mod claims;
mod mint;

pub(crate) use claims::Claims;
pub use mint::NewToken;
#[cfg(test)]
pub(crate) use mint::sign_json;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::{AuthenticationError, Authenticator, Caller};

/// A token whose signature nobody has verified yet.
pub(crate) struct UnverifiedToken<'a> {
    /// What the key is looked up by, and what kind of token it says it is.
    pub(crate) header: Header,
    /// The issuer that the token names, to look the key up.
    pub(crate) issuer: String,
    /// The signed text: header and claims.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    /// The claims as JSON.
    pub(crate) claims: String,
}

/// The members of the header that are used. Others are ignored: above all `jwk`, `jku`, `x5c` and `x5u`,
/// with which a token would bring its own key.
#[derive(Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    /// Whether the header names extensions that must be understood: none are.
    #[serde(default, rename = "crit", deserialize_with = "is_present")]
    has_critical: bool,
}

/// The claim that is read before the signature is verified.
#[derive(Deserialize)]
struct IssuerClaim {
    iss: String,
}

impl<'a> UnverifiedToken<'a> {
    pub(crate) fn parse(token: &'a str) -> Result<UnverifiedToken<'a>, AuthenticationError> {
        if token.len() > Authenticator::TOKEN_BYTES_MAX {
            return Err(AuthenticationError::TooLong { len: token.len() });
        }
        let malformed = || AuthenticationError::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        let header: Header =
            serde_json::from_str(&decode_text(header)?).map_err(|_| malformed())?;
        if header.has_critical {
            return Err(AuthenticationError::CriticalExtension);
        }
        let (claims, signature) = (decode_text(claims)?, decode(signature)?);
        let IssuerClaim { iss: issuer } =
            serde_json::from_str(&claims).map_err(|_| AuthenticationError::NoIssuer)?;
        Ok(UnverifiedToken { header, issuer, signed, signature, claims })
    }
}

/// What a token says, without verifying it: to show it to a person, never for a decision. Anyone can have
/// made the token.
///
/// # Errors
/// [`AuthenticationError`] when the token is malformed. Its signature, audience and times are not checked.
pub fn read_unverified(token: &str) -> Result<Caller, AuthenticationError> {
    let token = UnverifiedToken::parse(token)?;
    Claims::read(&token.claims)?.into_caller(&token.issuer.into(), None)
}

/// Strict: without padding, and with the unused bits of the last character zero, so that a token has one
/// spelling.
fn decode(part: &str) -> Result<Vec<u8>, AuthenticationError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthenticationError::Malformed)
}

fn decode_text(part: &str) -> Result<String, AuthenticationError> {
    String::from_utf8(decode(part)?).map_err(|_| AuthenticationError::Malformed)
}

fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[cfg(test)]
mod token_test;
