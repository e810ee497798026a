//! The words of the protocol for a subscription that is refused.

use pushonce_core::{Delivery, DeliveryNotAllowed, SubscribeOptions, Topic};
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::ErrorCode;

/// A code, and the text that says what to change.
pub(crate) type SubscribeRejection = (ErrorCode, String);

/// The hub refused it.
pub(crate) fn from_hub(error: &SubscribeError) -> SubscribeRejection {
    let code = match error {
        SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed,
        SubscribeError::TooManySubscriptions { .. } => ErrorCode::TooManySubscriptions,
        SubscribeError::Fetch(error) => ErrorCode::from(error),
        SubscribeError::Cancelled => ErrorCode::Unavailable,
    };
    (code, error.to_string())
}

/// Topics of the system are for no client.
pub(crate) fn check_topic(topic: &Topic) -> Option<SubscribeRejection> {
    let text = "topics with a segment that begins with '$' are the system's; choose another topic";
    topic.is_system().then(|| (ErrorCode::NotAllowed, text.to_owned()))
}

/// Its namespace does not give so much.
pub(crate) fn from_rate_limit(error: &DeliveryNotAllowed) -> SubscribeRejection {
    (ErrorCode::NotAllowed, error.to_string())
}

/// The client did not allow the stream it needs.
pub(crate) fn stream_unavailable() -> SubscribeRejection {
    let text = "the client allows no more streams; raise its limit of unidirectional streams";
    (ErrorCode::Overloaded, text.to_owned())
}

/// Datagrams were asked for, and cannot be had: not on this connection, or not with what else was
/// asked for.
pub(crate) fn check_datagrams(
    options: &SubscribeOptions,
    delivery: Delivery,
    is_supported: bool,
) -> Option<SubscribeRejection> {
    let bad_request = |text| Some((ErrorCode::BadRequest, String::from(text)));
    if !is_supported {
        let text = "datagrams are for QUIC, and for clients that take them; leave `datagrams` away";
        return Some((ErrorCode::NotSupported, text.to_owned()));
    }
    match options {
        _ if delivery == Delivery::All => {
            bad_request("a datagram may be lost, and `all` is every message; ask for `latest`")
        }
        SubscribeOptions { report_conflated: true, .. } => bad_request(
            "a datagram may be lost, and no gap says so; leave `conflated` or `datagrams` away",
        ),
        SubscribeOptions { accept_deltas: true, .. } => bad_request(
            "a datagram may be lost, and a delta needs it; leave `delta` or `datagrams` away",
        ),
        _ => None,
    }
}
