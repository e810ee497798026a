use bytes::Bytes;
use pushonce_core::ContentType;

use super::*;

const EPOCH: u64 = 7;

/// A topic, the bounds of its namespace, and the time of its newest message.
#[derive(Clone, Debug)]
struct Kept {
    log: Log,
    history: History,
    now: Timestamp,
}

impl Kept {
    fn begin(history: History) -> Kept {
        Kept { log: Log::begin(EPOCH, false), history, now: Timestamp(0) }
    }

    fn append(&mut self, time: u64, payload: &'static [u8]) {
        self.now = Timestamp(time);
        self.log.append(self.now, item(payload), &self.history);
    }

    fn page(&self, want: Want) -> Result<Page, FetchError> {
        self.log.page(want, self.now, &self.history)
    }
}

/// A topic of epoch 7 with messages at the times given, whose history keeps `count_max` of them.
fn log(count_max: u32, times: &[u64]) -> Kept {
    let history = History { count_max, bytes_max: 1_000, age_max_ms: 1_000, ..History::default() };
    let mut kept = Kept::begin(history);
    times.iter().for_each(|&time| kept.append(time, b"pay"));
    kept
}

fn item(payload: &'static [u8]) -> Item {
    Item {
        topic: Topic::new("a").unwrap(),
        content_type: ContentType::Binary,
        key: None,
        stamp: None,
        payload: Bytes::from_static(payload),
    }
}

fn offsets(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.position.offset.0).collect()
}

fn after(log: &Kept, epoch: u64, offset: u64) -> (Vec<u64>, Option<Gap>) {
    let page = log.page(Want::After(Position::new(epoch, offset))).unwrap();
    (offsets(&page), page.gap)
}

fn gap(from: (u64, u64), to: (u64, u64), reason: GapReason) -> Option<Gap> {
    Some(Gap { from: Position::new(from.0, from.1), to: Position::new(to.0, to.1), reason })
}

#[test]
fn offsets_rise_by_one_from_one() {
    let log = log(10, &[1, 2, 3]);
    assert_eq!(offsets(&log.page(Want::All).unwrap()), [1, 2, 3]);
    assert_eq!(log.page(Want::All).unwrap().head, Position::new(EPOCH, 3));
}

#[test]
fn after_gives_exactly_the_rest() {
    let log = log(10, &[1, 2, 3]);
    assert_eq!(after(&log, EPOCH, 0), (vec![1, 2, 3], None));
    assert_eq!(after(&log, EPOCH, 1), (vec![2, 3], None));
    assert_eq!(after(&log, EPOCH, 3), (vec![], None));
    assert_eq!(after(&log, 0, 0), (vec![1, 2, 3], None));
}

#[test]
fn what_history_no_longer_has_is_a_gap_that_names_it() {
    let log = log(2, &[1, 2, 3, 4]);
    let expired = GapReason::Expired;
    assert_eq!(after(&log, EPOCH, 1), (vec![3, 4], gap((EPOCH, 2), (EPOCH, 2), expired)));
    assert_eq!(after(&log, 0, 0), (vec![3, 4], gap((EPOCH, 1), (EPOCH, 2), expired)));
    assert_eq!(after(&log, EPOCH, 2), (vec![3, 4], None));
}

#[test]
fn a_topic_without_history_gives_a_gap_up_to_its_head() {
    let log = log(0, &[1, 2, 3]);
    let expired = GapReason::Expired;
    assert_eq!(after(&log, EPOCH, 1), (vec![], gap((EPOCH, 2), (EPOCH, 3), expired)));
    assert_eq!(after(&log, EPOCH, 3), (vec![], None));
}

#[test]
fn a_position_of_an_earlier_epoch_is_told_that_continuity_was_lost() {
    let epoch = GapReason::Epoch;
    let all = log(10, &[1, 2]);
    assert_eq!(after(&all, 3, 9), (vec![1, 2], gap((3, 10), (EPOCH, 0), epoch)));
    let some = log(1, &[1, 2]);
    assert_eq!(after(&some, 3, 9), (vec![2], gap((3, 10), (EPOCH, 1), epoch)));
    let none = log(0, &[1, 2]);
    assert_eq!(after(&none, 3, 9), (vec![], gap((3, 10), (EPOCH, 2), epoch)));
}

#[test]
fn the_first_message_after_a_gap_follows_its_end() {
    let page = log(10, &[1, 2]).page(Want::After(Position::new(3, 9))).unwrap();
    assert!(page.messages[0].position.follows(page.gap.unwrap().to));
}

