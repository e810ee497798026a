//! Tokens as attackers and careless issuers make them.

use pushonce_core::test_util::topic;
use pushonce_core::{Namespaces, Timestamp};
use serde_json::{Value, json};

use crate::testing::{
    NOW, RSA_PUBLIC, Stage, authenticate, claims, key_pair, rejection, sign, sign_text,
};
use crate::token::read_unverified;
use crate::{
    Action, Algorithm, AuthenticationError, Authenticator, Grants, NewToken, SigningKey, authorize,
};

fn plain() -> Value {
    claims(json!({}))
}

#[test]
fn token_of_each_algorithm_is_accepted() {
    for algorithm in Algorithm::ALL {
        let pair = key_pair(algorithm);
        let (_stage, authenticator) = Stage::with_key(&pair);
        let token = NewToken {
            issuer: "a".to_owned(),
            audience: "pushonce".to_owned(),
            subject: Some("alice".to_owned()),
            token_id: Some("t1".to_owned()),
            issued_at: Timestamp(NOW * 1_000),
            expires_at: Timestamp((NOW + 60) * 1_000),
            grants: Grants::default(),
        };
        let caller = authenticate(&authenticator, &token.sign(&pair.signing, None).unwrap());
        let caller = caller.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!((caller.issuer(), caller.subject()), (Some("a"), Some("alice")));
        assert_eq!(caller.token_id(), Some("t1"));
        assert_eq!(caller.issued_at(), Some(token.issued_at));
        assert_eq!(caller.expires_at(), Some(token.expires_at));
        assert_eq!(caller.grants(), &token.grants);
    }
}

#[test]
fn minted_grants_are_read_back() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let grants = json!({
        "subscribe": ["chat/**"], "publish": ["chat/*"], "admin": "read",
        "deny": {"subscribe": ["chat/secret"], "publish": ["chat/1"]},
    });
    let token = sign(&pair, None, &claims(json!({ "pushonce": grants })));
    let caller = authenticate(&authenticator, &token).unwrap();
    let again = NewToken {
        issuer: "a".to_owned(),
        audience: "pushonce".to_owned(),
        subject: None,
        token_id: None,
        issued_at: Timestamp(0),
        expires_at: Timestamp((NOW + 60) * 1_000),
        grants: caller.grants().clone(),
    };
    let again = authenticate(&authenticator, &again.sign(&pair.signing, None).unwrap()).unwrap();
    assert_eq!(again.grants(), caller.grants());
    let may = |name: &str| {
        authorize(&again, Action::Subscribe(&topic(name)), &Namespaces::default()).is_ok()
    };
    assert!(may("chat/7") && !may("chat/secret") && !may("news"));
}

#[test]
fn public_key_used_as_a_secret_is_refused() {
    let (_stage, authenticator) = Stage::with_key(&key_pair(Algorithm::Rs256));
    for secret in [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim_end().as_bytes()] {
        let signing = SigningKey::from_secret(secret).unwrap();
        let pair = crate::testing::KeyPair { signing, file: String::new() };
        let token = sign(&pair, None, &plain());
        assert_eq!(rejection(&authenticator, &token), AuthenticationError::OtherAlgorithm);
    }
}

#[test]
fn algorithm_that_is_not_that_of_the_key_is_refused() {
    for algorithm in Algorithm::ALL {
        let pair = key_pair(algorithm);
        let (_stage, authenticator) = Stage::with_key(&pair);
        for named in ["none", "None", "NONE", "", "HS384", "RS512", "PS256", "ES384", "eddsa"] {
            let header = json!({ "alg": named }).to_string();
            let token = sign_text(&pair, &header, plain().to_string());
            assert_eq!(rejection(&authenticator, &token), AuthenticationError::OtherAlgorithm);
            let unsigned = &token[..=token.rfind('.').unwrap()];
            assert!(authenticate(&authenticator, unsigned).is_err());
        }
        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            let header = json!({ "alg": other.as_str() }).to_string();
            let token = sign_text(&pair, &header, plain().to_string());
            assert_eq!(rejection(&authenticator, &token), AuthenticationError::OtherAlgorithm);
        }
    }
}

