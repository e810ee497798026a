//! The error codes of the client protocol, and the error for an invalid frame.

use std::time::Duration;

use pushonce_core::{FetchError, InvalidPublish, PublishError, PublishRejection};

use super::ServerEvent;

/// An error code that a client can branch on, as `README.md` lists it. Its meaning never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The data is not a frame of the protocol; the session ends.
    BadFrame,
    /// A field or a command is unknown in this version.
    UnknownField,
    /// The topic name is invalid.
    BadTopic,
    /// The position is not of the form `epoch:offset`.
    BadPosition,
    /// The request is invalid in another way.
    BadRequest,
    /// The payload exceeds the limit.
    TooLarge,
    /// The feature is known but not supported by this version or on this transport.
    NotSupported,
    /// The client is not allowed to use the topic or the command.
    NotAllowed,
    /// The request needs a token, or the token is not valid.
    NotAuthenticated,
    /// The token has expired.
    TokenExpired,
    /// The session is already subscribed to the topic.
    AlreadySubscribed,
    /// The session is not subscribed to the topic.
    NotSubscribed,
    /// The session has its maximum number of subscriptions.
    TooManySubscriptions,
    /// A limit was reached; the request had no effect.
    Overloaded,
    /// The namespace or the topic's owner has its maximum number of topics; the request had no effect.
    TooManyTopics,
    /// The topic's owner cannot be reached now; the request had no effect.
    Unavailable,
    /// The outcome of a publish is unknown; with a key, a retry is safe.
    Unknown,
    /// The topic has another message with this key.
    KeyReused,
    /// The topic never assigned the position to a message.
    FuturePosition,
}

/// The error for a frame that is malformed or holds an invalid request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidFrame {
    /// The id of the frame, if it could be decoded.
    pub id: Option<u64>,
    /// The error code.
    pub code: ErrorCode,
    /// What is invalid and what to change.
    pub message: String,
    /// Whether the data is not a frame of the protocol. If so, the session ends with
    /// [`crate::close::BAD_FRAME`] after the error; otherwise it continues.
    pub is_fatal: bool,
}

impl ErrorCode {
    /// Every error code.
    pub const ALL: [ErrorCode; 19] = [
        ErrorCode::BadFrame,
        ErrorCode::UnknownField,
        ErrorCode::BadTopic,
        ErrorCode::BadPosition,
        ErrorCode::BadRequest,
        ErrorCode::TooLarge,
        ErrorCode::NotSupported,
        ErrorCode::NotAllowed,
        ErrorCode::NotAuthenticated,
        ErrorCode::TokenExpired,
        ErrorCode::AlreadySubscribed,
        ErrorCode::NotSubscribed,
        ErrorCode::TooManySubscriptions,
        ErrorCode::Overloaded,
        ErrorCode::TooManyTopics,
        ErrorCode::Unavailable,
        ErrorCode::Unknown,
        ErrorCode::KeyReused,
        ErrorCode::FuturePosition,
    ];

