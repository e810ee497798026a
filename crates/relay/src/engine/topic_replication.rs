//! The replication of one topic through this node: one upstream, several downstreams, one position.
//!
//! It is the same for every role of the node. At the owner the upstream is its own shard; at a region head
//! the downstreams are the links of the region; at an edge the downstream is the sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{
    CommitAge, FailPoint, Gap, HistoryPage, Message, NodeId, Position, ShardId, SubscriberCount,
    UpstreamRoute,
};

use super::audience::TopicAudience;
use super::continuity::{PageReplay, accept, clip_gap, gap_reason};
use super::effect::{TopicSender, chunks};
use super::recent_messages::RecentMessages;

/// The state of a topic that this node follows.
#[derive(Debug)]
pub(crate) struct TopicReplication {
    pub(crate) shard: ShardId,
    /// Everything up to here was received and forwarded; `None` until the first upstream reports where it
    /// begins.
    pub(crate) reached: Option<Position>,
    pub(crate) upstream_state: UpstreamState,
    pub(crate) recent: RecentMessages,
    /// The downstreams by node. The sink is the downstream of this node itself.
    pub(crate) downstreams: BTreeMap<NodeId, Downstream>,
    /// Since when there are no downstreams.
    pub(crate) idle_since: Option<Instant>,
    /// When the upstream was last asked.
    pub(crate) requested_at: Option<Instant>,
    /// Since when the topic is not live, as far as [`TopicReplication::not_live_for`] was called.
    not_live_since: Option<Instant>,
    pub(super) audience: TopicAudience,
}

/// The state of the upstream of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamState {
    /// No upstream is available.
    Unrouted,
    /// The upstream was asked and has not answered.
    Requested(UpstreamSource),
    /// New messages arrive from this source.
    Live(UpstreamSource),
    /// The upstream did not answer usefully; it is asked again later.
    Backoff {
        /// When to ask again.
        until: Instant,
    },
}

/// The source of a topic's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamSource {
    /// A shard of this node.
    Local,
    /// A link, with the number of the topic on it.
    Node {
        /// The peer.
        node: NodeId,
        /// The number that this node assigned to the topic.
        number: u32,
    },
}

/// One receiver of a topic: a peer or the sink.
#[derive(Debug)]
pub(crate) struct Downstream {
    /// The number that the peer assigned to the topic; 0 for the sink.
    pub(crate) number: u32,
    pub(crate) progress: DownstreamProgress,
    /// The downstream was notified where its deliveries begin.
    live_sent: bool,
    /// The sink was notified that the topic is stale.
    stale_sent: bool,
    /// The subscribers reached through the peer. Not used for the sink, whose counts are in
    /// `AudienceCounter`.
    pub(super) subscribers: SubscriberCount,
    /// The cluster total last sent to it, while it requests the total.
    pub(super) total_sent: Option<u64>,
}

/// The progress of a downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownstreamProgress {
    /// Waits for everything after the position, or only for new messages.
    Waiting(Option<Position>),
    /// The messages that it misses are being read.
    Reading {
        /// The position after which it misses messages.
        after: Position,
        /// The current read; results of other reads are outdated.
        read_id: u64,
    },
    /// Has received everything up to this position.
    InSync(Position),
}

impl TopicReplication {
    pub(crate) fn new(
        shard: ShardId,
        reached: Option<Position>,
        recent: RecentMessages,
    ) -> TopicReplication {
        TopicReplication {
            shard,
            reached,
            upstream_state: UpstreamState::Unrouted,
            recent,
            downstreams: BTreeMap::new(),
            idle_since: None,
            requested_at: None,
            not_live_since: None,
            audience: TopicAudience::default(),
        }
    }

    /// Whether time does not affect the topic: it is live and all its downstreams are in sync.
    pub(crate) fn is_settled(&self) -> bool {
        let live =
            matches!(self.upstream_state, UpstreamState::Live(_)) && self.not_live_since.is_none();
        live && !self.downstreams.is_empty()
            && self.downstreams.values().all(Downstream::is_in_sync)
    }

