//! One level of the tree that the segments of topic names form, counted without a list of all topics.

use std::collections::BTreeMap;

/// One level of the tree of topics: the segments that follow a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicTreeLevel {
    /// The segments, by name.
    pub segments: BTreeMap<String, SegmentCount>,
    /// Number of all topics with the prefix, on every page of the level.
    pub topics: u64,
}

/// The topics of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCount {
    /// Number of topics whose names go on after the segment.
    pub topics_below: u64,
    /// Whether a topic has the name that ends with the segment.
    pub is_topic: bool,
}

/// Counts the names of topics by their next segment. Memory is bounded by the page, whatever the number of topics.
pub(crate) struct SegmentCounter<'a> {
    /// Where the next segment begins in each name.
    level_len: usize,
    after: &'a str,
    count_max: usize,
    level: TopicTreeLevel,
}

impl TopicTreeLevel {
    /// Adds the counts of other shards, and keeps the first `count_max` segments. Exact if each side has its own first
    /// `count_max` segments.
    pub fn merge(&mut self, other: TopicTreeLevel, count_max: usize) {
        self.topics = self.topics.saturating_add(other.topics);
        for (name, count) in other.segments {
            let sum = self.segments.entry(name).or_default();
            sum.topics_below = sum.topics_below.saturating_add(count.topics_below);
            sum.is_topic |= count.is_topic;
        }
        while self.segments.len() > count_max {
            self.segments.pop_last();
        }
    }
}

impl<'a> SegmentCounter<'a> {
    /// Counts below `prefix`: the part up to its last `/` is the level. Only the first `count_max` segments after
    /// `after` are kept.
    pub(crate) fn new(prefix: &str, after: &'a str, count_max: usize) -> SegmentCounter<'a> {
        let level_len = prefix.rfind('/').map_or(0, |slash| slash + 1);
        SegmentCounter { level_len, after, count_max, level: TopicTreeLevel::default() }
    }

    /// Counts a name, which begins with the prefix. The order of names does not matter: `a-b/c` comes before `a/b`,
    /// although the segment `a` comes before `a-b`.
    pub(crate) fn add(&mut self, name: &str) {
        self.level.topics += 1;
        let Some(rest) = name.get(self.level_len..) else { return };
        let (segment, is_topic) = match rest.split_once('/') {
            Some((segment, _)) => (segment, false),
            None => (rest, true),
        };
        if segment <= self.after {
            return;
        }
        let segments = &mut self.level.segments;
        if let Some(count) = segments.get_mut(segment) {
            count.add(is_topic);
            return;
        }
        // Segments beyond the page never come back: the last one of a full page only becomes smaller.
        let is_full = segments.len() >= self.count_max;
        if is_full && segments.last_key_value().is_none_or(|(last, _)| segment > last.as_str()) {
            return;
        }
        segments.entry(segment.to_owned()).or_default().add(is_topic);
        if is_full {
            segments.pop_last();
        }
    }

    pub(crate) fn finish(self) -> TopicTreeLevel {
        self.level
    }
}

impl SegmentCount {
    fn add(&mut self, is_topic: bool) {
        if is_topic {
            self.is_topic = true;
        } else {
            self.topics_below += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = ["a", "a-b/c", "a/b", "a/c", "a/c/d", "b/1", "c"];

    fn level(names: &[&str], prefix: &str, after: &str, count_max: usize) -> TopicTreeLevel {
        let mut counter = SegmentCounter::new(prefix, after, count_max);
        let matching = names.iter().filter(|name| name.starts_with(prefix));
        matching.for_each(|name| counter.add(name));
        counter.finish()
    }

    fn rows(level: &TopicTreeLevel) -> Vec<(&str, u64, bool)> {
        let row = |(name, count)| {
            let (name, count): (&String, &SegmentCount) = (name, count);
            (name.as_str(), count.topics_below, count.is_topic)
        };
        level.segments.iter().map(row).collect()
    }

    #[test]
    fn topics_are_counted_by_their_next_segment() {
        let root = level(&NAMES, "", "", 9);
        assert_eq!(root.topics, 7);
        let expected = [("a", 3, true), ("a-b", 1, false), ("b", 1, false), ("c", 0, true)];
        assert_eq!(rows(&root), expected);
        assert_eq!(rows(&level(&NAMES, "a/", "", 9)), [("b", 0, true), ("c", 1, true)]);
        assert_eq!(rows(&level(&NAMES, "a", "", 9)), [("a", 3, true), ("a-b", 1, false)]);
    }

    #[test]
    fn pages_have_exact_counts_and_continue_after_a_segment() {
        let first = level(&NAMES, "", "", 2);
        assert_eq!(rows(&first), [("a", 3, true), ("a-b", 1, false)]);
        let second = level(&NAMES, "", "a-b", 2);
        assert_eq!(rows(&second), [("b", 1, false), ("c", 0, true)]);
        assert_eq!(second.topics, 7);
        assert!(level(&NAMES, "", "c", 2).segments.is_empty());
        assert!(level(&NAMES, "", "", 0).segments.is_empty());
    }

    #[test]
    fn merged_pages_equal_the_page_of_all_names() {
        for count_max in 1..6 {
            let mut merged = TopicTreeLevel::default();
            for names in [&NAMES[..3], &NAMES[3..4], &NAMES[4..]] {
                merged.merge(level(names, "", "", count_max), count_max);
            }
            assert_eq!(merged, level(&NAMES, "", "", count_max));
        }
    }
}
