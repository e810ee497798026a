use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::test_util::{publish, topic};
use pushonce_core::{
    Gap, GapReason, History, MessageKey, Namespace, Namespaces, Position, ShardCount,
};

use super::*;

/// The time at which pages are read, where ages do not matter.
const NOW: Timestamp = Timestamp(0);

const HISTORY: History =
    History { count_max: 3, bytes_max: 100, age_max_ms: 10, expire_after_ms: 20 };

/// Settings that keep these namespaces in memory.
fn settings(revision: u64, names: &[&str]) -> Arc<ShardSettings> {
    let memory =
        Namespace { durability: Durability::Memory, history: HISTORY, ..Namespace::default() };
    let named = names.iter().map(|name| ((*name).to_owned(), memory.clone())).collect();
    let namespaces = Namespaces { revision, named, ..Namespaces::default() };
    Arc::new(ShardSettings { shards: ShardCount::DEFAULT, namespaces })
}

/// Applies an entry that starts a memory epoch.
fn start_epoch(memory: &mut OwnerMemory, at: EntryId, time: u64, settings: &Arc<ShardSettings>) {
    memory.apply_entry(at, Timestamp(time), Some(settings), true);
}

fn at(term: u64, index: u64) -> EntryId {
    EntryId { index, term: Term(term) }
}

/// The memory of an owner of term 3 that opened it for `chat` with entry 7.
fn open_memory() -> OwnerMemory {
    let mut memory = OwnerMemory::default();
    start_epoch(&mut memory, at(3, 7), 0, &settings(1, &["chat"]));
    memory
}

fn append(memory: &mut OwnerMemory, name: &str, time: u64) -> Position {
    place_item(memory, Timestamp(time), item(name, None))
}

fn item(name: &str, key: Option<&str>) -> EntryItem {
    let key = key.map(|key| MessageKey::new(key).unwrap());
    EntryItem { key, ..EntryItem::new(publish(name, "hi")) }
}

fn place_item(memory: &mut OwnerMemory, time: Timestamp, item: EntryItem) -> Position {
    memory.place_if_new(time, item, &Dedupe::default()).0.unwrap().position
}

fn gap(memory: &OwnerMemory, name: &str, requested: Position) -> Option<Gap> {
    memory.fetch_history(&topic(name), HistoryRange::After(requested), NOW).unwrap().gap
}

#[test]
fn memory_holds_only_topics_of_its_namespaces_and_its_term() {
    let memory = open_memory();
    assert!(memory.holds(Term(3), &topic("chat/7")));
    assert!(!memory.holds(Term(3), &topic("score")));
    assert!(!memory.holds(Term(4), &topic("chat/7")));
    assert!(!OwnerMemory::default().holds(Term(3), &topic("chat/7")));
}

#[test]
fn topic_epoch_is_the_index_of_the_entry_that_opened_the_memory() {
    let mut memory = open_memory();
    assert_eq!(append(&mut memory, "chat/7", 1), Position::new(7, 1));
    assert_eq!(append(&mut memory, "chat/7", 2), Position::new(7, 2));
    assert_eq!(append(&mut memory, "chat/8", 2), Position::new(7, 1));
}

#[test]
fn next_owner_is_empty_and_reports_an_epoch_gap() {
    let mut memory = open_memory();
    let reached = append(&mut memory, "chat/7", 1);
    start_epoch(&mut memory, at(4, 12), 2, &settings(1, &["chat"]));
    let to = Position::new(12, 0);
    let expected = Gap { from: reached.next(), to, reason: GapReason::Epoch };
    assert_eq!(gap(&memory, "chat/7", reached), Some(expected));
    assert_eq!(
        memory.fetch_history(&topic("chat/7"), HistoryRange::All, NOW).unwrap().messages,
        []
    );
    assert!(append(&mut memory, "chat/7", 3).follows(to));
    assert_eq!(gap(&memory, "chat/7", to), None);
}

#[test]
fn repeated_key_returns_the_first_position_until_the_owner_changes() {
    let mut memory = open_memory();
    let keyed = || item("chat/7", Some("a1"));
    let log = Dedupe::default();
    let (first, new_message) = memory.place_if_new(Timestamp(1), keyed(), &log);
    assert!(new_message.is_some());
    assert_eq!(memory.place_if_new(Timestamp(2), keyed(), &log), (first, None));
    let other = EntryItem { payload: "other".into(), ..keyed() };
    assert_eq!(
        memory.place_if_new(Timestamp(2), other, &log),
        (Err(ItemRejection::KeyReused), None)
    );
    start_epoch(&mut memory, at(4, 12), 3, &settings(1, &["chat"]));
    assert_eq!(place_item(&mut memory, Timestamp(4), keyed()), Position::new(12, 1));
}

#[test]
fn unassigned_position_is_an_error() {
    let mut memory = open_memory();
    append(&mut memory, "chat/7", 1);
    for requested in [Position::new(7, 2), Position::new(8, 0)] {
        let head = Position::new(7, 1);
        let page = memory.fetch_history(&topic("chat/7"), HistoryRange::After(requested), NOW);
        assert_eq!(page, Err(FetchError::FuturePosition { requested, head }));
    }
}

