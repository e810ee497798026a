//! A token issuer, and access control that accepts its tokens, with a clock that a test can advance.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_auth::{
    AccessControl, Authenticator, Clock, Grants, NewToken, NoPeers, PatternSet, SigningKey, Tickets,
};
use pushonce_core::{ClusterView, NodeId, Timestamp};
use tempfile::TempDir;
use tokio::sync::watch;

const SECRET: &str = "a secret of the test, thirty-two bytes or more";

pub struct Issuer {
    directory: TempDir,
}

/// How long the tokens of the tests are valid.
pub const LIFETIME: Duration = Duration::from_secs(300);

impl Issuer {
    pub fn new() -> Issuer {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name| directory.path().join(name);
        std::fs::write(file("secret"), SECRET).expect("writable");
        let text = format!(
            "[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\n[[issuer.key]]\n\
             algorithm = \"HS256\"\nsecret-file = {:?}\n",
            file("secret")
        );
        std::fs::write(file("issuers.toml"), text).expect("writable");
        Issuer { directory }
    }

    /// Replaces the key of the issuer by keys with these ids, for [`token_by`].
    pub fn set_keys(&self, ids: &[&str]) {
        let mut text = "[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\n".to_owned();
        for id in ids {
            let file = self.directory.path().join(id);
            std::fs::write(&file, secret_of(id)).expect("writable");
            text += &format!(
                "[[issuer.key]]\nid = {id:?}\nalgorithm = \"HS256\"\nsecret-file = {file:?}\n"
            );
        }
        std::fs::write(self.directory.path().join("issuers.toml"), text).expect("writable");
    }

    /// Verifies the tokens of this issuer.
    pub fn authenticator(&self) -> Authenticator {
        Authenticator::load(&self.directory.path().join("issuers.toml")).expect("valid")
    }

    /// Access control for callers with tokens of this issuer.
    pub fn access(&self, view: watch::Receiver<Arc<ClusterView>>, clock: Clock) -> AccessControl {
        access_by(self.authenticator(), view, clock)
    }
}

/// Access control for callers whose tokens `authenticator` verifies.
pub fn access_by(
    authenticator: Authenticator,
    view: watch::Receiver<Arc<ClusterView>>,
    clock: Clock,
) -> AccessControl {
    let tickets = Tickets::new(NodeId(1), Arc::new(NoPeers));
    AccessControl::with_clock(
        authenticator,
        view,
        AccessControl::TOKEN_GRACE_DEFAULT,
        tickets,
        clock,
    )
}

fn secret_of(key_id: &str) -> String {
    format!("{SECRET} with the key id {key_id}")
}

/// A token as of [`token`], signed by one of the keys of [`Issuer::set_keys`].
pub fn token_by(key_id: &str, subject: &str, patterns: &[&str]) -> String {
    let key = SigningKey::from_secret(secret_of(key_id).as_bytes()).expect("long");
    new_token(subject, patterns, LIFETIME).sign(&key, Some(key_id)).expect("signed")
}

/// A token that grants to subscribe to and to publish to topics of `patterns`.
pub fn token(subject: &str, patterns: &[&str]) -> String {
    token_of(subject, patterns, LIFETIME)
}

/// A token that is valid for `lifetime`.
pub fn token_of(subject: &str, patterns: &[&str], lifetime: Duration) -> String {
    let key = SigningKey::from_secret(SECRET.as_bytes()).expect("long");
    new_token(subject, patterns, lifetime).sign(&key, None).expect("signed")
}

/// A token that is not signed yet.
pub fn new_token(subject: &str, patterns: &[&str], lifetime: Duration) -> NewToken {
    let allow = patterns.iter().map(|text| text.parse().expect("valid")).collect();
    let set = PatternSet { allow, deny: Vec::new() };
    let now = system_time();
    NewToken {
        issuer: "test".to_owned(),
        audience: "pushonce".to_owned(),
        subject: Some(subject.to_owned()),
        token_id: None,
        issued_at: now,
        expires_at: Timestamp(now.0 + lifetime.as_millis() as u64),
        grants: Grants { subscribe: set.clone(), publish: set, admin: None },
    }
}

pub fn system_time() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp(since_epoch.as_millis() as u64)
}
