use proptest::prelude::*;
use pushonce_core::{History, Timestamp, test_util};

use super::*;

/// Hides none of the few messages in these tests.
const UNLIMITED: Retention = Retention {
    history: History {
        count_max: 1_000,
        bytes_max: 1 << 20,
        age_max_ms: 1_000,
        expire_after_ms: 1_000,
    },
    log_time: Timestamp(0),
};

fn message(epoch: u64, offset: u64, payload: usize) -> Arc<Message> {
    Arc::new(Message { payload: vec![0; payload].into(), ..test_util::message(epoch, offset) })
}

fn page(epoch: u64, offsets: std::ops::RangeInclusive<u64>) -> Vec<Arc<Message>> {
    offsets.map(|offset| message(epoch, offset, 1)).collect()
}

/// The offsets that a reader at `cursor` would receive.
fn offsets_after(ring: &Ring, cursor: Position) -> Option<Vec<u64>> {
    match ring.locate(cursor) {
        RingPlace::At(index) => {
            Some(ring.entries_from(index).map(|e| e.message.position.offset.0).collect())
        }
        RingPlace::Missing => None,
    }
}

#[test]
fn push_rejects_a_message_that_does_not_follow_the_head() {
    let mut ring = Ring::new(Position::new(3, 5));
    assert!(!ring.push(message(3, 5, 1)));
    assert!(!ring.push(message(3, 7, 1)));
    assert!(!ring.push(message(4, 1, 1)));
    assert!(ring.push(message(3, 6, 1)));
    assert_eq!((ring.floor(), ring.head()), (Position::new(3, 5), Position::new(3, 6)));
}

#[test]
fn reader_at_zero_of_an_empty_topic_gets_the_first_message() {
    let mut ring = Ring::new(Position::ZERO);
    assert_eq!(offsets_after(&ring, Position::ZERO), Some(vec![]));
    assert!(ring.push(message(9, 1, 1)));
    assert_eq!(offsets_after(&ring, Position::ZERO), Some(vec![1]));
    assert!(ring.is_complete());
}

#[test]
fn position_zero_is_missing_if_an_earlier_epoch_existed() {
    let mut ring = Ring::new(Position::new(9, 0));
    assert!(ring.push(message(9, 1, 1)));
    assert_eq!(offsets_after(&ring, Position::ZERO), None);
    assert_eq!(offsets_after(&ring, Position::new(9, 0)), Some(vec![1]));
}

#[test]
fn cursor_of_an_earlier_epoch_is_missing() {
    let mut ring = Ring::new(Position::new(3, 5));
    assert!(ring.push(message(3, 6, 1)));
    assert_eq!(offsets_after(&ring, Position::new(2, 6)), None);
    assert_eq!(
        offsets_after(&ring, Position::new(4, 1)),
        Some(vec![]),
        "a reader ahead of the head waits"
    );
}

#[test]
fn page_is_prepended_only_if_adjacent_to_the_floor() {
    let mut ring = Ring::new(Position::new(3, 10));
    assert!(ring.push(message(3, 11, 1)));
    ring.prepend(&page(3, 5..=8));
    assert_eq!(ring.len(), 1, "a page with a hole is not prepended");
    ring.prepend(&page(2, 8..=10));
    assert_eq!(ring.len(), 1, "a page of another epoch is not prepended");
    ring.prepend(&page(3, 8..=11));
    assert_eq!(offsets_after(&ring, Position::new(3, 7)), Some(vec![8, 9, 10, 11]));
}

#[test]
fn newest_message_is_kept_even_if_over_the_byte_bound() {
    let mut ring = Ring::new(Position::ZERO);
    assert!(ring.push(message(1, 1, 5)) && ring.push(message(1, 2, 50)));
    ring.trim(RingBounds { messages: 10, bytes: 10 });
    assert_eq!(ring.len(), 1);
    assert_eq!(ring.head(), Position::new(1, 2));
}

#[test]
fn last_n_is_served_only_if_the_ring_is_complete_or_holds_n() {
    let mut ring = Ring::new(Position::new(1, 7));
    ring.push(message(1, 8, 1));
    assert_eq!(ring.cursor_before_last(0, &UNLIMITED), Some(Position::new(1, 8)));
    assert_eq!(ring.cursor_before_last(1, &UNLIMITED), Some(Position::new(1, 7)));
    assert_eq!(ring.cursor_before_last(2, &UNLIMITED), None);
    ring.mark_complete();
    assert_eq!(ring.cursor_before_last(2, &UNLIMITED), Some(Position::new(1, 7)));
}

#[derive(Clone, Debug)]
enum RingOp {
    Push(usize),
    /// A page that begins this far below the floor and ends this far above it.
    Prepend(u64, u64),
    Trim(usize, usize),
    Reset(u64),
}

