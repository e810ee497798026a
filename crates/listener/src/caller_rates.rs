//! How often each caller may subscribe and create topics, over all doors of a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pushonce_core::{
    Acknowledgement, CallerKey, Durability, NewTopicRateExceeded, Offset, RateLimit,
    SubscribeRateExceeded,
};
use pushonce_telemetry::Counter;

use crate::{KeyedRates, metrics};

/// Seconds of its rate that a caller may subscribe at once: the sessions behind one address translator, which all
/// come back when a node restarts.
pub const SUBSCRIBE_BURST_SECONDS: u32 = 10;

/// Seconds of its rate that a caller may create topics at once: a back end that starts and publishes to each of its
/// topics.
pub const NEW_TOPIC_BURST_SECONDS: u32 = 100;

/// Counts the subscriptions and the new topics of each caller, in bounded memory. Cheap to clone; all doors of a node
/// share it. A caller on this host is not limited ([`CallerKey::is_exempt`]).
#[derive(Clone)]
pub struct CallerRates(Arc<Rates>);

struct Rates {
    subscribes: LimitedRate,
    new_topics: LimitedRate,
    started_at: Instant,
    /// No caller has to wait for new topics after this time, in nanoseconds since `started_at`: almost no publish
    /// takes the lock of the rates.
    waits_until: AtomicU64,
}

struct LimitedRate {
    rates: KeyedRates<CallerKey>,
    /// `None` for no limit.
    limit: Option<RateLimit>,
    rejected: Counter,
}

impl CallerRates {
    /// Allows each caller `subscribes` and `new_topics` a second, and
    /// [`SUBSCRIBE_BURST_SECONDS`] and [`NEW_TOPIC_BURST_SECONDS`] times as many at once; 0 for no limit.
    pub fn new(subscribes: u32, new_topics: u32) -> CallerRates {
        CallerRates(Arc::new(Rates {
            subscribes: LimitedRate {
                rates: KeyedRates::default(),
                limit: rate_limit(subscribes, SUBSCRIBE_BURST_SECONDS),
                rejected: metrics::SUBSCRIBES_REJECTED.register_counter(&[]),
            },
            new_topics: LimitedRate {
                rates: KeyedRates::default(),
                limit: rate_limit(new_topics, NEW_TOPIC_BURST_SECONDS),
                rejected: metrics::NEW_TOPICS_REJECTED.register_counter(&[]),
            },
            started_at: Instant::now(),
            waits_until: AtomicU64::new(0),
        }))
    }

    /// Counts a subscription of `caller`.
    ///
    /// # Errors
    /// [`SubscribeRateExceeded`]. The subscription is not counted then.
    pub fn check_subscribe(
        &self,
        caller: CallerKey,
        now: Instant,
    ) -> Result<(), SubscribeRateExceeded> {
        let LimitedRate { rates, limit, rejected } = &self.0.subscribes;
        let Some(limit) = limit.filter(|_| !caller.is_exempt()) else { return Ok(()) };
        rates.try_take(caller, limit, 1, now).map_err(|retry_after| {
            rejected.increment(1);
            SubscribeRateExceeded { retry_after }
        })
    }

    /// Checks that `caller`, who wants to publish, did not create topics too fast. Which publish creates a topic is
    /// only known from its acknowledgement ([`CallerRates::on_acknowledged`]), so a caller that created too many waits
    /// before its next publish of any kind.
    ///
    /// # Errors
    /// [`NewTopicRateExceeded`].
    pub fn check_publish(
        &self,
        caller: CallerKey,
        now: Instant,
    ) -> Result<(), NewTopicRateExceeded> {
        let LimitedRate { rates, limit, rejected } = &self.0.new_topics;
        let no_caller_waits = self.elapsed(now) >= self.0.waits_until.load(Ordering::Relaxed);
        let Some(limit) = limit.filter(|_| !no_caller_waits && !caller.is_exempt()) else {
            return Ok(());
        };
        rates.try_take(caller, limit, 0, now).map_err(|retry_after| {
            rejected.increment(1);
            NewTopicRateExceeded { retry_after }
        })
    }

