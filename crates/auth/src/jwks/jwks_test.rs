use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{KeyPair, jwk, key_pair};

/// A server of a JWK set in this process.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
    /// A test that holds it delays the answer.
    response: Arc<tokio::sync::Mutex<String>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(response: String) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (requests, response) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Mutex::new(response)));
        let (counter, current) = (requests.clone(), response.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counter, current) = (counter.clone(), current.clone());
                tokio::spawn(async move {
                    let mut head = [0; 1_024];
                    let _ = stream.read(&mut head).await;
                    counter.fetch_add(1, Ordering::Relaxed);
                    let response = current.lock().await.clone();
                    let _ = stream.write_all(response.as_bytes()).await;
                });
            }
        });
        Server { address, requests, response, task }
    }

    async fn set(&self, response: String) {
        *self.response.lock().await = response;
    }

    fn request_count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn source(&self) -> Arc<JwksSource> {
        let url = format!("http://{}/keys", self.address);
        Arc::new(
            JwksSource::new("a", &url, Algorithm::ASYMMETRIC.to_vec(), KeyChanges::default())
                .expect("valid"),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn key_set(keys: &[(&str, &KeyPair)]) -> String {
    let keys: Value = keys.iter().map(|(id, pair)| jwk(id, pair)).collect();
    response("200 OK", "", &json!({ "keys": keys }).to_string())
}

async fn error(source: &Arc<JwksSource>, key_id: &str) -> AuthenticationError {
    source.find_key(Some(key_id)).await.expect_err("no such key")
}

/// Moves the clock past the interval between two fetches. Only then: with a paused clock the timeout of a
/// request to a real socket would pass at once.
async fn wait_for_next_attempt() {
    tokio::time::pause();
    tokio::time::advance(KeyCache::ATTEMPT_INTERVAL).await;
    tokio::time::resume();
}

#[tokio::test]
async fn storm_of_unknown_key_ids_is_one_fetch() {
    let pair = key_pair(Algorithm::EdDsa);
    let server = Server::start(key_set(&[("k", &pair)])).await;
    let source = server.source();
    let callers: Vec<_> = (0..200)
        .map(|number| {
            let source = source.clone();
            let id = if number % 2 == 0 { "k".to_owned() } else { number.to_string() };
            tokio::spawn(async move { (id == "k", source.find_key(Some(&id)).await) })
        })
        .collect();
    for caller in callers {
        let (is_known, result) = caller.await.expect("no panic");
        assert_eq!(result.is_ok(), is_known);
    }
    for number in 0..200 {
        assert_eq!(error(&source, &format!("x{number}")).await, AuthenticationError::UnknownKey);
    }
    assert_eq!(server.request_count(), 1);
}

#[tokio::test]
async fn rotated_key_is_found_and_the_withdrawn_one_is_forgotten() {
    let [old, new] = [Algorithm::EdDsa; 2].map(key_pair);
    let server = Server::start(key_set(&[("old", &old)])).await;
    let source = server.source();
    let mut changes = source.changes.subscribe();
    let signature = old.signing.sign(b"message").expect("signed");
    let key = source.find_key(Some("old")).await.expect("published");
    assert!(key.verify(b"message", &signature));
    assert!(source.accepts_key(key.fingerprint()));
    changes.mark_unchanged();
    server.set(key_set(&[("new", &new)])).await;
    assert_eq!(error(&source, "new").await, AuthenticationError::UnknownKey, "within 30 s");
    wait_for_next_attempt().await;
    assert!(source.find_key(Some("new")).await.is_ok());
    assert_eq!(error(&source, "old").await, AuthenticationError::UnknownKey);
    assert!(changes.has_changed().unwrap() && !source.accepts_key(key.fingerprint()));
    assert_eq!(server.request_count(), 2);
}

#[tokio::test]
async fn keys_stay_while_the_server_fails_and_nothing_is_accepted_without_keys() {
    let pair = key_pair(Algorithm::EdDsa);
    let server = Server::start(response("500 Internal Server Error", "", "")).await;
    let source = server.source();
    assert_eq!(error(&source, "k").await, AuthenticationError::KeysUnavailable);
    let unknown = VerificationKey::secret(&[7; 32]).expect("long").fingerprint();
    assert!(source.accepts_key(unknown), "sessions are not ended before a set was fetched");
    server.set(key_set(&[("k", &pair)])).await;
    assert_eq!(error(&source, "k").await, AuthenticationError::KeysUnavailable, "within 30 s");
    wait_for_next_attempt().await;
    let key = source.find_key(Some("k")).await.expect("published");
    let other = VerificationKey::secret(&[7; 32]).expect("long");
    assert!(source.accepts_key(key.fingerprint()) && !source.accepts_key(other.fingerprint()));
    let oversized = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(64 << 10));
    for bad in [
        response("500 Internal Server Error", "", ""),
        response("404 Not Found", "", ""),
        response("302 Found", "location: http://127.0.0.1:9/keys\r\n", ""),
        response("200 OK", "", "garbage"),
        response("200 OK", "", "{\"keys\":[]}"),
        response("200 OK", "", &oversized),
        key_set(&[("k", &pair), ("other", &pair)]).replace("content-length: ", "content-length: 9"),
        "garbage".to_owned(),
        String::new(),
    ] {
        server.set(bad.clone()).await;
        wait_for_next_attempt().await;
        let before = server.request_count();
        assert_eq!(error(&source, "other").await, AuthenticationError::UnknownKey, "{bad:.80}");
        assert_eq!(server.request_count(), before + 1, "{bad:.80}");
        assert!(source.find_key(Some("k")).await.is_ok(), "{bad:.80}");
        assert!(source.accepts_key(key.fingerprint()), "sessions stay: {bad:.80}");
    }
    let changes = source.changes.subscribe();
    server.set(key_set(&[("k", &pair)])).await;
    wait_for_next_attempt().await;
    let before = server.request_count();
    assert_eq!(error(&source, "other").await, AuthenticationError::UnknownKey);
    assert_eq!(server.request_count(), before + 1);
    assert!(!changes.has_changed().unwrap(), "the same keys");
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let pair = key_pair(Algorithm::EdDsa);
    let target = Server::start(key_set(&[("k", &pair)])).await;
    let location = format!("location: http://{}/keys\r\n", target.address);
    let server = Server::start(response("302 Found", &location, "")).await;
    let source = server.source();
    assert_eq!(error(&source, "k").await, AuthenticationError::KeysUnavailable);
    assert_eq!((server.request_count(), target.request_count()), (1, 0));
}

/// The clock is paused: it moves to the timeout because nothing else happens.
#[tokio::test(start_paused = true)]
async fn silent_server_is_given_up_after_five_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    let source = JwksSource::new("a", &url, Algorithm::ASYMMETRIC.to_vec(), KeyChanges::default())
        .expect("valid");
    let start = Instant::now();
    assert_eq!(error(&Arc::new(source), "k").await, AuthenticationError::KeysUnavailable);
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn fetch_goes_on_when_its_first_caller_is_gone() {
    let pair = key_pair(Algorithm::EdDsa);
    let server = Server::start(key_set(&[("k", &pair)])).await;
    let source = server.source();
    let delay = server.response.clone().lock_owned().await;
    let first = source.clone();
    let caller = tokio::spawn(async move { first.find_key(Some("k")).await.is_ok() });
    while server.request_count() == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    drop(delay);
    assert!(source.find_key(Some("k")).await.is_ok());
    assert_eq!(server.request_count(), 1);
}

#[tokio::test]
async fn old_keys_are_fetched_again_by_the_timer_only() {
    let pair = key_pair(Algorithm::EdDsa);
    let server = Server::start(key_set(&[("k", &pair)])).await;
    let source = server.source();
    source.refresh_if_old().await;
    source.refresh_if_old().await;
    assert_eq!(server.request_count(), 1);
    tokio::time::pause();
    tokio::time::advance(KeyCache::REFRESH_AGE).await;
    tokio::time::resume();
    assert!(source.find_key(Some("k")).await.is_ok());
    assert_eq!(server.request_count(), 1);
    source.refresh_if_old().await;
    assert_eq!(server.request_count(), 2);
}

#[test]
fn only_https_and_this_machine_are_accepted() {
    for url in [
        "https://issuer.example/keys",
        "https://issuer.example:8443",
        "https://[2001:db8::1]/keys",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]:80/keys",
    ] {
        assert!(JwksUrl::parse(url).is_ok(), "{url}");
    }
    for (url, expected) in [
        ("http://issuer.example/keys", InvalidJwksUrl::NotHttps),
        ("http://localhost.example/keys", InvalidJwksUrl::NotHttps),
        ("http://10.0.0.1/keys", InvalidJwksUrl::NotHttps),
        ("http://[::2]/keys", InvalidJwksUrl::NotHttps),
        ("ftp://localhost/keys", InvalidJwksUrl::NotHttps),
        ("file:///etc/keys", InvalidJwksUrl::Malformed),
        ("https://user@issuer.example/", InvalidJwksUrl::Credentials),
        ("http://localhost@issuer.example/", InvalidJwksUrl::Credentials),
        ("/keys", InvalidJwksUrl::Malformed),
        ("", InvalidJwksUrl::Malformed),
    ] {
        assert_eq!(JwksUrl::parse(url).err(), Some(expected), "{url}");
    }
}