#[test]
fn token_of_another_key_is_refused() {
    let [own, foreign] = [Algorithm::EdDsa; 2].map(key_pair);
    let (_stage, authenticator) = Stage::with_key(&own);
    let signature = AuthenticationError::Signature;
    assert_eq!(rejection(&authenticator, &sign(&foreign, None, &plain())), signature);
    // An issuer with one key: a token that names another one is not verified with it.
    let named = sign(&own, Some("k"), &plain());
    assert_eq!(rejection(&authenticator, &named), AuthenticationError::UnknownKey);
}

#[test]
fn key_of_another_issuer_with_the_same_key_id_is_refused() {
    let [a, b] = [Algorithm::EdDsa; 2].map(key_pair);
    let stage = Stage::new();
    stage.write("a.pem", &a.file);
    stage.write("b.pem", &b.file);
    let issuer = |name: &str| {
        format!(
            "[[issuer]]\nissuer = \"{name}\"\naudience = \"pushonce\"\n\
             [[issuer.key]]\nid = \"k\"\nalgorithm = \"EdDSA\"\nfile = \"{name}.pem\"\n"
        )
    };
    stage.write_issuers(&(issuer("a") + &issuer("b")));
    let authenticator = stage.load().unwrap();
    let token = |pair, issuer| sign(pair, Some("k"), &claims(json!({ "iss": issuer })));
    assert!(authenticate(&authenticator, &token(&a, "a")).is_ok());
    assert!(authenticate(&authenticator, &token(&b, "b")).is_ok());
    assert_eq!(rejection(&authenticator, &token(&b, "a")), AuthenticationError::Signature);
    assert_eq!(rejection(&authenticator, &token(&a, "c")), AuthenticationError::UnknownIssuer);
    let named = sign(&a, Some("foreign"), &plain());
    assert_eq!(rejection(&authenticator, &named), AuthenticationError::UnknownKey);
}

#[test]
fn keys_and_addresses_inside_a_token_are_ignored() {
    let [own, foreign] = [Algorithm::EdDsa; 2].map(key_pair);
    let (_stage, authenticator) = Stage::with_key(&own);
    let header = json!({
        "alg": "EdDSA", "jwk": crate::testing::jwk("x", &foreign), "jku": "http://127.0.0.1:9/",
        "x5u": "http://127.0.0.1:9/", "x5c": ["AAAA"], "jwt": 7,
    });
    let token = |pair| sign_text(pair, header.to_string(), plain().to_string());
    assert!(authenticate(&authenticator, &token(&own)).is_ok());
    assert_eq!(rejection(&authenticator, &token(&foreign)), AuthenticationError::Signature);
}

#[test]
fn critical_extensions_are_refused_whatever_their_form() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    for critical in [json!(["b64"]), json!([]), json!("exp"), json!(null), json!({})] {
        let header = json!({ "alg": "EdDSA", "crit": critical }).to_string();
        let token = sign_text(&pair, &header, plain().to_string());
        assert_eq!(rejection(&authenticator, &token), AuthenticationError::CriticalExtension);
    }
}

