//! What a client may send before its credential was verified.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pushonce_auth::{Algorithm, Authenticator, SigningKey};
use pushonce_core::{AccessToken, StartFrom};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ErrorCode, ServerEvent};
use pushonce_proto::{close, delimited};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use support::TestGateway;
use support::client::{self, ClientTransport, GatewayClient, publish, subscribe};
use support::issuer::{self, Issuer};
use support::raw::{HANDSHAKE, RawConnection, client_frame, deflate};

const TRANSPORTS: [ClientTransport; 5] = [
    ClientTransport::WsJson,
    ClientTransport::WsProto,
    ClientTransport::Quic,
    ClientTransport::WebTransport,
    ClientTransport::WebTransportProto,
];

/// The bound of a frame before a credential was verified.
const BOUND: usize = 16 << 10;

/// Almost the largest payload of a namespace, and much larger than what is received before a token was verified.
const LARGE: usize = 60_000;

const TOPIC: &str = "chat/7";

/// A gateway that accepts tokens of an issuer.
async fn gateway(authenticator: Authenticator) -> TestGateway {
    let access = |view| issuer::access_by(authenticator, view, issuer::system_time);
    TestGateway::with_access(|_| {}, access).await
}

fn authenticate(token: String) -> ClientCommand {
    ClientCommand::Authenticate { token: AccessToken::new(token) }
}

fn text(len: usize) -> String {
    "x".repeat(len)
}

async fn expect_authenticated_and_published(client: &mut GatewayClient, via: ClientTransport) {
    let reply = client.next_reply().await;
    assert!(matches!(reply, ServerEvent::Authenticated { id: Some(1), .. }), "{via:?}: {reply:?}");
    let reply = client.next_reply().await;
    assert!(matches!(reply, ServerEvent::Published { id: Some(2), .. }), "{via:?}: {reply:?}");
}

#[tokio::test]
async fn large_frame_before_authentication_ends_the_session() {
    let server = gateway(Issuer::new().authenticator()).await;
    server.change_view(|view| view.namespaces.default.access.anonymous_read = true);
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        let reply = client.subscribe(1, TOPIC, StartFrom::Now).await;
        assert!(matches!(reply, ServerEvent::Subscribed { .. }), "{via:?}: {reply:?}");
        client.send(2, publish(TOPIC, &text(BOUND - 200))).await;
        assert_eq!(client.error_code().await, (Some(2), ErrorCode::NotAuthenticated), "{via:?}");
        client.send(3, publish(TOPIC, &text(BOUND))).await;
        assert_eq!(client.close_code().await, close::TOO_BIG.code, "{via:?}");
    }
}

#[tokio::test]
async fn large_frame_is_refused_at_its_head_and_after_inflating() {
    let server = gateway(Issuer::new().authenticator()).await;
    let head_only = client_frame(0x81, &vec![b' '; BOUND + 1])[..8].to_vec();
    let bomb = client_frame(0xc1, &deflate(&vec![b' '; BOUND + 1]));
    let fragments = [
        client_frame(0x01, &vec![b' '; BOUND / 2]),
        client_frame(0x00, &vec![b' '; BOUND / 2]),
        client_frame(0x80, b" "),
    ]
    .concat();
    for frame in [head_only, bomb, fragments] {
        let (mut raw, agreed) =
            RawConnection::session_with_extensions(server.http, "permessage-deflate").await;
        assert!(agreed.is_some());
        raw.send(&frame).await;
        let reason = loop {
            if let (0x88, payload) = raw.read_frame().await {
                break payload;
            }
        };
        assert_eq!(reason[..2], close::TOO_BIG.code.to_be_bytes());
        let reason = String::from_utf8_lossy(&reason[2..]);
        assert!(reason.contains("authenticate first"), "{reason}");
    }
}

#[tokio::test]
async fn verified_credential_allows_large_frames_wherever_it_came_from() {
    let issuer = Issuer::new();
    let server = gateway(issuer.authenticator()).await;
    let token = issuer::token("alice", &["chat/*"]);
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, authenticate(token.clone())).await;
        client.send(2, publish(TOPIC, &text(LARGE))).await;
        expect_authenticated_and_published(&mut client, via).await;
    }
    let large = format!(r#"{{"id":2,"publish":{{"topic":"{TOPIC}","data":"{}"}}}}"#, text(30_000));
    for header in [
        format!("Authorization: Bearer {token}"),
        format!("Sec-WebSocket-Protocol: pushonce.token.{token}, pushonce.v1.json"),
    ] {
        let request = HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
        // In one write: the session is not open yet when the frame arrives.
        let first = [request.as_bytes(), &client_frame(0x81, large.as_bytes())].concat();
        let mut raw = RawConnection::connect(server.http, &first).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 101"), "{header}");
        raw.read_text_containing("published").await;
    }
}

/// An issuer whose keys are at an address that answers only when it is released.
struct SlowIssuer {
    directory: tempfile::TempDir,
    key: SigningKey,
    was_asked: Arc<Notify>,
    release: Arc<Notify>,
}

