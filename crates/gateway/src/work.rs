//! What the requests of a session cost its lane, so that no session takes more than its share of it.
//!
//! A session reads until its requests have cost [`TURN_MICROS`], and then lets the others run. One that costs more
//! than [`WORK_RATE`] is not read for a while: nothing is refused, it only waits.

use std::time::{Duration, Instant};

use pushonce_core::{Gcra, RateLimit};
use pushonce_proto::client::ClientCommand;

/// Work of one session in one turn, in microseconds: a fan-out turn of a lane takes about a millisecond.
pub(crate) const TURN_MICROS: u32 = 2_000;

/// Work of one session: a tenth of a lane, in microseconds a second, and a second's worth of it at once. A
/// session that subscribes to its maximum of 1,000 topics when it connects does not wait.
const WORK_RATE: RateLimit = RateLimit::new(100_000, 100_000);

/// Cost of a subscribe request: a reservation at the hub, a task, a page of history, a reply.
const SUBSCRIBE_MICROS: u32 = 30;

/// Cost of an `authenticate` request without subscriptions: most of it is the verification of the signature.
const AUTHENTICATE_MICROS: u32 = 200;

/// Cost of the check of one subscription after an `authenticate` request.
const CHECK_SUBSCRIPTION_MICROS: u32 = 5;

/// Cost of any other request: parsing, routing and a reply.
const REQUEST_MICROS: u32 = 5;

/// Inflated bytes that cost a microsecond, with their UTF-8 check.
const INFLATED_BYTES_PER_MICRO: usize = 300;

/// The cost of a request of a session. `subscriptions` counts those that a new token makes necessary to check.
pub(crate) fn request_micros(
    command: &ClientCommand,
    subscriptions: impl FnOnce() -> usize,
) -> u32 {
    match command {
        ClientCommand::Subscribe { .. } => SUBSCRIBE_MICROS,
        ClientCommand::Authenticate { .. } => {
            let count = u32::try_from(subscriptions()).unwrap_or(u32::MAX);
            count.saturating_mul(CHECK_SUBSCRIPTION_MICROS).saturating_add(AUTHENTICATE_MICROS)
        }
        _ => REQUEST_MICROS,
    }
}

/// The cost of a frame that is no request.
pub(crate) const INVALID_FRAME_MICROS: u32 = REQUEST_MICROS;

/// The cost of inflating a message to `bytes`.
pub(crate) fn inflate_micros(bytes: usize) -> u32 {
    u32::try_from(bytes / INFLATED_BYTES_PER_MICRO).unwrap_or(u32::MAX)
}

/// The work of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkMeter(Gcra);

impl WorkMeter {
    /// Charges work that was done at `now`, on a lane that started at `lane_started_at`. Returns how long the session
    /// must not be read.
    pub(crate) fn charge(
        &mut self,
        micros: u32,
        now: Instant,
        lane_started_at: Instant,
    ) -> Duration {
        let elapsed = now.saturating_duration_since(lane_started_at).as_nanos();
        self.0.take(WORK_RATE, micros, u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{AccessToken, StartFrom, SubscribeOptions, test_util::topic};

    use super::*;

    #[test]
    fn thousand_subscriptions_at_once_do_not_wait_and_a_storm_does() {
        let (mut meter, start) = (WorkMeter::default(), Instant::now());
        let subscribe = ClientCommand::Subscribe {
            topic: topic("a"),
            from: StartFrom::Now,
            options: SubscribeOptions::default(),
        };
        let micros = request_micros(&subscribe, || unreachable!("only a new token needs them"));
        let mut charge = |count: u32| meter.charge(count * micros, start, start);
        assert_eq!(charge(1_000), Duration::ZERO);
        assert!(charge(100_000) > Duration::from_secs(20));
    }

    #[test]
    fn renewals_of_a_token_with_many_subscriptions_wait() {
        let (mut meter, start) = (WorkMeter::default(), Instant::now());
        let authenticate = ClientCommand::Authenticate { token: AccessToken::new("token") };
        let mut renew = |subscriptions| {
            meter.charge(request_micros(&authenticate, || subscriptions), start, start)
        };
        assert_eq!(renew(1_000), Duration::ZERO);
        let wait = (0..100).map(|_| renew(1_000)).last();
        assert!(wait.is_some_and(|wait| wait > Duration::from_secs(4)), "{wait:?}");
    }

    #[test]
    fn inflated_bytes_count_as_work() {
        let (mut meter, start) = (WorkMeter::default(), Instant::now());
        assert_eq!(meter.charge(inflate_micros(1 << 20), start, start), Duration::ZERO);
        let wait = (0..100).map(|_| meter.charge(inflate_micros(1 << 20), start, start)).last();
        assert!(wait.is_some_and(|wait| wait > Duration::from_secs(2)), "{wait:?}");
        assert_eq!(inflate_micros(usize::MAX), u32::MAX);
    }
}
