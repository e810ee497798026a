//! Tokens, keys and patterns: every accepted token is signed, and no grant goes beyond its text.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pushonce_core::Topic;
use pushonce_fuzz::Input;
use serde_json::{Value, json};

use crate::jwks::JwksUrl;
use crate::key::{KeySetDocument, VerificationKey};
use crate::testing::{
    KeyPair, RSA_PUBLIC, Stage, authenticate, claims, jwk, key_pair, sign, sign_text,
};
use crate::tickets::Ticket;
use crate::{Algorithm, Authenticator, Grants, SigningKey, TopicPattern, read_unverified};

/// An issuer `a` with one secret key.
static ISSUER: LazyLock<(KeyPair, Stage, Authenticator)> = LazyLock::new(|| {
    let pair = key_pair(Algorithm::Hs256);
    let (stage, authenticator) = Stage::with_key(&pair);
    (pair, stage, authenticator)
});

fn grants() -> Value {
    let deny = json!({ "subscribe": ["chat/secret"], "publish": [] });
    let grants =
        json!({ "subscribe": ["chat/**"], "publish": ["*/7"], "deny": deny, "admin": "read" });
    claims(json!({ "pushonce": grants, "sub": "alice", "jti": "t1", "nbf": 1, "iat": 1.5 }))
}

#[test]
fn token_that_was_not_signed_is_refused() {
    let token = sign(&ISSUER.0, Some("k"), &grants());
    let unsigned = format!("{}.", token.rsplit_once('.').expect("three parts").0);
    let foreign = sign(&key_pair(Algorithm::Es256), None, &grants());
    pushonce_fuzz::check!("tokens", vec![unsigned.into(), foreign.into()], |input| {
        let Ok(token) = std::str::from_utf8(input) else { return };
        assert!(authenticate(&ISSUER.2, token).is_err());
        // What a person is shown comes from the text alone.
        if let Ok(caller) = read_unverified(token) {
            let claims = token.split('.').nth(1).expect("three parts");
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).expect("decoded before"));
            assert_granted_by(caller.grants(), &text.expect("JSON"));
        }
    });
}

#[test]
fn signed_claims_grant_no_more_than_their_text_says() {
    let [all, none] = [grants(), claims(json!({}))].map(|claims| claims.to_string().into_bytes());
    let header = |header: &str, claims: &[u8]| [header.as_bytes(), &[0], claims].concat();
    let seeds = vec![
        header("{\"alg\":\"HS256\"}", &all),
        header("{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k\"}", &none),
        header("{\"alg\":\"none\",\"crit\":[]}", &none),
    ];
    pushonce_fuzz::check!("claims", seeds, |input| {
        let mut input = Input::new(input);
        let Ok(header) = std::str::from_utf8(input.until_zero()) else { return };
        let Ok(claims) = std::str::from_utf8(input.rest()) else { return };
        let (pair, _, authenticator) = &*ISSUER;
        let token = sign_text(pair, header, claims);
        let Ok(caller) = authenticate(authenticator, &token) else { return };
        assert_eq!(caller.issuer(), Some("a"));
        assert!(header.contains("alg") && claims.contains("exp") && claims.contains("aud"));
        assert_granted_by(caller.grants(), claims);
    });
}

