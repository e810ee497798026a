//! A sink that checks every notification it receives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{Gap, Message, NodeId, Position, Topic};

use crate::engine::testing::message;

/// The state of one topic at one sink.
#[derive(Default)]
pub(super) struct SinkChecker {
    is_watching: bool,
    /// The position from which the last watch resumes.
    requested_after: Option<Position>,
    is_live: bool,
    stale: bool,
    /// The newest position that the sink has received.
    position: Option<Position>,
    /// A session here requests the audience.
    wants_audience: bool,
    /// The last reported audience, and when it was reported.
    audience: Option<(u64, Instant)>,
}

impl SinkChecker {
    /// Starts a watch and returns the position from which it resumes.
    pub(super) fn watch(&mut self, resume: bool) -> Option<Position> {
        self.requested_after = self.position.filter(|_| resume);
        (self.is_watching, self.is_live, self.stale) = (true, false, false);
        self.requested_after
    }

    pub(super) fn unwatch(&mut self) {
        (self.is_watching, self.is_live, self.stale) = (false, false, false);
        self.wants_audience = false;
    }

    /// Returns whether the sink can have sessions.
    pub(super) fn set_wants_audience(&mut self, wants_audience: bool) -> bool {
        self.wants_audience = wants_audience && self.is_watching;
        self.is_watching
    }

    /// Called when the engine receives the session counts. An audience that is no longer requested is
    /// forgotten.
    pub(super) fn clear_unwanted_audience(&mut self) {
        self.audience = self.audience.filter(|_| self.wants_audience);
    }

    pub(super) fn on_audience(&mut self, sessions: u64, now: Instant) {
        if let Some((_, at)) = self.audience.filter(|_| self.wants_audience) {
            assert!(
                now - at >= Duration::from_secs(1),
                "the audience was reported twice within a second"
            );
        }
        self.audience = Some((sessions, now));
    }

    pub(super) fn audience(&self) -> Option<u64> {
        self.audience.map(|(sessions, _)| sessions)
    }

    pub(super) fn on_stale(&mut self) {
        assert!(
            self.is_watching && self.is_live && !self.stale,
            "stale was reported twice, or without a live watch"
        );
        self.stale = true;
    }

    pub(super) fn on_fresh(&mut self) {
        assert!(self.stale, "fresh was reported although the topic was not stale");
        self.stale = false;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// `is_overdue`: whether the sink has missed the confirmation of the topic for too long.
    pub(super) fn check_staleness(&self, node: NodeId, topic: &Topic, is_overdue: bool) {
        let is_marked = self.stale || !self.is_live || !is_overdue;
        assert!(is_marked, "{node} is cut off from {topic}, and its sink was not marked stale");
    }

    pub(super) fn on_live(&mut self, head: Position) {
        assert!(self.is_watching && !self.is_live, "live without a watch");
        if let Some(requested_after) = self.requested_after {
            assert_eq!(head, requested_after, "deliveries do not begin at the requested position");
        }
        if let Some(previous) = self.position {
            assert!(head >= previous, "the position went back from {previous} to {head}");
        }
        (self.is_live, self.position) = (true, Some(head));
    }

    pub(super) fn deliver(&mut self, messages: &[Arc<Message>]) {
        assert!(!messages.is_empty(), "an empty delivery");
        for received in messages {
            let position = received.position;
            let previous = self.live_position();
            assert!(position.follows(previous), "{position} delivered after {previous}");
            assert_eq!(*received, message(position.epoch.0, position.offset.0), "wrong message");
            self.position = Some(position);
        }
    }

    /// `oldest`: the oldest message in history. What history has must not be reported as a gap.
    pub(super) fn on_gap(&mut self, gap: Gap, oldest: Option<Position>) {
        let previous = self.live_position();
        assert!(gap.to > previous, "a gap up to {} reported at {previous}", gap.to);
        if gap.from.epoch == previous.epoch {
            assert_eq!(gap.from, previous.next(), "a gap that does not begin where the reader is");
        }
        let is_retained = oldest.is_some_and(|oldest| gap.to >= oldest);
        assert!(!is_retained, "{gap} was reported while history has {oldest:?}");
        self.position = Some(gap.to);
    }

    pub(super) fn check_in_sync(&self, node: NodeId, topic: &Topic, head: Option<Position>) {
        if self.is_watching {
            assert!(self.is_live, "{node} never went live on {topic}");
            assert!(!self.stale, "{topic} stays stale on {node}");
            // A dropped topic has no head to compare with.
            assert!(
                head.is_none() || self.position == head,
                "{node} is at {:?} of {topic}, not at {head:?}",
                self.position
            );
        }
    }

    pub(super) fn is_at(&self, head: Position) -> bool {
        self.is_live && self.position == Some(head)
    }

    fn live_position(&self) -> Position {
        assert!(self.is_watching && self.is_live, "a delivery without a live watch");
        self.position.expect("live")
    }
}