#[test]
fn missing_and_malformed_claims_are_refused() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let reason = |changes: Value| {
        let token = sign(&pair, None, &claims(changes));
        rejection(&authenticator, &token).reason()
    };
    assert_eq!(reason(json!({ "iss": null })), "issuer");
    assert_eq!(reason(json!({ "iss": ["a"] })), "issuer");
    assert_eq!(reason(json!({ "iss": "A" })), "issuer");
    assert_eq!(reason(json!({ "aud": null })), "claims");
    assert_eq!(reason(json!({ "aud": 7 })), "claims");
    assert_eq!(reason(json!({ "aud": [] })), "audience");
    assert_eq!(reason(json!({ "aud": "other" })), "audience");
    assert_eq!(reason(json!({ "aud": ["other", "Pushonce"] })), "audience");
    for exp in [
        json!(null),
        json!("1900000000"),
        json!("NaN"),
        json!(true),
        json!(-1),
        json!(-0.5),
        json!([NOW + 60]),
        json!(u64::MAX),
        json!(1e300),
        json!((NOW + 60) * 1_000),
    ] {
        assert_eq!(reason(json!({ "exp": exp })), "claims", "{exp}");
        if !exp.is_null() {
            assert_eq!(reason(json!({ "nbf": exp })), "claims", "{exp}");
            assert_eq!(reason(json!({ "iat": exp })), "claims", "{exp}");
        }
    }
    assert_eq!(reason(json!({ "exp": 0 })), "expired");
    for name in ["sub", "jti"] {
        assert_eq!(reason(json!({ name: 7 })), "claims");
        assert_eq!(reason(json!({ name: "" })), "claims");
        assert_eq!(reason(json!({ name: "x".repeat(256) })), "claims");
    }
    for text in ["{\"iss\":\"a\",\"aud\":\"pushonce\",\"exp\":NaN}", "{\"iss\":\"a\"", "[]", ""] {
        let token = sign_text(&pair, "{\"alg\":\"EdDSA\"}", text);
        assert!(authenticate(&authenticator, &token).is_err(), "{text}");
    }
}

#[test]
fn times_are_compared_with_a_tolerance_of_thirty_seconds() {
    let pair = key_pair(Algorithm::EdDsa);
    let (stage, authenticator) = Stage::with_key(&pair);
    let token = sign(&pair, None, &claims(json!({ "nbf": NOW, "exp": NOW as f64 + 60.5 })));
    for (time, expected) in [
        (NOW - 31, Some("not_yet_valid")),
        (NOW - 30, None),
        (NOW + 90, None),
        (NOW + 91, Some("expired")),
    ] {
        stage.set_time(time);
        let result = authenticate(&authenticator, &token);
        assert_eq!(result.err().map(|error| error.reason()), expected, "{time}");
    }
}

/// `pushonce token revoke --issued-before` could not end a session whose token claims to be of the future.
#[test]
fn token_that_was_issued_in_the_future_is_refused() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    for (issued, expected) in [(NOW + 30, None), (NOW + 31, Some("not_yet_valid"))] {
        let token = sign(&pair, None, &claims(json!({ "iat": issued, "exp": NOW + 600 })));
        let result = authenticate(&authenticator, &token);
        assert_eq!(result.err().map(|error| error.reason()), expected, "{issued}");
    }
}

#[test]
fn several_audiences_may_include_this_one() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let token = sign(&pair, None, &claims(json!({ "aud": ["other", "pushonce"] })));
    assert!(authenticate(&authenticator, &token).is_ok());
}

#[test]
fn one_malformed_grant_refuses_the_whole_token() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let reason = |grants: Value| {
        let token = sign(&pair, None, &claims(json!({ "pushonce": grants })));
        authenticate(&authenticator, &token).err().map(|error| error.reason())
    };
    assert_eq!(reason(json!({ "subscribe": ["chat/**"] })), None);
    for bad in ["", "/", "a//b", "**/a", "a*", "chat/\u{0}", "e\u{301}"] {
        for grants in [
            json!({ "subscribe": ["chat/**", bad] }),
            json!({ "publish": [bad] }),
            json!({ "deny": { "subscribe": [bad] } }),
            json!({ "deny": { "publish": ["chat/**", bad] } }),
        ] {
            assert_eq!(reason(grants), Some("grants"), "{bad:?}");
        }
    }
    assert_eq!(reason(json!({ "admin": "root" })), Some("grants"));
    for grants in [
        json!("chat/**"),
        json!(["chat/**"]),
        json!(7),
        json!({ "subscribe": "chat/**" }),
        json!({ "subscribe": [7] }),
        json!({ "subscribe": [["chat/**"]] }),
        json!({ "subscribe": null }),
        json!({ "admin": true }),
        json!({ "deny": ["chat/**"] }),
        json!({ "deny": { "admin": ["chat/**"] } }),
        json!({ "subscribe_deny": ["chat/**"] }),
    ] {
        assert_eq!(reason(grants.clone()), Some("claims"), "{grants}");
    }
}

