//! The node's own pages beside the topics: health, metrics, the cluster.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_core::Topic;
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
        Err(why) => {
            let error = json!({"error": {"code": "bad_topic", "message": why, "retry": false}});
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

/// The topics of `?topic=a&topic=b`.
fn topics(query: &str) -> Result<Vec<Topic>, String> {
    form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == "topic")
        .take(TOPICS_MAX)
        .map(|(_, name)| Topic::new(&name).map_err(|why| format!("{name:?}: {why}")))
        .collect()
}

async fn prometheus(metrics: PrometheusHandle) -> Response {
    metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}
