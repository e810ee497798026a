//! The keys with which the nodes of a cluster encrypt TLS session tickets.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A secret key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey(pub [u8; 32]);

/// The key for new tickets, and the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Encrypts new tickets.
    pub current: TicketKey,
    /// Decrypts tickets that were issued before the last rotation.
    pub previous: Option<TicketKey>,
    /// When the current key was generated, by the clock of the node that did.
    pub rotated_at: Timestamp,
}

impl TicketKeys {
    /// How often the key is replaced. The holder of a key can decrypt resumed sessions of at most twice this
    /// time, and a client can resume a session for at least this time.
    pub const ROTATION_INTERVAL: Duration = Duration::from_secs(12 * 3600);

    /// Whether the key is to be replaced at `now`. A key from the future counts as old: the clock of its node was
    /// wrong.
    pub fn is_rotation_due(&self, now: Timestamp) -> bool {
        now.0.abs_diff(self.rotated_at.0) >= interval_ms()
    }

    /// Replaces the current key by one that was generated at `now`. A key that was generated too soon after the
    /// current one is ignored: it is a repeated proposal, or one of two leaders.
    pub fn rotate(keys: &mut Option<TicketKeys>, next: TicketKey, now: Timestamp) {
        if keys.as_ref().is_none_or(|keys| keys.is_rotation_due(now)) {
            let previous = keys.take().map(|keys| keys.current);
            *keys = Some(TicketKeys { current: next, previous, rotated_at: now });
        }
    }
}

/// Keys are not printed.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

fn interval_ms() -> u64 {
    u64::try_from(TicketKeys::ROTATION_INTERVAL.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn key(byte: u8) -> TicketKey {
        TicketKey([byte; 32])
    }

    #[test]
    fn two_keys_are_kept_and_early_rotations_are_ignored() {
        let mut keys = None;
        let mut rotate = |byte, hour: u64| {
            TicketKeys::rotate(&mut keys, key(byte), Timestamp(100 * HOUR_MS + hour * HOUR_MS));
            let keys = keys.clone().expect("a key");
            (keys.current, keys.previous)
        };
        assert_eq!(rotate(1, 0), (key(1), None));
        assert_eq!(rotate(2, 11), (key(1), None));
        assert_eq!(rotate(3, 12), (key(3), Some(key(1))));
        assert_eq!(rotate(4, 24), (key(4), Some(key(3))));
    }

    #[test]
    fn key_from_a_wrong_clock_is_replaced() {
        let mut keys = None;
        TicketKeys::rotate(&mut keys, key(1), Timestamp(1_000 * HOUR_MS));
        let keys = keys.expect("a key");
        assert!(!keys.is_rotation_due(Timestamp(1_011 * HOUR_MS)));
        assert!(keys.is_rotation_due(Timestamp(10 * HOUR_MS)));
    }

    #[test]
    fn key_is_not_printed() {
        assert_eq!(format!("{:?}", key(7)), "TicketKey(..)");
    }
}