    /// How long the topic has not been live, measured from the first call that found it so.
    pub(crate) fn not_live_for(&mut self, now: Instant) -> Duration {
        if matches!(self.upstream_state, UpstreamState::Live(_)) {
            self.not_live_since = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.not_live_since.get_or_insert(now))
    }

    /// Whether the sink was last notified that the topic is stale; the caller updates it with each
    /// notification. `None` before the sink was notified where its deliveries begin.
    pub(crate) fn sink_stale_flag(&mut self, me: NodeId) -> Option<&mut bool> {
        self.downstreams.get_mut(&me).filter(|sink| sink.live_sent).map(|sink| &mut sink.stale_sent)
    }

    /// Whether any downstream is another node.
    pub(crate) fn has_peer_downstreams(&self, me: NodeId) -> bool {
        self.downstreams.keys().any(|&to| to != me)
    }

    /// Whether the current upstream is the one that `route` names.
    pub(crate) fn matches_route(&self, route: UpstreamRoute) -> bool {
        let (UpstreamState::Requested(source) | UpstreamState::Live(source)) = self.upstream_state
        else {
            return false;
        };
        match source {
            UpstreamSource::Local => route == UpstreamRoute::Local,
            UpstreamSource::Node { node, .. } => route == UpstreamRoute::Node(node),
        }
    }

    /// Whether the current upstream is the link to `node`.
    pub(crate) fn uses_link(&self, node: NodeId) -> bool {
        self.matches_route(UpstreamRoute::Node(node))
    }

    /// Handles the upstream's reply with the position where it begins. A beginning after `reached` without an
    /// explanation of what is between is a gap.
    pub(crate) fn go_live(&mut self, head: Position, out: &mut TopicSender<'_>) {
        let UpstreamState::Requested(source) = self.upstream_state else { return };
        self.upstream_state = UpstreamState::Live(source);
        match self.reached {
            None => self.reached = Some(head),
            Some(reached) if head > reached && !head.next().follows(reached) => {
                let reason = gap_reason(reached, head);
                self.apply_gap(Gap { from: reached.next(), to: head, reason }, out);
            }
            Some(_) => {}
        }
    }

    /// Forwards the messages that follow. Returns whether it stopped at a hole.
    pub(crate) fn forward(
        &mut self,
        messages: Vec<Arc<Message>>,
        age: Option<CommitAge>,
        out: &mut TopicSender<'_>,
    ) -> bool {
        let Some(reached) = self.reached.as_mut() else { return true };
        let accepted = accept(reached, messages);
        for message in &accepted.messages {
            self.recent.push(message.clone());
        }
        for (&to, downstream) in &mut self.downstreams {
            downstream.deliver(to, &accepted.messages, age, out);
        }
        accepted.has_hole
    }

    /// Continues after a gap and notifies the downstreams of it.
    pub(crate) fn apply_gap(&mut self, gap: Gap, out: &mut TopicSender<'_>) {
        self.reached = Some(gap.to);
        self.recent.clear();
        for (&to, downstream) in &mut self.downstreams {
            downstream.apply_gap(to, &gap, out);
        }
    }

    /// Starts a waiting downstream if the messages that it misses are in memory. Otherwise returns the
    /// position after which history must be read for it.
    pub(crate) fn start_downstream(
        &mut self,
        to: NodeId,
        out: &mut TopicSender<'_>,
    ) -> Option<Position> {
        let (UpstreamState::Live(_), Some(reached)) = (self.upstream_state, self.reached) else {
            return None;
        };
        let downstream = self.downstreams.get_mut(&to)?;
        let DownstreamProgress::Waiting(after) = downstream.progress else { return None };
        let from = after.unwrap_or(reached);
        // A topic without messages may have had some in an earlier epoch: history decides.
        let may_have_ended = after == Some(Position::ZERO)
            && reached == Position::ZERO
            && !FailPoint::ZeroPositionLevel.is_active();
        // A downstream ahead of this node came from another upstream. What it already has is skipped.
        let missing = match from >= reached {
            true => (!may_have_ended).then(Vec::new),
            false => self.recent.after(from),
        };
        let Some(missing) = missing else { return Some(from) };
        downstream.go_live(to, from, out);
        downstream.deliver(to, &missing, None, out);
        None
    }

