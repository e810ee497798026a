use pushonce_core::ContentType;
use pushonce_core::test_util::publish;

use super::*;

const EPOCH: u64 = 7;

/// A topic, the limits of its namespace, and the time of its newest message.
#[derive(Clone, Debug)]
struct TestTopic {
    log: TopicState,
    history: History,
    now: Timestamp,
}

impl TestTopic {
    fn new(history: History) -> TestTopic {
        TestTopic { log: TopicState::new(EPOCH, false), history, now: Timestamp(0) }
    }

    fn append(&mut self, time: u64, payload: &'static [u8]) {
        self.now = Timestamp(time);
        self.log.append(self.now, item(payload), &self.history);
    }

    fn fetch_history(&self, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        self.log.fetch_history(range, self.now, &self.history)
    }
}

/// A topic of epoch 7 with messages at the given times, whose history keeps `count_max` of them.
fn topic_with(count_max: u32, times: &[u64]) -> TestTopic {
    let history = History { count_max, bytes_max: 1_000, age_max_ms: 1_000, ..History::default() };
    let mut topic = TestTopic::new(history);
    times.iter().for_each(|&time| topic.append(time, b"pay"));
    topic
}

fn item(payload: &'static [u8]) -> EntryItem {
    EntryItem { content_type: ContentType::Binary, ..EntryItem::new(publish("a", payload)) }
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.messages.iter().map(|message| message.position.offset.0).collect()
}

fn after(log: &TestTopic, epoch: u64, offset: u64) -> (Vec<u64>, Option<Gap>) {
    let page = log.fetch_history(HistoryRange::After(Position::new(epoch, offset))).unwrap();
    (offsets(&page), page.gap)
}

fn gap(from: (u64, u64), to: (u64, u64), reason: GapReason) -> Option<Gap> {
    Some(Gap { from: Position::new(from.0, from.1), to: Position::new(to.0, to.1), reason })
}

#[test]
fn offsets_start_at_one_and_are_contiguous() {
    let log = topic_with(10, &[1, 2, 3]);
    assert_eq!(offsets(&log.fetch_history(HistoryRange::All).unwrap()), [1, 2, 3]);
    assert_eq!(log.fetch_history(HistoryRange::All).unwrap().head, Position::new(EPOCH, 3));
}

#[test]
fn fetch_after_a_position_returns_all_later_messages() {
    let log = topic_with(10, &[1, 2, 3]);
    assert_eq!(after(&log, EPOCH, 0), (vec![1, 2, 3], None));
    assert_eq!(after(&log, EPOCH, 1), (vec![2, 3], None));
    assert_eq!(after(&log, EPOCH, 3), (vec![], None));
    assert_eq!(after(&log, 0, 0), (vec![1, 2, 3], None));
}

#[test]
fn expired_messages_are_reported_as_a_gap() {
    let log = topic_with(2, &[1, 2, 3, 4]);
    let expired = GapReason::Expired;
    assert_eq!(after(&log, EPOCH, 1), (vec![3, 4], gap((EPOCH, 2), (EPOCH, 2), expired)));
    assert_eq!(after(&log, 0, 0), (vec![3, 4], gap((EPOCH, 1), (EPOCH, 2), expired)));
    assert_eq!(after(&log, EPOCH, 2), (vec![3, 4], None));
}

#[test]
fn topic_without_history_reports_a_gap_up_to_its_head() {
    let log = topic_with(0, &[1, 2, 3]);
    let expired = GapReason::Expired;
    assert_eq!(after(&log, EPOCH, 1), (vec![], gap((EPOCH, 2), (EPOCH, 3), expired)));
    assert_eq!(after(&log, EPOCH, 3), (vec![], None));
}

#[test]
fn position_of_an_earlier_epoch_gets_an_epoch_gap() {
    let epoch = GapReason::Epoch;
    let all = topic_with(10, &[1, 2]);
    assert_eq!(after(&all, 3, 9), (vec![1, 2], gap((3, 10), (EPOCH, 0), epoch)));
    let some = topic_with(1, &[1, 2]);
    assert_eq!(after(&some, 3, 9), (vec![2], gap((3, 10), (EPOCH, 1), epoch)));
    let none = topic_with(0, &[1, 2]);
    assert_eq!(after(&none, 3, 9), (vec![], gap((3, 10), (EPOCH, 2), epoch)));
}

#[test]
fn first_message_after_a_gap_follows_the_end_of_the_gap() {
    let page =
        topic_with(10, &[1, 2]).fetch_history(HistoryRange::After(Position::new(3, 9))).unwrap();
    assert!(page.messages[0].position.follows(page.gap.unwrap().to));
}

