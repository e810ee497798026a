//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `unbounded-window`: however many frames a client has not read, one more is sent.
pub(crate) fn ignores_window() -> bool {
    is_planted("unbounded-window")
}

/// `reset_stream-under-refusal`: a connection is closed with unread bytes.
pub(crate) fn closes_at_once() -> bool {
    is_planted("reset-under-refusal")
}
