//! Keeps the order of the messages of one stream to one shard while the owner changes. Pure.
//!
//! Messages are sent without waiting for each other, so an owner that loses its shard may reject some
//! messages after it accepted later ones. The rejections "not owner" and "unavailable" mean that a message
//! had no effect, so the message waits for an owner again. Three rules keep the order:
//!
//! - While messages are in flight to one node, none is sent to another.
//! - After a rejection no message is sent until all replies have arrived, and then one at a time until one
//!   is accepted.
//! - A rejected message is retried in its place, unless a later message of the same topic may already be
//!   stored: then it is rejected finally. It had no effect, and its publisher knows better than this window
//!   whether it still matters. A message with a producer sequence cannot be overtaken, since the shard
//!   accepts no later one before it, so it is retried in any case.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, CoverageMark, NodeId, Publish, PublishError, PublishId, PublishRejection,
    ShardId, ShardOwners, Topic, UnavailableReason,
};
use tokio::time::Instant;

use crate::route::{self, OwnerRejection, RouteDecision, RouteTarget};

/// Delay before a node that rejected is tried again when no better one is known. An owner whose lease
/// lapsed for a short time continues under the same claim, so a new claim may never come.
const RETRY_DELAY: Duration = Duration::from_millis(100);

pub(crate) struct ShardWindow {
    shard: ShardId,
    entries: VecDeque<WindowEntry>,
    /// The number of the first entry; numbers are never reused within a window.
    first_number: u64,
    /// Entries before this index are not waiting.
    next_index: usize,
    in_flight: usize,
    target: Option<RouteTarget>,
    rejection: Option<OwnerRejection>,
    /// Whether a message was rejected, and the replies to the others in flight are awaited.
    is_draining: bool,
    /// Whether no message was accepted since a rejection: messages are then sent one at a time.
    is_probing: bool,
    /// The last rejection, and the node that replied with it.
    last_error: Option<(NodeId, UnavailableReason)>,
    retry_at: Option<Instant>,
}

struct WindowEntry {
    stream_index: u64,
    publish: Publish,
    deadline: Instant,
    state: WindowEntryState,
}

impl WindowEntry {
    fn has_sequence(&self) -> bool {
        matches!(self.publish.publish_id, Some(PublishId::Sequence(_)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WindowEntryState {
    Waiting,
    InFlight,
    Rejected,
    Completed { may_be_committed: bool },
}

/// A message to send now.
pub(crate) struct Submission {
    pub number: u64,
    pub node: NodeId,
    pub publish: Publish,
}

/// A completed message: its stream index and its outcome.
pub(crate) type PublishOutcome = (u64, Result<Acknowledgement, PublishError>);

impl ShardWindow {
    pub(crate) fn new(shard: ShardId) -> ShardWindow {
        ShardWindow {
            shard,
            entries: VecDeque::new(),
            first_number: 0,
            next_index: 0,
            in_flight: 0,
            target: None,
            rejection: None,
            is_draining: false,
            is_probing: false,
            last_error: None,
            retry_at: None,
        }
    }

    /// Appends a message. It is rejected if no owner accepts it by `deadline`.
    pub(crate) fn push(&mut self, stream_index: u64, publish: Publish, deadline: Instant) {
        self.entries.push_back(WindowEntry {
            stream_index,
            publish,
            deadline,
            state: WindowEntryState::Waiting,
        });
    }

    /// The next message that may be sent now. Call it until it returns `None`.
    pub(crate) fn next_submission(
        &mut self,
        owners: &ShardOwners,
        now: Instant,
    ) -> Option<Submission> {
        if self.is_probing && self.in_flight > 0 {
            return None;
        }
        let index = self.first_waiting()?;
        let target = self.choose_target(owners, now)?;
        if self.in_flight > 0 && self.target.is_some_and(|previous| previous.node != target.node) {
            return None;
        }
        if self.target.is_some_and(|previous| previous.node != target.node) {
            CoverageMark::PublishFollowsOwner.reach();
        }
        self.target = Some(target);
        self.in_flight += 1;
        self.next_index = index + 1;
        let entry = &mut self.entries[index];
        entry.state = WindowEntryState::InFlight;
        let publish = entry.publish.clone();
        Some(Submission { number: self.first_number + index as u64, node: target.node, publish })
    }

    /// Handles the reply of the node that the message was sent to.
    pub(crate) fn on_reply(
        &mut self,
        number: u64,
        result: Result<Acknowledgement, PublishError>,
        now: Instant,
        outcomes: &mut Vec<PublishOutcome>,
    ) {
        let Some(index) = number.checked_sub(self.first_number).map(|index| index as usize) else {
            return;
        };
        if self.entries.get(index).is_none_or(|entry| entry.state != WindowEntryState::InFlight) {
            return;
        }
        self.in_flight -= 1;
        match result {
            Err(PublishError::Rejected(PublishRejection::NotOwner { owner })) => {
                self.on_rejected(index, owner, UnavailableReason::NotOwner { owner }, now);
            }
            Err(PublishError::Rejected(PublishRejection::Unavailable(reason))) => {
                self.on_rejected(index, None, reason, now);
            }
            result => {
                self.is_probing = self.is_draining;
                self.complete(index, result, outcomes);
            }
        }
        if self.in_flight == 0 {
            self.on_drained(outcomes);
        }
        self.remove_completed();
    }

    /// Rejects the messages whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant, outcomes: &mut Vec<PublishOutcome>) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.deadline > now {
                break;
            }
            if entry.state == WindowEntryState::Waiting {
                CoverageMark::PublishExpires.reach();
                self.complete(index, Err(self.expiry_reason().into()), outcomes);
            }
        }
        self.remove_completed();
    }

    fn expiry_reason(&self) -> UnavailableReason {
        let shard = self.shard;
        match self.last_error.clone() {
            Some((node, reason)) => {
                UnavailableReason::NotAccepted { shard, node, reason: Box::new(reason) }
            }
            None => UnavailableReason::OwnerUnknown(shard),
        }
    }

    /// When to call [`ShardWindow::expire`] and [`ShardWindow::next_submission`] if no event comes before.
    /// Messages in flight need no timer: their nodes have their own deadlines.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let first_waiting =
            || self.entries.iter().find(|entry| entry.state == WindowEntryState::Waiting);
        let first_stuck = if self.in_flight == 0 { first_waiting() } else { None };
        let retry_at = first_stuck.and(self.retry_at);
        [first_stuck.map(|entry| entry.deadline), retry_at].into_iter().flatten().min()
    }

