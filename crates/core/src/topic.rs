//! Topic names, validated on construction.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use xxhash_rust::xxh3::xxh3_64;

use crate::{ShardCount, ShardId, unicode};

/// A valid topic name, such as `multiball/gb-usa/score`: 1 to 16 segments separated by `/`, at most 255
/// bytes, UTF-8 in NFC, no empty segment, no segment `.` or `..` or that begins or ends with a space, no control
/// or invisible character ([`unicode::is_unfit_for_names`]). Cheap to clone.
///
/// Names that differ in case, or in characters that merely look alike, are different topics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

/// Why a topic name is rejected. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// The name is empty.
    #[error("the topic is empty; name one, as in chat/7")]
    Empty,
    /// The name has more than [`Topic::BYTES_MAX`] bytes.
    #[error("the topic has {len} bytes; shorten it to {max}", max = Topic::BYTES_MAX)]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The name has more than [`Topic::SEGMENTS_MAX`] segments.
    #[error("the topic has {count} segments; use at most {max}", max = Topic::SEGMENTS_MAX)]
    TooManySegments {
        /// Number of segments.
        count: usize,
    },
    /// The name has a leading, trailing or doubled `/`.
    #[error("segment {index} of the topic is empty; remove the leading, trailing or doubled '/'")]
    EmptySegment {
        /// Index of the segment, from 1.
        index: usize,
    },
    /// The name has a control character: U+0000 to U+001F or U+007F to U+009F.
    #[error("the topic has the control character U+{code:04X}; remove it")]
    ControlCharacter {
        /// Code point.
        code: u32,
    },
    /// The name has a character that is invisible, reorders text, or has no public meaning.
    #[error(
        "the topic has the character U+{code:04X}, which is invisible, reorders text or has no public \
         meaning; remove it"
    )]
    UnfitCharacter {
        /// Code point.
        code: u32,
    },
    /// A segment begins or ends with a space, which no screen shows.
    #[error("segment {index} of the topic begins or ends with a space; remove it")]
    SpaceAtEdge {
        /// Index of the segment, from 1.
        index: usize,
    },
    /// A segment is `.` or `..`, which browsers and proxies resolve in a URL path: the request would reach
    /// another topic, or another page of the node.
    #[error("segment {index} of the topic is '.' or '..', which URLs resolve; rename it")]
    DotSegment {
        /// Index of the segment, from 1.
        index: usize,
    },
    /// The name is not in NFC: the same text would have a second spelling in bytes, and that would be
    /// another topic.
    #[error("the topic is not in Unicode normalization form C; normalize it (NFC) before sending")]
    NotNormalized,
    /// The name is not UTF-8. Only possible where names arrive as bytes.
    #[error("the topic is not UTF-8; encode it as UTF-8")]
    NotUtf8,
}

impl Topic {
    /// Maximum length of a name, in bytes.
    pub const BYTES_MAX: usize = 255;
    /// Maximum number of segments of a name.
    pub const SEGMENTS_MAX: usize = 16;

