//! `POST /topics/{topic}`: the body is the message.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use pushonce_core::{InvalidPublish, Publish};
use pushonce_proto::client::ErrorCode;
use serde_json::{Value, json};

use super::{Fault, Http, headers, topic};
use crate::query;

pub(super) async fn post(
    State(http): State<Http>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Fault> {
    let topic = topic(path)?;
    query::expect_none(query.as_deref())?;
    headers::check(&headers)?;
    let key = headers::key(&headers)?;
    let payload = read(&headers, body, http.body_timeout).await?;
    let content_type = headers::content_type(&headers, &payload)?;
    let publish = Publish { topic, content_type, key, stamp: None, payload };
    let placed = http.publisher.publish(publish).await?;
    Ok(Json(json!({
        "position": placed.position.to_string(),
        "time": placed.time.0,
        "durability": placed.durability.as_str(),
    })))
}

/// The whole body, if it comes in time and is no larger than any namespace allows.
async fn read(headers: &HeaderMap, body: Body, timeout: Duration) -> Result<Bytes, Fault> {
    let max = Publish::PAYLOAD_BYTES_CAP;
    let announced = headers.get(CONTENT_LENGTH).and_then(|line| line.to_str().ok());
    let announced = announced.and_then(|text| text.parse().ok());
    if let Some(len) = announced.filter(|&len: &usize| len > max) {
        return Err(InvalidPublish::PayloadTooLarge { len, max }.into());
    }
    match tokio::time::timeout(timeout, to_bytes(body, max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(broken(error)),
        Err(_) => Err(Fault::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body did not come within {timeout:?}; send it faster"),
        )),
    }
}

fn broken(error: axum::Error) -> Fault {
    let too_long = std::error::Error::source(&error)
        .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
    if too_long {
        let text =
            format!("the body is over {} bytes; no topic takes more", Publish::PAYLOAD_BYTES_CAP);
        return Fault::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge.as_str(), text);
    }
    let text = format!("the body cannot be read: {error}");
    Fault::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}
