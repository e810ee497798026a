//! `GET /topics/{topic}?audience`: how many watch.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use pushonce_core::Topic;
use serde_json::json;

use super::{Fault, Http};

/// A number is a second old when it is young: whoever keeps it for another takes nothing from anybody.
const A_SECOND: HeaderValue = HeaderValue::from_static("max-age=1");

/// The number, for every page that wants to show it.
pub(super) async fn get(http: &Http, topic: Topic) -> Result<Response, Fault> {
    let audience = http.audience.of(topic.clone()).await?;
    let mut response = Json(json!({"topic": topic.as_str(), "audience": audience})).into_response();
    response.headers_mut().insert(CACHE_CONTROL, A_SECOND);
    Ok(response)
}