#[test]
fn unassigned_position_is_an_error() {
    let log = topic_with(10, &[1, 2]);
    let head = Position::new(EPOCH, 2);
    for (epoch, offset) in [(EPOCH, 3), (EPOCH, u64::MAX), (EPOCH + 1, 0), (u64::MAX, 1), (0, 5)] {
        let requested = Position::new(epoch, offset);
        assert_eq!(
            log.fetch_history(HistoryRange::After(requested)),
            Err(FetchError::FuturePosition { requested, head })
        );
    }
}

#[test]
fn maximum_offset_of_an_earlier_epoch_gets_an_epoch_gap() {
    let (messages, gap) = after(&topic_with(10, &[1, 2]), EPOCH - 1, u64::MAX);
    assert_eq!((messages, gap.unwrap().reason), (vec![1, 2], GapReason::Epoch));
}

#[test]
fn fetch_last_n_returns_at_most_the_retained_messages() {
    let log = topic_with(3, &[1, 2, 3, 4]);
    for (n, expected) in [(0, vec![]), (2, vec![3, 4]), (9, vec![2, 3, 4])] {
        let page = log.fetch_history(HistoryRange::Last(n)).unwrap();
        assert_eq!((offsets(&page), page.gap), (expected, None));
    }
}

#[test]
fn messages_past_their_age_are_trimmed_by_the_next_publish() {
    assert_eq!(
        offsets(&topic_with(10, &[0, 500, 1_500]).fetch_history(HistoryRange::All).unwrap()),
        [2, 3]
    );
    assert_eq!(
        offsets(&topic_with(10, &[0, 500, 1_501]).fetch_history(HistoryRange::All).unwrap()),
        [3]
    );
}

#[test]
fn messages_are_trimmed_by_bytes_and_an_oversized_one_is_not_retained() {
    let history = History { bytes_max: 5, ..History::default() };
    let mut log = TestTopic::new(history);
    for payload in [b"12".as_slice(), b"34", b"56"] {
        log.append(1, payload);
    }
    assert_eq!(offsets(&log.fetch_history(HistoryRange::All).unwrap()), [2, 3]);
    log.append(1, b"123456");
    assert_eq!(offsets(&log.fetch_history(HistoryRange::All).unwrap()), [] as [u64; 0]);
    assert_eq!((log.log.bytes, log.log.head), (0, Position::new(EPOCH, 4)));
}

#[test]
fn one_timestamp_far_ahead_does_not_expire_later_messages() {
    let far_ahead = 1_000_000;
    let log = topic_with(10, &[0, far_ahead, 10, 20]);
    assert_eq!(offsets(&log.fetch_history(HistoryRange::All).unwrap()), [2, 3, 4]);
}

#[test]
fn retention_applies_to_readers_before_the_next_sweep() {
    let topic = topic_with(10, &[0, 400, 800]);
    let read_with = |bounds: History, now| {
        let page = topic.log.fetch_history(
            HistoryRange::After(Position::new(EPOCH, 1)),
            Timestamp(now),
            &bounds,
        );
        let page = page.unwrap();
        let info = topic.log.stats(&Topic::new("a").unwrap(), Timestamp(now), &bounds);
        assert_eq!(info.bytes, 3 * info.count as u64);
        (offsets(&page), page.gap, info.count)
    };
    let expired = |to| gap((EPOCH, 2), (EPOCH, to), GapReason::Expired);
    assert_eq!(read_with(topic.history, 800), (vec![2, 3], None, 3));
    assert_eq!(read_with(History { count_max: 1, ..topic.history }, 800), (vec![3], expired(2), 1));
    assert_eq!(read_with(History { bytes_max: 5, ..topic.history }, 800), (vec![3], expired(2), 1));
    assert_eq!(
        read_with(History { age_max_ms: 399, ..topic.history }, 800),
        (vec![3], expired(2), 1)
    );
    assert_eq!(
        read_with(topic.history, 1_400),
        (vec![2, 3], None, 2),
        "messages expire without an entry"
    );
    assert_eq!(read_with(topic.history, 9_000), (vec![], expired(3), 0));
}

#[test]
fn log_with_a_hole_or_a_misplaced_message_is_inconsistent() {
    let good = topic_with(10, &[1, 2, 3]);
    let good = good.log;
    assert!(
        good.is_consistent()
            && topic_with(0, &[1]).log.is_consistent()
            && TopicState::new(EPOCH, false).is_consistent()
    );
    let broken: [fn(&mut TopicState); 5] = [
        |log| drop(log.messages.remove(1)),
        |log| log.head = Position::new(EPOCH, 2),
        |log| log.head = Position::new(EPOCH + 1, 3),
        |log| log.head = Position::new(EPOCH, u64::MAX),
        |log| log.bytes += 1,
    ];
    for corrupt in broken {
        let mut log = good.clone();
        corrupt(&mut log);
        assert!(!log.is_consistent(), "{log:?}");
    }
}
