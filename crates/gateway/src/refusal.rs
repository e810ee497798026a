//! The words of the protocol for what the engines refuse, the same at every door.

use pushonce_core::{FetchError, InvalidPublish, PublishError, Refusal};
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::ErrorCode;

/// The code of a publish that was not acknowledged; its text says what to change.
pub(crate) fn of_publish(error: &PublishError) -> ErrorCode {
    match error {
        PublishError::Unknown(_) => ErrorCode::Unknown,
        PublishError::Refused(Refusal::Invalid(invalid)) => of_invalid(invalid),
        PublishError::Refused(Refusal::Overloaded(_)) => ErrorCode::Overloaded,
        PublishError::Refused(Refusal::NotOwner { .. } | Refusal::Unavailable(_)) => {
            ErrorCode::Unavailable
        }
    }
}

/// The code of a message that breaks a rule.
pub(crate) fn of_invalid(invalid: &InvalidPublish) -> ErrorCode {
    match invalid {
        InvalidPublish::Topic(_) => ErrorCode::BadTopic,
        InvalidPublish::SystemTopic => ErrorCode::NotAllowed,
        InvalidPublish::PayloadTooLarge { .. } => ErrorCode::TooLarge,
        InvalidPublish::NotJson(_)
        | InvalidPublish::NotText
        | InvalidPublish::ContentType
        | InvalidPublish::Key => ErrorCode::BadRequest,
    }
}

/// The code of a question about the past that has no answer.
pub(crate) fn of_fetch(error: &FetchError) -> ErrorCode {
    match error {
        FetchError::Future { .. } => ErrorCode::FuturePosition,
        FetchError::Unavailable(_) => ErrorCode::Unavailable,
    }
}

/// Code and text of a subscription that was refused.
pub(crate) fn of_subscribe(error: &SubscribeError) -> (ErrorCode, String) {
    let code = match error {
        SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed,
        SubscribeError::TooMany { .. } => ErrorCode::TooManySubscriptions,
        SubscribeError::Fetch(error) => of_fetch(error),
        SubscribeError::Gone => ErrorCode::Unavailable,
    };
    (code, error.to_string())
}

/// Whether the same request may succeed later.
pub(crate) fn worth_a_retry(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Unknown)
}
