//! The cluster-wide settings of namespaces, with one default for all namespaces without their own.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Delivery, NodeId, Publish, ShardCount, Topic};

/// Where a message is stored when its publish is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk on a majority of the topic's replicas.
    #[default]
    Replicated,
    /// In the memory of the topic's owner, and on its way to the subscribers. The message is lost with the
    /// owner: the next owner begins a new epoch.
    Memory,
}

/// Limits of a topic's history. The oldest messages expire when any limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Maximum number of messages; with 0 a topic has no history.
    pub count_max: u32,
    /// Maximum size of all payloads, in bytes.
    pub bytes_max: u32,
    /// Maximum age of a message, in milliseconds.
    pub age_max_ms: u64,
    /// How long a topic without history and without new messages is kept, in milliseconds. A topic that is
    /// created again begins a new epoch.
    pub expire_after_ms: u64,
}

/// The settings of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Where a message is stored when its publish is acknowledged.
    pub durability: Durability,
    /// Limits of the history of each topic.
    pub history: History,
    /// Maximum payload, in bytes; at most [`Publish::PAYLOAD_BYTES_CAP`].
    pub payload_bytes_max: u32,
    /// Delivery of a subscription that requests none.
    pub delivery: Delivery,
    /// Maximum number of messages a second of one topic that a subscription can have, if there is a limit.
    /// With a limit no subscription receives every message: it receives the newest at that rate.
    pub rate_max: Option<NonZeroU16>,
    /// Maximum number of topics in the whole cluster; 0 for no limit. Each shard enforces its share
    /// ([`Namespace::topics_per_shard`]): no publish is rejected below the limit, and somewhat more topics
    /// may be accepted above it.
    pub topics_max: u32,
    /// Who may read and publish, and how often.
    pub access: NamespaceAccess,
}

/// Who may read and publish in a namespace. What a token denies stays denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceAccess {
    /// Whether everyone may read the topics of the namespace, also without a token.
    pub anonymous_read: bool,
    /// Whether clients (WebSocket, QUIC, HTTP) may publish. Without it, messages are accepted over gRPC
    /// only.
    pub client_publish: bool,
    /// Maximum number of messages a second that one caller may publish to the namespace at each node, twice as
    /// many at once, if there is a limit.
    pub publish_rate_max: Option<NonZeroU32>,
    /// How long caches may serve an answer to a read over HTTP without asking again, in seconds; at most
    /// [`NamespaceAccess::CACHE_MAX_AGE_S_CAP`]. 0: they ask every time.
    pub cache_max_age_s: u32,
}

/// A change of some settings; `None` keeps the present value.
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
    /// See [`Namespace::rate_max`]; 0 removes the limit.
    pub rate_max: Option<u16>,
    /// See [`Namespace::topics_max`].
    pub topics_max: Option<u32>,
    /// See [`NamespaceAccess::anonymous_read`].
    pub anonymous_read: Option<bool>,
    /// See [`NamespaceAccess::client_publish`].
    pub client_publish: Option<bool>,
    /// See [`NamespaceAccess::publish_rate_max`]; 0 removes the limit.
    pub publish_rate_max: Option<u32>,
    /// See [`NamespaceAccess::cache_max_age_s`].
    pub cache_max_age_s: Option<u32>,
}

/// The settings of all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The index of the control group's log that committed these settings; higher is newer. 0 before the
    /// first commit is known.
    pub revision: u64,
    /// The settings of every namespace that is not in `named`.
    pub default: Namespace,
    /// Settings by first topic segment. Only these may use [`Durability::Memory`], so that messages can be
    /// lost only where an operator named the namespace.
    pub named: BTreeMap<String, Namespace>,
    /// The namespaces of [`Durability::Memory`] that an operator moved there by force: their messages on
    /// disk are dropped. A shard keeps any other one on disk until it has no stored message of it.
    pub drop_stored: BTreeSet<String>,
}

