use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::test_util::{publish, topic};
use pushonce_core::{
    ContentType, Gap, GapReason, History, MessageKey, Namespace, Namespaces, Offset, ShardCount,
    UnsupportedVersion,
};

use super::*;

/// The time at which pages are read, where ages do not matter.
const NOW: Timestamp = Timestamp(0);

const NAMES: [&str; 5] = ["a", "a/b", "b", "news/köln", "z"];

fn item(name: &str, payload: Vec<u8>) -> EntryItem {
    EntryItem { content_type: ContentType::Binary, ..EntryItem::new(publish(name, payload)) }
}

/// The settings of a cluster of one shard, with this history for every topic, and these namespaces in the
/// owner's memory: by force, but for one of three revisions.
fn settings(revision: u64, history: History, in_memory: &[&str]) -> ShardSettings {
    let default = Namespace { history, ..Namespace::default() };
    let memory = Namespace { durability: Durability::Memory, ..default.clone() };
    let named: BTreeMap<_, _> =
        in_memory.iter().map(|name| ((*name).to_owned(), memory.clone())).collect();
    let forced = named.keys().filter(|_| !revision.is_multiple_of(3));
    let drop_stored = forced.cloned().collect();
    let namespaces = Namespaces { revision, default, named, drop_stored };
    ShardSettings { shards: ShardCount::new(1).unwrap(), namespaces }
}

fn apply_settings(state: &mut ShardState, index: u64, settings: ShardSettings) {
    state.apply(index, EntryBatch::with_settings(Timestamp(0), settings));
}

/// Gives some items a key; all keys differ.
fn with_keys(mut entries: Vec<EntryBatch>) -> Vec<EntryBatch> {
    let items = entries.iter_mut().flat_map(|batch| &mut batch.items);
    for (nth, item) in items.enumerate().filter(|(_, item)| item.payload.len() > 3) {
        item.key = Some(MessageKey::new(&nth.to_string()).unwrap());
    }
    entries
}

/// Entries whose times go back and forth, mixed with older and newer settings that limit histories tightly.
/// The first entry has settings.
///
/// `ages` are those of messages and of unused topics. With `operator_changes`, namespaces move between
/// the log and the owner's memory, and topics are purged and deleted.
pub(crate) fn entries(
    ages: impl Strategy<Value = u64> + Clone + 'static,
    operator_changes: bool,
) -> impl Strategy<Value = Vec<EntryBatch>> {
    let history = (0..6u32, 0..40u32, ages.clone(), ages).prop_map(
        |(count_max, bytes_max, age_max_ms, expire_after_ms)| History {
            count_max,
            bytes_max,
            age_max_ms,
            expire_after_ms,
        },
    );
    let in_memory = prop::collection::btree_set(0..3usize, 0..if operator_changes { 3 } else { 1 });
    let changes = (0..100u64, 1..20u64, history, in_memory).prop_map(
        |(time, revision, history, in_memory)| {
            let names: Vec<_> = in_memory.into_iter().map(|nth| ["a", "b", "news"][nth]).collect();
            let names = if names.len() == 1 && revision % 2 == 0 { vec![] } else { names };
            EntryBatch::with_settings(Timestamp(time), settings(revision, history, &names))
        },
    );
    let changes = changes.prop_map(move |mut batch| {
        if let (false, Some(settings)) = (operator_changes, &mut batch.settings) {
            settings.namespaces.named.clear();
            batch.starts_memory_epoch = false;
        }
        batch
    });
    let item = (0..NAMES.len(), vec(any::<u8>(), 0..12))
        .prop_map(|(name, payload)| item(NAMES[name], payload));
    let publishes = (0..100u64, vec(item, 0..6))
        .prop_map(|(time, items)| EntryBatch::new(Timestamp(time), items));
    let removal = prop_oneof![Just(TopicRemoval::Purge), Just(TopicRemoval::Delete)];
    let removals = (0..100u64, 0..NAMES.len(), removal).prop_map(|(time, name, removal)| {
        EntryBatch::removing(Timestamp(time), topic(NAMES[name]), removal, false)
    });
    let removal_weight = if operator_changes { 2 } else { 0 };
    let batch = prop_oneof![8 => publishes, 2 => changes.clone(), removal_weight => removals];
    (changes, vec(batch, 1..30))
        .prop_map(|(first, rest)| with_keys(std::iter::once(first).chain(rest).collect()))
}

