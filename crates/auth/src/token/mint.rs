//! Tokens of one's own: for backends without an identity provider, and for tests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pushonce_core::Timestamp;
use serde_json::{Map, Value, json};

use crate::key::SigningKey;
use crate::{Grants, SigningError, TopicPattern};

/// The claims of a token that is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The issuer (`iss`), as the issuers file of the nodes names it.
    pub issuer: String,
    /// The audience (`aud`), as the issuers file names it.
    pub audience: String,
    /// The subject (`sub`).
    pub subject: Option<String>,
    /// The id of the token (`jti`), by which it can be revoked.
    pub token_id: Option<String>,
    /// When it is issued (`iat`).
    pub issued_at: Timestamp,
    /// When it expires (`exp`).
    pub expires_at: Timestamp,
    /// What it grants.
    pub grants: Grants,
}

impl NewToken {
    /// Signs the token. `key_id` is the id of the key in the issuers file; a key that is the only one of its
    /// issuer needs none.
    ///
    /// # Errors
    /// [`SigningError`] when there are no random numbers.
    pub fn sign(&self, key: &SigningKey, key_id: Option<&str>) -> Result<String, SigningError> {
        let mut header = json!({ "alg": key.algorithm().as_str(), "typ": "at+jwt" });
        if let (Some(header), Some(key_id)) = (header.as_object_mut(), key_id) {
            header.insert("kid".to_owned(), key_id.into());
        }
        sign_json(header.to_string(), self.claims().to_string(), key)
    }

    fn claims(&self) -> Value {
        let Grants { subscribe, publish, admin } = &self.grants;
        let mut grants = Map::new();
        insert_patterns(&mut grants, "subscribe", &subscribe.allow);
        insert_patterns(&mut grants, "publish", &publish.allow);
        let mut deny = Map::new();
        insert_patterns(&mut deny, "subscribe", &subscribe.deny);
        insert_patterns(&mut deny, "publish", &publish.deny);
        if !deny.is_empty() {
            grants.insert("deny".to_owned(), deny.into());
        }
        if let Some(access) = admin {
            grants.insert("admin".to_owned(), access.as_str().into());
        }
        let mut claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "iat": self.issued_at.0 / 1_000,
            "exp": self.expires_at.0 / 1_000,
            "pushonce": grants,
        });
        let optional = [("sub", &self.subject), ("jti", &self.token_id)];
        if let Some(claims) = claims.as_object_mut() {
            for (name, value) in optional {
                claims.extend(value.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
            }
        }
        claims
    }
}

/// Signs any header and claims.
pub(crate) fn sign_json(
    header: impl AsRef<[u8]>,
    claims: impl AsRef<[u8]>,
    key: &SigningKey,
) -> Result<String, SigningError> {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

fn insert_patterns(object: &mut Map<String, Value>, name: &str, patterns: &[TopicPattern]) {
    if !patterns.is_empty() {
        let patterns: Value = patterns.iter().map(|pattern| pattern.as_str()).collect();
        object.insert(name.to_owned(), patterns);
    }
}
