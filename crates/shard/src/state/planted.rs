//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use super::ShardState;
use crate::ShardSettings;
use crate::dedupe::Dedupe;

fn is_on(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

impl ShardState {
    /// `dedupe-not-replicated`: only the owner remembers what was published.
    pub(crate) fn forget_repeats(&mut self, owns: bool) {
        if !owns && is_on("dedupe-not-replicated") {
            self.dedupe = Dedupe::default();
        }
    }

    /// `old-settings-win`: whatever settings the owner knows replace those of the shard.
    pub(super) fn accepts_older(&self, new: &ShardSettings) -> bool {
        let differ = self.settings.as_ref().is_none_or(|known| known.revision() != new.revision());
        differ && is_on("old-settings-win")
    }
}

/// `foreign-topics-taken`: a shard gives messages of another shard a place.
pub(crate) fn takes_foreign_topics() -> bool {
    is_on("foreign-topics-taken")
}

/// `topic_durability-of-admission`: whether a namespace is in memory was decided before the log.
pub(crate) fn takes_what_is_in_memory() -> bool {
    is_on("durability-of-admission")
}

/// `producers-unbounded`: a shard follows every producer there is.
pub(crate) fn follows_everybody() -> bool {
    is_on("producers-unbounded")
}

/// `list_topics-unbounded`: a namespace and a node may have any number of topics.
pub(crate) fn holds_everything() -> bool {
    is_on("topics-unbounded")
}

/// `zero-resume-silent`: whoever resumes from 0:0 is not told that the topic had an earlier life.
pub(crate) fn hides_earlier_lives() -> bool {
    is_on("zero-resume-silent")
}

/// `retry-across-durability`: the log and the owner's memory know nothing of each other's repeats.
pub(crate) fn looks_on_one_side() -> bool {
    is_on("retry-across-durability")
}
