//! The node's own pages beside the topics: health, metrics, the cluster.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_core::Topic;
use pushonce_gateway::query::{self, InvalidQuery};
use serde_json::json;

use super::overview::Overview;

/// No more topics than this are looked up in one request.
const TOPICS_MAX: usize = 256;

/// `/health/live`, `/health/ready`, `/metrics`, `/cluster`.
pub(super) fn router(overview: Overview, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health/live", get(|| async { Json(json!({"live": true})) }))
        .route("/health/ready", get(ready))
        .route("/cluster", get(cluster))
        .with_state(overview)
        .route("/metrics", get(move || prometheus(metrics)))
}

async fn ready(State(overview): State<Overview>) -> Response {
    let obstacles = overview.obstacles();
    let status =
        if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": obstacles.is_empty(), "because": obstacles});
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
