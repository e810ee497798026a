//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use pushonce_proto::close::Reconnect;

fn is_enabled(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `sdk-keeps-old-messages`: a newer message does not take the place of an older one.
pub(crate) fn queues_old_messages() -> bool {
    is_enabled("sdk-keeps-old-messages")
}

/// `wrong_scheme-server-ends-all`: a server that is none ends a subscriber that has others.
pub(crate) fn ends_subscriber(reconnect: Reconnect) -> bool {
    reconnect == Reconnect::No && is_enabled("wrong-server-ends-all")
}
