//! Finds the sessions of a lane that are furthest behind the newest messages of their topics.

use pushonce_core::{Timestamp, Topic};

use super::subscription_table::{LaneSubscription, SessionKey, SubscriptionTable};
use crate::delivery_mode::DeliveryMode;
use crate::ring::{Ring, RingPlace};

/// How far a session is behind, on the topic of which it is the furthest behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLag {
    /// The session.
    pub session: SessionKey,
    /// The label of the session; see [`Lane::set_label`](crate::Lane::set_label).
    pub label: u32,
    /// The topic.
    pub topic: Topic,
    /// Number of messages that the session has yet to receive. With `latest` or a rate it receives fewer.
    pub messages: u64,
    /// Payload bytes of these messages, as far as they are in the buffer of the topic.
    pub bytes: u64,
    /// The time of the oldest of them in the buffer.
    pub oldest: Option<Timestamp>,
    /// Whether the session waits until its sink is writable. Else it catches up.
    pub is_blocked: bool,
}

/// A search through the subscriptions of a lane, in steps so that no session waits for it. Sessions that come or go
/// between two steps may be missed.
#[derive(Debug)]
pub struct LagScan {
    sessions_max: usize,
    late_before: Timestamp,
    next_topic: usize,
    next_subscription: usize,
    /// Number of subscriptions that were looked at.
    subscriptions: u64,
    sessions: Vec<SessionLag>,
}

impl LagScan {
    /// A search for the `sessions_max` sessions that are furthest behind. Of sessions that are not blocked, those
    /// count whose oldest message is from before `late_before`: all others receive their messages at this moment.
    pub fn new(sessions_max: usize, late_before: Timestamp) -> LagScan {
        LagScan {
            sessions_max,
            late_before,
            next_topic: 0,
            next_subscription: 0,
            subscriptions: 0,
            sessions: Vec::new(),
        }
    }

    /// The sessions that were found, the furthest behind first, and the number of subscriptions that were looked at.
    pub fn finish(self) -> (Vec<SessionLag>, u64) {
        (self.sessions, self.subscriptions)
    }

    /// Adds a session if it is one of the furthest behind.
    fn add(&mut self, lag: SessionLag) {
        let known = self.sessions.iter().position(|known| known.session == lag.session);
        if let Some(known) = known {
            if self.sessions[known].messages >= lag.messages {
                return;
            }
            self.sessions.remove(known);
        }
        let place = self.sessions.partition_point(|known| known.messages >= lag.messages);
        if place < self.sessions_max {
            self.sessions.insert(place, lag);
            self.sessions.truncate(self.sessions_max);
        }
    }

    /// Whether a session that is this far behind would be one of the furthest.
    fn is_candidate(&self, messages: u64) -> bool {
        let last = self.sessions.last().filter(|_| self.sessions.len() >= self.sessions_max);
        last.is_none_or(|last| messages > last.messages)
    }
}

impl SubscriptionTable {
    /// Looks at the next `subscriptions_max` subscriptions. Returns whether the search is complete.
    pub(super) fn scan_lag(&self, scan: &mut LagScan, subscriptions_max: usize) -> bool {
        let mut remaining = subscriptions_max;
        while scan.next_topic < self.topics.capacity() {
            let Some(lane_topic) = self.topics.get(scan.next_topic) else {
                scan.next_topic += 1;
                continue;
            };
            let buffer = lane_topic.registration.buffer();
            let state = buffer.state();
            while scan.next_subscription < lane_topic.subscriptions.index_bound() {
                if remaining == 0 {
                    return false;
                }
                remaining -= 1;
                let subscription = lane_topic.subscriptions.get(scan.next_subscription);
                scan.next_subscription += 1;
                let Some(subscription) = subscription else { continue };
                scan.subscriptions += 1;
                let found = self.lag_of(subscription, &buffer.topic, &state.ring, scan);
                found.into_iter().for_each(|lag| scan.add(lag));
            }
            (scan.next_topic, scan.next_subscription) = (scan.next_topic + 1, 0);
        }
        true
    }

    /// The lag of a subscription, if it is one of the furthest behind.
    fn lag_of(
        &self,
        subscription: &LaneSubscription,
        topic: &Topic,
        ring: &Ring,
        scan: &LagScan,
    ) -> Option<SessionLag> {
        let (cursor, head, is_blocked) =
            (subscription.cursor, ring.head(), subscription.is_blocked);
        // A subscription with `latest` or a rate skips messages on purpose.
        let may_be_late = is_blocked || subscription.mode == DeliveryMode::All;
        if cursor >= head || !subscription.is_started || !may_be_late {
            return None;
        }
        let messages = match cursor.epoch == head.epoch {
            true => head.offset.0 - cursor.offset.0,
            false => ring.len() as u64,
        };
        if !scan.is_candidate(messages) {
            return None;
        }
        let first = match ring.locate(cursor) {
            RingPlace::At(index) => index,
            RingPlace::Missing => 0,
        };
        let oldest = ring.entries_from(first).next().map(|entry| entry.message.time);
        if !is_blocked && oldest.is_none_or(|oldest| oldest >= scan.late_before) {
            return None;
        }
        let bytes = ring.entries_from(first).map(|entry| entry.message.payload.len() as u64).sum();
        let (session, label) = self.session_of(subscription)?;
        Some(SessionLag {
            session,
            label,
            topic: topic.clone(),
            messages,
            bytes,
            oldest,
            is_blocked,
        })
    }
}