    /// The word in a frame.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadFrame => "bad_frame",
            ErrorCode::UnknownField => "unknown_field",
            ErrorCode::BadTopic => "bad_topic",
            ErrorCode::BadPosition => "bad_position",
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::NotSupported => "not_supported",
            ErrorCode::NotAllowed => "not_allowed",
            ErrorCode::NotAuthenticated => "not_authenticated",
            ErrorCode::TokenExpired => "token_expired",
            ErrorCode::AlreadySubscribed => "already_subscribed",
            ErrorCode::NotSubscribed => "not_subscribed",
            ErrorCode::TooManySubscriptions => "too_many_subscriptions",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::TooManyTopics => "too_many_topics",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Unknown => "unknown",
            ErrorCode::KeyReused => "key_reused",
            ErrorCode::FuturePosition => "future_position",
        }
    }

    /// Whether the same request may succeed later. For [`ErrorCode::Unknown`] this depends on the request:
    /// see [`ServerEvent::publish_error`].
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorCode::Overloaded | ErrorCode::Unavailable)
    }

    /// Decodes the word of a frame. A newer server may send a word that is unknown here: it becomes
    /// `Unavailable` if it is `retryable`, and `BadRequest` otherwise.
    pub(crate) fn parse(name: &str, retryable: bool) -> ErrorCode {
        let fallback = if retryable { ErrorCode::Unavailable } else { ErrorCode::BadRequest };
        ErrorCode::ALL.into_iter().find(|code| code.as_str() == name).unwrap_or(fallback)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&InvalidPublish> for ErrorCode {
    fn from(invalid: &InvalidPublish) -> ErrorCode {
        match invalid {
            InvalidPublish::Topic(_) => ErrorCode::BadTopic,
            InvalidPublish::SystemTopic => ErrorCode::NotAllowed,
            InvalidPublish::PayloadTooLarge { .. } => ErrorCode::TooLarge,
            InvalidPublish::NotJson(_)
            | InvalidPublish::NotUtf8
            | InvalidPublish::ContentType
            | InvalidPublish::Key
            | InvalidPublish::PublishId(_) => ErrorCode::BadRequest,
            InvalidPublish::KeyReused | InvalidPublish::SequenceReused => ErrorCode::KeyReused,
        }
    }
}

impl From<&PublishError> for ErrorCode {
    fn from(error: &PublishError) -> ErrorCode {
        match error {
            PublishError::Rejected(PublishRejection::Invalid(invalid)) => ErrorCode::from(invalid),
            PublishError::Rejected(PublishRejection::OutOfSequence { .. }) => ErrorCode::BadRequest,
            PublishError::Rejected(PublishRejection::Overloaded(_)) => ErrorCode::Overloaded,
            PublishError::Rejected(PublishRejection::NotAllowed(_)) => ErrorCode::NotAllowed,
            PublishError::Rejected(PublishRejection::TooManyTopics(_)) => ErrorCode::TooManyTopics,
            PublishError::Rejected(
                PublishRejection::NotOwner { .. } | PublishRejection::Unavailable(_),
            ) => ErrorCode::Unavailable,
            PublishError::Unknown { .. } => ErrorCode::Unknown,
        }
    }
}

impl From<&FetchError> for ErrorCode {
    fn from(error: &FetchError) -> ErrorCode {
        match error {
            FetchError::FuturePosition { .. } => ErrorCode::FuturePosition,
            FetchError::Unavailable(_) => ErrorCode::Unavailable,
        }
    }
}

impl ServerEvent {
    /// Creates the response to a request that is rejected.
    pub fn error(id: Option<u64>, code: ErrorCode, message: impl std::fmt::Display) -> ServerEvent {
        let (message, retry) = (message.to_string(), code.is_retryable());
        ServerEvent::Error { id, code, message, retry, retry_after_ms: 0 }
    }

    /// Creates the response to a request of a caller that exceeded its rate.
    pub fn rate_error(
        id: Option<u64>,
        message: impl std::fmt::Display,
        retry_after: Duration,
    ) -> ServerEvent {
        // Rounded up: a client that waits exactly so long succeeds.
        let millis = retry_after.as_nanos().div_ceil(1_000_000);
        let retry_after_ms = u32::try_from(millis).unwrap_or(u32::MAX);
        let (code, message) = (ErrorCode::Overloaded, message.to_string());
        ServerEvent::Error { id, code, message, retry: true, retry_after_ms }
    }

    /// Creates the response to a publish that is not acknowledged.
    pub fn publish_error(id: Option<u64>, error: &PublishError) -> ServerEvent {
        let (code, message) = (ErrorCode::from(error), error.to_string());
        let retry = error.is_retryable();
        ServerEvent::Error { id, code, message, retry, retry_after_ms: 0 }
    }
}

impl InvalidFrame {
    /// Creates the response to the invalid frame.
    pub fn to_event(&self) -> ServerEvent {
        ServerEvent::error(self.id, self.code, &self.message)
    }

    /// Creates an error after which the session continues. `message` says what to change.
    pub fn new(code: ErrorCode, message: impl std::fmt::Display) -> InvalidFrame {
        InvalidFrame { id: None, code, message: message.to_string(), is_fatal: false }
    }

    pub(super) fn fatal(message: impl std::fmt::Display) -> InvalidFrame {
        InvalidFrame { is_fatal: true, ..InvalidFrame::new(ErrorCode::BadFrame, message) }
    }

    pub(super) fn with_id(self, id: Option<u64>) -> InvalidFrame {
        InvalidFrame { id, ..self }
    }
}
