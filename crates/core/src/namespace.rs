//! The settings of a namespace: cluster-wide, one default for every name that has none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Publish, Topic};

/// What an acknowledgement of this namespace means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk on a majority of the topic's replicas.
    #[default]
    Replicated,
}

/// How much of the past a topic remembers. Whichever bound is met first forgets the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Messages.
    pub count_max: u32,
    /// Payload bytes.
    pub bytes_max: u32,
    /// Age of a message, in milliseconds.
    pub age_max_ms: u64,
}

/// The settings of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// How much of the past its topics remember.
    pub history: History,
    /// The largest payload, in bytes; [`Publish::PAYLOAD_BYTES_CAP`] at most.
    pub payload_bytes_max: u32,
}

/// Every namespace that has settings of its own, and those of all the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// For every name not in `named`.
    pub default: Namespace,
    /// By first segment.
    pub named: BTreeMap<String, Namespace>,
}

impl Namespaces {
    /// The settings that `topic` lives under.
    pub fn of(&self, topic: &Topic) -> &Namespace {
        self.named.get(topic.namespace()).unwrap_or(&self.default)
    }
}

impl Default for History {
    /// A thousand messages, a mebibyte, a day: what a viewer who was away may want to catch up on. A
    /// topic that is full of small messages takes some 400 KiB of each replica's memory, so a node
    /// with many busy topics wants less.
    fn default() -> History {
        History { count_max: 1_000, bytes_max: 1 << 20, age_max_ms: 24 * 3_600_000 }
    }
}

impl Default for Namespace {
    fn default() -> Namespace {
        Namespace {
            durability: Durability::default(),
            history: History::default(),
            payload_bytes_max: Publish::PAYLOAD_BYTES_DEFAULT as u32,
        }
    }
}
