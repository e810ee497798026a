//! What a subscriber meets that does not want every message, or not the whole of each.

mod stage;

use std::num::NonZeroU16;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{Delivery, Gap, GapReason, StartFrom, SubscribeOptions, TopicEvent};
use pushonce_fanout::hub;
use stage::{JSON, Stage, at, frames, play, small_rings};

fn latest_options(conflated: bool) -> SubscribeOptions {
    SubscribeOptions {
        delivery: Some(Delivery::Latest),
        report_conflated: conflated,
        ..SubscribeOptions::default()
    }
}

#[test]
fn latest_subscription_receives_only_the_newest_of_a_batch() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 3).await;
        let (without_gaps, with_gaps) = (stage.viewer(JSON), stage.viewer(JSON));
        for (viewer, conflated) in [(&without_gaps, false), (&with_gaps, true)] {
            let subscribed = viewer
                .subscribe_with(&stage, &a, StartFrom::Start, latest_options(conflated))
                .await;
            assert!(subscribed.expect("subscribed").recovered);
        }
        assert_eq!(without_gaps.got(), frames(&a, 3..=3));
        assert_eq!(with_gaps.got(), ["a gap 1:1 1:2 conflated", "a 1:3"]);
        stage.publish(&a, 1).await;
        assert_eq!((without_gaps.got(), with_gaps.got()), (frames(&a, 4..=4), frames(&a, 4..=4)));
        stage.publish(&a, 3).await;
        assert_eq!(without_gaps.got(), frames(&a, 7..=7));
        assert_eq!(with_gaps.got(), ["a gap 1:5 1:6 conflated", "a 1:7"]);
    });
}

#[test]
fn slow_latest_subscription_resumes_with_the_newest_after_falling_behind_the_ring() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let slow = stage.viewer(JSON);
        slow.subscribe_with(&stage, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        slow.socket.borrow_mut().room = 1;
        for _ in 0..20 {
            stage.publish(&a, 1).await;
        }
        assert_eq!(slow.got(), frames(&a, 1..=1));
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(slow.got(), frames(&a, 20..=20));
    });
}

#[test]
fn latest_subscription_receives_an_epoch_gap() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer
            .subscribe_with(&stage, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        stage.publish(&a, 2).await;
        viewer.got();
        stage.owner.renew(&a, 5);
        stage.settle().await;
        stage.publish(&a, 1).await;
        let got = viewer.got();
        assert!(got[0].starts_with("a gap 1:3") && got[0].ends_with("epoch"), "{got:?}");
        assert_eq!(got.last().map(String::as_str), Some("a 2:6"));
    });
}

#[test]
fn rate_subscription_pauses_after_each_message_then_receives_the_newest() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let rate = NonZeroU16::new(10).map(Delivery::Rate);
        let options = SubscribeOptions { delivery: rate, ..SubscribeOptions::default() };
        viewer.subscribe_with(&stage, &a, StartFrom::Now, options).await.expect("subscribed");
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), frames(&a, 1..=1), "the first comes at once");
        stage.publish(&a, 5).await;
        tokio::time::advance(Duration::from_millis(90)).await;
        stage.settle().await;
        assert!(viewer.got().is_empty(), "it rests");
        tokio::time::advance(Duration::from_millis(20)).await;
        stage.settle().await;
        assert_eq!(viewer.got(), frames(&a, 6..=6));
        tokio::time::advance(Duration::from_millis(110)).await;
        stage.settle().await;
        assert!(viewer.got().is_empty(), "nothing is shown twice");
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), frames(&a, 7..=7), "who has rested waits for nothing");
    });
}

#[test]
fn session_closed_during_its_rate_pause_is_removed() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let rate = NonZeroU16::new(1).map(Delivery::Rate);
        let options = SubscribeOptions { delivery: rate, ..SubscribeOptions::default() };
        viewer.subscribe_with(&stage, &a, StartFrom::Now, options).await.expect("subscribed");
        stage.publish(&a, 1).await;
        stage.lane.close_session(viewer.key);
        tokio::time::advance(Duration::from_secs(2)).await;
        stage.settle().await;
        assert!(stage.owner.watched().is_empty());
        assert_eq!(viewer.got(), frames(&a, 1..=1));
    });
}

