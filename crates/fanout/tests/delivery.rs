//! Delivery of messages, gaps and health to the subscribers of one node, case by case.

mod support;

use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{FetchError, Position, StartFrom, SubscribeOptions};
use pushonce_fanout::{SubscribeError, hub};
use support::{JSON, PROTO, TestHub, at, frames, run_local, small_ring_config};

#[test]
fn sessions_of_one_wire_format_share_frame_bytes() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let sessions =
            [test_hub.new_session(JSON), test_hub.new_session(JSON), test_hub.new_session(PROTO)];
        for session in &sessions {
            let subscribed =
                session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (Position::ZERO, true));
        }
        test_hub.publish(&a, 3).await;
        let bytes = |v: usize| sessions[v].sink.borrow().frames[0].as_ptr();
        assert_eq!(bytes(0), bytes(1));
        assert_ne!(bytes(0), bytes(2));
        assert_eq!(sessions[0].sink.borrow().tokens, [7, 7, 7]);
        for session in &sessions {
            assert_eq!(session.take_frames(), frames(&a, 1..=3));
        }
    });
}

#[test]
fn pending_messages_are_sent_in_one_offer() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        let before = session.sink.borrow().offers;
        test_hub.publish(&a, 50).await;
        assert_eq!(session.sink.borrow().offers, before + 1);
        assert_eq!(session.take_frames().len(), 50);
    });
}

#[test]
fn same_batch_is_concatenated_for_the_second_and_later_sessions() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let sessions = [(); 3].map(|()| test_hub.new_session(JSON));
        for session in &sessions {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        test_hub.publish(&a, 1).await;
        test_hub.publish(&a, 50).await;
        let concatenated =
            sessions.each_ref().map(|session| session.sink.borrow().concatenated_runs);
        assert_eq!(concatenated, [0, 1, 1]);
        for session in &sessions {
            assert_eq!(session.take_frames(), frames(&a, 1..=51));
        }
    });
}

#[test]
fn slow_session_does_not_delay_others_and_resumes_from_its_cursor() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        for session in [&slow, &fast] {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.sink.borrow_mut().capacity = 2;
        test_hub.publish(&a, 5).await;
        assert_eq!(slow.take_frames(), frames(&a, 1..=2));
        assert_eq!(fast.take_frames(), frames(&a, 1..=5));
        let offers = slow.sink.borrow().offers;
        test_hub.publish(&a, 5).await;
        assert_eq!(slow.sink.borrow().offers, offers, "a blocked session is not offered frames");
        slow.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        assert_eq!(slow.take_frames(), frames(&a, 3..=10));
        assert_eq!(fast.take_frames(), frames(&a, 6..=10));
    });
}

#[test]
fn slow_session_receives_one_gap_after_falling_behind_the_ring() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        let slow = test_hub.new_session(JSON);
        slow.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        slow.sink.borrow_mut().capacity = 1;
        for _ in 0..9 {
            test_hub.publish(&a, 1).await;
        }
        assert_eq!(slow.take_frames(), frames(&a, 1..=1));
        slow.set_capacity(1);
        test_hub.run_until_idle().await;
        let gap_frames = slow.take_frames();
        slow.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        assert_eq!(gap_frames, ["a gap 1:2 1:4 slow"]);
        assert_eq!(slow.take_frames(), frames(&a, 5..=9));
    });
}

#[test]
fn burst_larger_than_the_ring_causes_no_gap() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 12).await;
        assert_eq!(session.take_frames(), frames(&a, 1..=12));
    });
}

#[test]
fn resume_receives_exactly_the_missing_messages_from_ring_or_upstream() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        let first = test_hub.new_session(JSON);
        first.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 3).await;
        test_hub.publish(&a, 7).await;
        let near = test_hub.new_session(JSON);
        let subscribed = near.subscribe(&test_hub, &a, StartFrom::Position(at(1, 7))).await;
        assert_eq!(subscribed.map(|s| (s.position, s.recovered)), Ok((at(1, 10), true)));
        assert_eq!(near.take_frames(), frames(&a, 8..=10));
        assert_eq!(test_hub.owner.fetch_count(), 0);

        test_hub.publish(&a, 1).await;
        let far = test_hub.new_session(JSON);
        let subscribed = far.subscribe(&test_hub, &a, StartFrom::Position(at(1, 1))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        assert_eq!(far.take_frames(), frames(&a, 2..=11));
        assert_eq!(test_hub.owner.fetch_count(), 1);
    });
}

