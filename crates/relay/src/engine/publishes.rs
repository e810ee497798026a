//! Pending publishes of this node to owners on other nodes.
//!
//! Each ends exactly once: with the owner's answer, or as unknown when the answer can no longer be awaited.
//! A publish that was sent is never reported as rejected by this node.

use std::collections::HashMap;
use std::time::Instant;

use pushonce_core::{
    Acknowledgement, CoverageMark, NodeId, OverloadReason, Publish, PublishError, PublishRejection,
    ShardId, UnavailableReason,
};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::effect::EngineEffect;

/// The pending publishes, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct PendingPublishes {
    pending: HashMap<u64, PendingPublish>,
    bytes: usize,
}

#[derive(Debug)]
struct PendingPublish {
    owner: NodeId,
    shard: ShardId,
    bytes: usize,
    deadline: Instant,
    /// The shard changed its owner, and `deadline` is the limit for an answer from the former owner.
    owner_changed: bool,
}

impl PendingPublishes {
    fn remove(&mut self, id: u64) -> Option<PendingPublish> {
        let removed = self.pending.remove(&id)?;
        self.bytes -= removed.bytes;
        Some(removed)
    }

    /// Removes the publishes that match `predicate` and returns their ids.
    fn remove_where(&mut self, predicate: impl Fn(&PendingPublish) -> bool) -> Vec<u64> {
        let ids = self.pending.iter().filter(|(_, pending)| predicate(pending)).map(|(&id, _)| id);
        let ids: Vec<u64> = ids.collect();
        for &id in &ids {
            self.remove(id);
        }
        ids
    }
}

impl Engine {
    /// Sends a caller's publish to `owner`. An `id` is never used twice.
    pub(super) fn publish(&mut self, id: u64, owner: NodeId, publish: Publish, now: Instant) {
        if let Err(rejection) = self.check_publish(owner, &publish) {
            self.effects.push(EngineEffect::Published { id, outcome: Err(rejection.into()) });
            return;
        }
        let shard = publish.topic.shard(self.routes.view().shards);
        let bytes = publish.payload.len();
        let deadline = now + self.config.publish_timeout;
        self.publishes.bytes += bytes;
        self.publishes
            .pending
            .insert(id, PendingPublish { owner, shard, bytes, deadline, owner_changed: false });
        self.effects.push(EngineEffect::Send(owner, PeerFrame::Publish { id, publish }));
    }

    fn check_publish(&self, owner: NodeId, publish: &Publish) -> Result<(), PublishRejection> {
        let PendingPublishes { pending, bytes } = &self.publishes;
        if !self.links.is_up(owner) {
            Err(UnavailableReason::NoLink(owner).into())
        } else if pending.len() >= self.config.pending_max
            || bytes + publish.payload.len() > self.config.pending_bytes_max
        {
            Err(OverloadReason::PublishesToPeers.into())
        } else {
            Ok(())
        }
    }

    /// Handles the answer of an owner.
    pub(super) fn on_published(
        &mut self,
        from: NodeId,
        id: u64,
        outcome: Result<Acknowledgement, PublishError>,
    ) {
        // An answer from another node than the one asked would be wrong about the outcome.
        if self.publishes.pending.get(&id).is_some_and(|pending| pending.owner == from) {
            self.publishes.remove(id);
            self.effects.push(EngineEffect::Published { id, outcome });
        }
    }

    pub(super) fn publishes_on_link_lost(&mut self, peer: NodeId) {
        let ids = self.publishes.remove_where(|pending| pending.owner == peer);
        self.finish_unknown(ids, &format!("the link to {peer} broke before the answer came"));
    }

    /// Shortens the deadline of the publishes sent to a former owner: it still knows the outcome of those
    /// that it had proposed, and gets a moment to answer.
    pub(super) fn publishes_on_owner_changed(
        &mut self,
        shard: ShardId,
        new_owner: NodeId,
        now: Instant,
    ) {
        let limit = now + self.config.moved_publish_timeout;
        let is_affected =
            |pending: &&mut PendingPublish| pending.shard == shard && pending.owner != new_owner;
        for pending in self.publishes.pending.values_mut().filter(is_affected) {
            if limit < pending.deadline {
                (pending.deadline, pending.owner_changed) = (limit, true);
            }
        }
    }

    pub(super) fn expire_publishes(&mut self, now: Instant) {
        let ids =
            self.publishes.remove_where(|pending| pending.deadline <= now && pending.owner_changed);
        self.finish_unknown(ids, "the shard moved to another owner before the answer came");
        let ids = self.publishes.remove_where(|pending| pending.deadline <= now);
        self.finish_unknown(ids, "the owner did not answer in time");
    }

    fn finish_unknown(&mut self, ids: Vec<u64>, reason: &str) {
        if !ids.is_empty() {
            CoverageMark::ForwardedPublishUnknown.reach();
        }
        let effect = |id| {
            let outcome = Err(PublishError::unknown(reason));
            EngineEffect::Published { id, outcome }
        };
        self.effects.extend(ids.into_iter().map(effect));
    }
}
