//! The limits of one client: the others must not notice that somebody reaches them.

mod support;

use std::num::NonZeroU32;

use pushonce_core::Publish;
use pushonce_proto::close;
use support::issuer::{self, Issuer};
use support::raw::{HANDSHAKE, RawConnection, client_frame, deflate};
use support::{TestGateway, with_timeout};

/// An address with limits: 127.0.0.1 has none.
const STRANGER: [u8; 4] = [127, 0, 0, 2];

/// Another one.
const VIEWER: [u8; 4] = [127, 0, 0, 3];

/// Exempt as an address.
const THIS_HOST: [u8; 4] = [127, 0, 0, 1];

const GET_HEALTH: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn post(body_bytes: usize) -> String {
    format!(
        "POST /topics/chat/7 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\n\r\n"
    )
}

/// Publishes one byte with a token, and returns the head of the response.
async fn publish_with(server: &TestGateway, source: [u8; 4], topic: &str, token: &str) -> String {
    let request = format!(
        "POST /topics/{topic} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 1\r\n\r\nx"
    );
    let mut connection = RawConnection::connect_from(source, server.http, request.as_bytes()).await;
    head_of(&mut connection).await
}

/// Repeats a request until it is answered with 429, and returns the head of that response.
async fn until_too_many(mut request: impl AsyncFnMut() -> String) -> String {
    with_timeout(async {
        loop {
            let head = request().await;
            if head.starts_with("HTTP/1.1 429") {
                return head;
            }
        }
    })
    .await
}

async fn head_of(connection: &mut RawConnection) -> String {
    with_timeout(connection.read_head()).await
}

