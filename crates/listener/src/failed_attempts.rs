//! How often each address may fail to authenticate.

use std::time::{Duration, Instant};

use pushonce_core::{ClientAddress, RateLimit};

use crate::KeyedRates;

/// Ten failures at once, then one in six seconds: a person who copies a token twice does not notice, and a
/// program that retries costs less than a signature a second.
const PER_MINUTE: u32 = 10;
const BURST_MINUTES: u32 = 1;

/// Counts failed authentications by address, in bounded memory. Shared by all doors of a node.
///
/// Call [`FailedAttempts::check`] before a token is verified and [`FailedAttempts::record`] after it was
/// refused. The address of this host is exempt ([`ClientAddress::is_this_host`]).
#[derive(Debug, Default)]
pub struct FailedAttempts(KeyedRates<ClientAddress>);

/// In units of a sixtieth of a failure: rates are whole numbers a second.
const LIMIT: RateLimit = RateLimit::new(PER_MINUTE, UNITS_PER_FAILURE * PER_MINUTE * BURST_MINUTES);
const UNITS_PER_FAILURE: u32 = 60;

impl FailedAttempts {
    /// Whether a client at the address may try to authenticate now.
    ///
    /// # Errors
    /// How long it has to wait, for `Retry-After`.
    pub fn check(&self, address: ClientAddress, now: Instant) -> Result<(), Duration> {
        if address.is_this_host() {
            return Ok(());
        }
        match self.0.take(address, LIMIT, 0, now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Records that the credential of a client at the address was refused.
    pub fn record(&self, address: ClientAddress, now: Instant) {
        if !address.is_this_host() {
            self.0.take(address, LIMIT, UNITS_PER_FAILURE, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn address_that_fails_too_often_waits_and_others_do_not() {
        let attempts = FailedAttempts::default();
        let (stranger, other, now) = (address("192.0.2.1"), address("192.0.2.2"), Instant::now());
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
        let proxy = address("::1");
        (0..100).for_each(|_| attempts.record(proxy, now));
        assert_eq!(attempts.check(proxy, now), Ok(()));
    }
}
