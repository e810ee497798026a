//! The claims of a token, and how they become a caller.

use std::fmt;
use std::sync::Arc;

use pushonce_core::{Revocations, Timestamp};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::caller::{is_past, leeway_ms};
use crate::{
    AdminAccess, AuthenticationError, Caller, Grants, KeyFingerprint, PatternSet, TopicPattern,
    VerifiedToken,
};

/// The claims that are used; others are ignored. A claim that appears twice refuses the token: which one
/// counts would depend on the parser.
#[derive(Deserialize)]
pub(crate) struct Claims {
    aud: Audience,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    sub: Option<String>,
    jti: Option<String>,
    #[serde(default)]
    pushonce: GrantClaims,
}

/// One audience or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// The claim `pushonce`. An unknown member may be a restriction of a later release: it refuses the token.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantClaims {
    subscribe: Vec<String>,
    publish: Vec<String>,
    deny: DenyClaims,
    admin: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DenyClaims {
    subscribe: Vec<String>,
    publish: Vec<String>,
}

/// Seconds since the epoch, whole or not, up to the year 9999.
#[derive(Clone, Copy)]
struct NumericDate(Timestamp);

impl Claims {
    /// Reads the claims of a token whose signature was verified.
    pub(crate) fn read(json: &str) -> Result<Claims, AuthenticationError> {
        let invalid =
            |error: serde_json::Error| AuthenticationError::Claims { reason: error.to_string() };
        // All members are parsed first: in a member that is ignored, serde_json accepts half a surrogate pair, which
        // other parsers reject or change.
        serde_json::from_str::<serde_json::Value>(json).map_err(invalid)?;
        serde_json::from_str(json).map_err(invalid)
    }

    /// Checks that the token is for `audience` and valid at `now`.
    pub(crate) fn check(&self, audience: &str, now: Timestamp) -> Result<(), AuthenticationError> {
        if !self.aud.contains(audience) {
            return Err(AuthenticationError::OtherAudience { expected: audience.to_owned() });
        }
        if is_past(self.exp.0, now) {
            return Err(AuthenticationError::Expired);
        }
        // Also `iat`: a token with a later time would escape every revocation by time of issue.
        let is_ahead = |date: &NumericDate| date.0.0 > now.0.saturating_add(leeway_ms());
        if self.nbf.iter().chain(&self.iat).any(is_ahead) {
            return Err(AuthenticationError::NotYetValid);
        }
        Ok(())
    }

    /// The caller that the claims name. `key` verified their signature.
    pub(crate) fn into_caller(
        self,
        issuer: &Arc<str>,
        key: Option<KeyFingerprint>,
    ) -> Result<Caller, AuthenticationError> {
        Ok(Caller::with_token(VerifiedToken {
            issuer: issuer.clone(),
            subject: self.sub.map(|sub| name("sub", sub)).transpose()?,
            token_id: self.jti.map(|jti| name("jti", jti)).transpose()?,
            issued_at: self.iat.map(|iat| iat.0),
            expires_at: self.exp.0,
            grants: self.pushonce.try_into()?,
            key,
        }))
    }
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

impl TryFrom<GrantClaims> for Grants {
    type Error = AuthenticationError;

    /// One malformed grant refuses the token: a caller with fewer grants than its issuer meant would fail
    /// in ways that nobody can explain, and one with fewer denies would be dangerous.
    fn try_from(claims: GrantClaims) -> Result<Grants, AuthenticationError> {
        let GrantClaims { subscribe, publish, deny, admin } = claims;
        let lists = [&subscribe, &publish, &deny.subscribe, &deny.publish];
        let count = lists.iter().map(|list| list.len()).sum();
        if count > Grants::PATTERNS_MAX {
            return Err(AuthenticationError::TooManyPatterns { count });
        }
        let admin = admin.map(|word| {
            AdminAccess::parse(&word).ok_or_else(|| AuthenticationError::Grant {
                grant: word,
                reason: "`admin` is \"read\" or \"write\"".to_owned(),
            })
        });
        let patterns = |list: Vec<String>| -> Result<Vec<_>, _> {
            list.iter().map(|text| parse_pattern(text)).collect()
        };
        Ok(Grants {
            subscribe: PatternSet { allow: patterns(subscribe)?, deny: patterns(deny.subscribe)? },
            publish: PatternSet { allow: patterns(publish)?, deny: patterns(deny.publish)? },
            admin: admin.transpose()?,
        })
    }
}

/// A name by which tokens can be revoked: what is too long for the list of revocations is refused.
fn name(claim: &str, name: String) -> Result<Arc<str>, AuthenticationError> {
    let max = Revocations::NAME_BYTES_MAX;
    match name.len() {
        len if (1..=max).contains(&len) => Ok(name.into()),
        len => {
            let reason = format!("`{claim}` has {len} bytes; it must have 1 to {max}");
            Err(AuthenticationError::Claims { reason })
        }
    }
}

fn parse_pattern(text: &str) -> Result<TopicPattern, AuthenticationError> {
    text.parse().map_err(|error: crate::InvalidPattern| AuthenticationError::Grant {
        grant: text.to_owned(),
        reason: error.to_string(),
    })
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NumericDate, D::Error> {
        deserializer.deserialize_any(NumericDateVisitor)
    }
}

struct NumericDateVisitor;

impl Visitor<'_> for NumericDateVisitor {
    type Value = NumericDate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds since 1970, at most those of the year 9999")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<NumericDate, E> {
        // The end of the year 9999. More is a mistake of the issuer, such as milliseconds.
        const SECONDS_MAX: u64 = 253_402_300_799;
        if seconds > SECONDS_MAX {
            return Err(E::invalid_value(serde::de::Unexpected::Unsigned(seconds), &self));
        }
        Ok(NumericDate(Timestamp(seconds * 1_000)))
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<NumericDate, E> {
        // The conversion saturates: a number that is too large is refused with the whole ones.
        if !(seconds >= 0.0 && seconds.is_finite()) {
            return Err(E::invalid_value(serde::de::Unexpected::Float(seconds), &self));
        }
        let NumericDate(whole) = self.visit_u64(seconds as u64)?;
        let millis = (seconds.fract() * 1_000.0) as u64;
        Ok(NumericDate(Timestamp(whole.0 + millis)))
    }
}
