//! How often each address may fail to authenticate.

use std::time::{Duration, Instant};

use pushonce_core::{ClientAddress, RateLimit};

use crate::KeyedRates;

/// Twenty failures at once, then ten a second. A signature costs up to 0.2 ms, so an address costs at most 2 ms of
/// every second. Many clients may share an address, behind the NAT of a mobile network or a stadium: some pages that
/// repeat a bad token every second or more slowly do not reach the limit, and beyond it the next credential is read
/// after at most a tenth of a second.
const LIMIT: RateLimit = RateLimit::new(PER_SECOND, BURST);
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;

/// Counts failed authentications by address, in bounded memory. Shared by all doors of a node.
///
/// Call [`FailedAttempts::check`] before a token is verified and [`FailedAttempts::record`] after it was
/// refused. The address of this host is exempt ([`ClientAddress::is_this_host`]).
#[derive(Debug, Default)]
pub struct FailedAttempts(KeyedRates<ClientAddress>);

impl FailedAttempts {
    /// Whether a client at the address may try to authenticate now.
    ///
    /// # Errors
    /// How long it has to wait, for `Retry-After`: at most a tenth of a second.
    pub fn check(&self, address: ClientAddress, now: Instant) -> Result<(), Duration> {
        if address.is_this_host() {
            return Ok(());
        }
        match self.0.take(address, LIMIT, 0, now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Records that the credential of a client at the address was refused. Beyond the limit it records nothing: attempts
    /// that passed the check together, such as those that waited for the keys of an issuer, would close the address for
    /// minutes.
    pub fn record(&self, address: ClientAddress, now: Instant) {
        if !address.is_this_host() && self.check(address, now).is_ok() {
            self.0.take(address, LIMIT, 1, now);
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
        for nth in 0..=BURST {
            assert_eq!(attempts.check(stranger, now), Ok(()), "failure {nth}");
            attempts.record(stranger, now);
        }
        let wait = attempts.check(stranger, now).expect_err("too many failures");
        assert_eq!(wait.as_millis(), 100, "{wait:?}");
        assert_eq!(attempts.check(other, now), Ok(()));
        assert_eq!(attempts.check(stranger, now + wait), Ok(()));
    }

    #[test]
    fn address_is_read_again_soon_after_any_number_of_failures() {
        let (attempts, start) = (FailedAttempts::default(), Instant::now());
        let shared = address("192.0.2.1");
        (0..10_000).for_each(|_| attempts.record(shared, start));
        let wait = attempts.check(shared, start).expect_err("too many failures");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(attempts.check(shared, start + wait), Ok(()));
    }

    #[test]
    fn ten_clients_that_repeat_a_bad_token_every_second_close_their_address_for_nobody() {
        let (attempts, start) = (FailedAttempts::default(), Instant::now());
        let shared = address("192.0.2.1");
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            for _ in 0..10 {
                attempts.record(shared, now);
            }
            assert_eq!(attempts.check(shared, now), Ok(()), "second {second}");
        }
    }

    #[test]
    fn callers_on_this_host_are_exempt() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        let proxy = address("::1");
        (0..100).for_each(|_| attempts.record(proxy, now));
        assert_eq!(attempts.check(proxy, now), Ok(()));
    }
}