/// Applies entries as a log provides them: encoded, with gaps between their indexes.
fn replay<'a>(state: &mut ShardState, entries: impl IntoIterator<Item = (usize, &'a EntryBatch)>) {
    for (nth, batch) in entries {
        let (version, batch) =
            EntryBatch::decode(&batch.encode(VersionRange::supported().max)).unwrap();
        state.raise_version(version);
        state.apply(index(nth), batch);
    }
}

fn index(nth: usize) -> u64 {
    3 * nth as u64 + 2
}

/// A naive model of a topic: every message it ever had, and where its history begins.
#[derive(Default)]
struct NaiveTopic {
    messages: Vec<Arc<Message>>,
    retained_from: usize,
}

impl NaiveTopic {
    fn append(&mut self, message: &Arc<Message>, history: History) {
        self.messages.push(message.clone());
        self.trim(history);
    }

    fn trim(&mut self, history: History) {
        let exceeds = |retained: &[Arc<Message>]| {
            retained.len() > history.count_max as usize
                || retained.iter().map(|m| m.payload.len()).sum::<usize>()
                    > history.bytes_max as usize
        };
        while exceeds(&self.messages[self.retained_from..]) {
            self.retained_from += 1;
        }
    }

    fn after(&self, reached: Position) -> HistoryPage {
        let is_later = |m: &&Arc<Message>| m.position > reached;
        let missing: Vec<_> = self.messages[..self.retained_from].iter().filter(is_later).collect();
        let gap = missing.first().zip(missing.last()).map(|(from, to)| Gap {
            from: from.position,
            to: to.position,
            reason: GapReason::Expired,
        });
        let messages =
            self.messages[self.retained_from..].iter().filter(is_later).cloned().collect();
        HistoryPage { messages, head: self.messages.last().unwrap().position, gap }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_matches_the_naive_model(entries in entries(Just(u64::MAX), false)) {
        let mut state = ShardState::new(ShardId(0));
        let mut naive = BTreeMap::<Topic, NaiveTopic>::new();
        let (mut revision, mut history) = (0, History::default());
        let mut time = Timestamp(0);
        for (nth, batch) in entries.into_iter().enumerate() {
            time = time.max(batch.time);
            let placed = state.apply(index(nth), batch.clone()).messages;
            prop_assert_eq!(placed.len(), batch.items.len());
            if let Some(newer) = batch.settings.filter(|known| known.revision() > revision) {
                (revision, history) = (newer.revision(), newer.namespaces.default.history);
                naive.values_mut().for_each(|naive| naive.trim(history));
            }
            for ((name, message), item) in placed.iter().zip(batch.items) {
                prop_assert_eq!((name, &message.payload, &message.key), (&item.topic, &item.payload, &item.key));
                prop_assert_eq!(message.time, time);
                naive.entry(name.clone()).or_default().append(message, history);
            }
        }
        for (name, naive) in &naive {
            let head = naive.messages.last().unwrap().position;
            let position_at = |offset| Position { offset: Offset(offset), ..head };
            for reached in (0..=head.offset.0).map(position_at).chain([Position::ZERO]) {
                prop_assert_eq!(state.fetch_history(name, HistoryRange::After(reached), NOW), Ok(naive.after(reached)));
            }
            let requested = head.next();
            prop_assert_eq!(state.fetch_history(name, HistoryRange::After(requested), NOW), Err(FetchError::FuturePosition { requested, head }));
            let kept = &naive.messages[naive.retained_from..];
            prop_assert_eq!(&state.fetch_history(name, HistoryRange::All, NOW).unwrap().messages, kept);
            let last = kept.len().saturating_sub(2);
            prop_assert_eq!(&state.fetch_history(name, HistoryRange::Last(2), NOW).unwrap().messages, &kept[last..]);
        }
    }

    #[test]
    fn every_position_is_the_next_of_its_topic_or_starts_a_later_epoch(entries in entries(0..50u64, true)) {
        let mut state = ShardState::new(ShardId(0));
        let mut reached = BTreeMap::<Topic, Position>::new();
        for (nth, batch) in entries.into_iter().enumerate() {
            for (name, message) in state.apply(index(nth), batch).messages {
                let place = message.position;
                let before = reached.insert(name, place).unwrap_or(Position::ZERO);
                let begins = place.epoch > before.epoch && place.offset == Offset(1);
                prop_assert!(place.follows(before) || begins, "{place} after {before}");
            }
        }
    }

    #[test]
    fn snapshot_and_remaining_log_restore_the_same_state(
        entries in entries(0..50u64, true), cut in 0..30usize,
    ) {
        let cut = cut.min(entries.len());
        let mut whole = ShardState::new(ShardId(0));
        replay(&mut whole, entries.iter().enumerate());
        let mut first = ShardState::new(ShardId(0));
        replay(&mut first, entries.iter().enumerate().take(cut));
        let mut restored = ShardState::restore(&first.snapshot()).unwrap();
        prop_assert_eq!(&restored, &first);
        replay(&mut restored, entries.iter().enumerate().skip(cut));
        prop_assert_eq!(restored.snapshot(), whole.snapshot());
        prop_assert_eq!(restored.digest(), whole.digest());
        prop_assert_eq!(restored, whole);
    }

    #[test]
    fn clone_is_unchanged_while_entries_are_applied(
        entries in entries(0..50u64, true), cut in 0..30usize,
    ) {
        let cut = cut.min(entries.len());
        let mut state = ShardState::new(ShardId(0));
        replay(&mut state, entries.iter().enumerate().take(cut));
        let (captured, then) = (state.clone(), state.snapshot());
        replay(&mut state, entries.iter().enumerate().skip(cut));
        prop_assert_eq!(captured.digest(), ShardState::restore(&then).unwrap().digest());
        prop_assert_eq!(captured.snapshot(), then);
        prop_assert_eq!(state.digest() == captured.digest(), state == captured);
    }

    #[test]
    fn arbitrary_input_never_panics(
        bytes in vec(any::<u8>(), 0..200), entries in entries(0..50u64, true), hit in any::<(usize, u8)>(),
        epoch in any::<u64>(), offset in any::<u64>(),
    ) {
        let mut state = ShardState::new(ShardId(0));
        replay(&mut state, entries.iter().enumerate());
        for mut bytes in [bytes, state.snapshot().to_vec(), entries[0].encode(VersionRange::supported().max).to_vec()] {
            if let Some(byte) = hit.0.checked_rem(bytes.len()).and_then(|at| bytes.get_mut(at)) {
                *byte ^= hit.1;
            }
            let _ = ShardState::restore(&bytes);
            let _ = EntryBatch::decode(&bytes);
        }
        for name in NAMES {
            let _ = state.fetch_history(&topic(name), HistoryRange::After(Position::new(epoch, offset)), NOW);
            let _ = state.fetch_history(&topic(name), HistoryRange::After(Position::new(2, offset)), NOW);
        }
    }
}

#[test]
fn topic_epoch_is_the_index_of_its_first_entry() {
    let mut state = ShardState::with_history(History::default());
    let batch = |names: &[&str]| {
        let items = names.iter().map(|name| item(name, vec![])).collect();
        EntryBatch::new(Timestamp(1), items)
    };
    state.apply(5, batch(&["a"]));
    let placed = state.apply(9, batch(&["a", "b", "b"])).messages;
    let positions: Vec<_> = placed.iter().map(|(_, message)| message.position).collect();
    assert_eq!(positions, [Position::new(5, 2), Position::new(9, 1), Position::new(9, 2)]);
}

#[test]
fn unknown_topic_is_empty_and_has_no_positions() {
    let state = ShardState::with_history(History::default());
    let empty = HistoryPage { messages: vec![], head: Position::ZERO, gap: None };
    for range in [HistoryRange::All, HistoryRange::Last(3), HistoryRange::After(Position::ZERO)] {
        assert_eq!(state.fetch_history(&topic("a"), range, NOW), Ok(empty.clone()));
    }
    let requested = Position::new(1, 1);
    let future = FetchError::FuturePosition { requested, head: Position::ZERO };
    assert_eq!(state.fetch_history(&topic("a"), HistoryRange::After(requested), NOW), Err(future));
}

#[test]
fn idle_topics_lose_messages_past_their_age() {
    let history = History { age_max_ms: 1_000, ..History::default() };
    let entry = |time, names: &[String]| {
        let items = names.iter().map(|name| item(name, b"pay".to_vec())).collect();
        EntryBatch::new(Timestamp(time), items)
    };
    let idle: Vec<String> = (0..100).map(|nth| format!("idle/{nth}")).collect();
    let mut state = ShardState::with_history(history);
    state.apply(1, entry(0, &idle));
    for index in 2..20 {
        state.apply(index, entry(2_000, &["busy".to_owned()]));
    }
    let remaining: Vec<_> = state
        .list_topics("", None, Timestamp(2_000))
        .filter(|info| info.bytes > 0)
        .map(|i| i.topic)
        .collect();
    assert_eq!(remaining, [topic("busy")]);
    assert_eq!(state.topic_stats(&topic("idle/7"), NOW).unwrap().head, Position::new(1, 1));
}

/// Applies an entry without messages.
fn sweep(state: &mut ShardState, index: u64, time: u64) {
    state.apply(index, EntryBatch::new(Timestamp(time), vec![]));
}

/// A shard whose topic "a" had two messages in entry 4, at time 0. Messages are kept for 10 ms, an unused
/// topic for 100 ms.
fn state_with_an_idle_topic() -> ShardState {
    let history = History { age_max_ms: 10, expire_after_ms: 100, ..History::default() };
    let items = vec![item("a", b"one".to_vec()), item("a", b"two".to_vec())];
    let mut state = ShardState::with_history(history);
    state.apply(4, EntryBatch::new(Timestamp(0), items));
    state
}

#[test]
fn topic_is_dropped_when_it_is_empty_and_past_its_expiry() {
    let mut state = state_with_an_idle_topic();
    sweep(&mut state, 5, 100);
    assert_eq!(
        state.topic_stats(&topic("a"), NOW).map(|info| (info.count, info.head.offset)),
        Some((0, Offset(2)))
    );
    sweep(&mut state, 6, 101);
    assert_eq!(state.topic_stats(&topic("a"), NOW), None);
}

#[test]
fn topic_with_messages_is_not_dropped() {
    let history = History { age_max_ms: 1_000, expire_after_ms: 100, ..History::default() };
    let mut state = ShardState::with_history(history);
    let items = vec![item("a", b"one".to_vec())];
    state.apply(4, EntryBatch::new(Timestamp(0), items));
    sweep(&mut state, 5, 999);
    assert_eq!(state.topic_stats(&topic("a"), NOW).map(|info| info.count), Some(1));
}

#[test]
fn recreated_topic_starts_a_higher_epoch_and_an_old_cursor_gets_a_gap() {
    let mut state = state_with_an_idle_topic();
    sweep(&mut state, 5, 200);
    let requested = Position::new(4, 1);
    let page = state.fetch_history(&topic("a"), HistoryRange::After(requested), NOW).unwrap();
    let head = Position::new(5, 0);
    let gap = Some(Gap { from: Position::new(4, 2), to: head, reason: GapReason::Epoch });
    assert_eq!(page, HistoryPage { messages: vec![], head, gap }, "dropped and not recreated");
    let forged = Position::new(6, 1);
    let page = state.fetch_history(&topic("a"), HistoryRange::After(forged), NOW);
    assert_eq!(page, Err(FetchError::FuturePosition { requested: forged, head }));
    let empty = HistoryPage { messages: vec![], head: Position::ZERO, gap: None };
    for range in [HistoryRange::All, HistoryRange::Last(3)] {
        assert_eq!(state.fetch_history(&topic("a"), range, NOW), Ok(empty.clone()));
    }

    let items = vec![item("a", b"three".to_vec())];
    state.apply(9, EntryBatch::new(Timestamp(200), items));
    let page = state.fetch_history(&topic("a"), HistoryRange::After(requested), NOW).unwrap();
    let gap = Some(Gap { from: Position::new(4, 2), to: head, reason: GapReason::Epoch });
    assert_eq!(page.gap, gap);
    let places: Vec<_> = page.messages.iter().map(|message| message.position).collect();
    assert_eq!(places, [Position::new(5, 1)]);
    let reached = state.fetch_history(&topic("a"), HistoryRange::After(head), NOW).unwrap();
    assert_eq!(reached.gap, None, "the reader at the head of the dropped topic has its gap");
    let (requested, head) = (Position::new(10, 1), Position::new(5, 1));
    let page = state.fetch_history(&topic("a"), HistoryRange::After(requested), NOW);
    assert_eq!(
        page,
        Err(FetchError::FuturePosition { requested, head }),
        "a position of an epoch that never existed"
    );
}

#[test]
fn resume_from_zero_gets_a_gap_only_for_a_recreated_topic() {
    let mut state = state_with_an_idle_topic();
    sweep(&mut state, 5, 200);
    let from_zero = |state: &ShardState, name| {
        let page =
            state.fetch_history(&topic(name), HistoryRange::After(Position::ZERO), NOW).unwrap();
        (page.messages.len(), page.gap)
    };
    let gap = |epoch| {
        let (from, to) = (Position::new(0, 1), Position::new(epoch, 0));
        Some(Gap { from, to, reason: GapReason::Epoch })
    };
    assert_eq!(from_zero(&state, "a"), (0, gap(5)), "dropped and not recreated");
    assert_eq!(from_zero(&state, "b"), (0, None), "never created");
    let requested = Position::new(4, 1);
    let future = FetchError::FuturePosition { requested, head: Position::ZERO };
    assert_eq!(state.fetch_history(&topic("b"), HistoryRange::After(requested), NOW), Err(future));
    let items = ["a", "b"].map(|name| item(name, b"three".to_vec()));
    state.apply(9, EntryBatch::new(Timestamp(200), items.into()));
    let restored = ShardState::restore(&state.snapshot()).unwrap();
    for state in [state, restored] {
        assert_eq!(from_zero(&state, "a"), (1, gap(5)));
        assert_eq!(from_zero(&state, "b"), (1, None));
    }
}

#[test]
fn reader_before_a_purge_or_deletion_gets_a_gap_and_positions_are_not_repeated() {
    let requested = Position::new(2, 1);
    for removal in [TopicRemoval::Purge, TopicRemoval::Delete] {
        let mut state = ShardState::with_history(History::default());
        state.apply(
            2,
            EntryBatch::new(NOW, vec![item("a", b"1".to_vec()), item("a", b"2".to_vec())]),
        );
        let applied = state.apply(5, EntryBatch::removing(NOW, topic("a"), removal, false));
        assert_eq!(applied.removed, [topic("a")]);
        assert_eq!(
            (state.len(), state.history_bytes().get()),
            match removal {
                TopicRemoval::Purge => (1, 0),
                TopicRemoval::Delete => (0, 0),
            }
        );
        let after = |state: &ShardState| {
            state.fetch_history(&topic("a"), HistoryRange::After(requested), NOW).unwrap()
        };
        let (from, to) = (Position::new(2, 2), Position::new(5, 0));
        let gap = Some(Gap { from, to, reason: GapReason::Epoch });
        assert_eq!(after(&state), HistoryPage { messages: vec![], head: to, gap });

        state.apply(6, EntryBatch::new(NOW, vec![item("a", b"3".to_vec())]));
        let page = after(&state);
        assert_eq!((page.gap, page.messages.len(), page.head), (gap, 1, to.next()));
    }
}

#[test]
fn removal_of_a_topic_without_messages_changes_nothing() {
    let mut state = ShardState::with_history(History::default());
    let applied =
        state.apply(5, EntryBatch::removing(NOW, topic("a"), TopicRemoval::Delete, false));
    assert_eq!(applied.removed, []);
    let page = state.fetch_history(&topic("a"), HistoryRange::After(Position::ZERO), NOW).unwrap();
    assert_eq!((page.head, page.gap), (Position::ZERO, None));
}

#[test]
fn log_time_never_decreases_and_message_ages_use_it() {
    let mut state = state_with_an_idle_topic();
    sweep(&mut state, 5, 8);
    sweep(&mut state, 6, 3);
    assert_eq!(state.time(), Timestamp(8));
    let late = state.apply(7, EntryBatch::new(Timestamp(1), vec![item("b", vec![])]));
    assert_eq!(late.messages[0].1.time, Timestamp(8), "the time of a proposer that is behind");
    sweep(&mut state, 8, 18);
    assert_eq!(state.topic_stats(&topic("b"), NOW).map(|info| info.count), Some(1));
    sweep(&mut state, 9, 19);
    assert_eq!(state.topic_stats(&topic("b"), NOW).map(|info| info.count), Some(0));
}

#[test]
fn sweep_is_due_only_when_it_would_drop_something() {
    let mut state = state_with_an_idle_topic();
    assert!(!state.is_sweep_due(Timestamp(10)));
    assert!(state.is_sweep_due(Timestamp(11)), "messages are past their age");
    sweep(&mut state, 5, 11);
    assert!(!state.is_sweep_due(Timestamp(100)));
    assert!(state.is_sweep_due(Timestamp(101)), "the topic is unused");
    sweep(&mut state, 6, 101);
    assert!(!state.is_sweep_due(Timestamp(u64::MAX)));
}

#[test]
fn namespace_that_leaves_memory_starts_a_later_epoch() {
    let publish = |state: &mut ShardState, index| {
        let items = vec![item("a/b", vec![])];
        state.apply(index, EntryBatch::new(Timestamp(0), items)).messages.remove(0).1.position
    };
    let mut state = ShardState::with_history(History::default());
    assert_eq!(publish(&mut state, 2), Position::new(2, 1));
    apply_settings(&mut state, 5, settings(2, History::default(), &["a"]));
    apply_settings(&mut state, 8, settings(3, History::default(), &[]));
    // The owner's memory assigned positions of epoch 5; the log does not know how many.
    let assert_epoch_gap = |requested: Position, count: usize, state: &ShardState| {
        let gap = Gap { from: requested.next(), to: Position::new(8, 0), reason: GapReason::Epoch };
        let page = state.fetch_history(&topic("a/b"), HistoryRange::After(requested), NOW).unwrap();
        assert_eq!((page.gap, page.messages.len()), (Some(gap), count));
    };
    assert_epoch_gap(Position::new(2, 1), 0, &state);
    assert_epoch_gap(Position::new(5, 77), 0, &state);
    assert_eq!(publish(&mut state, 9), Position::new(8, 1));
    assert_epoch_gap(Position::new(5, 77), 1, &state);
    assert_eq!(publish(&mut state, 10), Position::new(8, 2));
}

#[test]
fn topics_are_listed_by_name_after_any_name() {
    let mut state = ShardState::with_history(History::default());
    let items = NAMES.iter().rev().map(|name| item(name, vec![0; 4])).collect();
    state.apply(1, EntryBatch::new(Timestamp(1), items));
    let names: Vec<_> = state.list_topics("", None, NOW).map(|info| info.topic).collect();
    assert_eq!(names, NAMES.map(topic));
    let info = state.list_topics("", Some(&topic("a/zz")), NOW).next().unwrap();
    assert_eq!(
        (info.topic.as_str(), info.head, info.count, info.bytes),
        ("b", Position::new(1, 1), 1, 4)
    );
    let list = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let after = after.map(topic);
        state.list_topics(prefix, after.as_ref(), NOW).map(|info| info.topic.to_string()).collect()
    };
    let names_with_prefix = |prefix: &str| -> Vec<String> {
        let names = NAMES.iter().filter(|name| name.starts_with(prefix));
        names.map(|name| (*name).to_owned()).collect()
    };
    assert_eq!(list("a", None), names_with_prefix("a"));
    assert_eq!(list("a/", None), names_with_prefix("a/"));
    assert_eq!(list("a/", Some("a")), names_with_prefix("a/"), "a name before all matches");
    assert_eq!(list("a/", Some(&names_with_prefix("a/")[0])), names_with_prefix("a/")[1..]);
    assert_eq!(list("a/", Some("b")), [""; 0]);
}

