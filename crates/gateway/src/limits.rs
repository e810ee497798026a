//! The limits of clients that all lanes, and the gRPC port of the node, share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{CallerKey, RateLimit};
use pushonce_listener::{AddressLimits, KeyedRates, ReceiveBudget};
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
    /// Permits for connections over all transports.
    pub(crate) connections: Arc<Semaphore>,
    /// The publishes of each caller; `None` for no limit.
    publishes: Option<Arc<KeyedRates<CallerKey>>>,
    rejected_publishes: Counter,
}

/// A caller publishes more often than it may. The text says when to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "you publish too often; retry in {retry_after:?}, and send fewer, or raise --publish-rate-max of the node"
)]
pub(crate) struct PublishRateExceeded {
    pub(crate) retry_after: Duration,
}

/// Seconds of its rate that a caller may publish at once: a page that sends its queue after a reconnect.
const PUBLISH_BURST_SECONDS: u32 = 2;

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
            publishes: (rate > 0).then(|| Arc::new(KeyedRates::new(limit))),
            rejected_publishes: metrics::PUBLISHES_REJECTED.register_counter(&[]),
        }
    }

    /// Number of connections that hold a permit; `max` is the setting.
    pub(crate) fn open_connections(&self, max: usize) -> usize {
        max.min(Semaphore::MAX_PERMITS).saturating_sub(self.connections.available_permits())
    }

    /// Counts a publish of `caller`. A caller on this host is not limited ([`CallerKey::is_exempt`]).
    pub(crate) fn check_publish(&self, caller: CallerKey) -> Result<(), PublishRateExceeded> {
        let Some(rates) = self.publishes.as_ref().filter(|_| !caller.is_exempt()) else {
            return Ok(());
        };
        rates.try_take(caller, 1, Instant::now()).map_err(|retry_after| {
            self.rejected_publishes.increment(1);
            PublishRateExceeded { retry_after }
        })
    }
}
