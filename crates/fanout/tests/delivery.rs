//! What subscribers of one node meet, told one by one.

mod stage;

use std::time::Duration;

use pushonce_core::{
    FetchError, Gap, GapReason, Position, StartFrom, SubscribeOptions, TopicEvent,
};
use pushonce_fanout::{SubscribeError, TopicHealth, hub};
use stage::{JSON, PROTO, Stage, at, frames, play, small_rings, topic};

#[test]
fn sessions_of_one_wire_format_share_frame_bytes() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(PROTO)];
        for viewer in &viewers {
            let subscribed =
                viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (Position::ZERO, true));
        }
        stage.publish(&a, 3).await;
        let bytes = |v: usize| viewers[v].socket.borrow().frames[0].as_ptr();
        assert_eq!(bytes(0), bytes(1));
        assert_ne!(bytes(0), bytes(2));
        assert_eq!(viewers[0].socket.borrow().tokens, [7, 7, 7]);
        for viewer in &viewers {
            assert_eq!(viewer.got(), frames(&a, 1..=3));
        }
    });
}

#[test]
fn pending_messages_are_sent_in_one_offer() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        let before = viewer.socket.borrow().offers;
        stage.publish(&a, 50).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        assert_eq!(viewer.got().len(), 50);
    });
}

#[test]
fn same_batch_is_concatenated_for_the_second_and_later_sessions() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [(); 3].map(|()| stage.viewer(JSON));
        for viewer in &viewers {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        stage.publish(&a, 1).await;
        stage.publish(&a, 50).await;
        let concatenated = viewers.each_ref().map(|viewer| viewer.socket.borrow().joined);
        assert_eq!(concatenated, [0, 1, 1]);
        for viewer in &viewers {
            assert_eq!(viewer.got(), frames(&a, 1..=51));
        }
    });
}

#[test]
fn slow_session_does_not_delay_others_and_resumes_from_its_cursor() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&slow, &fast] {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 2;
        stage.publish(&a, 5).await;
        assert_eq!(slow.got(), frames(&a, 1..=2));
        assert_eq!(fast.got(), frames(&a, 1..=5));
        let offers = slow.socket.borrow().offers;
        stage.publish(&a, 5).await;
        assert_eq!(slow.socket.borrow().offers, offers, "a blocked session is left alone");
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(slow.got(), frames(&a, 3..=10));
        assert_eq!(fast.got(), frames(&a, 6..=10));
    });
}

#[test]
fn slow_session_receives_one_gap_after_falling_behind_the_ring() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let slow = stage.viewer(JSON);
        slow.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        slow.socket.borrow_mut().room = 1;
        for _ in 0..9 {
            stage.publish(&a, 1).await;
        }
        assert_eq!(slow.got(), frames(&a, 1..=1));
        slow.go_on(1);
        stage.settle().await;
        let gap_frames = slow.got();
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(gap_frames, ["a gap 1:2 1:4 slow"]);
        assert_eq!(slow.got(), frames(&a, 5..=9));
    });
}

#[test]
fn burst_larger_than_the_ring_causes_no_gap() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.publish(&a, 12).await;
        assert_eq!(viewer.got(), frames(&a, 1..=12));
    });
}

#[test]
fn resume_receives_exactly_the_missing_messages_from_ring_or_upstream() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let first = stage.viewer(JSON);
        first.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.publish(&a, 3).await;
        stage.publish(&a, 7).await;
        let near = stage.viewer(JSON);
        let subscribed = near.subscribe(&stage, &a, StartFrom::Position(at(1, 7))).await;
        assert_eq!(subscribed.map(|s| (s.position, s.recovered)), Ok((at(1, 10), true)));
        assert_eq!(near.got(), frames(&a, 8..=10));
        assert_eq!(stage.owner.fetches(), 0);

        stage.publish(&a, 1).await;
        let far = stage.viewer(JSON);
        let subscribed = far.subscribe(&stage, &a, StartFrom::Position(at(1, 1))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        assert_eq!(far.got(), frames(&a, 2..=11));
        assert_eq!(stage.owner.fetches(), 1);
    });
}

