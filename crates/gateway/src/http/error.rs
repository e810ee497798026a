//! HTTP error responses: `{"error":{"code","message","retry"}}` with the matching status.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use pushonce_auth::{AccessError, RefusalKind};
use pushonce_core::{FetchError, InvalidPublish, PublishError};
use pushonce_listener::ReceiveBudgetExceeded;
use pushonce_proto::client::ErrorCode;
use serde_json::json;

use crate::limits::PublishRateExceeded;
use crate::query::InvalidQuery;
use crate::rejection;

/// The `Retry-After` of a 503 in seconds: longer than the election of a new owner takes.
const RETRY_AFTER_SECS: u32 = 2;

/// An error response.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry: bool,
    /// The value of `WWW-Authenticate` (RFC 6750, 3).
    challenge: Option<&'static str>,
    /// The `Retry-After` in seconds; `None` for that of the status.
    retry_after_secs: Option<u32>,
}

impl HttpError {
    /// Creates an error that a retry cannot fix.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> HttpError {
        HttpError {
            status,
            code,
            message: message.into(),
            retry: false,
            challenge: None,
            retry_after_secs: None,
        }
    }

    /// Creates the error for a request that needs a token and has none.
    pub(crate) fn token_required(message: impl Into<String>) -> HttpError {
        let code = ErrorCode::NotAuthenticated.as_str();
        let challenge = Some("Bearer");
        HttpError { challenge, ..HttpError::new(StatusCode::UNAUTHORIZED, code, message) }
    }

    /// Creates the error for a code of the client protocol.
    pub(crate) fn from_code(code: ErrorCode, message: String) -> HttpError {
        let (status, retry) = (status(code), code.is_retryable());
        HttpError { retry, ..HttpError::new(status, code.as_str(), message) }
    }

    /// Creates the error for a client that exceeds a limit of its own.
    fn too_many(retry_after: Duration, message: String) -> HttpError {
        let seconds = retry_after.as_secs().saturating_add(1);
        HttpError {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after_secs: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            ..HttpError::from_code(ErrorCode::Overloaded, message)
        }
    }

    /// The status and the text, for a response that is no JSON.
    pub(crate) fn into_status_and_text(self) -> (StatusCode, String) {
        (self.status, self.message)
    }

    /// Builds the response.
    pub(crate) fn into_http_response(self) -> Response<Body> {
        let HttpError { status, code, message, retry, challenge, retry_after_secs } = self;
        let body = json!({"error": {"code": code, "message": message, "retry": retry}});
        // Caches may keep an error without this (RFC 9111, 4.2.2), such as the 404 of a topic that gets a message soon.
        let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        let mut response = (status, no_store, Json(body)).into_response();
        let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        let default = is_unavailable.then_some(RETRY_AFTER_SECS);
        if let Some(seconds) = retry_after_secs.or(default) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = challenge {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::NotAllowed => StatusCode::FORBIDDEN,
        ErrorCode::NotAuthenticated | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
        // As in draft-ietf-httpapi-idempotency-key-header. There 409 means that the first request is still in
        // progress; this server waits for it instead.
        ErrorCode::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Overloaded | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TooManyTopics => StatusCode::INSUFFICIENT_STORAGE,
        // Not 503: the publish may have happened, so a proxy must not retry it; the proxy does not know
        // whether it has a key.
        ErrorCode::Unknown => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        self.into_http_response()
    }
}

impl From<AccessError> for HttpError {
    fn from(error: AccessError) -> HttpError {
        let challenge = match error.kind() {
            RefusalKind::TokenRequired => Some("Bearer"),
            RefusalKind::InvalidToken | RefusalKind::Expired => {
                Some("Bearer error=\"invalid_token\"")
            }
            RefusalKind::NotAllowed => Some("Bearer error=\"insufficient_scope\""),
            RefusalKind::Unavailable | RefusalKind::TooManyFailures => None,
        };
        if let Some(retry_after) = error.retry_after() {
            return HttpError::too_many(retry_after, error.to_string());
        }
        let code = rejection::access_code(&error);
        HttpError { challenge, ..HttpError::from_code(code, error.to_string()) }
    }
}

impl From<PublishError> for HttpError {
    fn from(error: PublishError) -> HttpError {
        let retry = error.is_retryable();
        HttpError { retry, ..HttpError::from_code(ErrorCode::from(&error), error.to_string()) }
    }
}

impl From<PublishRateExceeded> for HttpError {
    fn from(exceeded: PublishRateExceeded) -> HttpError {
        HttpError::too_many(exceeded.retry_after(), exceeded.to_string())
    }
}

impl From<ReceiveBudgetExceeded> for HttpError {
    fn from(exceeded: ReceiveBudgetExceeded) -> HttpError {
        HttpError::from_code(ErrorCode::Overloaded, exceeded.to_string())
    }
}

impl From<InvalidPublish> for HttpError {
    fn from(error: InvalidPublish) -> HttpError {
        HttpError::from_code(ErrorCode::from(&error), error.to_string())
    }
}

impl From<InvalidQuery> for HttpError {
    fn from(error: InvalidQuery) -> HttpError {
        HttpError::from_code(ErrorCode::BadRequest, error.to_string())
    }
}

impl From<FetchError> for HttpError {
    fn from(error: FetchError) -> HttpError {
        HttpError::from_code(ErrorCode::from(&error), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceeded_rate_is_429_with_the_time_to_wait() {
        let retry_after = std::time::Duration::from_millis(2_300);
        let error = HttpError::from(PublishRateExceeded::Node { retry_after });
        assert!(error.retry && error.message.contains("2.3s"), "{}", error.message);
        let response = error.into_http_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }

    fn status_code_and_retry(error: PublishError) -> (u16, &'static str, bool) {
        let HttpError { status, code, retry, .. } = HttpError::from(error);
        (status.as_u16(), code, retry)
    }

    #[test]
    fn unknown_outcome_is_retryable_only_with_a_key() {
        let unknown = PublishError::unknown("the owner died");
        assert_eq!(status_code_and_retry(unknown.clone()), (504, "unknown", false));
        assert_eq!(status_code_and_retry(unknown.with_idempotency(true)), (504, "unknown", true));
    }

    #[test]
    fn reused_key_is_rejected_with_422() {
        assert_eq!(
            status_code_and_retry(InvalidPublish::KeyReused.into()),
            (422, "key_reused", false)
        );
    }
}
