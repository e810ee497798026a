//! The way in: asking the upstream, taking what it says, asking again.
//!
//! One mechanism is the whole of failover, resume and the mending of holes: ask whoever is upstream
//! now for everything after the position that was reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    FetchError, Gap, Message, NodeId, Page, Position, ShardId, Topic, Upstream, Want,
};
use pushonce_proto::peer::Frame;

use super::Engine;
use super::audience::Tally;
use super::continuity::{Replay, adjoins};
use super::effect::{Effect, Out, Purpose};
use super::flow::{Flow, Origin, Stage};

impl Engine {
    /// Asks the upstream of now for everything after what was reached.
    pub(super) fn follow(&mut self, topic: &Topic, now: Instant) {
        self.leave(topic);
        let Some(flow) = self.flows.get_mut(topic) else { return };
        flow.asked_at = Some(now);
        match self.routes.of(flow.shard) {
            Upstream::Local => {
                flow.stage = Stage::Asked(Origin::Here);
                let want = flow.reached.map_or(Want::Last(0), Want::After);
                let (purpose, topic) = (Purpose::Follow, topic.clone());
                self.effects.push(Effect::Read { purpose, topic, want });
            }
            Upstream::Node(node) if self.links.is_up(node) => {
                let after = flow.reached;
                let Some(number) = self.links.ask(node, topic) else {
                    return self.effects.push(Effect::Reset(node));
                };
                flow.stage = Stage::Asked(Origin::Node { node, number });
                let interest = Frame::Interest { number, topic: topic.clone(), after };
                self.effects.push(Effect::Send(node, interest));
            }
            // Those who come here for the topic may know a way that this node has not.
            Upstream::Node(_) => self.turn_away_all(topic, now),
            Upstream::Unknown => {}
        }
    }

    /// Wants nothing more from the upstream it had.
    pub(super) fn leave(&mut self, topic: &Topic) {
        let Some(flow) = self.flows.get_mut(topic) else { return };
        if let Stage::Asked(origin) | Stage::Live(origin) = flow.stage
            && let Origin::Node { node, number } = origin
            && self.links.forget(node, number)
        {
            self.effects.push(Effect::Send(node, Frame::Withdraw { number }));
        }
        flow.stage = Stage::Unrouted;
        flow.tally = Tally::default();
        self.audience.touch(topic);
    }

    /// Something is missing. Asks again from what was reached, and shows nothing before the answer;
    /// a source that answers with the same hole at once is given a pause.
    fn mend(&mut self, topic: &Topic, now: Instant) {
        let pause = self.config.retry_after;
        let Some(flow) = self.flows.get(topic) else { return };
        match flow.asked_at.map(|asked| asked + pause).filter(|&until| until > now) {
            None => self.follow(topic, now),
            Some(until) => {
                self.leave(topic);
                self.refuse(topic, until);
            }
        }
    }

    fn refuse(&mut self, topic: &Topic, until: Instant) {
        if let Some(flow) = self.flows.get_mut(topic) {
            flow.stage = Stage::Refused { until };
        }
    }

    /// A peer says where it begins, or that it is not upstream.
    pub(super) fn interested(
        &mut self,
        from: NodeId,
        number: u32,
        head: Option<Position>,
        now: Instant,
    ) {
        let Some(topic) = self.links.asked(from, number).cloned() else { return };
        if let Some(head) = head {
            self.answered_by(from, self.shard(&topic), now);
            return self.begin(&topic, head, now);
        }
        self.links.forget(from, number);
        let Some(flow) = self.flows.get(&topic) else { return };
        let shard = flow.shard;
        self.refuse(&topic, now + self.config.retry_after);
        if self.routes.avoid(shard, from, now + self.config.retry_after * AVOID_RETRIES) {
            self.reroute(Some(shard), now);
        }
    }

    fn begin(&mut self, topic: &Topic, head: Position, now: Instant) {
        let Some(flow) = self.flows.get_mut(topic) else { return };
        flow.begin(head, &mut Out { me: self.config.me, topic, effects: &mut self.effects });
        self.audience.touch(topic);
        for to in flow.waiting() {
            self.serve(topic, to, now);
        }
    }

    /// A peer delivers.
    pub(super) fn delivered(
        &mut self,
        from: NodeId,
        number: u32,
        messages: Vec<Arc<Message>>,
        now: Instant,
    ) {
        let Some(topic) = self.links.asked(from, number).cloned() else { return };
        self.pass(&topic, messages, now);
    }

    /// Messages of one topic, from whatever is upstream.
    fn pass(&mut self, topic: &Topic, messages: Vec<Arc<Message>>, now: Instant) {
        let Some(flow) = self.flows.get_at_rest(topic) else { return };
        if !matches!(flow.stage, Stage::Live(_)) {
            return self.mend(topic, now);
        }
        let mut out = Out { me: self.config.me, topic, effects: &mut self.effects };
        let hole = flow.pass(messages, &mut out);
        self.changed.insert(topic.clone());
        if hole {
            self.mend(topic, now);
        }
    }

