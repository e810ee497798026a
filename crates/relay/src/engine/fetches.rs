//! Pending history requests: of this node, of a peer whose upstream this node is, or for a downstream that
//! missed messages.
//!
//! A request changes nothing, so it may be sent again to another node: while no answer is available it waits
//! up to its deadline. A peer's request does not wait here, because the peer chooses itself where to retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    FetchError, HistoryPage, HistoryRange, Message, NodeId, Topic, UnavailableReason, UpstreamRoute,
};
use pushonce_proto::peer::{FetchedPart, PeerFrame};

use super::Engine;
use super::effect::{EngineEffect, FRAME_BYTES_MAX, ReadPurpose, TopicSender, chunks};
use super::topic_replication::UpstreamState;
use super::upstream::empty_page;

/// The pending history requests, bounded in number.
#[derive(Debug, Default)]
pub(crate) struct PendingFetches(HashMap<u64, PendingFetch>);

#[derive(Debug)]
struct PendingFetch {
    requester: FetchRequester,
    topic: Topic,
    range: HistoryRange,
    target: FetchTarget,
    parts: Vec<Arc<Message>>,
    deadline: Instant,
}

/// The receiver of the result of a fetch.
#[derive(Clone, Debug)]
pub(crate) enum FetchRequester {
    /// A caller on this node.
    Caller(u64),
    /// A peer, under the peer's own id.
    Peer { node: NodeId, id: u64 },
    /// A downstream of the same topic.
    Downstream { to: NodeId, read_id: u64 },
}

/// Fraction of the link queue's bound that one catch-up page may fill: by default four times the default
/// history of a topic, so that history is read once, and small enough that it never overflows a link.
const CATCH_UP_DIVISOR: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
enum FetchTarget {
    Parked { reason: UnavailableReason },
    Local,
    Node(NodeId),
}

impl Engine {
    /// Starts a fetch from the topic's upstream.
    pub(super) fn fetch(
        &mut self,
        requester: FetchRequester,
        topic: Topic,
        range: HistoryRange,
        now: Instant,
    ) {
        if self.fetches.0.len() >= self.config.pending_max {
            let too_many = UnavailableReason::TooManyFetches;
            self.finish_fetch(requester, &topic, Err(too_many.into()), now);
            return;
        }
        let id = self.next_id();
        let deadline = now + self.config.fetch_timeout;
        let shard = topic.shard(self.routes.view().shards);
        let target = FetchTarget::Parked { reason: UnavailableReason::OwnerUnknown(shard) };
        self.fetches.0.insert(
            id,
            PendingFetch { requester, topic, range, target, parts: Vec::new(), deadline },
        );
        self.send_fetch(id, now);
    }

    fn send_fetch(&mut self, id: u64, now: Instant) {
        let Some(fetch) = self.fetches.0.get_mut(&id) else { return };
        let shard = fetch.topic.shard(self.routes.view().shards);
        let (topic, range) = (fetch.topic.clone(), fetch.range);
        match self.routes.upstream_for(shard) {
            UpstreamRoute::Local => {
                fetch.target = FetchTarget::Local;
                self.effects.push(EngineEffect::Read {
                    purpose: ReadPurpose::Fetch(id),
                    topic,
                    range,
                });
            }
            UpstreamRoute::Node(node) if self.links.is_up(node) => {
                fetch.target = FetchTarget::Node(node);
                self.effects.push(EngineEffect::Send(node, PeerFrame::Fetch { id, topic, range }));
            }
            UpstreamRoute::Node(node) => {
                self.park(id, UnavailableReason::NoLink(node), now);
            }
            UpstreamRoute::Unknown => {}
        }
    }

    /// Parks a fetch that cannot be answered now, for a retry. It gets a new id, because parts of an earlier
    /// answer may still arrive and must not mix with the next answer.
    fn park(&mut self, id: u64, reason: UnavailableReason, now: Instant) {
        let Some(mut fetch) = self.fetches.0.remove(&id) else { return };
        if matches!(fetch.requester, FetchRequester::Peer { .. }) {
            self.finish_fetch(fetch.requester, &fetch.topic, Err(reason.into()), now);
            return;
        }
        fetch.target = FetchTarget::Parked { reason };
        fetch.parts.clear();
        let id = self.next_id();
        self.fetches.0.insert(id, fetch);
    }

    /// Handles the history request of a peer.
    pub(super) fn on_fetch(
        &mut self,
        node: NodeId,
        id: u64,
        topic: Topic,
        range: HistoryRange,
        now: Instant,
    ) {
        let requester = FetchRequester::Peer { node, id };
        let shard = topic.shard(self.routes.view().shards);
        if !self.routes.may_serve(node, shard) {
            let not_upstream =
                UnavailableReason::NotUpstream { node: self.config.me, requester: node, shard };
            self.finish_fetch(requester, &topic, Err(not_upstream.into()), now);
        } else if self.links.is_congested(node) {
            let congested = UnavailableReason::LinkCongested { from: self.config.me, to: node };
            self.finish_fetch(requester, &topic, Err(congested.into()), now);
        } else if let Some(page) = self.cached_page(&topic, range, now) {
            self.finish_fetch(requester, &topic, Ok(page), now);
        } else {
            self.fetch(requester, topic, range, now);
        }
    }

