//! Patterns of topic names, as grants use them.

use std::fmt;
use std::str::FromStr;

use pushonce_core::{InvalidTopic, Topic};

/// Stands for one segment, whatever its name.
const ONE: &str = "*";
/// Stands for the rest of a name: one or more segments.
const REST: &str = "**";

/// A pattern of topic names, such as `chat/*` or `match/57/**`. A segment is a name, `*` for any one
/// segment, or, as the last one, `**` for one or more segments. `chat/**` does not match `chat`.
///
/// The limits of [`Topic`] hold: 16 segments, 255 bytes, NFC. A topic with a `*` in its own name is
/// matched by wildcards only. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern(Topic);

/// Why a pattern is rejected. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// The pattern breaks a rule of topic names.
    #[error(transparent)]
    Name(#[from] InvalidTopic),
    /// A segment has a `*` beside other characters.
    #[error("segment {segment:?} has a '*' within a name; '*' stands for a whole segment")]
    PartialWildcard {
        /// The segment.
        segment: String,
    },
    /// A `**` is followed by other segments.
    #[error("'**' stands for the rest of the name; remove the segments after it")]
    RestNotLast,
}

impl TopicPattern {
    /// Whether `topic` matches.
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut names = topic.as_str().split('/');
        for segment in self.segments() {
            match names.next() {
                Some(_) if segment == REST => return true,
                Some(name) if segment == ONE || segment == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic whose name begins with the text `prefix` matches. Only patterns that end with
    /// `**` match that many: `chat/**` covers `chat/` and `chat/7`, but not `chat`, with which `chatter/7`
    /// begins too.
    pub fn covers_prefix(&self, prefix: &str) -> bool {
        let (mut complete, _) = split_prefix(prefix);
        for segment in self.segments() {
            if segment == REST {
                return true;
            }
            match complete.next() {
                Some(name) if segment == ONE || segment == name => {}
                _ => return false,
            }
        }
        false
    }

    /// Whether some topic whose name begins with the text `prefix` can match.
    pub fn overlaps_prefix(&self, prefix: &str) -> bool {
        let (complete, partial) = split_prefix(prefix);
        let mut segments = self.segments();
        for name in complete {
            match segments.next() {
                Some(REST) => return true,
                Some(segment) if segment == ONE || segment == name => {}
                _ => return false,
            }
        }
        segments.next().is_some_and(|segment| {
            segment == ONE || segment == REST || segment.starts_with(partial)
        })
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }
}

/// The segments that end within `prefix`, and the beginning of the next one, which may be empty.
fn split_prefix(prefix: &str) -> (impl Iterator<Item = &str>, &str) {
    let (complete, partial) = match prefix.rsplit_once('/') {
        Some((complete, partial)) => (Some(complete), partial),
        None => (None, prefix),
    };
    (complete.into_iter().flat_map(|text| text.split('/')), partial)
}

impl FromStr for TopicPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<TopicPattern, InvalidPattern> {
        let name = Topic::new(text)?;
        let mut segments = text.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == REST && segments.peek().is_some() {
                return Err(InvalidPattern::RestNotLast);
            }
            if segment.contains('*') && segment != ONE && segment != REST {
                return Err(InvalidPattern::PartialWildcard { segment: segment.to_owned() });
            }
        }
        Ok(TopicPattern(name))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().expect("a valid pattern")
    }

    #[test]
    fn star_matches_one_segment_and_double_star_the_rest() {
        for (text, name, expected) in [
            ("chat/7", "chat/7", true),
            ("chat/7", "chat/70", false),
            ("chat/7", "chat/7/x", false),
            ("chat/*", "chat/7", true),
            ("chat/*", "chat", false),
            ("chat/*", "chat/7/x", false),
            ("*/7", "chat/7", true),
            ("*/*/score", "match/57/score", true),
            ("*/*/score", "match/57/goals", false),
            ("chat/**", "chat", false),
            ("chat/**", "chatter/7", false),
            ("chat/**", "chat/7", true),
            ("chat/**", "chat/7/a/b", true),
            ("chat/*/**", "chat/7", false),
            ("**", "chat", true),
            ("**", "$sys/nodes", true),
            ("*", "chat", true),
            ("*", "chat/7", false),
            ("chat/*", "chat/*", true),
        ] {
            assert_eq!(pattern(text).matches(&topic(name)), expected, "{text} {name}");
        }
    }

    #[test]
    fn invalid_pattern_is_rejected_with_its_reason() {
        let parse = |text: &str| text.parse::<TopicPattern>();
        let partial =
            |segment: &str| InvalidPattern::PartialWildcard { segment: segment.to_owned() };
        assert_eq!(parse("chat/a*"), Err(partial("a*")));
        assert_eq!(parse("chat/***"), Err(partial("***")));
        assert_eq!(parse("**/chat"), Err(InvalidPattern::RestNotLast));
        assert_eq!(parse("**/**"), Err(InvalidPattern::RestNotLast));
        assert_eq!(parse(""), Err(InvalidTopic::Empty.into()));
        assert_eq!(parse("chat//x"), Err(InvalidTopic::EmptySegment { index: 2 }.into()));
        assert_eq!(parse("chat/\u{0}"), Err(InvalidTopic::ControlCharacter { code: 0 }.into()));
        assert_eq!(parse("e\u{301}/*"), Err(InvalidTopic::NotNormalized.into()));
        assert!(matches!(
            parse(&["*"; 17].join("/")),
            Err(InvalidPattern::Name(InvalidTopic::TooManySegments { count: 17 }))
        ));
    }

    #[test]
    fn prefix_is_covered_only_when_every_name_that_begins_with_it_matches() {
        for (text, prefix, covers, overlaps) in [
            ("**", "", true, true),
            ("chat/**", "", false, true),
            ("chat/**", "chat", false, true),
            ("chat/**", "chat/", true, true),
            ("chat/**", "chat/7", true, true),
            ("chat/**", "chat/7/a", true, true),
            ("chat/**", "news/", false, false),
            ("chat/**", "cha", false, true),
            ("chat/*", "chat/", false, true),
            ("chat/*", "chat/7/", false, false),
            ("*/7", "chat/", false, true),
            ("*/7", "chat/8", false, false),
            ("*/**", "chat/", true, true),
            ("chat/7", "chat/70", false, false),
        ] {
            assert_eq!(pattern(text).covers_prefix(prefix), covers, "{text} covers {prefix}");
            assert_eq!(pattern(text).overlaps_prefix(prefix), overlaps, "{text} overlaps {prefix}");
        }
    }
}
