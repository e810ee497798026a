//! Conversion of revocations to and from the wire.

use pushonce_core::{Revocations, RevokedTokens, Timestamp};

use crate::InvalidField;
use crate::pb::cluster::v1 as pb;
use pb::revoked_tokens::Tokens;

impl From<&Revocations> for pb::RevocationsResponse {
    fn from(revocations: &Revocations) -> pb::RevocationsResponse {
        let entry = |(tokens, kept_until): (RevokedTokens, Timestamp)| pb::Revocation {
            tokens: Some(tokens.into()),
            kept_until_ms: kept_until.0,
        };
        pb::RevocationsResponse { revocations: revocations.iter().map(entry).collect() }
    }
}

impl From<RevokedTokens> for pb::RevokedTokens {
    fn from(tokens: RevokedTokens) -> pb::RevokedTokens {
        let (tokens, issued_before) = match tokens {
            RevokedTokens::WithId(id) => (Tokens::TokenId(id), None),
            RevokedTokens::OfSubject { subject, issued_before } => {
                (Tokens::Subject(subject), issued_before)
            }
            RevokedTokens::IssuedBefore(time) => (Tokens::Everyone(true), Some(time)),
        };
        let issued_before_ms = issued_before.map(|time| time.0);
        pb::RevokedTokens { tokens: Some(tokens), issued_before_ms }
    }
}

impl TryFrom<pb::RevokedTokens> for RevokedTokens {
    type Error = InvalidField;

    fn try_from(wire: pb::RevokedTokens) -> Result<RevokedTokens, InvalidField> {
        let issued_before = wire.issued_before_ms.map(Timestamp);
        match (wire.tokens, issued_before) {
            (Some(Tokens::TokenId(id)), None) => Ok(RevokedTokens::WithId(id)),
            (Some(Tokens::Subject(subject)), issued_before) => {
                Ok(RevokedTokens::OfSubject { subject, issued_before })
            }
            (Some(Tokens::Everyone(true)), Some(time)) => Ok(RevokedTokens::IssuedBefore(time)),
            (Some(Tokens::Everyone(_)), _) => {
                let text = "is missing: everyone's tokens are revoked by the time of their issue";
                Err(InvalidField::new("tokens.issued_before_ms", text))
            }
            (Some(Tokens::TokenId(_)), Some(_)) => {
                let text = "does not apply to one token: remove it";
                Err(InvalidField::new("tokens.issued_before_ms", text))
            }
            (None, _) => {
                let text = "is missing: name a token id, a subject, or everyone";
                Err(InvalidField::new("tokens", text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_tokens_round_trip() {
        let subject = || "alice".to_owned();
        for tokens in [
            RevokedTokens::WithId("t1".to_owned()),
            RevokedTokens::OfSubject { subject: subject(), issued_before: None },
            RevokedTokens::OfSubject { subject: subject(), issued_before: Some(Timestamp(7)) },
            RevokedTokens::IssuedBefore(Timestamp(7)),
        ] {
            let wire = pb::RevokedTokens::from(tokens.clone());
            assert_eq!(RevokedTokens::try_from(wire), Ok(tokens));
        }
    }

    #[test]
    fn request_that_would_revoke_nothing_or_everything_is_rejected() {
        let everyone =
            pb::RevokedTokens { tokens: Some(Tokens::Everyone(true)), issued_before_ms: None };
        for wire in [pb::RevokedTokens::default(), everyone] {
            assert!(RevokedTokens::try_from(wire).is_err());
        }
    }
}
