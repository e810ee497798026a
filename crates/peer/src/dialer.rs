//! Connects to one peer again and again: all its addresses in turn, with back-off.

use std::time::Duration;

use pushonce_core::{Backoff, NodeId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::addresses::AddressTable;
use crate::{ChannelKind, DialError, PeerChannel, PeerTransport};

/// The first delay is short, so that a restarted node is reconnected at once. The longest delay is the time
/// that a returning node may have to wait.
const DIAL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Makes the connections to one peer. The caller does not share a connection.
#[derive(Debug)]
pub struct Dialer {
    transport: PeerTransport,
    peer: NodeId,
    kind: ChannelKind,
    addresses: watch::Receiver<AddressTable>,
    /// Number of attempts that had an address.
    attempts: usize,
    /// The address of the last attempt.
    address: String,
    backoff: Backoff,
}

impl Dialer {
    pub(crate) fn new(transport: PeerTransport, peer: NodeId, kind: ChannelKind) -> Dialer {
        let addresses = transport.addresses().subscribe();
        let (address, backoff) = (String::new(), DIAL_BACKOFF);
        Dialer { transport, peer, kind, addresses, attempts: 0, address, backoff }
    }

    /// Makes one attempt, at the next known address.
    ///
    /// # Errors
    /// [`DialError::UnknownAddress`], or [`DialError::Unreachable`] with the reason.
    pub async fn connect(&mut self) -> Result<PeerChannel, DialError> {
        let candidates = self.addresses.borrow_and_update().candidates(self.peer);
        let nth = self.attempts.checked_rem(candidates.len()).unwrap_or(0);
        let address = candidates.into_iter().nth(nth);
        self.address = address.ok_or(DialError::UnknownAddress(self.peer))?;
        self.attempts += 1;
        self.transport.connect(self.peer, &self.address, self.kind).await
    }

    /// The address of the last attempt; empty before the first one.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The peer answered at the address of the last attempt and was accepted. It is tried first from now on,
    /// without delay.
    pub fn on_answered(&mut self) {
        self.backoff.reset();
        // The next attempt is at this address again.
        self.attempts = self.attempts.saturating_sub(1);
        self.transport.addresses().on_answered(self.peer, &self.address);
    }

    /// Waits until the next attempt is due. A changed address ends the wait.
    pub async fn wait_before_retry(&mut self) {
        let delay = self.backoff.next_delay(rand::random());
        tokio::select! {
            () = sleep(delay) => {}
            // An error is impossible: the transport holds the sender.
            _ = self.addresses.changed() => {}
        }
    }
}
