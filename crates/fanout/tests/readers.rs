//! Topic readers and snapshots: subscriptions of gRPC and HTTP, without a session.

mod support;

use pushonce_core::test_util::topic;
use pushonce_core::{Gap, GapReason, Position, StartFrom, SubscribeOptions, TopicEvent};
use pushonce_fanout::hub;
use support::{JSON, TestHub, at, run_local};

#[test]
fn topic_reader_receives_messages_and_gaps_and_unwatches_when_dropped() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 4).await;
        test_hub.owner.expire(&a, 2);
        let reader = test_hub.hub.open_reader(
            a.clone(),
            StartFrom::Position(at(1, 1)),
            SubscribeOptions::default(),
        );
        let (reader, ()) = futures::join!(reader, test_hub.run_until_idle());
        let mut reader = reader.expect("a reader");
        assert!(!reader.ack().recovered);
        let gap = Gap { from: at(1, 2), to: at(1, 2), reason: GapReason::Expired };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        for offset in 3..=4 {
            assert!(
                matches!(reader.next().await, TopicEvent::Message(m) if m.position == at(1, offset))
            );
        }
        let (next, ()) = futures::join!(reader.next(), test_hub.publish(&a, 1));
        assert!(matches!(next, TopicEvent::Message(m) if m.position == at(1, 5)));
        test_hub.owner.start_new_epoch(&a, 3);
        test_hub.run_until_idle().await;
        let gap = Gap { from: at(1, 6), to: at(2, 3), reason: GapReason::Epoch };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        drop(reader);
        assert!(test_hub.owner.watched().is_empty());
    });
}

#[test]
fn snapshot_is_served_from_the_ring_if_it_holds_the_messages() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        assert_eq!(test_hub.hub.latest(&a, 1).await.map(|page| page.head), Ok(Position::ZERO));
        let first = test_hub.owner.publish(&a);
        let fresh = test_hub.hub.latest(&a, 1).await.map(|page| page.head);
        assert_eq!(fresh, Ok(first), "a reply is not cached");
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 3).await;
        let page = test_hub.hub.latest(&a, 2).await.expect("a page");
        assert_eq!((page.messages.len(), page.head), (2, at(1, 4)));
        assert_eq!(test_hub.owner.fetch_count(), 2, "only snapshots without a ring are fetched");
    });
}

#[test]
fn readers_and_snapshots_are_send() {
    fn assert_send<T: Send>(_: &T) {}
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        assert_send(&test_hub.hub.latest(&a, 1));
        let reader = test_hub.hub.open_reader(a, StartFrom::Now, SubscribeOptions::default());
        assert_send(&reader);
        let (reader, ()) = futures::join!(reader, test_hub.run_until_idle());
        assert_send(&reader.expect("a reader").next());
    });
}
