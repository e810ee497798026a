//! Where the peers are, and which are none any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::NodeId;
use tokio::sync::watch;

/// Where peers are dialled: `host:port` of their peer port. Clones share one table.
///
/// A node that is gone is neither dialled nor listened to, and what it has open is closed.
#[derive(Clone, Debug)]
pub struct AddressBook(Arc<watch::Sender<Table>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    addresses: BTreeMap<NodeId, String>,
    /// A lower id that has no address is gone.
    next_id: NodeId,
}

impl AddressBook {
    /// Says where a node is. A link that is down dials there at once; one that is up stays.
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        let address = address.into();
        self.0.send_if_modified(|table| {
            let known = table.addresses.get(&node) == Some(&address);
            table.addresses.insert(node, address);
            !known
        });
    }

    /// Says where every node is. An id below `next_id` that is not among them is gone for ever; a
    /// higher one is a node that was not heard of yet.
    pub fn replace(&self, addresses: BTreeMap<NodeId, String>, next_id: NodeId) {
        let new = Table { addresses, next_id };
        self.0.send_if_modified(|table| {
            let news = *table != new;
            *table = new;
            news
        });
    }

    /// Where a node is, if known.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.borrow().get(node)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Table> {
        self.0.subscribe()
    }

    /// Waits until a node is gone.
    pub(super) async fn until_gone(&self, node: NodeId) {
        // The sender lives as long as this does.
        let _ = self.watch().wait_for(|table| table.is_gone(node)).await;
    }
}

impl Table {
    pub(super) fn get(&self, node: NodeId) -> Option<String> {
        self.addresses.get(&node).cloned()
    }

    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        node < self.next_id && !self.addresses.contains_key(&node)
    }
}

impl Default for AddressBook {
    fn default() -> AddressBook {
        let nobody = Table { addresses: BTreeMap::new(), next_id: NodeId(0) };
        AddressBook(Arc::new(watch::Sender::new(nobody)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_left_out_is_gone_and_a_stranger_is_not() {
        let book = AddressBook::default();
        let gone = |id| book.watch().borrow().is_gone(NodeId(id));
        assert!(!gone(2), "nothing is known yet");
        book.replace(BTreeMap::from([(NodeId(1), "a:1".to_owned())]), NodeId(3));
        assert!(!gone(1) && gone(2) && !gone(3));
        assert_eq!(book.get(NodeId(2)), None);
    }
}