#[tokio::test]
async fn address_with_its_maximum_of_connections_gets_429_and_others_are_served() {
    let server = TestGateway::with_config(|config| config.address_connections_max = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(RawConnection::session_from(STRANGER, server.http).await);
    }
    let request = HANDSHAKE.as_bytes();
    let mut third = RawConnection::connect_from(STRANGER, server.http, request).await;
    let response = with_timeout(third.read_to_end()).await;
    assert!(response.starts_with("HTTP/1.1 429"), "{response}");
    assert!(response.contains("Retry-After: 10") && response.contains("too many"), "{response}");
    let (head, body) = response.split_once("\r\n\r\n").expect("a body");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    RawConnection::session_from(VIEWER, server.http).await;
    for _ in 0..5 {
        held.push(RawConnection::session(server.http, b"").await);
    }
    drop(held);
    with_timeout(async {
        loop {
            let mut next = RawConnection::connect_from(STRANGER, server.http, GET_HEALTH).await;
            if next.read_head().await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn publish_rate_is_limited_over_http_with_retry_after_and_over_websocket_with_an_error() {
    let server = TestGateway::with_config(|config| config.publish_rate_max = 1).await;
    let publish_over_http = async |source| {
        let request = post(1) + "x";
        let mut connection =
            RawConnection::connect_from(source, server.http, request.as_bytes()).await;
        head_of(&mut connection).await
    };
    let mut heads = Vec::new();
    for _ in 0..3 {
        heads.push(publish_over_http(STRANGER).await);
    }
    assert!(heads[..2].iter().all(|head| head.starts_with("HTTP/1.1 200")), "{heads:?}");
    assert!(
        heads[2].starts_with("HTTP/1.1 429") && heads[2].contains("retry-after: "),
        "{heads:?}"
    );
    let mut session = RawConnection::session_from(STRANGER, server.http).await;
    let publish = br#"{"id":5,"publish":{"topic":"chat/7","data":"x"}}"#;
    // More than the rate allows in the time that a slow machine takes for it.
    session.send(&client_frame(0x81, publish).repeat(100)).await;
    let text = session.read_text_containing("\"overloaded\"").await;
    assert!(text.contains("\"back_ms\":") && text.contains("\"id\":5"), "{text}");
    for _ in 0..5 {
        let head = publish_over_http([127, 0, 0, 1]).await;
        assert!(head.starts_with("HTTP/1.1 200"), "this host is not limited: {head}");
    }
}

#[tokio::test]
async fn publish_rate_of_a_subject_is_its_own_at_every_address() {
    let issuer = Issuer::new();
    let server = TestGateway::with_access(
        |config| config.publish_rate_max = 1,
        |view| issuer.access(view, issuer::system_time),
    )
    .await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| issuer::token(name, &["**"]));
    for source in [THIS_HOST, STRANGER] {
        let head =
            until_too_many(async || publish_with(&server, source, "chat/7", &alice).await).await;
        assert!(head.contains("retry-after: "), "{head}");
    }
    let head = publish_with(&server, STRANGER, "chat/7", &bob).await;
    assert!(head.starts_with("HTTP/1.1 200"), "another subject at the same address: {head}");

    let mut session = RawConnection::session(server.http, b"").await;
    let authenticate = format!(r#"{{"id":1,"authenticate":{{"token":"{carol}"}}}}"#);
    session.send(&client_frame(0x81, authenticate.as_bytes())).await;
    session.read_text_containing("authenticated").await;
    let publish = br#"{"id":5,"publish":{"topic":"chat/7","data":"x"}}"#;
    session.send(&client_frame(0x81, publish).repeat(100)).await;
    session.read_text_containing("\"overloaded\"").await;
}

#[tokio::test]
async fn publish_rate_of_a_namespace_holds_for_each_caller_over_http_and_websocket() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    server.change_view(|view| {
        let mut chat = view.namespaces.default.clone();
        chat.access.publish_rate_max = NonZeroU32::new(1);
        view.namespaces.named.insert("chat".to_owned(), chat);
    });
    let [alice, bob] = ["alice", "bob"].map(|name| issuer::token(name, &["**"]));
    let head =
        until_too_many(async || publish_with(&server, THIS_HOST, "chat/7", &alice).await).await;
    assert!(head.contains("retry-after: "), "{head}");
    let mut session = RawConnection::session(server.http, b"").await;
    let authenticate = format!(r#"{{"id":1,"authenticate":{{"token":"{alice}"}}}}"#);
    session.send(&client_frame(0x81, authenticate.as_bytes())).await;
    session.read_text_containing("authenticated").await;
    let publish = br#"{"id":5,"publish":{"topic":"chat/7","data":"x"}}"#;
    session.send(&client_frame(0x81, publish).repeat(100)).await;
    let text = session.read_text_containing("\"overloaded\"").await;
    assert!(text.contains("--publish-rate of the namespace"), "{text}");
    for (topic, token) in [("chat/7", &bob), ("news", &alice)] {
        let head = publish_with(&server, THIS_HOST, topic, token).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{topic}: {head}");
    }
}

#[tokio::test]
async fn address_with_too_many_invalid_tokens_is_refused_over_every_door_and_others_are_not() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    let token = issuer::token("alice", &["**"]);
    let head = until_too_many(async || {
        for _ in 0..25 {
            publish_with(&server, STRANGER, "chat/7", "a.b.c").await;
        }
        publish_with(&server, STRANGER, "chat/7", &token).await
    })
    .await;
    assert!(head.contains("retry-after: "), "{head}");
    for header in ["Authorization: Bearer a.b.c", "Sec-WebSocket-Protocol: pushonce.token.a.b.c"] {
        let handshake =
            HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{header}, pushonce.v1.json\r\n\r\n"));
        with_timeout(async {
            loop {
                let mut raw =
                    RawConnection::connect_from(STRANGER, server.http, handshake.as_bytes()).await;
                let head = raw.read_head().await;
                let is_refused = match head.starts_with("HTTP/1.1 101") {
                    true => raw.read_close_code().await == close::OVER_LIMIT.code,
                    false => head.starts_with("HTTP/1.1 429"),
                };
                if is_refused {
                    break;
                }
            }
        })
        .await;
    }
    with_timeout(async {
        while !publish_with(&server, STRANGER, "chat/7", &token).await.starts_with("HTTP/1.1 200") {
        }
    })
    .await;
    for _ in 0..40 {
        let head = publish_with(&server, THIS_HOST, "chat/7", "a.b.c").await;
        assert!(head.starts_with("HTTP/1.1 401"), "this host is not limited: {head}");
    }
    for source in [VIEWER, THIS_HOST] {
        let head = publish_with(&server, source, "chat/7", &token).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{source:?}: {head}");
    }
}

#[tokio::test]
async fn sender_of_the_largest_half_received_bodies_pays_and_a_publisher_beside_it_does_not() {
    let server = TestGateway::with_config(|config| config.receive_bytes_max = 1 << 20).await;
    let mut viewer = RawConnection::session(server.http, b"").await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let half = [post(600_000).as_bytes(), &[b'x'; 400_000]].concat();
        slow.push(RawConnection::connect_from(STRANGER, server.http, &half).await);
    }
    let body = vec![b'y'; 60_000];
    let whole = [post(body.len()).as_bytes(), &body].concat();
    for _ in 0..5 {
        let mut honest = RawConnection::connect_from(VIEWER, server.http, &whole).await;
        let head = head_of(&mut honest).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
    let mut refused = 0;
    for connection in &mut slow {
        // Half of the others may stay: together they fit.
        let ended =
            tokio::time::timeout(std::time::Duration::from_millis(300), connection.read_head());
        if let Ok(head) = ended.await {
            assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after"), "{head}");
            refused += 1;
        }
    }
    assert!(refused >= 2, "{refused} of 4 half-received bodies ended");
    viewer.send(&client_frame(0x89, b"still here")).await;
    assert_eq!(viewer.read_pong().await, b"still here");
}

#[tokio::test]
async fn half_received_requests_for_tickets_share_the_same_budget() {
    let server = TestGateway::with_config(|config| config.receive_bytes_max = 60_000).await;
    let head = "POST /tickets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 32000\r\n\r\n";
    let half = [head.as_bytes(), &[b' '; 30_000]].concat();
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(RawConnection::connect_from(STRANGER, server.http, &half).await);
    }
    let heads = slow.iter_mut().map(|connection| Box::pin(connection.read_head()));
    let (head, _, _) = with_timeout(futures::future::select_all(heads)).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after"), "{head}");
}

#[tokio::test]
async fn half_received_websocket_messages_share_the_same_budget() {
    let server = TestGateway::with_config(|config| config.receive_bytes_max = 100_000).await;
    let mut viewer = RawConnection::session_from(VIEWER, server.http).await;
    viewer.send(&client_frame(0x01, &[b' '; 20_000])).await;
    let mut stranger = RawConnection::session_from(STRANGER, server.http).await;
    stranger.send(&client_frame(0x01, b"")).await;
    for _ in 0..10 {
        stranger.send(&client_frame(0x00, &[b' '; 30_000])).await;
    }
    assert_eq!(with_timeout(stranger.read_close_code()).await, 4508);
    viewer.send(&client_frame(0x89, b"still here")).await;
    assert_eq!(viewer.read_pong().await, b"still here");
}

#[tokio::test]
async fn session_that_inflates_without_end_does_not_delay_others() {
    let server = TestGateway::with_config(|config| config.lanes = 1).await;
    let (mut bomber, agreed) =
        RawConnection::session_with_extensions(server.http, "permessage-deflate").await;
    assert!(agreed.is_some());
    let bomb = client_frame(0xc1, &deflate(&vec![b' '; Publish::PAYLOAD_BYTES_DEFAULT]));
    let mut viewer = RawConnection::session(server.http, b"").await;
    let flood = bomb.repeat(1 + (1 << 20) / bomb.len());
    let sender = tokio::spawn(async move {
        // The session is not read for most of the time, so the flood does not end.
        bomber.send(&flood).await;
        bomber
    });
    for nth in 0..20_u8 {
        viewer.send(&client_frame(0x89, &[nth])).await;
        assert_eq!(viewer.read_pong().await, [nth]);
    }
    sender.abort();
}

#[tokio::test]
async fn storm_of_subscriptions_does_not_delay_others() {
    let server = TestGateway::with_config(|config| config.lanes = 1).await;
    let mut storm = RawConnection::session(server.http, b"").await;
    let mut viewer = RawConnection::session(server.http, b"").await;
    let subscribe = |nth: usize| {
        let text = format!(r#"{{"id":{nth},"subscribe":{{"topic":"storm/{}"}}}}"#, nth % 2_000);
        client_frame(0x81, text.as_bytes())
    };
    let requests: Vec<u8> = (0..5_000).flat_map(subscribe).collect();
    let reader = tokio::spawn(async move {
        for chunk in requests.chunks(16 << 10) {
            storm.send(chunk).await;
        }
        storm
    });
    for nth in 0..20_u8 {
        viewer.send(&client_frame(0x89, &[nth])).await;
        assert_eq!(viewer.read_pong().await, [nth]);
    }
    reader.abort();
}

#[tokio::test]
async fn subscribe_rate_of_a_caller_is_limited_over_websocket_and_another_caller_is_not() {
    let server = TestGateway::with_config(|config| config.subscribe_rate_max = 1).await;
    let subscribe_many = |first: u32| -> Vec<u8> {
        (first..first + 100)
            .flat_map(|nth| {
                let request = format!(r#"{{"id":{nth},"subscribe":{{"topic":"t/{nth}"}}}}"#);
                client_frame(0x81, request.as_bytes())
            })
            .collect()
    };
    let mut stranger = RawConnection::session_from(STRANGER, server.http).await;
    stranger.send(&subscribe_many(0)).await;
    let text = stranger.read_text_containing("\"overloaded\"").await;
    assert!(text.contains("\"back_ms\":") && text.contains("--subscribe-rate-max"), "{text}");
    // The rate is that of the caller, not of one session.
    let mut again = RawConnection::session_from(STRANGER, server.http).await;
    again.send(&subscribe_many(0)).await;
    again.read_text_containing("\"overloaded\"").await;
    for source in [VIEWER, THIS_HOST] {
        let mut viewer = RawConnection::session_from(source, server.http).await;
        viewer.send(&client_frame(0x81, br#"{"id":7,"subscribe":{"topic":"t/7"}}"#)).await;
        viewer.read_text_containing("\"subscribed\"").await;
    }
}

#[tokio::test]
async fn caller_that_creates_topics_too_fast_waits_over_http_and_websocket() {
    let server = TestGateway::with_config(|config| config.new_topic_rate_max = 1).await;
    let mut session = RawConnection::session_from(STRANGER, server.http).await;
    let mut created = 0;
    let text = with_timeout(async {
        loop {
            created += 1;
            let request = format!(r#"{{"publish":{{"topic":"new/{created}","data":"x"}}}}"#);
            session.send(&client_frame(0x81, request.as_bytes())).await;
            let (_, reply) = session.read_frame_after_heartbeats().await;
            let reply = String::from_utf8(reply).expect("a text");
            if !reply.contains("\"published\"") {
                break reply;
            }
        }
    })
    .await;
    assert!(created > 100, "{created}");
    assert!(text.contains("\"overloaded\"") && text.contains("--new-topic-rate-max"), "{text}");
    let request = post(1) + "x";
    let publish_from = async |source| {
        let request = request.as_bytes();
        head_of(&mut RawConnection::connect_from(source, server.http, request).await).await
    };
    let head = publish_from(STRANGER).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: "), "{head}");
    for source in [VIEWER, THIS_HOST] {
        let head = publish_from(source).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{source:?}: {head}");
    }
}
