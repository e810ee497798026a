//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `no-descriptor-reserve`: clients may use every descriptor.
pub(crate) fn reserves_nothing() -> bool {
    is_planted("no-descriptor-reserve")
}