#[test]
fn history_larger_than_the_ring_is_received_in_full_during_live_traffic() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        stage.publish(&a, 150).await;
        let viewer = stage.viewer(JSON);
        let subscribing = viewer.subscribe(&stage, &a, StartFrom::Start);
        let streaming = async {
            for _ in 0..10 {
                stage.owner.publish(&a);
                stage::yields(1).await;
            }
        };
        let (subscribed, ()) = futures::join!(subscribing, streaming);
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        stage.settle().await;
        assert_eq!(viewer.got(), frames(&a, 1..=160));
    });
}

#[test]
fn start_last_and_now_start_at_the_requested_position() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 6).await;
        let subscribe_from = async |from| {
            let viewer = stage.viewer(JSON);
            let subscribed = viewer.subscribe(&stage, &a, from).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (at(1, 6), true));
            viewer
        };
        let now = subscribe_from(StartFrom::Now).await;
        let last = subscribe_from(StartFrom::Last(2)).await;
        let start = subscribe_from(StartFrom::Start).await;
        let more_than_all = subscribe_from(StartFrom::Last(99)).await;
        stage.publish(&a, 1).await;
        assert_eq!(now.got(), frames(&a, 7..=7));
        assert_eq!(last.got(), frames(&a, 5..=7));
        assert_eq!(start.got(), frames(&a, 1..=7));
        assert_eq!(more_than_all.got(), frames(&a, 1..=7));
        assert_eq!(stage.owner.fetches(), 2, "once the ring has all of it, nobody is asked");
    });
}

#[test]
fn expired_history_is_reported_as_a_gap_first() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 8).await;
        stage.owner.expire(&a, 2);
        let viewer = stage.viewer(JSON);
        let subscribed = viewer.subscribe(&stage, &a, StartFrom::Position(at(1, 3))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(false));
        assert_eq!(viewer.got(), ["a gap 1:4 1:6 expired", "a 1:7", "a 1:8"]);
    });
}

#[test]
fn subscribe_from_a_future_position_is_rejected() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 2).await;
        let viewer = stage.viewer(JSON);
        let rejected = viewer.subscribe(&stage, &a, StartFrom::Position(at(1, 3))).await;
        let future = FetchError::FuturePosition { requested: at(1, 3), head: at(1, 2) };
        assert_eq!(rejected, Err(SubscribeError::Fetch(future)));
        assert!(stage.owner.watched().is_empty(), "nobody is interested");
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("it may ask for something else");
    });
}

#[test]
fn concurrent_fetches_of_the_same_range_are_merged() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 5).await;
        stage.owner.hold_answers();
        let viewers: Vec<_> = (0..20).map(|_| stage.viewer(JSON)).collect();
        let asking = viewers.iter().map(|v| v.subscribe(&stage, &a, StartFrom::Last(3)));
        let snapshots = (0..20).map(|_| stage.hub.latest(&a, 3));
        let (subscribed, pages, ()) = futures::join!(
            futures::future::join_all(asking),
            futures::future::join_all(snapshots),
            async {
                stage.settle().await;
                stage.owner.answer(1);
            }
        );
        assert!(subscribed.iter().all(Result::is_ok));
        assert!(pages.iter().all(|page| page.as_ref().is_ok_and(|p| p.messages.len() == 3)));
        assert_eq!(stage.owner.fetches(), 1);
        stage.settle().await;
        assert!(viewers.iter().all(|viewer| viewer.got() == frames(&a, 3..=5)));
    });
}

#[test]
fn new_epoch_is_reported_once_to_current_and_slow_sessions() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&slow, &fast] {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 1;
        stage.publish(&a, 3).await;
        stage.owner.renew(&a, 0);
        stage.publish(&a, 1).await;
        slow.go_on(usize::MAX);
        stage.publish(&a, 1).await;
        let mut expected = frames(&a, 1..=3);
        expected.extend(["a gap 1:4 2:0 epoch", "a 2:1", "a 2:2"].map(str::to_owned));
        assert_eq!(fast.got(), expected);
        assert_eq!(slow.got(), ["a 1:1", "a gap 1:2 2:0 epoch", "a 2:1", "a 2:2"]);
    });
}

