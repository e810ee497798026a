//! What a program that runs a node in its own process reads of it.

use super::Node;
use super::overview::NodeOverview;

/// Reads the state of a running node. Cheap to clone. Drop it when the node has ended.
#[derive(Clone)]
pub struct NodeReader(NodeOverview);

impl Node {
    /// A reader of this node.
    pub fn reader(&self) -> NodeReader {
        NodeReader(self.health_check.overview.clone())
    }
}

impl NodeReader {
    /// Whether the node can do all of its work.
    pub fn is_ready(&self) -> bool {
        self.0.issues().is_empty()
    }

    /// The owner of each shard, by the name of the node, as this node knows it.
    pub fn shard_owners(&self) -> Vec<Option<String>> {
        let view = self.0.view.borrow().clone();
        let owners = self.0.owners.borrow().clone();
        let name = |node| view.member(node).map(|member| member.name.clone());
        view.shards.ids().map(|shard| owners.owner_of(shard).and_then(name)).collect()
    }
}
