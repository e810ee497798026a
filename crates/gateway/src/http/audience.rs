//! `GET /topics/{topic}?set_audience`: how many watch.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use pushonce_core::Topic;
use serde_json::json;

use super::{HttpError, HttpState};

/// A number is a second old when it is young: whoever keeps it for another takes nothing from anybody.
const MAX_AGE: HeaderValue = HeaderValue::from_static("max-age=1");

/// The number, for every page that wants to show it.
pub(super) async fn get(http: &HttpState, topic: Topic) -> Result<Response, HttpError> {
    let audience = http.audience.count(topic.clone()).await?;
    let mut response = Json(json!({"topic": topic.as_str(), "audience": audience})).into_response();
    response.headers_mut().insert(CACHE_CONTROL, MAX_AGE);
    Ok(response)
}