#[test]
fn hole_from_upstream_is_reported_as_a_gap_and_duplicates_are_dropped() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        for _ in 0..6 {
            stage.owner.publish(&a);
        }
        stage.settle().await;
        let all = stage.hub.latest(&a, 6).await.expect("a page").messages;
        stage.hub.deliver(&a, &all[2..]);
        let far = pushonce_core::Message { position: at(1, 9), ..(*all[0]).clone() };
        stage.hub.deliver(&a, &[far.into()]);
        stage.settle().await;
        let mut expected = frames(&a, 1..=6);
        expected.extend(["a gap 1:7 1:8 expired", "a 1:9"].map(str::to_owned));
        assert_eq!(viewer.got(), expected);
    });
}

#[test]
fn no_frames_after_unsubscribe_and_last_unsubscribe_unwatches_the_topic() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (one, two) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&one, &two] {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        assert!(stage.lane.unsubscribe(one.key, &a).is_some());
        assert_eq!(stage.lane.unsubscribe(one.key, &a), None);
        stage.publish(&a, 1).await;
        assert_eq!((one.got().len(), two.got().len()), (0, 1));
        assert_eq!(stage.owner.watched().len(), 1);
        stage.lane.close_session(two.key);
        assert!(stage.owner.watched().is_empty());
        stage.lane.close_session(two.key);
        one.subscribe(&stage, &a, StartFrom::Last(1)).await.expect("subscribed");
        assert_eq!(one.got(), frames(&a, 1..=1));
    });
}

#[test]
fn key_of_a_closed_session_does_not_affect_a_new_session() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let closed = stage.viewer(JSON);
        stage.lane.close_session(closed.key);
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.lane.close_session(closed.key);
        assert_eq!(stage.lane.unsubscribe(closed.key, &a), None);
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), frames(&a, 1..=1));
    });
}

#[test]
fn session_is_removed_if_its_sink_is_closed() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        viewer.socket.borrow_mut().closed = true;
        stage.publish(&a, 1).await;
        assert!(stage.owner.watched().is_empty());
        let result = viewer.subscribe(&stage, &a, StartFrom::Now).await;
        assert_eq!(result, Err(SubscribeError::Cancelled));
    });
}

#[test]
fn duplicate_and_excess_subscriptions_are_rejected() {
    play(async || {
        let config = hub::Config { subscriptions_max: 2, ..hub::Config::default() };
        let stage = Stage::new(config);
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &topic("a"), StartFrom::Now).await.expect("the first");
        let again = viewer.subscribe(&stage, &topic("a"), StartFrom::Now).await;
        assert_eq!(again, Err(SubscribeError::AlreadySubscribed));
        viewer.subscribe(&stage, &topic("b"), StartFrom::Now).await.expect("the second");
        let third = viewer.subscribe(&stage, &topic("c"), StartFrom::Now).await;
        assert_eq!(third, Err(SubscribeError::TooManySubscriptions { max: 2 }));
        assert_eq!(stage.owner.watched().len(), 2);
    });
}

#[test]
fn subscription_cancelled_while_pending_leaves_no_interest() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let subscribing = viewer.subscribe(&stage, &a, StartFrom::Now);
        let cancel = async { assert!(stage.lane.unsubscribe(viewer.key, &a).is_some()) };
        let (cancelled, ()) = futures::join!(subscribing, cancel);
        assert_eq!(cancelled, Err(SubscribeError::Cancelled));
        assert!(stage.owner.watched().is_empty());
    });
}

#[test]
fn subscribe_fails_if_upstream_does_not_reply_in_time() {
    play(async || {
        let config =
            hub::Config { upstream_timeout: Duration::from_millis(20), ..hub::Config::default() };
        let (stage, a) = (Stage::new(config), topic("a"));
        let viewer = stage.viewer(JSON);
        let rejected = stage
            .lane
            .subscribe(viewer.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await;
        let unavailable = |e: &FetchError| matches!(e, FetchError::Unavailable(_));
        assert!(matches!(rejected, Err(SubscribeError::Fetch(error)) if unavailable(&error)));
        assert!(stage.owner.watched().is_empty());
        stage.owner.hold_answers();
        assert!(stage.hub.latest(&a, 1).await.is_err_and(|error| unavailable(&error)));
        stage.owner.answer(1);
        assert!(stage.hub.latest(&a, 1).await.is_ok());
        assert_eq!(stage.owner.fetches(), 2, "a question that nobody waits for is forgotten");
    });
}

#[test]
fn no_frame_is_sent_before_delivery_is_started() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (first, viewer) = (stage.viewer(JSON), stage.viewer(JSON));
        first.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        let subscribed = stage
            .lane
            .subscribe(viewer.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await;
        assert!(subscribed.is_ok());
        stage.publish(&a, 2).await;
        assert!(viewer.got().is_empty());
        assert!(stage.lane.positions(viewer.key).is_empty());
        stage.lane.start_delivery(viewer.key, &a);
        stage.settle().await;
        assert_eq!(viewer.got(), frames(&a, 1..=2));
        assert_eq!(stage.lane.positions(viewer.key), [(7, a, at(1, 2))]);
    });
}

