//! Whatever happens during a subscribe, the subscriber receives a contiguous sequence of messages and gaps
//! from the requested start to the end of the topic. With `latest` and without reported gaps, the sequence
//! is ascending and reaches the end.

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use pushonce_core::test_util::topic;
use pushonce_core::{
    Delivery, FetchError, Position, StartFrom, SubscribeAck, SubscribeOptions, Topic, TopicEvent,
};
use pushonce_fanout::{SubscribeError, TopicHealth, hub};
use support::{JSON, TestHub, TestSession, at, run_local, yield_times};

/// Below what a ring of this size holds while a lane has not processed a change: a subscriber that was
/// never blocked must not receive a gap.
const RING_MESSAGES_MAX: usize = 12;
const PUBLISHES_MAX: usize = 45;

#[derive(Clone, Debug)]
enum SubscribeOp {
    Publish,
    /// Delivers this many events of the link.
    DeliverEvents(usize),
    /// Yields this many times to the other tasks.
    Yield(usize),
    /// Subscribes with a start, a delivery mode, and with or without deltas.
    Subscribe(StartChoice, DeliveryChoice, bool),
    Read(StartChoice),
    Unsubscribe(usize),
    /// A sink accepts this many frames more, then blocks.
    SetCapacity(usize, usize),
    /// Releases the replies to this many fetches.
    ReleaseReplies(usize),
    /// History drops all but this many messages.
    Expire(usize),
    /// Starts a new epoch with this many lost messages.
    NewEpoch(u64),
    /// The node loses contact with the owner, or restores it.
    SetHealth(TopicHealth),
}

#[derive(Clone, Copy, Debug)]
enum StartChoice {
    Now,
    Start,
    Last(u32),
    /// After the message this far before the newest.
    BehindHead(u64),
    /// After a message of the previous epoch.
    PreviousEpoch(u64),
    /// After a message that never existed.
    Forged,
}

/// The delivery mode of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryChoice {
    All,
    Latest,
    /// With reported gaps.
    LatestWithGaps,
}

/// Distance of a forged position from the newest: more than is ever published.
const FORGED_OFFSET: u64 = 1_000;

fn start_choice() -> impl Strategy<Value = StartChoice> {
    prop_oneof![
        Just(StartChoice::Now),
        Just(StartChoice::Start),
        (0u32..20).prop_map(StartChoice::Last),
        (0u64..30).prop_map(StartChoice::BehindHead),
        (0u64..9).prop_map(StartChoice::PreviousEpoch),
        Just(StartChoice::Forged),
    ]
}

fn delivery_choice() -> impl Strategy<Value = DeliveryChoice> {
    prop_oneof![3 => Just(DeliveryChoice::All), 1 => Just(DeliveryChoice::Latest), 1 => Just(DeliveryChoice::LatestWithGaps)]
}

fn op() -> impl Strategy<Value = SubscribeOp> {
    prop_oneof![
        8 => Just(SubscribeOp::Publish),
        5 => (1usize..6).prop_map(SubscribeOp::DeliverEvents),
        5 => (1usize..6).prop_map(SubscribeOp::Yield),
        4 => (start_choice(), delivery_choice(), any::<bool>()).prop_map(|(start, delivery, delta)| SubscribeOp::Subscribe(start, delivery, delta)),
        1 => start_choice().prop_map(SubscribeOp::Read),
        1 => (0usize..8).prop_map(SubscribeOp::Unsubscribe),
        2 => (0usize..8, 0usize..9).prop_map(|(index, capacity)| SubscribeOp::SetCapacity(index, capacity)),
        3 => (1usize..4).prop_map(SubscribeOp::ReleaseReplies),
        1 => (0usize..9).prop_map(SubscribeOp::Expire),
        2 => prop_oneof![Just(TopicHealth::Stale), Just(TopicHealth::Live)].prop_map(SubscribeOp::SetHealth),
    ]
}

fn op_with_epochs() -> impl Strategy<Value = SubscribeOp> {
    prop_oneof![12 => op(), 1 => (0u64..4).prop_map(SubscribeOp::NewEpoch)]
}

/// A subscription and its observed results.
struct ObservedSubscription {
    from: StartFrom,
    delivery: DeliveryChoice,
    delta: bool,
    session: Option<TestSession>,
    reply: Rc<RefCell<Option<Result<SubscribeAck, SubscribeError>>>>,
    /// The events of a reader, formatted like the frames of a session.
    items: Rc<RefCell<Vec<String>>>,
    was_blocked: bool,
    is_unsubscribed: bool,
}

