//! Keys as JSON (RFC 7517).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::{InvalidKey, VerificationKey};
use crate::Algorithm;

/// The members of a JWK that matter to verify signatures. The certificates of a key, and addresses where to
/// find them, are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    public_key_use: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    d: Option<Value>,
}

/// A JWK set.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

/// The usable keys of a JWK set, by key id.
pub(crate) struct KeySetDocument {
    /// The keys. A key without id is the only one of its set.
    pub(crate) keys: BTreeMap<Option<String>, VerificationKey>,
}

/// Why a JWK set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableKey {
    #[error("it is not a JSON object with an array `keys`")]
    Malformed,
    #[error("it has {0} keys; the limit is {max}", max = KeySetDocument::KEYS_MAX)]
    TooMany(usize),
    #[error("it has no signature key of an allowed algorithm")]
    None,
}

impl KeySetDocument {
    /// Maximum number of keys in a set. Issuers publish two to five.
    pub(crate) const KEYS_MAX: usize = 64;

    /// Reads a JWK set. Keys of other algorithms than `allowed`, for encryption, or broken are left out: a
    /// new kind of key must not make the others unusable. Of keys with the same id the first counts.
    pub(crate) fn read(text: &[u8], allowed: &[Algorithm]) -> Result<KeySetDocument, UnusableKey> {
        let malformed = || UnusableKey::Malformed;
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        let JwkSet { keys } = serde_json::from_str(text).map_err(|_| malformed())?;
        if keys.len() > Self::KEYS_MAX {
            return Err(UnusableKey::TooMany(keys.len()));
        }
        let mut usable = BTreeMap::new();
        for value in keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            let Ok(key) = jwk.verification_key() else { continue };
            if allowed.contains(&key.algorithm()) {
                usable.entry(jwk.kid).or_insert(key);
            }
        }
        // A token that names no key is verified with the only one, never with one of several.
        if usable.len() > 1 {
            usable.remove(&None);
        }
        if usable.is_empty() {
            return Err(UnusableKey::None);
        }
        Ok(KeySetDocument { keys: usable })
    }
}

/// Reads one JWK.
pub(super) fn read_key(text: &[u8]) -> Result<VerificationKey, InvalidKey> {
    let text = std::str::from_utf8(text).map_err(|_| InvalidKey::Encoding)?;
    let jwk: Jwk = serde_json::from_str(text).map_err(|_| InvalidKey::Encoding)?;
    if jwk.d.is_some() {
        return Err(InvalidKey::PrivateKey);
    }
    jwk.verification_key()
}

impl Jwk {
    fn verification_key(&self) -> Result<VerificationKey, InvalidKey> {
        if !self.is_for_signatures() {
            return Err(InvalidKey::Encoding);
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => VerificationKey::ed25519(&decode(&self.x)?)?,
            ("EC", Some("P-256")) => {
                let (x, y) = (decode(&self.x)?, decode(&self.y)?);
                // Lengths first: else a short x and a long y would pass as a point.
                if (x.len(), y.len()) != (32, 32) {
                    return Err(InvalidKey::Encoding);
                }
                VerificationKey::p256(&[&[4], x.as_slice(), y.as_slice()].concat())?
            }
            ("RSA", _) => VerificationKey::rsa(&decode(&self.n)?, &decode(&self.e)?)?,
            ("oct", _) => VerificationKey::secret(&decode(&self.k)?)?,
            _ => return Err(InvalidKey::Encoding),
        };
        match self.alg.as_deref().map(str::parse::<Algorithm>) {
            None => Ok(key),
            Some(Ok(named)) if named == key.algorithm() => Ok(key),
            Some(_) => Err(InvalidKey::Encoding),
        }
    }

    fn is_for_signatures(&self) -> bool {
        let use_fits = self.public_key_use.as_deref().is_none_or(|usage| usage == "sig");
        let operations = self.key_ops.as_ref();
        use_fits && operations.is_none_or(|all| all.iter().any(|one| one == "verify"))
    }
}

fn decode(member: &Option<String>) -> Result<Vec<u8>, InvalidKey> {
    let text = member.as_deref().ok_or(InvalidKey::Encoding)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidKey::Encoding)
}