/// Why settings of a namespace are rejected. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidNamespace {
    /// The name cannot be the first segment of a topic that accepts publishes.
    #[error(
        "a namespace is the first segment of its topics' names: use a name that is \
         not empty, in Unicode form C, without '/', leading '$', control and invisible characters"
    )]
    Name,
    /// The name looks like the id of a node.
    #[error("the name {name:?} looks like the id of a node; choose another name")]
    LooksLikeNodeId {
        /// The name.
        name: String,
    },
    /// The number of messages is above [`History::COUNT_CAP`].
    #[error("the history can have at most {max} messages")]
    HistoryCount {
        /// Limit in messages.
        max: u32,
    },
    /// The size is above [`History::BYTES_CAP`].
    #[error("the history can have at most {max} bytes of payload")]
    HistoryBytes {
        /// Limit in bytes.
        max: u32,
    },
    /// An age is below one second or above the limit.
    #[error(
        "the age of messages and of unused topics must be between a second and {max_days} days"
    )]
    Age {
        /// Limit in days.
        max_days: u32,
    },
    /// The default cannot be [`Durability::Memory`]: every topic of a namespace without settings could be
    /// lost.
    #[error("the default namespace must be replicated; set `memory` on named namespaces only")]
    DefaultInMemory,
    /// The maximum payload is 0 or larger than a frame can carry.
    #[error("the maximum payload must be 1 to {max} bytes")]
    Payload {
        /// Limit in bytes.
        max: u32,
    },
    /// The age in caches is above [`NamespaceAccess::CACHE_MAX_AGE_S_CAP`].
    #[error("caches can keep an answer for at most {max} seconds")]
    CacheMaxAge {
        /// Limit in seconds.
        max: u32,
    },
}

/// A subscription requests every message of a namespace with a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this namespace allows at most {max} messages a second; request `latest` or a rate")]
pub struct DeliveryNotAllowed {
    /// The limit in messages a second.
    pub max: NonZeroU16,
}

impl History {
    /// Maximum number of messages of history that a namespace can allow.
    pub const COUNT_CAP: u32 = 1 << 16;
    /// Maximum payload bytes of history that a namespace can allow, 16 MiB: a page with the whole history
    /// is sent over a link in one piece and is queued there with other frames.
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

impl NamespaceAccess {
    /// Maximum of [`NamespaceAccess::cache_max_age_s`], a day: no request removes an answer from a cache.
    pub const CACHE_MAX_AGE_S_CAP: u32 = 24 * 3_600;

    fn validate(&self) -> Result<(), InvalidNamespace> {
        let max = Self::CACHE_MAX_AGE_S_CAP;
        if self.cache_max_age_s > max {
            return Err(InvalidNamespace::CacheMaxAge { max });
        }
        Ok(())
    }
}

impl Namespace {
    /// Validates the settings.
    ///
    /// # Errors
    /// [`InvalidNamespace`] for the first limit that is exceeded.
    pub fn validate(&self) -> Result<(), InvalidNamespace> {
        let max = Publish::PAYLOAD_BYTES_CAP as u32;
        if !(1..=max).contains(&self.payload_bytes_max) {
            return Err(InvalidNamespace::Payload { max });
        }
        self.access.validate()?;
        self.history.validate()
    }

    /// These settings with a change applied.
    pub fn with_change(&self, change: NamespaceChange) -> Namespace {
        let Namespace {
            durability,
            history,
            payload_bytes_max,
            delivery,
            rate_max,
            topics_max,
            access,
        } = self;
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
            access: NamespaceAccess {
                anonymous_read: change.anonymous_read.unwrap_or(access.anonymous_read),
                client_publish: change.client_publish.unwrap_or(access.client_publish),
                publish_rate_max: change
                    .publish_rate_max
                    .map_or(access.publish_rate_max, NonZeroU32::new),
                cache_max_age_s: change.cache_max_age_s.unwrap_or(access.cache_max_age_s),
            },
        }
    }

    /// Whether a change of these settings to `new` moves topics from the replicas' disks to the memory of
    /// their owners.
    pub fn moves_to_memory(&self, new: &Namespace) -> bool {
        self.durability == Durability::Replicated && new.durability == Durability::Memory
    }

    /// Maximum number of topics of this namespace on one of `shards` shards; `None` for no limit.
    ///
    /// Topics are hashed onto shards, so some shards have more than their even share. More than four
    /// standard deviations above it is very unlikely.
    pub fn topics_per_shard(&self, shards: ShardCount) -> Option<usize> {
        if self.topics_max == 0 {
            return None;
        }
        let even_share = self.topics_max.div_ceil(u32::from(shards.get()));
        let deviation = f64::from(even_share).sqrt().ceil() as u32;
        let share_with_slack = even_share.saturating_add(4 * deviation).saturating_add(4);
        usize::try_from(share_with_slack.min(self.topics_max)).ok()
    }

    /// Default maximum number of topics of a namespace: some hundred MiB of each replica's memory.
    pub const TOPICS_DEFAULT: u32 = 1_000_000;

