//! The error code in the details of a gRPC status: the same codes as over WebSocket and HTTP.
//!
//! A node sends `google.rpc.ErrorInfo` with every error: `reason` is the error code, `domain` is
//! [`ERROR_DOMAIN`], and `metadata["retry"]` is `true` if the same request may succeed later. A status
//! without it does not come from a node. `google.rpc.RetryInfo` is added when the node knows the delay.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::client::ErrorCode;

/// The `domain` of the error codes in an `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "pushonce";

/// The metadata key in an `ErrorInfo` for whether to retry; its value is `true` or `false`.
const RETRY: &str = "retry";

/// The machine-readable part of a gRPC error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReason {
    /// The error code.
    pub code: ErrorCode,
    /// Whether the same request may succeed later.
    pub retry: bool,
    /// The delay before a retry, if the node knows it.
    pub retry_delay: Option<Duration>,
}

impl From<ErrorCode> for ErrorReason {
    fn from(code: ErrorCode) -> ErrorReason {
        ErrorReason { code, retry: code.is_retryable(), retry_delay: None }
    }
}

impl ErrorReason {
    /// Creates a status with this reason in its details. `message` says what failed and what to change.
    pub fn to_status(self, code: Code, message: impl Into<String>) -> Status {
        let metadata = [(RETRY.to_owned(), self.retry.to_string())];
        let mut details = ErrorDetails::with_error_info(self.code.as_str(), ERROR_DOMAIN, metadata);
        if self.retry_delay.is_some() {
            details.set_retry_info(self.retry_delay);
        }
        Status::with_error_details(code, message, details)
    }

    /// Reads the reason from the details of a status; `None` if the status does not come from a node.
    pub fn from_status(status: &Status) -> Option<ErrorReason> {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
        let retry = info.metadata.get(RETRY).is_some_and(|retry| retry == "true");
        let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Some(ErrorReason { code: ErrorCode::parse(&info.reason, retry), retry, retry_delay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_word_round_trips_through_a_status() {
        for code in ErrorCode::ALL {
            for retry_delay in [None, Some(Duration::from_secs(10))] {
                for retry in [true, false] {
                    let reason = ErrorReason { code, retry, retry_delay };
                    let status = reason.to_status(Code::Aborted, "text");
                    assert_eq!(ErrorReason::from_status(&status), Some(reason));
                    assert_eq!((status.code(), status.message()), (Code::Aborted, "text"));
                }
            }
        }
    }

    #[test]
    fn status_survives_the_headers_of_a_response() {
        let reason = ErrorReason::from(ErrorCode::TooLarge);
        let response = reason.to_status(Code::InvalidArgument, "text").into_http::<()>();
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(ErrorReason::from_status(&status), Some(reason));
    }

    #[test]
    fn status_of_a_proxy_or_of_another_domain_has_no_reason() {
        assert_eq!(ErrorReason::from_status(&Status::unavailable("proxy")), None);
        let details = ErrorDetails::with_error_info("overloaded", "example.com", []);
        let other = Status::with_error_details(Code::Unavailable, "text", details);
        assert_eq!(ErrorReason::from_status(&other), None);
    }

    #[test]
    fn unknown_word_of_a_newer_node_is_read_by_its_retry() {
        for (retry, code) in [("true", ErrorCode::Unavailable), ("false", ErrorCode::BadRequest)] {
            let metadata = [("retry".to_owned(), retry.to_owned())];
            let details = ErrorDetails::with_error_info("new_word", ERROR_DOMAIN, metadata);
            let status = Status::with_error_details(Code::Internal, "text", details);
            assert_eq!(ErrorReason::from_status(&status).map(|reason| reason.code), Some(code));
        }
    }
}
