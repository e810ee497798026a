//! The links that are up, and the numbers that stand for topics on them.
//!
//! Each side numbers the topics it asks for. A number is never used twice on one link, so a frame
//! that was under way when its sender was asked anew is known by its old number, and dropped.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::{NodeId, Topic};

/// Every link that is up.
#[derive(Debug, Default)]
pub(crate) struct LinkTable(BTreeMap<NodeId, LinkState>);

/// One link, as long as it is up.
#[derive(Debug, Default)]
pub(crate) struct LinkState {
    last_interest_number: u32,
    /// What this node asks for.
    own_interests: HashMap<u32, Topic>,
    /// What the peer asks for.
    pub(crate) peer_interests: HashMap<u32, Topic>,
    /// Much waits for it already; what can wait elsewhere is not added.
    pub(crate) congested: bool,
}

impl LinkTable {
    pub(crate) fn insert(&mut self, node: NodeId) {
        self.0.insert(node, LinkState::default());
    }

    /// Says whether it was up.
    pub(crate) fn remove(&mut self, node: NodeId) -> bool {
        self.0.remove(&node).is_some()
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    /// Whether much waits for `node`; never for the sink.
    pub(crate) fn is_congested(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|link| link.congested)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut LinkState> {
        self.0.get_mut(&node)
    }

    /// The topic that `node` asks this node for under `link_id`, if it still does.
    pub(crate) fn peer_interest(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.peer_interests.get(&number)
    }

    /// The topic that this node asked `node` for under `link_id`, if it still does.
    pub(crate) fn own_interest(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.own_interests.get(&number)
    }

    /// The number under which `topic` is asked for from now on; `NoFault` when the link is down, or so
    /// old that it has no number left.
    pub(crate) fn add_interest(&mut self, node: NodeId, topic: &Topic) -> Option<u32> {
        let link = self.0.get_mut(&node)?;
        link.last_interest_number = link.last_interest_number.checked_add(1)?;
        link.own_interests.insert(link.last_interest_number, topic.clone());
        Some(link.last_interest_number)
    }

    /// Whatever still comes under this number is dropped. Says whether it was in use.
    pub(crate) fn remove_interest(&mut self, node: NodeId, number: u32) -> bool {
        self.0.get_mut(&node).is_some_and(|link| link.own_interests.remove(&number).is_some())
    }
}
