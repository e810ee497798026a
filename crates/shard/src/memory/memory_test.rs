use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::{
    ContentType, Gap, GapReason, History, Key, Namespace, Namespaces, Position, ShardCount,
};

use super::*;

/// When pages are read, where ages do not matter.
const NOW: Timestamp = Timestamp(0);

const HISTORY: History =
    History { count_max: 3, bytes_max: 100, age_max_ms: 10, expire_after_ms: 20 };

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// Settings that keep these namespaces in memory.
fn settings(revision: u64, names: &[&str]) -> Arc<ShardSettings> {
    let memory =
        Namespace { durability: Durability::Memory, history: HISTORY, ..Namespace::default() };
    let named = names.iter().map(|name| ((*name).to_owned(), memory.clone())).collect();
    let namespaces = Namespaces { revision, named, ..Namespaces::default() };
    Arc::new(ShardSettings { shards: ShardCount::DEFAULT, namespaces })
}

/// An entry that renews the memory.
fn renew(memory: &mut Memory, at: At, time: u64, settings: &Arc<ShardSettings>) {
    memory.follow(at, Timestamp(time), Some(settings), true);
}

fn at(term: u64, index: u64) -> At {
    At { index, term: Term(term) }
}

/// The memory of an owner of term 3 that keeps `chat` since the entry 7.
fn opened() -> Memory {
    let mut memory = Memory::default();
    renew(&mut memory, at(3, 7), 0, &settings(1, &["chat"]));
    memory
}

fn append(memory: &mut Memory, name: &str, time: u64) -> Position {
    place(memory, Timestamp(time), item(name, None))
}

fn item(name: &str, key: Option<&str>) -> Item {
    let key = key.map(|key| Key::new(key).unwrap());
    let (content_type, stamp, payload) = (ContentType::Text, None, "hi".into());
    Item { topic: topic(name), content_type, key, stamp, payload }
}

fn place(memory: &mut Memory, time: Timestamp, item: Item) -> Position {
    memory.take(time, item, &Dedupe::default()).0.unwrap().position
}

fn gap(memory: &Memory, name: &str, asked: Position) -> Option<Gap> {
    memory.page(&topic(name), Want::After(asked), NOW).unwrap().gap
}

#[test]
fn only_topics_of_the_namespaces_it_is_for_and_only_of_its_term() {
    let memory = opened();
    assert!(memory.holds(Term(3), &topic("chat/7")));
    assert!(!memory.holds(Term(3), &topic("score")));
    assert!(!memory.holds(Term(4), &topic("chat/7")));
    assert!(!Memory::default().holds(Term(3), &topic("chat/7")));
}

#[test]
fn the_epoch_is_the_index_of_the_entry_that_opened_it() {
    let mut memory = opened();
    assert_eq!(append(&mut memory, "chat/7", 1), Position::new(7, 1));
    assert_eq!(append(&mut memory, "chat/7", 2), Position::new(7, 2));
    assert_eq!(append(&mut memory, "chat/8", 2), Position::new(7, 1));
}

#[test]
fn the_next_owner_has_nothing_and_tells_a_gap_to_its_beginning() {
    let mut memory = opened();
    let reached = append(&mut memory, "chat/7", 1);
    renew(&mut memory, at(4, 12), 2, &settings(1, &["chat"]));
    let to = Position::new(12, 0);
    let told = Gap { from: reached.next(), to, reason: GapReason::Epoch };
    assert_eq!(gap(&memory, "chat/7", reached), Some(told));
    assert_eq!(memory.page(&topic("chat/7"), Want::All, NOW).unwrap().messages, []);
    assert!(append(&mut memory, "chat/7", 3).follows(to));
    assert_eq!(gap(&memory, "chat/7", to), None);
}

#[test]
fn a_repeated_key_gets_the_first_position_for_as_long_as_the_owner_lives() {
    let mut memory = opened();
    let keyed = || item("chat/7", Some("a1"));
    let log = Dedupe::default();
    let (first, handed_on) = memory.take(Timestamp(1), keyed(), &log);
    assert!(handed_on.is_some());
    assert_eq!(memory.take(Timestamp(2), keyed(), &log), (first, None));
    let other = Item { payload: "other".into(), ..keyed() };
    assert_eq!(memory.take(Timestamp(2), other, &log), (Err(Rejected::KeyReused), None));
    renew(&mut memory, at(4, 12), 3, &settings(1, &["chat"]));
    assert_eq!(place(&mut memory, Timestamp(4), keyed()), Position::new(12, 1));
}

#[test]
fn a_position_that_was_never_given_out_is_an_error() {
    let mut memory = opened();
    append(&mut memory, "chat/7", 1);
    for asked in [Position::new(7, 2), Position::new(8, 0)] {
        let head = Position::new(7, 1);
        let page = memory.page(&topic("chat/7"), Want::After(asked), NOW);
        assert_eq!(page, Err(FetchError::Future { asked, head }));
    }
}

