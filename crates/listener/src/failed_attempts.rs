//! How often each caller may fail to authenticate.

use std::time::{Duration, Instant};

use pushonce_core::{CallerKey, RateLimit};

use crate::KeyedRates;

/// Ten failures at once, then one in six seconds: a person who copies a token twice does not notice, and a
/// program that retries costs less than a signature a second.
const PER_MINUTE: u32 = 10;
const BURST_MINUTES: u32 = 1;

/// Counts failed authentications by caller, in bounded memory. Shared by all doors of a node.
///
/// Call [`FailedAttempts::check`] before a token is verified and [`FailedAttempts::record`] after it was
/// refused. A caller on this host is exempt ([`CallerKey::is_exempt`]).
#[derive(Debug, Default)]
pub struct FailedAttempts(KeyedRates<CallerKey>);

/// In units of a sixtieth of a failure: rates are whole numbers a second.
const LIMIT: RateLimit = RateLimit::new(PER_MINUTE, UNITS_PER_FAILURE * PER_MINUTE * BURST_MINUTES);
const UNITS_PER_FAILURE: u32 = 60;

impl FailedAttempts {
    /// Whether the caller may try to authenticate now.
    ///
    /// # Errors
    /// How long the caller has to wait, for `Retry-After`.
    pub fn check(&self, caller: CallerKey, now: Instant) -> Result<(), Duration> {
        if caller.is_exempt() {
            return Ok(());
        }
        match self.0.take(caller, LIMIT, 0, now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Records that the token of a caller was refused.
    pub fn record(&self, caller: CallerKey, now: Instant) {
        if !caller.is_exempt() {
            self.0.take(caller, LIMIT, UNITS_PER_FAILURE, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn caller(text: &str) -> CallerKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn caller_that_fails_too_often_waits_and_others_do_not() {
        let attempts = FailedAttempts::default();
        let (stranger, other, now) = (caller("192.0.2.1"), caller("192.0.2.2"), Instant::now());
        for nth in 0..=PER_MINUTE {
            assert_eq!(attempts.check(stranger, now), Ok(()), "failure {nth}");
            attempts.record(stranger, now);
        }
        let wait = attempts.check(stranger, now).expect_err("too many failures");
        assert_eq!(wait.as_secs(), 6, "{wait:?}");
        assert_eq!(attempts.check(other, now), Ok(()));
        assert_eq!(attempts.check(stranger, now + wait), Ok(()));
    }

    #[test]
    fn callers_on_this_host_are_exempt() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        let proxy = caller("::1");
        (0..100).for_each(|_| attempts.record(proxy, now));
        assert_eq!(attempts.check(proxy, now), Ok(()));
    }
}
