//! What a subscriber meets that does not want every message, or not the whole of each.

mod stage;

use std::num::NonZeroU16;
use std::time::Duration;

use pushonce_core::{Delivery, From, Gap, GapReason, Item, Options};
use pushonce_fanout::hub;
use stage::{JSON, Stage, at, frames, play, small_rings, topic};

fn newest(conflated: bool) -> Options {
    Options { delivery: Some(Delivery::Latest), conflated, ..Options::default() }
}

#[test]
fn who_wants_the_latest_sees_the_newest_of_what_is_due_together() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 3).await;
        let (silent, told) = (stage.viewer(JSON), stage.viewer(JSON));
        for (viewer, conflated) in [(&silent, false), (&told, true)] {
            let subscribed =
                viewer.subscribe_with(&stage, &a, From::Start, newest(conflated)).await;
            assert!(subscribed.expect("subscribed").recovered);
        }
        assert_eq!(silent.got(), frames(&a, 3..=3));
        assert_eq!(told.got(), ["a gap 1:1 1:2 conflated", "a 1:3"]);
        stage.publish(&a, 1).await;
        assert_eq!((silent.got(), told.got()), (frames(&a, 4..=4), frames(&a, 4..=4)));
        stage.publish(&a, 3).await;
        assert_eq!(silent.got(), frames(&a, 7..=7));
        assert_eq!(told.got(), ["a gap 1:5 1:6 conflated", "a 1:7"]);
    });
}

#[test]
fn a_slow_reader_of_the_latest_goes_on_with_the_newest_also_behind_the_ring() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let slow = stage.viewer(JSON);
        slow.subscribe_with(&stage, &a, From::Now, newest(false)).await.expect("subscribed");
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
fn a_new_epoch_is_told_also_to_who_wants_the_latest() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe_with(&stage, &a, From::Now, newest(false)).await.expect("subscribed");
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
fn who_wants_so_many_a_second_rests_after_each_and_then_sees_the_newest() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let rate = NonZeroU16::new(10).map(Delivery::Rate);
        let options = Options { delivery: rate, ..Options::default() };
        viewer.subscribe_with(&stage, &a, From::Now, options).await.expect("subscribed");
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
fn who_leaves_while_it_rests_leaves_nothing() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let rate = NonZeroU16::new(1).map(Delivery::Rate);
        let options = Options { delivery: rate, ..Options::default() };
        viewer.subscribe_with(&stage, &a, From::Now, options).await.expect("subscribed");
        stage.publish(&a, 1).await;
        stage.lane.close(viewer.key);
        tokio::time::advance(Duration::from_secs(2)).await;
        stage.settle().await;
        assert!(stage.owner.watched().is_empty());
        assert_eq!(viewer.got(), frames(&a, 1..=1));
    });
}

#[test]
fn a_lane_under_pressure_spares_those_who_want_the_newest_alone() {
    play(async || {
        tokio::time::pause();
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (every, latest) = (stage.viewer(JSON), stage.viewer(JSON));
        every.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        latest.subscribe_with(&stage, &a, From::Now, newest(false)).await.expect("subscribed");
        stage.lane.widen(Duration::from_millis(500));
        for _ in 0..3 {
            stage.publish(&a, 1).await;
        }
        assert_eq!((every.got(), latest.got()), (frames(&a, 1..=3), frames(&a, 1..=1)));
        tokio::time::advance(Duration::from_millis(510)).await;
        stage.settle().await;
        assert_eq!(latest.got(), frames(&a, 3..=3));
        stage.lane.widen(Duration::ZERO);
        tokio::time::advance(Duration::from_millis(510)).await;
        stage.publish(&a, 1).await;
        stage.publish(&a, 1).await;
        assert_eq!(latest.got(), frames(&a, 4..=5), "it is over");
    });
}

const DELTAS: Options =
    Options { delivery: None, conflated: false, audience: false, delta: true, datagrams: false };

#[test]
fn who_asks_for_deltas_gets_the_first_message_whole_and_then_what_changed() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (plain, early, late) = (stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON));
        plain.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        early.subscribe_with(&stage, &a, From::Now, DELTAS).await.expect("subscribed");
        stage.publish(&a, 2).await;
        late.subscribe_with(&stage, &a, From::Last(0), DELTAS).await.expect("subscribed");
        stage.publish(&a, 1).await;
        // One look, one cursor: the same messages are other frames for those who have the one before.
        assert_eq!(plain.got(), frames(&a, 1..=3));
        assert_eq!(early.got(), ["a 1:1", "a 1:2 on 1:1", "a 1:3 on 1:2"]);
        assert_eq!(late.got(), ["a 1:3"]);
        stage.publish(&a, 3).await;
        let wanted = ["a 1:4 on 1:3", "a 1:5", "a 1:6 on 1:5"];
        assert_eq!(early.got(), wanted, "the fifth is no less as a difference");
        assert_eq!(late.got(), wanted);
    });
}

#[test]
fn after_a_gap_a_message_is_whole_again() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe_with(&stage, &a, From::Now, DELTAS).await.expect("subscribed");
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
fn a_subscription_that_is_made_again_begins_with_a_whole_message() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        for wanted in [["a 1:1", "a 1:2 on 1:1"], ["a 1:3", "a 1:4 on 1:3"]] {
            viewer.subscribe_with(&stage, &a, From::Now, DELTAS).await.expect("subscribed");
            stage.publish(&a, 2).await;
            assert_eq!(viewer.got(), wanted);
            stage.lane.unsubscribe(viewer.key, &a);
        }
    });
}

#[test]
fn a_back_end_reads_the_newest_alone_and_no_oftener_than_it_wants() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let rate = Delivery::Rate(NonZeroU16::new(2).expect("above zero"));
        let options = Options { delivery: Some(rate), conflated: true, ..Options::default() };
        let reader = stage.hub.reader(a.clone(), From::Now, options);
        let (reader, ()) = futures::join!(reader, stage.settle());
        let mut reader = reader.expect("a reader");
        stage.publish(&a, 3).await;
        let began = tokio::time::Instant::now();
        for (from, to) in [(1, 2), (4, 5)] {
            let gap = Gap { from: at(1, from), to: at(1, to), reason: GapReason::Conflated };
            assert_eq!(reader.next().await, Item::Gap(gap));
            let newest = reader.next().await;
            assert!(matches!(newest, Item::Message(m) if m.position == at(1, to + 1)));
            stage.publish(&a, 3).await;
        }
        let (rested, longest) = (Duration::from_millis(500), Duration::from_millis(600));
        assert!((rested..longest).contains(&began.elapsed()), "{:?}", began.elapsed());
    });
}
