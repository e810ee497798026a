//! Publishes of this node that are under way to an owner elsewhere.
//!
//! Each ends once: with the owner's answer; or as unknown, when the answer cannot be waited for any
//! longer; never as refused once it was sent.

use std::collections::HashMap;
use std::time::Instant;

use pushonce_core::{NodeId, Placed, Publish, PublishError, Refusal, ShardId};
use pushonce_proto::peer::Frame;

use super::Engine;
use super::effect::Effect;

/// Those under way, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Publishes {
    pending: HashMap<u64, Pending>,
    bytes: usize,
}

#[derive(Debug)]
struct Pending {
    to: NodeId,
    shard: ShardId,
    bytes: usize,
    deadline: Instant,
    /// The shard has another owner meanwhile, and the deadline is that of an answer from the old one.
    moved: bool,
}

impl Publishes {
    fn end(&mut self, id: u64) -> Option<Pending> {
        let ended = self.pending.remove(&id)?;
        self.bytes -= ended.bytes;
        Some(ended)
    }

    /// Ends those that `over` says.
    fn end_where(&mut self, over: impl Fn(&Pending) -> bool) -> Vec<u64> {
        let ids = self.pending.iter().filter(|(_, pending)| over(pending)).map(|(&id, _)| id);
        let ids: Vec<u64> = ids.collect();
        for &id in &ids {
            self.end(id);
        }
        ids
    }
}

impl Engine {
    /// A caller wants to publish at `to`. `id` is never used twice.
    pub(super) fn publish(&mut self, id: u64, to: NodeId, publish: Publish, now: Instant) {
        if let Err(refusal) = self.may_publish(to, &publish) {
            self.effects.push(Effect::Published { id, outcome: Err(refusal.into()) });
            return;
        }
        let shard = publish.topic.shard(self.routes.view().shards);
        let bytes = publish.payload.len();
        let deadline = now + self.config.publish_deadline;
        self.publishes.bytes += bytes;
        self.publishes.pending.insert(id, Pending { to, shard, bytes, deadline, moved: false });
        self.effects.push(Effect::Send(to, Frame::Publish { id, publish }));
    }

    fn may_publish(&self, to: NodeId, publish: &Publish) -> Result<(), Refusal> {
        let Publishes { pending, bytes } = &self.publishes;
        if !self.links.is_up(to) {
            Err(Refusal::Unavailable(format!("there is no link to {to} now")))
        } else if pending.len() >= self.config.pending_max
            || bytes + publish.payload.len() > self.config.pending_bytes_max
        {
            Err(Refusal::Overloaded("too many publishes are under way to other nodes".to_owned()))
        } else {
            Ok(())
        }
    }

    /// An owner answered.
    pub(super) fn published(
        &mut self,
        from: NodeId,
        id: u64,
        outcome: Result<Placed, PublishError>,
    ) {
        // An answer from somebody who was not asked would be a lie about the outcome.
        if self.publishes.pending.get(&id).is_some_and(|pending| pending.to == from) {
            self.publishes.end(id);
            self.effects.push(Effect::Published { id, outcome });
        }
    }

    pub(super) fn publishes_lose_link(&mut self, to: NodeId) {
        let ids = self.publishes.end_where(|pending| pending.to == to);
        self.unknown(ids, &format!("the link to {to} broke before the answer came"));
    }

    /// An owner that handed the shard over still knows how the publishes ended that it had proposed: it
    /// is given a moment to say so.
    pub(super) fn publishes_lose_owner(&mut self, shard: ShardId, owner: NodeId, now: Instant) {
        let limit = now + self.config.answer_after_move;
        let moved = |pending: &&mut Pending| pending.shard == shard && pending.to != owner;
        for pending in self.publishes.pending.values_mut().filter(moved) {
            if limit < pending.deadline {
                (pending.deadline, pending.moved) = (limit, true);
            }
        }
    }

    pub(super) fn publishes_expire(&mut self, now: Instant) {
        let ids = self.publishes.end_where(|pending| pending.deadline <= now && pending.moved);
        self.unknown(ids, "the shard went to another owner before the answer came");
        let ids = self.publishes.end_where(|pending| pending.deadline <= now);
        self.unknown(ids, "the owner did not answer in time");
    }

    fn unknown(&mut self, ids: Vec<u64>, why: &str) {
        let unknown = |id| {
            let outcome = Err(PublishError::unknown(why));
            Effect::Published { id, outcome }
        };
        self.effects.extend(ids.into_iter().map(unknown));
    }
}