    /// Sends a downstream the history that was read for it, at most `bytes_max`. The remainder is requested
    /// again, so that catching up pauses while the link is full. Returns whether the downstream advanced;
    /// otherwise the page is older than its position, and an immediate retry would not help.
    pub(crate) fn catch_up(
        &mut self,
        to: NodeId,
        read_id: u64,
        page: HistoryPage,
        bytes_max: usize,
        out: &mut TopicSender<'_>,
    ) -> bool {
        let Some(downstream) = self.downstreams.get_mut(&to) else { return false };
        let Some(after) = downstream.read_after(read_id) else { return false };
        let replay = PageReplay::from_page(after, page);
        downstream.go_live(to, after, out);
        if let Some(gap) = &replay.gap {
            downstream.apply_gap(to, gap, out);
        }
        let DownstreamProgress::InSync(mut position) = downstream.progress else { return false };
        if replay.messages.is_empty() {
            // There are no messages between the previous position and the beginning of an epoch.
            position = position.max(replay.end);
            downstream.progress = DownstreamProgress::InSync(position);
        }
        let batch = chunks(&replay.messages, bytes_max).next().map_or_else(Vec::new, <[_]>::to_vec);
        let accepted = accept(&mut position, batch);
        downstream.deliver(to, &accepted.messages, None, out);
        if self.reached.is_some_and(|reached| position < reached) {
            downstream.progress = DownstreamProgress::Waiting(Some(position));
        } else {
            // This node must not be behind any of its downstreams, or the next one would go backwards.
            self.forward(accepted.messages, None, out);
        }
        position > after
    }

    /// Makes a downstream wait, because the history that it misses cannot be read now.
    pub(crate) fn defer_read(&mut self, to: NodeId, read_id: u64) {
        if let Some(downstream) = self.downstreams.get_mut(&to)
            && let Some(after) = downstream.read_after(read_id)
        {
            downstream.progress = DownstreamProgress::Waiting(Some(after));
        }
    }

    /// The downstreams that wait to be started.
    pub(crate) fn waiting_downstreams(&self) -> Vec<NodeId> {
        let is_waiting =
            |downstream: &Downstream| matches!(downstream.progress, DownstreamProgress::Waiting(_));
        self.downstreams
            .iter()
            .filter(|(_, downstream)| is_waiting(downstream))
            .map(|(&to, _)| to)
            .collect()
    }
}

impl Downstream {
    pub(crate) fn new(number: u32, after: Option<Position>) -> Downstream {
        let progress = DownstreamProgress::Waiting(after);
        let (subscribers, total_sent) = (SubscriberCount::default(), None);
        Downstream {
            number,
            progress,
            live_sent: false,
            stale_sent: false,
            subscribers,
            total_sent,
        }
    }

    /// Whether the downstream has everything that was received.
    pub(crate) fn is_in_sync(&self) -> bool {
        matches!(self.progress, DownstreamProgress::InSync(_))
    }

    /// The position after which read `read_id` began, if the downstream waits for that read.
    pub(crate) fn read_after(&self, read_id: u64) -> Option<Position> {
        match self.progress {
            DownstreamProgress::Reading { after, read_id: current } if current == read_id => {
                Some(after)
            }
            _ => None,
        }
    }

    fn go_live(&mut self, to: NodeId, from: Position, out: &mut TopicSender<'_>) {
        self.progress = DownstreamProgress::InSync(from);
        if !self.live_sent {
            self.live_sent = true;
            out.send_live(to, self.number, from);
        }
    }

    fn deliver(
        &mut self,
        to: NodeId,
        messages: &[Arc<Message>],
        age: Option<CommitAge>,
        out: &mut TopicSender<'_>,
    ) {
        let DownstreamProgress::InSync(position) = self.progress else { return };
        let already_sent =
            messages.iter().take_while(|message| message.position <= position).count();
        if let Some(last) = messages[already_sent..].last() {
            self.progress = DownstreamProgress::InSync(last.position);
            out.send_messages(to, self.number, &messages[already_sent..], age);
        }
    }

