//! `POST /topics/{topic}`: publishes the body as a message.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::{BoxError, Json};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::{LengthLimitError, Limited};
use pushonce_auth::{Action, PublishDoor};
use pushonce_core::{InvalidPublish, Publish};
use pushonce_listener::{Holding, ReceiveBudgetExceeded};
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
    let payer = caller.0.key();
    http.limits.check_publish(&topic, payer, &http.access)?;
    let holding = http.limits.receive_budget.begin(payer);
    let payload = read_body(&headers, body, http.body_timeout, holding).await?;
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

/// Reads the body, limited in time, to the largest payload that a namespace can allow, and to the budget of
/// requests that are half received.
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
    match tokio::time::timeout(timeout, collect(Limited::new(body, max), holding)).await {
        Ok(result) => result,
        Err(_) => Err(HttpError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body was not received within {timeout:?}; send it faster"),
        )),
    }
}

async fn collect(mut body: Limited<Body>, mut holding: Holding) -> Result<Bytes, HttpError> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = poll_fn(|cx| match holding.poll_evicted(cx.waker()) {
            true => Poll::Ready(Err(ReceiveBudgetExceeded)),
            false => Pin::new(&mut body).poll_frame(cx).map(Ok),
        });
        let Some(frame) = frame.await? else { return Ok(bytes.freeze()) };
        if let Ok(data) = frame.map_err(body_error)?.into_data() {
            bytes.extend_from_slice(&data);
            holding.set(bytes.capacity())?;
        }
    }
}

fn body_error(error: BoxError) -> HttpError {
    if error.is::<LengthLimitError>() {
        let text = format!("the body exceeds the maximum of {} bytes", Publish::PAYLOAD_BYTES_CAP);
        return HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge.as_str(), text);
    }
    let text = format!("the body cannot be read: {error}");
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}
