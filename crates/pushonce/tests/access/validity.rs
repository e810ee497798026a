//! How long a token is good for: the SDK renews it, and a revocation ends what it opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt as _, stream};
use pushonce_auth::AdminAccess;
use pushonce_client::{
    AccessToken, ContentType, Publish, PublishFailure, Publisher, StartFrom, Subscriber,
    SubscriberEvent, TokenProvider, Topic, Transport,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::cluster::v1::revoked_tokens::Tokens;
use pushonce_proto::pb::cluster::v1::{RevokeRequest, RevokedTokens};
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::pb::publisher::v1::{
    PublishStreamRequest, PublishStreamResponse, SubscribeRequest, SubscribeResponse,
};
use tonic::{Code, Streaming};

use crate::node::{TestNode, with_token};
use crate::token::{KEY, RETIRED_KEY, admin, grants, mint, mint_by};

/// Far beyond the duration of any step.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Renewals that a subscriber must survive.
const RENEWALS: usize = 3;

/// Sessions whose tokens are valid for three seconds continue, because the SDK renews them.
pub async fn sdk_renews_the_token_of_a_session(node: &TestNode) {
    for (transport, server) in [
        (Transport::Ws, format!("ws://{}", node.http)),
        (Transport::Quic, format!("quic://{}", node.quic)),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let provider = TokenProvider::from_fn(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let token = mint("alice", 3, grants(&["chat/*"], &[], &[]));
            std::future::ready(Ok(AccessToken::new(token)))
        });
        let mut subscriber = Subscriber::builder([server.parse().expect("an address")])
            .transport(transport)
            .token(provider)
            .topic(Topic::new("chat/7").expect("valid"), StartFrom::Now)
            .connect()
            .expect("valid");
        let renewals = async {
            while asked.load(Ordering::Relaxed) <= RENEWALS {
                let pause = tokio::time::timeout(Duration::from_millis(100), subscriber.next());
                match pause.await {
                    Ok(Some(SubscriberEvent::Disconnected { reason, .. })) => {
                        panic!("{transport}: the session ended: {reason}")
                    }
                    Ok(Some(SubscriberEvent::Rejected { message, .. })) => panic!("{message}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(TIMEOUT, renewals).await.expect("the token is renewed");
    }
}

/// A publisher of the SDK sends its token with each call, and tells what is missing.
pub async fn sdk_publishes_with_a_token(node: &TestNode) {
    let server = || format!("http://{}", node.grpc).parse().expect("an address");
    let message = || Publish::new(Topic::new("chat/7").expect("valid"), ContentType::Text, "goal");
    let token = mint("alice", 3_600, grants(&[], &["chat/*"], &[]));
    let provider = TokenProvider::fixed(AccessToken::new(token));
    let publisher =
        Publisher::builder([server()]).token(provider.clone()).build().expect("a gRPC address");
    publisher.publish(message()).await.expect("granted");
    let mut stream = publisher.stream().await.expect("granted");
    stream.send(message()).await.expect("valid").await.expect("granted");
    let failure = Publisher::new([server()])
        .expect("a gRPC address")
        .publish(message())
        .await
        .expect_err("no token");
    let PublishFailure::Rejected { reason, retry, .. } = failure else { panic!("{failure}") };
    assert_eq!((reason, retry), (ErrorCode::NotAuthenticated, false));
    let other = Publish::new(Topic::new("news").expect("valid"), ContentType::Text, "goal");
    let failure = publisher.publish(other).await.expect_err("another topic");
    let PublishFailure::Rejected { reason, .. } = failure else { panic!("{failure}") };
    assert_eq!(reason, ErrorCode::NotAllowed);
}

/// Open gRPC streams end when the subject of their token is revoked.
pub async fn revocation_ends_open_streams(node: &TestNode) {
    let token = mint("late", 3_600, grants(&["chat/*"], &["chat/*"], &[]));
    let streams = OpenStreams::open(node, &token).await;
    let operator = mint("operator", 3_600, admin(AdminAccess::Write));
    let tokens = Some(Tokens::Subject("late".to_owned()));
    let tokens = Some(RevokedTokens { tokens, issued_before_ms: None });
    let request = with_token(RevokeRequest { tokens, keep_ms: 0 }, Some(&operator));
    ClusterServiceClient::new(node.channel.clone()).revoke(request).await.expect("an operator");
    streams.expect_end().await;
}

/// Open gRPC streams end when the key that signed their token is removed, and no others.
pub async fn removed_key_ends_open_streams(node: &TestNode) {
    let both = || grants(&["chat/*"], &["chat/*"], &[]);
    let retired = mint_by(RETIRED_KEY, "alice", 3_600, both());
    let streams = OpenStreams::open(node, &retired).await;
    let mut kept = OpenStreams::open(node, &mint("alice", 3_600, both())).await;
    node.set_keys(&[KEY]);
    streams.expect_end().await;
    let end = kept.responses.message().now_or_never();
    assert!(end.is_none(), "the stream of the other key ended: {end:?}");
    let mut client = PublisherServiceClient::new(node.channel.clone());
    let request = SubscribeRequest { topic: "chat/7".to_owned(), ..Default::default() };
    let refused = client.subscribe(with_token(request, Some(&retired))).await;
    assert_eq!(refused.expect_err("a removed key").code(), Code::Unauthenticated);
}

/// A subscription and a stream of publishes over gRPC.
struct OpenStreams {
    events: Streaming<SubscribeResponse>,
    responses: Streaming<PublishStreamResponse>,
}

impl OpenStreams {
    async fn open(node: &TestNode, token: &str) -> OpenStreams {
        let mut client = PublisherServiceClient::new(node.channel.clone());
        let request = SubscribeRequest { topic: "chat/7".to_owned(), ..Default::default() };
        let events = client.subscribe(with_token(request, Some(token))).await.expect("granted");
        let requests = stream::pending::<PublishStreamRequest>();
        let responses = client.publish_stream(with_token(requests, Some(token))).await;
        let responses = responses.expect("granted").into_inner();
        OpenStreams { events: events.into_inner(), responses }
    }

    /// Waits until both end because their token is no longer valid.
    async fn expect_end(mut self) {
        let end = async {
            loop {
                let event = self.events.message().await;
                if let Err(status) = event.map(|event| event.expect("no silent end")) {
                    break status;
                }
            }
        };
        let end = tokio::time::timeout(TIMEOUT, end).await.expect("the subscription ends");
        assert_eq!(end.code(), Code::Unauthenticated, "{end}");
        let end = tokio::time::timeout(TIMEOUT, self.responses.message()).await;
        let end = end.expect("the stream ends");
        assert_eq!(end.expect_err("an end with a reason").code(), Code::Unauthenticated);
    }
}

/// The health pages say why the node is not ready only to operators.
pub async fn health_details_are_for_operators(node: &TestNode) {
    let operator = mint("operator", 3_600, admin(AdminAccess::Read));
    let alice = mint("alice", 3_600, grants(&["**"], &["**"], &[]));
    for (token, shows_reasons) in [(None, false), (Some(&alice), false), (Some(&operator), true)] {
        let token = token.map(String::as_str);
        let (status, response) = node.get(node.http, "/health/ready", token).await;
        assert_eq!((status, response.contains("because")), (200, shows_reasons), "{response}");
    }
    let (_, response) = node.get(node.monitoring, "/health/ready", None).await;
    assert!(response.contains("because"), "{response}");
}
