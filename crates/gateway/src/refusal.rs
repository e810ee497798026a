//! The words of the protocol for a subscription that is refused.

use pushonce_core::{Delivery, Options, TooFast, Topic};
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

/// Topics of the system are for no client.
pub(crate) fn of_topic(topic: &Topic) -> Option<Refusal> {
    let text = "topics with a segment that begins with '$' are the system's; choose another topic";
    topic.is_system().then(|| (ErrorCode::NotAllowed, text.to_owned()))
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

/// Datagrams were asked for, and cannot be had: not on this connection, or not with what else was
/// asked for.
pub(crate) fn of_datagrams(options: &Options, delivery: Delivery, has: bool) -> Option<Refusal> {
    let bad = |text| Some((ErrorCode::BadRequest, String::from(text)));
    if !has {
        let text = "datagrams are for QUIC, and for clients that take them; leave `datagrams` away";
        return Some((ErrorCode::NotSupported, text.to_owned()));
    }
    match options {
        _ if delivery == Delivery::All => {
            bad("a datagram may be lost, and `all` is every message; ask for `latest`")
        }
        Options { conflated: true, .. } => {
            bad("a datagram may be lost, and no gap says so; leave `conflated` or `datagrams` away")
        }
        Options { delta: true, .. } => {
            bad("a datagram may be lost, and a delta needs it; leave `delta` or `datagrams` away")
        }
        _ => None,
    }
}