#[test]
fn history_larger_than_the_ring_is_received_in_full_during_live_traffic() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(small_ring_config()), topic("a"));
        test_hub.publish(&a, 150).await;
        let session = test_hub.new_session(JSON);
        let subscribing = session.subscribe(&test_hub, &a, StartFrom::Start);
        let streaming = async {
            for _ in 0..10 {
                test_hub.owner.publish(&a);
                support::yield_times(1).await;
            }
        };
        let (subscribed, ()) = futures::join!(subscribing, streaming);
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        test_hub.run_until_idle().await;
        assert_eq!(session.take_frames(), frames(&a, 1..=160));
    });
}

#[test]
fn start_last_and_now_start_at_the_requested_position() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 6).await;
        let subscribe_from = async |from| {
            let session = test_hub.new_session(JSON);
            let subscribed = session.subscribe(&test_hub, &a, from).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (at(1, 6), true));
            session
        };
        let now = subscribe_from(StartFrom::Now).await;
        let last = subscribe_from(StartFrom::Last(2)).await;
        let start = subscribe_from(StartFrom::Start).await;
        let more_than_all = subscribe_from(StartFrom::Last(99)).await;
        test_hub.publish(&a, 1).await;
        assert_eq!(now.take_frames(), frames(&a, 7..=7));
        assert_eq!(last.take_frames(), frames(&a, 5..=7));
        assert_eq!(start.take_frames(), frames(&a, 1..=7));
        assert_eq!(more_than_all.take_frames(), frames(&a, 1..=7));
        assert_eq!(test_hub.owner.fetch_count(), 2, "nothing is fetched once the ring is complete");
    });
}

#[test]
fn expired_history_is_reported_as_a_gap_first() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 8).await;
        test_hub.owner.expire(&a, 2);
        let session = test_hub.new_session(JSON);
        let subscribed = session.subscribe(&test_hub, &a, StartFrom::Position(at(1, 3))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(false));
        assert_eq!(session.take_frames(), ["a gap 1:4 1:6 expired", "a 1:7", "a 1:8"]);
    });
}

#[test]
fn subscribe_from_a_future_position_is_rejected() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 2).await;
        let session = test_hub.new_session(JSON);
        let rejected = session.subscribe(&test_hub, &a, StartFrom::Position(at(1, 3))).await;
        let future = FetchError::FuturePosition { requested: at(1, 3), head: at(1, 2) };
        assert_eq!(rejected, Err(SubscribeError::Fetch(future)));
        assert!(test_hub.owner.watched().is_empty(), "no interest is left");
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("a valid start is accepted");
    });
}

#[test]
fn concurrent_fetches_of_the_same_range_are_merged() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 5).await;
        test_hub.owner.hold_replies();
        let sessions: Vec<_> = (0..20).map(|_| test_hub.new_session(JSON)).collect();
        let asking = sessions.iter().map(|v| v.subscribe(&test_hub, &a, StartFrom::Last(3)));
        let snapshots = (0..20).map(|_| test_hub.hub.latest(&a, 3));
        let (subscribed, pages, ()) = futures::join!(
            futures::future::join_all(asking),
            futures::future::join_all(snapshots),
            async {
                test_hub.run_until_idle().await;
                test_hub.owner.release_replies(1);
            }
        );
        assert!(subscribed.iter().all(Result::is_ok));
        assert!(pages.iter().all(|page| page.as_ref().is_ok_and(|p| p.messages.len() == 3)));
        assert_eq!(test_hub.owner.fetch_count(), 1);
        test_hub.run_until_idle().await;
        assert!(sessions.iter().all(|session| session.take_frames() == frames(&a, 3..=5)));
    });
}

#[test]
fn new_epoch_is_reported_once_to_current_and_slow_sessions() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        for session in [&slow, &fast] {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.sink.borrow_mut().capacity = 1;
        test_hub.publish(&a, 3).await;
        test_hub.owner.start_new_epoch(&a, 0);
        test_hub.publish(&a, 1).await;
        slow.set_capacity(usize::MAX);
        test_hub.publish(&a, 1).await;
        let mut expected = frames(&a, 1..=3);
        expected.extend(["a gap 1:4 2:0 epoch", "a 2:1", "a 2:2"].map(str::to_owned));
        assert_eq!(fast.take_frames(), expected);
        assert_eq!(slow.take_frames(), ["a 1:1", "a gap 1:2 2:0 epoch", "a 2:1", "a 2:2"]);
    });
}

