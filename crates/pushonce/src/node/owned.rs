//! The topics that this node owns, for the other nodes and for itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use pushonce_core::{ClusterView, FetchError, NodeId, Position, ShardId, Topic, Want};
use pushonce_proto::cluster::{TopicInfo, TopicList};
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_server::{Topics, TopicsServer};
use pushonce_shard::{Handle, Info};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::host::Hosted;

/// What this node knows as an owner. Cheap to clone.
#[derive(Clone)]
pub(super) struct Owned {
    /// This node.
    pub(super) me: NodeId,
    /// Says which shard a topic is of.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The shards of this node.
    pub(super) hosted: Hosted,
    /// Counts who watches.
    pub(super) relay: pushonce_relay::Handle,
}

impl Owned {
    /// To be mounted on the peer port.
    pub(super) fn service(self) -> TopicsServer<Owned> {
        TopicsServer::new(self)
    }

    /// The shard of a topic.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] while this node does not know how many shards there are.
    pub(super) fn shard_of(&self, topic: &Topic) -> Result<ShardId, FetchError> {
        let unknown =
            || FetchError::Unavailable("this node has no view of its cluster yet".to_owned());
        self.view.borrow().shard_of(topic).ok_or_else(unknown)
    }

    /// What there is of a topic that this node owns.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when it does not, or cannot be sure.
    pub(super) async fn describe(&self, topic: &Topic) -> Result<TopicInfo, FetchError> {
        let shard = self.shard_of(topic)?;
        let elsewhere = || FetchError::Unavailable(format!("{shard} does not live here"));
        let handle = self.hosted.get(shard).ok_or_else(elsewhere)?;
        // Only an owner has a page.
        let head = handle.page(topic, Want::Last(0))?.head;
        let held = handle.topic(topic).filter(|info| info.head.epoch == head.epoch);
        let audience = self.relay.audience(vec![topic.clone()]).await.pop().flatten();
        Ok(match held {
            Some(info) => self.info(shard, info, audience),
            None => self.info(shard, nothing(topic, head), audience),
        })
    }

    /// The topics of the shards that this node owns, in the order of their names, and all other shards.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&Topic>,
        count_max: usize,
    ) -> TopicList {
        let owned = |handle: &Handle| handle.claim().borrow().is_some();
        let shards: Vec<_> = self.hosted.all().into_iter().filter(owned).collect();
        let mut others: BTreeSet<_> = self.view.borrow().shards.ids().collect();
        for handle in &shards {
            others.remove(&handle.id());
        }
        let mut found: Vec<(ShardId, Info)> = shards
            .into_iter()
            .flat_map(|handle| {
                let shard = handle.id();
                let infos = handle.topics(prefix, after, count_max);
                infos.into_iter().map(move |info| (shard, info))
            })
            .collect();
        found.sort_unstable_by(|(_, a), (_, b)| a.topic.cmp(&b.topic));
        found.truncate(count_max);
        let names = found.iter().map(|(_, info)| info.topic.clone()).collect();
        let audiences = self.relay.audience(names).await;
        let infos = found.into_iter().zip(audiences);
        let topics = infos.map(|((shard, info), audience)| self.info(shard, info, audience));
        TopicList { topics: topics.collect(), unknown_shards: others.into_iter().collect() }
    }

    fn info(&self, shard: ShardId, info: Info, audience: Option<u64>) -> TopicInfo {
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

fn nothing(topic: &Topic, head: Position) -> Info {
    Info { topic: topic.clone(), head, count: 0, bytes: 0 }
}

#[tonic::async_trait]
impl Topics for Owned {
    async fn topic(
        &self,
        request: Request<pb::TopicRequest>,
    ) -> Result<Response<pb::TopicResponse>, Status> {
        let topic = named(&request.into_inner().topic)?;
        let known = self.describe(&topic).await;
        Ok(Response::new(known.map_err(|why| Status::unavailable(why.to_string()))?.into()))
    }

    async fn topics(
        &self,
        request: Request<pb::TopicsRequest>,
    ) -> Result<Response<pb::TopicsResponse>, Status> {
        let pb::TopicsRequest { prefix, after, count_max } = request.into_inner();
        let after = (!after.is_empty()).then(|| named(&after)).transpose()?;
        let count_max = usize::try_from(count_max).unwrap_or(Handle::TOPICS_MAX);
        Ok(Response::new(self.list(&prefix, after.as_ref(), count_max).await.into()))
    }
}

fn named(name: &str) -> Result<Topic, Status> {
    Topic::new(name).map_err(|why| Status::invalid_argument(why.to_string()))
}
