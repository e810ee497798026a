//! The node's own pages beside the topics: health, metrics, the cluster.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_core::Topic;
use pushonce_gateway::query::{self, InvalidQuery};
use pushonce_publish::Ready;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::health::Reason;
use super::overview::Overview;
use super::watch;

/// No more topics than this are looked up in one request.
const TOPICS_MAX: usize = 256;

/// Why a node that is no member yet serves nothing.
const WAITS: &str = "this node waits to join its cluster";

/// How many bytes of a body are read before the answer, as behind a refusal of the gateway.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long they are read.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);

/// `/health/live`, `/health/ready`, `/health/publish`, `/health/viewers`, `/metrics`, `/cluster`.
pub(super) fn router(overview: Overview, metrics: PrometheusHandle) -> Router {
    let internal = Router::new()
        .route("/cluster", get(cluster))
        .with_state(overview.clone())
        .route("/metrics", get(move || prometheus(metrics)))
        .layer(map_response(async |mut response: Response| {
            response.extensions_mut().insert(pushonce_gateway::Internal);
            response
        }));
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(async |state| ready(state, |now| now.publish && now.viewers)))
        .route("/health/publish", get(async |state| ready(state, |now| now.publish)))
        .route("/health/viewers", get(async |state| ready(state, |now| now.viewers)))
        .with_state(overview)
        .merge(internal)
}

/// The pages of a node that waits until a cluster takes it in: it lives, and serves nobody. Each answer
/// ends its connection: the next request is for the gateway, once that has the port.
pub(super) fn waiting_router() -> Router {
    let wait = || async { answer(false, &[Reason::of_all(WAITS)]) };
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(wait))
        .route("/health/publish", get(wait))
        .route("/health/viewers", get(wait))
        .fallback(not_joined)
        .layer(from_fn(pushonce_gateway::allow_any_origin))
        .layer(from_fn(read_body_first))
        .layer(map_response(closing))
}

/// Reads what a client sends before it is answered. A connection that is closed with unread bytes is
/// reset, and the reset takes the answer out of the client's receive buffer: a publisher that sends its
/// whole body first would see a broken pipe instead of the refusal.
async fn read_body_first(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let _ = timeout(BODY_TIMEOUT, discard(body)).await;
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// Until the body has ended, or is too long.
async fn discard(body: Body) {
    let mut left = BODY_BYTES_MAX;
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        let Some(rest) = left.checked_sub(piece.len()) else { return };
        left = rest;
    }
}

/// Whatever a client or publisher asks: another node answers it, or this one later.
async fn not_joined() -> Response {
    let message = format!("{WAITS}: ask another node, or try again");
    let error = json!({"error": {"code": "unavailable", "message": message, "retry": true}});
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], Json(error)).into_response()
}

async fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

fn ready(State(overview): State<Overview>, is: fn(Ready) -> bool) -> Response {
    let reasons = overview.obstacles();
    answer(is(watch::ready(&reasons)), &reasons)
}

/// Reasons that block nothing are warnings.
fn answer(ready: bool, reasons: &[Reason]) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let texts = |blocking| {
        let chosen = reasons.iter().filter(move |reason| reason.blocks.any() == blocking);
        chosen.map(|reason| reason.text.as_str()).collect::<Vec<_>>()
    };
    let body = json!({"ready": ready, "because": texts(true), "warnings": texts(false)});
    (status, Json(body)).into_response()
}

async fn cluster(State(overview): State<Overview>, RawQuery(query): RawQuery) -> Response {
    match topics(query.as_deref().unwrap_or_default()) {
        Ok(topics) => Json(overview.cluster(&topics)).into_response(),
        Err((code, why)) => {
            let error = json!({"error": {"code": code, "message": why, "retry": false}});
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

/// The topics of `?topic=a&topic=b`; the error is a code and what to change.
fn topics(query: &str) -> Result<Vec<Topic>, (&'static str, String)> {
    let bad_request = |why: InvalidQuery| ("bad_request", why.to_string());
    let pairs = query::pairs(query).map_err(bad_request)?;
    if pairs.len() > TOPICS_MAX {
        return Err(("bad_request", format!("ask for at most {TOPICS_MAX} topics at a time")));
    }
    let topic = |(name, value): (String, String)| match name.as_str() {
        "topic" => Topic::new(&value).map_err(|why| ("bad_topic", format!("{value:?}: {why}"))),
        _ => {
            let known = "only topic is known, and may be there several times";
            Err(bad_request(InvalidQuery::Unknown { name, known }))
        }
    };
    pairs.into_iter().map(topic).collect()
}

async fn prometheus(metrics: PrometheusHandle) -> Response {
    metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_query_are_read_without_loss_and_nothing_is_ignored() {
        let found = topics("topic=a%2Fb&topic=c").expect("valid");
        assert_eq!(found.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a/b", "c"]);
        for (query, code) in [
            ("topic=a%FF", "bad_request"),
            ("topic=a//b", "bad_topic"),
            ("topics=a", "bad_request"),
        ] {
            assert_eq!(topics(query).expect_err(query).0, code);
        }
        assert!(topics(&"topic=a&".repeat(TOPICS_MAX + 1)).is_err());
    }
}