#[test]
fn a_position_that_was_never_given_out_is_an_error() {
    let log = log(10, &[1, 2]);
    let head = Position::new(EPOCH, 2);
    for (epoch, offset) in [(EPOCH, 3), (EPOCH, u64::MAX), (EPOCH + 1, 0), (u64::MAX, 1), (0, 5)] {
        let asked = Position::new(epoch, offset);
        assert_eq!(log.page(Want::After(asked)), Err(FetchError::Future { asked, head }));
    }
}

#[test]
fn a_forged_offset_of_an_earlier_epoch_does_no_harm() {
    let (messages, gap) = after(&log(10, &[1, 2]), EPOCH - 1, u64::MAX);
    assert_eq!((messages, gap.unwrap().reason), (vec![1, 2], GapReason::Epoch));
}

#[test]
fn last_gives_what_there_is_and_asks_for_no_more() {
    let log = log(3, &[1, 2, 3, 4]);
    for (n, wanted) in [(0, vec![]), (2, vec![3, 4]), (9, vec![2, 3, 4])] {
        let page = log.page(Want::Last(n)).unwrap();
        assert_eq!((offsets(&page), page.gap), (wanted, None));
    }
}

#[test]
fn messages_leave_by_age_with_the_next_publish() {
    assert_eq!(offsets(&log(10, &[0, 500, 1_500]).page(Want::All).unwrap()), [2, 3]);
    assert_eq!(offsets(&log(10, &[0, 500, 1_501]).page(Want::All).unwrap()), [3]);
}

#[test]
fn messages_leave_by_bytes_and_one_over_the_bound_is_not_kept() {
    let history = History { bytes_max: 5, ..History::default() };
    let mut log = Kept::begin(history);
    for payload in [b"12".as_slice(), b"34", b"56"] {
        log.append(1, payload);
    }
    assert_eq!(offsets(&log.page(Want::All).unwrap()), [2, 3]);
    log.append(1, b"123456");
    assert_eq!(offsets(&log.page(Want::All).unwrap()), [] as [u64; 0]);
    assert_eq!((log.log.bytes, log.log.head), (0, Position::new(EPOCH, 4)));
}

#[test]
fn a_clock_that_was_ahead_once_does_not_empty_what_comes_after() {
    let far_ahead = 1_000_000;
    let log = log(10, &[0, far_ahead, 10, 20]);
    assert_eq!(offsets(&log.page(Want::All).unwrap()), [2, 3, 4]);
}

#[test]
fn bounds_hold_for_readers_before_any_entry_looks_at_the_topic() {
    let kept = log(10, &[0, 400, 800]);
    let narrow = |bounds: History, now| {
        let page = kept.log.page(Want::After(Position::new(EPOCH, 1)), Timestamp(now), &bounds);
        let page = page.unwrap();
        let info = kept.log.info(&Topic::new("a").unwrap(), Timestamp(now), &bounds);
        assert_eq!(info.bytes, 3 * info.count as u64);
        (offsets(&page), page.gap, info.count)
    };
    let expired = |to| gap((EPOCH, 2), (EPOCH, to), GapReason::Expired);
    assert_eq!(narrow(kept.history, 800), (vec![2, 3], None, 3));
    assert_eq!(narrow(History { count_max: 1, ..kept.history }, 800), (vec![3], expired(2), 1));
    assert_eq!(narrow(History { bytes_max: 5, ..kept.history }, 800), (vec![3], expired(2), 1));
    assert_eq!(narrow(History { age_max_ms: 399, ..kept.history }, 800), (vec![3], expired(2), 1));
    assert_eq!(narrow(kept.history, 1_400), (vec![2, 3], None, 2), "the clock goes on alone");
    assert_eq!(narrow(kept.history, 9_000), (vec![], expired(3), 0));
}

#[test]
fn a_log_with_a_hole_or_a_message_out_of_place_is_not_whole() {
    let good = log(10, &[1, 2, 3]);
    let good = good.log;
    assert!(good.is_whole() && log(0, &[1]).log.is_whole() && Log::begin(EPOCH, false).is_whole());
    let broken: [fn(&mut Log); 5] = [
        |log| drop(log.messages.remove(1)),
        |log| log.head = Position::new(EPOCH, 2),
        |log| log.head = Position::new(EPOCH + 1, 3),
        |log| log.head = Position::new(EPOCH, u64::MAX),
        |log| log.bytes += 1,
    ];
    for breaks in broken {
        let mut log = good.clone();
        breaks(&mut log);
        assert!(!log.is_whole(), "{log:?}");
    }
}
