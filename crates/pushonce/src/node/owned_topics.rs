//! The topics that this node owns, for this node and for the service that other nodes query.

use std::collections::BTreeSet;
use std::sync::Arc;

use pushonce_core::{
    ClusterView, FetchError, HistoryRange, NodeId, Position, PublishError, PublishRejection,
    ShardId, Topic, TopicRemoval, UnavailableReason,
};
use pushonce_peer::{AcceptedPeer, PeerTransport};
use pushonce_proto::cluster::{self, RemovedMessages, TopicInfo, TopicList, TopicQuery};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_service_server::{TopicsService, TopicsServiceServer};
use pushonce_shard::{Handle, TopicStats};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::replica_supervisor::LocalReplicas;

/// Access to the topics of the shards that this node owns. Cheap to clone.
#[derive(Clone)]
pub(super) struct OwnedTopics {
    /// This node.
    pub(super) me: NodeId,
    /// Checks the greeting of the caller.
    pub(super) transport: PeerTransport,
    /// Determines the shard of a topic.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The replicas on this node.
    pub(super) hosted: LocalReplicas,
    /// Counts subscribers.
    pub(super) relay: pushonce_relay::Handle,
}

impl OwnedTopics {
    /// The gRPC service for the peer port.
    pub(super) fn service(self) -> TopicsServiceServer<OwnedTopics> {
        TopicsServiceServer::new(self)
    }

    fn accept<T>(&self, request: &Request<T>) -> Result<AcceptedPeer, Status> {
        self.transport.accept(request).map_err(|error| self.transport.reject(&error))
    }

    /// The shard of a topic.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] while this node does not know how many shards there are.
    pub(super) fn shard_of(&self, topic: &Topic) -> Result<ShardId, FetchError> {
        Ok(self.view.borrow().shard_of(topic).ok_or(UnavailableReason::NoView)?)
    }

    /// Describes a topic that this node owns.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when this node does not own the topic, or cannot be sure that it does.
    pub(super) async fn describe(&self, topic: &Topic) -> Result<TopicInfo, FetchError> {
        let shard = self.shard_of(topic)?;
        let handle = self.hosted.get(shard).ok_or(UnavailableReason::NoReplica(shard))?;
        // Fails unless this node is the owner.
        let head = handle.fetch_history(topic, HistoryRange::Last(0))?.head;
        let stored = handle.topic_stats(topic).filter(|info| info.head.epoch == head.epoch);
        let audience = self.relay.audience(vec![topic.clone()]).await.pop().flatten();
        Ok(match stored {
            Some(info) => self.topic_info(shard, info, audience),
            None => self.topic_info(shard, empty_info(topic, head), audience),
        })
    }

    /// Lists the topics of the shards that this node owns, in the order of their names, and the shards
    /// that it does not own.
    pub(super) async fn list(&self, query: &TopicQuery) -> TopicList {
        let count_max = query.count_max as usize;
        let (shards, unknown_shards) = self.owned_shards();
        let mut found: Vec<(ShardId, TopicStats)> = shards
            .into_iter()
            .flat_map(|handle| {
                let shard = handle.id();
                let infos = handle.list_topics(&query.prefix, query.after.as_ref(), count_max);
                infos.into_iter().map(move |info| (shard, info))
            })
            .collect();
        found.sort_unstable_by(|(_, a), (_, b)| a.topic.cmp(&b.topic));
        found.truncate(count_max);
        let names = found.iter().map(|(_, info)| info.topic.clone()).collect();
        let audiences = self.relay.audience(names).await;
        let infos = found.into_iter().zip(audiences);
        let topics = infos.map(|((shard, info), audience)| self.topic_info(shard, info, audience));
        TopicList { topics: topics.collect(), unknown_shards: unknown_shards.into_iter().collect() }
    }

    /// Purges or deletes a topic that this node owns.
    ///
    /// # Errors
    /// As [`Handle::remove`].
    pub(super) async fn remove(
        &self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> Result<RemovedMessages, PublishError> {
        let shard = self.view.borrow().shard_of(&topic).ok_or(UnavailableReason::NoView)?;
        let not_owner = || PublishRejection::NotOwner { owner: None };
        let handle = self.hosted.get(shard).ok_or_else(not_owner)?;
        let removed = handle.remove(topic, removal).await?;
        let counts =
            |had: TopicStats| RemovedMessages { count: had.count as u64, bytes: had.bytes };
        Ok(removed.map_or_else(RemovedMessages::default, counts))
    }

    /// The replicas of the shards that this node owns, and all other shards.
    pub(super) fn owned_shards(&self) -> (Vec<Handle>, BTreeSet<ShardId>) {
        let is_owned = |handle: &Handle| handle.claim().borrow().is_some();
        let shards: Vec<_> = self.hosted.all().into_iter().filter(is_owned).collect();
        let mut others: BTreeSet<_> = self.view.borrow().shards.ids().collect();
        for handle in &shards {
            others.remove(&handle.id());
        }
        (shards, others)
    }

    /// Describes those of these topics that are in replicas of this node.
    pub(super) async fn describe_all(&self, topics: Vec<Topic>) -> Vec<TopicInfo> {
        let stats = |topic: Topic| {
            let shard = self.shard_of(&topic).ok()?;
            Some((shard, self.hosted.get(shard)?.topic_stats(&topic)?))
        };
        let found: Vec<(ShardId, TopicStats)> = topics.into_iter().filter_map(stats).collect();
        let names = found.iter().map(|(_, stats)| stats.topic.clone()).collect();
        let audiences = self.relay.audience(names).await;
        let with_audience = found.into_iter().zip(audiences);
        with_audience
            .map(|((shard, info), audience)| self.topic_info(shard, info, audience))
            .collect()
    }

    fn topic_info(&self, shard: ShardId, info: TopicStats, audience: Option<u64>) -> TopicInfo {
        TopicInfo {
            topic: info.topic,
            shard,
            owner: self.me,
            head: info.head,
            history_count: info.count as u64,
            history_bytes: info.bytes,
            audience,
        }
    }
}

fn empty_info(topic: &Topic, head: Position) -> TopicStats {
    TopicStats { topic: topic.clone(), head, count: 0, bytes: 0 }
}

#[tonic::async_trait]
impl TopicsService for OwnedTopics {
    async fn topic(
        &self,
        request: Request<pb::TopicRequest>,
    ) -> Result<Response<pb::TopicResponse>, Status> {
        let peer = self.accept(&request)?;
        let topic = Topic::new(&request.into_inner().topic).map_err(invalid_argument)?;
        let described = self.describe(&topic).await;
        let described = described.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(self.transport.respond(peer, described.into()))
    }

    async fn topics(
        &self,
        request: Request<pb::TopicsRequest>,
    ) -> Result<Response<pb::TopicsResponse>, Status> {
        let peer = self.accept(&request)?;
        let query = TopicQuery::try_from(request.into_inner()).map_err(invalid_argument)?;
        Ok(self.transport.respond(peer, self.list(&query).await.into()))
    }

    async fn remove_topic(
        &self,
        request: Request<pb::RemoveTopicRequest>,
    ) -> Result<Response<pb::RemoveTopicResponse>, Status> {
        let peer = self.accept(&request)?;
        let (topic, removal) =
            cluster::decode_removal(request.into_inner()).map_err(invalid_argument)?;
        let removed = self.remove(topic, removal).await;
        let RemovedMessages { count, bytes } =
            removed.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(self.transport.respond(peer, pb::RemoveTopicResponse { messages: count, bytes }))
    }
}

fn invalid_argument(error: impl std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}
