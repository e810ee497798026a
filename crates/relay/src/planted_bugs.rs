//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `heartbeat-in-one-frame`: a heartbeat is one frame, however many topics it names.
pub(crate) fn sends_one_frame() -> bool {
    is_planted("heartbeat-in-one-frame")
}

/// `zero-outlet-level`: who stands at 0:0 is level with a topic that has no messages, which may have ended.
pub(crate) fn trusts_zero() -> bool {
    is_planted("zero-outlet-level")
}
