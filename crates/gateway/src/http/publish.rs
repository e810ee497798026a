//! `POST /topics/{topic}`: publishes the body as a message.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use pushonce_auth::{Action, PublishDoor};
use pushonce_core::{InvalidPublish, Publish};
use pushonce_listener::Holding;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Authenticated, HttpError, HttpState, headers, parse_topic, request_body};
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
    let authorize = || caller.authorize(&http.access, Action::Publish(&topic, PublishDoor::Client));
    authorize()?;
    query::expect_none(query.as_deref())?;
    headers::check_supported(&headers)?;
    let key = headers::idempotency_key(&headers)?;
    let payer = caller.0.key();
    http.limits.check_publish(&topic, payer, &http.access)?;
    let holding = http.limits.receive_budget.begin(payer);
    let payload = read_body(&headers, body, http.body_timeout, holding).await?;
    // A body may take 30 seconds, and a revocation holds after five.
    authorize()?;
    let content_type = headers::content_type(&headers, &payload)?;
    let publish = Publish { topic, content_type, key, publish_id: None, payload };
    let received_at = Instant::now();
    let outcome = http.publisher.publish(publish).await;
    http.publish_seconds.record(received_at.elapsed());
    let acknowledgement = outcome?;
    let now = std::time::Instant::now();
    http.limits.caller_rates.on_acknowledged(&acknowledgement, payer, now);
    Ok(Json(json!({
        "position": acknowledgement.position.to_string(),
        "time": acknowledgement.time.0,
        "durability": acknowledgement.durability.as_str(),
    })))
}

/// Reads the body, of at most the largest payload that a namespace can allow.
async fn read_body(
    headers: &HeaderMap,
    body: Body,
    timeout: Duration,
    holding: Holding,
) -> Result<Bytes, HttpError> {
    let max = Publish::PAYLOAD_BYTES_CAP;
    let header_text = headers.get(CONTENT_LENGTH).and_then(|line| line.to_str().ok());
    let content_length = header_text.and_then(|text| text.parse().ok());
    if let Some(len) = content_length.filter(|&len: &usize| len > max) {
        return Err(InvalidPublish::PayloadTooLarge { len, max }.into());
    }
    request_body::read(body, max, timeout, holding).await
}
