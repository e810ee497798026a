//! The errors of the client protocol.

use pushonce_core::{FetchError, InvalidPublish, PublishError, PublishRejection};

use super::ServerEvent;

/// A word that a client can branch on. Published in `README.md`; a word never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not a frame of the protocol at all; the session ends.
    BadFrame,
    /// A field or a command that this version does not have.
    UnknownField,
    /// The topic breaks a rule.
    BadTopic,
    /// Not of the form `epoch:offset`.
    BadPosition,
    /// Something else about the request is wrong.
    BadRequest,
    /// The payload is over the limit.
    TooLarge,
    /// Known, and not offered by this version or on this transport.
    NotSupported,
    /// The topic, or the command, is not for this client.
    NotAllowed,
    /// This session already has this topic.
    AlreadySubscribed,
    /// This session does not have this topic.
    NotSubscribed,
    /// This session has as many topics as it may.
    TooManySubscriptions,
    /// A bound was met; nothing happened.
    Overloaded,
    /// The namespace, or the topic's owner, has as many topics as it may; nothing happened.
    TooManyTopics,
    /// The topic's owner cannot be asked now; nothing happened.
    Unavailable,
    /// The outcome of a publish is unknown; with a key, a retry is safe.
    Unknown,
    /// The topic has another message with this key.
    KeyReused,
    /// The position was never given out.
    FuturePosition,
}

/// A frame that cannot be acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidFrame {
    /// The frame's id, if that could be read.
    pub id: Option<u64>,
    /// What kind of wrong.
    pub code: ErrorCode,
    /// What to change.
    pub message: String,
    /// No frame of the protocol at all: after the error, the session ends with
    /// [`crate::close::BAD_FRAME`]. Otherwise it goes on.
    pub is_fatal: bool,
}

impl ErrorCode {
    /// Every word.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::BadFrame,
        ErrorCode::UnknownField,
        ErrorCode::BadTopic,
        ErrorCode::BadPosition,
        ErrorCode::BadRequest,
        ErrorCode::TooLarge,
        ErrorCode::NotSupported,
        ErrorCode::NotAllowed,
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

    /// As it stands in a frame.
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

    /// Whether the same request may succeed later. For an unknown outcome that depends on the
    /// request: see [`ServerEvent::publish_error`].
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorCode::Overloaded | ErrorCode::Unavailable)
    }

    /// The word of a frame. A newer server may have words that this table has not: `retry` then
    /// says which of ours acts the same.
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
    /// The answer to a request that is refused.
    pub fn error(id: Option<u64>, code: ErrorCode, message: impl std::fmt::Display) -> ServerEvent {
        ServerEvent::Error { id, code, message: message.to_string(), retry: code.is_retryable() }
    }

    /// The answer to a publish that is not acknowledged.
    pub fn publish_error(id: Option<u64>, error: &PublishError) -> ServerEvent {
        let (code, message) = (ErrorCode::from(error), error.to_string());
        ServerEvent::Error { id, code, message, retry: error.is_retryable() }
    }
}

impl InvalidFrame {
    /// The answer to it.
    pub fn to_event(&self) -> ServerEvent {
        ServerEvent::error(self.id, self.code, &self.message)
    }

    /// An error after which the session continues. `message` says what to change.
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
