//! `POST /topics/{topic}`: publishes the body as a message.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use pushonce_auth::{Action, PublishDoor};
use pushonce_core::{InvalidPublish, Publish};
use pushonce_proto::client::ErrorCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Authenticated, HttpError, HttpState, headers, parse_topic};
use crate::query;

pub(super) async fn post(
    State(http): State<HttpState>,
    caller: Authenticated,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, HttpError> {
    let topic = parse_topic(path)?;
    caller.authorize(&http.access, Action::Publish(&topic, PublishDoor::Client))?;
    query::expect_none(query.as_deref())?;
    headers::check_supported(&headers)?;
    let key = headers::idempotency_key(&headers)?;
    let payload = read_body(&headers, body, http.body_timeout).await?;
    let content_type = headers::content_type(&headers, &payload)?;
    let publish = Publish { topic, content_type, key, publish_id: None, payload };
    let received_at = Instant::now();
    let outcome = http.publisher.publish(publish).await;
    http.publish_seconds.record(received_at.elapsed());
    let acknowledgement = outcome?;
    Ok(Json(json!({
        "position": acknowledgement.position.to_string(),
        "time": acknowledgement.time.0,
        "durability": acknowledgement.durability.as_str(),
    })))
}

/// Reads the body, limited in time and to the largest payload that a namespace can allow.
async fn read_body(headers: &HeaderMap, body: Body, timeout: Duration) -> Result<Bytes, HttpError> {
    let max = Publish::PAYLOAD_BYTES_CAP;
    let header_text = headers.get(CONTENT_LENGTH).and_then(|line| line.to_str().ok());
    let content_length = header_text.and_then(|text| text.parse().ok());
    if let Some(len) = content_length.filter(|&len: &usize| len > max) {
        return Err(InvalidPublish::PayloadTooLarge { len, max }.into());
    }
    match tokio::time::timeout(timeout, to_bytes(body, max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(body_error(error)),
        Err(_) => Err(HttpError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body was not received within {timeout:?}; send it faster"),
        )),
    }
}

fn body_error(error: axum::Error) -> HttpError {
    let too_long = std::error::Error::source(&error)
        .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
    if too_long {
        let text = format!("the body exceeds the maximum of {} bytes", Publish::PAYLOAD_BYTES_CAP);
        return HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge.as_str(), text);
    }
    let text = format!("the body cannot be read: {error}");
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}