#[test]
fn thousands_of_subscribers_of_many_topics_receive_all_messages_in_order() {
    play(async || {
        let stage = Stage::new(hub::Config::default());
        let topics: Vec<_> = (0..20).map(|n| topic(&format!("t/{n}"))).collect();
        let mut viewers = Vec::new();
        for a in &topics {
            for _ in 0..100 {
                let viewer = stage.viewer(JSON);
                let subscribed = stage.lane.subscribe(
                    viewer.key,
                    7,
                    a.clone(),
                    StartFrom::Now,
                    SubscribeOptions::default(),
                );
                let (subscribed, ()) = futures::join!(subscribed, async {
                    stage::yields(1).await;
                    stage.owner.bring(&stage.hub, usize::MAX);
                });
                subscribed.expect("subscribed");
                stage.lane.start_delivery(viewer.key, a);
                viewers.push((a, viewer));
            }
        }
        for _ in 0..3 {
            for a in &topics {
                stage.owner.publish(a);
            }
            stage.owner.bring(&stage.hub, usize::MAX);
            stage::yields(2).await;
        }
        stage.settle().await;
        for (a, viewer) in viewers {
            assert_eq!(viewer.got(), frames(a, 1..=3));
        }
    });
}

#[test]
fn topic_reader_receives_messages_and_gaps_and_unwatches_when_dropped() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 4).await;
        stage.owner.expire(&a, 2);
        let reader = stage.hub.open_reader(
            a.clone(),
            StartFrom::Position(at(1, 1)),
            SubscribeOptions::default(),
        );
        let (reader, ()) = futures::join!(reader, stage.settle());
        let mut reader = reader.expect("a reader");
        assert!(!reader.ack().recovered);
        let gap = Gap { from: at(1, 2), to: at(1, 2), reason: GapReason::Expired };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        for offset in 3..=4 {
            assert!(
                matches!(reader.next().await, TopicEvent::Message(m) if m.position == at(1, offset))
            );
        }
        let (next, ()) = futures::join!(reader.next(), stage.publish(&a, 1));
        assert!(matches!(next, TopicEvent::Message(m) if m.position == at(1, 5)));
        stage.owner.renew(&a, 3);
        stage.settle().await;
        let gap = Gap { from: at(1, 6), to: at(2, 3), reason: GapReason::Epoch };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        drop(reader);
        assert!(stage.owner.watched().is_empty());
    });
}

#[test]
fn snapshot_is_served_from_the_ring_if_it_holds_the_messages() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        assert_eq!(stage.hub.latest(&a, 1).await.map(|page| page.head), Ok(Position::ZERO));
        let first = stage.owner.publish(&a);
        let fresh = stage.hub.latest(&a, 1).await.map(|page| page.head);
        assert_eq!(fresh, Ok(first), "an answer is not kept");
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.publish(&a, 3).await;
        let page = stage.hub.latest(&a, 2).await.expect("a page");
        assert_eq!((page.messages.len(), page.head), (2, at(1, 4)));
        assert_eq!(stage.owner.fetches(), 2, "only those without a ring");
    });
}

#[test]
fn readers_and_snapshots_are_send() {
    fn assert_send<T: Send>(_: &T) {}
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        assert_send(&stage.hub.latest(&a, 1));
        let reader = stage.hub.open_reader(a, StartFrom::Now, SubscribeOptions::default());
        assert_send(&reader);
        let (reader, ()) = futures::join!(reader, stage.settle());
        assert_send(&reader.expect("a reader").next());
    });
}

