//! Delivery to subscribers with `latest`, a rate or deltas.

mod support;

use std::num::NonZeroU16;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{Delivery, Gap, GapReason, StartFrom, SubscribeOptions, TopicEvent};
use pushonce_fanout::hub;
use support::{JSON, TestHub, at, frames, run_local, small_ring_config};

fn latest_options(conflated: bool) -> SubscribeOptions {
    SubscribeOptions {
        delivery: Some(Delivery::Latest),
        report_conflated: conflated,
        ..SubscribeOptions::default()
    }
}

#[test]
fn latest_subscription_receives_only_the_newest_of_a_batch() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 3).await;
        let (without_gaps, with_gaps) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        for (session, conflated) in [(&without_gaps, false), (&with_gaps, true)] {
            let subscribed = session
                .subscribe_with(&test_hub, &a, StartFrom::Start, latest_options(conflated))
                .await;
            assert!(subscribed.expect("subscribed").recovered);
        }
        assert_eq!(without_gaps.take_frames(), frames(&a, 3..=3));
        assert_eq!(with_gaps.take_frames(), ["a gap 1:1 1:2 conflated", "a 1:3"]);
        test_hub.publish(&a, 1).await;
        assert_eq!(
            (without_gaps.take_frames(), with_gaps.take_frames()),
            (frames(&a, 4..=4), frames(&a, 4..=4))
        );
        test_hub.publish(&a, 3).await;
        assert_eq!(without_gaps.take_frames(), frames(&a, 7..=7));
        assert_eq!(with_gaps.take_frames(), ["a gap 1:5 1:6 conflated", "a 1:7"]);
    });
}

#[test]
fn slow_latest_subscription_resumes_with_the_newest_after_falling_behind_the_ring() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        let slow = test_hub.new_session(JSON);
        slow.subscribe_with(&test_hub, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        slow.sink.borrow_mut().capacity = 1;
        for _ in 0..20 {
            test_hub.publish(&a, 1).await;
        }
        assert_eq!(slow.take_frames(), frames(&a, 1..=1));
        slow.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        assert_eq!(slow.take_frames(), frames(&a, 20..=20));
    });
}

#[test]
fn latest_subscription_receives_an_epoch_gap() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        session
            .subscribe_with(&test_hub, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        test_hub.publish(&a, 2).await;
        session.take_frames();
        test_hub.owner.start_new_epoch(&a, 5);
        test_hub.run_until_idle().await;
        test_hub.publish(&a, 1).await;
        let received = session.take_frames();
        assert!(
            received[0].starts_with("a gap 1:3") && received[0].ends_with("epoch"),
            "{received:?}"
        );
        assert_eq!(received.last().map(String::as_str), Some("a 2:6"));
    });
}

#[test]
fn rate_subscription_pauses_after_each_message_then_receives_the_newest() {
    run_local(async || {
        tokio::time::pause();
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        let rate = NonZeroU16::new(10).map(Delivery::Rate);
        let options = SubscribeOptions { delivery: rate, ..SubscribeOptions::default() };
        session.subscribe_with(&test_hub, &a, StartFrom::Now, options).await.expect("subscribed");
        test_hub.publish(&a, 1).await;
        assert_eq!(
            session.take_frames(),
            frames(&a, 1..=1),
            "the first message is sent immediately"
        );
        test_hub.publish(&a, 5).await;
        tokio::time::advance(Duration::from_millis(90)).await;
        test_hub.run_until_idle().await;
        assert!(session.take_frames().is_empty(), "the subscription pauses");
        tokio::time::advance(Duration::from_millis(20)).await;
        test_hub.run_until_idle().await;
        assert_eq!(session.take_frames(), frames(&a, 6..=6));
        tokio::time::advance(Duration::from_millis(110)).await;
        test_hub.run_until_idle().await;
        assert!(session.take_frames().is_empty(), "no message is sent twice");
        test_hub.publish(&a, 1).await;
        assert_eq!(
            session.take_frames(),
            frames(&a, 7..=7),
            "after its pause the subscription receives immediately"
        );
    });
}

#[test]
fn session_closed_during_its_rate_pause_is_removed() {
    run_local(async || {
        tokio::time::pause();
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        let rate = NonZeroU16::new(1).map(Delivery::Rate);
        let options = SubscribeOptions { delivery: rate, ..SubscribeOptions::default() };
        session.subscribe_with(&test_hub, &a, StartFrom::Now, options).await.expect("subscribed");
        test_hub.publish(&a, 1).await;
        test_hub.lane.close_session(session.key);
        tokio::time::advance(Duration::from_secs(2)).await;
        test_hub.run_until_idle().await;
        assert!(test_hub.owner.watched().is_empty());
        assert_eq!(session.take_frames(), frames(&a, 1..=1));
    });
}

