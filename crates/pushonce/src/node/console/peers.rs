//! Calls of the other nodes for their parts of a page.

use std::time::Duration;

use futures::future::join_all;
use pushonce_core::NodeId;
use pushonce_peer::PeerChannel;
use pushonce_proto::pb::peer::v1::monitoring_service_client::MonitoringServiceClient;
use tonic::{Response, Status};

use super::ConsoleData;

/// Timeout of each response: longer than a busy node takes. A page that shows one node less is better than one that waits
/// for it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The client of another node.
pub(super) type MonitoringClient = MonitoringServiceClient<PeerChannel>;

impl ConsoleData {
    /// Calls all other members at the same time. `None` stands for a member that is not reachable, does not know the
    /// request, or does not respond in time.
    pub(super) async fn ask_peers<W, F>(
        &self,
        call: impl Fn(MonitoringClient) -> F,
    ) -> Vec<(NodeId, Option<W>)>
    where
        F: Future<Output = Result<Response<W>, Status>>,
    {
        let overview = &self.overview;
        let members: Vec<_> = overview.view.borrow().members.keys().copied().collect();
        let reachable = overview.reachable_nodes.borrow().clone();
        let others = members.into_iter().filter(|&node| node != overview.me);
        let requests = others.map(|node| {
            let channel = overview.transport.data_channel(node).ok();
            let channel = channel.filter(|_| reachable.contains(&node));
            let request = channel.map(|channel| call(MonitoringServiceClient::new(channel)));
            async move {
                let Some(request) = request else { return (node, None) };
                let response = overview.transport.check_response(node, REQUEST_TIMEOUT, request);
                (node, response.await.ok().map(|(_version, response)| response.into_inner()))
            }
        });
        join_all(requests).await
    }
}