#[test]
fn current_session_is_notified_when_the_topic_becomes_stale_and_live_again() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (fast, slow) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&fast, &slow] {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 1;
        stage.publish(&a, 3).await;
        stage.owner.stand(&a, TopicHealth::Stale);
        stage.settle().await;
        assert_eq!(fast.got(), [frames(&a, 1..=3), vec!["a stale 1:3".to_owned()]].concat());
        assert_eq!(slow.got(), frames(&a, 1..=1), "first it gets what is there");
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(slow.got(), [frames(&a, 2..=3), vec!["a stale 1:3".to_owned()]].concat());

        stage.owner.publish(&a);
        stage.owner.stand(&a, TopicHealth::Live);
        stage.settle().await;
        for viewer in [&fast, &slow] {
            assert_eq!(viewer.got(), ["a 1:4", "a live 1:4"]);
        }
    });
}

#[test]
fn stale_topic_is_omitted_from_positions_and_its_snapshot_is_fetched_upstream() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.publish(&a, 2).await;
        assert_eq!(stage.lane.positions(viewer.key), [(7, a.clone(), at(1, 2))]);
        assert_eq!(stage.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(stage.owner.fetches(), 0);
        stage.owner.stand(&a, TopicHealth::Stale);
        stage.settle().await;
        assert!(stage.lane.positions(viewer.key).is_empty());
        assert_eq!(stage.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(stage.owner.fetches(), 1, "the ring does not know what is newest");
    });
}

#[test]
fn subscriber_of_a_stale_topic_is_notified_at_once_and_a_short_stale_period_is_not_reported() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let first = stage.viewer(JSON);
        first.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        stage.publish(&a, 2).await;
        stage.owner.stand(&a, TopicHealth::Stale);
        stage.owner.stand(&a, TopicHealth::Live);
        stage.settle().await;
        assert_eq!(first.got(), frames(&a, 1..=2));
        stage.owner.stand(&a, TopicHealth::Stale);
        stage.settle().await;
        let late = stage.viewer(JSON);
        late.subscribe(&stage, &a, StartFrom::Last(1)).await.expect("subscribed");
        assert_eq!(late.got(), ["a 1:2", "a stale 1:2"]);
        let mut reader = stage
            .hub
            .open_reader(a.clone(), StartFrom::Last(1), SubscribeOptions::default())
            .await
            .expect("begun");
        assert!(matches!(reader.next().await, TopicEvent::Message(_)));
        assert_eq!(reader.next().await, TopicEvent::Stale(at(1, 2)));
        stage.owner.stand(&a, TopicHealth::Live);
        stage.settle().await;
        assert_eq!(reader.next().await, TopicEvent::Live(at(1, 2)));
    });
}

#[test]
fn fetched_page_never_moves_a_cursor_backwards() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let early = stage.viewer(JSON);
        early.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        // Acknowledged, and not brought here yet.
        for _ in 0..3 {
            stage.owner.publish(&a);
        }
        let viewer = stage.viewer(JSON);
        let from = StartFrom::Position(at(1, 3));
        let subscribed =
            stage.lane.subscribe(viewer.key, 7, a.clone(), from, SubscribeOptions::default()).await;
        assert_eq!(subscribed.expect("subscribed").position, at(1, 3));
        stage.lane.start_delivery(viewer.key, &a);
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), ["a 1:4"]);
    });
}

#[test]
fn lane_reports_the_lag_of_waiting_messages() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers: Vec<_> = (0..600).map(|_| stage.viewer(JSON)).collect();
        for viewer in &viewers {
            viewer.subscribe(&stage, &a, StartFrom::Now).await.expect("subscribed");
        }
        stage.settle().await;
        stage.lane.take_lag_max();
        stage.owner.publish(&a);
        stage.owner.bring(&stage.hub, usize::MAX);
        // Not all of them have their turn before something else takes its time.
        while viewers[0].got().is_empty() {
            stage::yields(1).await;
        }
        assert!(viewers[599].got().is_empty(), "a turn is bounded");
        let delay = Duration::from_millis(30);
        std::thread::sleep(delay);
        stage.settle().await;
        assert!(stage.lane.take_lag_max() >= delay);
        assert_eq!(stage.lane.take_lag_max(), Duration::ZERO, "it was told");
        for viewer in &viewers[1..] {
            assert_eq!(viewer.got(), frames(&a, 1..=1));
        }
    });
}
