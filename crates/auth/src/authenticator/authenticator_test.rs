use std::time::Duration;

use pushonce_telemetry::test_util::TestRecorder;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::Algorithm;
use crate::testing::{Stage, authenticate, claims, key_pair, sign};

fn reload(authenticator: &Authenticator) -> Result<Reload, IssuersError> {
    authenticator.0.as_ref().expect("issuers are configured").reload()
}

#[test]
fn node_without_issuers_ignores_tokens_and_allows_everything() {
    let open = Authenticator::open();
    assert!(open.is_open() && open.without_token().is_unrestricted());
    assert!(authenticate(&open, "anything").is_ok_and(|caller| caller.is_unrestricted()));
    let (_stage, closed) = Stage::with_key(&key_pair(Algorithm::EdDsa));
    assert!(!closed.is_open() && closed.without_token().is_anonymous());
}

#[test]
fn changed_key_is_loaded_and_a_bad_file_keeps_the_old_one() {
    let [first, second] = [Algorithm::EdDsa; 2].map(key_pair);
    let (stage, authenticator) = Stage::with_key(&first);
    let tokens = [&first, &second].map(|pair| sign(pair, None, &claims(json!({}))));
    let accepted = || tokens.each_ref().map(|token| authenticate(&authenticator, token).is_ok());
    assert_eq!(reload(&authenticator).unwrap(), Reload::Unchanged);
    let issuers = std::fs::read_to_string(stage.path("issuers.toml")).unwrap();
    stage.write("key", "no key");
    assert!(reload(&authenticator).is_err());
    std::fs::remove_file(stage.path("key")).unwrap();
    assert!(reload(&authenticator).is_err());
    stage.write("key", &second.file);
    stage.write_issuers("");
    assert!(reload(&authenticator).is_err());
    assert!(authenticator.without_token().is_anonymous(), "an empty file does not open the node");
    assert_eq!(accepted(), [true, false], "the old key stays");
    stage.write_issuers(&issuers);
    let removed = vec!["a without id".to_owned()];
    assert_eq!(reload(&authenticator).unwrap(), Reload::Changed { removed });
    assert_eq!(accepted(), [false, true]);
    assert_eq!(reload(&authenticator).unwrap(), Reload::Unchanged);
}

#[test]
fn caller_is_accepted_while_its_issuer_has_the_key_that_verified_its_token() {
    let [old, new] = [Algorithm::EdDsa; 2].map(key_pair);
    let stage = Stage::new();
    stage.write_keys(&[("old", &old)]);
    let authenticator = stage.load().unwrap();
    let mut changes = authenticator.key_changes();
    let caller =
        |pair, id| authenticate(&authenticator, &sign(pair, Some(id), &claims(json!({})))).unwrap();
    let of_old = caller(&old, "old");
    let mut expect_reload = |removed: &[&str], accepted: bool| {
        let removed = removed.iter().map(|text| text.to_string()).collect();
        assert_eq!(reload(&authenticator).unwrap(), Reload::Changed { removed });
        assert_eq!(authenticator.accepts_key_of(&of_old), accepted);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
    };
    stage.write_keys(&[("old", &old), ("new", &new)]);
    expect_reload(&[], true);
    stage.write_keys(&[("renamed", &old), ("new", &new)]);
    expect_reload(&[], true);
    // Another key in the place of the old one.
    stage.write_keys(&[("old", &new)]);
    expect_reload(&["a renamed"], false);
    assert!(authenticator.accepts_key_of(&caller(&new, "old")));
    stage.write_keys(&[("old", &old)]);
    expect_reload(&["a old"], true);
    stage.write_issuers(
        "[[issuer]]\nissuer = \"b\"\naudience = \"pushonce\"\n[[issuer.key]]\n\
         algorithm = \"EdDSA\"\nfile = \"old\"\n",
    );
    expect_reload(&["a"], false);
    stage.write_issuers("no issuers file");
    assert!(reload(&authenticator).is_err());
    assert!(!changes.has_changed().unwrap());
    assert!(authenticator.accepts_key_of(&Caller::anonymous()));
    assert!(Authenticator::open().accepts_key_of(&of_old));
}

#[test]
fn each_kind_of_key_has_a_fingerprint_of_its_own() {
    let mut fingerprints = Vec::new();
    for algorithm in
        [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256, Algorithm::EdDsa]
    {
        let pair = key_pair(algorithm);
        let (_stage, authenticator) = Stage::with_key(&pair);
        let token = sign(&pair, None, &claims(json!({})));
        let fingerprint = || {
            let caller = authenticate(&authenticator, &token).unwrap();
            assert!(authenticator.accepts_key_of(&caller));
            caller.token().and_then(|token| token.key).expect("a verified token has a key")
        };
        assert_eq!(fingerprint(), fingerprint());
        fingerprints.push(fingerprint());
    }
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 5);
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn files_behind_symbolic_links_are_polled_and_reloaded_on_request() {
    let [first, second] = [Algorithm::EdDsa; 2].map(key_pair);
    let (stage, _) = Stage::with_key(&first);
    stage.write("v1", &first.file);
    stage.write("v2", &second.file);
    // As Kubernetes does: a new link takes the name of the old one.
    let link = |target: &str| {
        std::os::unix::fs::symlink(stage.path(target), stage.path("new")).unwrap();
        std::fs::rename(stage.path("new"), stage.path("key")).unwrap();
    };
    link("v1");
    let authenticator = stage.load().unwrap();
    let run = tokio::spawn(authenticator.clone().run());
    let [old, new] = [&first, &second].map(|pair| sign(pair, None, &claims(json!({}))));
    let accepts_after = async |token: &str| {
        let start = Instant::now();
        while authenticate(&authenticator, token).is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        start.elapsed()
    };
    link("v2");
    let polled = accepts_after(&new).await;
    assert!(polled > Duration::from_secs(20), "{polled:?}");
    link("v1");
    authenticator.reload();
    let requested = accepts_after(&old).await;
    assert!(requested < Duration::from_secs(20), "{requested:?}");
    run.abort();
}

#[test]
fn refused_tokens_and_reloads_are_counted() {
    let recorder = TestRecorder::default();
    let pair = key_pair(Algorithm::EdDsa);
    let (stage, authenticator) = Stage::with_key(&pair);
    recorder.run(|| {
        let expired = sign(&pair, None, &claims(json!({ "exp": 1 })));
        for token in [&expired, "x", "y"] {
            assert!(authenticate(&authenticator, token).is_err());
        }
        let source = authenticator.0.as_ref().expect("issuers are configured");
        source.reload_and_report();
        stage.write("key", "");
        source.reload_and_report();
        stage.write("key", &key_pair(Algorithm::EdDsa).file);
        source.reload_and_report();
    });
    let rejected = metrics::TOKENS_REJECTED.name;
    assert_eq!(recorder.value(rejected, &["expired"]), 1.0);
    assert_eq!(recorder.value(rejected, &["malformed"]), 2.0);
    let reloads = metrics::ISSUERS_RELOADS.name;
    assert_eq!(["ok", "error"].map(|result| recorder.value(reloads, &[result])), [1.0, 1.0]);
}

#[test]
fn clock_before_1970_counts_as_1970() {
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(timestamp(before), Timestamp(0));
}
