//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `lead-returns-to-stopping`: a node that is being stopped is handed the lead again.
pub(crate) fn trusts_stopping() -> bool {
    is_planted("lead-returns-to-stopping")
}

/// `lost-majority-unseen`: a shard without a majority is no problem of the cluster.
pub(crate) fn sees_no_lost_majority() -> bool {
    is_planted("lost-majority-unseen")
}