    fn apply_gap(&mut self, to: NodeId, gap: &Gap, out: &mut TopicSender<'_>) {
        let DownstreamProgress::InSync(position) = self.progress else { return };
        if gap.to > position {
            self.progress = DownstreamProgress::InSync(gap.to);
            out.send_gap(to, self.number, clip_gap(gap, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;
    use crate::engine::effect::EngineEffect;
    use crate::engine::testing::message;

    const ME: NodeId = NodeId(1);

    /// A replication at 1:8 without recent messages, whose sink is reading history.
    fn replication_reading(after: u64, read_id: u64) -> TopicReplication {
        let reached = Position::new(1, 8);
        let mut replication =
            TopicReplication::new(ShardId(0), Some(reached), RecentMessages::new(0, 0));
        replication.upstream_state = UpstreamState::Live(UpstreamSource::Local);
        let mut downstream = Downstream::new(0, None);
        downstream.progress =
            DownstreamProgress::Reading { after: Position::new(1, after), read_id };
        replication.downstreams.insert(ME, downstream);
        replication
    }

    fn catch_up(
        replication: &mut TopicReplication,
        read_id: u64,
        offsets: &[u64],
        bytes_max: usize,
    ) -> Vec<EngineEffect> {
        let (topic, mut effects) = (topic("a"), Vec::new());
        let messages = offsets.iter().map(|&offset| message(1, offset)).collect();
        let page = HistoryPage { messages, head: Position::new(1, 8), gap: None };
        let mut out = TopicSender { me: ME, topic: &topic, effects: &mut effects };
        replication.catch_up(ME, read_id, page, bytes_max, &mut out);
        effects
    }

    #[test]
    fn page_of_an_earlier_read_is_ignored() {
        let mut replication = replication_reading(2, 7);
        assert!(catch_up(&mut replication, 6, &[6, 7, 8], 1_000).is_empty());
        assert_eq!(replication.downstreams[&ME].read_after(7), Some(Position::new(1, 2)));
    }

    #[test]
    fn downstream_at_zero_is_in_sync_with_an_epoch_without_messages() {
        let mut replication = replication_reading(0, 7);
        let (head, topic, mut effects) = (Position::new(9, 0), topic("a"), Vec::new());
        replication.reached = Some(head);
        let sink = replication.downstreams.get_mut(&ME).expect("the sink was added");
        sink.progress = DownstreamProgress::Reading { after: Position::ZERO, read_id: 7 };
        let page = HistoryPage { messages: vec![], head, gap: None };
        let mut out = TopicSender { me: ME, topic: &topic, effects: &mut effects };
        replication.catch_up(ME, 7, page, 1_000, &mut out);
        assert_eq!(replication.downstreams[&ME].progress, DownstreamProgress::InSync(head));
        assert!(matches!(&effects[..], [EngineEffect::Live(..)]), "no gap: {effects:?}");
    }

    #[test]
    fn downstream_at_zero_reads_history_when_the_topic_has_no_messages() {
        let mut replication = replication_reading(0, 7);
        replication.reached = Some(Position::ZERO);
        let (topic, mut effects) = (topic("a"), Vec::new());
        let mut out = TopicSender { me: ME, topic: &topic, effects: &mut effects };
        for (after, expected) in [(Some(Position::ZERO), Some(Position::ZERO)), (None, None)] {
            replication.downstreams.insert(ME, Downstream::new(0, after));
            assert_eq!(replication.start_downstream(ME, &mut out), expected, "after {after:?}");
        }
    }

    #[test]
    fn downstream_given_part_of_a_page_waits_for_the_remainder() {
        let mut replication = replication_reading(5, 7);
        let effects = catch_up(&mut replication, 7, &[6, 7, 8], 2 * message(1, 6).payload.len());
        assert!(
            matches!(&effects[..], [EngineEffect::Live(..), EngineEffect::Deliver(_, part, _)] if part.len() == 2)
        );
        let expected = DownstreamProgress::Waiting(Some(Position::new(1, 7)));
        assert_eq!(replication.downstreams[&ME].progress, expected);
    }
}
