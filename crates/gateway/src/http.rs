//! The HTTP routes, with the topic in the URL path. Module `ws` implements `/ws`, and module `sse` event streams.

mod audience;
pub(crate) mod authenticate;
mod authority;
mod body_cache;
mod cache;
pub(crate) mod cors;
mod error;
pub(crate) mod framing;
pub(crate) mod front;
#[cfg(test)]
mod fuzz;
mod headers;
mod history;
mod long_poll;
mod origin;
pub(crate) mod page_gate;
pub(crate) mod page_policy;
mod publish;
mod representation;
mod request_body;
mod request_check;
mod snapshot;
mod tickets;
mod topic_query;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Json, Router};
use http::StatusCode;
use pushonce_auth::AccessControl;
use pushonce_core::{ClusterView, Topic};
use pushonce_fanout::Hub;
use pushonce_proto::client::ErrorCode;
use pushonce_quic::certificate::Fingerprint;
use pushonce_telemetry::Histogram;
use serde::Serialize;
use tokio::sync::watch;

pub use authenticate::Authenticated;
pub(crate) use body_cache::BodyCache;
pub use cors::{SameOriginOnly, apply_page_policy};
pub use error::HttpError;
pub(crate) use long_poll::LongPolls;
pub use origin::{AllowedOrigins, InvalidOrigin, Origin};
pub use page_policy::PagePolicy;

use crate::{AudienceSource, ClientLimits, Pages, PublishRouter, rejection};

/// The state shared by all routes.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) hub: Hub,
    pub(crate) publisher: Arc<dyn PublishRouter>,
    pub(crate) audience: Arc<dyn AudienceSource>,
    pub(crate) access: AccessControl,
    /// Contains the settings of the namespaces.
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) fingerprint: watch::Receiver<Fingerprint>,
    /// The UDP port of QUIC and WebTransport.
    pub(crate) quic_port: u16,
    /// Maximum time for a client to send a request body.
    pub(crate) body_timeout: Duration,
    /// The limits that the lanes share.
    pub(crate) limits: ClientLimits,
    /// Bodies that are served to many.
    pub(crate) bodies: BodyCache,
    /// The requests that wait for a message.
    pub(crate) long_polls: LongPolls,
    /// Of publishes over HTTP.
    pub(crate) publish_seconds: Histogram,
}

type RouteBuilder = fn() -> MethodRouter<HttpState>;

/// The routes of the gateway. Their handlers check what the caller may do.
const ROUTES: [(&str, RouteBuilder); 4] = [
    ("/topics/{*topic}", || get(snapshot::get).post(publish::post).fallback(method_not_allowed)),
    ("/tickets", || post(tickets::post).fallback(method_not_allowed)),
    // The connection serves GET.
    ("/sse", || any(method_not_allowed)),
    ("/dev/certificate", || get(certificate)),
];

/// The paths of the gateway's own routes, and of the sessions, which the connection serves.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(path, _)| *path).chain(["/ws"])
}

/// Builds the router from the topic routes and `extra`. The connection handles `OPTIONS` and the CORS
/// headers, because it also sends responses that do not pass through this router.
pub(crate) fn router(http: HttpState, extra: Pages) -> Router {
    let access = http.access.clone();
    ROUTES
        .iter()
        .fold(Router::new(), |router, (path, route)| router.route(path, route()))
        .with_state(http)
        .fallback(not_found)
        .merge(extra.into_rules(&access))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(access, authenticate::authenticate))
}

/// What a client needs to trust the QUIC port, and where it is.
#[derive(Serialize)]
struct DevCertificate {
    #[serde(flatten)]
    fingerprint: Fingerprint,
    port: u16,
}

async fn certificate(State(http): State<HttpState>) -> Response {
    let fingerprint = http.fingerprint.borrow().clone();
    Json(DevCertificate { fingerprint, port: http.quic_port }).into_response()
}

async fn not_found() -> HttpError {
    HttpError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "no such path; topics are at /topics/{topic}",
    )
}

async fn method_not_allowed() -> HttpError {
    let text = "this path does not support this method; GET reads a topic, POST publishes to it";
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
}

/// Rejects system topics, which clients may not read.
fn check_readable(topic: Topic) -> Result<Topic, HttpError> {
    match rejection::check_topic(&topic) {
        Ok(()) => Ok(topic),
        Err(rejection) => Err(HttpError::from_code(rejection.code(), rejection.to_string())),
    }
}

/// Parses the percent-decoded topic of a path.
fn parse_topic(path: Result<Path<String>, PathRejection>) -> Result<Topic, HttpError> {
    let bad_topic =
        |text: String| HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadTopic.as_str(), text);
    let Path(name) = path.map_err(|rejection| bad_topic(rejection.body_text()))?;
    Topic::new(&name).map_err(|invalid| bad_topic(invalid.to_string()))
}