    /// Handles a rejection: another node may accept the message, or the same one later.
    fn on_rejected(
        &mut self,
        index: usize,
        hint: Option<NodeId>,
        reason: UnavailableReason,
        now: Instant,
    ) {
        self.entries[index].state = WindowEntryState::Rejected;
        self.rejection = self.target.map(|asked| asked.to_rejection(hint));
        self.retry_at = Some(now + RETRY_DELAY);
        self.is_draining = true;
        self.is_probing = true;
        self.last_error = self.target.map(|asked| (asked.node, reason));
    }

    /// The node to send to; after a delay the claimed owner again, although it has rejected.
    fn choose_target(&mut self, owners: &ShardOwners, now: Instant) -> Option<RouteTarget> {
        if let RouteDecision::SendTo(target) =
            route::decide(self.shard, owners, self.rejection.as_ref())
        {
            return Some(target);
        }
        if self.retry_at.is_some_and(|retry_at| retry_at > now) {
            return None;
        }
        self.rejection = None;
        self.retry_at = None;
        match route::decide(self.shard, owners, None) {
            RouteDecision::SendTo(target) => Some(target),
            RouteDecision::WaitForClaim => None,
        }
    }

    fn first_waiting(&mut self) -> Option<usize> {
        while self.entries.get(self.next_index)?.state != WindowEntryState::Waiting {
            self.next_index += 1;
        }
        Some(self.next_index)
    }

    /// Called when no message is in flight: rejected messages wait again in their place, unless they were
    /// overtaken.
    fn on_drained(&mut self, outcomes: &mut Vec<PublishOutcome>) {
        if !self.is_draining {
            return;
        }
        self.is_draining = false;
        self.next_index = 0;
        let mut overtaken: HashSet<Topic> = HashSet::new();
        for index in (0..self.entries.len()).rev() {
            let topic = self.entries[index].publish.topic.clone();
            match self.entries[index].state {
                WindowEntryState::Completed { may_be_committed: true } => {
                    overtaken.insert(topic);
                }
                WindowEntryState::Rejected
                    if overtaken.contains(&topic) && !self.entries[index].has_sequence() =>
                {
                    self.complete(index, Err(UnavailableReason::Overtaken.into()), outcomes);
                }
                WindowEntryState::Rejected => self.entries[index].state = WindowEntryState::Waiting,
                _ => {}
            }
        }
    }

    fn complete(
        &mut self,
        index: usize,
        result: Result<Acknowledgement, PublishError>,
        outcomes: &mut Vec<PublishOutcome>,
    ) {
        let may_be_committed = !matches!(result, Err(PublishError::Rejected(_)));
        let entry = &mut self.entries[index];
        entry.state = WindowEntryState::Completed { may_be_committed };
        outcomes.push((entry.stream_index, result));
    }

    fn remove_completed(&mut self) {
        while let Some(WindowEntry { state: WindowEntryState::Completed { .. }, .. }) =
            self.entries.front()
        {
            self.entries.pop_front();
            self.first_number += 1;
            self.next_index = self.next_index.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[path = "shard_window/shard_window_test.rs"]
mod shard_window_test;
