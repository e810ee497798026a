//! The links that are up, and the numbers that identify topics on them.
//!
//! Each side numbers the topics for which it asks. A number is never reused on a link, so a frame that was
//! in flight when its topic was requested again carries the old number and is dropped.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use pushonce_core::{NodeId, Topic};

use super::round_trip::RoundTripMeter;

/// The state of every link that is up.
#[derive(Debug, Default)]
pub(crate) struct LinkTable(BTreeMap<NodeId, LinkState>);

/// The state of one link while it is up.
#[derive(Debug)]
pub(crate) struct LinkState {
    last_interest_number: u32,
    /// The topics that this node follows over the link.
    own_interests: HashMap<u32, Topic>,
    /// The topics that the peer follows over the link.
    pub(crate) peer_interests: HashMap<u32, Topic>,
    /// The send queue is heavily loaded; frames that can be deferred are not added.
    pub(crate) congested: bool,
    pub(crate) round_trip: RoundTripMeter,
}

impl LinkTable {
    pub(crate) fn insert(&mut self, node: NodeId, now: Instant) {
        let link = LinkState {
            last_interest_number: 0,
            own_interests: HashMap::new(),
            peer_interests: HashMap::new(),
            congested: false,
            round_trip: RoundTripMeter::new(now),
        };
        self.0.insert(node, link);
    }

    /// Returns whether the link was up.
    pub(crate) fn remove(&mut self, node: NodeId) -> bool {
        self.0.remove(&node).is_some()
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    /// Whether the send queue to `node` is heavily loaded; always `false` for the sink.
    pub(crate) fn is_congested(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|link| link.congested)
    }

    /// The newest round trip of the link to `node`, once it was measured.
    pub(crate) fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.0.get(&node)?.round_trip.latest
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut LinkState> {
        self.0.get_mut(&node)
    }

    /// The topic that `node` follows here under `number`, if it still does.
    pub(crate) fn peer_interest(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.peer_interests.get(&number)
    }

    /// The topic that this node follows at `node` under `number`, if it still does.
    pub(crate) fn own_interest(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.own_interests.get(&number)
    }

    /// Assigns a number to `topic` on the link to `node`. `None` when the link is down or has used all
    /// numbers.
    pub(crate) fn add_interest(&mut self, node: NodeId, topic: &Topic) -> Option<u32> {
        let link = self.0.get_mut(&node)?;
        link.last_interest_number = link.last_interest_number.checked_add(1)?;
        link.own_interests.insert(link.last_interest_number, topic.clone());
        Some(link.last_interest_number)
    }

    /// Releases a number; later frames with it are dropped. Returns whether it was in use.
    pub(crate) fn remove_interest(&mut self, node: NodeId, number: u32) -> bool {
        self.0.get_mut(&node).is_some_and(|link| link.own_interests.remove(&number).is_some())
    }
}
