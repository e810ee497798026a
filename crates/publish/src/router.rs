//! Routing of messages to the owner of their topic.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt, stream};
use pushonce_core::{
    Acknowledgement, ClusterView, InvalidPublish, NodeId, Publish, PublishError, ShardId,
    ShardOwners,
};
use tokio::sync::watch;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::metrics::PublishMetrics;
use crate::{LocalPublisher, OrderedPublish, PeerPublisher};

/// Configuration of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a message may wait for an owner that accepts it before it is rejected as unavailable. It
    /// limits the search, not the commit, for which the owner has its own deadline.
    pub deadline: Duration,
}

impl Default for Config {
    /// Five seconds: more than an election takes on a LAN (two), and short enough for an interactive
    /// caller.
    fn default() -> Config {
        Config { deadline: Duration::from_secs(5) }
    }
}

/// The dependencies of a router.
pub struct RouterParts {
    /// This node.
    pub node_id: NodeId,
    /// The limits of the namespaces and the number of shards; `None` until the view is current. No message
    /// is accepted before that.
    pub view: watch::Receiver<Option<Arc<ClusterView>>>,
    /// The leader of each shard.
    pub owners: watch::Receiver<Arc<ShardOwners>>,
    /// The shards of this node.
    pub shards: Arc<dyn LocalPublisher>,
    /// The links to the other nodes.
    pub peers: Arc<dyn PeerPublisher>,
}

/// Accepts messages and sends them to their owners. Clones share it.
#[derive(Clone)]
pub struct Router(Arc<RouterInner>);

struct RouterInner {
    config: Config,
    parts: RouterParts,
    metrics: PublishMetrics,
}

impl Router {
    /// Creates a router. Install the metrics recorder first: the counter handles are created here.
    pub fn new(config: Config, parts: RouterParts) -> Router {
        Router(Arc::new(RouterInner { config, parts, metrics: PublishMetrics::new() }))
    }

    /// Publishes one message. Concurrent calls keep no order among themselves;
    /// [`Router::publish_ordered`] does.
    ///
    /// # Errors
    /// Rejected when the message breaks a rule, a limit was reached, or no owner accepted it within
    /// [`Config::deadline`]: it had no effect. Unknown when it may have been stored.
    pub async fn publish(&self, publish: Publish) -> Result<Acknowledgement, PublishError> {
        let mut replies = self.publish_ordered(stream::iter([Ok(publish)]));
        replies.next().await.unwrap_or_else(|| Err(PublishError::unknown("no reply")))
    }

    /// Publishes the messages of `input` without waiting for each, with one reply per message, in order.
    /// Errors in `input` keep their place. The stream does the work when it is polled, and ends after the
    /// last reply.
    pub fn publish_ordered<S>(&self, input: S) -> OrderedPublish<S>
    where
        S: Stream<Item = Result<Publish, PublishError>> + Unpin,
    {
        OrderedPublish::new(self.clone(), input)
    }

    /// Validates a message and returns the shard of its topic; `None` while this node has no current view.
    pub(crate) fn validate(&self, publish: &Publish) -> Option<Result<ShardId, InvalidPublish>> {
        let view = self.0.parts.view.borrow();
        let view = view.as_ref()?;
        let shard = view.shard_of(&publish.topic)?;
        let bytes_max = view.namespaces.for_topic(&publish.topic).payload_bytes_max as usize;
        Some(publish.validate(bytes_max).map(|()| shard))
    }

    pub(crate) fn send_to_owner(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let RouterParts { node_id, shards, peers, .. } = &self.0.parts;
        let span = self.span(owner, &publish);
        let sent =
            if owner == *node_id { shards.publish(publish) } else { peers.publish(owner, publish) };
        // The second box is allocated only while a subscriber records the span.
        if span.is_disabled() { sent } else { trace_outcome(sent).instrument(span).boxed() }
    }

    fn span(&self, owner: NodeId, publish: &Publish) -> Span {
        let topic = &publish.topic;
        let shard = || self.0.parts.view.borrow().as_ref().and_then(|view| view.shard_of(topic));
        tracing::debug_span!(
            "publish", topic_hash = format_args!("{:016x}", topic.hash64()), shard = ?shard(), %owner,
            position = Empty
        )
    }

    pub(crate) fn record_outcome(&self, result: &Result<Acknowledgement, PublishError>) {
        self.0.metrics.record(result);
    }

    pub(crate) fn metrics(&self) -> &PublishMetrics {
        &self.0.metrics
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.0.config.deadline
    }

    pub(crate) fn view(&self) -> watch::Receiver<Option<Arc<ClusterView>>> {
        self.0.parts.view.clone()
    }

    pub(crate) fn owners(&self) -> watch::Receiver<Arc<ShardOwners>> {
        self.0.parts.owners.clone()
    }
}

/// Logs how a publish ended, with its position.
async fn trace_outcome(
    sent: BoxFuture<'static, Result<Acknowledgement, PublishError>>,
) -> Result<Acknowledgement, PublishError> {
    let outcome = sent.await;
    match &outcome {
        Ok(acknowledgement) => {
            let position = &acknowledgement.position;
            Span::current().record("position", tracing::field::display(position));
            tracing::debug!("publish acknowledged");
        }
        Err(error) => tracing::debug!(%error, "publish failed"),
    }
    outcome
}

#[cfg(test)]
#[path = "router/router_test.rs"]
mod router_test;