    /// Validates `name`.
    ///
    /// # Errors
    /// [`InvalidTopic`] for the first rule that `name` breaks.
    pub fn new(name: &str) -> Result<Topic, InvalidTopic> {
        validate(name)?;
        Ok(Topic(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment, which selects the settings.
    pub fn namespace(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// Whether the name is reserved for the system: some segment begins with `$`. Clients cannot publish to
    /// it.
    pub fn is_system(&self) -> bool {
        self.0.split('/').any(|segment| segment.starts_with('$'))
    }

    /// `xxh3_64(name)`, the same on every node. It decides the shard, and stands for the name in log lines.
    pub fn hash64(&self) -> u64 {
        xxh3_64(self.0.as_bytes())
    }

    /// `xxh3_64` of the namespace. It stands for the namespace in the keys of limits.
    pub fn namespace_hash64(&self) -> u64 {
        xxh3_64(self.namespace().as_bytes())
    }

    /// The shard that orders this topic: `xxh3_64(name) mod shards`.
    pub fn shard(&self, shards: ShardCount) -> ShardId {
        let shard = self.hash64() % u64::from(shards.get());
        ShardId(u16::try_from(shard).unwrap_or(0))
    }
}

fn validate(name: &str) -> Result<(), InvalidTopic> {
    if name.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    if name.len() > Topic::BYTES_MAX {
        return Err(InvalidTopic::TooLong { len: name.len() });
    }
    if let Some(unfit) = name.chars().find(|&c| unicode::is_unfit_for_names(c)) {
        let code = u32::from(unfit);
        return Err(match unfit.is_control() {
            true => InvalidTopic::ControlCharacter { code },
            false => InvalidTopic::UnfitCharacter { code },
        });
    }
    if let Some(index) = name.split('/').position(str::is_empty) {
        return Err(InvalidTopic::EmptySegment { index: index + 1 });
    }
    let has_space_at_edge = |segment: &str| segment.starts_with(' ') || segment.ends_with(' ');
    if let Some(index) = name.split('/').position(has_space_at_edge) {
        return Err(InvalidTopic::SpaceAtEdge { index: index + 1 });
    }
    if let Some(index) = name.split('/').position(|segment| matches!(segment, "." | "..")) {
        return Err(InvalidTopic::DotSegment { index: index + 1 });
    }
    let count = name.split('/').count();
    if count > Topic::SEGMENTS_MAX {
        return Err(InvalidTopic::TooManySegments { count });
    }
    if !is_nfc(name) {
        return Err(InvalidTopic::NotNormalized);
    }
    Ok(())
}

/// The quick check decides every ASCII name and nearly all others without normalizing.
fn is_nfc(name: &str) -> bool {
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => name.nfc().eq(name.chars()),
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(name: &str) -> Result<Topic, InvalidTopic> {
        Topic::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = InvalidTopic;

    fn try_from(name: String) -> Result<Topic, InvalidTopic> {
        Topic::new(&name)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.0.as_ref().to_owned()
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_name_is_accepted_unchanged() {
        for name in [
            "a",
            "multiball/gb-usa/score",
            "worldcup/2026/match/57",
            "köln/straße",
            "a b/⚽",
            "$sys/x",
        ] {
            assert_eq!(Topic::new(name).map(|t| t.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn each_broken_rule_has_its_own_error() {
        assert_eq!(Topic::new(""), Err(InvalidTopic::Empty));
        assert_eq!(Topic::new(&"a".repeat(256)), Err(InvalidTopic::TooLong { len: 256 }));
        assert_eq!(Topic::new("a//b"), Err(InvalidTopic::EmptySegment { index: 2 }));
        assert_eq!(Topic::new("/a"), Err(InvalidTopic::EmptySegment { index: 1 }));
        assert_eq!(Topic::new("a/"), Err(InvalidTopic::EmptySegment { index: 2 }));
        assert_eq!(Topic::new("a\u{7f}"), Err(InvalidTopic::ControlCharacter { code: 0x7f }));
        assert_eq!(
            Topic::new(&["a"; 17].join("/")),
            Err(InvalidTopic::TooManySegments { count: 17 })
        );
        assert_eq!(Topic::new("e\u{301}"), Err(InvalidTopic::NotNormalized));
        assert_eq!(Topic::new("a/b "), Err(InvalidTopic::SpaceAtEdge { index: 2 }));
        assert_eq!(Topic::new("a/../b"), Err(InvalidTopic::DotSegment { index: 2 }));
        assert_eq!(Topic::new("."), Err(InvalidTopic::DotSegment { index: 1 }));
        assert_eq!(Topic::new(" a/b"), Err(InvalidTopic::SpaceAtEdge { index: 1 }));
    }

    #[test]
    fn name_that_a_reader_cannot_tell_from_another_is_rejected() {
        for (name, code) in [
            ("chat\u{200b}/7", 0x200b),
            ("chat/\u{202e}7", 0x202e),
            ("chat\u{2028}7", 0x2028),
            ("chat\u{a0}7", 0xa0),
            ("\u{feff}chat", 0xfeff),
            ("chat/\u{e0041}", 0xe0041),
            ("\u{e000}", 0xe000),
        ] {
            assert_eq!(Topic::new(name), Err(InvalidTopic::UnfitCharacter { code }), "{name:?}");
        }
    }

    #[test]
    fn similar_names_are_different_topics() {
        // Latin and Cyrillic letters look alike in the last pair.
        for (one, other) in
            [("a_b/c", "a/b_c"), ("a%2Fb", "a/b"), ("Chat", "chat"), ("a", "\u{430}")]
        {
            let [one, other] = [one, other].map(|name| Topic::new(name).expect("valid"));
            assert_ne!(one, other);
            assert_ne!(one.hash64(), other.hash64());
        }
    }

    #[test]
    fn the_namespace_is_the_first_segment() {
        assert_eq!(Topic::new("chat/7").expect("valid").namespace(), "chat");
        assert_eq!(Topic::new("chat").expect("valid").namespace(), "chat");
    }

    #[test]
    fn topic_with_a_dollar_segment_anywhere_is_a_system_topic() {
        assert!(Topic::new("$sys/nodes").expect("valid").is_system());
        assert!(Topic::new("chat/$presence").expect("valid").is_system());
        assert!(!Topic::new("price/us$").expect("valid").is_system());
    }

    #[test]
    fn topic_hash_is_stable() {
        // A different hash would silently move every topic of every cluster to another shard.
        assert_eq!(xxh3_64(b"football/final"), 0xcd4c_d0f2_3330_a769);
        let topic = Topic::new("football/final").expect("valid");
        assert_eq!(topic.shard(ShardCount::DEFAULT), ShardId(0x9));
    }
}
