//! The limits of clients that all lanes, and the gRPC port of the node, share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_auth::AccessControl;
use pushonce_core::{
    CallerKey, NamespaceRateExceeded, NewTopicRateExceeded, RateLimit, SubscribeRateExceeded, Topic,
};
use pushonce_listener::{
    AddressLimits, CallerRates, KeyedRates, NamespaceRates, PUBLISH_BURST_SECONDS, ReceiveBudget,
};
use pushonce_telemetry::Counter;
use tokio::sync::Semaphore;

use crate::{Config, metrics};

/// Shared limits. Cheap to clone.
#[derive(Clone)]
pub struct ClientLimits {
    /// The connections of each client address.
    pub addresses: AddressLimits,
    /// The bytes of requests and messages that are only half received.
    pub receive_budget: ReceiveBudget,
    /// The publishes of each caller to each namespace that limits them.
    pub namespace_rates: NamespaceRates,
    /// The subscriptions and the new topics of each caller.
    pub caller_rates: CallerRates,
    /// Permits for connections over all transports.
    pub(crate) connections: Arc<Semaphore>,
    /// The publishes of each caller.
    publishes: Arc<KeyedRates<CallerKey>>,
    /// Their limit; `None` for no limit.
    publish_limit: Option<RateLimit>,
    rejected_publishes: Counter,
}

/// A caller publishes more often than it may. The text says when to go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishRateExceeded {
    #[error(
        "you publish too often; retry in {retry_after:?}, and send fewer, or raise --publish-rate-max of the node"
    )]
    Node { retry_after: Duration },
    #[error(transparent)]
    Namespace(#[from] NamespaceRateExceeded),
    #[error(transparent)]
    NewTopics(#[from] NewTopicRateExceeded),
}

/// A session requests more often than its caller may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateExceeded {
    #[error(transparent)]
    Publish(#[from] PublishRateExceeded),
    #[error(transparent)]
    Subscribe(#[from] SubscribeRateExceeded),
}

impl RateExceeded {
    /// How long the caller has to wait.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            RateExceeded::Publish(exceeded) => exceeded.retry_after(),
            RateExceeded::Subscribe(exceeded) => exceeded.retry_after,
        }
    }
}

impl PublishRateExceeded {
    /// How long the caller has to wait.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            PublishRateExceeded::Node { retry_after } => *retry_after,
            PublishRateExceeded::Namespace(exceeded) => exceeded.retry_after,
            PublishRateExceeded::NewTopics(exceeded) => exceeded.retry_after,
        }
    }
}

impl ClientLimits {
    pub(crate) fn new(config: &Config) -> ClientLimits {
        let rate = config.publish_rate_max;
        let limit = RateLimit::new(rate, rate.saturating_mul(PUBLISH_BURST_SECONDS));
        ClientLimits {
            addresses: AddressLimits::new(config.address_connections_max),
            receive_budget: ReceiveBudget::new(config.receive_bytes_max),
            connections: Arc::new(Semaphore::new(
                config.connections_max.min(Semaphore::MAX_PERMITS),
            )),
            namespace_rates: NamespaceRates::default(),
            caller_rates: CallerRates::new(config.subscribe_rate_max, config.new_topic_rate_max),
            publishes: Arc::default(),
            publish_limit: (rate > 0).then_some(limit),
            rejected_publishes: metrics::PUBLISHES_REJECTED.register_counter(&[]),
        }
    }

    /// Number of connections that hold a permit; `max` is the setting.
    pub(crate) fn open_connections(&self, max: usize) -> usize {
        max.min(Semaphore::MAX_PERMITS).saturating_sub(self.connections.available_permits())
    }

    /// Counts a publish of `caller` to `topic`. A caller on this host is not limited ([`CallerKey::is_exempt`]).
    pub(crate) fn check_publish(
        &self,
        topic: &Topic,
        caller: CallerKey,
        access: &AccessControl,
    ) -> Result<(), PublishRateExceeded> {
        let now = Instant::now();
        self.caller_rates.check_publish(caller, now)?;
        if let Some(limit) = self.publish_limit.filter(|_| !caller.is_exempt()) {
            self.publishes.try_take(caller, limit, 1, now).map_err(|retry_after| {
                self.rejected_publishes.increment(1);
                PublishRateExceeded::Node { retry_after }
            })?;
        }
        Ok(self.namespace_rates.check(topic, access.publish_rate_max(topic), caller, now)?)
    }
}
