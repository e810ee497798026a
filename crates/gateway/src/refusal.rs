//! The words of the protocol for a subscription that is refused.

use pushonce_core::TooFast;
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::ErrorCode;

/// A code, and the text that says what to change.
pub(crate) type Refusal = (ErrorCode, String);

/// The hub refused it.
pub(crate) fn of_hub(error: &SubscribeError) -> Refusal {
    let code = match error {
        SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed,
        SubscribeError::TooMany { .. } => ErrorCode::TooManySubscriptions,
        SubscribeError::Fetch(error) => ErrorCode::from(error),
        SubscribeError::Gone => ErrorCode::Unavailable,
    };
    (code, error.to_string())
}

/// Its namespace does not give so much.
pub(crate) fn of_rate(error: &TooFast) -> Refusal {
    (ErrorCode::NotAllowed, error.to_string())
}

/// The client did not allow the stream it needs.
pub(crate) fn of_stream() -> Refusal {
    let text = "the client allows no more streams; raise its limit of unidirectional streams";
    (ErrorCode::Overloaded, text.to_owned())
}
