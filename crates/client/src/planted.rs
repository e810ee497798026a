//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use pushonce_proto::close::Reconnect;

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `sdk-keeps-old-messages`: a newer message does not take the place of an older one.
pub(crate) fn keeps_old_messages() -> bool {
    is_planted("sdk-keeps-old-messages")
}

/// `wrong-server-ends-all`: a server that is none ends a subscriber that has others.
pub(crate) fn is_end_of_all(reconnect: Reconnect) -> bool {
    reconnect == Reconnect::No && is_planted("wrong-server-ends-all")
}
