use proptest::prelude::*;
use pushonce_core::{ContentType, History, Timestamp};

use super::*;

/// Hides nothing of these few messages.
const ALL: Retention = Retention {
    history: History {
        count_max: 1_000,
        bytes_max: 1 << 20,
        age_max_ms: 1_000,
        expire_after_ms: 1_000,
    },
    log_time: Timestamp(0),
};

fn message(epoch: u64, offset: u64, payload: usize) -> Arc<Message> {
    Arc::new(Message {
        position: Position::new(epoch, offset),
        time: Timestamp(0),
        content_type: ContentType::Binary,
        key: None,
        payload: vec![0; payload].into(),
    })
}

fn page(epoch: u64, offsets: std::ops::RangeInclusive<u64>) -> Vec<Arc<Message>> {
    offsets.map(|offset| message(epoch, offset, 1)).collect()
}

/// What a reader at `cursor` would get.
fn after(ring: &Ring, cursor: Position) -> Option<Vec<u64>> {
    match ring.place(cursor) {
        Place::At(index) => Some(ring.from(index).map(|e| e.message.position.offset.0).collect()),
        Place::Passed => None,
    }
}

#[test]
fn only_the_next_message_is_taken() {
    let mut ring = Ring::new(Position::new(3, 5));
    assert!(!ring.push(message(3, 5, 1)));
    assert!(!ring.push(message(3, 7, 1)));
    assert!(!ring.push(message(4, 1, 1)));
    assert!(ring.push(message(3, 6, 1)));
    assert_eq!((ring.floor(), ring.head()), (Position::new(3, 5), Position::new(3, 6)));
}

#[test]
fn a_reader_of_a_topic_without_messages_gets_its_first() {
    let mut ring = Ring::new(Position::ZERO);
    assert_eq!(after(&ring, Position::ZERO), Some(vec![]));
    assert!(ring.push(message(9, 1, 1)));
    assert_eq!(after(&ring, Position::ZERO), Some(vec![1]));
    assert!(ring.is_whole());
}

#[test]
fn zero_is_not_before_an_epoch_that_had_another_before_it() {
    let mut ring = Ring::new(Position::new(9, 0));
    assert!(ring.push(message(9, 1, 1)));
    assert_eq!(after(&ring, Position::ZERO), None);
    assert_eq!(after(&ring, Position::new(9, 0)), Some(vec![1]));
}

#[test]
fn a_cursor_of_another_epoch_is_never_taken_for_one_of_this() {
    let mut ring = Ring::new(Position::new(3, 5));
    assert!(ring.push(message(3, 6, 1)));
    assert_eq!(after(&ring, Position::new(2, 6)), None);
    assert_eq!(after(&ring, Position::new(4, 1)), Some(vec![]), "ahead: waits");
}

#[test]
fn a_page_joins_only_where_it_touches_the_floor() {
    let mut ring = Ring::new(Position::new(3, 10));
    assert!(ring.push(message(3, 11, 1)));
    ring.prepend(&page(3, 5..=8));
    assert_eq!(ring.len(), 1, "a hole between");
    ring.prepend(&page(2, 8..=10));
    assert_eq!(ring.len(), 1, "another epoch");
    ring.prepend(&page(3, 8..=11));
    assert_eq!(after(&ring, Position::new(3, 7)), Some(vec![8, 9, 10, 11]));
}

#[test]
fn the_newest_message_stays_whatever_its_size() {
    let mut ring = Ring::new(Position::ZERO);
    assert!(ring.push(message(1, 1, 5)) && ring.push(message(1, 2, 50)));
    ring.trim(Bounds { messages: 10, bytes: 10 });
    assert_eq!(ring.len(), 1);
    assert_eq!(ring.head(), Position::new(1, 2));
}

