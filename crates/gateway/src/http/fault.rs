//! How HTTP says no: `{"error":{"code","message","retry"}}` with a status that fits.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use pushonce_core::{FetchError, InvalidPublish, PublishError};
use pushonce_proto::client::ErrorCode;
use serde_json::json;

use crate::query::InvalidQuery;

/// Seconds to wait before a retry: longer than an owner takes to be elected again.
const RETRY_AFTER_SECS: u32 = 2;

/// An answer that is no.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry: bool,
}

impl Fault {
    /// One that a retry does not change.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Fault {
        Fault { status, code, message: message.into(), retry: false }
    }

    /// What a client is told by this code.
    pub(crate) fn of(code: ErrorCode, message: String) -> Fault {
        Fault { status: status(code), code: code.as_str(), message, retry: code.retry() }
    }

    /// The answer.
    pub(crate) fn answer(self) -> Response<Body> {
        let Fault { status, code, message, retry } = self;
        let body = json!({"error": {"code": code, "message": message, "retry": retry}});
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        response
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::NotAllowed => StatusCode::FORBIDDEN,
        // As draft-ietf-httpapi-idempotency-key-header says; 409 means there that the first publish
        // is still under way, which here is waited for.
        ErrorCode::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Overloaded | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TooManyTopics => StatusCode::INSUFFICIENT_STORAGE,
        // Not 503: the publish may have happened, so a proxy must not send it again by itself, which
        // does not know whether it has a key.
        ErrorCode::Unknown => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        self.answer()
    }
}

impl From<PublishError> for Fault {
    fn from(error: PublishError) -> Fault {
        let retry = error.retryable();
        Fault { retry, ..Fault::of(ErrorCode::from(&error), error.to_string()) }
    }
}

impl From<InvalidPublish> for Fault {
    fn from(error: InvalidPublish) -> Fault {
        Fault::of(ErrorCode::from(&error), error.to_string())
    }
}

impl From<InvalidQuery> for Fault {
    fn from(error: InvalidQuery) -> Fault {
        Fault::of(ErrorCode::BadRequest, error.to_string())
    }
}

impl From<FetchError> for Fault {
    fn from(error: FetchError) -> Fault {
        Fault::of(ErrorCode::from(&error), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: PublishError) -> (u16, &'static str, bool) {
        let Fault { status, code, retry, .. } = Fault::from(error);
        (status.as_u16(), code, retry)
    }

    #[test]
    fn an_unknown_outcome_may_be_retried_with_a_key_only() {
        let unknown = PublishError::unknown("the owner died");
        assert_eq!(said(unknown.clone()), (504, "unknown", false));
        assert_eq!(said(unknown.of(true)), (504, "unknown", true));
    }

    #[test]
    fn a_reused_key_is_an_error_of_its_own() {
        assert_eq!(said(InvalidPublish::KeyReused.into()), (422, "key_reused", false));
    }
}
