//! One entry of a shard's log: the publishes that are committed together.
//!
//! On disk and on the link: the cluster version, then postcard. Whatever decides how an entry is applied
//! travels in it or in an earlier entry (the time, the settings), so that replicas with other clocks or
//! an older view of the cluster come to the same state.

use bytes::Bytes;
use pushonce_core::versioned::{self, Unreadable};
use pushonce_core::{
    ClusterVersion, ContentType, Key, Placed, Publish, Sequence, Stamp, Timestamp, Topic,
    VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::{Rejected, ShardSettings};

/// The publishes of one entry, in the order in which they get their places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// When the owner proposed it, in log time: not its own clock, but what a majority of the voters'
    /// clocks had reached.
    pub time: Timestamp,
    /// Settings that replace those of the shard before the items are applied, if they are newer.
    pub settings: Option<ShardSettings>,
    /// Whether topics that begin in the owner's memory from now on have the index of this entry as
    /// their epoch. Every owner proposes one such entry before it places anything in memory.
    pub renews_memory: bool,
    /// What it carries.
    pub items: Vec<Item>,
    /// The last message of a producer to a topic that was placed in the owner's memory, where an item is
    /// the next of the same producer: it goes on in the log.
    pub continues: Vec<(Topic, Sequence)>,
}

/// One publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where it goes.
    pub topic: Topic,
    /// What the payload is.
    pub content_type: ContentType,
    /// The publisher's name for it.
    pub key: Option<Key>,
    /// What else tells a repeat of it from a new message.
    pub stamp: Option<Stamp>,
    /// The payload.
    pub payload: Bytes,
}

impl Batch {
    /// Publishes alone.
    pub fn new(time: Timestamp, items: Vec<Item>) -> Batch {
        Batch { time, settings: None, renews_memory: false, items, continues: Vec::new() }
    }

    /// Settings alone, and an epoch for the owner's memory if they put any namespace there.
    pub fn with_settings(time: Timestamp, settings: ShardSettings) -> Batch {
        let renews_memory = settings.any_in_memory();
        Batch { settings: Some(settings), renews_memory, ..Batch::new(time, Vec::new()) }
    }

    /// An epoch for the owner's memory alone.
    pub(crate) fn renewing(time: Timestamp) -> Batch {
        Batch { renews_memory: true, ..Batch::new(time, Vec::new()) }
    }

    /// The entry to propose, written in a version.
    pub fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    /// Reads an entry, and says which version it has. Payloads are copied out of it, so that a message that lives long does not
    /// keep its whole batch in memory.
    ///
    /// # Errors
    /// [`Unreadable`] when the bytes are no batch of a version that this build reads, with nothing after
    /// it.
    pub fn decode(entry: &[u8]) -> Result<(ClusterVersion, Batch), Unreadable> {
        Batch::decode_within(VersionRange::READABLE, entry)
    }

    /// As [`Batch::decode`], by a build that reads `readable`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn decode_within(
        readable: VersionRange,
        entry: &[u8],
    ) -> Result<(ClusterVersion, Batch), Unreadable> {
        versioned::decode_within(readable, entry)
    }
}

impl Item {
    /// The item of a publish.
    pub fn new(publish: Publish) -> Item {
        let Publish { topic, content_type, key, stamp, payload } = publish;
        Item { topic, content_type, key, stamp, payload }
    }

    /// Its number, if its producer gave it one.
    pub(crate) fn sequence(&self) -> Option<Sequence> {
        match self.stamp {
            Some(Stamp::Sequence(sequence)) => Some(sequence),
            Some(Stamp::Nonce(_)) | None => None,
        }
    }
}

/// What applying an entry answers to its proposer, which is on the same node: an outcome for each item.
pub(crate) type Answer = Vec<Result<Placed, Rejected>>;

pub(crate) fn encode_answer(answer: &Answer) -> Bytes {
    postcard::to_stdvec(answer).expect("a growing buffer takes every answer").into()
}

pub(crate) fn decode_answer(answer: &[u8]) -> Result<Answer, postcard::Error> {
    postcard::from_bytes(answer)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Namespace, Namespaces, ShardCount, UnsupportedVersion};

    use super::*;

    fn batch() -> Batch {
        let item = |topic: &str, payload: &'static [u8]| Item {
            topic: Topic::new(topic).unwrap(),
            content_type: ContentType::Other("image/png".into()),
            key: Some(Key::new("a1").unwrap()),
            stamp: Some(Stamp::Nonce(7)),
            payload: Bytes::from_static(payload),
        };
        let named = [("chat".to_owned(), Namespace::default())].into();
        let namespaces = Namespaces { revision: 7, named, ..Namespaces::default() };
        Batch {
            time: Timestamp(1_790_000_000_000),
            settings: Some(ShardSettings { shards: ShardCount::DEFAULT, namespaces }),
            renews_memory: true,
            items: vec![item("a/b", b"one"), item("c", b"")],
            continues: vec![(
                Topic::new("c").unwrap(),
                Sequence { producer: pushonce_core::ProducerId(7), epoch: 2, number: 9 },
            )],
        }
    }

    #[test]
    fn a_batch_reads_back_what_was_written() {
        for version in [VersionRange::SUPPORTED.min, VersionRange::SUPPORTED.max] {
            assert_eq!(Batch::decode(&batch().encode(version)), Ok((version, batch())));
        }
    }

    #[test]
    fn what_is_no_batch_of_this_version_is_refused() {
        assert_eq!(Batch::decode(b""), Err(Unreadable::Unversioned(0)));
        let (found, supported) = (ClusterVersion(9), VersionRange::READABLE);
        let why = Unreadable::Version(UnsupportedVersion { found, supported });
        assert_eq!(Batch::decode(b"\x00\x09abc"), Err(why));
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        for end in 1..entry.len() {
            assert!(Batch::decode(&entry[..end]).is_err(), "{end} bytes of it were taken");
        }
        let longer = [&entry[..], b"x"].concat();
        assert_eq!(Batch::decode(&longer), Err(Unreadable::Damaged("1 bytes too many".into())));
    }

    #[test]
    fn a_topic_that_breaks_a_rule_makes_the_entry_unreadable() {
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        let at = entry.windows(3).position(|part| part == b"a/b").unwrap();
        let mut forged = entry.to_vec();
        forged[at..at + 3].copy_from_slice(b"a//");
        assert!(matches!(Batch::decode(&forged), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn a_payload_does_not_pin_the_entry_it_came_in() {
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        let within = entry.as_ptr_range();
        let (_, read) = Batch::decode(&entry).unwrap();
        assert!(!within.contains(&read.items[0].payload.as_ptr()));
    }
}
