//! What a token grants.

use pushonce_core::Topic;

use crate::TopicPattern;

/// The grants of a caller. The default grants nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics that the caller may read: live, history, snapshot and audience.
    pub subscribe: PatternSet,
    /// Topics to which the caller may publish.
    pub publish: PatternSet,
    /// Access to the cluster, if any.
    pub admin: Option<AdminAccess>,
}

/// Topics, as patterns. A topic is in the set when it matches a pattern of `allow` and none of `deny`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatternSet {
    /// The topics of the set.
    pub allow: Vec<TopicPattern>,
    /// Exceptions, which take precedence over `allow`.
    pub deny: Vec<TopicPattern>,
}

/// What an operator may do. Ordered: [`AdminAccess::Write`] includes [`AdminAccess::Read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdminAccess {
    /// See the cluster, its topics and its metrics.
    Read,
    /// Change the cluster as well.
    Write,
}

/// The pattern of a [`PatternSet`] that decides about a topic or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternMatch<'a> {
    /// In the set because of this pattern.
    Allowed(&'a TopicPattern),
    /// Not in the set because of this exception.
    Denied(&'a TopicPattern),
    /// Not in the set because no pattern matches.
    None,
}

impl Grants {
    /// Maximum number of patterns in all sets of a token: matching them all takes some microseconds.
    pub const PATTERNS_MAX: usize = 64;

    /// The number of patterns in all sets.
    pub fn pattern_count(&self) -> usize {
        let sets = [&self.subscribe, &self.publish];
        sets.map(|set| set.allow.len() + set.deny.len()).iter().sum()
    }
}

impl PatternSet {
    /// Whether `topic` is in the set.
    pub fn contains(&self, topic: &Topic) -> bool {
        matches!(self.find(topic), PatternMatch::Allowed(_))
    }

    /// The part of the set that is in `topics`, of which none may have a `*` in its name.
    pub(crate) fn restricted_to(&self, topics: &[Topic]) -> PatternSet {
        let contained = topics.iter().filter(|topic| self.contains(topic));
        // A name without `*` is a pattern that matches itself only.
        let allow = contained.filter_map(|topic| topic.as_str().parse().ok()).collect();
        PatternSet { allow, deny: Vec::new() }
    }

    /// The pattern that decides about `topic`.
    pub(crate) fn find(&self, topic: &Topic) -> PatternMatch<'_> {
        self.first(|pattern| pattern.matches(topic), |pattern| pattern.matches(topic))
    }

    /// The pattern that decides about all topics whose names begin with `prefix`. They are in the set when
    /// one pattern covers them all and no exception applies to any of them.
    pub(crate) fn find_prefix(&self, prefix: &str) -> PatternMatch<'_> {
        self.first(
            |pattern| pattern.overlaps_prefix(prefix),
            |pattern| pattern.covers_prefix(prefix),
        )
    }

    fn first(
        &self,
        denies: impl Fn(&&TopicPattern) -> bool,
        allows: impl Fn(&&TopicPattern) -> bool,
    ) -> PatternMatch<'_> {
        if let Some(pattern) = self.deny.iter().find(denies) {
            return PatternMatch::Denied(pattern);
        }
        self.allow.iter().find(allows).map_or(PatternMatch::None, PatternMatch::Allowed)
    }
}

impl AdminAccess {
    /// The word in tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            AdminAccess::Read => "read",
            AdminAccess::Write => "write",
        }
    }

    /// Parses the output of [`AdminAccess::as_str`].
    pub fn parse(word: &str) -> Option<AdminAccess> {
        [AdminAccess::Read, AdminAccess::Write].into_iter().find(|access| access.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;

    fn set(allow: &[&str], deny: &[&str]) -> PatternSet {
        let parse =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect();
        PatternSet { allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn deny_wins_over_allow_in_any_order() {
        let set = set(&["chat/**", "chat/secret"], &["chat/secret"]);
        assert!(set.contains(&topic("chat/7")));
        assert!(!set.contains(&topic("chat/secret")));
        assert!(!set.contains(&topic("news")));
        assert!(!PatternSet::default().contains(&topic("chat/7")));
    }

    #[test]
    fn prefix_with_one_denied_topic_is_denied() {
        let set = set(&["chat/**"], &["chat/secret"]);
        assert!(matches!(set.find_prefix("chat/"), PatternMatch::Denied(_)));
        assert!(matches!(set.find_prefix("chat/7"), PatternMatch::Allowed(_)));
        assert_eq!(set.find_prefix("news/"), PatternMatch::None);
    }

    #[test]
    fn admin_access_round_trips_and_write_includes_read() {
        for access in [AdminAccess::Read, AdminAccess::Write] {
            assert_eq!(AdminAccess::parse(access.as_str()), Some(access));
        }
        assert_eq!(AdminAccess::parse("Write"), None);
        assert!(AdminAccess::Write > AdminAccess::Read);
    }
}
