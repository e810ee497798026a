//! One entry of a shard's log: the publishes that are committed together.
//!
//! Format on disk and on the link: the cluster version, then postcard. Everything that decides how an entry
//! is applied (the time, the settings) travels in it or in an earlier entry, so that replicas with other
//! clocks or an older view of the cluster reach the same state.

use bytes::Bytes;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    Acknowledgement, ClusterVersion, ContentType, MessageKey, ProducerSequence, Publish, PublishId,
    Timestamp, Topic, TopicRemoval, VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::{ItemRejection, ShardSettings};

/// The publishes of one entry, in the order in which they are placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBatch {
    /// The log time at which the owner proposed the entry: the time that a majority of the voters' clocks
    /// had reached, not the owner's own clock.
    pub time: Timestamp,
    /// Settings that replace those of the shard before the items are applied, if they are newer.
    pub settings: Option<ShardSettings>,
    /// Whether topics created in the owner's memory from now on have the index of this entry as their
    /// epoch. Every owner proposes one such entry before it places anything in memory.
    pub starts_memory_epoch: bool,
    /// Removals of operators, which are applied before the items.
    pub removals: Vec<(Topic, TopicRemoval)>,
    /// The publishes.
    pub items: Vec<EntryItem>,
    /// For producers that continue in the log after messages in the owner's memory: the last sequence of
    /// the producer that was placed in memory, by topic.
    pub continued_sequences: Vec<(Topic, ProducerSequence)>,
}

/// One publish of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryItem {
    /// The topic.
    pub topic: Topic,
    /// The type of the payload.
    pub content_type: ContentType,
    /// The publisher's idempotency key.
    pub key: Option<MessageKey>,
    /// The nonce or producer sequence that identifies a repeat.
    pub publish_id: Option<PublishId>,
    /// The payload.
    pub payload: Bytes,
}

impl EntryBatch {
    /// An entry of publishes.
    pub fn new(time: Timestamp, items: Vec<EntryItem>) -> EntryBatch {
        EntryBatch {
            time,
            settings: None,
            starts_memory_epoch: false,
            removals: Vec::new(),
            items,
            continued_sequences: Vec::new(),
        }
    }

    /// An entry of settings, which also starts a memory epoch if they put a namespace in memory.
    pub fn with_settings(time: Timestamp, settings: ShardSettings) -> EntryBatch {
        let starts_memory_epoch = settings.has_memory_namespace();
        EntryBatch {
            settings: Some(settings),
            starts_memory_epoch,
            ..EntryBatch::new(time, Vec::new())
        }
    }

    /// An entry that only starts a memory epoch.
    pub(crate) fn starting_memory_epoch(time: Timestamp) -> EntryBatch {
        EntryBatch { starts_memory_epoch: true, ..EntryBatch::new(time, Vec::new()) }
    }

    /// An entry that only removes. For a topic in the owner's memory it also starts a memory epoch, which bounds the
    /// number of removed topics that the memory remembers.
    pub(crate) fn removing(
        time: Timestamp,
        topic: Topic,
        removal: TopicRemoval,
        in_memory: bool,
    ) -> EntryBatch {
        EntryBatch {
            starts_memory_epoch: in_memory,
            removals: vec![(topic, removal)],
            ..EntryBatch::new(time, Vec::new())
        }
    }

    /// Encodes the entry in a version.
    pub fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    /// Decodes an entry and its version. Payloads are copied out of the buffer, so that a long-lived
    /// message does not keep its whole batch in memory.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] when the bytes are not exactly one batch of a version that this build reads.
    pub fn decode(entry: &[u8]) -> Result<(ClusterVersion, EntryBatch), VersionedDecodeError> {
        EntryBatch::decode_within(VersionRange::readable(), entry)
    }

    /// As [`EntryBatch::decode`], for a build that reads `readable`.
    ///
    /// # Errors
    /// As [`EntryBatch::decode`].
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

    /// The sequence of the item, if its producer numbers its messages.
    pub(crate) fn sequence(&self) -> Option<ProducerSequence> {
        match self.publish_id {
            Some(PublishId::Sequence(sequence)) => Some(sequence),
            Some(PublishId::Nonce(_)) | None => None,
        }
    }
}

/// The reply of an applied entry to its proposer on the same node: an outcome for each item.
pub(crate) type ItemOutcomes = Vec<Result<Acknowledgement, ItemRejection>>;

pub(crate) fn encode_outcomes(outcomes: &ItemOutcomes) -> Bytes {
    postcard::to_stdvec(outcomes).expect("encoding to a growing buffer cannot fail").into()
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
            removals: vec![(Topic::new("c").unwrap(), TopicRemoval::Delete)],
            items: vec![item("a/b", b"one"), item("c", b"")],
            continued_sequences: vec![(
                Topic::new("c").unwrap(),
                ProducerSequence { producer: pushonce_core::ProducerId(7), epoch: 2, number: 9 },
            )],
        }
    }

    #[test]
    fn encoded_batch_decodes_to_the_same_batch() {
        for version in [VersionRange::supported().min, VersionRange::supported().max] {
            assert_eq!(EntryBatch::decode(&batch().encode(version)), Ok((version, batch())));
        }
    }

    #[test]
    fn malformed_or_unsupported_entry_is_rejected() {
        assert_eq!(EntryBatch::decode(b""), Err(VersionedDecodeError::MissingVersion(0)));
        let (found, supported) = (ClusterVersion(9), VersionRange::readable());
        let error = VersionedDecodeError::Unsupported(UnsupportedVersion { found, supported });
        assert_eq!(EntryBatch::decode(b"\x00\x09abc"), Err(error));
        let entry = batch().encode(VersionRange::supported().max);
        for end in 1..entry.len() {
            assert!(
                EntryBatch::decode(&entry[..end]).is_err(),
                "a prefix of {end} bytes was accepted"
            );
        }
        let longer = [&entry[..], b"x"].concat();
        assert_eq!(
            EntryBatch::decode(&longer),
            Err(VersionedDecodeError::Corrupt("1 bytes too many".into()))
        );
    }

    #[test]
    fn entry_with_an_invalid_topic_is_rejected() {
        let entry = batch().encode(VersionRange::supported().max);
        let start = entry.windows(3).position(|part| part == b"a/b").unwrap();
        let mut forged = entry.to_vec();
        forged[start..start + 3].copy_from_slice(b"a//");
        assert!(matches!(EntryBatch::decode(&forged), Err(VersionedDecodeError::Corrupt(_))));
    }

    #[test]
    fn decoded_payload_does_not_reference_the_entry_buffer() {
        let entry = batch().encode(VersionRange::supported().max);
        let entry_range = entry.as_ptr_range();
        let (_, decoded) = EntryBatch::decode(&entry).unwrap();
        assert!(!entry_range.contains(&decoded.items[0].payload.as_ptr()));
    }
}