    /// A peer tells a gap.
    pub(super) fn told_lost(&mut self, from: NodeId, number: u32, gap: Gap, now: Instant) {
        let Some(topic) = self.links.asked(from, number).cloned() else { return };
        let Some(flow) = self.flows.get(&topic) else { return };
        match flow.reached {
            Some(reached) if gap.to <= reached => {}
            Some(reached) if adjoins(&gap, reached) => self.lose(&topic, gap),
            _ => self.mend(&topic, now),
        }
    }

    fn lose(&mut self, topic: &Topic, gap: Gap) {
        let Some(flow) = self.flows.get_at_rest(topic) else { return };
        flow.lose(gap, &mut Out { me: self.config.me, topic, effects: &mut self.effects });
        self.changed.insert(topic.clone());
    }

    /// A peer says where a topic stands. What it sent before came before, so being behind means that
    /// something is missing, and nothing else may come for long.
    pub(super) fn heartbeat(&mut self, from: NodeId, heads: Vec<(u32, Position)>, now: Instant) {
        for (number, head) in heads {
            let Some(topic) = self.links.asked(from, number).cloned() else { continue };
            let behind = |flow: &Flow| flow.reached.is_some_and(|reached| reached < head);
            if self.flows.get(&topic).is_some_and(behind) {
                self.mend(&topic, now);
            }
        }
    }

    /// This node's own shards committed. What comes before the topic's history was read is in the
    /// history; what comes for a topic that another owns now comes from there.
    pub(super) fn committed(&mut self, messages: Vec<(Topic, Arc<Message>)>, now: Instant) {
        let mut batches: BTreeMap<Topic, Vec<Arc<Message>>> = BTreeMap::new();
        let here = |flow: &Flow| flow.stage == Stage::Live(Origin::Here);
        for (topic, message) in messages {
            if self.flows.get(&topic).is_some_and(here) {
                batches.entry(topic).or_default().push(message);
            }
        }
        for (topic, batch) in batches {
            self.pass(&topic, batch, now);
        }
    }

    /// History was read to follow a topic of this node's own.
    pub(super) fn read(&mut self, topic: &Topic, result: Result<Page, FetchError>, now: Instant) {
        let Some(flow) = self.flows.get(topic) else { return };
        if flow.stage != Stage::Asked(Origin::Here) {
            return;
        }
        let page = match result {
            Ok(page) => page,
            Err(FetchError::Future { head, .. }) => nothing_since(flow.reached.unwrap_or(head)),
            Err(FetchError::Unavailable(_)) => {
                return self.refuse(topic, now + self.config.retry_after);
            }
        };
        let after = flow.reached.unwrap_or(page.head);
        self.begin(topic, after, now);
        let replay = Replay::of(after, page);
        if let Some(gap) = replay.gap {
            self.lose(topic, gap);
        }
        if !replay.messages.is_empty() {
            self.pass(topic, replay.messages, now);
        }
    }

    /// Where history stands, beside what was passed on.
    pub(super) fn audited(&mut self, topic: &Topic, head: Position, now: Instant) {
        let behind = |flow: &Flow| {
            flow.stage == Stage::Live(Origin::Here)
                && flow.reached.is_some_and(|reached| reached < head)
        };
        if self.flows.get(topic).is_some_and(behind) {
            self.mend(topic, now);
        }
    }

    /// Reads every topic of this node's own again from what was reached: of `shard`, or of all.
    pub(super) fn read_again(&mut self, shard: Option<ShardId>, now: Instant) {
        let own = |flow: &Flow| {
            flow.stage == Stage::Live(Origin::Here) && shard.is_none_or(|shard| shard == flow.shard)
        };
        for topic in self.topics(own) {
            self.follow(&topic, now);
        }
    }

    /// Decides anew where the topics of one shard, or of all, come from, and turns them there.
    pub(super) fn reroute(&mut self, only: Option<ShardId>, now: Instant) {
        self.routes.decide(only, |node| self.links.is_up(node));
        let me = self.config.me;
        // Only these are sorted: a link that comes or goes changes little for 150,000 quiet topics.
        let due = |flow: &Flow| {
            only.is_none_or(|only| only == flow.shard)
                && (flow.feeds_peers(me) || !flow.comes_from(self.routes.of(flow.shard)))
        };
        for topic in self.topics(due) {
            self.turn_away_strangers(&topic, now);
            let Some(flow) = self.flows.get(&topic) else { continue };
            if !flow.comes_from(self.routes.of(flow.shard)) {
                self.follow(&topic, now);
            }
        }
        self.fetches_retry(now);
    }

    /// The topics whose flows `pick` picks, in an order that does not change from run to run. Looks at all
    /// of them: for events that seldom come.
    pub(super) fn topics(&self, pick: impl Fn(&Flow) -> bool) -> Vec<Topic> {
        let mut topics: Vec<Topic> = self
            .flows
            .iter()
            .filter(|(_, flow)| pick(flow))
            .map(|(topic, _)| topic.clone())
            .collect();
        topics.sort_unstable();
        topics
    }
}

/// What is made of an answer that does not know a position although it was reached here: whoever gave
/// it has nothing newer, and what comes will be of another epoch.
pub(super) fn nothing_since(reached: Position) -> Page {
    Page { messages: Vec::new(), head: reached, gap: None }
}

/// How many pauses a head that lost its way to the owner is passed over: long enough that catching
/// up with another is worth it, short enough that a message crosses into the region twice only for
/// a moment.
const AVOID_RETRIES: u32 = 5;
