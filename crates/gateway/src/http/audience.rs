//! `GET /topics/{topic}?audience`: the number of subscribers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use pushonce_core::Topic;
use serde_json::json;

use super::{HttpError, HttpState};

/// A count is up to a second old when it arrives, so caching it for another second loses little.
const MAX_AGE: HeaderValue = HeaderValue::from_static("max-age=1");

/// Returns the subscriber count as JSON.
pub(super) async fn get(http: &HttpState, topic: Topic) -> Result<Response, HttpError> {
    let audience = http.audience.count(topic.clone()).await?;
    let mut response = Json(json!({"topic": topic.as_str(), "audience": audience})).into_response();
    response.headers_mut().insert(CACHE_CONTROL, MAX_AGE);
    Ok(response)
}
