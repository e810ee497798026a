//! Stale and live topics: notices to sessions and readers, positions, snapshots.

mod support;

use pushonce_core::test_util::topic;
use pushonce_core::{StartFrom, SubscribeOptions, TopicEvent};
use pushonce_fanout::{TopicHealth, hub};
use support::{JSON, TestHub, at, frames, run_local};

#[test]
fn current_session_is_notified_when_the_topic_becomes_stale_and_live_again() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let (fast, slow) = (test_hub.new_session(JSON), test_hub.new_session(JSON));
        for session in [&fast, &slow] {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        slow.sink.borrow_mut().capacity = 1;
        test_hub.publish(&a, 3).await;
        test_hub.owner.set_health(&a, TopicHealth::Stale);
        test_hub.run_until_idle().await;
        assert_eq!(
            fast.take_frames(),
            [frames(&a, 1..=3), vec!["a stale 1:3".to_owned()]].concat()
        );
        assert_eq!(
            slow.take_frames(),
            frames(&a, 1..=1),
            "pending messages come before the stale notice"
        );
        slow.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        assert_eq!(
            slow.take_frames(),
            [frames(&a, 2..=3), vec!["a stale 1:3".to_owned()]].concat()
        );

        test_hub.owner.publish(&a);
        test_hub.owner.set_health(&a, TopicHealth::Live);
        test_hub.run_until_idle().await;
        for session in [&fast, &slow] {
            assert_eq!(session.take_frames(), ["a 1:4", "a live 1:4"]);
        }
    });
}

#[test]
fn stale_topic_is_omitted_from_positions_and_its_snapshot_is_fetched_upstream() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 2).await;
        assert_eq!(test_hub.lane.positions(session.key), [(7, a.clone(), at(1, 2))]);
        assert_eq!(test_hub.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(test_hub.owner.fetch_count(), 0);
        test_hub.owner.set_health(&a, TopicHealth::Stale);
        test_hub.run_until_idle().await;
        assert!(test_hub.lane.positions(session.key).is_empty());
        assert_eq!(test_hub.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(test_hub.owner.fetch_count(), 1, "a stale ring may lack the newest message");
    });
}

#[test]
fn subscriber_of_a_stale_topic_is_notified_at_once_and_a_short_stale_period_is_not_reported() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        let first = test_hub.new_session(JSON);
        first.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 2).await;
        test_hub.owner.set_health(&a, TopicHealth::Stale);
        test_hub.owner.set_health(&a, TopicHealth::Live);
        test_hub.run_until_idle().await;
        assert_eq!(first.take_frames(), frames(&a, 1..=2));
        test_hub.owner.set_health(&a, TopicHealth::Stale);
        test_hub.run_until_idle().await;
        let late = test_hub.new_session(JSON);
        late.subscribe(&test_hub, &a, StartFrom::Last(1)).await.expect("subscribed");
        assert_eq!(late.take_frames(), ["a 1:2", "a stale 1:2"]);
        let mut reader = test_hub
            .hub
            .open_reader(a.clone(), StartFrom::Last(1), SubscribeOptions::default())
            .await
            .expect("a reader");
        assert!(matches!(reader.next().await, TopicEvent::Message(_)));
        assert_eq!(reader.next().await, TopicEvent::Stale(at(1, 2)));
        test_hub.owner.set_health(&a, TopicHealth::Live);
        test_hub.run_until_idle().await;
        assert_eq!(reader.next().await, TopicEvent::Live(at(1, 2)));
    });
}
