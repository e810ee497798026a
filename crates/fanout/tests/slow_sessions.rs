//! The search for sessions that are behind.

mod support;

use std::time::Instant;

use pushonce_core::test_util::topic;
use pushonce_core::{Delivery, StartFrom, SubscribeOptions, Timestamp, Topic};
use pushonce_fanout::{LagScan, SessionLag, hub};
use support::{JSON, TestHub, run_local, small_ring_config};

/// Messages of the test owner are from this time on.
const ALL_LATE: Timestamp = Timestamp(1);
const NONE_LATE: Timestamp = Timestamp(0);

/// Searches in steps of `step` subscriptions.
fn scan(
    test_hub: &TestHub,
    sessions_max: usize,
    late_before: Timestamp,
    step: usize,
) -> (Vec<SessionLag>, u64) {
    let mut scan = LagScan::new(sessions_max, late_before);
    while !test_hub.lane.scan_lag(&mut scan, step) {}
    scan.finish()
}

#[test]
fn blocked_sessions_are_found_with_the_furthest_behind_first_whatever_the_step() {
    run_local(async || {
        let test_hub = TestHub::new(hub::Config::default());
        let (a, b) = (topic("a"), topic("b"));
        let sessions = [(); 4].map(|()| test_hub.new_session(JSON));
        for (label, session) in (10..).zip(&sessions) {
            test_hub.lane.set_label(session.key, label);
            for topic in [&a, &b] {
                session.subscribe(&test_hub, topic, StartFrom::Now).await.expect("subscribed");
            }
        }
        sessions[1].sink.borrow_mut().capacity = 1;
        sessions[2].sink.borrow_mut().capacity = 3;
        test_hub.publish(&a, 5).await;
        test_hub.publish(&b, 1).await;
        for step in [1, 3, 100] {
            let (found, subscriptions) = scan(&test_hub, 9, NONE_LATE, step);
            assert_eq!(subscriptions, 8);
            let rows: Vec<_> =
                found.iter().map(|lag| (lag.label, lag.messages, lag.bytes)).collect();
            assert_eq!(rows, [(11, 4, 4), (12, 2, 2)]);
            assert!(found.iter().all(|lag| lag.is_blocked && lag.topic == a));
            assert_eq!(found[0].session, sessions[1].key);
        }
        assert_eq!(scan(&test_hub, 1, NONE_LATE, 2).0[0].label, 11);
        assert!(scan(&test_hub, 0, NONE_LATE, 2).0.is_empty());
        for session in &sessions {
            session.set_capacity(usize::MAX);
        }
        test_hub.run_until_idle().await;
        assert!(scan(&test_hub, 9, ALL_LATE, 100).0.is_empty(), "all sessions are up to date");
    });
}

#[test]
fn lag_beyond_the_ring_counts_and_latest_is_late_only_when_blocked() {
    run_local(async || {
        let test_hub = TestHub::new(small_ring_config());
        let a = topic("a");
        let (every, latest) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        every.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        let options =
            SubscribeOptions { delivery: Some(Delivery::Latest), ..SubscribeOptions::default() };
        latest.subscribe_with(&test_hub, &a, StartFrom::Now, options).await.expect("subscribed");
        every.sink.borrow_mut().capacity = 1;
        for _ in 0..9 {
            test_hub.publish(&a, 1).await;
        }
        let (found, _) = scan(&test_hub, 9, ALL_LATE, 100);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].session, found[0].messages), (every.key, 8));
        assert!(found[0].bytes < 8, "only the messages in the ring are counted in bytes");
        latest.sink.borrow_mut().capacity = 1;
        test_hub.publish(&a, 1).await;
        test_hub.publish(&a, 1).await;
        let (found, _) = scan(&test_hub, 9, ALL_LATE, 100);
        assert!(found.iter().any(|lag| lag.session == latest.key && lag.is_blocked));
    });
}

#[test]
fn step_looks_at_no_more_subscriptions_than_it_may() {
    run_local(async || {
        let test_hub = TestHub::new(hub::Config::default());
        let topics: Vec<Topic> = (0..50).map(|i| topic(&format!("t/{i}"))).collect();
        let sessions: Vec<_> = (0..200).map(|_| test_hub.new_session(JSON)).collect();
        for topic in &topics {
            sessions[0].subscribe(&test_hub, topic, StartFrom::Now).await.expect("subscribed");
            for session in &sessions[1..] {
                let (lane, options) = (&test_hub.lane, SubscribeOptions::default());
                let subscribed =
                    lane.subscribe(session.key, 7, topic.clone(), StartFrom::Now, options).await;
                subscribed.expect("subscribed");
                lane.start_delivery(session.key, topic);
            }
        }
        let mut scan = LagScan::new(9, ALL_LATE);
        let begin = Instant::now();
        let steps = (1..).find(|_| test_hub.lane.scan_lag(&mut scan, 1_000)).expect("an end");
        println!("10,000 subscriptions: {:?}", begin.elapsed());
        let (found, subscriptions) = scan.finish();
        assert_eq!((found.len(), subscriptions), (0, 10_000));
        // The last step of 1,000 may find the end only in the next one; free places count too.
        assert!((10..=14).contains(&steps), "{steps} steps");
    });
}
