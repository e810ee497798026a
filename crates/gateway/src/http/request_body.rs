//! The body of a request, bounded in size, in time, and by the budget of requests that are half received.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{LengthLimitError, Limited};
use pushonce_listener::{Holding, ReceiveBudgetExceeded};
use pushonce_proto::client::ErrorCode;

use super::HttpError;

/// Reads a body of at most `bytes_max`, which must be complete within `timeout`. What is received of it is charged
/// to `holding`.
///
/// # Errors
/// 413, 408, and 503 when the body has to give way to those of others.
pub(super) async fn read(
    body: Body,
    bytes_max: usize,
    timeout: Duration,
    holding: Holding,
) -> Result<Bytes, HttpError> {
    let body = Limited::new(body, bytes_max);
    match tokio::time::timeout(timeout, collect(body, bytes_max, holding)).await {
        Ok(result) => result,
        Err(_) => Err(HttpError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!("the body was not received within {timeout:?}; send it faster"),
        )),
    }
}

async fn collect(
    mut body: Limited<Body>,
    bytes_max: usize,
    mut holding: Holding,
) -> Result<Bytes, HttpError> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = poll_fn(|cx| match holding.poll_evicted(cx.waker()) {
            true => Poll::Ready(Err(ReceiveBudgetExceeded)),
            false => Pin::new(&mut body).poll_frame(cx).map(Ok),
        });
        let Some(frame) = frame.await? else { return Ok(bytes.freeze()) };
        if let Ok(data) = frame.map_err(|error| body_error(error, bytes_max))?.into_data() {
            bytes.extend_from_slice(&data);
            holding.set(bytes.capacity())?;
        }
    }
}

fn body_error(error: BoxError, bytes_max: usize) -> HttpError {
    if error.is::<LengthLimitError>() {
        let text = format!("the body exceeds the maximum of {bytes_max} bytes");
        return HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge.as_str(), text);
    }
    let text = format!("the body cannot be read: {error}");
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}
