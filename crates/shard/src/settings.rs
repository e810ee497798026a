//! The cluster settings that decide how a shard applies its entries.
//!
//! They are part of the replicated state: the owner proposes them when the control group has committed
//! newer ones, and every replica changes at the same place of the log. An entry with older settings changes
//! nothing, so an owner with an old view of the cluster cannot shorten a history.

use std::collections::BTreeSet;

use pushonce_core::{Durability, History, Namespaces, ShardCount, ShardId, Topic};
use serde::{Deserialize, Serialize};

/// The settings that a shard needs to apply an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSettings {
    /// The number of shards of the cluster: it decides which topics belong to this one.
    pub shards: ShardCount,
    /// The settings of the namespaces, with the revision that orders them.
    pub namespaces: Namespaces,
}

impl ShardSettings {
    /// The index of the control group's log at which the settings were committed.
    pub fn revision(&self) -> u64 {
        self.namespaces.revision
    }

    /// The shard that a topic belongs to.
    pub(crate) fn shard_of(&self, topic: &Topic) -> ShardId {
        topic.shard(self.shards)
    }

    /// The limits of a topic's history.
    pub(crate) fn history(&self, topic: &Topic) -> &History {
        &self.namespaces.for_topic(topic).history
    }

    /// Whether the messages of a topic live in the owner's memory.
    pub(crate) fn is_in_memory(&self, topic: &Topic) -> bool {
        self.namespaces.for_topic(topic).durability == Durability::Memory
    }

    /// The namespaces whose messages live in the owner's memory.
    pub(crate) fn memory_namespaces(&self) -> BTreeSet<String> {
        self.namespaces.in_memory_names()
    }

    /// Changes the durability of these namespaces, where they have settings of their own.
    pub(crate) fn set_durability(&mut self, namespaces: &BTreeSet<String>, durability: Durability) {
        for name in namespaces {
            if let Some(namespace) = self.namespaces.named.get_mut(name) {
                namespace.durability = durability;
            }
        }
    }

    /// Whether any namespace lives in the owner's memory.
    pub(crate) fn has_memory_namespace(&self) -> bool {
        self.namespaces.named.values().any(|named| named.durability == Durability::Memory)
    }
}
