//! Brings a message to the owner of its topic, wherever that is now.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use pushonce_core::{
    ClusterView, InvalidPublish, NodeId, Owners, Placed, Publish, PublishError, ShardId,
};
use tokio::sync::watch;

use crate::metrics::Outcomes;
use crate::{Ordered, Peers, Shards};

/// How a router behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a message may look for an owner that takes it; then it is refused as unavailable.
    /// It bounds the search, not the commit: the owner has a deadline of its own for that.
    pub deadline: Duration,
}

impl Default for Config {
    /// Five seconds: more than an election takes on a LAN (two), less than a caller's patience.
    fn default() -> Config {
        Config { deadline: Duration::from_secs(5) }
    }
}

/// What a router is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// The limits of the namespaces and the number of shards; `None` until the view is current.
    /// Nothing is admitted before that.
    pub view: watch::Receiver<Option<Arc<ClusterView>>>,
    /// Who leads each shard.
    pub owners: watch::Receiver<Arc<Owners>>,
    /// The shards of this node.
    pub shards: Arc<dyn Shards>,
    /// The links to the other nodes.
    pub peers: Arc<dyn Peers>,
}

/// Takes messages in. Clones share it.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    config: Config,
    parts: Parts,
    outcomes: Outcomes,
}

impl Router {
    /// A router of these parts. Install the metrics recorder first: the counters are looked up
    /// here.
    pub fn new(config: Config, parts: Parts) -> Router {
        Router(Arc::new(Inner { config, parts, outcomes: Outcomes::new() }))
    }

    /// Publishes one message. Concurrent calls keep no order among themselves;
    /// [`Router::ordered`] does.
    ///
    /// # Errors
    /// Refused when it breaks a rule, a bound was met, or no owner took it within
    /// [`Config::deadline`]: nothing happened. Unknown when it may have happened.
    pub async fn publish(&self, publish: Publish) -> Result<Placed, PublishError> {
        let mut one = self.ordered(stream::iter([Ok(publish)]));
        one.next().await.unwrap_or_else(|| Err(PublishError::unknown("no answer")))
    }

    /// Publishes the messages of `input` without waiting for each, one answer for each, in order.
    /// What is already refused in `input` keeps its turn. The stream does the work when it is
    /// polled and ends after the last answer.
    pub fn ordered<S>(&self, input: S) -> Ordered<S>
    where
        S: Stream<Item = Result<Publish, PublishError>> + Unpin,
    {
        Ordered::new(self.clone(), input)
    }

    /// Checks a message and says which shard its topic belongs to; `None` while this node has no current
    /// view.
    pub(crate) fn admit(&self, publish: &Publish) -> Option<Result<ShardId, InvalidPublish>> {
        let view = self.0.parts.view.borrow();
        let view = view.as_ref()?;
        let shard = view.shard_of(&publish.topic)?;
        let bytes_max = view.namespaces.of(&publish.topic).payload_bytes_max as usize;
        Some(publish.check(bytes_max).map(|()| shard))
    }

    pub(crate) fn hand_over(
        &self,
        to: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let Parts { me, shards, peers, .. } = &self.0.parts;
        if to == *me { shards.publish(publish) } else { peers.publish(to, publish) }
    }

    pub(crate) fn count(&self, result: &Result<Placed, PublishError>) {
        self.0.outcomes.count(result);
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.0.config.deadline
    }

    pub(crate) fn view(&self) -> watch::Receiver<Option<Arc<ClusterView>>> {
        self.0.parts.view.clone()
    }

    pub(crate) fn owners(&self) -> watch::Receiver<Arc<Owners>> {
        self.0.parts.owners.clone()
    }
}

#[cfg(test)]
#[path = "router/router_test.rs"]
mod router_test;