    /// The delivery of a subscription that requests `requested`, or nothing.
    ///
    /// # Errors
    /// [`DeliveryNotAllowed`] when it requests every message and the namespace has a rate limit.
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
    /// The largest maximum payload of all namespaces, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        let all = std::iter::once(&self.default).chain(self.named.values());
        let largest = all.map(|namespace| namespace.payload_bytes_max).max().unwrap_or_default();
        usize::try_from(largest).unwrap_or(usize::MAX)
    }

    /// The settings of the namespace of `topic`.
    pub fn for_topic(&self, topic: &Topic) -> &Namespace {
        self.named.get(topic.namespace()).unwrap_or(&self.default)
    }

    /// The names of the namespaces that are kept in memory.
    pub fn in_memory_names(&self) -> BTreeSet<String> {
        let is_in_memory = |settings: &Namespace| settings.durability == Durability::Memory;
        let named = self.named.iter().filter(|(_, settings)| is_in_memory(settings));
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Checks that topics of a namespace of this name can exist.
    ///
    /// # Errors
    /// [`InvalidNamespace::Name`] when they cannot, [`InvalidNamespace::LooksLikeNodeId`] for names such as
    /// `n3`.
    pub fn validate_name(name: &str) -> Result<(), InvalidNamespace> {
        if NodeId::resembled_by(name).is_some() {
            return Err(InvalidNamespace::LooksLikeNodeId { name: name.to_owned() });
        }
        match Topic::new(name) {
            Ok(topic) if topic.namespace() == name && !topic.is_system() => Ok(()),
            _ => Err(InvalidNamespace::Name),
        }
    }
}

impl Durability {
    /// The name in JSON, in protobuf and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Replicated => "replicated",
            Durability::Memory => "memory",
        }
    }

    /// Parses the output of [`Durability::as_str`].
    pub fn parse(word: &str) -> Option<Durability> {
        [Durability::Replicated, Durability::Memory]
            .into_iter()
            .find(|known| known.as_str() == word)
    }
}

const DAY_MS: u64 = 24 * 3_600_000;

impl Default for History {
    /// 1,000 messages, 1 MiB, one day: enough for a viewer who reconnects. A topic full of small messages
    /// needs some 400 KiB of each replica's memory, so a node with many busy topics needs lower limits.
    /// Unused topics are kept for a week, so that a topic that is used weekly stays.
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
            access: NamespaceAccess::default(),
        }
    }
}

impl Default for NamespaceAccess {
    /// Nobody reads without a token, and a token that grants it may publish through every interface.
    fn default() -> NamespaceAccess {
        NamespaceAccess {
            anonymous_read: false,
            client_publish: true,
            publish_rate_max: None,
            cache_max_age_s: 0,
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
        assert_eq!(shard_limit(3, 16), Some(3), "a shard's limit is never above topics_max");
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
            (NamespaceChange { cache_max_age_s: Some(86_401), ..none }, "86400 seconds"),
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
    fn access_changes_one_field_at_a_time() {
        let closed = Namespace::default();
        assert!(!closed.access.anonymous_read && closed.access.client_publish);
        let change = NamespaceChange { anonymous_read: Some(true), ..NamespaceChange::default() };
        let open = closed.with_change(change);
        assert_eq!(open.access, NamespaceAccess { anonymous_read: true, ..closed.access });
        let change = NamespaceChange {
            client_publish: Some(false),
            publish_rate_max: Some(10),
            cache_max_age_s: Some(60),
            ..NamespaceChange::default()
        };
        let limited = open.with_change(change);
        assert!(limited.access.anonymous_read && !limited.access.client_publish);
        assert_eq!(limited.access.publish_rate_max, NonZeroU32::new(10));
        assert_eq!(limited.access.cache_max_age_s, 60);
        let change = NamespaceChange { publish_rate_max: Some(0), ..NamespaceChange::default() };
        assert_eq!(limited.with_change(change).access.publish_rate_max, None);
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
        for name in ["", "$sys", "a/b", "a/", "\n", "chat\u{200b}", "\u{202e}chat", " chat"] {
            assert_eq!(Namespaces::validate_name(name), Err(InvalidNamespace::Name), "{name}");
        }
        for name in ["n1", "N7", "n007", "n99999999999999999999"] {
            let error = InvalidNamespace::LooksLikeNodeId { name: name.to_owned() };
            assert_eq!(Namespaces::validate_name(name), Err(error));
        }
        for name in ["n", "n1a", "news", "node-1", "1"] {
            assert_eq!(Namespaces::validate_name(name), Ok(()), "{name}");
        }
    }
}