impl SlowIssuer {
    /// With `is_broken`, it answers without keys.
    async fn start(is_broken: bool) -> SlowIssuer {
        let new = SigningKey::generate(Algorithm::EdDsa).expect("random numbers");
        let set = match is_broken {
            true => "{}".to_owned(),
            false => key_set(new.public.as_deref().expect("a public key")),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
        let (was_asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (asked, released) = (was_asked.clone(), release.clone());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a request");
            let _ = stream.read(&mut [0; 1_024]).await;
            asked.notify_one();
            released.notified().await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", set.len());
            let _ = stream.write_all((head + &set).as_bytes()).await;
        });
        let directory = tempfile::tempdir().expect("a directory");
        let issuers =
            format!("[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\njwks = {url:?}\n");
        std::fs::write(directory.path().join("issuers.toml"), issuers).expect("writable");
        let key = SigningKey::from_pem(new.private.as_bytes()).expect("a valid key");
        SlowIssuer { directory, key, was_asked, release }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn gateway(&self) -> TestGateway {
        let authenticator = Authenticator::load(&self.path().join("issuers.toml"));
        gateway(authenticator.expect("valid")).await
    }

    fn token(&self) -> String {
        issuer::new_token("alice", &["chat/*"], issuer::LIFETIME)
            .sign(&self.key, Some("k"))
            .expect("signed")
    }

    /// Lets the node wait for the keys until the client has sent what it can.
    fn release_later(&self) {
        let (was_asked, release) = (self.was_asked.clone(), self.release.clone());
        tokio::spawn(async move {
            was_asked.notified().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            release.notify_one();
        });
    }
}

/// The JWK set of an Ed25519 key. Its PEM text has 12 bytes before the key: 16 characters.
fn key_set(pem: &str) -> String {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let x = base64[16..].trim_end_matches('=').replace('+', "-").replace('/', "_");
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#)
}

#[tokio::test]
async fn large_publish_behind_a_token_waits_for_its_verification() {
    for via in TRANSPORTS {
        let issuer = SlowIssuer::start(false).await;
        let server = issuer.gateway().await;
        let mut client = GatewayClient::connect(&server, via).await;
        issuer.release_later();
        client.send(1, authenticate(issuer.token())).await;
        client.send(2, publish(TOPIC, &text(LARGE))).await;
        expect_authenticated_and_published(&mut client, via).await;
    }
}

#[tokio::test]
async fn requests_behind_a_token_wait_for_its_verification_however_many_they_are() {
    for via in TRANSPORTS {
        let issuer = SlowIssuer::start(false).await;
        let server = issuer.gateway().await;
        let mut client = GatewayClient::connect(&server, via).await;
        issuer.release_later();
        client.send(1, authenticate(issuer.token())).await;
        for id in 2..92 {
            client.send(id, subscribe(&format!("chat/{id}"), StartFrom::Now)).await;
        }
        let reply = client.next_reply().await;
        assert!(matches!(reply, ServerEvent::Authenticated { .. }), "{via:?}: {reply:?}");
        for _ in 2..92 {
            let reply = client.next_reply().await;
            assert!(matches!(reply, ServerEvent::Subscribed { .. }), "{via:?}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn quic_client_sends_no_more_than_a_small_window_while_its_token_is_verified() {
    let issuer = SlowIssuer::start(false).await;
    let server = issuer.gateway().await;
    let (_endpoint, connection) = client::dial(&server, b"pushonce/1").await.expect("connected");
    let (mut control, _replies) = connection.open_bi().await.expect("a stream");
    let request = |id, command| {
        let request = ClientRequest { id: Some(id), command };
        delimited::encode(&Encoding::Proto.encode_request(&request))
    };
    control.write_all(&request(1, authenticate(issuer.token()))).await.expect("open");
    issuer.was_asked.notified().await;
    let large = request(2, publish(TOPIC, &text(LARGE)));
    let mut sent = 0;
    // Until the client may send no more: the window does not grow for a second.
    let blocked_for = Duration::from_secs(1);
    while let Ok(written) = tokio::time::timeout(blocked_for, control.write(&large[sent..])).await {
        sent += written.expect("open");
        assert!(
            sent < large.len(),
            "the node holds {sent} bytes of a client that it does not know"
        );
    }
    assert!(sent <= 2 * BOUND, "{sent} bytes");
    issuer.release.notify_one();
    control.write_all(&large[sent..]).await.expect("the window grows again");
}

#[tokio::test]
async fn large_publish_behind_a_token_that_cannot_be_verified_asks_to_connect_later() {
    for via in TRANSPORTS {
        let issuer = SlowIssuer::start(true).await;
        let server = issuer.gateway().await;
        let mut client = GatewayClient::connect(&server, via).await;
        issuer.release_later();
        client.send(1, authenticate(issuer.token())).await;
        client.send(2, publish(TOPIC, &text(BOUND))).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::Unavailable), "{via:?}");
        assert_eq!(client.close_code().await, close::OVER_LIMIT.code, "{via:?}");
    }
}
