//! Tokens of the test's issuer.

use std::time::{SystemTime, UNIX_EPOCH};

use pushonce_auth::{AdminAccess, Grants, NewToken, PatternSet, SigningKey};
use pushonce_core::Timestamp;

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "pushonce";
const SECRET: &[u8] = b"a secret of the test, thirty-two bytes or more";

/// The id of the key of [`mint`].
pub const KEY: &str = "test";
/// The id of a key that the issuer removes.
pub const RETIRED_KEY: &str = "retired";

/// The secret of a key.
pub fn secret_of(key: &str) -> Vec<u8> {
    [SECRET, key.as_bytes()].concat()
}

/// Grants of patterns for topics. Those of `deny` are denied to subscribe and to publish.
pub fn grants(subscribe: &[&str], publish: &[&str], deny: &[&str]) -> Grants {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect();
    let set = |allow: &[&str]| PatternSet { allow: parse(allow), deny: parse(deny) };
    Grants { subscribe: set(subscribe), publish: set(publish), admin: None }
}

/// A grant for operators.
pub fn admin(access: AdminAccess) -> Grants {
    Grants { admin: Some(access), ..Grants::default() }
}

/// A token of `subject` that expires in so many seconds.
pub fn mint(subject: &str, expires_in: i64, grants: Grants) -> String {
    mint_by(KEY, subject, expires_in, grants)
}

/// As [`mint`], signed by another key.
pub fn mint_by(key_id: &str, subject: &str, expires_in: i64, grants: Grants) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    let time = |seconds: i64| Timestamp(u64::try_from(seconds).expect("after 1970") * 1_000);
    let token = NewToken {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: Some(subject.to_owned()),
        token_id: None,
        issued_at: time(now - 3_600),
        expires_at: time(now + expires_in),
        grants,
    };
    let key = SigningKey::from_secret(&secret_of(key_id)).expect("long enough");
    token.sign(&key, Some(key_id)).expect("signed")
}