    /// Counts a topic if this acknowledged publish of `caller` created it.
    ///
    /// Only replicated messages count. After a change of its owner each topic in memory begins again, which the
    /// acknowledgement does not distinguish from a new one; such topics leave nothing behind, and a node short of
    /// memory refuses new ones.
    pub fn on_acknowledged(
        &self,
        acknowledgement: &Acknowledgement,
        caller: CallerKey,
        now: Instant,
    ) {
        let is_first = acknowledgement.position.offset == Offset(1);
        let is_new = is_first && acknowledgement.durability == Durability::Replicated;
        let LimitedRate { rates, limit, .. } = &self.0.new_topics;
        let Some(limit) = limit.filter(|_| is_new && !caller.is_exempt()) else { return };
        let wait = rates.take(caller, limit, 1, now);
        if !wait.is_zero() {
            self.0.waits_until.fetch_max(self.elapsed(now + wait), Ordering::Relaxed);
        }
    }

    fn elapsed(&self, now: Instant) -> u64 {
        let elapsed: Duration = now.saturating_duration_since(self.0.started_at);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn rate_limit(per_second: u32, burst_seconds: u32) -> Option<RateLimit> {
    let burst = per_second.saturating_mul(burst_seconds);
    (per_second > 0).then(|| RateLimit::new(per_second, burst))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use pushonce_core::{Epoch, Position, Timestamp};

    use super::*;

    fn caller(text: &str) -> CallerKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn acknowledgement(offset: u64, durability: Durability) -> Acknowledgement {
        let position = Position { epoch: Epoch(3), offset: Offset(offset) };
        Acknowledgement { position, time: Timestamp(0), durability }
    }

    #[test]
    fn each_caller_may_subscribe_at_its_rate() {
        let (rates, now) = (CallerRates::new(2, 0), Instant::now());
        let (alice, bob) = (caller("192.0.2.1"), caller("192.0.2.2"));
        let allowed = (0..50).filter(|_| rates.check_subscribe(alice, now).is_ok()).count();
        assert_eq!(allowed, 20);
        assert_eq!(rates.check_subscribe(bob, now), Ok(()));
        let exceeded = rates.check_subscribe(alice, now).expect_err("used up");
        assert_eq!(rates.check_subscribe(alice, now + exceeded.retry_after), Ok(()));
        for _ in 0..50 {
            assert_eq!(rates.check_subscribe(caller("::1"), now), Ok(()));
            assert_eq!(CallerRates::new(0, 0).check_subscribe(alice, now), Ok(()));
        }
    }

    #[test]
    fn caller_that_created_too_many_topics_waits_before_its_next_publish() {
        let (rates, now) = (CallerRates::new(0, 1), Instant::now());
        let (alice, bob) = (caller("192.0.2.1"), caller("192.0.2.2"));
        let create = |caller| {
            rates.on_acknowledged(&acknowledgement(1, Durability::Replicated), caller, now);
        };
        (0..100).for_each(|_| create(alice));
        assert_eq!(rates.check_publish(alice, now), Ok(()), "the burst");
        // Publishes that were in flight meanwhile are counted as well.
        (0..3).for_each(|_| create(alice));
        let exceeded = rates.check_publish(alice, now).expect_err("too many");
        assert_eq!(exceeded.retry_after, Duration::from_secs(3));
        assert_eq!(rates.check_publish(bob, now), Ok(()));
        assert_eq!(rates.check_publish(alice, now + exceeded.retry_after), Ok(()));
    }

    #[test]
    fn messages_of_known_topics_and_of_topics_in_memory_create_nothing() {
        let (rates, now) = (CallerRates::new(0, 1), Instant::now());
        let alice = caller("192.0.2.1");
        for _ in 0..1_000 {
            rates.on_acknowledged(&acknowledgement(2, Durability::Replicated), alice, now);
            rates.on_acknowledged(&acknowledgement(1, Durability::Memory), alice, now);
        }
        assert_eq!(rates.check_publish(alice, now), Ok(()));
    }
}