/// Events of the topic that allow a gap.
#[derive(Default)]
struct AllowedGaps {
    history_expired: bool,
    epoch_changed: bool,
}

fn start_from(choice: StartChoice, head: Position) -> StartFrom {
    match choice {
        StartChoice::Now => StartFrom::Now,
        StartChoice::Start => StartFrom::Start,
        StartChoice::Last(n) => StartFrom::Last(n),
        StartChoice::BehindHead(n) => {
            StartFrom::Position(at(head.epoch.0, head.offset.0.saturating_sub(n)))
        }
        StartChoice::Forged => StartFrom::Position(at(head.epoch.0, head.offset.0 + FORGED_OFFSET)),
        StartChoice::PreviousEpoch(n) => StartFrom::Position(at(head.epoch.0.saturating_sub(1), n)),
    }
}

fn subscribe(
    test_hub: &TestHub,
    a: &Topic,
    from: StartFrom,
    choice: DeliveryChoice,
    delta: bool,
) -> ObservedSubscription {
    let delivery = (choice != DeliveryChoice::All).then_some(Delivery::Latest);
    let conflated = choice == DeliveryChoice::LatestWithGaps;
    let options = SubscribeOptions {
        delivery,
        report_conflated: conflated,
        accept_deltas: delta,
        ..SubscribeOptions::default()
    };
    let session = test_hub.new_session(JSON);
    let reply = Rc::new(RefCell::new(None));
    let (lane, key, a, reply_slot) =
        (test_hub.lane.clone(), session.key, a.clone(), Rc::clone(&reply));
    tokio::task::spawn_local(async move {
        let subscribed = lane.subscribe(key, 7, a.clone(), from, options).await;
        yield_times(2).await;
        lane.start_delivery(key, &a);
        *reply_slot.borrow_mut() = Some(subscribed);
    });
    let items = Rc::default();
    ObservedSubscription {
        from,
        delivery: choice,
        delta,
        session: Some(session),
        reply,
        items,
        was_blocked: false,
        is_unsubscribed: false,
    }
}

fn start_reader(test_hub: &TestHub, a: &Topic, from: StartFrom) -> ObservedSubscription {
    let reply = Rc::new(RefCell::new(None));
    let items = Rc::new(RefCell::new(Vec::new()));
    let (hub, a) = (test_hub.hub.clone(), a.clone());
    let (reply_slot, item_log) = (Rc::clone(&reply), Rc::clone(&items));
    tokio::task::spawn_local(async move {
        let reader = hub.open_reader(a.clone(), from, SubscribeOptions::default()).await;
        let subscribed = reader.as_ref().map(|reader| reader.ack());
        *reply_slot.borrow_mut() =
            Some(subscribed.map_err(|error| SubscribeError::Fetch(error.clone())));
        let Ok(mut reader) = reader else { return };
        loop {
            let item = match reader.next().await {
                TopicEvent::Message(message) => format!("{a} {}", message.position),
                TopicEvent::Gap(gap) => {
                    format!("{a} gap {} {} {}", gap.from, gap.to, gap.reason.as_str())
                }
                TopicEvent::Stale(since) => format!("{a} stale {since}"),
                TopicEvent::Live(position) => format!("{a} live {position}"),
            };
            item_log.borrow_mut().push(item);
        }
    });
    let (delivery, delta) = (DeliveryChoice::All, false);
    ObservedSubscription {
        from,
        delivery,
        delta,
        session: None,
        reply,
        items,
        was_blocked: false,
        is_unsubscribed: false,
    }
}

