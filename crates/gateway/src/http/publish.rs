//! `POST /topics/{topic}`: the body is the message.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use pushonce_core::{ContentType, InvalidPublish, Key, Publish};
use pushonce_proto::client::ErrorCode;
use serde_json::{Value, json};

use super::{Fault, Http, topic};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a client sends that was told nothing, curl's `-d` for one.
const FORM: &str = "application/x-www-form-urlencoded";

pub(super) async fn post(
    State(http): State<Http>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Fault> {
    let topic = topic(path)?;
    let key = header(&headers, &IDEMPOTENCY_KEY)
        .map(|text| Key::new(text.ok_or(InvalidPublish::Key)?))
        .transpose()?;
    let payload = read(&headers, body, http.body_timeout).await?;
    let content_type = content_type(&headers, &payload)?;
    let publish = Publish { topic, content_type, key, stamp: None, payload };
    let placed = http.publisher.publish(publish).await?;
    Ok(Json(json!({
        "position": placed.position.to_string(),
        "time": placed.time.0,
        "durability": placed.durability.as_str(),
    })))
}

/// `None`: the header is not there. `Some(None)`: it is no text.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    headers.get(name).map(|value| value.to_str().ok())
}

fn content_type(headers: &HeaderMap, payload: &[u8]) -> Result<ContentType, InvalidPublish> {
    match header(headers, &CONTENT_TYPE) {
        None => Ok(ContentType::guess(payload)),
        Some(None) => Err(InvalidPublish::ContentType),
        Some(Some(FORM)) => Ok(ContentType::guess(payload)),
        Some(Some(text)) => ContentType::parse(text),
    }
}

/// The whole body, if it comes in time and is no larger than any namespace allows.
async fn read(headers: &HeaderMap, body: Body, timeout: Duration) -> Result<Bytes, Fault> {
    let max = Publish::PAYLOAD_BYTES_CAP;
    let announced = header(headers, &CONTENT_LENGTH).flatten().and_then(|text| text.parse().ok());
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
