//! A sink that checks every word it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{Gap, Message, NodeId, Position, Topic};

use crate::engine::testing::message;

/// What one sink was told of one topic.
#[derive(Default)]
pub(super) struct SinkChecker {
    is_watching: bool,
    /// What the last watch asked for.
    requested_after: Option<Position>,
    is_live: bool,
    stale: bool,
    /// The newest position it may say it has.
    position: Option<Position>,
    /// Somebody here wants to know how many watch.
    wants_audience: bool,
    /// How many it was told, and when.
    audience: Option<(u64, Instant)>,
}

impl SinkChecker {
    /// Says after which position it asks.
    pub(super) fn watch(&mut self, resume: bool) -> Option<Position> {
        self.requested_after = self.position.filter(|_| resume);
        (self.is_watching, self.is_live, self.stale) = (true, false, false);
        self.requested_after
    }

    pub(super) fn unwatch(&mut self) {
        (self.is_watching, self.is_live, self.stale) = (false, false, false);
        self.wants_audience = false;
    }

    /// Says whether anybody can sit here.
    pub(super) fn set_wants_audience(&mut self, wants_audience: bool) -> bool {
        self.wants_audience = wants_audience && self.is_watching;
        self.is_watching
    }

    /// The engine is told how many sit here. What nobody asks for is forgotten.
    pub(super) fn clear_unwanted_audience(&mut self) {
        self.audience = self.audience.filter(|_| self.wants_audience);
    }

    pub(super) fn on_audience(&mut self, sessions: u64, now: Instant) {
        if let Some((_, at)) = self.audience.filter(|_| self.wants_audience) {
            assert!(now - at >= Duration::from_secs(1), "told twice within a second");
        }
        self.audience = Some((sessions, now));
    }

    pub(super) fn audience(&self) -> Option<u64> {
        self.audience.map(|(sessions, _)| sessions)
    }

    pub(super) fn on_stale(&mut self) {
        assert!(self.is_watching && self.is_live && !self.stale, "stale told twice, or to nobody");
        self.stale = true;
    }

    pub(super) fn on_fresh(&mut self) {
        assert!(self.stale, "fresh told although nothing was stale");
        self.stale = false;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// `is_overdue`: when it could last have heard of everything new.
    pub(super) fn check_staleness(&self, node: NodeId, topic: &Topic, is_overdue: bool) {
        let is_marked = self.stale || !self.is_live || !is_overdue;
        assert!(is_marked, "{node} is cut off from {topic}, and its clients are not told");
    }

    pub(super) fn on_live(&mut self, head: Position) {
        assert!(self.is_watching && !self.is_live, "live without a watch");
        if let Some(requested_after) = self.requested_after {
            assert_eq!(head, requested_after, "deliveries do not begin after what was asked");
        }
        if let Some(previous) = self.position {
            assert!(head >= previous, "from {previous} backwards to {head}");
        }
        (self.is_live, self.position) = (true, Some(head));
    }

    pub(super) fn deliver(&mut self, messages: &[Arc<Message>]) {
        assert!(!messages.is_empty(), "an empty delivery");
        for received in messages {
            let position = received.position;
            let previous = self.live_position();
            assert!(position.follows(previous), "{position} shown after {previous}");
            assert_eq!(*received, message(position.epoch.0, position.offset.0), "another message");
            self.position = Some(position);
        }
    }

    /// `oldest`: what history still has, which must not be said to be lost.
    pub(super) fn on_gap(&mut self, gap: Gap, oldest: Option<Position>) {
        let previous = self.live_position();
        assert!(gap.to > previous, "a gap up to {} told at {previous}", gap.to);
        if gap.from.epoch == previous.epoch {
            assert_eq!(
                gap.from,
                previous.next(),
                "a gap that does not begin where the reader stands"
            );
        }
        let is_retained = oldest.is_some_and(|oldest| gap.to >= oldest);
        assert!(!is_retained, "{gap} is told while history has {oldest:?}");
        self.position = Some(gap.to);
    }

    pub(super) fn check_in_sync(&self, node: NodeId, topic: &Topic, head: Option<Position>) {
        if self.is_watching {
            assert!(self.is_live, "{node} never went live on {topic}");
            assert!(!self.stale, "{node} says for ever that {topic} is stale");
            // Of a topic that is no more, nobody can have too little.
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
        assert!(self.is_watching && self.is_live, "told although it does not listen");
        self.position.expect("live")
    }
}
