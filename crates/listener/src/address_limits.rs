//! The open connections and the rate of new connections of each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pushonce_core::{ClientAddress, RateLimit};

use crate::KeyedRates;

/// The new connections of one address, a second and at once. A network address translator of a stadium or a
/// mobile provider brings some hundred viewers a second, a thousand and more in the first seconds; a single
/// host can open 20,000 a second, and each costs a handshake.
const CONNECTION_RATE: RateLimit = RateLimit::new(500, 4_000);

/// Limits of one client address over the ports that share them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressLimits(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    /// Maximum number of open connections; 0 for no limit.
    connections_max: usize,
    rates: KeyedRates<ClientAddress>,
    open: Mutex<HashMap<ClientAddress, usize>>,
}

/// The permit of one connection, released when it is dropped.
#[derive(Debug)]
pub struct AddressPermit {
    /// `None` for an address that is not limited.
    counted: Option<(Arc<Limits>, ClientAddress)>,
}

/// Why a connection of an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    /// The address has its maximum of open connections.
    #[error(
        "the address has {max} open connections, its maximum; close some, or raise --address-connections-max"
    )]
    TooMany {
        /// The maximum.
        max: usize,
    },
    /// The address opens connections too fast.
    #[error(
        "the address opens connections too fast; reconnect after a pause, and later after each failure"
    )]
    TooFast,
}

impl AddressLimits {
    /// Limits each address to `connections_max` open connections and to a constant rate of new ones. 0 for
    /// neither limit.
    pub fn new(connections_max: usize) -> AddressLimits {
        AddressLimits(Arc::new(Limits {
            connections_max,
            rates: KeyedRates::default(),
            open: Mutex::default(),
        }))
    }

    /// Returns the permit of a new connection. The address of this host is not limited
    /// ([`ClientAddress::is_this_host`]).
    ///
    /// # Errors
    /// [`AddressRefusal`], which names the limit.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<AddressPermit, AddressRefusal> {
        let client = ClientAddress::from(address);
        if self.0.connections_max == 0 || client.is_this_host() {
            return Ok(AddressPermit { counted: None });
        }
        self.0
            .rates
            .try_take(client, CONNECTION_RATE, 1, now)
            .map_err(|_| AddressRefusal::TooFast)?;
        self.count(address)
    }

    /// Returns the permit of a new connection without the limit of the rate: for a client whose address may be forged.
    ///
    /// # Errors
    /// [`AddressRefusal::TooMany`].
    pub fn count(&self, address: IpAddr) -> Result<AddressPermit, AddressRefusal> {
        let (address, max) = (ClientAddress::from(address), self.0.connections_max);
        if max == 0 || address.is_this_host() {
            return Ok(AddressPermit { counted: None });
        }
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= max {
            return Err(AddressRefusal::TooMany { max });
        }
        *count += 1;
        Ok(AddressPermit { counted: Some((self.0.clone(), address)) })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some((limits, address)) = &self.counted else { return };
        let mut open = limits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                open.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
    const VIEWER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THIS_HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn address_with_its_maximum_is_refused_until_a_connection_ends() {
        let limits = AddressLimits::new(2);
        let now = Instant::now();
        let mut permits: Vec<_> = (0..2).filter_map(|_| limits.admit(STRANGER, now).ok()).collect();
        let refusal = limits.admit(STRANGER, now).expect_err("full");
        assert_eq!(refusal, AddressRefusal::TooMany { max: 2 });
        assert!(limits.admit(VIEWER, now).is_ok());
        permits.pop();
        assert!(limits.admit(STRANGER, now).is_ok());
        drop(permits);
        assert!(limits.0.open.lock().expect("no panic").is_empty());
    }

    #[test]
    fn address_that_opens_connections_too_fast_is_refused() {
        let limits = AddressLimits::new(1_000_000);
        let now = Instant::now();
        let accepted = (0..10_000).filter(|_| limits.admit(STRANGER, now).is_ok()).count();
        assert_eq!(accepted, 4_000);
        assert_eq!(limits.admit(STRANGER, now).expect_err("fast"), AddressRefusal::TooFast);
        assert!(limits.admit(VIEWER, now).is_ok());
        assert!(limits.admit(STRANGER, now + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn own_host_is_not_limited() {
        let limits = AddressLimits::new(1);
        let now = Instant::now();
        assert!((0..10).all(|_| limits.admit(THIS_HOST, now).map(std::mem::forget).is_ok()));
        let limits = AddressLimits::new(0);
        assert!((0..10_000).all(|_| limits.admit(STRANGER, now).is_ok()), "0 is no limit");
    }
}
