//! The table of paths: what each request asks for, and who may make it.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _, stream};
use prost::Message as _;
use pushonce_client::{
    AccessToken, StartFrom, Subscriber, SubscriberEvent, TokenProvider, Topic, Transport,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::pb;
use pushonce_proto::pb::cluster::v1 as cluster;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::publisher::v1 as publisher;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use tokio_websockets::{ClientBuilder, Message};
use tonic::{Code, Response, Status};

use crate::node::{TestNode, with_token};
use crate::{Grant, webtransport};

/// How a request ended, as far as access is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, perhaps with an error that says nothing about access.
    Admitted,
    /// It needs a token, or another one.
    Unauthenticated,
    /// Its token does not grant it.
    Forbidden,
}

pub type RequestFn = fn(&TestNode, Grant) -> BoxFuture<'_, Outcome>;

/// One row: a path, the requests that use it, and one letter for each [`Grant`]: `+` admitted, `t` needs
/// another token, `-` forbidden.
pub struct Path {
    pub name: &'static str,
    /// Routes, RPCs and commands that this row covers.
    pub covers: &'static [&'static str],
    pub expected: &'static str,
    pub request: RequestFn,
}

impl Outcome {
    pub fn from_letter(letter: char) -> Outcome {
        match letter {
            '+' => Outcome::Admitted,
            't' => Outcome::Unauthenticated,
            '-' => Outcome::Forbidden,
            other => panic!("{other} is no outcome"),
        }
    }

    pub fn from_http(status: u16) -> Outcome {
        match status {
            401 => Outcome::Unauthenticated,
            403 => Outcome::Forbidden,
            0 => panic!("no response"),
            _ => Outcome::Admitted,
        }
    }

    fn from_grpc<T>(result: Result<Response<T>, Status>) -> Outcome {
        match result.map_err(|status| status.code()) {
            Err(Code::Unauthenticated) => Outcome::Unauthenticated,
            Err(Code::PermissionDenied) => Outcome::Forbidden,
            _ => Outcome::Admitted,
        }
    }

    /// The outcome of the first frame that answers a request over WebSocket.
    pub fn from_frame(frame: &str) -> Outcome {
        if frame.contains(r#""code":"not_authenticated""#) || frame.contains("token_expired") {
            Outcome::Unauthenticated
        } else if frame.contains(r#""code":"not_allowed""#) {
            Outcome::Forbidden
        } else {
            Outcome::Admitted
        }
    }
}

// The columns: no token, public namespace, subscribe, publish, other topic, denied, admin read, admin write,
// expired, revoked, forged.
const READ_TOPIC: &str = "t++-----ttt";
const PUBLISH: &str = "tt-+----ttt";
const ADMIN_READ: &str = "tt----++ttt";
const ADMIN_WRITE: &str = "tt-----+ttt";
const EVERYONE: &str = "+++++++++++";
const ANY_TOKEN: &str = "tt++++++ttt";

/// A row for a method of `ClusterService`.
macro_rules! rpc_row {
    ($name:literal, $expected:expr, $method:ident, $message:expr) => {
        Path {
            name: $name,
            covers: &[$name],
            expected: $expected,
            request: |node, grant| {
                async move {
                    let mut client = ClusterServiceClient::new(node.channel.clone());
                    let message = ($message)(grant);
                    let request = with_token(message, grant.token().as_deref());
                    Outcome::from_grpc(client.$method(request).await)
                }
                .boxed()
            },
        }
    };
}

