//! The settings of a namespace: cluster-wide, one default for every name that has none.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Delivery, Publish, ShardCount, Topic};

/// What an acknowledgement of this namespace means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk on a majority of the topic's replicas.
    #[default]
    Replicated,
    /// In the memory of the topic's owner, and on its way to the subscribers. It goes with the owner:
    /// the next one begins a new epoch.
    Memory,
}

/// How much of the past a topic remembers. Whichever bound is met first forgets the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Messages; none, and a topic has no past at all.
    pub count_max: u32,
    /// Payload bytes.
    pub bytes_max: u32,
    /// Age of a message, in milliseconds.
    pub age_max_ms: u64,
    /// How long a topic that has no past and gets no message is kept, in milliseconds. Made again, it
    /// begins a new epoch.
    pub expire_after_ms: u64,
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
    /// What a session gets that does not say.
    pub delivery: Delivery,
    /// How many messages a second of one topic a session gets at most, if there is a bound: whatever
    /// it asks for, it gets the newest then.
    pub rate_max: Option<NonZeroU16>,
    /// How many topics it may have in the whole cluster; 0 for no bound. Each shard has its part
    /// ([`Namespace::topics_per_shard`]): a namespace that keeps the bound is not refused, one that does
    /// not may get somewhat further.
    pub topics_max: u32,
}

/// Some of the settings; what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceChange {
    /// See [`Namespace::durability`].
    pub durability: Option<Durability>,
    /// See [`History::count_max`].
    pub history_count_max: Option<u32>,
    /// See [`History::bytes_max`].
    pub history_bytes_max: Option<u32>,
    /// See [`History::age_max_ms`].
    pub history_age_max_ms: Option<u64>,
    /// See [`History::expire_after_ms`].
    pub expire_after_ms: Option<u64>,
    /// See [`Namespace::payload_bytes_max`].
    pub payload_bytes_max: Option<u32>,
    /// See [`Namespace::delivery`].
    pub delivery: Option<Delivery>,
    /// See [`Namespace::rate_max`]; 0 takes the bound away.
    pub rate_max: Option<u16>,
    /// See [`Namespace::topics_max`].
    pub topics_max: Option<u32>,
}

/// Every namespace that has settings of its own, and those of all the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The index of the control group's log that committed them; a higher one is newer. 0 before
    /// the first is known.
    pub revision: u64,
    /// For every name not in `named`.
    pub default: Namespace,
    /// By first segment. Only these may be kept in memory: what may be lost is said by name.
    pub named: BTreeMap<String, Namespace>,
}

/// Settings that no namespace can have. Says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidNamespace {
    /// Not the first segment of any topic that may be published to.
    #[error(
        "a namespace is the first segment of its topics' names: \
         neither empty nor with a '/', a '$' in front or a control character, in form C"
    )]
    Name,
    /// More than a page of history may have.
    #[error("the history may have {max} messages at most")]
    HistoryCount {
        /// Messages.
        max: u32,
    },
    /// More than a page of history may have.
    #[error("the history may have {max} bytes of payload at most")]
    HistoryBytes {
        /// Bytes.
        max: u32,
    },
    /// Too short to mean anything, or longer than any clock is right.
    #[error("messages may be kept, and unused topics wait, between a second and {max_days} days")]
    Age {
        /// Days.
        max_days: u32,
    },
    /// Every topic nobody thought of would be lost with its owner.
    #[error("the default is replicated: name the namespaces whose messages may be lost")]
    DefaultInMemory,
    /// Nothing, or more than a frame carries.
    #[error("the largest payload must be 1 to {max} bytes")]
    Payload {
        /// Bytes.
        max: u32,
    },
}

/// A session asks for more messages a second than its namespace gives anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this namespace gives {max} messages a second at most; ask for `latest`, or for a rate")]
pub struct DeliveryNotAllowed {
    /// The bound.
    pub max: NonZeroU16,
}

impl History {
    /// No namespace may allow more messages of history.
    pub const COUNT_CAP: u32 = 1 << 16;
    /// No namespace may allow more payload bytes of history, 16 MiB: a page of all of it goes over a
    /// link at once, and waits there with what else there is.
    pub const BYTES_CAP: u32 = 16 << 20;
    const DAYS_CAP: u32 = 366;
    const AGE_MS_RANGE: RangeInclusive<u64> = 1_000..=Self::DAYS_CAP as u64 * DAY_MS;

    fn validate(&self) -> Result<(), InvalidNamespace> {
        if self.count_max > Self::COUNT_CAP {
            return Err(InvalidNamespace::HistoryCount { max: Self::COUNT_CAP });
        }
        if self.bytes_max > Self::BYTES_CAP {
            return Err(InvalidNamespace::HistoryBytes { max: Self::BYTES_CAP });
        }
        let ages = [self.age_max_ms, self.expire_after_ms];
        if !ages.iter().all(|age| Self::AGE_MS_RANGE.contains(age)) {
            return Err(InvalidNamespace::Age { max_days: Self::DAYS_CAP });
        }
        Ok(())
    }
}