/// Every pattern, and access to the cluster, is written in `claims`, each pattern as often as it is granted.
fn assert_granted_by(grants: &Grants, claims: &str) {
    assert!(grants.pattern_count() <= Grants::PATTERNS_MAX);
    let claims: Value = serde_json::from_str(claims).expect("JSON");
    let written = |names: [&str; 2]| -> Vec<String> {
        let list = names
            .iter()
            .filter(|name| !name.is_empty())
            .fold(&claims["pushonce"], |value, name| &value[*name]);
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let texts = |patterns: &[TopicPattern]| {
        patterns.iter().map(TopicPattern::to_string).collect::<Vec<_>>()
    };
    for (set, name) in [(&grants.subscribe, "subscribe"), (&grants.publish, "publish")] {
        assert_eq!(texts(&set.allow), written([name, ""]));
        assert_eq!(texts(&set.deny), written(["deny", name]));
    }
    assert_eq!(grants.admin.map(|access| access.as_str()), claims["pushonce"]["admin"].as_str());
}

#[test]
fn accepted_pattern_is_displayed_as_written_and_prefixes_agree_with_matching() {
    let seeds = ["chat/**\0chat/7/a\0\x05", "*/7\0chat/7\0\x02", "a/*/b\0a/x/b\0\0", "*\0*\0\0"];
    pushonce_fuzz::check!("patterns", seeds.map(Into::into).to_vec(), |input| {
        let mut input = Input::new(input);
        let Ok(text) = std::str::from_utf8(input.until_zero()) else { return };
        let Ok(pattern) = text.parse::<TopicPattern>() else { return };
        assert_eq!(pattern.to_string(), text);
        let Ok(name) = std::str::from_utf8(input.until_zero()) else { return };
        let Ok(topic) = Topic::new(name) else { return };
        let matches = pattern.matches(&topic);
        assert!(!matches || text.contains('*') || text == name);
        let Some(prefix) = name.get(..usize::from(input.byte()).min(name.len())) else { return };
        assert!(matches || !pattern.covers_prefix(prefix));
        assert!(!matches || pattern.overlaps_prefix(prefix));
    });
}

#[test]
fn key_set_has_only_keys_of_allowed_algorithms() {
    let keys = json!({ "keys": [jwk("k1", &key_pair(Algorithm::EdDsa)), { "kty": "RSA", "n": "AA", "e": "AQAB" }] });
    let secret = json!({ "keys": [{ "kty": "oct", "k": "A".repeat(43), "use": "sig" }] });
    let seeds = [keys, secret].map(|set| [vec![0b1111], set.to_string().into_bytes()].concat());
    pushonce_fuzz::check!("key_sets", seeds.to_vec(), |input| {
        let mut input = Input::new(input);
        let bits = input.byte();
        let allowed: Vec<_> = Algorithm::ALL
            .into_iter()
            .enumerate()
            .filter_map(|(at, algorithm)| (bits >> at & 1 == 1).then_some(algorithm))
            .collect();
        let Ok(set) = KeySetDocument::read(input.rest(), &allowed) else { return };
        assert!((1..=KeySetDocument::KEYS_MAX).contains(&set.keys.len()));
        assert!(set.keys.values().all(|key| allowed.contains(&key.algorithm())));
        // A token without key id is never verified with one of several keys.
        assert!(!set.keys.contains_key(&None) || set.keys.len() == 1);
    });
}

#[test]
fn accepted_key_is_of_its_algorithm_and_verifies_no_arbitrary_signature() {
    let der = "-----BEGIN PUBLIC KEY-----\nMAUwAAMBAA==\n-----END PUBLIC KEY-----\n";
    let seeds = vec![
        RSA_PUBLIC.as_bytes().to_vec(),
        jwk("k", &key_pair(Algorithm::EdDsa)).to_string().into_bytes(),
        der.into(),
    ];
    pushonce_fuzz::check!("key_files", seeds, |input| {
        let _ = SigningKey::from_pem(input);
        for algorithm in Algorithm::ALL {
            let Ok(key) = VerificationKey::read(input, algorithm) else { continue };
            assert_eq!(key.algorithm(), algorithm);
            assert!(!key.verify(b"text", &[0; 64]));
        }
    });
}

#[test]
fn accepted_address_of_keys_is_encrypted_or_local() {
    let seeds =
        ["https://id.example/jwks?x=1", "http://[::1]:80/", "http://localhost/", "http://a/"];
    pushonce_fuzz::check!("key_addresses", seeds.map(Into::into).to_vec(), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(url) = JwksUrl::parse(text) {
            let shown = url.to_string();
            assert!(!shown.contains('@') || shown.find('@') > shown.find("//").map(|at| at + 2));
            let lower = shown.to_ascii_lowercase();
            let is_local = lower.strip_prefix("http://").is_some_and(is_on_this_host);
            assert!(lower.starts_with("https://") || is_local, "{shown}");
        }
        if let Ok(ticket) = text.parse::<Ticket>() {
            assert!(
                ticket
                    .secret_text()
                    .parse::<Ticket>()
                    .is_ok_and(|again| again.node() == ticket.node())
            );
        }
    });
}

/// Whether the rest of a URL names this host, in any notation of its address.
fn is_on_this_host(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[test]
fn arbitrary_issuers_file_is_loaded_or_refused() {
    let file = "[[issuer]]\nissuer = \"a\"\naudience = \"pushonce\"\n[[issuer.key]]\nalgorithm = \"HS256\"\nsecret-file = \"key\"\n";
    let remote = "[[issuer]]\nissuer = \"b\"\naudience = \"p\"\njwks = \"https://id.example/\"\nalgorithms = [\"ES256\"]\ntyp = \"at+jwt\"\n";
    pushonce_fuzz::check!("issuers_files", vec![file.into(), remote.into()], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let stage = &ISSUER.1;
        stage.write("issuers.toml", text);
        if stage.load().is_ok() {
            // A file without an issuer or an audience authenticates no caller.
            assert!(text.contains("issuer") && text.contains("audience"));
        }
    });
}
