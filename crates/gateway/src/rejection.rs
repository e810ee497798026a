//! Why a subscription is rejected.

use pushonce_auth::{AccessError, RefusalKind};
use pushonce_core::{Delivery, DeliveryNotAllowed, SubscribeOptions, Topic};
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::ErrorCode;
use pushonce_proto::close::{self, CloseCode};

/// Why a subscription is rejected. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubscribeRejection {
    /// No client may use a system topic.
    #[error("topics with a segment that begins with '$' are reserved; choose another topic")]
    SystemTopic,
    /// The namespace does not allow the delivery.
    #[error(transparent)]
    Delivery(#[from] DeliveryNotAllowed),
    /// The connection carries no datagrams.
    #[error("datagrams need QUIC and a client that accepts them; remove `datagrams`")]
    DatagramsUnsupported,
    /// Another option contradicts datagrams.
    #[error(transparent)]
    Datagrams(#[from] DatagramConflict),
    /// The hub rejects the subscription.
    #[error(transparent)]
    Hub(#[from] SubscribeError),
    /// The client does not allow the stream that the subscription needs.
    #[error(
        "the client allows no more streams; raise its limit of incoming unidirectional streams"
    )]
    StreamUnavailable,
}

/// The option of a subscription that contradicts datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DatagramConflict {
    #[error("datagrams may be lost, but `all` promises every message; use `latest`")]
    EveryMessage,
    #[error("lost datagrams are not reported as gaps; remove `conflated` or `datagrams`")]
    ReportConflated,
    #[error("a delta cannot be applied after a lost datagram; remove `delta` or `datagrams`")]
    Deltas,
}

impl SubscribeRejection {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            SubscribeRejection::SystemTopic | SubscribeRejection::Delivery(_) => {
                ErrorCode::NotAllowed
            }
            SubscribeRejection::DatagramsUnsupported => ErrorCode::NotSupported,
            SubscribeRejection::Datagrams(_) => ErrorCode::BadRequest,
            SubscribeRejection::StreamUnavailable => ErrorCode::Overloaded,
            SubscribeRejection::Hub(error) => match error {
                SubscribeError::AlreadySubscribed => ErrorCode::AlreadySubscribed,
                SubscribeError::TooManySubscriptions { .. } => ErrorCode::TooManySubscriptions,
                SubscribeError::Fetch(error) => ErrorCode::from(error),
                SubscribeError::Cancelled => ErrorCode::Unavailable,
            },
        }
    }
}

/// The error code for a request that access control refuses.
pub(crate) fn access_code(error: &AccessError) -> ErrorCode {
    match error.kind() {
        RefusalKind::TokenRequired | RefusalKind::InvalidToken => ErrorCode::NotAuthenticated,
        RefusalKind::Expired => ErrorCode::TokenExpired,
        RefusalKind::NotAllowed => ErrorCode::NotAllowed,
        RefusalKind::Unavailable => ErrorCode::Unavailable,
        RefusalKind::TooManyFailures => ErrorCode::Overloaded,
    }
}

/// The close code of a session whose first credential is refused.
pub(crate) fn authentication_close(error: &AccessError) -> &'static CloseCode {
    match error.kind() {
        RefusalKind::TooManyFailures => &close::OVER_LIMIT,
        _ => &close::NOT_AUTHENTICATED,
    }
}

/// Rejects system topics.
pub(crate) fn check_topic(topic: &Topic) -> Result<(), SubscribeRejection> {
    if topic.is_system() { Err(SubscribeRejection::SystemTopic) } else { Ok(()) }
}

/// Rejects a request for datagrams if the connection does not carry them, or if another option contradicts
/// them.
pub(crate) fn check_datagrams(
    options: &SubscribeOptions,
    delivery: Delivery,
    is_supported: bool,
) -> Result<(), SubscribeRejection> {
    if !options.use_datagrams {
        return Ok(());
    }
    if !is_supported {
        return Err(SubscribeRejection::DatagramsUnsupported);
    }
    Err(match options {
        _ if delivery == Delivery::All => DatagramConflict::EveryMessage.into(),
        SubscribeOptions { report_conflated: true, .. } => DatagramConflict::ReportConflated.into(),
        SubscribeOptions { accept_deltas: true, .. } => DatagramConflict::Deltas.into(),
        _ => return Ok(()),
    })
}