#[test]
fn lane_under_pressure_lowers_the_rate_of_latest_subscriptions_only() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (every, latest) = (stage.viewer(JSON), stage.viewer(JSON));
        every.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        latest
            .subscribe_with(&stage, &a, StartFrom::Now, latest_options(false))
            .await
            .expect("subscribed");
        stage.lane.set_latest_min_interval(Duration::from_millis(500));
        for _ in 0..3 {
            stage.publish(&a, 1).await;
        }
        assert_eq!((every.got(), latest.got()), (frames(&a, 1..=3), frames(&a, 1..=1)));
        tokio::time::advance(Duration::from_millis(510)).await;
        stage.settle().await;
        assert_eq!(latest.got(), frames(&a, 3..=3));
        stage.lane.set_latest_min_interval(Duration::ZERO);
        tokio::time::advance(Duration::from_millis(510)).await;
        stage.publish(&a, 1).await;
        stage.publish(&a, 1).await;
        assert_eq!(latest.got(), frames(&a, 4..=5), "it is over");
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
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (plain, early, late) = (stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON));
        plain.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        early.subscribe_with(&stage, &a, StartFrom::Now, DELTAS).await.expect("subscribed");
        stage.publish(&a, 2).await;
        late.subscribe_with(&stage, &a, StartFrom::Last(0), DELTAS).await.expect("subscribed");
        stage.publish(&a, 1).await;
        // One look, one cursor: the same messages are other frames for those who have the one before.
        assert_eq!(plain.got(), frames(&a, 1..=3));
        assert_eq!(early.got(), ["a 1:1", "a 1:2 on 1:1", "a 1:3 on 1:2"]);
        assert_eq!(late.got(), ["a 1:3"]);
        stage.publish(&a, 3).await;
        let expected = ["a 1:4 on 1:3", "a 1:5", "a 1:6 on 1:5"];
        assert_eq!(early.got(), expected, "the fifth is no less as a difference");
        assert_eq!(late.got(), expected);
    });
}

#[test]
fn message_after_a_gap_is_sent_in_full() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe_with(&stage, &a, StartFrom::Now, DELTAS).await.expect("subscribed");
        stage.publish(&a, 1).await;
        viewer.socket.borrow_mut().room = 0;
        for _ in 0..30 {
            stage.publish(&a, 1).await;
        }
        viewer.go_on(usize::MAX);
        stage.settle().await;
        let got = viewer.got();
        assert_eq!(got[..3], ["a 1:1", "a gap 1:2 1:26 slow", "a 1:27"]);
        assert_eq!(got[3], "a 1:28 on 1:27");
    });
}

#[test]
fn renewed_delta_subscription_starts_with_a_full_message() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        for expected in [["a 1:1", "a 1:2 on 1:1"], ["a 1:3", "a 1:4 on 1:3"]] {
            viewer.subscribe_with(&stage, &a, StartFrom::Now, DELTAS).await.expect("subscribed");
            stage.publish(&a, 2).await;
            assert_eq!(viewer.got(), expected);
            stage.lane.unsubscribe(viewer.key, &a);
        }
    });
}

#[test]
fn topic_reader_with_a_rate_receives_only_the_newest_at_that_rate() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let rate = Delivery::Rate(NonZeroU16::new(2).expect("above zero"));
        let options = SubscribeOptions {
            delivery: Some(rate),
            report_conflated: true,
            ..SubscribeOptions::default()
        };
        let reader = stage.hub.open_reader(a.clone(), StartFrom::Now, options);
        let (reader, ()) = futures::join!(reader, stage.settle());
        let mut reader = reader.expect("a reader");
        stage.publish(&a, 3).await;
        let began = tokio::time::Instant::now();
        for (from, to) in [(1, 2), (4, 5)] {
            let gap = Gap { from: at(1, from), to: at(1, to), reason: GapReason::Conflated };
            assert_eq!(reader.next().await, TopicEvent::Gap(gap));
            let newest = reader.next().await;
            assert!(matches!(newest, TopicEvent::Message(m) if m.position == at(1, to + 1)));
            stage.publish(&a, 3).await;
        }
        let (interval_min, interval_max) = (Duration::from_millis(500), Duration::from_millis(600));
        assert!((interval_min..interval_max).contains(&began.elapsed()), "{:?}", began.elapsed());
    });
}
