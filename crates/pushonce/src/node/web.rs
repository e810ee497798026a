//! The HTTP pages of the node beside the topics: health, metrics, the cluster.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_auth::{AccessControl, Action};
use pushonce_core::Topic;
use pushonce_gateway::PageAccess::{Everyone, Requires};
use pushonce_gateway::query::{self, InvalidQuery};
use pushonce_gateway::{Authenticated, HttpError, PagePolicy, Pages};
use pushonce_publish::Readiness;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::health::HealthIssue;
use super::health_check;
use super::overview::NodeOverview;

/// Maximum number of topics in one request.
const TOPICS_MAX: usize = 256;

/// The reason why a node that is not a member yet serves nothing.
const WAITING_TO_JOIN: &str = "this node waits to join its cluster";

/// Maximum number of body bytes that are read before the response, as in the gateway's rejections.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Maximum time for which a body is read.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);

/// The pages `/health/live`, `/health/ready`, `/health/publish`, `/health/viewers`, `/metrics`, `/cluster`, and the
/// JavaScript SDK below `/sdk/`, and the files of the console below `/console/`.
pub(super) fn node_pages(
    overview: NodeOverview,
    metrics: PrometheusHandle,
    access: AccessControl,
) -> Pages {
    let metrics_page = get(move || prometheus(metrics));
    health_pages(overview.clone(), access)
        .page("/cluster", Requires(Action::ReadCluster), get(cluster).with_state(overview))
        .page("/metrics", Requires(Action::ReadMetrics), metrics_page)
        .files(pushonce_console::sdk())
        .files(pushonce_console::console())
}

/// The pages of the listener for monitoring: health and metrics, for everyone who reaches it.
pub(super) fn monitoring_pages(overview: NodeOverview, metrics: PrometheusHandle) -> Pages {
    let everyone = AccessControl::open(overview.view.clone());
    health_pages(overview, everyone).page("/metrics", Everyone, get(move || prometheus(metrics)))
}

/// The health pages. They say only whether the node is ready, and the reasons to callers that may see the cluster.
fn health_pages(overview: NodeOverview, access: AccessControl) -> Pages {
    let page = |is_ready: fn(Readiness) -> bool| {
        let (overview, access) = (overview.clone(), access.clone());
        get(async move |caller: Result<Authenticated, HttpError>| {
            let shows_issues = caller.is_ok_and(|caller| caller.may(&access, Action::ReadCluster));
            ready(&overview, is_ready, shows_issues)
        })
    };
    Pages::new()
        .page("/health/live", Everyone, get(live))
        .page("/health/ready", Everyone, page(|now| now.can_publish && now.can_subscribe))
        .page("/health/publish", Everyone, page(|now| now.can_publish))
        .page("/health/viewers", Everyone, page(|now| now.can_subscribe))
}

/// The pages of a node that waits to join its cluster: it is alive, and serves no clients. Each response
/// closes its connection: the next request is for the gateway, once it has the port.
pub(super) fn pre_join_router(page_policy: PagePolicy) -> Router {
    let not_ready =
        || async { readiness_response(false, &[HealthIssue::blocking_all(WAITING_TO_JOIN)]) };
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(not_ready))
        .route("/health/publish", get(not_ready))
        .route("/health/viewers", get(not_ready))
        .fallback(not_joined_response)
        .layer(from_fn_with_state(page_policy, pushonce_gateway::apply_page_policy))
        .layer(from_fn(read_body_first))
        .layer(map_response(close_connection))
}

/// Reads a request body before the response. A connection that is closed with unread bytes is reset, and
/// the reset discards the response in the client's receive buffer: a publisher that sends its whole body
/// first would see a broken pipe instead of the rejection.
async fn read_body_first(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let _ = timeout(BODY_TIMEOUT, discard_body(body)).await;
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// Reads until the body has ended, or is too long.
async fn discard_body(body: Body) {
    let mut remaining = BODY_BYTES_MAX;
    let mut chunks = body.into_data_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        let Some(remaining_after) = remaining.checked_sub(chunk.len()) else { return };
        remaining = remaining_after;
    }
}

/// The response to any other request: another node can answer it, or this one later.
async fn not_joined_response() -> Response {
    let message = format!("{WAITING_TO_JOIN}: try another node, or retry later");
    let error = json!({"error": {"code": "unavailable", "message": message, "retry": true}});
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], Json(error)).into_response()
}

async fn close_connection(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

fn ready(overview: &NodeOverview, is_ready: fn(Readiness) -> bool, shows_issues: bool) -> Response {
    let issues = overview.issues();
    let is_ready = is_ready(health_check::readiness(&issues));
    if shows_issues {
        return readiness_response(is_ready, &issues);
    }
    (readiness_status(is_ready), Json(json!({"ready": is_ready}))).into_response()
}

fn readiness_status(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The response of a readiness page. Issues that block nothing are warnings.
fn readiness_response(ready: bool, issues: &[HealthIssue]) -> Response {
    let issue_texts = |is_blocking| {
        let selected = issues.iter().filter(move |reason| reason.blocks.any() == is_blocking);
        selected.map(|reason| reason.text.as_str()).collect::<Vec<_>>()
    };
    let body =
        json!({"ready": ready, "because": issue_texts(true), "warnings": issue_texts(false)});
    (readiness_status(ready), Json(body)).into_response()
}

async fn cluster(State(overview): State<NodeOverview>, RawQuery(query): RawQuery) -> Response {
    match parse_topics(query.as_deref().unwrap_or_default()) {
        Ok(topics) => Json(overview.cluster(&topics)).into_response(),
        Err((code, message)) => {
            let error = json!({"error": {"code": code, "message": message, "retry": false}});
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

/// Parses `?topic=a&topic=b`; the error is a code and a message that says what to change.
fn parse_topics(query: &str) -> Result<Vec<Topic>, (&'static str, String)> {
    let to_bad_request = |error: InvalidQuery| ("bad_request", error.to_string());
    let pairs = query::pairs(query).map_err(to_bad_request)?;
    if pairs.len() > TOPICS_MAX {
        return Err(("bad_request", format!("ask for at most {TOPICS_MAX} topics at a time")));
    }
    let parse_topic = |(name, value): (String, String)| match name.as_str() {
        "topic" => Topic::new(&value).map_err(|error| ("bad_topic", format!("{value:?}: {error}"))),
        _ => {
            let known = "the only parameter is topic, and it may be repeated";
            Err(to_bad_request(InvalidQuery::Unknown { name, known }))
        }
    };
    pairs.into_iter().map(parse_topic).collect()
}

async fn prometheus(metrics: PrometheusHandle) -> Response {
    metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_query_is_decoded_and_invalid_parameters_are_rejected() {
        let found = parse_topics("topic=a%2Fb&topic=c").expect("valid");
        assert_eq!(found.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a/b", "c"]);
        for (query, code) in [
            ("topic=a%FF", "bad_request"),
            ("topic=a//b", "bad_topic"),
            ("topics=a", "bad_request"),
        ] {
            assert_eq!(parse_topics(query).expect_err(query).0, code);
        }
        assert!(parse_topics(&"topic=a&".repeat(TOPICS_MAX + 1)).is_err());
    }
}