    /// Answers from the recent messages in memory, if the topic is live and fresh enough to be complete.
    fn cached_page(&self, topic: &Topic, range: HistoryRange, now: Instant) -> Option<HistoryPage> {
        let replication = self
            .replications
            .get(topic)
            .filter(|replication| matches!(replication.upstream_state, UpstreamState::Live(_)))?;
        if self.freshness.age(replication.shard, now) >= self.config.stale_after {
            return None;
        }
        let messages = match range {
            HistoryRange::After(position) => replication.recent.after(position),
            HistoryRange::Last(count) => replication.recent.last(usize::try_from(count).ok()?),
            HistoryRange::All => None,
        }?;
        Some(HistoryPage { messages, head: replication.reached?, gap: None })
    }

    /// Handles a part of a peer's answer.
    pub(super) fn on_fetched(&mut self, from: NodeId, id: u64, part: FetchedPart, now: Instant) {
        let Some(fetch) = self.fetches.0.get_mut(&id) else { return };
        if fetch.target != FetchTarget::Node(from) {
            return;
        }
        match part {
            FetchedPart::More(messages) => fetch.parts.extend(messages),
            FetchedPart::Done { messages, head, gap } => {
                fetch.parts.extend(messages);
                let messages = std::mem::take(&mut fetch.parts);
                self.on_fetch_result(id, Ok(HistoryPage { messages, head, gap }), now);
            }
            FetchedPart::Failed(error) => self.on_fetch_result(id, Err(error), now),
        }
    }

    /// Handles the complete result of a fetch.
    pub(super) fn on_fetch_result(
        &mut self,
        id: u64,
        result: Result<HistoryPage, FetchError>,
        now: Instant,
    ) {
        match result {
            Err(FetchError::Unavailable(reason)) => self.park(id, reason, now),
            result => {
                let Some(fetch) = self.fetches.0.remove(&id) else { return };
                self.finish_fetch(fetch.requester, &fetch.topic, result, now);
            }
        }
    }

    fn finish_fetch(
        &mut self,
        requester: FetchRequester,
        topic: &Topic,
        result: Result<HistoryPage, FetchError>,
        now: Instant,
    ) {
        match requester {
            FetchRequester::Caller(id) => self.effects.push(EngineEffect::Fetched { id, result }),
            FetchRequester::Peer { node, id } => self.send_fetch_reply(node, id, result),
            FetchRequester::Downstream { to, read_id } => {
                self.on_catch_up_page(topic, to, read_id, result, now)
            }
        }
    }

    fn send_fetch_reply(&mut self, node: NodeId, id: u64, result: Result<HistoryPage, FetchError>) {
        let mut send =
            |part| self.effects.push(EngineEffect::Send(node, PeerFrame::Fetched { id, part }));
        match result {
            Err(error) => send(FetchedPart::Failed(error)),
            Ok(HistoryPage { messages, head, gap }) => {
                chunks(&messages, FRAME_BYTES_MAX)
                    .for_each(|chunk| send(FetchedPart::More(chunk.to_vec())));
                send(FetchedPart::Done { messages: Vec::new(), head, gap });
            }
        }
    }

    /// Handles the page that was read for a downstream that missed messages.
    fn on_catch_up_page(
        &mut self,
        topic: &Topic,
        to: NodeId,
        read_id: u64,
        result: Result<HistoryPage, FetchError>,
        now: Instant,
    ) {
        let Some(replication) = self.replications.get_mut(topic) else { return };
        if self.links.is_congested(to) {
            return replication.defer_read(to, read_id);
        }
        let page = match (result, replication.reached) {
            (Ok(page), _) => page,
            (Err(FetchError::FuturePosition { .. }), Some(reached)) => empty_page(reached),
            // The next tick tries again.
            (Err(_), _) => return replication.defer_read(to, read_id),
        };
        let bytes_max = self.config.link_bytes_max / CATCH_UP_DIVISOR;
        let mut out = TopicSender { me: self.config.me, topic, effects: &mut self.effects };
        if replication.catch_up(to, read_id, page, bytes_max, &mut out) {
            self.changed_topics.insert(topic.clone());
            self.start_downstream(topic, to, now);
        }
    }

    pub(super) fn fetches_on_link_lost(&mut self, node: NodeId, now: Instant) {
        let is_from_peer = |fetch: &PendingFetch| matches!(fetch.requester, FetchRequester::Peer { node: n, .. } if n == node);
        self.fetches.0.retain(|_, fetch| !is_from_peer(fetch));
        for id in self.fetches_where(|target| *target == FetchTarget::Node(node)) {
            self.park(id, UnavailableReason::LinkLost(node), now);
        }
    }

    /// Sends parked fetches again, and fails those whose deadline passed.
    pub(super) fn retry_fetches(&mut self, now: Instant) {
        for id in self.fetches_where(|target| matches!(target, FetchTarget::Parked { .. })) {
            self.send_fetch(id, now);
        }
        let expired = self.fetches.0.iter().filter(|(_, fetch)| fetch.deadline <= now);
        for id in expired.map(|(&id, _)| id).collect::<Vec<_>>() {
            let Some(fetch) = self.fetches.0.remove(&id) else { continue };
            let reason = match fetch.target {
                FetchTarget::Parked { reason } => reason,
                FetchTarget::Local => self.fetch_timeout_error(self.config.me),
                FetchTarget::Node(node) => self.fetch_timeout_error(node),
            };
            self.finish_fetch(fetch.requester, &fetch.topic, Err(reason.into()), now);
        }
    }

    fn fetch_timeout_error(&self, node: NodeId) -> UnavailableReason {
        UnavailableReason::NoReply { node: Some(node), within: self.config.fetch_timeout }
    }

    fn fetches_where(&self, predicate: impl Fn(&FetchTarget) -> bool) -> Vec<u64> {
        self.fetches
            .0
            .iter()
            .filter(|(_, fetch)| predicate(&fetch.target))
            .map(|(&id, _)| id)
            .collect()
    }
}