#[test]
fn the_newest_n_are_here_or_all_there_are_or_must_be_fetched() {
    let mut ring = Ring::new(Position::new(1, 7));
    ring.push(message(1, 8, 1));
    assert_eq!(ring.last(0, &ALL), Some(Position::new(1, 8)));
    assert_eq!(ring.last(1, &ALL), Some(Position::new(1, 7)));
    assert_eq!(ring.last(2, &ALL), None);
    ring.set_whole();
    assert_eq!(ring.last(2, &ALL), Some(Position::new(1, 7)));
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    /// A page that begins this far below the floor and ends this far above it.
    Prepend(u64, u64),
    Trim(usize, usize),
    Reset(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..20).prop_map(Step::Push),
        1 => (0u64..9, 0u64..9).prop_map(|(below, above)| Step::Prepend(below, above)),
        1 => (0usize..8, 0usize..60).prop_map(|(messages, bytes)| Step::Trim(messages, bytes)),
        1 => (0u64..9).prop_map(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The model is a plain list of offsets of the newest epoch.
    #[test]
    fn the_ring_is_the_tail_of_the_log(steps in proptest::collection::vec(step(), 1..60)) {
        let mut ring = Ring::new(Position::new(1, 4));
        let (mut epoch, mut floor) = (1, 4);
        let mut model: VecDeque<(u64, usize)> = VecDeque::new();
        for step in steps {
            let head = model.back().map_or(floor, |last| last.0);
            match step {
                Step::Push(payload) => {
                    prop_assert!(ring.push(message(epoch, head + 1, payload)));
                    model.push_back((head + 1, payload));
                }
                Step::Prepend(below, above) => {
                    let first = floor.saturating_sub(below) + 1;
                    let last = (floor + above).min(head);
                    ring.prepend(&page(epoch, first..=last));
                    for offset in (first..=floor.min(last)).rev() {
                        model.push_front((offset, 1));
                        floor = offset - 1;
                    }
                }
                Step::Trim(messages, bytes) => {
                    ring.trim(Bounds { messages, bytes });
                    let total = |m: &VecDeque<(u64, usize)>| m.iter().map(|e| e.1).sum::<usize>();
                    while model.len() > 1 && (model.len() > messages || total(&model) > bytes) {
                        floor = model.pop_front().map_or(floor, |gone| gone.0);
                    }
                }
                Step::Reset(to) => {
                    epoch += 1;
                    floor = to;
                    model.clear();
                    ring = Ring::new(Position::new(epoch, to));
                }
            }
            let head = model.back().map_or(floor, |last| last.0);
            prop_assert_eq!(ring.head(), Position::new(epoch, head));
            prop_assert_eq!(ring.floor(), Position::new(epoch, floor));
            prop_assert_eq!(ring.size().bytes, model.iter().map(|entry| entry.1).sum::<usize>());
            for cursor in 0..head + 3 {
                let wanted = (cursor >= floor)
                    .then(|| model.iter().map(|e| e.0).filter(|&o| o > cursor).collect());
                prop_assert_eq!(after(&ring, Position::new(epoch, cursor)), wanted);
                prop_assert_eq!(after(&ring, Position::new(epoch - 1, cursor)), None);
            }
        }
    }
}

/// Makes frames that say what they are, and counts them.
#[derive(Default)]
struct Count(std::sync::atomic::AtomicUsize);

impl Count {
    fn made(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Encode for Count {
    fn message(&self, wire: Wire, _: &Topic, _: &Message) -> Bytes {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vec![wire.0].into()
    }
    fn delta(&self, _: &Message, message: &Message) -> Option<Bytes> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (message.position.offset.0 < 3).then(|| "delta".into())
    }
    fn difference(&self, wire: Wire, _: &Topic, _: &Message, delta: Bytes) -> Bytes {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        [&[wire.0], &delta[..]].concat().into()
    }
    fn gap(&self, _: Wire, _: &Topic, _: &pushonce_core::Gap) -> Bytes {
        Bytes::new()
    }
    fn standing(&self, _: Wire, _: &Topic, _: crate::Standing, _: Position) -> Bytes {
        Bytes::new()
    }

    fn audience(&self, _: Wire, _: &Topic, _: u64) -> Bytes {
        Bytes::new()
    }
}

#[test]
fn a_frame_is_made_once_per_wire() {
    let (made, topic) = (Count::default(), Topic::new("a").expect("valid"));
    let mut ring = Ring::new(Position::ZERO);
    ring.push(message(1, 1, 1));
    let entry = ring.from(0).next().expect("one");
    let first = entry.frame(Wire(0), &topic, &made);
    assert_eq!(first.as_ptr(), entry.frame(Wire(0), &topic, &made).as_ptr());
    assert_ne!(first, entry.frame(Wire(1), &topic, &made));
    assert_eq!(made.made(), 2);
}

#[test]
fn a_delta_is_made_once_for_all_wires_and_what_is_no_gain_goes_whole() {
    let (made, topic) = (Count::default(), Topic::new("a").expect("valid"));
    let mut ring = Ring::new(Position::ZERO);
    for offset in 1..=3 {
        ring.push(message(1, offset, 1));
    }
    let entries: Vec<_> = ring.from(0).collect();
    let difference = |index: usize, wire| {
        entries[index].difference(&entries[index - 1].message, Wire(wire), &topic, &made)
    };
    assert_eq!((difference(1, 0), made.made()), (Bytes::from_static(b"\0delta"), 2));
    assert_eq!((difference(1, 1), made.made()), (Bytes::from_static(b"\x01delta"), 3));
    assert_eq!((difference(1, 0), made.made()), (Bytes::from_static(b"\0delta"), 3));
    let whole = difference(2, 0);
    assert_eq!((&whole, made.made()), (&Bytes::from_static(b"\0"), 5));
    assert_eq!(whole.as_ptr(), entries[2].frame(Wire(0), &topic, &made).as_ptr());
    assert_eq!((difference(2, 1), made.made()), (Bytes::from_static(b"\x01"), 6));
}