#[test]
fn hole_from_upstream_is_reported_as_a_gap_and_duplicates_are_dropped() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        for _ in 0..6 {
            test_hub.owner.publish(&a);
        }
        test_hub.run_until_idle().await;
        let all = test_hub.hub.latest(&a, 6).await.expect("a page").messages;
        test_hub.hub.deliver(&a, &all[2..], None);
        let far = pushonce_core::Message { position: at(1, 9), ..(*all[0]).clone() };
        test_hub.hub.deliver(&a, &[far.into()], None);
        test_hub.run_until_idle().await;
        let mut expected = frames(&a, 1..=6);
        expected.extend(["a gap 1:7 1:8 expired", "a 1:9"].map(str::to_owned));
        assert_eq!(session.take_frames(), expected);
    });
}

#[test]
fn no_frames_after_unsubscribe_and_last_unsubscribe_unwatches_the_topic() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (one, two) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        for session in [&one, &two] {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        assert!(test_hub.lane.unsubscribe(one.key, &a).is_some());
        assert_eq!(test_hub.lane.unsubscribe(one.key, &a), None);
        test_hub.publish(&a, 1).await;
        assert_eq!((one.take_frames().len(), two.take_frames().len()), (0, 1));
        assert_eq!(test_hub.owner.watched().len(), 1);
        test_hub.lane.close_session(two.key);
        assert!(test_hub.owner.watched().is_empty());
        test_hub.lane.close_session(two.key);
        one.subscribe(&test_hub, &a, StartFrom::Last(1)).await.expect("subscribed");
        assert_eq!(one.take_frames(), frames(&a, 1..=1));
    });
}

#[test]
fn key_of_a_closed_session_does_not_affect_a_new_session() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let closed = test_hub.new_session(JSON);
        test_hub.lane.close_session(closed.key);
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.lane.close_session(closed.key);
        assert_eq!(test_hub.lane.unsubscribe(closed.key, &a), None);
        test_hub.publish(&a, 1).await;
        assert_eq!(session.take_frames(), frames(&a, 1..=1));
    });
}

#[test]
fn session_is_removed_if_its_sink_is_closed() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        session.sink.borrow_mut().closed = true;
        test_hub.publish(&a, 1).await;
        assert!(test_hub.owner.watched().is_empty());
        let result = session.subscribe(&test_hub, &a, StartFrom::Now).await;
        assert_eq!(result, Err(SubscribeError::Cancelled));
    });
}

#[test]
fn duplicate_and_excess_subscriptions_are_rejected() {
    run_local(async || {
        let config = hub::Config { subscriptions_max: 2, ..hub::Config::default() };
        let test_hub = TestHub::new(config);
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &topic("a"), StartFrom::Now).await.expect("subscribed");
        let again = session.subscribe(&test_hub, &topic("a"), StartFrom::Now).await;
        assert_eq!(again, Err(SubscribeError::AlreadySubscribed));
        session.subscribe(&test_hub, &topic("b"), StartFrom::Now).await.expect("subscribed");
        let third = session.subscribe(&test_hub, &topic("c"), StartFrom::Now).await;
        assert_eq!(third, Err(SubscribeError::TooManySubscriptions { max: 2 }));
        assert_eq!(test_hub.owner.watched().len(), 2);
    });
}

#[test]
fn subscription_cancelled_while_pending_leaves_no_interest() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        let subscribing = session.subscribe(&test_hub, &a, StartFrom::Now);
        let cancel = async { assert!(test_hub.lane.unsubscribe(session.key, &a).is_some()) };
        let (cancelled, ()) = futures::join!(subscribing, cancel);
        assert_eq!(cancelled, Err(SubscribeError::Cancelled));
        assert!(test_hub.owner.watched().is_empty());
    });
}

