//! Callers without a token at a server with issuers, and pages in browsers at one without.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use h2::client::{ResponseFuture, SendRequest};
use http::Response;
use pushonce_auth::{AccessControl, Authenticator, NoPeers, Tickets};
use pushonce_core::ClusterView;
use pushonce_proto::publisher::OUTCOME_HEADER;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Code;

use super::{LIVE, ME, TestServer, cluster_view, subscribe_request};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);
const PUBLISH: &str = "/pushonce.publisher.v1.PublisherService/Publish";
const FINALIZE: &str = "/pushonce.cluster.v1.ClusterService/Finalize";

/// A publish of `{}` to the topic `a`, as a message of gRPC.
const PUBLISH_MESSAGE: &[u8] = b"\0\0\0\0\x07\x0a\x01a\x12\x02{}";
const EMPTY_MESSAGE: &[u8] = b"\0\0\0\0\0";

/// Access control with an issuer, and the view that it decides by.
fn closed_access() -> (AccessControl, watch::Sender<Arc<ClusterView>>) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name| directory.path().join(name);
    std::fs::write(file("secret"), "a secret of the test, thirty-two bytes or more").expect("ok");
    let issuers = "[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\n[[issuer.key]]\n\
                   algorithm = \"HS256\"\nsecret-file = \"secret\"\n";
    std::fs::write(file("issuers.toml"), issuers).expect("writable");
    let authenticator = Authenticator::load(&file("issuers.toml")).expect("valid issuers");
    let (sender, view) = watch::channel(Arc::new(cluster_view()));
    let tickets = Tickets::new(ME, Arc::new(NoPeers));
    let grace = AccessControl::TOKEN_GRACE_DEFAULT;
    (AccessControl::new(authenticator, view, grace, tickets), sender)
}

fn set_anonymous_read(view: &watch::Sender<Arc<ClusterView>>, is_open: bool) {
    view.send_modify(|view| {
        let namespaces = &mut Arc::make_mut(view).namespaces;
        namespaces.default.access.anonymous_read = is_open;
        namespaces.revision += 1;
    });
}

async fn http2_client(server: &TestServer) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.addr).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    client.ready().await.expect("open")
}

/// Begins a call, and sends `bytes` of its body without ending it unless `is_whole`.
fn call(
    client: &mut SendRequest<Bytes>,
    path: &str,
    content_type: Option<&str>,
    bytes: &'static [u8],
    is_whole: bool,
) -> (ResponseFuture, h2::SendStream<Bytes>) {
    let mut request = http::Request::post(format!("http://node{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let request = request.body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("open");
    body.send_data(bytes.into(), is_whole).expect("open");
    (response, body)
}

/// The response, and the status of the call in its headers or trailers.
async fn finish(response: ResponseFuture) -> (Response<()>, Option<String>) {
    let exchange = async {
        let (head, mut body) = response.await.expect("a response").into_parts();
        while let Some(bytes) = body.data().await {
            let len = bytes.expect("readable").len();
            let _ = body.flow_control().release_capacity(len);
        }
        let trailers = body.trailers().await.expect("readable").unwrap_or_default();
        let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
        let status = status.map(|status| status.to_str().expect("ASCII").to_owned());
        (Response::from_parts(head, ()), status)
    };
    timeout(TEST_TIMEOUT, exchange).await.expect("a response in time")
}

/// A page may send a request with a body of these types to any server, and need not ask before. Over TLS the
/// browser speaks HTTP/2, so that such a request can be a whole call.
#[tokio::test]
async fn request_that_any_page_may_send_is_not_a_call() {
    let server = TestServer::start().await;
    let mut client = http2_client(&server).await;
    let from_a_page = [
        None,
        Some("text/plain"),
        Some("text/plain;application/grpc"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
    ];
    for (path, message) in [(PUBLISH, PUBLISH_MESSAGE), (FINALIZE, EMPTY_MESSAGE)] {
        for content_type in from_a_page {
            let (response, _body) = call(&mut client, path, content_type, message, true);
            let (response, status) = finish(response).await;
            assert_eq!(response.status(), 415, "{path} {content_type:?}");
            assert_eq!(status, None, "{path} {content_type:?}");
        }
        for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"]
        {
            let (response, _body) = call(&mut client, path, Some(content_type), message, true);
            let (_, status) = finish(response).await;
            assert_eq!(status.as_deref(), Some("0"), "{path} {content_type}");
        }
    }
}

#[tokio::test]
async fn message_of_a_publisher_without_a_token_is_refused_before_it_is_read() {
    let (access, _view) = closed_access();
    let server = TestServer::with_access(access).await;
    let mut client = http2_client(&server).await;
    // Announces 1 MiB and sends none of it.
    let begin = b"\0\0\x10\0\0";
    let (response, _body) = call(&mut client, PUBLISH, Some("application/grpc"), begin, false);
    let (response, status) = finish(response).await;
    assert_eq!(status.as_deref(), Some("16"), "{response:?}");
    assert_eq!(response.headers()[OUTCOME_HEADER], "refused");
}

#[tokio::test]
async fn subscription_without_a_token_ends_when_its_namespace_is_closed() {
    let (access, view) = closed_access();
    set_anonymous_read(&view, true);
    let server = TestServer::with_access(access).await;
    let mut publisher = server.publisher().await;
    let events = publisher.subscribe(subscribe_request(LIVE)).await.expect("a public namespace");
    let mut events = events.into_inner();
    assert!(events.next().await.expect("an event").is_ok());
    set_anonymous_read(&view, false);
    let end = async {
        loop {
            if let Err(status) = events.next().await.expect("no silent end") {
                break status;
            }
        }
    };
    let end = timeout(TEST_TIMEOUT, end).await.expect("the subscription ends");
    assert_eq!(end.code(), Code::Unauthenticated, "{end}");
}
