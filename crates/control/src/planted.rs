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

/// `deleted-log-taken`: a member comes back under its id without the log in which it voted.
pub(crate) fn takes_deleted_log() -> bool {
    is_planted("deleted-log-taken")
}

/// `other-times-taken`: a node may have other consensus times than its cluster.
pub(crate) fn takes_other_times() -> bool {
    is_planted("other-times-taken")
}

/// `leaves-too-few-copies`: a member is drained or removed whatever copies are left, as with `--force`.
pub(crate) fn forces_every_leave() -> bool {
    is_planted("leaves-too-few-copies")
}

/// `raised-without-support`: the cluster version is raised although a member cannot read it.
pub(crate) fn raises_without_support() -> bool {
    is_planted("raised-without-support")
}

/// `silent-replica-untold`: nobody is told of a replica that answers nothing on a reachable node.
pub(crate) fn hides_silent_replica() -> bool {
    is_planted("silent-replica-untold")
}