#[test]
fn subscribe_fails_if_upstream_does_not_reply_in_time() {
    run_local(async || {
        let config =
            hub::Config { upstream_timeout: Duration::from_millis(20), ..hub::Config::default() };
        let (test_hub, a) = (TestHub::new(config), topic("a"));
        let session = test_hub.new_session(JSON);
        let rejected = test_hub
            .lane
            .subscribe(session.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await;
        let unavailable = |e: &FetchError| matches!(e, FetchError::Unavailable(_));
        assert!(matches!(rejected, Err(SubscribeError::Fetch(error)) if unavailable(&error)));
        assert!(test_hub.owner.watched().is_empty());
        test_hub.owner.hold_replies();
        assert!(test_hub.hub.latest(&a, 1).await.is_err_and(|error| unavailable(&error)));
        test_hub.owner.release_replies(1);
        assert!(test_hub.hub.latest(&a, 1).await.is_ok());
        assert_eq!(test_hub.owner.fetch_count(), 2, "a fetch without waiters is removed");
    });
}

#[test]
fn no_frame_is_sent_before_delivery_is_started() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (first, session) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        first.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        let subscribed = test_hub
            .lane
            .subscribe(session.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await;
        assert!(subscribed.is_ok());
        test_hub.publish(&a, 2).await;
        assert!(session.take_frames().is_empty());
        assert!(test_hub.lane.positions(session.key).is_empty());
        test_hub.lane.start_delivery(session.key, &a);
        test_hub.run_until_idle().await;
        assert_eq!(session.take_frames(), frames(&a, 1..=2));
        assert_eq!(test_hub.lane.positions(session.key), [(7, a, at(1, 2))]);
    });
}

#[test]
fn thousands_of_subscribers_of_many_topics_receive_all_messages_in_order() {
    run_local(async || {
        let test_hub = TestHub::new(hub::Config::default());
        let topics: Vec<_> = (0..20).map(|n| topic(&format!("t/{n}"))).collect();
        let mut sessions = Vec::new();
        for a in &topics {
            for _ in 0..100 {
                let session = test_hub.new_session(JSON);
                let subscribed = test_hub.lane.subscribe(
                    session.key,
                    7,
                    a.clone(),
                    StartFrom::Now,
                    SubscribeOptions::default(),
                );
                let (subscribed, ()) = futures::join!(subscribed, async {
                    support::yield_times(1).await;
                    test_hub.owner.deliver_events(&test_hub.hub, usize::MAX);
                });
                subscribed.expect("subscribed");
                test_hub.lane.start_delivery(session.key, a);
                sessions.push((a, session));
            }
        }
        for _ in 0..3 {
            for a in &topics {
                test_hub.owner.publish(a);
            }
            test_hub.owner.deliver_events(&test_hub.hub, usize::MAX);
            support::yield_times(2).await;
        }
        test_hub.run_until_idle().await;
        for (a, session) in sessions {
            assert_eq!(session.take_frames(), frames(a, 1..=3));
        }
    });
}

#[test]
fn fetched_page_never_moves_a_cursor_backwards() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let early = test_hub.new_session(JSON);
        early.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        // Acknowledged, and not delivered to this node yet.
        for _ in 0..3 {
            test_hub.owner.publish(&a);
        }
        let session = test_hub.new_session(JSON);
        let from = StartFrom::Position(at(1, 3));
        let subscribed = test_hub
            .lane
            .subscribe(session.key, 7, a.clone(), from, SubscribeOptions::default())
            .await;
        assert_eq!(subscribed.expect("subscribed").position, at(1, 3));
        test_hub.lane.start_delivery(session.key, &a);
        test_hub.publish(&a, 1).await;
        assert_eq!(session.take_frames(), ["a 1:4"]);
    });
}

#[test]
fn lane_reports_the_lag_of_waiting_messages() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let sessions: Vec<_> = (0..600).map(|_| test_hub.new_session(JSON)).collect();
        for session in &sessions {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        test_hub.run_until_idle().await;
        test_hub.lane.take_lag_max();
        test_hub.owner.publish(&a);
        test_hub.owner.deliver_events(&test_hub.hub, usize::MAX);
        // Stop while only some of the sessions were offered the message.
        while sessions[0].take_frames().is_empty() {
            support::yield_times(1).await;
        }
        assert!(sessions[599].take_frames().is_empty(), "a turn is bounded");
        let delay = Duration::from_millis(30);
        std::thread::sleep(delay);
        test_hub.run_until_idle().await;
        assert!(test_hub.lane.take_lag_max() >= delay);
        assert_eq!(test_hub.lane.take_lag_max(), Duration::ZERO, "take_lag_max resets the lag");
        for session in &sessions[1..] {
            assert_eq!(session.take_frames(), frames(&a, 1..=1));
        }
    });
}