#[test]
fn topics_of_a_namespace_moved_to_memory_are_not_listed() {
    let mut state = ShardState::with_history(History::default());
    let items = vec![item("a/b", vec![0; 4])];
    state.apply(1, EntryBatch::new(Timestamp(1), items));
    apply_settings(&mut state, 2, settings(2, History::default(), &["a"]));
    assert_eq!(state.list_topics("", None, NOW).count(), 0);
}

#[test]
fn malformed_or_unsupported_snapshot_is_rejected() {
    assert_eq!(ShardState::restore(b""), Err(VersionedDecodeError::MissingVersion(0)));
    let (found, supported) = (ClusterVersion(9), VersionRange::readable());
    let error = VersionedDecodeError::Unsupported(UnsupportedVersion { found, supported });
    assert_eq!(ShardState::restore(b"\x00\x09"), Err(error));
    let mut state = ShardState::with_history(History::default());
    state.raise_version(VersionRange::supported().max);
    let items = vec![item("a", b"pay".to_vec())];
    state.apply(1, EntryBatch::new(Timestamp(1), items));
    let snapshot = state.snapshot();
    for end in 1..snapshot.len() {
        assert!(
            ShardState::restore(&snapshot[..end]).is_err(),
            "a prefix of {end} bytes was accepted"
        );
    }
    assert_eq!(ShardState::restore(&snapshot), Ok(state));
}

