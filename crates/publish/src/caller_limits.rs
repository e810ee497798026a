//! How often each caller may publish, create topics and subscribe over gRPC.

use std::time::{Duration, Instant};

use pushonce_auth::AccessControl;
use pushonce_auth::audit::Requester;
use pushonce_core::{
    Acknowledgement, NamespaceRateExceeded, NewTopicRateExceeded, OverloadReason, PublishError,
    SubscribeRateExceeded, Topic,
};
use pushonce_listener::{CallerRates, NamespaceRates};

/// The limits that the doors of a node share, as far as they apply to back ends.
#[derive(Clone)]
pub(crate) struct CallerLimits {
    pub namespace_rates: NamespaceRates,
    pub caller_rates: CallerRates,
    pub access: AccessControl,
}

/// A caller publishes more often than it may.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishRateExceeded {
    #[error(transparent)]
    Namespace(#[from] NamespaceRateExceeded),
    #[error(transparent)]
    NewTopics(#[from] NewTopicRateExceeded),
}

impl CallerLimits {
    /// Counts a publish to `topic`.
    pub(crate) fn check_publish(
        &self,
        requester: &Requester,
        topic: &Topic,
    ) -> Result<(), PublishRateExceeded> {
        let (caller, now) = (requester.key(), Instant::now());
        self.caller_rates.check_publish(caller, now)?;
        Ok(self.namespace_rates.check(topic, self.access.publish_rate_max(topic), caller, now)?)
    }

    /// Counts the topic that a publish created, if it did.
    pub(crate) fn on_outcome(
        &self,
        requester: &Requester,
        outcome: &Result<Acknowledgement, PublishError>,
    ) {
        if let Ok(acknowledgement) = outcome {
            self.caller_rates.on_acknowledged(acknowledgement, requester.key(), Instant::now());
        }
    }

    /// Counts a subscription.
    pub(crate) fn check_subscribe(
        &self,
        requester: &Requester,
    ) -> Result<(), SubscribeRateExceeded> {
        self.caller_rates.check_subscribe(requester.key(), Instant::now())
    }
}

impl PublishRateExceeded {
    /// How long the caller has to wait.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            PublishRateExceeded::Namespace(exceeded) => exceeded.retry_after,
            PublishRateExceeded::NewTopics(exceeded) => exceeded.retry_after,
        }
    }
}

impl From<PublishRateExceeded> for OverloadReason {
    fn from(exceeded: PublishRateExceeded) -> OverloadReason {
        match exceeded {
            PublishRateExceeded::Namespace(exceeded) => exceeded.into(),
            PublishRateExceeded::NewTopics(exceeded) => exceeded.into(),
        }
    }
}
