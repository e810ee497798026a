//! The service by which other nodes ask this one for its part of the console.

use pushonce_peer::PeerTransport;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::monitoring_service_server::{
    MonitoringService, MonitoringServiceServer,
};
use tonic::{Request, Response, Status};

use super::query::TreeQuery;
use super::{LocalMonitoring, sessions, topics};

/// Answers other nodes.
pub(in crate::node) struct Monitoring {
    /// Checks the greeting of the caller.
    pub(in crate::node) transport: PeerTransport,
    pub(in crate::node) local: LocalMonitoring,
}

impl Monitoring {
    /// The gRPC service for the peer port.
    pub(in crate::node) fn service(self) -> MonitoringServiceServer<Monitoring> {
        MonitoringServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl MonitoringService for Monitoring {
    async fn topic_tree(
        &self,
        request: Request<pb::TopicTreeRequest>,
    ) -> Result<Response<pb::TopicTreeResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let pb::TopicTreeRequest { prefix, after, count_max } = request.into_inner();
        let query = TreeQuery { prefix, after, limit: count_max };
        let page = topics::local_page(&self.local.owned, &query).await;
        Ok(self.transport.respond(peer, page.into()))
    }

    async fn samples(
        &self,
        request: Request<pb::SamplesRequest>,
    ) -> Result<Response<pb::SamplesResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let samples = self.local.samples.newest(request.into_inner().count_max);
        let samples = samples.into_iter().map(pb::Sample::from).collect();
        Ok(self.transport.respond(peer, pb::SamplesResponse { samples }))
    }

    async fn slow_sessions(
        &self,
        request: Request<pb::SlowSessionsRequest>,
    ) -> Result<Response<pb::SlowSessionsResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let found = sessions::local_sessions(&self.local, request.into_inner().count_max).await;
        Ok(self.transport.respond(peer, sessions::to_response(found)))
    }
}