#[test]
fn recovered_state_keeps_its_messages_and_starts_an_epoch_above_all_lost_ones() {
    let publish = |state: &mut ShardState, index, name| {
        let batch = EntryBatch::new(Timestamp(1), vec![item(name, vec![1])]);
        state.apply(index, batch).messages[0].1.position
    };
    let mut state = ShardState::with_history(History::default());
    let first = publish(&mut state, 3, "a");
    publish(&mut state, 4, "a");
    assert_eq!(state.count_topics_and_messages(), (1, 2));

    let index = 1 << 40;
    state.recover(index);
    let page = state.fetch_history(&topic("a"), HistoryRange::After(first), NOW).unwrap();
    assert_eq!(page.head, Position::new(index, 2));
    assert_eq!(page.messages.len(), 2);
    assert_eq!(page.gap.map(|gap| gap.reason), Some(GapReason::Epoch));
    // A reader that has read nothing may have missed messages that only the lost replicas had.
    let gap =
        state.fetch_history(&topic("a"), HistoryRange::After(Position::ZERO), NOW).unwrap().gap;
    assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::Epoch));
    // Positions that a lost replica assigned: one above the head here, one of a topic that is missing here.
    for name in ["a", "b"] {
        let lost = Position::new(900, 77);
        let gap = state.fetch_history(&topic(name), HistoryRange::After(lost), NOW).unwrap().gap;
        assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::Epoch), "{name}");
    }
    assert_eq!(publish(&mut state, index + 1, "a"), Position::new(index, 3));
    assert_eq!(ShardState::restore(&state.snapshot()), Ok(state));
}

/// With another number of shards the topics would belong to other shards, and no snapshot could be restored.
#[test]
fn settings_with_another_number_of_shards_are_not_applied() {
    let history = History { count_max: 3, ..Namespace::default().history };
    let mut state = ShardState::new(ShardId(0));
    apply_settings(&mut state, 1, settings(1, history, &[]));
    state.apply(2, EntryBatch::new(Timestamp(0), NAMES.map(|name| item(name, vec![1])).into()));
    let before = state.settings().cloned();
    let more = ShardSettings { shards: ShardCount::new(9).unwrap(), ..settings(2, history, &[]) };
    apply_settings(&mut state, 3, more);
    assert_eq!(state.settings(), before.as_ref());
    assert_eq!(ShardState::restore(&state.snapshot()), Ok(state));
}