#[test]
fn number_of_patterns_is_limited_over_all_lists() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let patterns = |count| vec!["chat/*"; count];
    let result = |deny| {
        let grants = json!({
            "subscribe": patterns(20), "publish": patterns(20),
            "deny": { "subscribe": patterns(20), "publish": patterns(deny) },
        });
        authenticate(&authenticator, &sign(&pair, None, &claims(json!({ "pushonce": grants }))))
    };
    assert_eq!(result(4).unwrap().grants().pattern_count(), Grants::PATTERNS_MAX);
    assert_eq!(result(5), Err(AuthenticationError::TooManyPatterns { count: 65 }));
}

#[test]
fn length_is_limited_before_anything_is_decoded() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let token_of = |len: usize| sign(&pair, None, &claims(json!({ "pad": "x".repeat(len) })));
    // Three characters of base64 carry four bytes: with the right padding every length is reached.
    let max = Authenticator::TOKEN_BYTES_MAX;
    let longest = (5_000..max).map(token_of).take_while(|token| token.len() <= max).last().unwrap();
    assert!(longest.len() > max - 4);
    assert!(authenticate(&authenticator, &longest).is_ok());
    let error = rejection(&authenticator, &"x".repeat(max + 1));
    assert_eq!(error, AuthenticationError::TooLong { len: max + 1 });
    assert_eq!(rejection(&authenticator, &"x".repeat(max)), AuthenticationError::Malformed);
}

#[test]
fn claim_that_appears_twice_refuses_the_token() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let text = plain().to_string();
    for twice in [
        "\"iss\":\"a\"",
        "\"aud\":\"pushonce\"",
        "\"exp\":1900000000",
        "\"sub\":\"x\",\"sub\":\"y\"",
        "\"pushonce\":{},\"pushonce\":{}",
        "\"pushonce\":{\"admin\":\"read\",\"admin\":\"write\"}",
        "\"pushonce\":{\"deny\":{},\"deny\":{}}",
    ] {
        let claims = format!("{{{twice},{}", &text[1..]);
        let token = sign_text(&pair, "{\"alg\":\"EdDSA\"}", &claims);
        assert!(authenticate(&authenticator, &token).is_err(), "{claims}");
    }
    let header = "{\"alg\":\"none\",\"alg\":\"EdDSA\"}";
    let token = sign_text(&pair, header, &text);
    assert_eq!(rejection(&authenticator, &token), AuthenticationError::Malformed);
}

#[test]
fn json_that_is_not_utf8_is_refused_also_where_it_is_ignored() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let [header, claims] = [json!({ "alg": "EdDSA", "x": "#" }), claims(json!({ "x": "#" }))]
        .map(|json| json.to_string().into_bytes());
    let broken = |json: &[u8]| -> Vec<u8> {
        json.iter().map(|byte| if *byte == b'#' { 0xff } else { *byte }).collect()
    };
    assert!(authenticate(&authenticator, &sign_text(&pair, &header, &claims)).is_ok());
    for token in
        [sign_text(&pair, broken(&header), &claims), sign_text(&pair, &header, broken(&claims))]
    {
        assert_eq!(rejection(&authenticator, &token), AuthenticationError::Malformed);
        assert_eq!(read_unverified(&token), Err(AuthenticationError::Malformed));
    }
}