#[test]
fn a_topic_that_is_dropped_begins_again_in_the_epoch_of_that_entry_and_no_other_does() {
    let mut memory = opened();
    let reached = append(&mut memory, "chat/old", 0);
    assert!(!memory.is_sweep_due(Timestamp(10)));
    assert!(memory.is_sweep_due(Timestamp(11)));
    renew(&mut memory, at(3, 9), 21, &settings(1, &["chat"]));
    assert_eq!(memory.topic(&topic("chat/old"), NOW), None);
    assert_eq!(gap(&memory, "chat/old", reached).map(|gap| gap.to), Some(Position::new(9, 0)));
    assert_eq!(append(&mut memory, "chat/old", 30), Position::new(9, 1));
    assert_eq!(append(&mut memory, "chat/new", 30), Position::new(7, 1));
}

#[test]
fn when_too_many_were_dropped_to_remember_all_begin_a_later_epoch() {
    let mut memory = opened();
    for nth in 0..=RENEWED_MAX {
        append(&mut memory, &format!("chat/{nth}"), 0);
    }
    for index in 8..20 {
        renew(&mut memory, at(3, index), 21, &settings(1, &["chat"]));
    }
    assert!(memory.renewed.is_empty());
    assert!(append(&mut memory, "chat/0", 30).epoch.0 > 7);
}

#[test]
fn a_namespace_that_leaves_takes_its_topics_and_the_others_keep_theirs() {
    let mut memory = Memory::default();
    renew(&mut memory, at(3, 7), 0, &settings(1, &["chat", "score"]));
    append(&mut memory, "chat/7", 1);
    append(&mut memory, "score/7", 1);
    renew(&mut memory, at(3, 8), 2, &settings(2, &["chat"]));
    assert_eq!(append(&mut memory, "chat/7", 3), Position::new(7, 2));
    assert!(!memory.holds(Term(3), &topic("score/7")));
    renew(&mut memory, at(3, 9), 4, &settings(3, &["chat", "score"]));
    assert_eq!(append(&mut memory, "score/7", 5), Position::new(9, 1));
}

#[test]
fn lower_bounds_hold_for_a_topic_that_gets_no_message_and_higher_ones_bring_nothing_back() {
    let mut memory = opened();
    for time in 0..3 {
        append(&mut memory, "chat/7", time);
    }
    let with_count = |revision, count_max| {
        let mut settings = ShardSettings::clone(&settings(revision, &["chat"]));
        settings.namespaces.named.get_mut("chat").unwrap().history.count_max = count_max;
        Arc::new(settings)
    };
    let kept =
        |memory: &Memory| memory.page(&topic("chat/7"), Want::All, NOW).unwrap().messages.len();
    for (index, count_max, left) in [(8, 2, 2), (9, 9, 2)] {
        memory.follow(at(3, index), NOW, Some(&with_count(index, count_max)), false);
        assert_eq!(kept(&memory), left);
    }
}

/// What can happen to one topic of an owner.
#[derive(Clone, Debug)]
enum Step {
    Publish,
    Entry { keeps: bool },
    Owner,
}

proptest! {
    #[test]
    fn no_position_is_ever_given_out_twice_or_behind_another(
        steps in vec(prop_oneof![
            6 => Just(Step::Publish),
            2 => any::<bool>().prop_map(|keeps| Step::Entry { keeps }),
            1 => Just(Step::Owner),
        ], 0..60),
    ) {
        let (mut memory, mut term, mut index, mut time) = (opened(), 3, 7, 0);
        let mut keeps_now = true;
        let mut reached = Position::ZERO;
        for step in steps {
            time += 7;
            match step {
                Step::Publish if memory.holds(Term(term), &topic("chat/7")) => {
                    let place = append(&mut memory, "chat/7", time);
                    prop_assert!(place > reached, "{place} after {reached}");
                    reached = place;
                }
                // By way of the log, where it begins with that entry.
                Step::Publish if !keeps_now => {
                    index += 1;
                    reached = Position::new(index, 1);
                }
                Step::Publish => {}
                Step::Entry { keeps } => {
                    index += 1;
                    keeps_now = keeps;
                    let settings = settings(index, if keeps { &["chat"] } else { &[] });
                    memory.follow(at(term, index), Timestamp(time), Some(&settings), keeps);
                }
                Step::Owner => (term, index) = (term + 1, index + 2),
            }
            if memory.holds(Term(term), &topic("chat/7")) {
                let page = memory.page(&topic("chat/7"), Want::After(reached), NOW).unwrap();
                prop_assert!(page.head >= reached && page.messages.is_empty());
            }
        }
    }
}
