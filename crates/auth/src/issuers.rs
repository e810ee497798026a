//! The issuers whose tokens a node accepts.

mod file;
mod key_changes;
mod loader;

pub(crate) use key_changes::{KeyChanges, removed_keys};
pub use loader::IssuersError;
pub(crate) use loader::{Fingerprint, load};

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::Timestamp;

use crate::jwks::JwksSource;
use crate::key::VerificationKey;
use crate::token::{Claims, UnverifiedToken};
use crate::{Algorithm, AuthenticationError, Caller, KeyFingerprint};

/// The issuers by name. Each one has its own keys: a key of one never verifies a token of another, even if
/// both use the same key id.
#[derive(Debug, Default)]
pub(crate) struct Issuers(BTreeMap<Arc<str>, Issuer>);

/// One issuer.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// Its name, the claim `iss`.
    pub(crate) name: Arc<str>,
    /// The claim `aud` that its tokens must have.
    audience: String,
    /// The accepted types of tokens.
    token_type: TokenType,
    keys: Keys,
}

/// The accepted values of the header member `typ`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TokenType {
    /// Access tokens (`at+jwt`, RFC 9068), `JWT`, or none. For keys that sign nothing else.
    Any,
    /// Exactly this one. An identity provider signs ID tokens with the same keys as access tokens.
    Only(String),
}

/// The keys of one issuer, by key id.
#[derive(Debug)]
enum Keys {
    Static(BTreeMap<Option<String>, VerificationKey>),
    Fetched(Arc<JwksSource>),
}

/// The type of access tokens (RFC 9068).
const ACCESS_TOKEN: &str = "at+jwt";

impl Issuers {
    /// The issuer that a token names.
    pub(crate) fn find(&self, name: &str) -> Result<&Issuer, AuthenticationError> {
        self.0.get(name).ok_or(AuthenticationError::UnknownIssuer)
    }

    /// The sources of keys that are fetched.
    pub(crate) fn jwks_sources(&self) -> impl Iterator<Item = &Arc<JwksSource>> {
        self.0.values().filter_map(|issuer| match &issuer.keys {
            Keys::Fetched(source) => Some(source),
            Keys::Static(_) => None,
        })
    }

    /// Takes over the fetched keys of `old`, where issuer, address and algorithms are the same: a change of
    /// the file must not refuse tokens until all keys are fetched again.
    pub(crate) fn reuse_fetched_keys(&mut self, old: &Issuers) {
        for issuer in self.0.values_mut() {
            if let Keys::Fetched(new) = &mut issuer.keys
                && let Some(Issuer { keys: Keys::Fetched(old), .. }) = old.0.get(&issuer.name)
                && old.has_same_origin(new)
            {
                *new = old.clone();
            }
        }
    }

    /// What `new` does not have of these issuers and keys, for the audit log. Fetched keys are compared when they are
    /// fetched.
    pub(crate) fn removed_in(&self, new: &Issuers) -> Vec<String> {
        let mut removed = Vec::new();
        for (name, old) in &self.0 {
            match (&old.keys, new.0.get(name).map(|issuer| &issuer.keys)) {
                (_, None) => removed.push(name.to_string()),
                (Keys::Static(old), Some(Keys::Static(new))) => {
                    let keys = removed_keys(old, new);
                    removed.extend(keys.into_iter().map(|id| format!("{name} {id}")));
                }
                (Keys::Fetched(_), Some(_)) | (_, Some(Keys::Fetched(_))) => {}
            }
        }
        removed
    }
}

impl Issuer {
    /// The caller whose token this is.
    pub(crate) async fn verify(
        &self,
        token: UnverifiedToken<'_>,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        let key = self.find_key(token.header.kid.as_deref()).await?;
        // The key decides the algorithm. What the token says is only compared: `alg` of a token is how
        // public keys were used as secrets, and signatures left out.
        let named = token.header.alg.parse::<Algorithm>();
        if named != Ok(key.algorithm()) {
            return Err(AuthenticationError::OtherAlgorithm);
        }
        if !key.verify(token.signed.as_bytes(), &token.signature) {
            return Err(AuthenticationError::Signature);
        }
        self.token_type.check(token.header.typ.as_deref())?;
        let claims = Claims::read(&token.claims)?;
        claims.check(&self.audience, now)?;
        claims.into_caller(&self.name, Some(key.fingerprint()))
    }

    /// Whether this is a key of the issuer. Until the keys of an address were fetched, every key is.
    pub(crate) fn accepts_key(&self, key: KeyFingerprint) -> bool {
        match &self.keys {
            Keys::Static(keys) => keys.values().any(|known| known.fingerprint() == key),
            Keys::Fetched(source) => source.accepts_key(key),
        }
    }

    /// Fetches the keys again, if they come from an address and `key` is not one of them.
    pub(crate) async fn refresh_if_unknown(&self, key: KeyFingerprint) {
        if let Keys::Fetched(source) = &self.keys
            && !source.accepts_key(key)
        {
            source.refresh().await;
        }
    }

    async fn find_key(&self, key_id: Option<&str>) -> Result<VerificationKey, AuthenticationError> {
        match &self.keys {
            Keys::Static(keys) => {
                find_key(keys, key_id).cloned().ok_or(AuthenticationError::UnknownKey)
            }
            Keys::Fetched(source) => source.find_key(key_id).await,
        }
    }
}

/// The key with this id. A token that names no key is verified with the only one.
pub(crate) fn find_key<'a>(
    keys: &'a BTreeMap<Option<String>, VerificationKey>,
    key_id: Option<&str>,
) -> Option<&'a VerificationKey> {
    match key_id {
        Some(key_id) => keys.get(&Some(key_id.to_owned())),
        None if keys.len() == 1 => keys.values().next(),
        None => None,
    }
}

impl TokenType {
    /// Types are compared as media types: in any case, with or without `application/`.
    fn check(&self, actual: Option<&str>) -> Result<(), AuthenticationError> {
        let normalized = actual.map(|typ| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map_or(lower.clone(), str::to_owned)
        });
        let is_accepted = match (self, normalized.as_deref()) {
            (TokenType::Any, None) => true,
            (TokenType::Any, Some(typ)) => typ == ACCESS_TOKEN || typ == "jwt",
            (TokenType::Only(expected), Some(typ)) => expected.eq_ignore_ascii_case(typ),
            (TokenType::Only(_), None) => false,
        };
        if is_accepted {
            return Ok(());
        }
        let expected = match self {
            TokenType::Any => "at+jwt, JWT or absent".to_owned(),
            TokenType::Only(expected) => expected.clone(),
        };
        Err(AuthenticationError::OtherType { expected })
    }
}

#[cfg(test)]
mod issuers_test;
