//! The limit of what is sent to an address that is not proven: three times the bytes received from it (RFC 9000, 8.1).
//!
//! `quinn-proto` sends a whole packet while any byte of the limit is left, so with one first packet of a client it
//! sends up to four times as much, repeated packets included. Here the packet that would exceed the limit is dropped:
//! the network may lose any packet, and a client that waits sends its own again, which raises the limit.

/// Bytes that may be sent for each received byte.
const FACTOR: usize = 3;

/// The bytes of a connection until the client has proven its address with its part of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnprovenAddress {
    received: usize,
    sent: usize,
}

impl UnprovenAddress {
    pub(crate) fn on_received(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// Counts a packet if it may be sent.
    pub(crate) fn try_send(&mut self, bytes: usize) -> bool {
        let is_allowed = self.sent + bytes <= FACTOR * self.received;
        if is_allowed {
            self.sent += bytes;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_three_times_the_received_bytes_are_sent() {
        let mut address = UnprovenAddress::default();
        assert!(!address.try_send(1));
        address.on_received(1_200);
        let sent = [1_200, 1_200, 138, 1_200, 1_000].map(|bytes| address.try_send(bytes));
        assert_eq!(sent, [true, true, true, false, true]);
        address.on_received(100);
        assert!(address.try_send(300));
    }
}
