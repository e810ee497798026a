//! Where a token travels, how long it is good for, and what ends with it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_core::{AccessToken, RevokedTokens, StartFrom, Timestamp};
use pushonce_proto::client::{ClientCommand, ErrorCode, ServerEvent};
use pushonce_proto::close;

use support::TestGateway;
use support::client::{ClientTransport, GatewayClient, publish, subscribe};
use support::issuer::{self, Issuer, LIFETIME};
use support::raw::{HANDSHAKE, RawConnection, client_frame};

const TRANSPORTS: [ClientTransport; 5] = [
    ClientTransport::WsJson,
    ClientTransport::WsProto,
    ClientTransport::Quic,
    ClientTransport::WebTransport,
    ClientTransport::WebTransportProto,
];

/// A gateway that accepts tokens of an issuer.
async fn closed_gateway(issuer: &Issuer) -> TestGateway {
    TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await
}

fn authenticate(token: String) -> ClientCommand {
    ClientCommand::Authenticate { token: AccessToken::new(token) }
}

async fn request(server: &TestGateway, head: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{head}Host: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    RawConnection::connect(server.http, request.as_bytes()).await.read_to_end().await
}

fn handshake(query: &str, header: &str) -> String {
    let header = format!("\r\n{header}\r\n\r\n");
    HANDSHAKE.replace("/ws ", &format!("/ws{query} ")).replace("\r\n\r\n", &header)
}

#[tokio::test]
async fn first_frame_authenticates_a_session_on_every_transport() {
    let (issuer, topic) = (Issuer::new(), "chat/7");
    let server = closed_gateway(&issuer).await;
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, subscribe(topic, StartFrom::Now)).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAuthenticated), "{via:?}");
        client.send(2, authenticate(issuer::token("alice", &["chat/*"]))).await;
        let reply = client.next_reply().await;
        assert!(matches!(reply, ServerEvent::Authenticated { id: Some(2), .. }), "{reply:?}");
        let reply = client.subscribe(3, topic, StartFrom::Now).await;
        assert!(matches!(reply, ServerEvent::Subscribed { .. }), "{reply:?}");
        client.send(4, publish("news", "x")).await;
        assert_eq!(client.error_code().await, (Some(4), ErrorCode::NotAllowed), "{via:?}");
    }
}

#[tokio::test]
async fn invalid_token_closes_the_session() {
    let server = closed_gateway(&Issuer::new()).await;
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, authenticate("a.b.c".to_owned())).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAuthenticated), "{via:?}");
        assert_eq!(client.close_code().await, close::NOT_AUTHENTICATED.code, "{via:?}");
    }
}

#[tokio::test]
async fn token_of_a_subprotocol_is_verified_and_never_echoed() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let token = issuer::token("alice", &["chat/*"]);
    let header = format!("Sec-WebSocket-Protocol: pushonce.token.{token}, pushonce.v1.json");
    let request = handshake("?topic=chat/7", &header);
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("pushonce.v1.json") && !head.contains(&token), "{head}");
    raw.read_text_containing("authenticated").await;
    raw.read_text_containing("subscribed").await;

    let request = handshake("", "Sec-WebSocket-Protocol: pushonce.token.x, pushonce.v1.json");
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    raw.read_head().await;
    raw.read_text_containing("not_authenticated").await;
    assert_eq!(raw.read_close_code().await, close::NOT_AUTHENTICATED.code);
}

#[tokio::test]
async fn token_of_the_handshake_header_is_verified_before_the_upgrade() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let token = issuer::token("alice", &["chat/*"]);
    let request = handshake("?topic=chat/7", &format!("Authorization: Bearer {token}"));
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101"));
    raw.read_text_containing("subscribed").await;
    for (header, status) in [
        ("Authorization: Bearer x".to_owned(), "401"),
        ("Authorization: Basic x".to_owned(), "401"),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}"), "400"),
    ] {
        let request = handshake("", &header);
        let head = RawConnection::connect(server.http, request.as_bytes()).await.read_head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{header}: {head}");
    }
}

#[tokio::test]
async fn token_in_a_query_is_refused_with_the_place_where_it_belongs() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let token = issuer::token("alice", &["chat/*"]);
    for name in ["token", "access_token"] {
        let head = format!("GET /topics/chat/7?{name}={token} HTTP/1.1\r\n");
        let response = request(&server, &head, "").await;
        assert!(response.starts_with("HTTP/1.1 400"), "{response}");
        assert!(response.contains("Authorization: Bearer") && !response.contains(&token));
        let request = handshake(&format!("?topic=chat/7&{name}={token}"), "X: y");
        let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
        raw.read_head().await;
        let error = raw.read_text_containing("error").await;
        assert!(error.contains("subprotocol") && !error.contains(&token), "{error}");
    }
}

