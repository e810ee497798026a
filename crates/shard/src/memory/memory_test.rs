use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::{ContentType, Gap, GapReason, History, Key, Position};

use super::*;

const HISTORY: History =
    History { count_max: 3, bytes_max: 100, age_max_ms: 10, expire_after_ms: 20 };

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn at(term: u64, index: u64) -> At {
    At { index, term: Term(term) }
}

/// The memory of an owner of term 3 that keeps `chat` since the entry 7.
fn opened() -> Memory {
    let mut memory = Memory::default();
    memory.open(at(3, 7), Timestamp(0), names(&["chat"]));
    memory
}

fn append(memory: &mut Memory, name: &str, time: u64) -> Position {
    place(memory, Timestamp(time), item(name, None))
}

fn item(name: &str, key: Option<&str>) -> Item {
    let key = key.map(|key| Key::new(key).unwrap());
    let (content_type, stamp, payload) = (ContentType::Text, None, "hi".into());
    Item { topic: topic(name), content_type, key, stamp, payload, history: HISTORY }
}

fn place(memory: &mut Memory, time: Timestamp, item: Item) -> Position {
    memory.take(time, item, &Dedupe::default()).0.unwrap().position
}

fn gap(memory: &Memory, name: &str, asked: Position) -> Option<Gap> {
    memory.page(&topic(name), Want::After(asked)).unwrap().gap
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
    memory.open(at(4, 12), Timestamp(2), names(&["chat"]));
    let to = Position::new(12, 0);
    let told = Gap { from: reached.next(), to, reason: GapReason::Epoch };
    assert_eq!(gap(&memory, "chat/7", reached), Some(told));
    assert_eq!(memory.page(&topic("chat/7"), Want::All).unwrap().messages, []);
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
    memory.open(at(4, 12), Timestamp(3), names(&["chat"]));
    assert_eq!(place(&mut memory, Timestamp(4), keyed()), Position::new(12, 1));
}

#[test]
fn a_position_that_was_never_given_out_is_an_error() {
    let mut memory = opened();
    append(&mut memory, "chat/7", 1);
    for asked in [Position::new(7, 2), Position::new(8, 0)] {
        let head = Position::new(7, 1);
        let page = memory.page(&topic("chat/7"), Want::After(asked));
        assert_eq!(page, Err(FetchError::Future { asked, head }));
    }
}

#[test]
fn a_topic_that_is_dropped_begins_again_in_the_epoch_of_that_entry_and_no_other_does() {
    let mut memory = opened();
    let reached = append(&mut memory, "chat/old", 0);
    assert!(!memory.is_sweep_due(Timestamp(10)));
    assert!(memory.is_sweep_due(Timestamp(11)));
    memory.open(at(3, 9), Timestamp(21), names(&["chat"]));
    assert_eq!(memory.topic(&topic("chat/old")), None);
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
        memory.open(at(3, index), Timestamp(21), names(&["chat"]));
    }
    assert!(memory.renewed.is_empty());
    assert!(append(&mut memory, "chat/0", 30).epoch.0 > 7);
}

#[test]
fn a_namespace_that_leaves_takes_its_topics_and_the_others_keep_theirs() {
    let mut memory = Memory::default();
    memory.open(at(3, 7), Timestamp(0), names(&["chat", "score"]));
    append(&mut memory, "chat/7", 1);
    append(&mut memory, "score/7", 1);
    memory.open(at(3, 8), Timestamp(2), names(&["chat"]));
    assert_eq!(append(&mut memory, "chat/7", 3), Position::new(7, 2));
    assert!(!memory.holds(Term(3), &topic("score/7")));
    memory.open(at(3, 9), Timestamp(4), names(&["chat", "score"]));
    assert_eq!(append(&mut memory, "score/7", 5), Position::new(9, 1));
}

#[test]
fn a_topic_that_strayed_into_the_log_comes_back_with_the_next_entry() {
    let mut memory = opened();
    append(&mut memory, "chat/7", 1);
    memory.stray(&topic("chat/7"));
    memory.stray(&topic("score"));
    assert!(!memory.holds(Term(3), &topic("chat/7")));
    assert!(memory.is_sweep_due(Timestamp(0)));
    memory.open(at(3, 9), Timestamp(2), names(&["chat"]));
    assert!(memory.holds(Term(3), &topic("chat/7")));
    assert_eq!(append(&mut memory, "chat/7", 3), Position::new(9, 1));
}

/// What can happen to one topic of an owner.
#[derive(Clone, Debug)]
enum Step {
    Publish,
    Stray,
    Entry { keeps: bool },
    Owner,
}

proptest! {
    #[test]
    fn no_position_is_ever_given_out_twice_or_behind_another(
        steps in vec(prop_oneof![
            6 => Just(Step::Publish),
            1 => Just(Step::Stray),
            2 => any::<bool>().prop_map(|keeps| Step::Entry { keeps }),
            1 => Just(Step::Owner),
        ], 0..60),
    ) {
        let (mut memory, mut term, mut index, mut time) = (opened(), 3, 7, 0);
        let mut reached = Position::ZERO;
        for step in steps {
            time += 7;
            match step {
                Step::Publish if memory.holds(Term(term), &topic("chat/7")) => {
                    let place = append(&mut memory, "chat/7", time);
                    prop_assert!(place > reached, "{place} after {reached}");
                    reached = place;
                }
                // By way of the log: a topic that begins with that entry.
                Step::Publish | Step::Stray => {
                    index += 1;
                    memory.stray(&topic("chat/7"));
                    reached = Position::new(index, 1);
                }
                Step::Entry { keeps } => {
                    index += 1;
                    let names = if keeps { names(&["chat"]) } else { names(&[]) };
                    memory.open(at(term, index), Timestamp(time), names);
                }
                Step::Owner => (term, index) = (term + 1, index + 2),
            }
            if memory.holds(Term(term), &topic("chat/7")) {
                let page = memory.page(&topic("chat/7"), Want::After(reached)).unwrap();
                prop_assert!(page.head >= reached && page.messages.is_empty());
            }
        }
    }
}
