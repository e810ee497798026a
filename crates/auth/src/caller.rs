//! The authenticated origin of a request.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pushonce_core::{CallerKey, ClientAddress, SubjectHash, Timestamp, TokenFacts};

use crate::{Grants, KeyFingerprint};

/// The authenticated origin of a request. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Origin);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Unrestricted,
    Anonymous,
    Token(Arc<VerifiedToken>),
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The issuer, one of those that the node is configured with.
    pub issuer: Arc<str>,
    /// The subject: the user or service that the token was issued to.
    pub subject: Option<Arc<str>>,
    /// The id of the token, for revocation.
    pub token_id: Option<Arc<str>>,
    /// When the token was issued.
    pub issued_at: Option<Timestamp>,
    /// When the token expires.
    pub expires_at: Timestamp,
    /// What the token grants.
    pub grants: Grants,
    /// The key that verified its signature; `None` when that is not known.
    pub key: Option<KeyFingerprint>,
}

/// Tolerance for the difference between the clocks of an issuer and of a node.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);

static NO_GRANTS: LazyLock<Grants> = LazyLock::new(Grants::default);

impl Caller {
    /// A caller of a node without issuers: everything is allowed.
    pub const fn unrestricted() -> Caller {
        Caller(Origin::Unrestricted)
    }

    /// A caller without a token, where issuers are configured.
    pub const fn anonymous() -> Caller {
        Caller(Origin::Anonymous)
    }

    /// A caller with a token that was verified.
    pub fn with_token(token: VerifiedToken) -> Caller {
        Caller(Origin::Token(Arc::new(token)))
    }

    /// Whether everything is allowed because no issuer is configured.
    pub fn is_unrestricted(&self) -> bool {
        self.0 == Origin::Unrestricted
    }

    /// Whether the caller sent no token.
    pub fn is_anonymous(&self) -> bool {
        self.0 == Origin::Anonymous
    }

    /// The verified token, if the caller has one.
    pub fn token(&self) -> Option<&VerifiedToken> {
        match &self.0 {
            Origin::Token(token) => Some(token),
            Origin::Unrestricted | Origin::Anonymous => None,
        }
    }

    /// The subject of the token.
    pub fn subject(&self) -> Option<&str> {
        self.token()?.subject.as_deref()
    }

    /// The issuer of the token.
    pub fn issuer(&self) -> Option<&str> {
        self.token().map(|token| &*token.issuer)
    }

    /// The id of the token.
    pub fn token_id(&self) -> Option<&str> {
        self.token()?.token_id.as_deref()
    }

    /// When the token was issued.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.token()?.issued_at
    }

    /// When the token expires; `None` for a caller without a token, which never expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.token().map(|token| token.expires_at)
    }

    /// Whether the token has expired by more than the tolerance of 30 seconds.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at().is_some_and(|expires_at| is_past(expires_at, now))
    }

    /// The grants of the token; none for a caller without a token.
    pub fn grants(&self) -> &Grants {
        self.token().map_or(&NO_GRANTS, |token| &token.grants)
    }

    /// What a revocation is compared with; `None` for a caller without a token.
    pub fn token_facts(&self) -> Option<TokenFacts<'_>> {
        self.token().map(|token| TokenFacts {
            token_id: token.token_id.as_deref(),
            subject: token.subject.as_deref(),
            issued_at: token.issued_at,
        })
    }

    /// The caller that limits are charged to: the subject of the token, else `address`, from which it connects.
    pub fn key(&self, address: ClientAddress) -> CallerKey {
        match self.token() {
            Some(VerifiedToken { issuer, subject: Some(subject), .. }) => {
                CallerKey::Subject(SubjectHash::new(issuer, subject))
            }
            _ => CallerKey::Address(address),
        }
    }
}

/// Whether a token that expires at `expires_at` is no longer accepted at `now`.
pub(crate) fn is_past(expires_at: Timestamp, now: Timestamp) -> bool {
    now.0 >= expires_at.0.saturating_add(leeway_ms())
}

/// [`LEEWAY`] in milliseconds.
pub(crate) fn leeway_ms() -> u64 {
    LEEWAY.as_secs() * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: ClientAddress = ClientAddress::LOCALHOST;

    fn token(issuer: &str, subject: Option<&str>) -> Caller {
        Caller::with_token(VerifiedToken {
            issuer: issuer.into(),
            subject: subject.map(Into::into),
            token_id: None,
            issued_at: None,
            expires_at: Timestamp(100_000),
            grants: Grants::default(),
            key: None,
        })
    }

    #[test]
    fn equal_subjects_of_different_issuers_have_different_quotas() {
        assert_eq!(token("a", Some("x")).key(ADDRESS), token("a", Some("x")).key(ADDRESS));
        assert_ne!(token("a", Some("x")).key(ADDRESS), token("b", Some("x")).key(ADDRESS));
        assert_eq!(token("a", None).key(ADDRESS), CallerKey::Address(ADDRESS));
        assert_eq!(Caller::anonymous().key(ADDRESS), CallerKey::Address(ADDRESS));
    }

    #[test]
    fn token_expires_with_a_tolerance_of_thirty_seconds() {
        let caller = token("a", None);
        assert!(!caller.is_expired(Timestamp(129_999)));
        assert!(caller.is_expired(Timestamp(130_000)));
        assert!(!Caller::anonymous().is_expired(Timestamp(u64::MAX)));
    }
}
