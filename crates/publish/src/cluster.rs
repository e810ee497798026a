//! The gRPC service of operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::{NamespaceChange, NodeId, ShardId, Topic};
use pushonce_proto::cluster::{self, Explained, Progress, Seen, Shard};
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::cluster::v1::cluster_server;
use tonic::{Request, Response, Status};

use crate::{OperationError, Operations, Overview, Snapshot, Topics};

/// The most topics that one answer lists: some hundred KiB.
pub const TOPICS_MAX: usize = 1_000;

pub(crate) struct Cluster {
    pub overview: Arc<dyn Overview>,
    pub topics: Arc<dyn Topics>,
    pub operations: Arc<dyn Operations>,
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let progress = self.overview.progress().await;
        let problems = self.overview.problems(&progress);
        Ok(Response::new(status(self.overview.snapshot(), progress, problems).into()))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let pb::DrainRequest { node, force } = request.into_inner();
        self.operations.drain(NodeId(node), force).await.map_err(refused)?;
        Ok(Response::new(pb::DrainResponse {}))
    }

    async fn undrain(
        &self,
        request: Request<pb::UndrainRequest>,
    ) -> Result<Response<pb::UndrainResponse>, Status> {
        let node = NodeId(request.into_inner().node);
        self.operations.undrain(node).await.map_err(refused)?;
        Ok(Response::new(pb::UndrainResponse {}))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveRequest>,
    ) -> Result<Response<pb::RemoveResponse>, Status> {
        let pb::RemoveRequest { node, force } = request.into_inner();
        self.operations.remove(NodeId(node), force).await.map_err(refused)?;
        Ok(Response::new(pb::RemoveResponse {}))
    }

    async fn finalize(
        &self,
        _: Request<pb::FinalizeRequest>,
    ) -> Result<Response<pb::FinalizeResponse>, Status> {
        let version = self.operations.finalize().await.map_err(refused)?;
        Ok(Response::new(pb::FinalizeResponse { cluster_version: version.0.into() }))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let topic = named(&request.into_inner().topic)?;
        let explained = explain(topic, &self.overview.snapshot());
        let unknown = || Status::unavailable("this node has no view of its cluster yet");
        Ok(Response::new(explained.ok_or_else(unknown)?.into()))
    }

    async fn topic(
        &self,
        request: Request<pb::TopicRequest>,
    ) -> Result<Response<pb::TopicResponse>, Status> {
        let topic = named(&request.into_inner().topic)?;
        let known = self.topics.describe(topic).await;
        Ok(Response::new(known.map_err(|why| Status::unavailable(why.to_string()))?.into()))
    }

    async fn topics(
        &self,
        request: Request<pb::TopicsRequest>,
    ) -> Result<Response<pb::TopicsResponse>, Status> {
        let pb::TopicsRequest { prefix, after, count_max } = request.into_inner();
        let after = (!after.is_empty()).then(|| named(&after)).transpose()?;
        let count_max = usize::try_from(count_max).unwrap_or(TOPICS_MAX);
        let count_max = if count_max == 0 { TOPICS_MAX } else { count_max.min(TOPICS_MAX) };
        Ok(Response::new(self.topics.list(prefix, after, count_max).await.into()))
    }

    async fn namespaces(
        &self,
        _: Request<pb::NamespacesRequest>,
    ) -> Result<Response<pb::NamespacesResponse>, Status> {
        Ok(Response::new((&self.overview.snapshot().view.namespaces).into()))
    }

    async fn set_namespace(
        &self,
        request: Request<pb::SetNamespaceRequest>,
    ) -> Result<Response<pb::SetNamespaceResponse>, Status> {
        let pb::SetNamespaceRequest { name, change, force } = request.into_inner();
        let change = change.map(NamespaceChange::try_from).transpose();
        let change = change.map_err(|why| Status::invalid_argument(why.to_string()))?;
        let settings = self.operations.set_namespace(name, change, force).await.map_err(refused)?;
        Ok(Response::new(pb::SetNamespaceResponse { settings: Some((&settings).into()) }))
    }

    async fn set_times(
        &self,
        request: Request<pb::SetTimesRequest>,
    ) -> Result<Response<pb::SetTimesResponse>, Status> {
        let times = request.into_inner().times;
        let times = times.ok_or_else(|| Status::invalid_argument("times is missing"))?;
        self.operations.set_times(times.into()).await.map_err(refused)?;
        Ok(Response::new(pb::SetTimesResponse {}))
    }
}

fn named(name: &str) -> Result<Topic, Status> {
    Topic::new(name).map_err(|why| Status::invalid_argument(why.to_string()))
}

fn refused(why: OperationError) -> Status {
    match why {
        OperationError::Invalid(text) => Status::invalid_argument(text),
        OperationError::Refused(text) => Status::failed_precondition(text),
        OperationError::Unavailable(text) => Status::unavailable(text),
    }
}

fn status(
    snapshot: Snapshot,
    mut progress: BTreeMap<ShardId, Progress>,
    problems: Vec<cluster::Problem>,
) -> cluster::Status {
    let Snapshot { me, view, owners, reachable, control, conflict } = snapshot;
    let seen = |member: &pushonce_core::Member| Seen {
        reachable: member.id == me || reachable.contains(&member.id),
        member: member.clone(),
    };
    let mut shard = |id| Shard {
        progress: progress.remove(&id),
        ..Shard::of(id, view.placement.of(id), owners.claim(id))
    };
    cluster::Status {
        cluster: view.cluster,
        node: me,
        version: view.version,
        placement_version: view.placement.version,
        replicas: view.replicas,
        control,
        members: view.members.values().map(seen).collect(),
        shards: view.shards.ids().map(&mut shard).collect(),
        conflict,
        problems,
        times: view.times,
        cluster_version: view.cluster_version,
    }
}

fn explain(topic: Topic, snapshot: &Snapshot) -> Option<Explained> {
    let shard = snapshot.view.shard_of(&topic)?;
    Some(Explained {
        topic,
        shard,
        owner: snapshot.owners.of(shard),
        wanted: snapshot.view.placement.of(shard).to_vec(),
    })
}
