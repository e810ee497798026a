//! Limits of the calls that need no link: joins and identifications, by address and in all.
//!
//! A call costs an entry in the log of every node, or a connection to an address that the caller names. Callers
//! that are not members yet make them, so the limits go by address. Pure; the time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

/// Calls a second of one address. A node that starts asks every 0.3 s, and hosts may share an address.
const ADDRESS_RATE: Rate = Rate { per_second: 20, burst: 100 };

/// Calls a second of all addresses. 1,000 nodes that restart within a minute ask eight nodes each.
const TOTAL_RATE: Rate = Rate { per_second: 150, burst: 600 };

/// Maximum addresses that are remembered, some 100 bytes each. Over it, new addresses share one bucket.
const ADDRESSES_MAX: usize = 4_096;

/// How many calls are allowed: `burst` at once, and then `per_second`.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// The recent calls.
#[derive(Debug, Default)]
pub(super) struct CallLimits(Mutex<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    total: Bucket,
    /// By address; `None` for those that are not remembered.
    addresses: HashMap<Option<IpAddr>, Bucket>,
}

/// A token bucket that begins full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it is full again; `None`: it is full.
    full_at: Option<Instant>,
}

impl CallLimits {
    /// Whether a call of `address` is allowed now. An allowed call counts. `None` is a caller whose address is
    /// not known.
    pub(super) fn allow(&self, address: Option<IpAddr>, now: Instant) -> bool {
        if FailPoint::CallsUnlimited.is_active() {
            return true;
        }
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { total, addresses } = &mut *buckets;
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_remembered = addresses.contains_key(&address) || addresses.len() < ADDRESSES_MAX;
        let bucket = addresses.entry(address.filter(|_| is_remembered)).or_default();
        bucket.take(ADDRESS_RATE, now) && total.take(TOTAL_RATE, now)
    }
}

impl Bucket {
    fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let cost = Duration::from_secs(1) / rate.per_second;
        let full_at = self.full_at.unwrap_or(now).max(now) + cost;
        let is_allowed = full_at <= now + cost * rate.burst;
        if is_allowed {
            self.full_at = Some(full_at);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn allowed(limits: &CallLimits, address: Option<IpAddr>, calls: u32, now: Instant) -> u32 {
        (0..calls).map(|_| u32::from(limits.allow(address, now))).sum()
    }

    #[test]
    fn calls_of_one_address_are_limited_and_those_of_others_are_not() {
        let (limits, start) = (CallLimits::default(), Instant::now());
        assert_eq!(allowed(&limits, address(1), 1_000, start), ADDRESS_RATE.burst);
        assert_eq!(allowed(&limits, address(2), 10, start), 10);
        let later = start + Duration::from_secs(1);
        assert_eq!(allowed(&limits, address(1), 1_000, later), ADDRESS_RATE.per_second);
    }

    #[test]
    fn calls_of_all_addresses_are_limited() {
        let (limits, start) = (CallLimits::default(), Instant::now());
        let all: u32 = (0..100).map(|host| allowed(&limits, address(host), 50, start)).sum();
        assert_eq!(all, TOTAL_RATE.burst);
    }

    #[test]
    fn addresses_are_bounded() {
        let (limits, mut now) = (CallLimits::default(), Instant::now());
        for host in 0..2 * ADDRESSES_MAX as u32 {
            limits.allow(address(host), now);
            now += Duration::from_micros(1);
        }
        assert!(limits.0.lock().expect("no panic").addresses.len() <= ADDRESSES_MAX + 1);
        now += Duration::from_secs(60);
        assert!(limits.allow(address(u32::MAX), now));
        assert!(limits.0.lock().expect("no panic").addresses.len() <= 2, "full buckets are kept");
    }
}