pub const PATHS: &[Path] = &[
    // === HTTP ===
    Path {
        name: "snapshot",
        covers: &["/topics/{*topic}"],
        expected: READ_TOPIC,
        request: |n, g| http_get(n, g, ""),
    },
    Path {
        name: "history",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| http_get(n, g, "?last=3"),
    },
    Path {
        name: "page of history",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| http_get(n, g, "?after=0:0&limit=3"),
    },
    Path {
        name: "long poll",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| http_get(n, g, "?after=0:0&live=long-poll&timeout=1"),
    },
    Path {
        name: "audience",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| http_get(n, g, "?audience"),
    },
    Path {
        name: "event stream: live",
        covers: &["/sse"],
        expected: READ_TOPIC,
        request: |n, g| event_stream(n, g, "/sse?topic=TOPIC"),
    },
    Path {
        name: "event stream: history",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| event_stream(n, g, "/sse?topic=TOPIC&from=last:3"),
    },
    Path {
        name: "event stream: resume",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| event_stream(n, g, "/sse?topic=TOPIC&last_event_id=0:0"),
    },
    Path {
        name: "event stream of a topic",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| event_stream(n, g, "/topics/TOPIC"),
    },
    Path { name: "publish", covers: &[], expected: PUBLISH, request: http_publish },
    Path {
        name: "ticket",
        covers: &["/tickets"],
        expected: ANY_TOKEN,
        request: |n, g| http_post(n, g, "/tickets", ""),
    },
    Path {
        name: "ticket for the topic",
        covers: &[],
        expected: "tt+-----ttt",
        request: |n, g| http_post(n, g, "/tickets", r#"{"topics":["chat/7"]}"#),
    },
    Path {
        name: "certificate",
        covers: &["/dev/certificate"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/dev/certificate"),
    },
    Path {
        name: "metrics",
        covers: &["/metrics"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/metrics"),
    },
    Path {
        name: "cluster",
        covers: &["/cluster"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/cluster"),
    },
    Path {
        name: "live",
        covers: &["/health/live"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/health/live"),
    },
    Path {
        name: "ready",
        covers: &["/health/ready"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/health/ready"),
    },
    Path {
        name: "publish health",
        covers: &["/health/publish"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/health/publish"),
    },
    Path {
        name: "viewer health",
        covers: &["/health/viewers"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/health/viewers"),
    },
    Path {
        name: "demo pages",
        covers: &["/"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/demo/demo.js"),
    },
    Path {
        name: "modules of the SDK",
        covers: &[],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/sdk/index.js"),
    },
    Path {
        name: "console",
        covers: &["/console", "/console/"],
        expected: EVERYONE,
        request: |n, g| page(n, g, "/console/"),
    },
    Path {
        name: "console: cluster",
        covers: &["/console/data/cluster"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/cluster"),
    },
    Path {
        name: "console: rates",
        covers: &["/console/data/rates"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/rates?seconds=5"),
    },
    Path {
        name: "console: topics",
        covers: &["/console/data/topics"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/topics?prefix=chat/"),
    },
    Path {
        name: "console: topic",
        covers: &["/console/data/topic"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/topic?topic=chat/7"),
    },
    Path {
        name: "console: explain",
        covers: &["/console/data/explain"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/explain?topic=chat/7"),
    },
    Path {
        name: "console: sessions",
        covers: &["/console/data/sessions"],
        expected: ADMIN_READ,
        request: |n, g| page(n, g, "/console/data/sessions"),
    },
    Path { name: "monitoring", covers: &[], expected: EVERYONE, request: monitoring },
    // === sessions ===
    Path {
        name: "session: live",
        covers: &["/ws", "subscribe"],
        expected: READ_TOPIC,
        request: |n, g| frame(n, g, r#""subscribe":{"topic":"TOPIC"}"#),
    },
    Path {
        name: "session: history",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| frame(n, g, r#""subscribe":{"topic":"TOPIC","from":{"last":3}}"#),
    },
    Path {
        name: "session: resume",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| frame(n, g, r#""subscribe":{"topic":"TOPIC","from":{"position":"0:0"}}"#),
    },
    Path {
        name: "session: audience",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| frame(n, g, r#""subscribe":{"topic":"TOPIC","audience":true}"#),
    },
    Path {
        name: "session: publish",
        covers: &["publish"],
        expected: PUBLISH,
        request: |n, g| frame(n, g, r#""publish":{"topic":"TOPIC","data":"x"}"#),
    },
    Path {
        name: "session: unsubscribe",
        covers: &["unsubscribe"],
        // A session can only end its own subscriptions; a token that is not valid opens none.
        expected: "++++++++ttt",
        request: |n, g| frame(n, g, r#""unsubscribe":{"topic":"TOPIC"}"#),
    },
    Path {
        name: "session: authenticate",
        covers: &["authenticate"],
        expected: "tt++++++ttt",
        request: authenticate_frame,
    },
    Path { name: "session: query", covers: &[], expected: READ_TOPIC, request: query_subscription },
    Path { name: "session: quic", covers: &[], expected: READ_TOPIC, request: quic_subscription },
    Path {
        name: "session: webtransport",
        covers: &[],
        expected: READ_TOPIC,
        request: webtransport::subscription,
    },
    // === gRPC ===
    Path {
        name: "rpc publish",
        covers: &["PublisherService/Publish"],
        expected: PUBLISH,
        request: |n, g| {
            rpc_publisher(n, g, |mut client, g, token| {
                async move {
                    Outcome::from_grpc(
                        client.publish(with_token(publish_request(g), token.as_deref())).await,
                    )
                }
                .boxed()
            })
        },
    },
    Path {
        name: "rpc publish stream",
        covers: &["PublisherService/PublishStream"],
        expected: PUBLISH,
        request: |n, g| rpc_publisher(n, g, publish_stream),
    },
    Path {
        name: "rpc subscribe",
        covers: &["PublisherService/Subscribe"],
        expected: READ_TOPIC,
        request: |n, g| {
            rpc_publisher(n, g, |mut client, g, token| {
                async move {
                    let request = subscribe_request(g, None);
                    Outcome::from_grpc(
                        client.subscribe(with_token(request, token.as_deref())).await,
                    )
                }
                .boxed()
            })
        },
    },
    Path {
        name: "rpc resume",
        covers: &[],
        expected: READ_TOPIC,
        request: |n, g| {
            rpc_publisher(n, g, |mut client, g, token| {
                async move {
                    let start = publisher::start_from::Kind::Position("0:0".to_owned());
                    let request = subscribe_request(g, Some(start));
                    Outcome::from_grpc(
                        client.subscribe(with_token(request, token.as_deref())).await,
                    )
                }
                .boxed()
            })
        },
    },
    rpc_row!("ClusterService/Status", ADMIN_READ, status, |_| cluster::StatusRequest {}),
    rpc_row!("ClusterService/Explain", ADMIN_READ, explain, |g: Grant| {
        cluster::ExplainRequest { topic: g.topic().to_owned() }
    }),
    rpc_row!("ClusterService/Topic", "tt+---++ttt", topic, |g: Grant| {
        cluster::TopicRequest { topic: g.topic().to_owned() }
    }),
    rpc_row!("ClusterService/Topics", ADMIN_READ, topics, |_| cluster::TopicsRequest::default()),
    rpc_row!(
        "ClusterService/Namespaces",
        ADMIN_READ,
        namespaces,
        |_| cluster::NamespacesRequest {}
    ),
    rpc_row!("ClusterService/Revocations", ADMIN_READ, revocations, |_| {
        cluster::RevocationsRequest {}
    }),
    rpc_row!("ClusterService/JoinTokens", ADMIN_READ, join_tokens, |_| {
        cluster::JoinTokensRequest {}
    }),
    // No such node and no times: the requests are admitted, and then rejected.
    rpc_row!("ClusterService/Drain", ADMIN_WRITE, drain, |_| cluster::DrainRequest {
        node: 99,
        force: false
    }),
    rpc_row!("ClusterService/Undrain", ADMIN_WRITE, undrain, |_| cluster::UndrainRequest {
        node: 99
    }),
    rpc_row!("ClusterService/Remove", ADMIN_WRITE, remove, |_| cluster::RemoveRequest {
        node: 99,
        force: false
    }),
    rpc_row!("ClusterService/Finalize", ADMIN_WRITE, finalize, |_| cluster::FinalizeRequest {}),
    rpc_row!("ClusterService/SetNamespace", ADMIN_WRITE, set_namespace, |_| {
        let name = Some("other".to_owned());
        cluster::SetNamespaceRequest { name, ..Default::default() }
    }),
    rpc_row!("ClusterService/PurgeTopic", ADMIN_WRITE, purge_topic, |_| {
        cluster::PurgeTopicRequest::default()
    }),
    rpc_row!("ClusterService/DeleteTopic", ADMIN_WRITE, delete_topic, |_| {
        cluster::DeleteTopicRequest::default()
    }),
    rpc_row!("ClusterService/SetTimes", ADMIN_WRITE, set_times, |_| {
        cluster::SetTimesRequest::default()
    }),
    rpc_row!("ClusterService/CreateJoinToken", ADMIN_WRITE, create_join_token, |_| {
        cluster::CreateJoinTokenRequest::default()
    }),
    rpc_row!("ClusterService/RevokeJoinToken", ADMIN_WRITE, revoke_join_token, |_| {
        cluster::RevokeJoinTokenRequest::default()
    }),
    rpc_row!("ClusterService/Revoke", ADMIN_WRITE, revoke, |_| cluster::RevokeRequest::default()),
    Path { name: "rpc health", covers: &[], expected: EVERYONE, request: rpc_health },
    Path { name: "rpc reflection", covers: &[], expected: ANY_TOKEN, request: rpc_reflection },
];

/// The methods of the gRPC services, from their descriptors.
pub fn rpcs() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).expect("descriptors");
    let services = files.file.into_iter().flat_map(|file| file.service);
    let methods = services.flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
    });
    methods.collect()
}

/// The commands of the client protocol, as the encoding names them.
pub fn commands() -> Vec<String> {
    use pushonce_proto::client::ClientCommand;
    // A new command does not compile here until it has a name, and then needs a row.
    let _ = |command: ClientCommand| match command {
        ClientCommand::Subscribe { .. } => "subscribe",
        ClientCommand::Unsubscribe { .. } => "unsubscribe",
        ClientCommand::Publish(_) => "publish",
        ClientCommand::Authenticate { .. } => "authenticate",
    };
    ["subscribe", "unsubscribe", "publish", "authenticate"].map(str::to_owned).to_vec()
}

// === HTTP ===

fn http_get<'n>(node: &'n TestNode, grant: Grant, query: &'static str) -> BoxFuture<'n, Outcome> {
    async move {
        let path = format!("/topics/{}{query}", grant.topic());
        Outcome::from_http(node.get(node.http, &path, grant.token().as_deref()).await.0)
    }
    .boxed()
}

/// Opens an event stream and reads the head of its response: the body does not end.
fn event_stream<'n>(
    node: &'n TestNode,
    grant: Grant,
    path: &'static str,
) -> BoxFuture<'n, Outcome> {
    async move {
        let path = path.replace("TOPIC", grant.topic());
        Outcome::from_http(node.event_stream_status(&path, grant.token().as_deref()).await)
    }
    .boxed()
}

fn http_publish(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        let (path, token) = (format!("/topics/{}", grant.topic()), grant.token());
        let response = node.request(node.http, "POST", &path, token.as_deref(), "x").await;
        Outcome::from_http(response.0)
    }
    .boxed()
}

fn http_post<'n>(
    node: &'n TestNode,
    grant: Grant,
    path: &'static str,
    body: &'static str,
) -> BoxFuture<'n, Outcome> {
    async move {
        let token = grant.token();
        let response = node.request(node.http, "POST", path, token.as_deref(), body).await;
        Outcome::from_http(response.0)
    }
    .boxed()
}

fn page<'n>(node: &'n TestNode, grant: Grant, path: &'static str) -> BoxFuture<'n, Outcome> {
    async move { Outcome::from_http(node.get(node.http, path, grant.token().as_deref()).await.0) }
        .boxed()
}

/// The listener for monitoring serves metrics and health to everyone, and nothing else.
fn monitoring(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        let token = grant.token();
        for (path, status) in
            [("/metrics", 200), ("/health/ready", 200), ("/topics/chat/7", 404), ("/cluster", 404)]
        {
            assert_eq!(node.get(node.monitoring, path, token.as_deref()).await.0, status, "{path}");
        }
        Outcome::Admitted
    }
    .boxed()
}

// === sessions ===

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends one frame in a session whose token is in the header of its handshake.
fn frame<'n>(node: &'n TestNode, grant: Grant, command: &'static str) -> BoxFuture<'n, Outcome> {
    async move {
        let command = command.replace("TOPIC", grant.topic());
        first_answer(node, grant.token().as_deref(), "", &format!("{{\"id\":1,{command}}}")).await
    }
    .boxed()
}

/// Authenticates in the first frame.
fn authenticate_frame(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        let token = grant.token().unwrap_or_else(|| "no token".to_owned());
        let frame = format!(r#"{{"id":1,"authenticate":{{"token":"{token}"}}}}"#);
        first_answer(node, None, "", &frame).await
    }
    .boxed()
}

fn query_subscription(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        let query = format!("?topic={}&from=start", grant.topic());
        first_answer(node, grant.token().as_deref(), &query, "").await
    }
    .boxed()
}

/// Opens a WebSocket, sends a frame if there is one, and waits for the first answer.
async fn first_answer(node: &TestNode, token: Option<&str>, query: &str, frame: &str) -> Outcome {
    let url = format!("ws://{}/ws{query}", node.http);
    let mut builder = ClientBuilder::new().uri(&url).expect("a URL");
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("ASCII");
        builder = builder.add_header(http::header::AUTHORIZATION, value).expect("a header");
    }
    let mut socket = match builder.connect().await {
        Ok((socket, _)) => socket,
        Err(tokio_websockets::Error::Upgrade(
            tokio_websockets::upgrade::Error::DidNotSwitchProtocols(status),
        )) => return Outcome::from_http(status),
        Err(error) => panic!("no session: {error}"),
    };
    if !frame.is_empty() {
        socket.send(Message::text(frame.to_owned())).await.expect("open");
    }
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, socket.next()).await.expect("an answer");
    let answer = answer.expect("open").expect("a frame");
    Outcome::from_frame(answer.as_text().expect("an answer before the close"))
}

/// Subscribes over QUIC with the SDK, which authenticates in the first frame.
fn quic_subscription(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        let server = format!("quic://{}", node.quic).parse().expect("an address");
        let topic = Topic::new(grant.topic()).expect("valid");
        let mut builder = Subscriber::builder([server])
            .transport(Transport::Quic)
            .topic(topic, StartFrom::Last(1));
        if let Some(token) = grant.token() {
            builder = builder.token(TokenProvider::fixed(AccessToken::new(token)));
        }
        let mut subscriber = builder.connect().expect("valid");
        let outcome = async {
            loop {
                match subscriber.next().await.expect("an outcome before the end") {
                    SubscriberEvent::Subscribed { .. } => return Outcome::Admitted,
                    SubscriberEvent::Rejected { code: ErrorCode::NotAllowed, .. } => {
                        return Outcome::Forbidden;
                    }
                    SubscriberEvent::Rejected { .. } => return Outcome::Unauthenticated,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, outcome).await.expect("an outcome")
    }
    .boxed()
}

// === gRPC ===

type PublisherClient = PublisherServiceClient<tonic::transport::Channel>;

fn rpc_publisher(
    node: &TestNode,
    grant: Grant,
    call: fn(PublisherClient, Grant, Option<String>) -> BoxFuture<'static, Outcome>,
) -> BoxFuture<'_, Outcome> {
    call(PublisherServiceClient::new(node.channel.clone()), grant, grant.token())
}

fn publish_request(grant: Grant) -> publisher::PublishRequest {
    let topic = grant.topic().to_owned();
    publisher::PublishRequest { topic, payload: "x".into(), ..Default::default() }
}

fn subscribe_request(
    grant: Grant,
    kind: Option<publisher::start_from::Kind>,
) -> publisher::SubscribeRequest {
    let start_from = kind.map(|kind| publisher::StartFrom { kind: Some(kind) });
    publisher::SubscribeRequest {
        topic: grant.topic().to_owned(),
        start_from,
        ..Default::default()
    }
}

/// A rejected message does not end the stream: its response has the reason.
fn publish_stream(
    mut client: PublisherClient,
    grant: Grant,
    token: Option<String>,
) -> BoxFuture<'static, Outcome> {
    async move {
        use publisher::publish_stream_response::Outcome as Wire;
        let messages = stream::iter([publish_request(grant).into()]);
        let responses = client.publish_stream(with_token(messages, token.as_deref())).await;
        let mut responses = match responses {
            Ok(responses) => responses.into_inner(),
            Err(status) => return Outcome::from_grpc::<()>(Err(status)),
        };
        match responses.message().await.expect("a response").and_then(|response| response.outcome) {
            Some(Wire::Failed(failure)) if failure.reason == "not_allowed" => Outcome::Forbidden,
            _ => Outcome::Admitted,
        }
    }
    .boxed()
}

fn rpc_health(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        use tonic_health::pb::HealthCheckRequest;
        use tonic_health::pb::health_client::HealthClient;
        let request = with_token(HealthCheckRequest::default(), grant.token().as_deref());
        Outcome::from_grpc(HealthClient::new(node.channel.clone()).check(request).await)
    }
    .boxed()
}

fn rpc_reflection(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    async move {
        use tonic_reflection::pb::v1::ServerReflectionRequest;
        use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
        let requests = stream::iter([ServerReflectionRequest::default()]);
        let request = with_token(requests, grant.token().as_deref());
        let mut client = ServerReflectionClient::new(node.channel.clone());
        Outcome::from_grpc(client.server_reflection_info(request).await)
    }
    .boxed()
}