async fn apply_ops(
    test_hub: &TestHub,
    a: &Topic,
    ops: Vec<SubscribeOp>,
) -> (Vec<ObservedSubscription>, AllowedGaps) {
    let (mut subscriptions, mut allowed, mut published) = (Vec::new(), AllowedGaps::default(), 0);
    for op in ops {
        let head = test_hub.owner.head(a);
        match op {
            SubscribeOp::Publish if published < PUBLISHES_MAX => {
                published += 1;
                test_hub.owner.publish(a);
            }
            SubscribeOp::Publish => {}
            SubscribeOp::DeliverEvents(n) => test_hub.owner.deliver_events(&test_hub.hub, n),
            SubscribeOp::Yield(n) => yield_times(n).await,
            SubscribeOp::Subscribe(start, delivery, delta) => {
                subscriptions.push(subscribe(
                    test_hub,
                    a,
                    start_from(start, head),
                    delivery,
                    delta,
                ));
            }
            SubscribeOp::Read(start) => {
                subscriptions.push(start_reader(test_hub, a, start_from(start, head)))
            }
            SubscribeOp::Unsubscribe(index) => {
                let Some(subscription) = subscriptions.get_mut(index) else { continue };
                if let Some(session) = &subscription.session {
                    subscription.is_unsubscribed |=
                        test_hub.lane.unsubscribe(session.key, a).is_some();
                }
            }
            SubscribeOp::SetCapacity(index, capacity) => {
                let Some(subscription) = subscriptions.get_mut(index) else { continue };
                if let Some(session) = &subscription.session {
                    subscription.was_blocked = true;
                    session.set_capacity(capacity);
                }
            }
            SubscribeOp::SetHealth(health) => test_hub.owner.set_health(a, health),
            SubscribeOp::ReleaseReplies(n) => test_hub.owner.release_replies(n),
            SubscribeOp::Expire(count_kept) => {
                allowed.history_expired = true;
                test_hub.owner.expire(a, count_kept);
            }
            SubscribeOp::NewEpoch(offset) => {
                allowed.epoch_changed = true;
                test_hub.owner.start_new_epoch(a, offset);
            }
        }
    }
    (subscriptions, allowed)
}

/// Restores everything: contact with the owner, replies, delivery and blocked sinks.
async fn heal_all(test_hub: &TestHub, a: &Topic, subscriptions: &[ObservedSubscription]) {
    test_hub.owner.set_health(a, TopicHealth::Live);
    test_hub.owner.release_replies(1_000);
    test_hub.run_until_idle().await;
    for session in subscriptions.iter().filter_map(|subscription| subscription.session.as_ref()) {
        session.set_capacity(usize::MAX);
    }
    test_hub.run_until_idle().await;
}

/// Whether a frame reports the topic as stale or live, and the position up to which everything was
/// delivered.
fn parse_health(frame: &str) -> Option<(bool, Position)> {
    let words: Vec<&str> = frame.split(' ').collect();
    match words[1..] {
        ["stale", since] => Some((true, since.parse().expect("a position"))),
        ["live", position] => Some((false, position.parse().expect("a position"))),
        _ => None,
    }
}

/// Whether a frame is a gap, and its first and last position; for a message both are the same.
fn parse_frame(frame: &str) -> (bool, Position, Position) {
    let words: Vec<&str> = frame.split(' ').collect();
    let position = |word: &str| word.parse().expect("a position");
    match words[1..] {
        [message] | [message, "on", _] => (false, position(message), position(message)),
        ["gap", from, to, _] => (true, position(from), position(to)),
        _ => panic!("not a frame: {frame}"),
    }
}

/// Applies deltas as a session does, which must have the previous message.
fn resolve_deltas(frames: Vec<String>, wants_deltas: bool) -> Vec<String> {
    let mut last_position = None;
    let resolve = |frame: String| {
        if parse_health(&frame).is_some() {
            return frame;
        }
        if let Some((message, base)) = frame.split_once(" on ") {
            assert!(wants_deltas, "delta without request: {frame}");
            assert_eq!(
                last_position,
                base.parse().ok(),
                "{frame} is not based on the last message"
            );
            last_position = Some(parse_frame(&frame).2);
            return message.to_owned();
        }
        let (gap, _, last) = parse_frame(&frame);
        last_position = (!gap).then_some(last);
        frame
    };
    frames.into_iter().map(resolve).collect()
}

fn is_forged(from: StartFrom) -> bool {
    matches!(from, StartFrom::Position(position) if position.offset.0 >= FORGED_OFFSET)
}

/// Whether no message can be missing between two positions. After [`Position::ZERO`] an empty epoch misses
/// none.
fn is_caught_up(reached: Position, head: Position) -> bool {
    reached == head || head.next().follows(reached)
}