#[tokio::test]
async fn http_challenges_follow_rfc_6750() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    server.cluster.publish_text("chat/7", "goal").await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (authorization, status, challenge) in [
        (String::new(), "401", "www-authenticate: Bearer\r\n"),
        (bearer("x"), "401", "www-authenticate: Bearer error=\"invalid_token\"\r\n"),
        (
            bearer(&issuer::token("alice", &["news"])),
            "403",
            "www-authenticate: Bearer error=\"insufficient_scope\"\r\n",
        ),
    ] {
        let head = format!("GET /topics/chat/7 HTTP/1.1\r\n{authorization}");
        let response = request(&server, &head, "").await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
        assert!(response.contains(challenge), "{response}");
    }
    let authorization = bearer(&issuer::token("alice", &["chat/*"]));
    let head = format!("GET /topics/chat/7 HTTP/1.1\r\n{authorization}");
    let response = request(&server, &head, "").await;
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("goal"), "{response}");
    assert!(response.contains("cache-control: private, no-store"), "{response}");
    assert!(response.contains("vary: authorization"), "{response}");
}

#[tokio::test]
async fn request_without_a_token_learns_no_setting_of_the_namespace() {
    let server = closed_gateway(&Issuer::new()).await;
    server.change_view(|view| view.namespaces.default.history.count_max = 5_432);
    let response = request(&server, "GET /topics/chat/7?last=9999999 HTTP/1.1\r\n", "").await;
    assert!(response.starts_with("HTTP/1.1 401") && !response.contains("5432"), "{response}");
    let token = issuer::token("alice", &["chat/*"]);
    let head =
        format!("GET /topics/chat/7?last=9999999 HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
    let response = request(&server, &head, "").await;
    assert!(response.starts_with("HTTP/1.1 400") && response.contains("5432"), "{response}");
}

#[tokio::test]
async fn public_namespace_is_read_without_a_token_and_cached_as_it_says() {
    let server = closed_gateway(&Issuer::new()).await;
    server.cluster.publish_text("chat/7", "goal").await;
    server.change_view(|view| {
        let access = &mut view.namespaces.default.access;
        (access.anonymous_read, access.cache_max_age_s) = (true, 5);
    });
    let response = request(&server, "GET /topics/chat/7 HTTP/1.1\r\n", "").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("cache-control: public, max-age=5"), "{response}");
    let response = request(&server, "POST /topics/chat/7 HTTP/1.1\r\n", "x").await;
    assert!(response.starts_with("HTTP/1.1 401"), "{response}");
}

#[tokio::test]
async fn subscription_without_a_token_ends_when_its_namespace_is_closed() {
    let server = closed_gateway(&Issuer::new()).await;
    for via in TRANSPORTS {
        server.change_view(|view| view.namespaces.default.access.anonymous_read = true);
        let mut client = GatewayClient::connect(&server, via).await;
        client.subscribe(1, "chat/7", StartFrom::Now).await;
        server.change_view(|view| view.namespaces.default.access.anonymous_read = false);
        assert_eq!(client.error_code().await, (None, ErrorCode::NotAuthenticated), "{via:?}");
        assert!(matches!(client.next_reply().await, ServerEvent::Unsubscribed { .. }), "{via:?}");
    }
}

#[tokio::test]
async fn namespace_without_client_publish_rejects_every_client() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    server.change_view(|view| view.namespaces.default.access.client_publish = false);
    let token = issuer::token("alice", &["**"]);
    let head = format!("POST /topics/chat/7 HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
    assert!(request(&server, &head, "x").await.starts_with("HTTP/1.1 403"));
    // A stranger learns no setting of the namespace.
    let head = "POST /topics/chat/7 HTTP/1.1\r\n";
    assert!(request(&server, head, "x").await.starts_with("HTTP/1.1 401"));
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, publish("chat/7", "x")).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAuthenticated), "{via:?}");
        client.send(2, authenticate(token.clone())).await;
        client.next_reply().await;
        client.send(3, publish("chat/7", "x")).await;
        assert_eq!(client.error_code().await, (Some(3), ErrorCode::NotAllowed), "{via:?}");
    }
}

