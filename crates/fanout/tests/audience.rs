//! Subscribers are counted, and sessions that request it receive the cluster-wide number.

mod support;

use pushonce_core::test_util::topic;
use pushonce_core::{StartFrom, SubscribeOptions, SubscriberCount, Topic};
use pushonce_fanout::hub;
use support::{JSON, PROTO, TestHub, TestSession, run_local};

async fn subscribe(test_hub: &TestHub, session: &TestSession, topic: &Topic, wants_audience: bool) {
    let options =
        SubscribeOptions { report_audience: wants_audience, ..SubscribeOptions::default() };
    session.subscribe_with(test_hub, topic, StartFrom::Now, options).await.expect("subscribed");
}

fn changed_counts(test_hub: &TestHub) -> Vec<(String, u64, bool)> {
    let mut counts: Vec<_> = test_hub
        .hub
        .take_changed_counts(usize::MAX)
        .into_iter()
        .map(|(topic, SubscriberCount { sessions, wants_audience: asks })| {
            (topic.to_string(), sessions, asks)
        })
        .collect();
    counts.sort_unstable();
    counts
}

#[test]
fn sessions_and_readers_are_counted_by_topic_and_only_changes_are_returned() {
    run_local(async || {
        let (test_hub, a, b) = (TestHub::new(hub::Config::default()), topic("a"), topic("b"));
        let sessions = [test_hub.new_session(JSON), test_hub.new_session(PROTO)];
        for session in &sessions {
            subscribe(&test_hub, session, &a, false).await;
        }
        subscribe(&test_hub, &sessions[0], &b, true).await;
        let reader = test_hub
            .hub
            .open_reader(b.clone(), StartFrom::Now, SubscribeOptions::default())
            .await
            .expect("a reader");
        assert_eq!(
            changed_counts(&test_hub),
            [("a".to_owned(), 2, false), ("b".to_owned(), 2, true)]
        );
        assert_eq!(changed_counts(&test_hub), []);
        test_hub.lane.close_session(sessions[0].key);
        drop(reader);
        assert_eq!(
            changed_counts(&test_hub),
            [("a".to_owned(), 1, false), ("b".to_owned(), 0, false)]
        );
        assert!(test_hub.lane.unsubscribe(sessions[1].key, &a).is_some());
        assert_eq!(changed_counts(&test_hub), [("a".to_owned(), 0, false)]);
    });
}

#[test]
fn changed_counts_beyond_the_limit_are_returned_by_the_next_call() {
    run_local(async || {
        let test_hub = TestHub::new(hub::Config::default());
        let session = test_hub.new_session(JSON);
        for name in ["a", "b", "c"] {
            subscribe(&test_hub, &session, &topic(name), false).await;
        }
        assert_eq!(test_hub.hub.take_changed_counts(2).len(), 2);
        assert_eq!(test_hub.hub.take_changed_counts(2).len(), 1);
        assert_eq!(test_hub.hub.take_changed_counts(2).len(), 0);
    });
}

#[test]
fn audience_frame_is_shared_and_sent_once_per_change_only_to_requesting_sessions() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let sessions =
            [test_hub.new_session(JSON), test_hub.new_session(JSON), test_hub.new_session(JSON)];
        for (session, wants_audience) in sessions.iter().zip([true, true, false]) {
            subscribe(&test_hub, session, &a, wants_audience).await;
        }
        test_hub.hub.take_changed_counts(usize::MAX);
        for count in [3, 3, 41_877] {
            test_hub.hub.set_audience(&a, count);
            test_hub.run_until_idle().await;
        }
        let bytes = |v: usize| sessions[v].sink.borrow().frames[0].as_ptr();
        assert_eq!(bytes(0), bytes(1));
        for session in &sessions[..2] {
            assert_eq!(session.take_frames(), ["a audience 3", "a audience 41877"]);
        }
        assert_eq!(sessions[2].take_frames(), [""; 0]);
    });
}

#[test]
fn slow_session_receives_only_the_newest_audience_after_its_messages() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        subscribe(&test_hub, &session, &a, true).await;
        test_hub.hub.take_changed_counts(usize::MAX);
        session.sink.borrow_mut().capacity = 1;
        test_hub.publish(&a, 2).await;
        for count in [5, 6, 7] {
            test_hub.hub.set_audience(&a, count);
            test_hub.run_until_idle().await;
        }
        session.set_capacity(10);
        test_hub.run_until_idle().await;
        assert_eq!(session.take_frames(), ["a 1:1", "a 1:2", "a audience 7"]);
    });
}

#[test]
fn outdated_audience_is_not_sent_to_a_later_requesting_session() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let sessions =
            [test_hub.new_session(JSON), test_hub.new_session(JSON), test_hub.new_session(JSON)];
        subscribe(&test_hub, &sessions[0], &a, false).await;
        subscribe(&test_hub, &sessions[1], &a, true).await;
        test_hub.hub.take_changed_counts(usize::MAX);
        test_hub.hub.set_audience(&a, 9);
        test_hub.run_until_idle().await;
        test_hub.lane.close_session(sessions[1].key);
        test_hub.hub.take_changed_counts(usize::MAX);
        subscribe(&test_hub, &sessions[2], &a, true).await;
        assert_eq!(sessions[2].take_frames(), [""; 0]);
        assert_eq!(changed_counts(&test_hub), [("a".to_owned(), 2, true)]);
    });
}