#[test]
fn half_a_surrogate_pair_is_refused_also_where_it_is_ignored() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let claims = claims(json!({ "x": "#" })).to_string();
    for (escape, is_valid) in
        [("\\ud83d\\ude00", true), ("\\ud83d", false), ("\\ude00", false), ("\\ud83dx", false)]
    {
        let token = sign_text(&pair, "{\"alg\":\"EdDSA\"}", claims.replace('#', escape));
        assert_eq!(authenticate(&authenticator, &token).is_ok(), is_valid, "{escape}");
    }
}

#[test]
fn deeply_nested_json_is_refused() {
    let pair = key_pair(Algorithm::EdDsa);
    let (_stage, authenticator) = Stage::with_key(&pair);
    let deep = "[".repeat(2_500);
    for (header, claims) in [
        (format!("{{\"alg\":\"EdDSA\",\"x\":{deep}"), plain().to_string()),
        ("{\"alg\":\"EdDSA\"}".to_owned(), format!("{{\"iss\":\"a\",\"x\":{deep}")),
        ("{\"alg\":\"EdDSA\"}".to_owned(), format!("{{\"iss\":\"a\",\"pushonce\":{deep}")),
    ] {
        assert!(authenticate(&authenticator, &sign_text(&pair, &header, &claims)).is_err());
    }
}

#[test]
fn token_that_is_cut_or_changed_anywhere_is_refused() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256] {
        let pair = key_pair(algorithm);
        let (_stage, authenticator) = Stage::with_key(&pair);
        let token = sign(&pair, None, &plain());
        for len in 0..token.len() {
            assert!(authenticate(&authenticator, &token[..len]).is_err(), "cut at {len}");
            assert!(authenticate(&authenticator, &token[len + 1..]).is_err(), "cut before {len}");
            let other = if token.as_bytes()[len] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..len], &token[len + 1..]);
            assert!(authenticate(&authenticator, &changed).is_err(), "changed at {len}");
        }
        for suffix in ["A", "=", ".", " ", "\n", "\0"] {
            assert!(authenticate(&authenticator, &format!("{token}{suffix}")).is_err());
        }
    }
}

#[test]
fn id_token_is_refused_where_keys_come_from_a_key_set() {
    let pair = key_pair(Algorithm::EdDsa);
    let stage = Stage::new();
    let set = json!({ "keys": [crate::testing::jwk("k", &pair)] });
    stage.write("keys.json", &set.to_string());
    let issuer = "[[issuer]]\nissuer = \"a\"\naudience = \"pushonce\"\njwks-file = \"keys.json\"\n";
    stage.write_issuers(issuer);
    let strict = stage.load().unwrap();
    stage.write_issuers(&format!("{issuer}typ = \"JWT\"\n"));
    let configured = stage.load().unwrap();
    let (_stage, single_key) = Stage::with_key(&pair);
    for (typ, expected) in [
        (Some("at+jwt"), [true, false, true]),
        (Some("application/AT+JWT"), [true, false, true]),
        (Some("JWT"), [false, true, true]),
        (Some("jwt"), [false, true, true]),
        (Some("secevent+jwt"), [false, false, false]),
        (None, [false, false, true]),
    ] {
        let mut header = json!({ "alg": "EdDSA" });
        if let Some(typ) = typ {
            header["typ"] = typ.into();
        }
        let token = sign_text(&pair, header.to_string(), plain().to_string());
        let accepted = [&strict, &configured, &single_key]
            .map(|authenticator| authenticate(authenticator, &token).is_ok());
        assert_eq!(accepted, expected, "{typ:?}");
    }
}

#[test]
fn error_texts_repeat_nothing_of_a_token_that_is_not_verified() {
    let (_stage, authenticator) = Stage::with_key(&key_pair(Algorithm::EdDsa));
    let foreign = key_pair(Algorithm::EdDsa);
    for changes in [
        json!({ "iss": "secret" }),
        json!({ "sub": "secret" }),
        json!({ "exp": "secret" }),
        json!({ "pushonce": { "subscribe": ["secret*"] } }),
    ] {
        let error = rejection(&authenticator, &sign(&foreign, None, &claims(changes)));
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}
