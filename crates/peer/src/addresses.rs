//! The addresses of the peers, and the removed ids.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_core::NodeId;
use tokio::sync::watch;

/// As many as a cluster may have members, so that a peer that answers with invented ids fills no memory.
const HINTS_MAX: usize = 1_000;

/// The addresses at which peers are dialled: `host:port` of their peer port. Clones share one table.
///
/// A removed node is not dialled, its streams are rejected, and open streams are closed.
///
/// A node may have a second address, a hint: the address at which a member was found before it is in the
/// committed addresses. Both are dialled in turn. A wrong hint costs only attempts, because every call begins
/// with a check of cluster and node.
#[derive(Clone, Debug)]
pub struct PeerAddresses(Arc<watch::Sender<AddressTable>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressTable {
    addresses: BTreeMap<NodeId, String>,
    hints: BTreeMap<NodeId, String>,
    /// The hints at which the node answered last; others answer at their committed address, or nowhere.
    answering_hints: BTreeSet<NodeId>,
    /// An id below this one without an address is removed, unless it was never assigned.
    next_id: NodeId,
    unused_ids: BTreeSet<NodeId>,
}

impl PeerAddresses {
    /// Sets the address of a node. A link that is down dials it at once; a link that is up stays.
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        let address = address.into();
        self.0.send_if_modified(|table| {
            let known = table.addresses.get(&node) == Some(&address);
            table.addresses.insert(node, address);
            !known
        });
    }

    /// Replaces the addresses of all nodes. An id below `next_id` without an address is removed permanently;
    /// a higher one, or one of `unused_ids`, is a node that is not known yet.
    pub fn replace(
        &self,
        addresses: BTreeMap<NodeId, String>,
        next_id: NodeId,
        unused_ids: BTreeSet<NodeId>,
    ) {
        self.0.send_if_modified(|table| {
            let mut new = AddressTable { addresses, next_id, unused_ids, ..AddressTable::empty() };
            let useful = |&(node, hint): &(&NodeId, &String)| {
                !new.is_removed(*node) && new.addresses.get(node) != Some(hint)
            };
            let hints = table.hints.iter().filter(useful);
            new.hints = hints.map(|(&node, hint)| (node, hint.clone())).collect();
            new.answering_hints.clone_from(&table.answering_hints);
            new.answering_hints.retain(|node| new.hints.contains_key(node));
            let changed = *table != new;
            *table = new;
            changed
        });
    }

    /// Adds the address at which a node was found. Until it is committed, both addresses are dialled. Returns
    /// whether it is new.
    pub fn add_hint(&self, node: NodeId, address: impl Into<String>) -> bool {
        let address = address.into();
        self.0.send_if_modified(|table| {
            let known = table.candidates(node).contains(&address);
            let full = table.hints.len() >= HINTS_MAX && !table.hints.contains_key(&node);
            if known || full || table.is_removed(node) {
                return false;
            }
            table.hints.insert(node, address);
            table.answering_hints.remove(&node);
            true
        })
    }

    /// A node answered at an address.
    pub(crate) fn on_answered(&self, node: NodeId, address: &str) {
        self.0.send_if_modified(|table| {
            let is_hint = table.addresses.get(&node).is_none_or(|committed| committed != address)
                && table.hints.get(&node).is_some_and(|hint| hint == address);
            match is_hint {
                true => table.answering_hints.insert(node),
                false => table.answering_hints.remove(&node),
            };
            // The addresses to dial are the same as before.
            false
        });
    }

    /// The address at which a node answered last; else the committed address; else the hint.
    pub(crate) fn preferred(&self, node: NodeId) -> Option<String> {
        let table = self.0.borrow();
        let mut candidates = table.candidates(node);
        match table.answering_hints.contains(&node) {
            true => candidates.pop(),
            false => candidates.into_iter().next(),
        }
    }

    /// The hints that differ from the committed addresses.
    pub fn hints(&self) -> BTreeMap<NodeId, String> {
        self.0.borrow().hints.clone()
    }

    /// The committed address of a node, if known.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.borrow().addresses.get(&node).cloned()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<AddressTable> {
        self.0.subscribe()
    }

    /// Whether a node was removed from the cluster. A node that is not known yet was not.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.0.borrow().is_removed(node)
    }

    /// Waits until a node is removed.
    pub async fn wait_removed(&self, node: NodeId) {
        // An error is impossible: the sender lives as long as `self`.
        let _ = self.subscribe().wait_for(|table| table.is_removed(node)).await;
    }
}

impl AddressTable {
    fn empty() -> AddressTable {
        AddressTable {
            addresses: BTreeMap::new(),
            hints: BTreeMap::new(),
            answering_hints: BTreeSet::new(),
            next_id: NodeId(0),
            unused_ids: BTreeSet::new(),
        }
    }

    /// The addresses to dial in turn; the committed one first.
    pub(crate) fn candidates(&self, node: NodeId) -> Vec<String> {
        let committed = self.addresses.get(&node);
        let hint = self.hints.get(&node).filter(|&hint| Some(hint) != committed);
        committed.into_iter().chain(hint).cloned().collect()
    }

    fn is_removed(&self, node: NodeId) -> bool {
        let is_known = self.addresses.contains_key(&node) || self.unused_ids.contains(&node);
        node < self.next_id && !is_known
    }
}

impl Default for PeerAddresses {
    fn default() -> PeerAddresses {
        PeerAddresses(Arc::new(watch::Sender::new(AddressTable::empty())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_peer_is_removed_and_unknown_peer_is_not() {
        let addresses = PeerAddresses::default();
        let is_removed = |id| addresses.is_removed(NodeId(id));
        assert!(!is_removed(2), "no addresses are known yet");
        let known = BTreeMap::from([(NodeId(1), "a:1".to_owned())]);
        addresses.replace(known, NodeId(4), BTreeSet::from([NodeId(3)]));
        assert!(!is_removed(1) && is_removed(2) && !is_removed(3) && !is_removed(4));
        assert_eq!(addresses.get(NodeId(2)), None);
    }

    #[test]
    fn hint_is_dialled_until_committed_address_matches() {
        let addresses = PeerAddresses::default();
        let candidates = || addresses.subscribe().borrow().candidates(NodeId(1));
        let commit = |address: &str| {
            let known = BTreeMap::from([(NodeId(1), address.to_owned())]);
            addresses.replace(known, NodeId(3), BTreeSet::new());
        };
        assert!(addresses.add_hint(NodeId(1), "new:1"), "before any view");
        assert_eq!(candidates(), ["new:1"]);
        commit("old:1");
        assert_eq!(candidates(), ["old:1", "new:1"]);
        assert!(!addresses.add_hint(NodeId(1), "new:1") && !addresses.add_hint(NodeId(1), "old:1"));
        assert!(!addresses.add_hint(NodeId(2), "b:1"), "n2 is removed");
        let preferred = || addresses.preferred(NodeId(1));
        assert_eq!(preferred().as_deref(), Some("old:1"));
        addresses.on_answered(NodeId(1), "new:1");
        assert_eq!(preferred().as_deref(), Some("new:1"));
        addresses.on_answered(NodeId(1), "old:1");
        assert_eq!(preferred().as_deref(), Some("old:1"));
        addresses.on_answered(NodeId(1), "new:1");
        commit("new:1");
        assert_eq!(preferred().as_deref(), Some("new:1"));
        assert_eq!((candidates(), addresses.hints()), (vec!["new:1".to_owned()], BTreeMap::new()));
    }
}
