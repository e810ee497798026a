//! How often each caller may publish to each namespace.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{CallerKey, NamespaceRateExceeded, RateLimit, Topic};
use pushonce_telemetry::Counter;

use crate::{KeyedRates, metrics};

/// Seconds of its rate that a caller may publish at once: a page that sends its queue after a reconnect.
pub const PUBLISH_BURST_SECONDS: u32 = 2;

/// Counts the publishes of each caller to each namespace that limits them, in bounded memory. Cheap to clone; all
/// doors of a node share it.
#[derive(Clone)]
pub struct NamespaceRates {
    rates: Arc<KeyedRates<NamespaceCaller>>,
    rejected: Counter,
}

/// The hash of a namespace, and a caller. Namespaces with the same hash share the quota of a caller.
type NamespaceCaller = (u64, CallerKey);

impl Default for NamespaceRates {
    fn default() -> NamespaceRates {
        let rejected = metrics::NAMESPACE_PUBLISHES_REJECTED.register_counter(&[]);
        NamespaceRates { rates: Arc::default(), rejected }
    }
}

impl NamespaceRates {
    /// Counts a publish of `caller` to `topic`, whose namespace allows it `max` a second; `None` for no limit. A
    /// caller on this host is not limited ([`CallerKey::is_exempt`]).
    ///
    /// # Errors
    /// [`NamespaceRateExceeded`]. The publish is not counted then.
    pub fn check(
        &self,
        topic: &Topic,
        max: Option<NonZeroU32>,
        caller: CallerKey,
        now: Instant,
    ) -> Result<(), NamespaceRateExceeded> {
        let Some(max) = max.filter(|_| !caller.is_exempt()) else { return Ok(()) };
        let limit = RateLimit::new(max.get(), max.get().saturating_mul(PUBLISH_BURST_SECONDS));
        let key = (topic.namespace_hash64(), caller);
        self.rates.try_take(key, limit, 1, now).map_err(|retry_after| {
            self.rejected.increment(1);
            NamespaceRateExceeded { namespace: topic.namespace().to_owned(), max, retry_after }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn each_caller_has_its_own_rate_in_each_namespace() {
        let (rates, now) = (NamespaceRates::default(), Instant::now());
        let [chat, other, news] =
            ["chat/7", "chat/8", "news"].map(|name| Topic::new(name).expect("valid"));
        let caller = |text: &str| text.parse::<IpAddr>().expect("an address").into();
        let (alice, bob, this_host) = (caller("192.0.2.1"), caller("192.0.2.2"), caller("::1"));
        let check = |topic, caller| rates.check(topic, NonZeroU32::new(1), caller, now);
        assert_eq!([check(&chat, alice), check(&other, alice)], [Ok(()), Ok(())]);
        let exceeded = check(&chat, alice).expect_err("two at once, then one a second");
        assert_eq!(exceeded.namespace, "chat");
        let later = now + exceeded.retry_after;
        assert_eq!(rates.check(&chat, NonZeroU32::new(1), alice, later), Ok(()));
        for (topic, caller) in [(&chat, bob), (&news, alice)] {
            assert_eq!(check(topic, caller), Ok(()));
        }
        for _ in 0..10 {
            assert_eq!(check(&chat, this_host), Ok(()));
            assert_eq!(rates.check(&chat, None, alice, now), Ok(()));
        }
    }
}