#[tokio::test]
async fn session_ends_when_its_token_expires_and_continues_when_it_is_renewed() {
    static ADVANCE_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp(issuer::system_time().0 + ADVANCE_MS.load(Ordering::Relaxed));
    let issuer = Issuer::new();
    let server = TestGateway::with_access(|_| {}, |view| issuer.access(view, clock)).await;
    for via in TRANSPORTS {
        ADVANCE_MS.store(0, Ordering::Relaxed);
        let mut renewing = GatewayClient::connect(&server, via).await;
        let mut expiring = GatewayClient::connect(&server, via).await;
        for client in [&mut renewing, &mut expiring] {
            client.send(1, authenticate(issuer::token("alice", &["chat/*"]))).await;
            client.next_reply().await;
            client.subscribe(2, "chat/7", StartFrom::Now).await;
        }
        let longer = issuer::token_of("alice", &["chat/*"], LIFETIME * 10);
        renewing.send(3, authenticate(longer)).await;
        assert!(matches!(renewing.next_reply().await, ServerEvent::Authenticated { .. }));
        // The expiry, and the grace of ten seconds.
        ADVANCE_MS.store(LIFETIME.as_millis() as u64 + 10_000, Ordering::Relaxed);
        assert_eq!(expiring.error_code().await, (None, ErrorCode::TokenExpired), "{via:?}");
        assert_eq!(expiring.close_code().await, close::TOKEN_EXPIRED.code, "{via:?}");
        let position = server.cluster.publish_text("chat/7", "goal").await;
        let (_, text) = renewing.next_message().await;
        assert_eq!(text, "goal", "{position:?} {via:?}");
    }
}

#[tokio::test]
async fn revocation_ends_the_sessions_of_its_subject_only() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    for (number, via) in TRANSPORTS.into_iter().enumerate() {
        let (revoked, other) = (format!("revoked {number}"), format!("other {number}"));
        let mut clients = Vec::new();
        for subject in [&revoked, &other] {
            let mut client = GatewayClient::connect(&server, via).await;
            client.send(1, authenticate(issuer::token(subject, &["chat/*"]))).await;
            client.next_reply().await;
            client.subscribe(2, "chat/7", StartFrom::Now).await;
            clients.push(client);
        }
        let tokens = RevokedTokens::OfSubject { subject: revoked.clone(), issued_before: None };
        server.change_view(|view| {
            let revocations = Arc::make_mut(&mut view.revocations);
            revocations.revoke(tokens, Timestamp(u64::MAX)).expect("room");
        });
        let [revoked_client, other_client] = &mut clients[..] else { panic!("two clients") };
        assert_eq!(revoked_client.error_code().await.1, ErrorCode::NotAuthenticated);
        assert_eq!(revoked_client.close_code().await, close::REVOKED.code, "{via:?}");
        server.cluster.publish_text("chat/7", "goal").await;
        assert_eq!(other_client.next_message().await.1, "goal", "{via:?}");
        let mut again = GatewayClient::connect(&server, via).await;
        again.send(1, authenticate(issuer::token(&revoked, &["chat/*"]))).await;
        assert_eq!(again.close_code().await, close::NOT_AUTHENTICATED.code, "{via:?}");
    }
}

#[tokio::test]
async fn removed_key_ends_the_sessions_whose_tokens_it_signed_and_no_others() {
    let issuer = Issuer::new();
    issuer.set_keys(&["old", "new"]);
    let authenticator = issuer.authenticator();
    let access = |view| issuer::access_by(authenticator.clone(), view, issuer::system_time);
    let server = TestGateway::with_access(|_| {}, access).await;
    let reloading = tokio::spawn(authenticator.clone().run());
    let token = |key| issuer::token_by(key, "alice", &["chat/*"]);
    let mut sessions = Vec::new();
    for via in TRANSPORTS {
        let mut clients = Vec::new();
        for key in ["old", "new", "old"] {
            let mut client = GatewayClient::connect(&server, via).await;
            client.send(1, authenticate(token(key))).await;
            client.next_reply().await;
            client.subscribe(2, "chat/7", StartFrom::Now).await;
            clients.push(client);
        }
        // A renewed token is judged by its own key.
        clients[2].send(3, authenticate(token("new"))).await;
        let reply = clients[2].next_reply().await;
        assert!(matches!(reply, ServerEvent::Authenticated { .. }), "{reply:?}");
        sessions.push((via, clients));
    }
    issuer.set_keys(&["new"]);
    authenticator.reload();
    for (via, clients) in &mut sessions {
        assert_eq!(clients[0].error_code().await, (None, ErrorCode::NotAuthenticated), "{via:?}");
        assert_eq!(clients[0].close_code().await, close::REVOKED.code, "{via:?}");
    }
    server.cluster.publish_text("chat/7", "goal").await;
    for (via, clients) in &mut sessions {
        for client in &mut clients[1..] {
            assert_eq!(client.next_message().await.1, "goal", "{via:?}");
        }
    }
    let head = format!("GET /topics/chat/7 HTTP/1.1\r\nAuthorization: Bearer {}\r\n", token("old"));
    assert!(request(&server, &head, "").await.starts_with("HTTP/1.1 401"));
    reloading.abort();
}

