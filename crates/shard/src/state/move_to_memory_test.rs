//! A namespace whose settings change from `replicated` to `memory` while it has stored messages.

use pushonce_core::test_util::{publish, topic};
use pushonce_core::{Namespace, Namespaces, ShardCount};

use super::*;

const CHAT: &str = "chat/7";
const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// Settings under which `chat` has this durability, and moves to memory by force or not.
fn settings(revision: u64, durability: Durability, force: bool) -> ShardSettings {
    let chat = Namespace { durability, ..Namespace::default() };
    let named = [("chat".to_owned(), chat)].into();
    let drop_stored = if force { ["chat".to_owned()].into() } else { BTreeSet::new() };
    let namespaces = Namespaces { revision, named, drop_stored, ..Namespaces::default() };
    ShardSettings { shards: ShardCount::new(1).expect("a count"), namespaces }
}

/// A shard and the index of its last entry.
struct Log {
    state: ShardState,
    index: u64,
}

impl Log {
    /// A replicated namespace `chat` with a stored message.
    fn with_stored_message() -> Log {
        let mut log = Log { state: ShardState::new(ShardId(0)), index: 0 };
        log.set(settings(1, Durability::Replicated, false));
        log.publish(CHAT).expect("placed");
        log
    }

    fn apply(&mut self, batch: EntryBatch) -> ApplyOutcome {
        self.index += 1;
        let applied = self.state.apply(self.index, batch);
        assert_eq!(ShardState::restore(&self.state.snapshot()).as_ref(), Ok(&self.state));
        applied
    }

    fn set(&mut self, settings: ShardSettings) {
        self.apply(EntryBatch::with_settings(NOW, settings));
    }

    fn publish(&mut self, name: &str) -> Result<Acknowledgement, ItemRejection> {
        self.apply(EntryBatch::new(NOW, vec![EntryItem::new(publish(name, "goal"))])).outcomes[0]
    }

    fn stored_count(&self) -> usize {
        self.state.topic_stats(&topic(CHAT), NOW).map_or(0, |stats| stats.count)
    }

    fn is_in_memory(&self) -> bool {
        self.state.settings().is_some_and(|settings| settings.is_in_memory(&topic(CHAT)))
    }
}

#[test]
fn stored_messages_survive_a_move_to_memory_unless_it_is_forced() {
    let mut log = Log::with_stored_message();
    log.set(settings(2, Durability::Memory, false));
    assert_eq!(log.publish(CHAT).map(|ack| ack.durability), Ok(Durability::Replicated));
    assert_eq!((log.is_in_memory(), log.stored_count()), (false, 2));
    log.set(settings(3, Durability::Memory, true));
    assert_eq!((log.is_in_memory(), log.stored_count()), (true, 0));
    assert_eq!(log.publish(CHAT), Err(ItemRejection::NamespaceInMemory));
}

#[test]
fn namespace_moves_to_memory_with_the_removal_of_its_last_stored_message() {
    let mut log = Log::with_stored_message();
    let other = log.publish("chat/8").expect("placed");
    log.publish("chats").expect("placed in another namespace");
    log.set(settings(2, Durability::Memory, false));
    log.apply(EntryBatch::removing(NOW, topic(CHAT), TopicRemoval::Purge, false));
    assert!(!log.is_in_memory());
    log.apply(EntryBatch::removing(NOW, topic("chat/8"), TopicRemoval::Purge, false));
    assert!(log.is_in_memory() && log.state.kept_on_disk().is_empty());
    assert!(log.state.contains_topic(&topic("chats")), "another namespace stays on disk");
    // The topic continues in memory, in a later epoch: a reader of the log gets a gap.
    let resumed =
        log.state.fetch_history(&topic("chat/8"), HistoryRange::After(other.position), NOW);
    assert_eq!(resumed.expect("known").gap.map(|gap| gap.to.epoch), Some(Epoch(log.index)));
}

#[test]
fn sweep_moves_a_namespace_to_memory_whose_stored_messages_have_expired() {
    let mut log = Log::with_stored_message();
    log.set(settings(2, Durability::Memory, false));
    assert!(!log.state.is_sweep_due(NOW));
    let later = Timestamp(NOW.0 + pushonce_core::History::default().age_max_ms + 1);
    assert!(log.state.is_sweep_due(later));
    log.apply(EntryBatch::new(later, Vec::new()));
    assert!(log.is_in_memory() && !log.state.is_sweep_due(later));
}

#[test]
fn entry_with_messages_leaves_the_sweep_due_that_moves_a_namespace() {
    let mut log = Log::with_stored_message();
    let mut memory = settings(2, Durability::Memory, false);
    log.set(memory.clone());
    // No message of the namespace is stored any more.
    memory.namespaces.revision = 3;
    memory.namespaces.named.get_mut("chat").expect("named").history.count_max = 0;
    let item = EntryItem::new(publish(CHAT, "goal"));
    let settings = Some(memory);
    let applied = log.apply(EntryBatch { settings, ..EntryBatch::new(NOW, vec![item]) });
    assert_eq!(applied.outcomes[0].map(|ack| ack.durability), Ok(Durability::Replicated));
    assert!(!log.is_in_memory() && log.state.is_sweep_due(NOW));
    log.apply(EntryBatch::new(NOW, Vec::new()));
    assert!(log.is_in_memory());
}

#[test]
fn kept_namespace_that_becomes_replicated_again_stays_on_disk_for_good() {
    let mut log = Log::with_stored_message();
    log.set(settings(2, Durability::Memory, false));
    log.set(settings(3, Durability::Replicated, false));
    log.apply(EntryBatch::removing(NOW, topic(CHAT), TopicRemoval::Purge, false));
    assert!(!log.is_in_memory() && log.publish(CHAT).is_ok());
    // An earlier forced move that arrives late changes nothing.
    log.set(settings(2, Durability::Memory, true));
    assert_eq!(log.stored_count(), 1);
}

#[test]
fn namespace_without_stored_messages_moves_to_memory_at_once() {
    let mut log = Log::with_stored_message();
    log.apply(EntryBatch::removing(NOW, topic(CHAT), TopicRemoval::Purge, false));
    log.set(settings(2, Durability::Memory, false));
    assert!(log.is_in_memory());
}
