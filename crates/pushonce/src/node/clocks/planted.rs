//! A bug for the tests of the tests: the proof must catch it. In no build that anybody uses.

/// `owners-wall-clock`: logs are stamped with what the owner's wall clock shows.
pub(super) fn owners_wall_clock() -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok("owners-wall-clock")
}
