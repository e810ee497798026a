//! The links that are up, and the numbers that stand for topics on them.
//!
//! Each side numbers the topics it asks for. A number is never used twice on one link, so a frame
//! that was under way when its sender was asked anew is known by its old number, and dropped.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::{NodeId, Topic};

/// Every link that is up.
#[derive(Debug, Default)]
pub(crate) struct Links(BTreeMap<NodeId, Link>);

/// One link, as long as it is up.
#[derive(Debug, Default)]
pub(crate) struct Link {
    last_number: u32,
    /// What this node asks for.
    asked: HashMap<u32, Topic>,
    /// What the peer asks for.
    pub(crate) heard: HashMap<u32, Topic>,
    /// Much waits for it already; what can wait elsewhere is not added.
    pub(crate) congested: bool,
}

impl Links {
    pub(crate) fn up(&mut self, node: NodeId) {
        self.0.insert(node, Link::default());
    }

    /// Says whether it was up.
    pub(crate) fn down(&mut self, node: NodeId) -> bool {
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

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Link> {
        self.0.get_mut(&node)
    }

    /// The topic that `node` asks this node for under `number`, if it still does.
    pub(crate) fn heard(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.heard.get(&number)
    }

    /// The topic that this node asked `node` for under `number`, if it still does.
    pub(crate) fn asked(&self, node: NodeId, number: u32) -> Option<&Topic> {
        self.0.get(&node)?.asked.get(&number)
    }

    /// The number under which `topic` is asked for from now on; `None` when the link is down, or so
    /// old that it has no number left.
    pub(crate) fn ask(&mut self, node: NodeId, topic: &Topic) -> Option<u32> {
        let link = self.0.get_mut(&node)?;
        link.last_number = link.last_number.checked_add(1)?;
        link.asked.insert(link.last_number, topic.clone());
        Some(link.last_number)
    }

    /// Whatever still comes under this number is dropped. Says whether it was in use.
    pub(crate) fn forget(&mut self, node: NodeId, number: u32) -> bool {
        self.0.get_mut(&node).is_some_and(|link| link.asked.remove(&number).is_some())
    }
}