impl Namespace {
    /// Says what is wrong, if anything is.
    ///
    /// # Errors
    /// [`InvalidNamespace`] for the first bound that is not kept.
    pub fn validate(&self) -> Result<(), InvalidNamespace> {
        let max = Publish::PAYLOAD_BYTES_CAP as u32;
        if !(1..=max).contains(&self.payload_bytes_max) {
            return Err(InvalidNamespace::Payload { max });
        }
        self.history.validate()
    }

    /// These settings with a change.
    pub fn with_change(&self, change: NamespaceChange) -> Namespace {
        let Namespace { durability, history, payload_bytes_max, delivery, rate_max, topics_max } =
            self;
        Namespace {
            durability: change.durability.unwrap_or(*durability),
            history: History {
                count_max: change.history_count_max.unwrap_or(history.count_max),
                bytes_max: change.history_bytes_max.unwrap_or(history.bytes_max),
                age_max_ms: change.history_age_max_ms.unwrap_or(history.age_max_ms),
                expire_after_ms: change.expire_after_ms.unwrap_or(history.expire_after_ms),
            },
            payload_bytes_max: change.payload_bytes_max.unwrap_or(*payload_bytes_max),
            delivery: change.delivery.unwrap_or(*delivery),
            rate_max: change.rate_max.map_or(*rate_max, NonZeroU16::new),
            topics_max: change.topics_max.unwrap_or(*topics_max),
        }
    }

    /// Whether topics leave the replicas' disks for their owners' memory when these settings become
    /// `new`.
    pub fn moves_to_memory(&self, new: &Namespace) -> bool {
        self.durability == Durability::Replicated && new.durability == Durability::Memory
    }

    /// How many topics of it one of so many shards takes; `NoFault` for no bound.
    ///
    /// Topics fall on shards at random, so some shards have more than their even part: by four standard
    /// deviations more next to never.
    pub fn topics_per_shard(&self, shards: ShardCount) -> Option<usize> {
        if self.topics_max == 0 {
            return None;
        }
        let even_share = self.topics_max.div_ceil(u32::from(shards.get()));
        let deviation = f64::from(even_share).sqrt().ceil() as u32;
        let share_with_slack = even_share.saturating_add(4 * deviation).saturating_add(4);
        usize::try_from(share_with_slack.min(self.topics_max)).ok()
    }

    /// Topics that a namespace may have unless told otherwise: some hundred MiB of each replica's memory.
    pub const TOPICS_DEFAULT: u32 = 1_000_000;

    /// What a session gets that asks for `asked`, or does not say.
    ///
    /// # Errors
    /// [`DeliveryNotAllowed`] when it asks for every message and may not have them.
    pub fn resolve_delivery(
        &self,
        requested: Option<Delivery>,
    ) -> Result<Delivery, DeliveryNotAllowed> {
        let Some(max) = self.rate_max else { return Ok(requested.unwrap_or(self.delivery)) };
        match requested {
            Some(Delivery::All) => Err(DeliveryNotAllowed { max }),
            Some(Delivery::Rate(rate)) => Ok(Delivery::Rate(rate.min(max))),
            Some(Delivery::Latest) => Ok(Delivery::Rate(max)),
            None => match self.delivery {
                Delivery::Rate(rate) => Ok(Delivery::Rate(rate.min(max))),
                Delivery::All | Delivery::Latest => Ok(Delivery::Rate(max)),
            },
        }
    }
}

impl Namespaces {
    /// The largest payload that any namespace takes, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        let all = std::iter::once(&self.default).chain(self.named.values());
        let largest = all.map(|namespace| namespace.payload_bytes_max).max().unwrap_or_default();
        usize::try_from(largest).unwrap_or(usize::MAX)
    }

    /// The settings that `topic` lives under.
    pub fn for_topic(&self, topic: &Topic) -> &Namespace {
        self.named.get(topic.namespace()).unwrap_or(&self.default)
    }

    /// The names of those that are kept in memory.
    pub fn in_memory_names(&self) -> BTreeSet<String> {
        let is_in_memory = |settings: &Namespace| settings.durability == Durability::Memory;
        let named = self.named.iter().filter(|(_, settings)| is_in_memory(settings));
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Whether there can be topics in a namespace of that name.
    ///
    /// # Errors
    /// [`InvalidNamespace::Name`].
    pub fn validate_name(name: &str) -> Result<(), InvalidNamespace> {
        match Topic::new(name) {
            Ok(topic) if topic.namespace() == name && !topic.is_system() => Ok(()),
            _ => Err(InvalidNamespace::Name),
        }
    }
}

impl Durability {
    /// As it stands on a screen and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Replicated => "replicated",
            Durability::Memory => "memory",
        }
    }

    /// Reads what [`Durability::as_str`] writes.
    pub fn parse(word: &str) -> Option<Durability> {
        [Durability::Replicated, Durability::Memory]
            .into_iter()
            .find(|known| known.as_str() == word)
    }
}

const DAY_MS: u64 = 24 * 3_600_000;

