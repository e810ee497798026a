//! Where the peers are.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::NodeId;
use tokio::sync::watch;

/// Where peers are dialled: `host:port` of their peer port. Clones share one table.
#[derive(Clone, Debug)]
pub struct AddressBook(Arc<watch::Sender<BTreeMap<NodeId, String>>>);

impl AddressBook {
    /// Says where a node is. A link that is down dials there at once; one that is up stays.
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        let address = address.into();
        self.0.send_if_modified(|table| {
            let known = table.get(&node) == Some(&address);
            table.insert(node, address);
            !known
        });
    }

    /// Where a node is, if known.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.borrow().get(&node).cloned()
    }

    pub(super) fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, String>> {
        self.0.subscribe()
    }
}

impl Default for AddressBook {
    fn default() -> AddressBook {
        AddressBook(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}
