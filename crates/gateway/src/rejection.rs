//! Error codes and texts for rejected subscriptions.

use pushonce_core::{Delivery, DeliveryNotAllowed, SubscribeOptions, Topic};
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::ErrorCode;

/// An error code, and a text that says what to change.
pub(crate) type SubscribeRejection = (ErrorCode, String);

/// The rejection for an error of the hub.
pub(crate) fn from_hub(error: &SubscribeError) -> SubscribeRejection {
    let code = match error {
        SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed,
        SubscribeError::TooManySubscriptions { .. } => ErrorCode::TooManySubscriptions,
        SubscribeError::Fetch(error) => ErrorCode::from(error),
        SubscribeError::Cancelled => ErrorCode::Unavailable,
    };
    (code, error.to_string())
}

/// Rejects system topics, which no client may use.
pub(crate) fn check_topic(topic: &Topic) -> Option<SubscribeRejection> {
    let text = "topics with a segment that begins with '$' are reserved; choose another topic";
    topic.is_system().then(|| (ErrorCode::NotAllowed, text.to_owned()))
}

/// The rejection for a delivery that the namespace does not allow.
pub(crate) fn from_rate_limit(error: &DeliveryNotAllowed) -> SubscribeRejection {
    (ErrorCode::NotAllowed, error.to_string())
}

/// The rejection when the client did not allow a stream for the subscription.
pub(crate) fn stream_unavailable() -> SubscribeRejection {
    let text =
        "the client allows no more streams; raise its limit of incoming unidirectional streams";
    (ErrorCode::Overloaded, text.to_owned())
}

/// Checks a request for datagrams. Rejects it if the connection does not support them, or if another option
/// contradicts them.
pub(crate) fn check_datagrams(
    options: &SubscribeOptions,
    delivery: Delivery,
    is_supported: bool,
) -> Option<SubscribeRejection> {
    let bad_request = |text| Some((ErrorCode::BadRequest, String::from(text)));
    if !is_supported {
        let text = "datagrams need QUIC and a client that accepts them; remove `datagrams`";
        return Some((ErrorCode::NotSupported, text.to_owned()));
    }
    match options {
        _ if delivery == Delivery::All => {
            bad_request("datagrams may be lost, but `all` promises every message; use `latest`")
        }
        SubscribeOptions { report_conflated: true, .. } => bad_request(
            "lost datagrams are not reported as gaps; remove `conflated` or `datagrams`",
        ),
        SubscribeOptions { accept_deltas: true, .. } => bad_request(
            "a delta cannot be applied after a lost datagram; remove `delta` or `datagrams`",
        ),
        _ => None,
    }
}