#[test]
fn only_a_dropped_topic_restarts_in_the_epoch_of_the_sweep() {
    let mut memory = open_memory();
    let reached = append(&mut memory, "chat/old", 0);
    assert!(!memory.is_sweep_due(Timestamp(10)));
    assert!(memory.is_sweep_due(Timestamp(11)));
    start_epoch(&mut memory, at(3, 9), 21, &settings(1, &["chat"]));
    assert_eq!(memory.topic_stats(&topic("chat/old"), NOW), None);
    assert_eq!(gap(&memory, "chat/old", reached).map(|gap| gap.to), Some(Position::new(9, 0)));
    assert_eq!(append(&mut memory, "chat/old", 30), Position::new(9, 1));
    assert_eq!(append(&mut memory, "chat/new", 30), Position::new(7, 1));
}

#[test]
fn all_topics_start_a_later_epoch_after_too_many_drops() {
    let mut memory = open_memory();
    for nth in 0..=DROPPED_TOPICS_MAX {
        append(&mut memory, &format!("chat/{nth}"), 0);
    }
    for index in 8..20 {
        start_epoch(&mut memory, at(3, index), 21, &settings(1, &["chat"]));
    }
    assert!(memory.dropped_topic_epochs.is_empty());
    assert!(append(&mut memory, "chat/0", 30).epoch.0 > 7);
}

#[test]
fn removed_namespace_loses_its_topics_and_others_keep_theirs() {
    let mut memory = OwnerMemory::default();
    start_epoch(&mut memory, at(3, 7), 0, &settings(1, &["chat", "score"]));
    append(&mut memory, "chat/7", 1);
    append(&mut memory, "score/7", 1);
    start_epoch(&mut memory, at(3, 8), 2, &settings(2, &["chat"]));
    assert_eq!(append(&mut memory, "chat/7", 3), Position::new(7, 2));
    assert!(!memory.holds(Term(3), &topic("score/7")));
    start_epoch(&mut memory, at(3, 9), 4, &settings(3, &["chat", "score"]));
    assert_eq!(append(&mut memory, "score/7", 5), Position::new(9, 1));
}

#[test]
fn lower_retention_trims_an_idle_topic_and_higher_retention_restores_nothing() {
    let mut memory = open_memory();
    for time in 0..3 {
        append(&mut memory, "chat/7", time);
    }
    let with_count = |revision, count_max| {
        let mut settings = ShardSettings::clone(&settings(revision, &["chat"]));
        settings.namespaces.named.get_mut("chat").unwrap().history.count_max = count_max;
        Arc::new(settings)
    };
    let retained = |memory: &OwnerMemory| {
        memory.fetch_history(&topic("chat/7"), HistoryRange::All, NOW).unwrap().messages.len()
    };
    for (index, count_max, expected) in [(8, 2, 2), (9, 9, 2)] {
        memory.apply_entry(at(3, index), NOW, Some(&with_count(index, count_max)), false);
        assert_eq!(retained(&memory), expected);
    }
}

/// An event for one topic of an owner.
#[derive(Clone, Debug)]
enum MemoryStep {
    Publish,
    Entry { in_memory: bool },
    Remove(TopicRemoval),
    ChangeOwner,
}

proptest! {
    #[test]
    fn positions_are_never_reused_and_always_increase(
        steps in vec(prop_oneof![
            6 => Just(MemoryStep::Publish),
            2 => any::<bool>().prop_map(|in_memory| MemoryStep::Entry { in_memory }),
            1 => prop_oneof![Just(TopicRemoval::Purge), Just(TopicRemoval::Delete)].prop_map(MemoryStep::Remove),
            1 => Just(MemoryStep::ChangeOwner),
        ], 0..60),
    ) {
        let (mut memory, mut term, mut index, mut time) = (open_memory(), 3, 7, 0);
        let mut keeps_now = true;
        let mut reached = Position::ZERO;
        for step in steps {
            time += 7;
            match step {
                MemoryStep::Publish if memory.holds(Term(term), &topic("chat/7")) => {
                    let place = append(&mut memory, "chat/7", time);
                    prop_assert!(place > reached, "{place} after {reached}");
                    reached = place;
                }
                // The message goes to the log, where its topic begins with this entry.
                MemoryStep::Publish if !keeps_now => {
                    index += 1;
                    reached = Position::new(index, 1);
                }
                MemoryStep::Publish => {}
                MemoryStep::Entry { in_memory } => {
                    index += 1;
                    keeps_now = in_memory;
                    let settings = settings(index, if in_memory { &["chat"] } else { &[] });
                    memory.apply_entry(at(term, index), Timestamp(time), Some(&settings), in_memory);
                }
                MemoryStep::Remove(removal) => {
                    index += 1;
                    let settings = settings(index, if keeps_now { &["chat"] } else { &[] });
                    memory.apply_entry(at(term, index), Timestamp(time), Some(&settings), keeps_now);
                    memory.remove(index, &topic("chat/7"), removal);
                    let kept = memory.fetch_history(&topic("chat/7"), HistoryRange::All, NOW).unwrap();
                    prop_assert!(kept.messages.is_empty());
                }
                MemoryStep::ChangeOwner => (term, index) = (term + 1, index + 2),
            }
            prop_assert_eq!(memory.history_bytes(), HistoryBytes::sum(memory.topics.values()));
            if memory.holds(Term(term), &topic("chat/7")) {
                let page = memory.fetch_history(&topic("chat/7"), HistoryRange::After(reached), NOW).unwrap();
                prop_assert!(page.head >= reached && page.messages.is_empty());
            }
        }
    }
}
