//! An HTTP client that returns whole responses.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{TestGateway, with_timeout};

pub struct TestResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl TestResponse {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    /// Returns the status and the code of an error response, which must have a message.
    pub fn error_status_and_code(&self) -> (u16, String) {
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(error["retry"].is_boolean(), "{error}");
        (self.status.as_u16(), error["code"].as_str().expect("a code").to_owned())
    }
}

pub async fn send_request(
    server: &TestGateway,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> TestResponse {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = request.body(Full::new(body.into())).expect("a request");
    let path = request.uri().clone();
    *request.uri_mut() = format!("http://{}{path}", server.http).parse().expect("a URL");
    let (parts, body) =
        with_timeout(client.request(request)).await.expect("a response").into_parts();
    let body = with_timeout(body.collect()).await.expect("a body").to_bytes();
    TestResponse { status: parts.status, headers: parts.headers, body }
}

pub async fn get(server: &TestGateway, path: &str) -> TestResponse {
    send_request(server, Request::get(path), "").await
}

pub async fn post(server: &TestGateway, path: &str, body: &'static str) -> TestResponse {
    send_request(server, Request::post(path), body).await
}
