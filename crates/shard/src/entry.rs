//! One entry of a shard's log: the publishes that are committed together.
//!
//! On disk and on the link: the cluster version, then postcard. Whatever decides how an entry is applied
//! travels in it or in an earlier entry (the time, the settings), so that replicas with other clocks or
//! an older view of the cluster come to the same state.

use bytes::Bytes;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    Acknowledgement, ClusterVersion, ContentType, MessageKey, ProducerSequence, Publish, PublishId,
    Timestamp, Topic, VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::{ItemRejection, ShardSettings};

/// The publishes of one entry, in the order in which they get their places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBatch {
    /// When the owner proposed it, in log time: not its own clock, but what a majority of the voters'
    /// clocks had reached.
    pub time: Timestamp,
    /// Settings that replace those of the shard before the items are applied, if they are newer.
    pub settings: Option<ShardSettings>,
    /// Whether topics that begin in the owner's memory from now on have the index of this entry as
    /// their epoch. Every owner proposes one such entry before it places anything in memory.
    pub starts_memory_epoch: bool,
    /// What it carries.
    pub items: Vec<EntryItem>,
    /// The last message of a producer to a topic that was placed in the owner's memory, where an item is
    /// the next of the same producer: it goes on in the log.
    pub continued_sequences: Vec<(Topic, ProducerSequence)>,
}

/// One publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryItem {
    /// Where it goes.
    pub topic: Topic,
    /// What the payload is.
    pub content_type: ContentType,
    /// The publisher's name for it.
    pub key: Option<MessageKey>,
    /// What else tells a repeat of it from a new message.
    pub publish_id: Option<PublishId>,
    /// The payload.
    pub payload: Bytes,
}

impl EntryBatch {
    /// Publishes alone.
    pub fn new(time: Timestamp, items: Vec<EntryItem>) -> EntryBatch {
        EntryBatch {
            time,
            settings: None,
            starts_memory_epoch: false,
            items,
            continued_sequences: Vec::new(),
        }
    }

    /// Settings alone, and an epoch for the owner's memory if they put any namespace there.
    pub fn with_settings(time: Timestamp, settings: ShardSettings) -> EntryBatch {
        let starts_memory_epoch = settings.has_memory_namespace();
        EntryBatch {
            settings: Some(settings),
            starts_memory_epoch,
            ..EntryBatch::new(time, Vec::new())
        }
    }

    /// An epoch for the owner's memory alone.
    pub(crate) fn starting_memory_epoch(time: Timestamp) -> EntryBatch {
        EntryBatch { starts_memory_epoch: true, ..EntryBatch::new(time, Vec::new()) }
    }

    /// The entry to propose, written in a version.
    pub fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    /// Reads an entry, and says which version it has. Payloads are copied out of it, so that a message that lives long does not
    /// keep its whole batch in memory.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] when the bytes are no batch of a version that this build reads, with nothing after
    /// it.
    pub fn decode(entry: &[u8]) -> Result<(ClusterVersion, EntryBatch), VersionedDecodeError> {
        EntryBatch::decode_within(VersionRange::READABLE, entry)
    }

    /// As [`EntryBatch::decode`], by a build that reads `readable`.
    ///
    /// # Errors
    /// [`VersionedDecodeError`].
    pub fn decode_within(
        readable: VersionRange,
        entry: &[u8],
    ) -> Result<(ClusterVersion, EntryBatch), VersionedDecodeError> {
        versioned::decode_in_range(readable, entry)
    }
}

impl EntryItem {
    /// The item of a publish.
    pub fn new(publish: Publish) -> EntryItem {
        let Publish { topic, content_type, key, publish_id, payload } = publish;
        EntryItem { topic, content_type, key, publish_id, payload }
    }

    /// Its number, if its producer gave it one.
    pub(crate) fn sequence(&self) -> Option<ProducerSequence> {
        match self.publish_id {
            Some(PublishId::Sequence(sequence)) => Some(sequence),
            Some(PublishId::Nonce(_)) | None => None,
        }
    }
}

/// What applying an entry answers to its proposer, which is on the same node: an outcome for each item.
pub(crate) type ItemOutcomes = Vec<Result<Acknowledgement, ItemRejection>>;

pub(crate) fn encode_outcomes(outcomes: &ItemOutcomes) -> Bytes {
    postcard::to_stdvec(outcomes).expect("a growing buffer takes every answer").into()
}

pub(crate) fn decode_outcomes(bytes: &[u8]) -> Result<ItemOutcomes, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Namespace, Namespaces, ShardCount, UnsupportedVersion};

    use super::*;

    fn batch() -> EntryBatch {
        let item = |topic: &str, payload: &'static [u8]| EntryItem {
            topic: Topic::new(topic).unwrap(),
            content_type: ContentType::Other("image/png".into()),
            key: Some(MessageKey::new("a1").unwrap()),
            publish_id: Some(PublishId::Nonce(7)),
            payload: Bytes::from_static(payload),
        };
        let named = [("chat".to_owned(), Namespace::default())].into();
        let namespaces = Namespaces { revision: 7, named, ..Namespaces::default() };
        EntryBatch {
            time: Timestamp(1_790_000_000_000),
            settings: Some(ShardSettings { shards: ShardCount::DEFAULT, namespaces }),
            starts_memory_epoch: true,
            items: vec![item("a/b", b"one"), item("c", b"")],
            continued_sequences: vec![(
                Topic::new("c").unwrap(),
                ProducerSequence { producer: pushonce_core::ProducerId(7), epoch: 2, number: 9 },
            )],
        }
    }

    #[test]
    fn encoded_batch_decodes_to_the_same_batch() {
        for version in [VersionRange::SUPPORTED.min, VersionRange::SUPPORTED.max] {
            assert_eq!(EntryBatch::decode(&batch().encode(version)), Ok((version, batch())));
        }
    }

    #[test]
    fn malformed_or_unsupported_entry_is_rejected() {
        assert_eq!(EntryBatch::decode(b""), Err(VersionedDecodeError::MissingVersion(0)));
        let (found, supported) = (ClusterVersion(9), VersionRange::READABLE);
        let error = VersionedDecodeError::Unsupported(UnsupportedVersion { found, supported });
        assert_eq!(EntryBatch::decode(b"\x00\x09abc"), Err(error));
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        for end in 1..entry.len() {
            assert!(EntryBatch::decode(&entry[..end]).is_err(), "{end} bytes of it were taken");
        }
        let longer = [&entry[..], b"x"].concat();
        assert_eq!(
            EntryBatch::decode(&longer),
            Err(VersionedDecodeError::Corrupt("1 bytes too many".into()))
        );
    }

    #[test]
    fn entry_with_an_invalid_topic_is_rejected() {
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        let start = entry.windows(3).position(|part| part == b"a/b").unwrap();
        let mut forged = entry.to_vec();
        forged[start..start + 3].copy_from_slice(b"a//");
        assert!(matches!(EntryBatch::decode(&forged), Err(VersionedDecodeError::Corrupt(_))));
    }

    #[test]
    fn decoded_payload_does_not_reference_the_entry_buffer() {
        let entry = batch().encode(VersionRange::SUPPORTED.max);
        let entry_range = entry.as_ptr_range();
        let (_, decoded) = EntryBatch::decode(&entry).unwrap();
        assert!(!entry_range.contains(&decoded.items[0].payload.as_ptr()));
    }
}
