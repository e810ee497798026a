//! What the tests of this crate share: keys, an issuers file in a directory of its own, and a clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::token::sign_json;
use crate::{Algorithm, AuthenticationError, Authenticator, Caller, IssuersError, SigningKey};

/// An RSA key of 2,048 bits, for tests only.
pub(crate) const RSA_PRIVATE: &str = include_str!("testing/rsa2048.pem");
/// Its public key.
pub(crate) const RSA_PUBLIC: &str = include_str!("testing/rsa2048.pub.pem");
/// An RSA key of 1,024 bits.
pub(crate) const SHORT_RSA_PUBLIC: &str = include_str!("testing/rsa1024.pub.pem");

/// Seconds since the epoch at which the tests begin.
pub(crate) const NOW: u64 = 1_800_000_000;

/// A private key, and the text of the file that verifies its signatures.
pub(crate) struct KeyPair {
    pub(crate) signing: SigningKey,
    pub(crate) file: String,
}

/// A new key, or the one of [`RSA_PRIVATE`].
pub(crate) fn key_pair(algorithm: Algorithm) -> KeyPair {
    let (private, file) = match algorithm {
        Algorithm::Rs256 => (RSA_PRIVATE.to_owned(), RSA_PUBLIC.to_owned()),
        _ => {
            let key = SigningKey::generate(algorithm).expect("random numbers");
            let file = key.public.unwrap_or_else(|| key.private.clone());
            (key.private, file)
        }
    };
    let signing = match algorithm {
        Algorithm::Hs256 => SigningKey::from_secret(private.as_bytes()),
        _ => SigningKey::from_pem(private.as_bytes()),
    };
    KeyPair { signing: signing.expect("a valid key"), file }
}

/// The public members of an Ed25519 key as a JWK.
pub(crate) fn jwk(key_id: &str, pair: &KeyPair) -> Value {
    let der = rustls_pki_types::pem::from_buf(&mut pair.file.as_bytes());
    let (_, der) = der.expect("valid").expect("a section");
    // The key is the end of its encoding.
    let key = &der[der.len() - 32..];
    let x = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, key);
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": key_id, "x": x })
}

/// Valid claims of the issuer `a`, with the members of `changes` in place of theirs; null removes one.
pub(crate) fn claims(changes: Value) -> Value {
    let mut claims = json!({ "iss": "a", "aud": "pushonce", "exp": NOW + 60 });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

/// A token with these claims, signed by `pair`.
pub(crate) fn sign(pair: &KeyPair, key_id: Option<&str>, claims: &Value) -> String {
    let header = json!({ "alg": pair.signing.algorithm().as_str(), "kid": key_id });
    let mut header = header;
    header.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    sign_text(pair, header.to_string(), claims.to_string())
}

/// A token with any header and claims, signed by `pair`.
pub(crate) fn sign_text(
    pair: &KeyPair,
    header: impl AsRef<[u8]>,
    claims: impl AsRef<[u8]>,
) -> String {
    sign_json(header, claims, &pair.signing).expect("random numbers")
}

/// The directory of an issuers file, and the clock of its authenticators.
pub(crate) struct Stage {
    directory: TempDir,
    now: Arc<AtomicU64>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let directory = tempfile::tempdir().expect("a directory");
        Stage { directory, now: Arc::new(AtomicU64::new(NOW)) }
    }

    /// A stage whose issuer `a` has this one key, without key id.
    pub(crate) fn with_key(pair: &KeyPair) -> (Stage, Authenticator) {
        let stage = Stage::new();
        stage.write("key", &pair.file);
        let source = match pair.signing.algorithm() {
            Algorithm::Hs256 => "secret-file",
            _ => "file",
        };
        stage.write_issuers(&format!(
            "[[issuer]]\nissuer = \"a\"\naudience = \"pushonce\"\n\
             [[issuer.key]]\nalgorithm = \"{}\"\n{source} = \"key\"\n",
            pair.signing.algorithm()
        ));
        let authenticator = stage.load().expect("a valid file");
        (stage, authenticator)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("a writable directory");
    }

    pub(crate) fn write_issuers(&self, content: &str) {
        self.write("issuers.toml", content);
    }

    /// Replaces the issuers file by one whose issuer `a` has these public keys.
    pub(crate) fn write_keys(&self, keys: &[(&str, &KeyPair)]) {
        let mut text = "[[issuer]]\nissuer = \"a\"\naudience = \"pushonce\"\n".to_owned();
        for (id, pair) in keys {
            self.write(id, &pair.file);
            text += &format!(
                "[[issuer.key]]\nid = {id:?}\nalgorithm = \"{}\"\nfile = {id:?}\n",
                pair.signing.algorithm()
            );
        }
        self.write_issuers(&text);
    }

    pub(crate) fn load(&self) -> Result<Authenticator, IssuersError> {
        self.load_with(|_| None)
    }

    pub(crate) fn load_with(
        &self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Authenticator, IssuersError> {
        let now = self.now.clone();
        let clock =
            move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed));
        Authenticator::load_with(&self.path("issuers.toml"), Box::new(clock), Box::new(variable))
    }

    pub(crate) fn set_time(&self, seconds: u64) {
        self.now.store(seconds, Ordering::Relaxed);
    }
}

/// The result of a token that needs no fetched keys.
pub(crate) fn authenticate(
    authenticator: &Authenticator,
    token: &str,
) -> Result<Caller, AuthenticationError> {
    let future = std::pin::pin!(authenticator.authenticate(token));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => panic!("verifying with a static key does not wait"),
    }
}

/// The reason for which a token is refused.
pub(crate) fn rejection(authenticator: &Authenticator, token: &str) -> AuthenticationError {
    authenticate(authenticator, token).expect_err("the token is refused")
}