fn ring_op() -> impl Strategy<Value = RingOp> {
    prop_oneof![
        4 => (0usize..20).prop_map(RingOp::Push),
        1 => (0u64..9, 0u64..9).prop_map(|(below, above)| RingOp::Prepend(below, above)),
        1 => (0usize..8, 0usize..60).prop_map(|(messages, bytes)| RingOp::Trim(messages, bytes)),
        1 => (0u64..9).prop_map(RingOp::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The model is a list of the offsets of the newest epoch.
    #[test]
    fn ring_equals_the_tail_of_the_log(ops in proptest::collection::vec(ring_op(), 1..60)) {
        let mut ring = Ring::new(Position::new(1, 4));
        let (mut epoch, mut floor) = (1, 4);
        let mut model: VecDeque<(u64, usize)> = VecDeque::new();
        for op in ops {
            let head = model.back().map_or(floor, |last| last.0);
            match op {
                RingOp::Push(payload) => {
                    prop_assert!(ring.push(message(epoch, head + 1, payload)));
                    model.push_back((head + 1, payload));
                }
                RingOp::Prepend(below, above) => {
                    let first = floor.saturating_sub(below) + 1;
                    let last = (floor + above).min(head);
                    ring.prepend(&page(epoch, first..=last));
                    for offset in (first..=floor.min(last)).rev() {
                        model.push_front((offset, 1));
                        floor = offset - 1;
                    }
                }
                RingOp::Trim(messages, bytes) => {
                    ring.trim(RingBounds { messages, bytes });
                    let total = |m: &VecDeque<(u64, usize)>| m.iter().map(|e| e.1).sum::<usize>();
                    while model.len() > 1 && (model.len() > messages || total(&model) > bytes) {
                        floor = model.pop_front().map_or(floor, |removed| removed.0);
                    }
                }
                RingOp::Reset(to) => {
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
                let expected = (cursor >= floor)
                    .then(|| model.iter().map(|e| e.0).filter(|&o| o > cursor).collect());
                prop_assert_eq!(offsets_after(&ring, Position::new(epoch, cursor)), expected);
                prop_assert_eq!(offsets_after(&ring, Position::new(epoch - 1, cursor)), None);
            }
        }
    }
}

/// Encodes recognisable frames and counts the calls.
#[derive(Default)]
struct CountingEncoder(std::sync::atomic::AtomicUsize);

impl CountingEncoder {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl FrameEncoder for CountingEncoder {
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)] {
        &[]
    }

    fn encode_message(&self, wire: WireFormat, _: &Topic, _: &Message) -> Bytes {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vec![wire.0].into()
    }
    fn compute_delta(&self, _: &Message, message: &Message) -> Option<Bytes> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (message.position.offset.0 < 3).then(|| "delta".into())
    }
    fn encode_delta(&self, wire: WireFormat, _: &Topic, _: &Message, delta: Bytes) -> Bytes {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        [&[wire.0], &delta[..]].concat().into()
    }
    fn encode_gap(&self, _: WireFormat, _: &Topic, _: &pushonce_core::Gap) -> Bytes {
        Bytes::new()
    }
    fn encode_health(&self, _: WireFormat, _: &Topic, _: crate::TopicHealth, _: Position) -> Bytes {
        Bytes::new()
    }

    fn encode_audience(&self, _: WireFormat, _: &Topic, _: u64) -> Bytes {
        Bytes::new()
    }
}

#[test]
fn frame_is_encoded_once_per_wire_format() {
    let (encoder, topic) = (CountingEncoder::default(), Topic::new("a").expect("valid"));
    let mut ring = Ring::new(Position::ZERO);
    ring.push(message(1, 1, 1));
    let entry = ring.entries_from(0).next().expect("an entry");
    let first = entry.frame(WireFormat(0), &topic, &encoder);
    assert_eq!(first.as_ptr(), entry.frame(WireFormat(0), &topic, &encoder).as_ptr());
    assert_ne!(first, entry.frame(WireFormat(1), &topic, &encoder));
    assert_eq!(encoder.count(), 2);
}

#[test]
fn delta_is_computed_once_for_all_wires_and_full_frame_is_used_if_not_smaller() {
    let (encoder, topic) = (CountingEncoder::default(), Topic::new("a").expect("valid"));
    let mut ring = Ring::new(Position::ZERO);
    for offset in 1..=3 {
        ring.push(message(1, offset, 1));
    }
    let entries: Vec<_> = ring.entries_from(0).collect();
    let delta_frame = |index: usize, wire| {
        entries[index].delta_frame(&entries[index - 1].message, WireFormat(wire), &topic, &encoder)
    };
    assert_eq!((delta_frame(1, 0), encoder.count()), (Bytes::from_static(b"\0delta"), 2));
    assert_eq!((delta_frame(1, 1), encoder.count()), (Bytes::from_static(b"\x01delta"), 3));
    assert_eq!((delta_frame(1, 0), encoder.count()), (Bytes::from_static(b"\0delta"), 3));
    let full = delta_frame(2, 0);
    assert_eq!((&full, encoder.count()), (&Bytes::from_static(b"\0"), 5));
    assert_eq!(full.as_ptr(), entries[2].frame(WireFormat(0), &topic, &encoder).as_ptr());
    assert_eq!((delta_frame(2, 1), encoder.count()), (Bytes::from_static(b"\x01"), 6));
}