fn assert_no_missing_messages(
    subscription: &ObservedSubscription,
    head: Position,
    allowed: &AllowedGaps,
) {
    let frames = match &subscription.session {
        Some(session) => resolve_deltas(session.take_frames(), subscription.delta),
        None => subscription.items.borrow().clone(),
    };
    let reply = subscription.reply.borrow();
    let subscribed = match reply.as_ref().expect("every subscribe gets a reply") {
        Ok(subscribed) => *subscribed,
        Err(SubscribeError::Cancelled) if subscription.is_unsubscribed => return,
        Err(SubscribeError::Fetch(FetchError::Unavailable(_))) if allowed.epoch_changed => return,
        Err(SubscribeError::Fetch(FetchError::FuturePosition { .. }))
            if is_forged(subscription.from) =>
        {
            return assert!(frames.is_empty(), "frames for a rejected subscription: {frames:?}");
        }
        Err(error) => panic!("rejected: {error}"),
    };
    let mut reached = match subscription.from {
        StartFrom::Position(position) => Some(position),
        StartFrom::Now => Some(subscribed.position),
        StartFrom::Start | StartFrom::Last(_) => None,
    };
    assert!(
        !is_forged(subscription.from) || allowed.epoch_changed,
        "{:?} was accepted",
        subscription.from
    );
    let (mut gaps, mut is_stale) = (Vec::new(), false);
    let mut index = 0;
    for frame in &frames {
        if let Some((now_stale, at)) = parse_health(frame) {
            assert_ne!(is_stale, now_stale, "health was reported twice: {frames:?}");
            is_stale = now_stale;
            let is_consistent = reached.is_none_or(|reached| is_caught_up(reached, at));
            assert!(is_consistent, "{frame} does not match the delivered frames: {frames:?}");
            continue;
        }
        let (gap, first, last) = parse_frame(frame);
        if gap {
            assert!(first <= last || last.offset.0 == 0, "{frame}: ends before it begins");
            gaps.push(index);
        }
        index += 1;
        if let Some(reached) = reached {
            // Before a topic's first message, a gap may begin before its first epoch.
            let is_next = match subscription.delivery {
                DeliveryChoice::Latest => first > reached,
                _ => first.follows(reached) || (gap && first == reached.next()),
            };
            assert!(is_next, "{frame} does not follow {reached}: {frames:?}");
        }
        reached = Some(last);
    }
    assert!(
        !is_stale || subscription.is_unsubscribed,
        "the end of the stale period was not reported: {frames:?}"
    );
    let frames: Vec<String> = frames.into_iter().filter(|f| parse_health(f).is_none()).collect();
    if !subscription.is_unsubscribed {
        let reached = reached.unwrap_or(subscribed.position);
        assert!(
            is_caught_up(reached, head),
            "stopped at {reached} before the head {head}: {frames:?}"
        );
    }
    let gaps_allowed = subscription.was_blocked
        || allowed.epoch_changed
        || subscription.delivery != DeliveryChoice::All;
    let received_nothing = subscription.is_unsubscribed && frames.is_empty();
    if !gaps_allowed && !received_nothing {
        let expected: &[usize] = if subscribed.recovered { &[] } else { &[0] };
        assert_eq!(gaps, expected, "{:?}: {frames:?}", subscription.from);
    }
    if !gaps_allowed && !allowed.history_expired && !subscription.is_unsubscribed {
        let history_count =
            frames.iter().filter(|f| parse_frame(f).1 <= subscribed.position).count() as u64;
        match subscription.from {
            StartFrom::Start => assert_eq!(history_count, subscribed.position.offset.0),
            StartFrom::Last(n) => {
                assert!(history_count >= subscribed.position.offset.0.min(n.into()))
            }
            StartFrom::Now | StartFrom::Position(_) => {}
        }
    }
}

fn run_ops(ops: Vec<SubscribeOp>) {
    run_local(async || {
        let config = hub::Config { ring_messages_max: RING_MESSAGES_MAX, ..hub::Config::default() };
        let (test_hub, a) = (TestHub::new(config), topic("a"));
        for _ in 0..5 {
            test_hub.owner.publish(&a);
        }
        test_hub.owner.hold_replies();
        let (subscriptions, allowed) = apply_ops(&test_hub, &a, ops).await;
        heal_all(&test_hub, &a, &subscriptions).await;
        for subscription in &subscriptions {
            assert_no_missing_messages(subscription, test_hub.owner.head(&a), &allowed);
        }
        for session in subscriptions.iter().filter_map(|subscription| subscription.session.as_ref())
        {
            test_hub.lane.close_session(session.key);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn subscriber_receives_history_and_live_messages_without_a_gap(
        ops in proptest::collection::vec(op(), 1..90)
    ) {
        run_ops(ops);
    }

    #[test]
    fn subscriber_receives_a_gap_for_every_missed_epoch_change(
        ops in proptest::collection::vec(op_with_epochs(), 1..90)
    ) {
        run_ops(ops);
    }
}