#[tokio::test]
async fn publish_whose_token_is_revoked_while_its_body_arrives_is_refused() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let token = issuer::token("alice", &["chat/*"]);
    let head = format!(
        "POST /topics/chat/7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 1\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    let mut raw = RawConnection::connect(server.http, head.as_bytes()).await;
    // The body is asked for after the request was granted.
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    let tokens = RevokedTokens::OfSubject { subject: "alice".to_owned(), issued_before: None };
    server.change_view(|view| {
        let revocations = Arc::make_mut(&mut view.revocations);
        revocations.revoke(tokens, Timestamp(u64::MAX)).expect("room");
    });
    raw.send(b"x").await;
    let response = raw.read_to_end().await;
    assert!(response.starts_with("HTTP/1.1 401") && response.contains("revoked"), "{response}");
}

#[tokio::test]
async fn renewal_with_fewer_grants_ends_the_subscriptions_that_it_does_not_grant() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    for via in TRANSPORTS {
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, authenticate(issuer::token("alice", &["chat/*", "news/*"]))).await;
        client.next_reply().await;
        client.subscribe(2, "chat/7", StartFrom::Now).await;
        client.subscribe(3, "news/7", StartFrom::Now).await;
        client.send(4, authenticate(issuer::token("alice", &["news/*"]))).await;
        assert_eq!(client.error_code().await, (None, ErrorCode::NotAllowed), "{via:?}");
        let ended = client.next_reply().await;
        assert!(
            matches!(&ended, ServerEvent::Unsubscribed { topic, .. } if topic.as_str() == "chat/7"),
            "{via:?}: {ended:?}"
        );
        client.next_reply().await;
        server.cluster.publish_text("chat/7", "secret").await;
        server.cluster.publish_text("news/7", "public").await;
        assert_eq!(client.next_message().await, ("news/7".to_owned(), "public".to_owned()));
    }
}

#[tokio::test]
async fn session_ends_at_the_maximum_age() {
    static ADVANCE_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp(issuer::system_time().0 + ADVANCE_MS.load(Ordering::Relaxed));
    let issuer = Issuer::new();
    let age = Some(Duration::from_secs(60));
    let server = TestGateway::with_access(
        |config| config.session_age_max = age,
        |view| issuer.access(view, clock),
    )
    .await;
    for via in TRANSPORTS {
        ADVANCE_MS.store(0, Ordering::Relaxed);
        let mut client = GatewayClient::connect(&server, via).await;
        client.send(1, authenticate(issuer::token("alice", &["chat/*"]))).await;
        client.next_reply().await;
        ADVANCE_MS.store(60_000, Ordering::Relaxed);
        assert_eq!(client.close_code().await, close::SESSION_AGE.code, "{via:?}");
    }
}

#[tokio::test]
async fn ticket_opens_one_session_and_only_for_its_topics() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    server.cluster.publish_text("chat/7", "goal").await;
    let token = issuer::token("alice", &["chat/*"]);
    let ticket = async |body: &str| {
        let head = format!("POST /tickets HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
        let response = request(&server, &head, body).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.contains("cache-control: no-store"), "{response}");
        let ticket = response.split("\"ticket\":\"").nth(1).and_then(|rest| rest.split('"').next());
        ticket.expect("a ticket").to_owned()
    };
    let bound = ticket(r#"{"topics":["chat/7"]}"#).await;
    let get = format!("GET /topics/chat/7?ticket={bound} HTTP/1.1\r\n");
    assert!(request(&server, &get, "").await.starts_with("HTTP/1.1 200"));
    assert!(request(&server, &get, "").await.starts_with("HTTP/1.1 401"), "used");

    let bound = ticket(r#"{"topics":["chat/7"]}"#).await;
    let opening = handshake(&format!("?topic=chat/7&ticket={bound}"), "X: y");
    let mut raw = RawConnection::connect(server.http, opening.as_bytes()).await;
    raw.read_head().await;
    raw.read_text_containing("subscribed").await;
    raw.send(&client_frame(0x81, br#"{"id":1,"subscribe":{"topic":"chat/8"}}"#)).await;
    raw.read_text_containing("not_allowed").await;

    let mut raw = RawConnection::connect(server.http, opening.as_bytes()).await;
    raw.read_head().await;
    raw.read_text_containing("not_authenticated").await;
    assert_eq!(raw.read_close_code().await, close::NOT_AUTHENTICATED.code);

    let unbound = ticket("").await;
    let post = format!("POST /topics/chat/7?ticket={unbound} HTTP/1.1\r\n");
    assert!(request(&server, &post, "x").await.starts_with("HTTP/1.1 400"), "GET only");
}
