//! Namespaces that move between the log and the owner's memory.
//!
//! A move to memory drops stored messages only if an operator forced it. The command that moves a namespace counts
//! its stored messages first, but a publish may be acknowledged between the count and the entry with the new
//! settings. So each shard decides at that entry: while it has a stored message of the namespace, it keeps the
//! namespace on disk, and acknowledges its publishes as replicated.

use std::collections::BTreeSet;
use std::sync::Arc;

use pushonce_core::{CoverageMark, Durability, FailPoint};

use super::{ShardState, topics_with_prefix};
use crate::ShardSettings;
use crate::history_bytes::HistoryBytes;
use crate::limits::TopicCounts;

impl ShardState {
    /// The namespaces that live in memory by the newest settings, and that this shard keeps on disk.
    pub(crate) fn kept_on_disk(&self) -> &BTreeSet<String> {
        &self.kept_on_disk
    }

    /// The namespaces that move to memory with the `new` settings and stay on disk for now: they have stored messages,
    /// and the move is not forced.
    pub(super) fn namespaces_to_keep(&self, new: &ShardSettings) -> BTreeSet<String> {
        let mut kept = new.memory_namespaces();
        kept.retain(|name| {
            let is_dropped = new.namespaces.drop_stored.contains(name)
                || FailPoint::StoredMessagesDropped.is_active();
            !is_dropped && self.has_stored_messages(name)
        });
        if !kept.is_empty() {
            CoverageMark::NamespaceKeptOnDisk.reach();
        }
        kept
    }

    fn has_stored_messages(&self, namespace: &str) -> bool {
        let mut topics = topics_with_prefix(&self.topics, namespace, None);
        topics.any(|(topic, log)| topic.namespace() == namespace && !log.is_empty())
    }

    /// The namespaces of `kept_on_disk` that have no stored messages any more.
    pub(super) fn movable_namespaces(&self) -> BTreeSet<String> {
        let kept = self.kept_on_disk.iter();
        kept.filter(|name| !self.has_stored_messages(name)).cloned().collect()
    }

    /// Moves the namespaces to memory that were kept on disk and have no stored messages any more.
    pub(super) fn move_kept_namespaces(&mut self, index: u64) {
        let movable = self.movable_namespaces();
        let Some(old) = self.settings.as_mut().filter(|_| !movable.is_empty()) else { return };
        let before = old.memory_namespaces();
        Arc::make_mut(old).set_durability(&movable, Durability::Memory);
        let after = old.memory_namespaces();
        self.kept_on_disk.retain(|name| !movable.contains(name));
        self.change_memory_namespaces(index, &before, &after);
    }

    /// Changes the namespaces that live in the owner's memory from `before` to `after`. The messages in the
    /// log of a namespace that moves to memory are dropped: there are none, or the move is forced.
    pub(super) fn change_memory_namespaces(
        &mut self,
        index: u64,
        before: &BTreeSet<String>,
        after: &BTreeSet<String>,
    ) {
        if before == after {
            return;
        }
        CoverageMark::DurabilityChanges.reach();
        for name in before.union(after) {
            self.memory_epochs.insert(name.clone(), index);
        }
        self.topics.retain(|topic, _| !after.contains(topic.namespace()));
        self.topic_counts = TopicCounts::from_topics(self.topics.keys());
        self.history_bytes = HistoryBytes::sum(self.topics.values().map(Arc::as_ref));
    }

    /// Makes `index` the epoch of topics created in the owner's memory from now on.
    pub(super) fn start_memory_epoch(&mut self, index: u64) {
        let Some(settings) = &self.settings else { return };
        for name in settings.memory_namespaces() {
            self.memory_epochs.insert(name, index);
        }
    }
}