#[test]
fn lane_under_pressure_lowers_the_rate_of_latest_subscriptions_only() {
    run_local(async || {
        tokio::time::pause();
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (every, latest) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        every.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        latest
            .subscribe_with(&test_hub, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        test_hub.lane.set_latest_min_interval(Duration::from_millis(500));
        for _ in 0..3 {
            test_hub.publish(&a, 1).await;
        }
        assert_eq!(
            (every.take_frames(), latest.take_frames()),
            (frames(&a, 1..=3), frames(&a, 1..=1))
        );
        tokio::time::advance(Duration::from_millis(510)).await;
        test_hub.run_until_idle().await;
        assert_eq!(latest.take_frames(), frames(&a, 3..=3));
        test_hub.lane.set_latest_min_interval(Duration::ZERO);
        tokio::time::advance(Duration::from_millis(510)).await;
        test_hub.publish(&a, 1).await;
        test_hub.publish(&a, 1).await;
        assert_eq!(latest.take_frames(), frames(&a, 4..=5), "the minimum pause was removed");
    });
}

const DELTAS: SubscribeOptions = SubscribeOptions {
    delivery: None,
    report_conflated: false,
    report_audience: false,
    accept_deltas: true,
    use_datagrams: false,
};

#[test]
fn delta_subscription_receives_a_full_message_first_and_then_deltas() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (plain, early, late) =
            (test_hub.new_session(JSON), test_hub.new_session(JSON), test_hub.new_session(JSON));
        plain.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        early.subscribe_with(&test_hub, &a, StartFrom::Now, DELTAS).await.expect("subscribed");
        test_hub.publish(&a, 2).await;
        late.subscribe_with(&test_hub, &a, StartFrom::Last(0), DELTAS).await.expect("subscribed");
        test_hub.publish(&a, 1).await;
        // In the same walk and at the same cursor, frames differ by whether the subscriber has the previous
        // message.
        assert_eq!(plain.take_frames(), frames(&a, 1..=3));
        assert_eq!(early.take_frames(), ["a 1:1", "a 1:2 on 1:1", "a 1:3 on 1:2"]);
        assert_eq!(late.take_frames(), ["a 1:3"]);
        test_hub.publish(&a, 3).await;
        let expected = ["a 1:4 on 1:3", "a 1:5", "a 1:6 on 1:5"];
        assert_eq!(early.take_frames(), expected, "the delta of the fifth message saves nothing");
        assert_eq!(late.take_frames(), expected);
    });
}

#[test]
fn message_after_a_gap_is_sent_in_full() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe_with(&test_hub, &a, StartFrom::Now, DELTAS).await.expect("subscribed");
        test_hub.publish(&a, 1).await;
        session.sink.borrow_mut().capacity = 0;
        for _ in 0..30 {
            test_hub.publish(&a, 1).await;
        }
        session.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        let received = session.take_frames();
        assert_eq!(received[..3], ["a 1:1", "a gap 1:2 1:26 slow", "a 1:27"]);
        assert_eq!(received[3], "a 1:28 on 1:27");
    });
}

#[test]
fn renewed_delta_subscription_starts_with_a_full_message() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        for expected in [["a 1:1", "a 1:2 on 1:1"], ["a 1:3", "a 1:4 on 1:3"]] {
            session
                .subscribe_with(&test_hub, &a, StartFrom::Now, DELTAS)
                .await
                .expect("subscribed");
            test_hub.publish(&a, 2).await;
            assert_eq!(session.take_frames(), expected);
            test_hub.lane.unsubscribe(session.key, &a);
        }
    });
}

#[test]
fn topic_reader_with_a_rate_receives_only_the_newest_at_that_rate() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let rate = Delivery::Rate(NonZeroU16::new(2).expect("above zero"));
        let options = SubscribeOptions {
            delivery: Some(rate),
            report_conflated: true,
            ..SubscribeOptions::default()
        };
        let reader = test_hub.hub.open_reader(a.clone(), StartFrom::Now, options);
        let (reader, ()) = futures::join!(reader, test_hub.run_until_idle());
        let mut reader = reader.expect("a reader");
        test_hub.publish(&a, 3).await;
        let began = tokio::time::Instant::now();
        for (from, to) in [(1, 2), (4, 5)] {
            let gap = Gap { from: at(1, from), to: at(1, to), reason: GapReason::Conflated };
            assert_eq!(reader.next().await, TopicEvent::Gap(gap));
            let newest = reader.next().await;
            assert!(matches!(newest, TopicEvent::Message(m) if m.position == at(1, to + 1)));
            test_hub.publish(&a, 3).await;
        }
        let (interval_min, interval_max) = (Duration::from_millis(500), Duration::from_millis(600));
        assert!((interval_min..interval_max).contains(&began.elapsed()), "{:?}", began.elapsed());
    });
}
