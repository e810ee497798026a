//! A sink that checks every word it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{Gap, Message, NodeId, Position, Topic};

use crate::engine::testing::message;

/// What one sink was told of one topic.
#[derive(Default)]
pub(super) struct Observer {
    watching: bool,
    /// What the last watch asked for.
    asked: Option<Position>,
    live: bool,
    stale: bool,
    /// The newest position it may say it has.
    at: Option<Position>,
    /// Somebody here wants to know how many watch.
    asks: bool,
    /// How many it was told, and when.
    audience: Option<(u64, Instant)>,
}

impl Observer {
    /// Says after which position it asks.
    pub(super) fn watch(&mut self, resume: bool) -> Option<Position> {
        self.asked = self.at.filter(|_| resume);
        (self.watching, self.live, self.stale) = (true, false, false);
        self.asked
    }

    pub(super) fn unwatch(&mut self) {
        (self.watching, self.live, self.stale) = (false, false, false);
        self.asks = false;
    }

    /// Says whether anybody can sit here.
    pub(super) fn seat(&mut self, asks: bool) -> bool {
        self.asks = asks && self.watching;
        self.watching
    }

    /// The engine is told how many sit here. What nobody asks for is forgotten.
    pub(super) fn report(&mut self) {
        self.audience = self.audience.filter(|_| self.asks);
    }

    pub(super) fn counted(&mut self, sessions: u64, now: Instant) {
        if let Some((_, at)) = self.audience.filter(|_| self.asks) {
            assert!(now - at >= Duration::from_secs(1), "told twice within a second");
        }
        self.audience = Some((sessions, now));
    }

    pub(super) fn audience(&self) -> Option<u64> {
        self.audience.map(|(sessions, _)| sessions)
    }

    pub(super) fn stale(&mut self) {
        assert!(self.watching && self.live && !self.stale, "stale told twice, or to nobody");
        self.stale = true;
    }

    pub(super) fn fresh(&mut self) {
        assert!(self.stale, "fresh told although nothing was stale");
        self.stale = false;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// `long_ago`: when it could last have heard of everything new.
    pub(super) fn check_told(&self, node: NodeId, topic: &Topic, long_ago: bool) {
        let told = self.stale || !self.live || !long_ago;
        assert!(told, "{node} is cut off from {topic}, and its clients are not told");
    }

    pub(super) fn live(&mut self, head: Position) {
        assert!(self.watching && !self.live, "live without a watch");
        if let Some(asked) = self.asked {
            assert_eq!(head, asked, "deliveries do not begin after what was asked");
        }
        if let Some(at) = self.at {
            assert!(head >= at, "from {at} backwards to {head}");
        }
        (self.live, self.at) = (true, Some(head));
    }

    pub(super) fn deliver(&mut self, messages: &[Arc<Message>]) {
        assert!(!messages.is_empty(), "an empty delivery");
        for shown in messages {
            let position = shown.position;
            let at = self.listening();
            assert!(position.follows(at), "{position} shown after {at}");
            assert_eq!(*shown, message(position.epoch.0, position.offset.0), "another message");
            self.at = Some(position);
        }
    }

    /// `oldest`: what history still has, which must not be said to be lost.
    pub(super) fn lost(&mut self, gap: Gap, oldest: Option<Position>) {
        let at = self.listening();
        assert!(gap.to > at, "a gap up to {} told at {at}", gap.to);
        if gap.from.epoch == at.epoch {
            assert_eq!(gap.from, at.next(), "a gap that does not begin where the reader stands");
        }
        let kept = oldest.is_some_and(|oldest| gap.to >= oldest);
        assert!(!kept, "{gap} is told while history has {oldest:?}");
        self.at = Some(gap.to);
    }

    pub(super) fn check_level(&self, node: NodeId, topic: &Topic, head: Option<Position>) {
        if self.watching {
            assert!(self.live, "{node} never went live on {topic}");
            assert!(!self.stale, "{node} says for ever that {topic} is stale");
            // Of a topic that is no more, nobody can have too little.
            assert!(
                head.is_none() || self.at == head,
                "{node} is at {:?} of {topic}, not at {head:?}",
                self.at
            );
        }
    }

    pub(super) fn has(&self, head: Position) -> bool {
        self.live && self.at == Some(head)
    }

    fn listening(&self) -> Position {
        assert!(self.watching && self.live, "told although it does not listen");
        self.at.expect("live")
    }
}
