//! The sending side of snapshot transfers to one peer: each step is one call on the data channel, so that no
//! piece is in front of a vote or an entry.

use std::time::Duration;

use bytes::Bytes;
use pushonce_core::NodeId;
use pushonce_peer::{DialError, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Request;

use super::rollback::RollbackDetector;
use crate::GroupId;

/// Maximum snapshot pieces of all groups in flight to one peer: one on the wire while the other is written
/// to the peer's disk. The sending groups alternate.
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// Sends the steps of transfers to one peer. Shared by all groups.
pub(crate) struct SnapshotChannel {
    peer: NodeId,
    transport: PeerTransport,
    rollback_detector: RollbackDetector,
    /// Permits to send pieces, granted to groups in request order.
    piece_permits: Semaphore,
}

impl SnapshotChannel {
    pub(super) fn new(
        peer: NodeId,
        transport: PeerTransport,
        rollback_detector: RollbackDetector,
    ) -> SnapshotChannel {
        let piece_permits = Semaphore::new(PIECES_IN_FLIGHT_MAX);
        SnapshotChannel { peer, transport, rollback_detector, piece_permits }
    }

    /// Waits for the permit to send a snapshot piece; hold it until the response. Never `None` while the
    /// channel exists.
    pub(crate) async fn acquire_piece_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.piece_permits.acquire().await.ok()
    }

    /// Sends one step and returns the response. An error leaves open whether the step had an effect; it may
    /// be repeated.
    pub(crate) async fn send_step(
        &self,
        group: GroupId,
        body: Bytes,
        data: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, DialError> {
        let mut client = RaftServiceClient::new(self.transport.data_channel(self.peer)?);
        let mut request = Request::new(pb::TransferRequest { group: group.0, body, data });
        self.rollback_detector.insert_handshake(self.peer, request.metadata_mut());
        let call = client.transfer(request);
        let response = self.transport.check_response(self.peer, timeout, call).await;
        let response = self.rollback_detector.check_response(self.peer, response)?;
        Ok(response.body.body)
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ClusterId, ConsensusTimes};
    use pushonce_peer::PeerAddresses;

    use super::*;
    use crate::network::Fence;
    use crate::store::WriteCounter;

    fn channel() -> SnapshotChannel {
        let (me, addresses) = (NodeId(1), PeerAddresses::default());
        let transport = PeerTransport::new(ClusterId(7), me, addresses, &ConsensusTimes::LAN);
        let (counter, fence) = (WriteCounter::default(), Fence::default());
        let detector = RollbackDetector::new(me, 0, counter, None, fence);
        SnapshotChannel::new(NodeId(2), transport, detector)
    }

    #[tokio::test]
    async fn pieces_in_flight_are_limited_for_all_groups_together() {
        let channel = channel();
        let first = channel.acquire_piece_permit().await;
        let _second = channel.acquire_piece_permit().await;
        let mut third = std::pin::pin!(channel.acquire_piece_permit());
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn step_to_a_peer_without_address_fails_at_once() {
        let sent = channel()
            .send_step(GroupId(1), Bytes::new(), Bytes::new(), Duration::from_secs(60))
            .await;
        assert!(matches!(sent, Err(DialError::UnknownAddress(NodeId(2)))), "{sent:?}");
    }
}