impl Default for History {
    /// A thousand messages, a mebibyte, a day: what a viewer who was away may want to catch up on. A
    /// topic that is full of small messages takes some 400 KiB of each replica's memory, so a node
    /// with many busy topics wants less. Unused topics are kept a week: one that is used weekly stays.
    fn default() -> History {
        History {
            count_max: 1_000,
            bytes_max: 1 << 20,
            age_max_ms: DAY_MS,
            expire_after_ms: 7 * DAY_MS,
        }
    }
}

impl Default for Namespace {
    fn default() -> Namespace {
        Namespace {
            durability: Durability::default(),
            history: History::default(),
            payload_bytes_max: Publish::PAYLOAD_BYTES_DEFAULT as u32,
            delivery: Delivery::All,
            rate_max: None,
            topics_max: Namespace::TOPICS_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation_error(change: NamespaceChange) -> Option<String> {
        Namespace::default().with_change(change).validate().err().map(|error| error.to_string())
    }

    #[test]
    fn unset_fields_keep_their_values() {
        let change = NamespaceChange { history_count_max: Some(3), ..NamespaceChange::default() };
        let changed = Namespace::default().with_change(change);
        assert_eq!(changed.history, History { count_max: 3, ..History::default() });
        assert_eq!(changed.with_change(NamespaceChange::default()), changed);
    }

    #[test]
    fn shard_limit_is_its_even_share_of_topics_max_plus_slack() {
        let shard_limit = |topics_max: u32, shards: u16| {
            let settings = Namespace { topics_max, ..Namespace::default() };
            settings.topics_per_shard(ShardCount::new(shards).expect("valid"))
        };
        assert_eq!(shard_limit(0, 16), None);
        assert_eq!(shard_limit(1_000_000, 16), Some(62_500 + 1_000 + 4));
        assert_eq!(shard_limit(160, 16), Some(10 + 16 + 4));
        assert_eq!(shard_limit(3, 16), Some(3), "never more than all");
        assert_eq!(shard_limit(u32::MAX, 1), Some(u32::MAX as usize));
    }

    #[test]
    fn settings_out_of_bounds_are_rejected_with_the_bound() {
        let none = NamespaceChange::default();
        assert_eq!(validation_error(none), None);
        assert_eq!(validation_error(NamespaceChange { history_count_max: Some(0), ..none }), None);
        for (change, hint) in [
            (NamespaceChange { history_count_max: Some(65_537), ..none }, "65536 messages"),
            (NamespaceChange { history_bytes_max: Some(u32::MAX), ..none }, "16777216 bytes"),
            (NamespaceChange { history_age_max_ms: Some(999), ..none }, "between a second"),
            (NamespaceChange { expire_after_ms: Some(u64::MAX), ..none }, "366 days"),
            (NamespaceChange { payload_bytes_max: Some(0), ..none }, "1 to 1048576"),
            (NamespaceChange { payload_bytes_max: Some(2 << 20), ..none }, "1 to 1048576"),
        ] {
            assert!(
                validation_error(change).is_some_and(|error| error.contains(hint)),
                "{change:?}"
            );
        }
    }

    #[test]
    fn delivery_is_granted_as_requested_within_the_rate_limit() {
        let rate = |rate| Delivery::Rate(NonZeroU16::new(rate).expect("above zero"));
        let open = Namespace { delivery: Delivery::Latest, ..Namespace::default() };
        assert_eq!(open.resolve_delivery(None), Ok(Delivery::Latest));
        assert_eq!(open.resolve_delivery(Some(Delivery::All)), Ok(Delivery::All));
        let bounded = NamespaceChange { rate_max: Some(10), ..NamespaceChange::default() };
        let bounded = open.with_change(bounded);
        assert_eq!(bounded.resolve_delivery(None), Ok(rate(10)));
        assert_eq!(bounded.resolve_delivery(Some(Delivery::Latest)), Ok(rate(10)));
        assert_eq!(bounded.resolve_delivery(Some(rate(3))), Ok(rate(3)));
        assert_eq!(bounded.resolve_delivery(Some(rate(11))), Ok(rate(10)));
        assert!(
            bounded.resolve_delivery(Some(Delivery::All)).is_err_and(|error| error.max.get() == 10)
        );
        let unlimited = NamespaceChange { rate_max: Some(0), ..NamespaceChange::default() };
        assert_eq!(bounded.with_change(unlimited), open);
    }

    #[test]
    fn durability_round_trips_through_its_string_form() {
        for known in [Durability::Replicated, Durability::Memory] {
            assert_eq!(Durability::parse(known.as_str()), Some(known));
        }
        assert_eq!(Durability::parse("forever"), None);
    }

    #[test]
    fn namespace_name_must_be_a_single_non_system_segment() {
        for name in ["chat", "köln", "a b"] {
            assert_eq!(Namespaces::validate_name(name), Ok(()), "{name}");
        }
        for name in ["", "$sys", "a/b", "a/", "\n"] {
            assert_eq!(Namespaces::validate_name(name), Err(InvalidNamespace::Name), "{name}");
        }
    }
}
