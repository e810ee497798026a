//! The gRPC service of operators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pushonce_auth::audit::{self, Requester};
use pushonce_auth::{AccessControl, Action};
use pushonce_core::{
    ConsensusTimes, JoinTokenId, JoinTokenStatus, NamespaceChange, NodeId, RevokedTokens, ShardId,
    Timestamp, Topic, TopicRemoval,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::cluster::{
    self, MemberStatus, RemovedMessages, ShardMoveProgress, ShardStatus, TopicLocation, TopicQuery,
};
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::cluster::v1::cluster_service_server;
use tonic::{Code, Request, Response, Status};

use crate::authenticate;
use crate::{AdminError, ClusterAdmin, ClusterSnapshot, ClusterStatusProvider, TopicDirectory};

/// Maximum number of topics in one reply: some hundred KiB.
pub const TOPICS_MAX: u32 = 1_000;

/// How long a revocation is kept when the request does not say: 30 days, longer than most tokens are valid. A token
/// that outlives its revocation is accepted again.
const REVOCATION_KEEP_MS: u64 = 30 * 24 * 3_600_000;

pub(crate) struct ClusterService {
    pub access: AccessControl,
    pub status: Arc<dyn ClusterStatusProvider>,
    pub topics: Arc<dyn TopicDirectory>,
    pub admin: Arc<dyn ClusterAdmin>,
}

#[tonic::async_trait]
impl cluster_service_server::ClusterService for ClusterService {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.authorize(&request, Action::ReadCluster)?;
        let progress = self.status.shard_progress().await;
        let problems = self.status.problems(&progress);
        Ok(Response::new(cluster_status(self.status.snapshot(), progress, problems).into()))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let pb::DrainRequest { node, force } = request.into_inner();
        let change = format!("drain node {node}, force {force}");
        change_cluster(&by, &change, self.admin.drain(NodeId(node), force)).await?;
        Ok(Response::new(pb::DrainResponse {}))
    }

    async fn undrain(
        &self,
        request: Request<pb::UndrainRequest>,
    ) -> Result<Response<pb::UndrainResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let node = NodeId(request.into_inner().node);
        change_cluster(&by, &format!("undrain {node}"), self.admin.undrain(node)).await?;
        Ok(Response::new(pb::UndrainResponse {}))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveRequest>,
    ) -> Result<Response<pb::RemoveResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let pb::RemoveRequest { node, force } = request.into_inner();
        let change = format!("remove node {node}, force {force}");
        change_cluster(&by, &change, self.admin.remove(NodeId(node), force)).await?;
        Ok(Response::new(pb::RemoveResponse {}))
    }

    async fn finalize(
        &self,
        request: Request<pb::FinalizeRequest>,
    ) -> Result<Response<pb::FinalizeResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let raised = self.admin.finalize_upgrade();
        let version = change_cluster(&by, "raise the cluster version", raised).await?;
        Ok(Response::new(pb::FinalizeResponse { cluster_version: version.0.into() }))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        self.authorize(&request, Action::ReadCluster)?;
        let topic = parse_topic(&request.into_inner().topic)?;
        let explained = explain(topic, &self.status.snapshot());
        let no_view = || unavailable("this node has no view of its cluster yet");
        Ok(Response::new(explained.ok_or_else(no_view)?.into()))
    }

    async fn topic(
        &self,
        request: Request<pb::TopicRequest>,
    ) -> Result<Response<pb::TopicResponse>, Status> {
        let topic = parse_topic(&request.get_ref().topic)?;
        self.authorize(&request, Action::DescribeTopic(&topic))?;
        let info = self.topics.describe(topic).await;
        Ok(Response::new(info.map_err(|error| unavailable(error.to_string()))?.into()))
    }

    async fn topics(
        &self,
        request: Request<pb::TopicsRequest>,
    ) -> Result<Response<pb::TopicsResponse>, Status> {
        let prefix = Some(request.get_ref().prefix.as_str()).filter(|prefix| !prefix.is_empty());
        self.authorize(&request, Action::ListTopics(prefix))?;
        let mut query = TopicQuery::try_from(request.into_inner())
            .map_err(|error| invalid(ErrorCode::BadTopic, error.to_string()))?;
        query.count_max = match query.count_max {
            0 => TOPICS_MAX,
            count_max => count_max.min(TOPICS_MAX),
        };
        Ok(Response::new(self.topics.list(query).await.into()))
    }

    async fn purge_topic(
        &self,
        request: Request<pb::PurgeTopicRequest>,
    ) -> Result<Response<pb::PurgeTopicResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let topic = request.into_inner().topic;
        let RemovedMessages { count, bytes } =
            self.remove_topic(&by, &topic, TopicRemoval::Purge).await?;
        Ok(Response::new(pb::PurgeTopicResponse { messages: count, bytes }))
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let topic = request.into_inner().topic;
        let RemovedMessages { count, bytes } =
            self.remove_topic(&by, &topic, TopicRemoval::Delete).await?;
        Ok(Response::new(pb::DeleteTopicResponse { messages: count, bytes }))
    }

    async fn namespaces(
        &self,
        request: Request<pb::NamespacesRequest>,
    ) -> Result<Response<pb::NamespacesResponse>, Status> {
        self.authorize(&request, Action::ReadCluster)?;
        Ok(Response::new((&self.status.snapshot().view.namespaces).into()))
    }

    async fn set_namespace(
        &self,
        request: Request<pb::SetNamespaceRequest>,
    ) -> Result<Response<pb::SetNamespaceResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let pb::SetNamespaceRequest { name, change, force } = request.into_inner();
        let change = change.map(NamespaceChange::try_from).transpose();
        let change = change.map_err(|error| invalid(ErrorCode::BadRequest, error.to_string()))?;
        let text = format!("set namespace {name:?}: {change:?}, force {force}");
        let set = self.admin.set_namespace(name, change, force);
        let settings = change_cluster(&by, &text, set).await?;
        Ok(Response::new(pb::SetNamespaceResponse { settings: Some((&settings).into()) }))
    }

    async fn set_times(
        &self,
        request: Request<pb::SetTimesRequest>,
    ) -> Result<Response<pb::SetTimesResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let times = request.into_inner().times;
        let times = times.ok_or_else(|| invalid(ErrorCode::BadRequest, "times is missing"))?;
        let times = ConsensusTimes::from(times);
        let change = format!("set the consensus times {times}");
        change_cluster(&by, &change, self.admin.set_consensus_times(times)).await?;
        Ok(Response::new(pb::SetTimesResponse {}))
    }

    async fn revoke(
        &self,
        request: Request<pb::RevokeRequest>,
    ) -> Result<Response<pb::RevokeResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let pb::RevokeRequest { tokens, keep_ms } = request.into_inner();
        let tokens = RevokedTokens::try_from(tokens.unwrap_or_default())
            .map_err(|error| invalid(ErrorCode::BadRequest, error.to_string()))?;
        let now = self.access.now();
        let keep_ms = if keep_ms == 0 { REVOCATION_KEEP_MS } else { keep_ms };
        let kept_until = Timestamp(now.0.saturating_add(keep_ms));
        let change = format!("revoke {tokens:?} until {} ms", kept_until.0);
        change_cluster(&by, &change, self.admin.revoke(tokens, now, kept_until)).await?;
        Ok(Response::new(pb::RevokeResponse {}))
    }

    async fn revocations(
        &self,
        request: Request<pb::RevocationsRequest>,
    ) -> Result<Response<pb::RevocationsResponse>, Status> {
        self.authorize(&request, Action::ReadCluster)?;
        Ok(Response::new((&*self.status.snapshot().view.revocations).into()))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let validity = Duration::from_millis(request.into_inner().validity_ms);
        let created = self.admin.create_join_token(validity);
        let token = change_cluster(&by, "create a join token", created).await?;
        let status = JoinTokenStatus { expires: token.expires, used_by: None };
        let status = Some(join_token(token.id, status));
        Ok(Response::new(pb::CreateJoinTokenResponse { token: token.text, status }))
    }

    async fn join_tokens(
        &self,
        request: Request<pb::JoinTokensRequest>,
    ) -> Result<Response<pb::JoinTokensResponse>, Status> {
        self.authorize(&request, Action::ReadCluster)?;
        let tokens = self.status.snapshot().view.join_tokens.clone();
        let tokens = tokens.into_iter().map(|(id, status)| join_token(id, status)).collect();
        Ok(Response::new(pb::JoinTokensResponse { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<pb::RevokeJoinTokenRequest>,
    ) -> Result<Response<pb::RevokeJoinTokenResponse>, Status> {
        let by = self.authorize(&request, Action::ChangeCluster)?;
        let id = request.into_inner().id.parse();
        let id: JoinTokenId = id.map_err(|_| {
            invalid(ErrorCode::BadRequest, "the id of a join token has 16 hexadecimal digits")
        })?;
        let change = format!("revoke the join token {id}");
        change_cluster(&by, &change, self.admin.revoke_join_token(id)).await?;
        Ok(Response::new(pb::RevokeJoinTokenResponse {}))
    }
}

impl ClusterService {
    /// Decides about a request. Returns who made it.
    fn authorize<T>(
        &self,
        request: &Request<T>,
        action: Action<'_>,
    ) -> Result<Arc<Requester>, Status> {
        let requester = authenticate::requester(request.extensions())?;
        authenticate::authorize(&self.access, &requester, action)?;
        Ok(requester)
    }

    async fn remove_topic(
        &self,
        by: &Requester,
        topic: &str,
        removal: TopicRemoval,
    ) -> Result<RemovedMessages, Status> {
        let topic = parse_topic(topic)?;
        let change = format!("{} topic {topic}", removal.as_str());
        change_cluster(by, &change, self.topics.remove(topic, removal)).await
    }
}

/// Makes a change of the cluster, and records it in the audit log.
async fn change_cluster<T>(
    by: &Requester,
    change: &str,
    made: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, Status> {
    let outcome = made.await;
    let result = outcome.as_ref().map(drop).map_err(|error| error as &dyn std::fmt::Display);
    audit::record_change(by, change, result);
    outcome.map_err(admin_status)
}

fn join_token(id: JoinTokenId, status: JoinTokenStatus) -> pb::JoinToken {
    pb::JoinToken {
        id: id.to_string(),
        expires_ms: status.expires.0,
        used_by: status.used_by.map_or(0, |node| node.0),
    }
}

fn parse_topic(name: &str) -> Result<Topic, Status> {
    Topic::new(name).map_err(|error| invalid(ErrorCode::BadTopic, error.to_string()))
}

fn admin_status(error: AdminError) -> Status {
    match error {
        AdminError::Invalid(cause) => invalid(ErrorCode::BadRequest, cause.to_string()),
        AdminError::FailedPrecondition(cause) => ErrorReason::from(ErrorCode::BadRequest)
            .to_status(Code::FailedPrecondition, cause.to_string()),
        AdminError::Unavailable(cause) => unavailable(cause.to_string()),
    }
}

fn invalid(code: ErrorCode, text: impl Into<String>) -> Status {
    ErrorReason::from(code).to_status(Code::InvalidArgument, text)
}

fn unavailable(text: impl Into<String>) -> Status {
    ErrorReason::from(ErrorCode::Unavailable).to_status(Code::Unavailable, text)
}

fn cluster_status(
    snapshot: ClusterSnapshot,
    mut progress: BTreeMap<ShardId, ShardMoveProgress>,
    problems: Vec<cluster::ReportedProblem>,
) -> cluster::ClusterStatus {
    let ClusterSnapshot { node_id, view, owners, reachable, round_trips, .. } = snapshot;
    let ClusterSnapshot { control_group, conflicting_cluster, .. } = snapshot;
    let member_status = |member: &pushonce_core::Member| MemberStatus {
        reachable: member.id == node_id || reachable.contains(&member.id),
        round_trip: round_trips.get(&member.id).copied(),
        member: member.clone(),
    };
    let mut shard_status = |id| ShardStatus {
        progress: progress.remove(&id),
        ..ShardStatus::from_claim(id, view.placement.replicas_of(id), owners.claim(id))
    };
    cluster::ClusterStatus {
        cluster: view.cluster,
        node: node_id,
        version: view.version,
        placement_version: view.placement.version,
        replicas: view.replicas,
        control: control_group,
        members: view.members.values().map(member_status).collect(),
        shards: view.shards.ids().map(&mut shard_status).collect(),
        conflicting_cluster,
        problems,
        times: view.times,
        cluster_version: view.cluster_version,
    }
}

fn explain(topic: Topic, snapshot: &ClusterSnapshot) -> Option<TopicLocation> {
    let shard = snapshot.view.shard_of(&topic)?;
    Some(TopicLocation {
        topic,
        shard,
        owner: snapshot.owners.owner_of(shard),
        wanted: snapshot.view.placement.replicas_of(shard).to_vec(),
    })
}
