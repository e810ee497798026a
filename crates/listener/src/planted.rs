//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_enabled(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `no-descriptor-reserve`: clients may use every descriptor.
pub(crate) fn skips_descriptor_reserve() -> bool {
    is_enabled("no-descriptor-reserve")
}
